"""The protocol of the message services by itself: frames, web socket, jobs and replies."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from lab.agent.netkit.agentmessage import AgentMessage, NotAMessage, message_of, unpack
from lab.agent.netkit.web import SendFailed, Timeouts
from lab.agent.netkit.websocket import (
    BINARY,
    PING,
    TEXT,
    Closed,
    WebSocket,
    frame,
    open_websocket,
    take_frame,
)
from lab.agent.ssm.documents import run_document
from lab.agent.ssm.messages import Command, command_in, reply_payload
from lab.cloud import agentjobs, websocket
from lab.cloud.websocket import ServerSocket

NODE = "i-01234567890abcdef"
COMMAND = "2b196342-d7d4-436e-8f09-3883a1116ac3"
# What agent/session/contracts/agentmessage_test.go serializes, and where agentmessage.go puts it.
SAMPLE = AgentMessage(
    "interactive_shell",
    b"payload",
    uuid.UUID("dd01e56b-ff48-483e-a508-b5f073f31b16"),
    created_ms=1503434274948,
    schema_version=1,
    sequence_number=1,
    flags=2,
)


def test_a_frame_has_the_agents_layout() -> None:
    data = SAMPLE.pack()
    assert len(data) == 127
    assert data[0:4].hex() == "00000074"
    assert data[4:36] == b"interactive_shell" + b" " * 14 + b"\0"
    assert data[36:40].hex() == "00000001"
    assert int.from_bytes(data[40:48], "big") == 1503434274948
    assert data[48:56].hex() == "0000000000000001"
    assert data[56:64].hex() == "0000000000000002"
    assert data[64:80].hex() == "a508b5f073f31b16dd01e56bff48483e"
    assert data[80:112] == hashlib.sha256(b"payload").digest()
    assert data[112:120].hex() == "0000000000000007"
    assert data[120:] == b"payload"
    assert unpack(data) == SAMPLE


def test_a_type_may_be_padded_with_zeros_and_a_header_may_be_longer() -> None:
    data = bytearray(SAMPLE.pack())
    data[4:36] = b"interactive_shell".ljust(32, b"\0")
    assert unpack(bytes(data)) == SAMPLE


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:119],
        lambda data: data[:4] + b" " * 32 + data[36:],
        lambda data: data[:40] + bytes(8) + data[48:],
        lambda data: bytes(4) + data[4:],
        lambda data: data[:-1] + b"!",
        lambda data: data + b"more",
    ],
    ids=["short", "no type", "no date", "no header length", "other payload", "longer than it says"],
)
def test_what_is_no_message_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(NotAMessage):
        unpack(spoil(SAMPLE.pack()))


def test_a_payload_that_is_no_object_is_refused() -> None:
    for payload in (b"no json", b"[]"):
        with pytest.raises(NotAMessage):
            AgentMessage("agent_job", payload).content()


def test_frames_are_those_of_the_rfc() -> None:
    """The examples of RFC 6455, section 5.7."""
    assert frame(TEXT, b"Hello", bytes.fromhex("37fa213d")).hex() == "818537fa213d7f9f4d5158"
    buffer = bytearray.fromhex("810548656c6c6f010348656c80026c6f")
    assert take_frame(buffer) == (True, TEXT, b"Hello")
    assert take_frame(buffer) == (False, TEXT, b"Hel")
    assert take_frame(buffer) == (True, 0, b"lo")
    assert take_frame(bytearray.fromhex("827e0100") + bytes(256)) == (True, BINARY, bytes(256))
    assert take_frame(bytearray.fromhex("827f0000000000010000") + bytes(65536)) == (
        True,
        BINARY,
        bytes(65536),
    )
    for part in ("", "82", "827e01", "827f00000000", "810548656c6c"):
        assert take_frame(bytearray.fromhex(part)) is None
    with pytest.raises(Closed, match="must not mask"):
        take_frame(bytearray.fromhex("818537fa213d7f9f4d5158"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self.close_connection = True
        with contextlib.suppress(websocket.Closed):
            channel = ServerSocket(self.connection, self.path, dict(self.headers))
            while True:
                data = channel.receive(5.0)
                if data == b"close":
                    return channel.close()
                if data is not None:
                    channel.send(data)


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """A server that sends every message back."""
    server = HTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/control-channel/{NODE}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(echo: str) -> Iterator[WebSocket]:
    found = open_websocket(echo, {}, Timeouts(5.0, 5.0))
    yield found
    found.close()


@pytest.mark.parametrize("size", [0, 5, 125, 126, 65535, 65536, 200_000])
def test_messages_of_every_length_go_both_ways(client: WebSocket, size: int) -> None:
    sent = bytes(range(256)) * (size // 256) + bytes(size % 256)
    client.send(BINARY, sent)
    assert client.receive(5.0) == sent


def test_pings_and_parts_are_taken_on_the_way(client: WebSocket) -> None:
    client.send(PING, b"keepalive")
    first = bytearray(frame(TEXT, b"two ", b"mask"))
    first[0] &= 0x7F
    client._sock.sendall(bytes(first) + frame(0, b"parts", b"mask"))
    assert client.receive(5.0) == b"two parts"
    assert client.receive(0.0) is None


def test_an_end_is_told_to_both_sides(client: WebSocket) -> None:
    client.send(TEXT, b"close")
    with pytest.raises(Closed, match="close 1000"):
        client.receive(5.0)


def test_a_server_that_knows_no_web_socket_is_a_bad_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(SendFailed, match="bad handshake"):
            open_websocket(f"http://127.0.0.1:{listener.getsockname()[1]}/x", {}, Timeouts(5.0, 5.0))
        thread.join()


def command(name: str = "AWS-RunShellScript", **parameters: Any) -> dict[str, Any]:
    return {"CommandId": COMMAND, "DocumentName": name, "Parameters": parameters}


def test_a_job_carries_what_the_agent_runs() -> None:
    content = agentjobs.job_of(command(commands=["a", "b"], executionTimeout=["60"]), NODE).content()
    assert (content["JobId"], content["SchemaVersion"]) == (f"aws.ssm.{COMMAND}.{NODE}", 1)
    payload = json.loads(content["Content"])
    assert payload["Parameters"] == {"commands": ["a", "b"], "executionTimeout": "60"}
    assert payload["DocumentContent"]["schemaVersion"] == "1.2"
    taken = command_in(content["JobId"], content["Content"])
    assert (taken.id, taken.document, taken.parameters) == (
        COMMAND,
        "AWS-RunShellScript",
        {"workingDirectory": "", **payload["Parameters"]},
    )
    delivered = agentjobs.delivery_of(command(), NODE)
    assert (delivered["MessageId"], delivered["Destination"]) == (content["JobId"], NODE)
    with pytest.raises(NotAMessage):
        command_in("aws.ssm.x.y", "[]")


def report(status: str, code: int = 0) -> dict[str, Any]:
    return {
        "DocumentName": "AWS-RunShellScript",
        "Status": status,
        "ResponseCode": code,
        "StandardOutput": "out\n",
        "StandardError": "err",
        "StartedAt": "2026-01-01T00:00:00Z",
        "EndedAt": "2026-01-01T00:00:01Z",
        "Steps": [],
    }


def test_a_reply_comes_back_as_the_accounts_report() -> None:
    job_id = f"aws.ssm.{COMMAND}.{NODE}"
    content = {"schemaVersion": 1, "jobId": job_id, "topic": agentjobs.TOPIC}
    content["content"] = json.dumps(reply_payload(report("Failed", 3)))
    reply = message_of("agent_job_reply", content)
    assert agentjobs.reply_in(reply) == {
        "CommandId": COMMAND,
        "Status": "Failed",
        "ResponseCode": 3,
        "StandardOutput": "out\n",
        "StandardError": "err",
        "Plugins": [
            {
                "Name": "aws:runShellScript",
                "Status": "Failed",
                "ResponseCode": 3,
                "StandardOutput": "out\n",
                "StandardError": "err",
            }
        ],
    }
    thanks = agentjobs.thanks_for(reply)
    assert (thanks.type, thanks.content()["acknowledgedMessageId"]) == ("agent_job_reply_ack", str(reply.id))
    begun = agentjobs.report_of(job_id, reply_payload(report("InProgress", -1)))
    assert (begun["Status"], begun["StandardOutput"]) == ("InProgress", "")


def test_only_an_acknowledgement_other_than_200_is_a_failure() -> None:
    ack = {"jobId": f"aws.ssm.{COMMAND}.{NODE}", "statusCode": "200", "errorMessage": ""}
    assert agentjobs.refusal_in(message_of("agent_job_ack", ack)) is None
    refused = agentjobs.refusal_in(
        message_of("agent_job_ack", ack | {"statusCode": "51406", "errorMessage": "InvalidDocument"})
    )
    assert refused is not None
    assert (refused["Status"], refused["StandardError"]) == ("Failed", "InvalidDocument")


@pytest.mark.parametrize(("says", "run"), [({"onFailure": "exit"}, ["first"]), ({}, ["first", "second"])])
def test_a_step_that_failed_keeps_the_later_ones_from_running_where_it_says_so(
    says: dict[str, str], run: list[str]
) -> None:
    steps = tuple({"name": name, "action": "aws:none", "inputs": says} for name in ("first", "second"))
    result = run_document(Command(COMMAND, "message", "ours", {}, steps), session=None)  # type: ignore[arg-type]
    assert (result.status, [name for name, _ in result.steps]) == ("Failed", run)
