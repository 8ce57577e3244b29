"""What the message services carry, both ways: a command, and what became of it.

Shapes: SendCommandPayload and SendReplyPayload of the real agent's agent/runcommand/contracts/model.go, and
PluginRuntimeStatus of agent/contracts/model.go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..netkit.agentmessage import NotAMessage
from .machine import os_release
from .version import VERSION

AGENT_NAME = "amazon-ssm-agent"
# The one plugin of a document's reply; the documents that the stand-in runs have one step each.
PLUGINS = {"AWS-RunShellScript": "aws:runShellScript"}


@dataclass(frozen=True)
class Command:
    """A document to run; `message_id` is how the service knows it on this host."""

    id: str
    message_id: str
    document: str
    parameters: dict[str, Any]
    steps: tuple[dict[str, Any], ...] = ()  # of schema 2.2, in order


def command_in(message_id: str, payload: str) -> Command:
    """The command in a SendCommandPayload; NotAMessage where it is none."""
    try:
        found = json.loads(payload)
        name, parameters = str(found["DocumentName"]), found.get("Parameters") or {}
        command_id = str(found["CommandId"])
        steps = tuple((found.get("DocumentContent") or {}).get("mainSteps") or ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotAMessage(f"{message_id} carries no command: {error}") from error
    return Command(command_id, message_id, name.rpartition("/")[2], parameters, steps)


def reply_payload(report: dict[str, Any]) -> dict[str, Any]:
    """SendReplyPayload; a command that has only begun has no plugin's status yet."""
    status = report["Status"]
    name, version = os_release()
    plugin = PLUGINS.get(report["DocumentName"], "aws:runDocument")
    runtime = {
        "status": status,
        "code": report["ResponseCode"],
        "name": plugin,
        "output": report["StandardOutput"] + report["StandardError"],
        "startDateTime": report["StartedAt"],
        "endDateTime": report["EndedAt"],
        "outputS3BucketName": "",
        "outputS3KeyPrefix": "",
        "stepName": "",
        "standardOutput": report["StandardOutput"],
        "standardError": report["StandardError"],
    }
    agent = {"lang": "en-US", "name": AGENT_NAME, "os": name, "osver": version, "ver": VERSION}
    running = status == "InProgress"
    return {
        "additionalInfo": {
            "agent": agent,
            "dateTime": report["EndedAt"],
            "runId": "",
            "runtimeStatusCounts": {} if running else {status: 1},
        },
        "documentStatus": status,
        "documentTraceOutput": "",
        "runtimeStatus": None if running else {plugin: runtime},
    }
