"""AWS access without AWS: what is decided before the first call."""

from __future__ import annotations

import socket
import threading

import pytest

from haltuun.aws import Aws, first_region
from haltuun.clock import Clock
from haltuun.config import AccountConfig
from haltuun.errors import AwsUnanswered


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
