"""The two message services as agents call them: ssmmessages' control channel and ec2messages' polls.

From aws/amazon-ssm-agent (file at commit). ssmmessages: POST /v1/control-channel/ID answers 201 and an XML
body with a token (agent/session/service/service.go at f3e1fb7); the web socket at the same path begins with a
text message that shows the token (agent/session/controlchannel/controlchannel.go at 78e761a), and carries
binary messages after it (agent/messageservice/interactor/mgsinteractor/mgsinteractor.go at ed24864).
ec2messages: JSON 1.1, EC2WindowsMessageDeliveryService (vendored service/ssmmds/service.go at 05d1f9b, used
by agent/runcommand/mds/service.go). Interactive sessions are not here.
"""

from __future__ import annotations

import json
import secrets
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lab.agent.netkit.agentmessage import JOB_ACK, JOB_REPLY, NotAMessage, unpack
from lab.cloud import agentjobs
from lab.cloud.calls import Call, body_of
from lab.cloud.faults import error_response
from lab.cloud.identity import Machine, decide, denial
from lab.cloud.state import SsmState, ssm_state
from lab.cloud.websocket import Closed, ServerSocket

# GetMessages of the real service holds a poll for some 20 s, which is also the agent's patience.
POLL_S = 10.0
OPENING_S = 15.0
# How often an open channel is looked at: whether its machine may still have it.
LOOK_S = 10.0
JSON_TYPE, XML_TYPE = "application/x-amz-json-1.1", "application/xml"
NEXT_TOKENS = 1000


@dataclass(frozen=True)
class Answer:
    status: str
    body: str
    content_type: str = JSON_TYPE


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


def create_control_channel(node_id: str, machine: Machine | None, state: SsmState) -> Answer:
    _allow(machine, "ssmmessages:CreateControlChannel")
    _own(machine, node_id)
    token = secrets.token_urlsafe(24)
    with state.changed:
        state.channel_tokens[token] = node_id
        while len(state.channel_tokens) > NEXT_TOKENS:
            del state.channel_tokens[next(iter(state.channel_tokens))]
    name = "CreateControlChannelResponse"
    version = "<MessageSchemaVersion>1.0</MessageSchemaVersion>"
    return Answer("201 Created", f"<{name}>{version}<TokenValue>{token}</TokenValue></{name}>", XML_TYPE)


class ControlChannel:
    """One agent's open web socket: jobs go out, acknowledgements and replies come in."""

    def __init__(self, channel: ServerSocket, node_id: str, machine: Machine, state: SsmState) -> None:
        self._channel = channel
        self._node_id = node_id
        self._machine = machine
        self._state = state
        self._gone = threading.Event()
        self._unanswered: set[str] = set()

    def run(self) -> None:
        """Until either side ends it."""
        try:
            self._open()
            reader = threading.Thread(target=self._listen, daemon=True)
            reader.start()
            with self._connected():
                self._deliver()
        except (Closed, NotAMessage):
            # The agent has gone, or is none: nothing that a lab has to report.
            pass
        finally:
            self._gone.set()
            self._state.take_back(self._node_id, list(self._unanswered))
            self._channel.close()

    def _open(self) -> None:
        opening = self._channel.receive(OPENING_S)
        try:
            token = str(json.loads(opening or b"")["TokenValue"])
        except (ValueError, KeyError, TypeError) as error:
            raise NotAMessage("no OpenControlChannelInput") from error
        with self._state.changed:
            known = self._state.channel_tokens.pop(token, None)
        if known != self._node_id:
            raise NotAMessage("a token that was not given out for this node")

    @contextmanager
    def _connected(self) -> Iterator[None]:
        with self._state.changed:
            node = self._state.nodes.get(self._node_id)
            if node is None or node.deregistered:
                raise Closed(f"{self._node_id} is not registered")
            node.polling += 1
            node.channels += 1
            self._state.changed.notify_all()
        try:
            yield
        finally:
            with self._state.changed:
                node.polling -= 1
                node.channels -= 1

    def _deliver(self) -> None:
        while not self._gone.is_set() and self._may_stay():
            messages = self._state.poll(self._node_id, LOOK_S, lambda: not self._gone.is_set())
            self._unanswered |= {str(message["CommandId"]) for message in messages}
            for message in messages:
                self._channel.send(agentjobs.job_of(message, self._node_id).pack())

    def _may_stay(self) -> bool:
        node = self._state.nodes.get(self._node_id)
        if node is None or node.deregistered:
            return False
        return decide(self._machine, "ssmmessages:OpenControlChannel").allowed

    def _listen(self) -> None:
        try:
            while not self._gone.is_set():
                data = self._channel.receive(LOOK_S)
                if data is not None:
                    self._take(data)
        except (Closed, NotAMessage, ValueError):
            pass
        finally:
            self._gone.set()
            with self._state.changed:
                self._state.changed.notify_all()

    def _take(self, data: bytes) -> None:
        message = unpack(data)
        if message.type == JOB_ACK:
            self._unanswered.discard(agentjobs.command_id_of(message.content().get("jobId", "")))
            report = agentjobs.refusal_in(message)
        elif message.type == JOB_REPLY:
            report = agentjobs.reply_in(message)
            self._channel.send(agentjobs.thanks_for(message).pack())
        else:
            report = None  # an agent's own telemetry, for instance
        if report is not None:
            self._state.reply(self._node_id, report)


