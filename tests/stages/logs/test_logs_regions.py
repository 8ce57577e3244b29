"""The proof of logs in two regions: neither waits for the other, and a host that is gone costs no other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from haltuun.config import AccountConfig, Config
from haltuun.engine import open_run
from haltuun.ledger import Ledger
from haltuun.model import Host, StageName, Unknown
from haltuun.run import Run
from haltuun.stages import polling
from haltuun.stages.base import View
from haltuun.stages.logs.agent_config import wanted_config
from haltuun.stages.logs.facts import LogsFacts
from lab.cloud.extensions import apply_extensions
from lab.cloud.state import SsmState, ssm_state

PROVE = import_module("haltuun.stages.logs.prove")  # the package exports the function of that name
ACCOUNT, REGIONS = "123456789012", ("eu-central-1", "eu-west-1")
GROUP = "/haltuun/acme/marker"
GONE = "i-0ffffffffffffffff"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(polling, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(PROVE, "CONFIGURE_S", 1)
    monkeypatch.setattr(PROVE, "ARRIVES_S", 1.0)
    apply_extensions()
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    config = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=list(REGIONS))])
    nobody: Any = None
    with mock_aws():
        yield open_run(config, "acme", "apply", nobody, ledger=ledger)
    ledger.close()


def test_a_region_whose_hosts_are_slow_keeps_no_other_waiting(run: Run) -> None:
    first, second = (_host(region) for region in REGIONS)
    begun: list[dict[str, Any]] = []

    def never_first(message: dict[str, Any], node_id: str) -> None:
        """The first region's host ends once the second's has begun."""
        begun.append(message)
        if len(begun) == 2:
            for host, command in zip((first, second), begun, strict=True):
                _ship(run, host)
                _state(host).reply(host.instance_id, _ended(command))

    for host in (first, second):
        _state(host).responder = never_first
    proven = PROVE.prove(run, [first, second], _view(run, [first, second]))
    assert {i: one.fields["marker_found"] for i, one in proven.items()} == {
        first.instance_id: True,
        second.instance_id: True,
    }


def test_a_host_that_is_gone_does_not_take_the_proof_of_the_others(run: Run) -> None:
    there = _host(REGIONS[0])
    gone = there.model_copy(update={"instance_id": GONE})

    def ship(message: dict[str, Any], node_id: str) -> dict[str, Any]:
        _ship(run, there)
        return _ended(message)

    _state(there).responder = ship
    proven = PROVE.prove(run, [gone, there], _view(run, [gone, there]))
    assert proven[there.instance_id].fields["marker_found"] is True
    assert "NOT_ONLINE" in proven[GONE].fields["marker_found"].unknown
    assert isinstance(proven[GONE].fields["marker_found"], Unknown)


def _host(region: str) -> Host:
    """A managed node that is Online."""
    ec2 = boto3.client("ec2", region_name=region)
    image = ec2.register_image(Name="legacy", Architecture="x86_64", RootDeviceName="/dev/sda1")["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]
    host = Host(account=ACCOUNT, region=region, instance_id=made["InstanceId"])
    _state(host).put_node(host.instance_id, simulated=True)
    boto3.client("logs", region_name=region).create_log_group(logGroupName=GROUP)
    return host


def _state(host: Host) -> SsmState:
    return ssm_state(ACCOUNT, host.region)


def _ended(message: dict[str, Any]) -> dict[str, Any]:
    return {"CommandId": message["CommandId"], "Status": "Success", "ResponseCode": 0}


def _ship(run: Run, host: Host) -> None:
    """The marker's line, as the host's agent would send it."""
    logs = boto3.client("logs", region_name=host.region)
    stream = {"logGroupName": GROUP, "logStreamName": host.instance_id}
    logs.create_log_stream(**stream)
    line = f"haltuun {run.id} {host.instance_id}"
    now = int(datetime.now(UTC).timestamp() * 1000)
    logs.put_log_events(logEvents=[{"timestamp": now, "message": line}], **stream)


def _view(run: Run, hosts: list[Host]) -> View:
    wanted = wanted_config("acme", None, None)
    row = LogsFacts(wanted=wanted, logs_tag=wanted.tag, configured=True)
    return View(
        account=run.account,
        config=run.config,
        account_id=ACCOUNT,
        partition="aws",
        now=run.now(),
        run_id=run.id,
        hosts={host.instance_id: host for host in hosts},
        entering=(),
        facts={StageName.logs: {host.instance_id: row for host in hosts}},
        account_facts={},
    )
