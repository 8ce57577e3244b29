"""Managed nodes without a machine: documents sent to them end at once, with what they would leave behind."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from moto.ec2.models import ec2_backends
from moto.logs.exceptions import ResourceAlreadyExistsException
from moto.logs.models import logs_backends

from lab.cloud import clock
from lab.cloud.state import SsmState

MARKER_LOG = "/var/log/haltuun/marker.log"
_MARKER = re.compile(r"^HALTUUN_MARKER='?([^'\n]+)'?$", re.MULTILINE)
_ECHO = re.compile(r"^echo (.+)$")


@dataclass
class _Configured:
    """Which configuration a node's CloudWatch agent has, and the marker lines that wait for one."""

    by_node: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)


def add_crowd(state: SsmState, ids: Iterable[str], **known: Any) -> None:
    """`known` are fields of state.Node."""
    state.responder = partial(_respond, state, _Configured())
    with state.changed:
        for node_id in ids:
            state.put_node(node_id, simulated=True, **known)


def give_profile(state: SsmState, ids: Iterable[str], profile: str) -> None:
    """RunInstances of moto gives a profile to the first of its instances only."""
    ec2 = ec2_backends[state.account_id][state.region]
    known = {instance.id: instance for instance in ec2.all_instances()}
    # Moto's own goes through all instances, twice for each of them: ten minutes for ten thousand.
    ec2.get_instance = known.__getitem__
    try:
        for instance_id in ids:
            ec2.associate_iam_instance_profile(instance_id, iam_instance_profile_name=profile)
    finally:
        del ec2.get_instance


def _respond(
    state: SsmState, configured: _Configured, message: Mapping[str, Any], node_id: str
) -> dict[str, Any] | None:
    document, parameters = message["DocumentName"], message["Parameters"]
    report = {"CommandId": message["CommandId"], "Status": "Success", "ResponseCode": 0, "StandardOutput": ""}
    if document == "AWS-RunPatchBaseline":
        _scan(state, node_id, parameters["Operation"][0])
    elif message["Content"]:  # the document that logs makes
        configured.by_node[node_id] = parameters["configuration"][0]
        for line, waiting in configured.waiting.pop(node_id, ()):
            _ship(state, node_id, configured.by_node[node_id], line)
            state.reply(node_id, waiting)
    elif document == "AWS-RunShellScript":
        text = "\n".join(parameters["commands"])
        echo, marker = _ECHO.match(text), _MARKER.search(text)
        report["StandardOutput"] = echo[1] if echo else ""
        if "HALTUUN_UNINSTALLED" in text:  # logs' way back
            configured.by_node.pop(node_id, None)
            report["StandardOutput"] = "BACK\n"
        if marker and node_id not in configured.by_node:
            configured.waiting.setdefault(node_id, []).append((f"{marker[1]} {node_id}", report))
            return None
        if marker:
            _ship(state, node_id, configured.by_node[node_id], f"{marker[1]} {node_id}")
    return report


def _scan(state: SsmState, node_id: str, operation: str) -> None:
    now = clock.now().isoformat()
    summary = {
        "MissingCount": "2",
        "SecurityNonCompliantCount": "1",
        "Operation": operation,
        "OperationStartTime": now,
        "OperationEndTime": now,
    }
    found = state.inventory.setdefault(node_id, {})
    found["AWS:PatchSummary"] = {"CaptureTime": now, "Content": [summary]}


def _ship(state: SsmState, node_id: str, parameter: str, line: str) -> None:
    """The line goes where the host's CloudWatch configuration says."""
    found = state.backend.get_parameter(parameter)
    if found is None:
        return
    config = json.loads(str(found.value))
    logs = logs_backends[state.account_id][state.region]
    for entry in _entries_for(config["logs"]["logs_collected"]["files"]["collect_list"], MARKER_LOG):
        group = entry["log_group_name"]
        stream = entry["log_stream_name"].replace("{instance_id}", node_id)
        with suppress(ResourceAlreadyExistsException):
            logs.create_log_stream(group, stream)
        logs.put_log_events(group, stream, [{"timestamp": int(time.time() * 1000), "message": line}])


def _entries_for(entries: Sequence[Mapping[str, str]], path: str) -> list[Mapping[str, str]]:
    return [entry for entry in entries if entry["file_path"] == path]
