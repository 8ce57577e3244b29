"""An emulated account for one test, operators' clients, and a caller that speaks as a machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config
from websockets.sync.client import ClientConnection, connect

from lab.agent.netkit.agentmessage import JOB_ACK, JOB_REPLY, JOB_REPLY_ACK, AgentMessage, message_of, unpack
from lab.cloud.agentjobs import message_id
from lab.cloud.seeding import steer
from lab.cloud.server import CloudServer
from lab.scenario import Scenario, load_scenario

ACCOUNT, REGION = "111122223333", "eu-central-1"
Answer = tuple[int, dict[str, Any]]


def small_scenario() -> Scenario:
    """Four hosts of the demo: enough for most questions, and quickly seeded."""
    demo = load_scenario("demo")
    wanted = ("web-01", "web-02", "blog-01", "batch-01")
    return demo.model_copy(update={"hosts": [host for host in demo.hosts if host.name in wanted]})


def until(what: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """The first truthy answer, or a failure when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


@dataclass
class Account:
    endpoint_url: str
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        if service not in self.clients:
            self.clients[service] = boto3.client(
                service,
                endpoint_url=self.endpoint_url,
                region_name=REGION,
                aws_access_key_id="AKIAOPERATOR00000000",
                aws_secret_access_key="none",
                config=Config(retries={"total_max_attempts": 1}),
            )
        return self.clients[service]

    def steer(self, path: str, **given: Any) -> dict[str, Any]:
        return steer(self.endpoint_url, path, **given)

    def machine(self, node_id: str, role_arn: str | None = None) -> Machine:
        found = self.steer("credentials", region=REGION, id=node_id, role_arn=role_arn)
        return Machine(self.endpoint_url, node_id, found["AccessKeyId"])


