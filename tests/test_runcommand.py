"""Run Command as a way to a host: AWS is moto with the lab's operations, the agent is this machine's sh."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest

from haltuun import runcommand
from haltuun.aws import Aws
from haltuun.clock import Clock
from haltuun.config import AccountConfig
from haltuun.errors import AwsError, CommandTimeout, LeaseLost, Unreachable
from haltuun.jobs import FENCE
from haltuun.model import Host
from haltuun.runcommand import NotDelivered, RunCommandTransport
from lab.cloud.extensions import apply_extensions
from lab.cloud.state import SsmState, ssm_state

ACCOUNT, REGION = "123456789012", "eu-central-1"


class Agent:
    """Runs what it is sent with /bin/sh, below a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: list[str] = []

    def __call__(self, message: dict[str, Any], node_id: str) -> dict[str, Any]:
        text = "\n".join(message["Parameters"]["commands"])
        self.seen.append(text)
        done = subprocess.run(
            ["/bin/sh", "-c", text],
            env={"PATH": os.environ["PATH"], "HALTUUN_ROOT": str(self.root)},
            capture_output=True,
            text=True,
        )
        return {
            "CommandId": message["CommandId"],
            "Status": "Success" if done.returncode == 0 else "Failed",
            "ResponseCode": done.returncode,
            "StandardOutput": done.stdout,
            "StandardError": done.stderr,
        }


@pytest.fixture(scope="module")
def cloud() -> Iterator[SsmState]:
    apply_extensions()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        # A fresh one loads thousands of images: once a module, not once a test.
        with moto.mock_aws():
            yield ssm_state(ACCOUNT, REGION)


@pytest.fixture(autouse=True)
def account(cloud: SsmState) -> SsmState:
    cloud.nodes.clear()
    cloud.commands.clear()
    cloud.responder = None
    return cloud


@pytest.fixture(scope="module")
def host(cloud: SsmState) -> Host:
    ec2 = boto3.client("ec2", region_name=REGION)
    image = ec2.register_image(Name="legacy", Architecture="x86_64", RootDeviceName="/dev/sda1")["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]
    return Host(account=ACCOUNT, region=REGION, instance_id=made["InstanceId"], name="web-01")


@pytest.fixture
def agent(account: SsmState, host: Host, tmp_path: Path) -> Agent:
    account.put_node(host.instance_id, simulated=True)
    account.responder = Agent(tmp_path)
    return account.responder


@pytest.fixture
def aws() -> Aws:
    return Aws(AccountConfig(id=ACCOUNT, regions=[REGION]), Clock(), read_only=False)


@pytest.fixture
def transport(aws: Aws, host: Host) -> RunCommandTransport:
    return RunCommandTransport(aws, host)


def test_output_code_and_environment(agent: Agent, transport: RunCommandTransport) -> None:
    script = "printf '%s|' \"$ODD\"; echo ü; echo oops >&2; exit 3"
    result = transport.run(script, timeout_s=20, env={"ODD": "it's {{ ssm:x }}"})
    assert result.stdout == "it's {{ ssm:x }}|ü\n"
    assert (result.stderr, result.exit_code, result.truncated) == ("oops\n", 3, False)
    assert "{{" not in agent.seen[0]


def test_output_beyond_the_apis_limit_comes_compressed(agent: Agent, transport: RunCommandTransport) -> None:
    result = transport.run("i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done", timeout_s=20)
    assert len(result.stdout) > 45_000
    assert result.stdout.endswith("line 4999\n")
    assert not result.truncated


def test_output_beyond_that_is_said_to_be_cut(agent: Agent, transport: RunCommandTransport) -> None:
    result = transport.run("head -c 60000 /dev/urandom | base64; exit 4", timeout_s=20)
    assert result.truncated
    assert len(result.stdout) > 15_000
    assert result.exit_code == 4


def test_a_long_script_is_sent_compressed_and_a_longer_one_not_at_all(
    agent: Agent, transport: RunCommandTransport
) -> None:
    assert transport.run("# " + "x" * 60_000 + "\necho ran", timeout_s=20).stdout == "ran\n"
    with pytest.raises(Unreachable) as caught:
        transport.run(": " + os.urandom(50_000).hex(), timeout_s=20)
    assert caught.value.code == "TOO_LARGE_FOR_RUN_COMMAND"


def test_a_job_runs_once_with_its_files(agent: Agent, transport: RunCommandTransport, tmp_path: Path) -> None:
    data = os.urandom(50_000)
    script = 'echo once >>"$JOB_DIR/../../count"; wc -c <"$JOB_DIR/blob"; exit 7'
    first = transport.run_job("job-1", script, timeout_s=30, files={"blob": data})
    assert (first.stdout.strip(), first.exit_code) == ("50000", 7)
    assert transport.run_job("job-1", script, timeout_s=30, files={"blob": data}) == first
    assert (tmp_path / "var/lib/haltuun/count").read_text() == "once\n"
    with pytest.raises(LeaseLost):
        transport.run_job("job-2", "true", timeout_s=30, env={FENCE: "3"})
        transport.run_job("job-3", "true", timeout_s=30, env={FENCE: "2"})


def test_a_job_of_a_run_that_lost_the_account_is_not_sent(
    agent: Agent, transport: RunCommandTransport
) -> None:
    def lost() -> None:
        raise LeaseLost("a later run has the account.")

    with pytest.raises(LeaseLost):
        transport.run_job("job-1", "true", timeout_s=30, before_start=lost)
    assert agent.seen == []


def test_files_that_are_too_large_are_refused_before_anything_is_sent(
    agent: Agent, transport: RunCommandTransport
) -> None:
    with pytest.raises(Unreachable, match="70000 bytes of files cannot be sent"):
        transport.run_job("job-1", "true", timeout_s=30, files={"blob": bytes(70_000)})
    assert agent.seen == []


def test_a_host_that_is_no_managed_node(transport: RunCommandTransport) -> None:
    with pytest.raises(NotDelivered, match="InvalidInstanceId"):
        transport.run("true", timeout_s=20)


def test_an_agent_that_takes_no_command(
    account: SsmState, host: Host, transport: RunCommandTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runcommand, "DELIVERY_S", 1.0)
    account.put_node(host.instance_id, simulated=True)
    with pytest.raises(NotDelivered, match="took no command"):
        transport.run("true", timeout_s=20)
    assert {command.status for command in account.commands.values()} == {"Cancelled"}


def test_a_command_that_is_not_over_in_time(
    account: SsmState, host: Host, transport: RunCommandTransport
) -> None:
    account.put_node(host.instance_id, simulated=True)
    account.responder = lambda message, node_id: {"CommandId": message["CommandId"], "Status": "InProgress"}
    with pytest.raises(CommandTimeout, match="not over after 1 s"):
        transport.run("true", timeout_s=1)


def test_an_agent_that_cannot_run_scripts(
    account: SsmState, host: Host, transport: RunCommandTransport
) -> None:
    account.put_node(host.instance_id, simulated=True)
    account.responder = lambda message, node_id: {
        "CommandId": message["CommandId"],
        "Status": "Failed",
        "ResponseCode": 1,
        "StandardError": "failed to write script: no space left on device",
    }
    with pytest.raises(Unreachable, match="no space left on device"):
        transport.run("true", timeout_s=20)


def test_a_plan_cannot_send(account: SsmState, host: Host) -> None:
    reader = Aws(AccountConfig(id=ACCOUNT, regions=[REGION]), Clock(), read_only=True)
    with pytest.raises((NotDelivered, AwsError)):
        RunCommandTransport(reader, host).run("true", timeout_s=20)
    assert account.commands == {}
