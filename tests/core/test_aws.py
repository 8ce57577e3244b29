"""AWS access without AWS: what is decided before the first call."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from haltuun import aws as aws_module
from haltuun.aws import Aws, first_region
from haltuun.clock import Clock
from haltuun.config import AccountConfig
from haltuun.errors import AwsUnanswered, LeaseLost
from haltuun.ledger import Ledger


@pytest.mark.parametrize(
    ("role_arn", "beginning"),
    [
        (None, "us-east-1"),
        ("arn:aws:iam::111122223333:role/haltuun", "us-east-1"),
        ("arn:aws-cn:iam::111122223333:role/haltuun", "cn-"),
        ("arn:aws-us-gov:iam::111122223333:role/haltuun", "us-gov-"),
        ("arn:aws-eusc:iam::111122223333:role/haltuun", "eusc-"),
    ],
)
def test_the_first_call_goes_to_the_partition_of_the_role(role_arn: str | None, beginning: str) -> None:
    assert first_region(role_arn).startswith(beginning)


def test_what_aws_takes_no_token_for_is_sent_once_when_its_answer_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(65536))

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        aws = Aws(AccountConfig(id="111122223333", regions=["eu-central-1"]), Clock(), read_only=False)
        with pytest.raises(AwsUnanswered):
            aws.call("ssm", "CreateAssociation", "eu-central-1", Name="AWS-RunPatchBaseline")
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    assert len(heard) == 1


@contextmanager
def _service(answer: Callable[[str], tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """Where a service answers so to each operation."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = answer(self.headers["X-Amz-Target"].rpartition(".")[2])
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("operation", "parameters", "status", "error"),
    [
        ("PutParameter", {"Name": "n", "Value": "v", "Type": "String"}, 500, "InternalServerError"),
        ("CreateAssociation", {"Name": "AWS-RunPatchBaseline"}, 400, "ThrottlingException"),
    ],
)
def test_a_mutation_is_not_sent_again_once_another_run_has_the_account(
    operation: str,
    parameters: dict[str, str],
    status: int,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """botocore tries again by itself, and so do we where AWS was too busy."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setattr(aws_module, "_PAUSES_S", (0.01,))
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    lease = ledger.take_lease("111122223333", "asleep")
    heard: list[str] = []

    def answer(asked: str) -> tuple[int, dict[str, Any]]:
        heard.append(asked)
        if asked != operation:
            return 200, {}
        if heard.count(operation) == 1:
            ledger.release_lease(lease)
            ledger.take_lease("111122223333", "later")
        return status, {"__type": error, "message": "not now"}

    with _service(answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        aws = Aws(AccountConfig(id="111122223333", regions=["eu-central-1"]), Clock(), read_only=False)
        aws.before_mutation = partial(ledger.check_lease, lease)
        with pytest.raises(LeaseLost, match="a later run has taken the account over"):
            aws.call("ssm", operation, "eu-central-1", **parameters)
        aws.call("ssm", "DescribeParameters", "eu-central-1")  # to look is nobody's loss
    ledger.close()
    assert heard == [operation, "DescribeParameters"]
