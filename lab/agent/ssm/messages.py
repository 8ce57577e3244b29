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
# The one plugin of the reply of a document of AWS's; of others each step is one.
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
        content = found.get("DocumentContent") or {}
        given = (content.get("parameters") or {}).items()
        defaults = {key: about["default"] for key, about in given if "default" in about}
        name, parameters = str(found["DocumentName"]), defaults | (found.get("Parameters") or {})
        command_id = str(found["CommandId"])
        steps = tuple(content.get("mainSteps") or ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotAMessage(f"{message_id} carries no command: {error}") from error
    return Command(command_id, message_id, name.rpartition("/")[2], parameters, steps)


def reply_payload(report: dict[str, Any]) -> dict[str, Any]:
    """SendReplyPayload; a command that has only begun has no plugin's status yet."""
    status = report["Status"]
    name, version = os_release()
    steps = report["Steps"] or [(PLUGINS.get(report["DocumentName"], "aws:runDocument"), report)]
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
        "runtimeStatus": None if running else {step: _runtime(step, how, report) for step, how in steps},
    }


def _runtime(name: str, how: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """PluginRuntimeStatus of one step."""
    return {
        "status": how["Status"],
        "code": how["ResponseCode"],
        "name": name,
        "output": how["StandardOutput"] + how["StandardError"],
        "startDateTime": report["StartedAt"],
        "endDateTime": report["EndedAt"],
        "outputS3BucketName": "",
        "outputS3KeyPrefix": "",
        "stepName": "",
        "standardOutput": how["StandardOutput"],
        "standardError": how["StandardError"],
    }