def open_control_channel(
    node_id: str, environ: dict[str, Any], machine: Machine | None, state: SsmState
) -> None:
    """Serve the caller's web socket to its end; Refused before it begins."""
    _allow(machine, "ssmmessages:OpenControlChannel")
    _own(machine, node_id)
    assert machine is not None
    headers = {
        name.removeprefix("HTTP_").replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    try:
        channel = ServerSocket(environ["werkzeug.socket"], environ["PATH_INFO"], headers)
    except Closed:
        return  # it was told why
    ControlChannel(channel, node_id, machine, state).run()


def ssmmessages(
    call: Call, environ: dict[str, Any], machine: Machine | None, state: SsmState
) -> Answer | None:
    node_id = environ.get("PATH_INFO", "").rstrip("/").rsplit("/", 1)[-1]
    if call.operation == "CreateControlChannel":
        return create_control_channel(node_id, machine, state)
    if call.operation == "OpenControlChannel":
        open_control_channel(node_id, environ, machine, state)
        return None
    return Answer("404 Not Found", "<NotFound><Message>Not Found</Message></NotFound>", XML_TYPE)


def ec2messages(operation: str, environ: dict[str, Any], machine: Machine | None, state: SsmState) -> Answer:
    _allow(machine, f"ec2messages:{operation}")
    assert machine is not None
    request = _json(environ)
    if operation == "GetMessages":
        node_id = str(request.get("Destination", ""))
        _own(machine, node_id)
        found = state.poll(node_id, POLL_S, listener_of(environ))
        rows = [agentjobs.delivery_of(message, node_id) for message in found]
        request_id = request.get("MessagesRequestId", "")
        return Answer(
            "200 OK", json.dumps({"Destination": node_id, "Messages": rows, "MessagesRequestId": request_id})
        )
    if operation == "SendReply":
        try:
            payload = json.loads(request["Payload"])
        except (KeyError, TypeError, ValueError):
            raise Refused("ValidationException", "Payload is no JSON document.") from None
        state.reply(machine.node_id, agentjobs.report_of(str(request.get("MessageId", "")), payload))
        return Answer("200 OK", "{}")
    if operation == "FailMessage":
        failed = {"documentStatus": "Failed", "documentTraceOutput": str(request.get("FailureType", ""))}
        state.reply(machine.node_id, agentjobs.report_of(str(request.get("MessageId", "")), failed))
        return Answer("200 OK", "{}")
    if operation in ("AcknowledgeMessage", "DeleteMessage"):
        return Answer("200 OK", "{}")
    if operation == "GetEndpoint":
        host = f"ec2messages.{machine.region}.amazonaws.com"
        return Answer("200 OK", json.dumps({"Endpoint": host}))
    raise Refused("UnknownOperationException", f"No operation {operation}")


def answer(call: Call, account_id: str, environ: dict[str, Any], machine: Machine | None) -> Answer | None:
    """None: the connection became a web socket, and that has ended."""
    state = ssm_state(account_id, call.region)
    try:
        if call.service == "ssmmessages":
            return ssmmessages(call, environ, machine, state)
        return ec2messages(call.operation, environ, machine, state)
    except Refused as error:
        status, headers, body = error_response(call.protocol, error.code, error.message)
        return Answer(status, body.decode(), dict(headers)["Content-Type"])
