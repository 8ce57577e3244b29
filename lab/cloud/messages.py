"""The two message services that agents poll, reduced to what delivers a document and takes its answer.

The real control channel is a web socket; here it is a long poll: POST /v1/control-channel/ID opens it,
GET …?wait=10 waits for messages, POST …/reply answers one.
"""

from __future__ import annotations

import json
import secrets
import select
import socket
from collections.abc import Callable
from typing import Any

from lab.cloud.calls import Call, body_of
from lab.cloud.identity import Machine, decide, denial
from lab.cloud.state import SsmState, ssm_state

MAX_WAIT_S = 20.0
Answer = tuple[int, dict[str, Any] | None]


class Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def _allow(machine: Machine | None, action: str) -> None:
    if machine is None:
        raise Refused("UnrecognizedClientException", "The security token included in the request is invalid.")
    decision = decide(machine, action)
    if not decision.allowed:
        raise Refused("AccessDeniedException", denial(machine, action, "*", decision))


def _own(machine: Machine | None, node_id: str) -> None:
    if machine is None or machine.node_id != node_id:
        raise Refused("AccessDeniedException", f"This session may not act for {node_id}.")


def _wait_s(value: Any) -> float:
    try:
        return max(0.0, min(float(value), MAX_WAIT_S))
    except (TypeError, ValueError):
        return 0.0


def _json(environ: dict[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(body_of(environ) or b"{}")
    except ValueError:
        raise Refused("SerializationException", "The request body is no JSON document.") from None
    return found if isinstance(found, dict) else {}


def listener_of(environ: dict[str, Any]) -> Callable[[], bool]:
    """Whether the caller's connection is still open; an agent that was stopped leaves its poll behind."""
    connection: socket.socket | None = environ.get("werkzeug.socket")

    def listening() -> bool:
        if connection is None:
            return True
        try:
            readable = select.select([connection], [], [], 0)[0]
            return not readable or bool(connection.recv(1, socket.MSG_PEEK))
        except (OSError, ValueError):
            return False

    return listening


def ssmmessages(environ: dict[str, Any], machine: Machine | None, state: SsmState) -> Answer:
    parts = [part for part in environ.get("PATH_INFO", "").split("/") if part]
    if parts[:2] != ["v1", "control-channel"] or len(parts) not in (3, 4):
        return 404, {"message": "Not Found"}
    node_id = parts[2]
    if len(parts) == 4:
        _own(machine, node_id)
        return 200, {"Accepted": state.reply(node_id, _json(environ))}
    if environ["REQUEST_METHOD"] == "POST":
        _allow(machine, "ssmmessages:CreateControlChannel")
        _own(machine, node_id)
        return 200, {"TokenValue": secrets.token_urlsafe(24)}
    _allow(machine, "ssmmessages:OpenControlChannel")
    _own(machine, node_id)
    query = dict(pair.split("=", 1) for pair in environ.get("QUERY_STRING", "").split("&") if "=" in pair)
    messages = state.poll(node_id, _wait_s(query.get("wait", 0)), listener_of(environ))
    return (200, {"messages": messages}) if messages else (204, None)


def ec2messages(operation: str, environ: dict[str, Any], machine: Machine | None, state: SsmState) -> Answer:
    _allow(machine, f"ec2messages:{operation}")
    request = _json(environ)
    if operation == "GetMessages":
        node_id = str(request.get("Destination", ""))
        _own(machine, node_id)
        found = state.poll(node_id, _wait_s(request.get("WaitSeconds")), listener_of(environ))
        return 200, {"Destination": node_id, "Messages": found}
    if operation == "SendReply" and machine is not None:
        return 200, {"Accepted": state.reply(machine.node_id, request)}
    if operation in ("AcknowledgeMessage", "DeleteMessage", "FailMessage", "GetEndpoint"):
        return 200, {}
    return 404, {"message": f"No operation {operation}"}


def answer(call: Call, account_id: str, environ: dict[str, Any], machine: Machine | None) -> Answer:
    state = ssm_state(account_id, call.region)
    if call.service == "ssmmessages":
        return ssmmessages(environ, machine, state)
    return ec2messages(call.operation, environ, machine, state)
