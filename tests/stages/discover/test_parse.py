"""From what AWS and hosts said to facts: recorded cases, and what must never be taken for something else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from haltuun.config import AccountConfig, Config, HostConfig
from haltuun.model import Host, StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.eol import last_day, term, terms
from haltuun.stages.discover.facts import DiscoverAccount, DiscoverFacts
from haltuun.stages.discover.host import no_way_in
from haltuun.stages.discover.judge import judge, judge_eol
from haltuun.stages.discover.parse_account import parse_account
from haltuun.stages.discover.parse_host import parse_host
from haltuun.stages.discover.parse_inside import parse_clock, parse_ssh_legacy

SYSTEMS = sorted((Path(__file__).parents[2] / "cases" / "discover" / "systems").glob("*.yaml"))
REGION, ACCOUNT, ID = "eu-central-1", "111122223333", "i-0abc1234def567890"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOST = Host(account=ACCOUNT, region=REGION, instance_id=ID, name="web-01")
DENIED = Unknown(unknown="ACCESS_DENIED: ssm:DescribeInstanceInformation")


def view(**config: Any) -> View:
    account = AccountConfig(id=ACCOUNT, regions=[REGION], hosts={ID: HostConfig(**config)})
    return View(
        account=account,
        config=Config(accounts=[account]),
        account_id=ACCOUNT,
        partition="aws",
        now=NOW,
        run_id="r",
        hosts={ID: HOST},
        entering=(ID,),
        facts={},
        account_facts={},
    )


def instance(**more: Any) -> dict[str, Any]:
    return {
        "InstanceId": ID,
        "ImageId": "ami-1",
        "State": {"Name": "running"},
        "PrivateIpAddress": "10.0.0.5",
        "Tags": [{"Key": "Name", "Value": "web-01"}],
        **more,
    }


def region(**more: Any) -> dict[str, Any]:
    lists = (
        "images statuses nodes asg_instances ecs_instances groups launch_templates launch_configurations"
        " baselines patch_groups windows associations"
        " backup_plans backup_vaults log_groups volumes evidence"
    )
    parts: dict[str, Any] = {name: [] for name in lists.split()}
    plain = {"instances": [instance()], "lineage": {}, "dhmc": {}, "session_preferences": None}
    return {REGION: parts | plain | more}


def inside(stdout: str) -> dict[str, Any]:
    at = NOW.timestamp()
    return {
        "way": "ssh",
        "legacy": None,
        "asked_at": at,
        "answered_at": at + 2,
        "stdout": f"probe\t1\n{stdout}",
    }


def facts(raw: Any = None, stdout: str | None = None, **config: Any) -> DiscoverFacts:
    host_raw: Any = Unknown(unknown="SSH_TIMEOUT: nothing answers") if stdout is None else inside(stdout)
    return parse_host(view(**config), HOST, raw or region(), host_raw)


# -- systems ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SYSTEMS, ids=lambda path: path.stem)
def test_system(case: Path) -> None:
    data = yaml.safe_load(case.read_text())
    lines = [f"{key}\t{line}" for key, text in data["printed"].items() for line in text.splitlines()]
    seen = facts(stdout="\n".join(lines))
    for name, value in data["expected"].items():
        have = getattr(seen, name)
        assert (None if isinstance(have, Unknown) else have) == value, name


def test_the_data_file_has_no_term_that_ends_before_it_is_free() -> None:
    assert all(row.paid is None or row.paid > row.free for row in terms().values())
    assert last_day("2024-02") == date(2024, 2, 29)
    assert isinstance(term("plan9", "4"), Unknown)


@pytest.mark.parametrize(
    ("system", "version", "over"),
    [
        ("ol", "8.9", False),
        ("ol", "7.9", True),
        ("sles", "15.5", True),
        ("sles", "15.7", False),
        ("rhel", "10.0", False),
        ("rocky", "10.1", False),
        ("centos", "9", False),
        ("ubuntu", "25.10", True),
    ],
)
def test_a_common_system_has_a_term(system: str, version: str, over: bool) -> None:
    found = term(system, version)
    assert not isinstance(found, Unknown)
    assert (found.free < NOW.date()) is over


@pytest.mark.parametrize(
    ("name", "over"),
    [
        ("Microsoft Windows Server 2022 Datacenter", False),
        ("Microsoft Windows Server 2012 R2 Standard", True),
        ("Microsoft Windows Server Datacenter", None),
    ],
)
def test_windows_is_known_by_its_agents_report(name: str, over: bool | None) -> None:
    node = {"InstanceId": ID, "PingStatus": "Online", "PlatformName": name, "PlatformVersion": "10.0"}
    seen = facts(region(nodes=[node], instances=[instance(Platform="windows")]))
    assert seen.row()["eol"] is over
    assert any(name in one.message for one in judge_eol(HOST, seen, NOW.date())) is (over is True)


# -- unknown is not false --------------------------------------------------------------------------


def test_denied_is_unknown_and_never_none() -> None:
    raw = region(nodes=DENIED, baselines=DENIED, images=DENIED, dhmc=DENIED)
    seen = facts(raw)
    for name in ("ssm_status", "ssm_agent_version", "same_box_nodes", "image_name", "image_imported"):
        assert isinstance(getattr(seen, name), Unknown), name
    account = parse_account(view(), raw)
    assert isinstance(account.regions[REGION].baselines, Unknown)
    looked = View(**{**vars(view()), "account_facts": {StageName.discover: account}})
    said = {finding.message for finding in judge(looked) if finding.code == "SCOPE_UNKNOWN"}
    assert any("baselines" in message for message in said)


def test_an_unreachable_host_has_its_facts_of_ec2_and_no_others() -> None:
    seen = facts()
    assert (seen.state, seen.platform, seen.private_ip) == ("running", "linux", "10.0.0.5")
    assert seen.row()["agent_running"] is None
    assert seen.row()["compromise"] == "not looked"
    assert not seen.is_suspect


def test_a_stopped_instance_is_not_said_never_to_have_reported() -> None:
    stopped = facts(region(instances=[instance(State={"Name": "stopped"})]))
    assert isinstance(stopped.ssm_status, Unknown)
    assert facts().ssm_status == "never"


@given(st.text())
def test_whatever_a_host_prints_is_parsed(text: str) -> None:
    facts(stdout=text)


@given(st.lists(st.sampled_from(["listener", "process", "owner", "unit.pid", "agent.package", "done"])))
def test_broken_rows_are_parsed(keys: list[str]) -> None:
    facts(stdout="\n".join(f"{key}\tlisteners\t\tx\t99999999\t-" for key in keys))


# -- the right box ---------------------------------------------------------------------------------

OTHER = "i-0fffffffffffffff0"


@pytest.mark.parametrize(
    ("stdout", "right"),
    [
        (f"imds.instance-id\t{ID}\nimds.account\t{ACCOUNT}\nimds.region\t{REGION}", True),
        (f"imds.instance-id\t{OTHER}\nimds.account\t{ACCOUNT}\nimds.region\t{REGION}", False),
        (f"imds.instance-id\t{ID}\nimds.account\t999999999999\nimds.region\t{REGION}", False),
        (f"imds.instance-id\t{ID}\nimds.account\t{ACCOUNT}\nimds.region\teu-west-1", False),
        (f"dmi.instance-id\t{OTHER}", False),
        (f"dmi.instance-id\t{ID}", True),
        ("address\t127.0.0.1\naddress\t10.0.0.6", False),
        ("address\t127.0.0.1\naddress\t10.0.0.5", None),
        ("imds.instance-id\t<html>nonsense", None),
        ("", None),
    ],
)
def test_right_box(stdout: str, right: bool | None) -> None:
    seen = facts(stdout=f"{stdout}\nhostname\tstranger\ndone\tsuspect.running\nsuspect\trunning\t/tmp/x")
    assert seen.row()["right_box"] == right
    assert (seen.hostname == "stranger") is (right is not False)
    assert seen.is_suspect is (right is not False), "another machine's signs do not hold this host"


# -- same box, wrong identity ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "same"),
    [
        ({"IPAddress": "10.0.0.5", "ComputerName": "x"}, True),
        ({"IPAddress": "10.9.9.9", "ComputerName": "WEB-01.corp.example"}, True),
        ({"IPAddress": "10.9.9.9", "ComputerName": "web-02"}, False),
        ({"IPAddress": "", "ComputerName": ""}, False),
        ({"IPAddress": "10.9.9.9", "ComputerName": "localhost"}, False),
    ],
)
def test_same_box(node: dict[str, str], same: bool) -> None:
    raw = region(nodes=[{"InstanceId": "mi-0123456789abcdef0", "PingStatus": "Online", **node}])
    raw["eu-west-1"] = region()[REGION] | {"instances": []}
    assert facts(raw, stdout="hostname\tlocalhost").same_box_nodes == (
        ("mi-0123456789abcdef0",) if same else ()
    )


# -- who else rules, who is left alone -------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ()),
        ({"Tags": [{"Key": "aws:autoscaling:groupName", "Value": "web"}]}, ("asg:web",)),
        ({"Tags": [{"Key": "kubernetes.io/cluster/prod", "Value": "owned"}]}, ("eks",)),
        ({"Tags": [{"Key": "elasticbeanstalk:environment-name", "Value": "x"}]}, ("beanstalk",)),
        ({"InstanceLifecycle": "spot"}, ("spot",)),
    ],
)
def test_managed_by(more: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert facts(region(instances=[instance(**more)])).managed_by == expected


def test_members_by_the_services_own_word() -> None:
    raw = region(asg_instances=[{"InstanceId": ID, "AutoScalingGroupName": "g"}], ecs_instances=[ID])
    assert facts(raw).managed_by == ("asg:g", "ecs")
    assert isinstance(facts(region(asg_instances=DENIED)).asg, Unknown)


def test_excluded_by_configuration_or_tag_and_nobody_connects() -> None:
    tagged = region(instances=[instance(Tags=[{"Key": "haltuun:exclude", "Value": "legal hold"}])])
    assert "legal hold" in str(facts(tagged).exclude)
    assert facts(exclude="moves out in May").exclude == "moves out in May"
    account: DiscoverAccount = parse_account(view(), tagged)
    closed = no_way_in(account.standing[ID])
    assert closed is not None and closed.unknown.startswith("EXCLUDED: ")


@pytest.mark.parametrize(
    ("name", "description", "imported"),
    [
        ("import-ami-0123456789abcdef0", "", True),
        ("legacy", "AWS-VMImport service: Linux - Ubuntu 14.04", True),
        ("ubuntu/images/x", "Canonical, Ubuntu, 16.04 LTS", False),
    ],
)
def test_imported_image(name: str, description: str, imported: bool) -> None:
    raw = region(images=[{"ImageId": "ami-1", "Name": name, "Description": description}])
    assert facts(raw).image_imported is imported


# -- clock, SSH ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "offset"), [(100.0, 0.0), (102.0, 0.0), (99.5, 0.0), (700.0, 598.0), (40.0, -60.0)]
)
def test_clock(epoch: float, offset: float) -> None:
    assert parse_clock(epoch, 100.0, 102.0) == offset


@pytest.mark.parametrize(
    ("version", "seen", "legacy"),
    [("6.6.1", None, True), ("7.2", None, False), ("9.2", True, True), (None, None, None)],
)
def test_ssh_legacy(version: str | None, seen: bool | None, legacy: bool | None) -> None:
    found = parse_ssh_legacy(version, seen)
    assert (None if isinstance(found, Unknown) else found) is legacy


@pytest.mark.parametrize(
    ("rows", "severity"),
    [
        ("puppet\tits process puppet runs", "medium"),
        ("salt\t/etc/salt/minion is there", "low"),
        (None, None),
    ],
)
def test_what_may_revert_a_change_is_named(rows: str | None, severity: str | None) -> None:
    printed = f"config-management\t{rows}\ndone\tconfig-management" if rows else "done\tconfig-management"
    seen = facts(stdout=printed)
    judged = judge(replace(view(), facts={StageName.discover: {ID: seen}}))
    found = [f for f in judged if f.code == "CONFIG_MANAGED"]
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert isinstance(facts(stdout="").config_management, Unknown)
