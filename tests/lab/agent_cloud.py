"""IMDS and the few AWS services that the stand-in agents call, for their tests."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lab.agent.netkit.agentmessage import JOB_ACK, JOB_REPLY, unpack
from lab.cloud import agentjobs
from lab.cloud.faults import error_response
from lab.cloud.imds import UNAUTHORIZED
from lab.cloud.websocket import Closed, ServerSocket

EC2_ID = "i-0abc1234def567890"
HYBRID_ID = "mi-0123eb6450bf5617b"
REGION = "us-east-1"
ACCOUNT = "111122223333"
PROFILE_KEY = "ASIAPROFILE000000000"
IDENTITY_KEY = "ASIAIDENTITY00000000"
NOT_AUTHORIZED = (
    f"User: arn:aws:sts::{ACCOUNT}:assumed-role/SSMInstanceRole/{EC2_ID} is not authorized to perform: "
)


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 15.0) -> None:
    """Poll until it holds; fail the test with `what` otherwise."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.02)


class Refused(Exception):
    """An AWS error to answer with."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message)
        self.code = code


class Cloud:
    """The account: who has which role, which hybrid node is known, and what was called."""

    def __init__(self) -> None:
        self.has_role = True
        self.denied: set[str] = set()
        self.broken: dict[str, Refused] = {}
        self.dhmc = False
        self.hybrid_fingerprint: str | None = "cf4a2dc7-bb0f-42b2-bc42-2535ff23ab36"
        self.token_life_s = 3600
        self.calls: list[tuple[str, str, str]] = []
        self.payloads: list[tuple[str, dict[str, Any]]] = []
        self.replies: list[dict[str, Any]] = []
        self.log_lines: list[str] = []
        self.parameters: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}
        self.acked: set[str] = set()
        self.tokens: dict[str, str] = {}
        self.channels: dict[str, int] = {}
        self._messages: list[dict[str, Any]] = []
        self._condition = threading.Condition()
        self.closing = False

    def send_command(
        self, document: str, parameters: dict[str, list[str]], wait_s: float = 15.0
    ) -> dict[str, Any]:
        """Queue a command and wait for its final reply."""
        command_id = str(uuid.uuid4())
        with self._condition:
            self._messages.append(
                {"CommandId": command_id, "DocumentName": document, "Parameters": parameters}
            )
            self._condition.notify_all()

        def ended() -> list[dict[str, Any]]:
            return [r for r in self.replies if r["CommandId"] == command_id and r["Status"] != "InProgress"]

        wait_until(lambda: bool(ended()), f"a reply to {document}", wait_s)
        return ended()[0]

    def called(self, operation: str, host: str = "") -> int:
        """How often an operation was called, by anyone or by one identity."""
        return sum(1 for name, who, _ in self.calls if name == operation and host in ("", who))

    def close(self) -> None:
        with self._condition:
            self.closing = True
            self._condition.notify_all()

    def poll(self, wait_s: float) -> list[dict[str, Any]]:
        """Commands for whoever asks first: an account of one host."""
        with self._condition:
            self._condition.wait_for(lambda: self._messages or self.closing, wait_s)
            taken, self._messages = self._messages, []
            return taken

    def is_connected(self, who: str) -> bool:
        """Whether an identity has its control channel open now."""
        return self.channels.get(who, 0) > 0

    @contextlib.contextmanager
    def connected(self, who: str) -> Iterator[None]:
        with self._condition:
            self.channels[who] = self.channels.get(who, 0) + 1
        try:
            yield
        finally:
            with self._condition:
                self.channels[who] -= 1

    def record(self, operation: str, who: str, key: str, payload: dict[str, Any]) -> None:
        self.calls.append((operation, who, key))
        self.payloads.append((operation, payload))
        if operation in self.broken:
            raise self.broken[operation]
        if operation in self.denied and key == PROFILE_KEY:
            raise Refused("AccessDeniedException", f"{NOT_AUTHORIZED}ssm:{operation} on resource: *")
        if key == PROFILE_KEY and not self.has_role:
            raise Refused("ExpiredTokenException", "The security token included in the request is expired")

    def json_call(self, operation: str, payload: dict[str, Any], key: str, acting_as: str) -> dict[str, Any]:
        who = (
            payload.get("InstanceId")
            or payload.get("Destination")
            or acting_as
            or payload.get("Fingerprint", "")
        )
        self.record(operation, who, key, payload)
        if operation == "RegisterManagedInstance":
            if "ActivationCode" in payload:
                self.hybrid_fingerprint = payload["Fingerprint"]
                return {"InstanceId": HYBRID_ID}
            if key != IDENTITY_KEY:
                raise Refused("AccessDeniedException", "not the instance identity role")
            return {"InstanceId": payload["Fingerprint"]}
        if operation == "RequestManagedInstanceRoleToken":
            return self._token(acting_as, payload["Fingerprint"])
        if operation == "GetMessages":
            asked = payload["Destination"]
            rows = [agentjobs.delivery_of(message, asked) for message in self.poll(2.0)]
            return {"Messages": rows, "Destination": asked, "MessagesRequestId": payload["MessagesRequestId"]}
        if operation == "SendReply":
            self.replies.append(agentjobs.report_of(payload["MessageId"], json.loads(payload["Payload"])))
        if operation == "AcknowledgeMessage":
            self.acked.add(agentjobs.command_id_of(payload["MessageId"]))
        if operation == "GetParameter":
            return {"Parameter": {"Name": payload["Name"], "Value": self.parameters[payload["Name"]]}}
        if operation == "PutLogEvents":
            self.log_lines += [event["message"] for event in payload["logEvents"]]
        return {}

    def _token(self, acting_as: str, fingerprint: str) -> dict[str, Any]:
        if acting_as.startswith("i-") and not self.dhmc:
            text = f"Systems Manager's instance management role is not configured for account: {ACCOUNT}"
            raise Refused("AccessDeniedException", text)
        if acting_as.startswith("mi-"):
            if self.hybrid_fingerprint is None:
                raise Refused("InvalidInstanceId", f"Not existing InstanceId {acting_as}")
            if fingerprint != self.hybrid_fingerprint:
                raise Refused("MachineFingerprintDoesNotMatch")
        return {
            "AccessKeyId": "ASIAHYBRID000000000",
            "SecretAccessKey": "s",
            "SessionToken": f"hy-{acting_as}",
            "TokenExpirationDate": time.time() + self.token_life_s,
            "UpdateKeyPair": False,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def log_message(self, format: str, *args: object) -> None:
        return

    def _answer(self, status: int, body: bytes = b"", kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", kind)
        self.send_header("x-amzn-RequestId", "9d1bc51c-83c2-4403-8b09-d21cb45144ae")
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


class AwsHandler(_Handler):
    """ssm, ssmmessages, ec2messages, logs and s3 behind one address."""

    def _key(self) -> str:
        return (self.headers.get("Authorization") or "=/").partition("Credential=")[2].partition("/")[0]

    def _refuse(self, error: Refused) -> None:
        body = {"__type": error.code, "message": str(error)}
        self._answer(400, json.dumps(body).encode(), "application/x-amz-json-1.1")

    def do_POST(self) -> None:
        body = self._body()
        if self.path.startswith("/v1/control-channel/"):
            self._create_channel(json.loads(body))
            return
        operation = (self.headers.get("X-Amz-Target") or "").rpartition(".")[2]
        key = self._key()
        acting_as = EC2_ID if key == IDENTITY_KEY else key if key.startswith("mi-") else ""
        try:
            answer = self.cloud.json_call(operation, json.loads(body), key, acting_as)
        except Refused as error:
            return self._refuse(error)
        self._answer(200, json.dumps(answer).encode(), "application/x-amz-json-1.1")

    def _create_channel(self, data: dict[str, Any]) -> None:
        who = self.path.split("/")[3].partition("?")[0]
        try:
            self.cloud.record("CreateControlChannel", who, self._key(), data)
        except Refused as error:
            _, _, body = error_response("xml", error.code, str(error))
            return self._answer(400, body, "application/xml")
        token = secrets.token_urlsafe(24)
        self.cloud.tokens[token] = who
        self._answer(201, f"<Answer><TokenValue>{token}</TokenValue></Answer>".encode(), "application/xml")

    def _open_channel(self) -> None:
        """A web socket to its end."""
        who = self.path.split("/")[3].partition("?")[0]
        self.close_connection = True
        with contextlib.suppress(Closed):
            channel = ServerSocket(self.connection, self.path, dict(self.headers))
            opening = json.loads(channel.receive(10.0) or b"{}")
            if self.cloud.tokens.pop(opening.get("TokenValue"), "") != who:
                return channel.close()
            self.cloud.record("OpenControlChannel", who, self._key(), opening)
            with self.cloud.connected(who):
                self._serve_channel(channel, who)

    def _serve_channel(self, channel: ServerSocket, who: str) -> None:
        while not self.cloud.closing:
            for command in self.cloud.poll(0):
                channel.send(agentjobs.job_of(command, who).pack())
            data = channel.receive(0.05)
            message = unpack(data) if data else None
            if message is not None and message.type == JOB_ACK:
                self.cloud.acked.add(agentjobs.command_id_of(message.content()["jobId"]))
            elif message is not None and message.type == JOB_REPLY:
                self.cloud.replies.append(agentjobs.reply_in(message))
                channel.send(agentjobs.thanks_for(message).pack())

    def do_GET(self) -> None:
        if self.path.startswith("/v1/control-channel/"):
            return self._open_channel()
        found = self.cloud.objects.get(self.path)
        self._answer(200 if found else 404, found or b"", "application/octet-stream")


class ImdsHandler(_Handler):
    """IMDSv2, for one instance."""

    def do_PUT(self) -> None:
        self._answer(200, b"imds-token", "text/plain")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "imds-token":
            return self._answer(401, UNAUTHORIZED.encode(), "text/html")
        roles = {
            "meta-data/iam/security-credentials/": "SSMInstanceRole",
            "meta-data/iam/security-credentials/SSMInstanceRole": self._credentials(PROFILE_KEY),
        }
        paths = {
            "meta-data/instance-id": EC2_ID,
            "meta-data/placement/region": REGION,
            "meta-data/placement/availability-zone": f"{REGION}a",
            "meta-data/identity-credentials/ec2/security-credentials/ec2-instance": self._credentials(
                IDENTITY_KEY
            ),
            **(roles if self.cloud.has_role else {}),
        }
        found = paths.get(self.path.removeprefix("/latest/"))
        self._answer(200 if found else 404, (found or "").encode(), "text/plain")

    def _credentials(self, key: str) -> str:
        return json.dumps({"AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": ""})


class Server:
    """One listener of the double."""

    def __init__(self, sock: socket.socket, handler: type[_Handler], cloud: Cloud) -> None:
        bound = type("Bound", (handler,), {"cloud": cloud})
        self._server = ThreadingHTTPServer(("", 0), bound, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = sock
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
