"""The proof where one host of a batch is no node any more, and who is waited for before it. AWS is moto with
the lab's operations."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest

from haltuun.aws import Aws
from haltuun.clock import Clock
from haltuun.config import AccountConfig, Config
from haltuun.ledger import Ledger
from haltuun.model import Host, StageName, Unknown
from haltuun.reach import open_host
from haltuun.run import Run
from haltuun.stages import commands
from haltuun.stages.base import View
from haltuun.stages.repair.facts import Agent, IdentityConfig, Process, RepairAccount, RepairFacts
from haltuun.stages.repair.parse import parse_host
from haltuun.stages.repair.probe import ONLINE_WAIT_S, get_node, own_node
from haltuun.stages.repair.prove import await_online, is_online, prove
from lab.answers import repair_answer
from lab.cloud.extensions import apply_extensions
from lab.cloud.state import SsmState, ssm_state
from tests.stages.repair.plan_kit import (
    ACCOUNT,
    AS_EC2,
    CORE,
    NOW,
    REGION,
    WORKER,
    agent,
    log,
    node,
    plan,
    stale,
)

PROVE = import_module("haltuun.stages.repair.prove")  # the package exports the function of that name
GONE = "i-0ffffffffffffffff"


@pytest.fixture(scope="module")
def cloud() -> Iterator[SsmState]:
    apply_extensions()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("MOTO_ACCOUNT_ID", ACCOUNT)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        with moto.mock_aws():
            yield ssm_state(ACCOUNT, REGION)


@pytest.fixture(scope="module")
def online(cloud: SsmState) -> Host:
    return _node(cloud)


def _node(cloud: SsmState) -> Host:
    ec2 = boto3.client("ec2", region_name=REGION)
    image = ec2.register_image(Name=uuid.uuid4().hex, Architecture="x86_64", RootDeviceName="/dev/sda1")[
        "ImageId"
    ]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]
    cloud.put_node(made["InstanceId"], simulated=True)
    cloud.responder = _echo
    return Host(account=ACCOUNT, region=REGION, instance_id=made["InstanceId"])


def _echo(message: dict[str, Any], node_id: str) -> dict[str, Any]:
    said = message["Parameters"]["commands"][0].removeprefix("echo ")
    return {
        "CommandId": message["CommandId"],
        "Status": "Success",
        "ResponseCode": 0,
        "StandardOutput": said,
        "StandardError": "",
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    account, clock = AccountConfig(id=ACCOUNT, regions=[REGION]), Clock()
    return Run(
        id="run-1",
        config=Config(),
        account=account,
        mode="apply",
        aws=Aws(account, clock, read_only=False),
        clock=clock,
        ledger=Ledger(f"sqlite:///{tmp_path}/ledger.sqlite"),
        opener=open_host,
    )


def test_a_terminated_host_does_not_take_the_proof_of_the_others(
    run: Run, online: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALTUUN_ONLINE_WAIT_S", "0")
    hosts = [Host(account=ACCOUNT, region=REGION, instance_id=GONE), online]
    proven = prove(run, hosts, _view(run, hosts, {}))
    assert proven[online.instance_id].fields["echoed"] is True
    assert proven[GONE].fields["ssm_status"] == "never"


def test_hosts_of_one_command_do_not_wait_for_those_of_another(
    run: Run, online: Host, cloud: SsmState, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (commands, PROVE):
        monkeypatch.setattr(module, "BATCH", 5)  # the smallest page that there is
    monkeypatch.setattr(PROVE, "ECHO_WAIT_S", 1.0)
    hosts = [online, *(_node(cloud) for _ in range(5))]
    sent: list[dict[str, Any]] = []

    def once_all_are_asked(message: dict[str, Any], node_id: str) -> None:
        sent.append({"node_id": node_id, "reply": _echo(message, node_id)})
        if len(sent) == len(hosts):
            for one in sent:
                cloud.reply(**one)

    monkeypatch.setattr(cloud, "responder", once_all_are_asked)
    proven = prove(run, hosts, _view(run, hosts, {}))
    assert [proven[host.instance_id].fields["echoed"] for host in hosts] == [True] * len(hosts)


def test_a_node_whose_agent_has_become_another_is_not_asked(run: Run, online: Host) -> None:
    """Systems Manager lists it as Online for minutes; a command to it would be waited for in vain."""
    facts = {online.instance_id: RepairFacts(observed_at=NOW, identity="OnPrem")}
    fields = prove(run, [online], _view(run, [online], facts))[online.instance_id].fields
    assert fields["online_as_self"] is True
    assert fields["echoed"] == Unknown(unknown="NOT_SENT: the agent on the host is not this instance's")
    assert not [call for call in run.aws.calls if call.mutating]


# -- an agent that has just started ---------------------------------------------------------------------


def test_an_agent_that_has_just_started_is_waited_for(run: Run, online: Host) -> None:
    """When all were listed it was not there yet."""
    row = own_node(run, online, _listed(run, online), _started(online, 20))
    assert isinstance(row, dict) and row["PingStatus"] == "Online"


def test_it_is_waited_for_until_it_is_none_that_has_just_started(run: Run, online: Host) -> None:
    gone = Host(account=ACCOUNT, region=REGION, instance_id=GONE)
    assert own_node(run, gone, _listed(run, gone), _started(gone, ONLINE_WAIT_S - 1.5)) is None
    assert len(run.aws.calls) > 1


@pytest.mark.parametrize("seen", ["long ago", "not this instance's", "not connected", "nobody knows"])
def test_nothing_else_is_waited_for(run: Run, online: Host, seen: str) -> None:
    agents = {
        "long ago": _started(online, 181),
        "not this instance's": stale(up_s=1000, processes=_processes(20)),
        "not connected": _started(online, 20, log=log(*AS_EC2)),
        "nobody knows": _started(online, 20, up_s=5),  # a container that is shown a boot of its own
    }
    assert own_node(run, online, _listed(run, online), agents[seen]) is None
    assert run.aws.calls == []


def test_whom_this_run_has_started_the_proof_waits_for_together_with_the_others(
    run: Run, online: Host
) -> None:
    listed, seen = _listed(run, online), _started(online, 20)
    run.journal(plan(stale()).changes[0].model_copy(update={"hosts": (online.instance_id,)}), "confirmed")
    assert own_node(run, online, listed, seen) is None
    assert run.aws.calls == []


@pytest.mark.parametrize(
    ("own", "self_online"),
    [
        (None, False),
        ({"InstanceId": "i-1", "PingStatus": "Online"}, True),
        (Unknown(unknown="THROTTLED"), Unknown(unknown="THROTTLED")),
    ],
)
def test_the_own_node_goes_before_the_list_of_before(
    run: Run, online: Host, own: Any, self_online: bool | Unknown
) -> None:
    raw = {
        "stdout": repair_answer(online, "systemd"),
        "vault_node": None,
        "vault_activations": None,
        "own_node": own,
    }
    facts = parse_host(_listed(run, online), online, None, raw)
    assert facts.online_as_self == self_online
    assert (facts.ssm_status == "ConnectionLost") is (own is None)


def test_who_was_seen_online_is_not_asked_for_again(
    run: Run, online: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALTUUN_ONLINE_WAIT_S", "1.5")
    gone = Host(account=ACCOUNT, region=REGION, instance_id=GONE)
    hopeful = RepairFacts(observed_at=NOW, identity="EC2", connected=True)
    view = _view(run, [online, gone], {online.instance_id: hopeful, GONE: hopeful})
    asked: list[list[str]] = []
    pages = run.aws.pages

    def listening(*what: str, **given: Any) -> Any:
        asked.append(given["Filters"][0]["Values"])
        return pages(*what, **given)

    monkeypatch.setattr(run.aws, "pages", listening)
    seen = await_online(run, REGION, [online, gone], view)
    assert is_online(seen[online.instance_id]) and GONE not in seen
    first = asked.index([GONE], asked.index([GONE]) + 1)
    assert first and all(one == [GONE] for one in asked[first:])


def _started(host: Host, age_s: float, **special: Any) -> Agent:
    own = {"imds_instance_id": host.instance_id, "imds_account": ACCOUNT, "imds_region": REGION}
    identity = IdentityConfig(identity_type="EC2", instance_id=host.instance_id)
    return agent(
        **{**own, "identity_config": identity, "up_s": 1000, "processes": _processes(age_s), **special}
    )


def _processes(age_s: float) -> tuple[Process, ...]:
    started = int((1000 - age_s) * 100)
    return tuple(one.model_copy(update={"started": started}) for one in (CORE, WORKER))


def _listed(run: Run, host: Host) -> View:
    lost = node(host.instance_id, "ConnectionLost").model_copy(update={"region": REGION})
    account = RepairAccount(nodes={REGION: (lost,)})
    return replace(_view(run, [host], {}), account_facts={StageName.repair: account})


def _view(run: Run, hosts: list[Host], facts: dict[str, RepairFacts]) -> View:
    return View(
        account=run.account,
        config=run.config,
        account_id=ACCOUNT,
        partition="aws",
        now=NOW,
        run_id=run.id,
        hosts={host.instance_id: host for host in hosts},
        entering=(),
        facts={StageName.discover: {}, StageName.repair: facts},
        account_facts={},
    )


def test_a_registration_that_the_account_does_not_have_is_none(run: Run, online: Host) -> None:
    assert get_node(run, "eu-west-1", "mi-0123eb6450bf5617b") is None
    row = get_node(run, REGION, online.instance_id)
    assert row is not None
    assert row["PingStatus"] == "Online"