@dataclass
class Machine:
    """Calls as an agent does, straight to the account's port with the Host header of the service."""

    endpoint_url: str
    node_id: str
    access_key: str

    def ask(
        self,
        service: str,
        path: str = "/",
        body: dict[str, Any] | None = None,
        *,
        target: str = "",
        method: str = "POST",
        skew_s: float = 0.0,
    ) -> Answer:
        scope = f"{self.access_key}/20260101/{REGION}/{service}/aws4_request"
        headers = {
            "Host": f"{service}.{REGION}.amazonaws.com",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=lab",
            "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + skew_s)),
        }
        if target:
            headers |= {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
        connection = http.client.HTTPConnection(self.endpoint_url.removeprefix("http://"), timeout=30)
        with contextmanager(_closing)(connection):
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, {"text": text.decode()} if text[:1] == b"<" else json.loads(text or "{}")

    def ssm(self, operation: str, skew_s: float = 0.0, **body: Any) -> Answer:
        return self.ask("ssm", body=body, target=f"AmazonSSM.{operation}", skew_s=skew_s)

    def ping(self, **more: str) -> Answer:
        known = {"InstanceId": self.node_id, "AgentVersion": "3.3.1142.0", "PlatformName": "Ubuntu"}
        return self.ssm("UpdateInstanceInformation", **known, **more)

    def create_channel(self) -> Answer:
        path = f"/v1/control-channel/{self.node_id}"
        return self.ask("ssmmessages", path, {"MessageSchemaVersion": "1.0", "RequestId": str(uuid.uuid4())})

    @contextmanager
    def channel(self, token: str | None = None) -> Iterator[Channel]:
        """An open control channel."""
        if token is None:
            token = token_in(self.create_channel()[1])
        host, port = self.endpoint_url.removeprefix("http://").split(":")
        raw = socket.create_connection((host, int(port)))
        with open_channel(self.node_id, self.access_key, token, raw) as found:
            yield found

    def poll(self, wait_s: float = 10.0) -> list[dict[str, Any]]:
        """The commands that come over a channel of their own: at most one."""
        with self.channel() as channel:
            found = channel.command(wait_s)
            return [found] if found else []

    def reply(self, command_id: str, status: str = "Success", output: str = "", code: int = 0) -> None:
        with self.channel() as channel:
            channel.reply(command_id, status, output, code)

    def serve_once(self, output: str = "", status: str = "Success", code: int = 0) -> dict[str, Any]:
        """Take one command and answer it."""
        with self.channel() as channel:
            command = channel.command()
            assert command is not None
            channel.reply(command["CommandId"], status, output, code)
            return command


@dataclass
class Channel:
    """A control channel as an agent has it, on the library's web socket."""

    node_id: str
    connection: ClientConnection

    def receive(self, timeout_s: float = 10.0) -> AgentMessage | None:
        try:
            data = self.connection.recv(timeout_s)
        except TimeoutError:
            return None
        assert isinstance(data, bytes)
        return unpack(data)

    def command(self, timeout_s: float = 10.0, status: str = "200") -> dict[str, Any] | None:
        """The next job's SendCommandPayload, acknowledged with that status."""
        job = self.receive(timeout_s)
        if job is None:
            return None
        content = job.content()
        refusal = "" if status == "200" else "InvalidDocument"
        ack = {"jobId": content["JobId"], "acknowledgedMessageId": str(job.id)}
        ack |= {"createdDate": "", "statusCode": status, "errorMessage": refusal}
        self.connection.send(message_of(JOB_ACK, ack).pack())
        return dict(json.loads(content["Content"]))

    def reply(self, command_id: str, status: str = "Success", output: str = "", code: int = 0) -> None:
        """Send a reply; returns with its acknowledgement."""
        job_id = message_id(command_id, self.node_id)
        content = {"schemaVersion": 1, "jobId": job_id, "topic": "aws.ssm.sendCommand"}
        content["content"] = json.dumps(reply_payload(status, output, "", code))
        reply = message_of(JOB_REPLY, content)
        self.connection.send(reply.pack())
        thanks = self.receive()
        assert thanks is not None and thanks.type == JOB_REPLY_ACK
        assert thanks.content() == {"jobId": job_id, "acknowledgedMessageId": str(reply.id)}


def reply_payload(status: str, output: str = "", error: str = "", code: int = 0) -> dict[str, Any]:
    plugin = {"status": status, "code": code, "standardOutput": output, "standardError": error}
    return {"documentStatus": status, "runtimeStatus": {"aws:runShellScript": plugin}}


def token_in(answer: dict[str, Any]) -> str:
    found = re.search("<TokenValue>(.+)</TokenValue>", answer["text"])
    assert found, answer
    return found[1]


@contextmanager
def open_channel(
    node_id: str, access_key: str, token: str, raw: socket.socket, tls: ssl.SSLContext | None = None
) -> Iterator[Channel]:
    """Upgrade a connection to the account, or to its TLS front, and show the token."""
    scope = f"{access_key}/20260101/{REGION}/ssmmessages/aws4_request"
    signed = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=lab"
    path = f"/v1/control-channel/{node_id}?role=subscribe&stream=input"
    url = f"{'wss' if tls else 'ws'}://ssmmessages.{REGION}.amazonaws.com{path}"
    with contextlib.closing(raw):
        headers = {"Authorization": signed}
        with connect(url, sock=raw, ssl=tls, additional_headers=headers, compression=None) as connection:
            opening = {"MessageSchemaVersion": "1.0", "RequestId": str(uuid.uuid4()), "TokenValue": token}
            connection.send(json.dumps(opening))
            yield Channel(node_id, connection)


def _closing(connection: http.client.HTTPConnection) -> Iterator[None]:
    try:
        yield
    finally:
        connection.close()


@contextmanager
def emulated_account(account_id: str = ACCOUNT) -> Iterator[Account]:
    with CloudServer(account_id) as server:
        try:
            yield Account(server.endpoint_url)
        finally:
            reset = urllib.request.Request(f"{server.endpoint_url}/moto-api/reset", method="POST")
            urllib.request.urlopen(reset, timeout=30).close()
