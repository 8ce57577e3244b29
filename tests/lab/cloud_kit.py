"""An emulated account for one test, operators' clients, and a caller that speaks as a machine."""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config

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
        if self.node_id.startswith("mi-"):
            headers["SSM-Instance-Id"] = self.node_id
        if target:
            headers |= {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
        connection = http.client.HTTPConnection(self.endpoint_url.removeprefix("http://"), timeout=30)
        with contextmanager(_closing)(connection):
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else {}

    def ssm(self, operation: str, skew_s: float = 0.0, **body: Any) -> Answer:
        return self.ask("ssm", body=body, target=f"AmazonSSM.{operation}", skew_s=skew_s)

    def ping(self, **more: str) -> Answer:
        known = {"InstanceId": self.node_id, "AgentVersion": "3.3.1142.0", "PlatformName": "Ubuntu"}
        return self.ssm("UpdateInstanceInformation", **known, **more)

    def open_channel(self) -> Answer:
        return self.ask("ssmmessages", f"/v1/control-channel/{self.node_id}", {"RequestId": "1"})

    def poll(self, wait_s: float = 10.0) -> list[dict[str, Any]]:
        status, found = self.ask(
            "ssmmessages", f"/v1/control-channel/{self.node_id}?wait={wait_s}", method="GET"
        )
        assert status in (200, 204), found
        return list(found.get("messages", []))

    def reply(self, command_id: str, status: str = "Success", output: str = "", code: int = 0) -> Answer:
        report = {"CommandId": command_id, "Status": status, "ResponseCode": code, "StandardOutput": output}
        return self.ask("ssmmessages", f"/v1/control-channel/{self.node_id}/reply", report)

    def serve_once(self, output: str = "", status: str = "Success", code: int = 0) -> dict[str, Any]:
        """Take one message and answer it."""
        message = self.poll()[0]
        self.reply(message["CommandId"], status, output, code)
        return message


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
