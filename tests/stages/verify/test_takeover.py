"""Discover and verify over whole emulated accounts, with hosts that are simulated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.client
import botocore.exceptions
import pytest

from haltuun.config import HostConfig
from haltuun.engine import Takeover
from haltuun.model import Finding, StageName, Verdict
from haltuun.stages.discover import STAGE as DISCOVER
from haltuun.stages.verify import STAGE as VERIFY
from haltuun.stages.verify.needs import OWN_ROLE, own_policy
from lab.scenario import Scenario, load_scenario
from tests.stages.account_kit import take_back
from tests.stages.account_state import account_state, differences
from tests.stages.takeover_kit import World, seeded

pytestmark = pytest.mark.slow


def only(scenario: str, *names: str, **changes: Any) -> Scenario:
    """Some hosts of a scenario of the lab, with changes to the scenario."""
    loaded = load_scenario(scenario)
    hosts = [host for host in loaded.hosts if host.name in names]
    return loaded.model_copy(update={"hosts": hosts, **changes})


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    opened = []

    def enter(scenario: Scenario) -> World:
        manager = seeded(scenario, tmp_path, monkeypatch)
        opened.append(manager)
        return manager.__enter__()

    yield enter
    for manager in opened:
        manager.__exit__(None, None, None)


def codes(takeover: Takeover, world: World, name: str) -> set[str]:
    findings: list[Finding] = [f for p in takeover.progress.values() for f in p.findings]
    return {finding.code for finding in findings if finding.host == world.ids[name]}


def kinds(takeover: Takeover) -> list[str]:
    assert takeover.plan is not None
    return sorted(change.kind for change in takeover.plan.changes)


def test_the_demo_is_brought_up_to_repair_and_a_second_run_changes_nothing(make: Any) -> None:
    world = make(only("demo", "web-01", "db-01", "batch-01", "intern-01", "files-01", "asg-web-1"))
    takeover = world.start()
    assert kinds(takeover) == [
        "ec2.instance_profile.associate",
        "ec2.security_group.egress",
        "iam.instance_profile.create",
        "iam.instance_profile.role",
        "iam.role",
        "iam.role.policy",
        "iam.role.policy",
    ]
    own = [change for change in takeover.plan.changes if change.target == OWN_ROLE]
    (policy,) = [c for c in takeover.plan.changes if c.kind == "iam.role.policy" and c not in own]
    (associate,) = [c for c in takeover.plan.changes if c.kind == "ec2.instance_profile.associate"]
    assert any("files-01" in label for label in policy.concerns)
    assert world.ids["files-01"] not in policy.hosts
    assert set(associate.depends_on) == {change.id for change in own}
    assert [change.reach.value for change in takeover.plan.changes].count("host") == 1
    assert {"SAME_BOX", "IMPORTED_IMAGE", "EOL"} <= codes(takeover, world, "db-01")
    assert "MANAGED_ELSEWHERE" in codes(takeover, world, "asg-web-1")
    assert "ROLE_MISSING" in codes(takeover, world, "batch-01")
    assert "EGRESS_BLOCKED" in codes(takeover, world, "intern-01")

    statuses = world.go(takeover)
    assert all(status.verdict is Verdict.passed for status in statuses["discover"].values())
    held = {name: s.reason for name, s in statuses["verify"].items() if s.verdict is not Verdict.passed}
    assert held == {"files-01": "SSH_HANGS"}
    assert statuses["verify"]["files-01"].message == "Sshd accepts and never speaks."
    assert statuses["verify"]["files-01"].remedy == "Restart sshd over the serial console."

    again = world.start()
    assert again.plan is not None
    assert again.plan.changes == ()
    before = [call for call in again.run.aws.calls if call.mutating]
    world.go(again)
    assert [call for call in again.run.aws.calls if call.mutating] == before == []


def test_a_plan_mutates_nothing(make: Any) -> None:
    world = make(only("demo", "web-01", "batch-01"))
    takeover = world.start("plan")
    assert takeover.run.aws.read_only
    assert not [call for call in takeover.run.aws.calls if call.mutating]
    again = world.start("plan")
    assert takeover.plan is not None and again.plan is not None
    assert takeover.plan.hash == again.plan.hash


def test_every_change_can_be_undone(make: Any) -> None:
    world = make(only("demo", "web-01", "batch-01", "intern-01"))
    before = account_state(world.account.client)
    takeover = world.start()
    world.go(takeover)
    assert differences(before, account_state(world.account.client))
    undoing = take_back(world.config(), world.ledger, takeover.run.id, [DISCOVER, VERIFY])
    assert undoing.outcome() == "Undone"
    assert differences(before, account_state(world.account.client)) == []
    takeover_again = world.start()
    assert takeover_again.plan is not None and takeover.plan is not None
    assert takeover_again.plan.hash == takeover.plan.hash


def test_who_is_held_and_why(make: Any) -> None:
    names = ("weak-role", "asleep", "windows-01", "keyless", "original", "on-purpose")
    world = make(only("full", *names))
    world.online("keyless")
    wrong = "i-0fffffffffffffff0"
    world.seen["original"] = lambda kind, text: text.replace(world.ids["original"], wrong)
    world.hosts = {"on-purpose": HostConfig(exclude="its owner repairs it")}
    takeover = world.start()
    facts = takeover.run.facts[StageName.discover][world.ids["original"]]
    assert facts.row()["hostname"] is None, "another machine's facts are put down to nobody"
    statuses = world.go(takeover)
    assert {name: (s.verdict.value, s.reason) for name, s in statuses["verify"].items()} == {
        "weak-role": ("passed", ""),
        "asleep": ("held", "INSTANCE_STOPPED"),
        "windows-01": ("held", "WINDOWS_BY_HAND"),
        "keyless": ("passed", ""),  # Online under its own id: no key is needed to know that it gets through
        "original": ("held", "WRONG_BOX"),
        "on-purpose": ("excluded", "EXCLUDED"),
    }
    assert "on-purpose" not in world.connected
    assert "asleep" not in world.connected
    assert wrong in statuses["verify"]["original"].message


def test_a_compromised_host_keeps_a_snapshot_and_gets_nothing_else(make: Any) -> None:
    world = make(only("full", "miner", "stopped-agent"))
    takeover = world.start()
    assert takeover.plan is not None
    mine = [change for change in takeover.plan.changes if world.ids["miner"] in change.hosts]
    assert [(change.kind, change.reach.value) for change in mine] == [
        ("ec2.snapshot.evidence", "irreversible")
    ]
    shared = next(change for change in takeover.plan.changes if change.kind == "iam.role.policy")
    assert any(label.endswith("miner (SUSPECT)") for label in shared.concerns)
    statuses = world.go(takeover)
    assert (statuses["discover"]["miner"].verdict, statuses["discover"]["miner"].reason) == (
        Verdict.held,
        "SUSPECT",
    )
    assert world.connected.count("miner") == 2, "discover looks before and after its own change; nobody else"
    kept = world.account.client("ec2").describe_snapshots(
        Filters=[{"Name": "tag:haltuun:evidence", "Values": [world.ids["miner"]]}]
    )["Snapshots"]
    assert len(kept) == 1
    assert kinds(world.start()) == []


def test_where_the_simulator_may_not_be_asked_it_is_unknown_and_never_guessed(make: Any) -> None:
    world = make(only("demo", "web-01", "web-02", operator_denied=["iam:SimulatePrincipalPolicy"]))
    world.online("web-01")
    takeover = world.start()
    assert kinds(takeover) == []
    statuses = world.go(takeover)
    assert statuses["verify"]["web-01"].verdict is Verdict.passed, (
        "Online under its own id: seen to be allowed"
    )
    assert (statuses["verify"]["web-02"].verdict, statuses["verify"]["web-02"].reason) == (
        Verdict.unknown,
        "ROLE_DENIED",
    )


def test_a_boundary_is_not_outweighed_by_a_policy(make: Any) -> None:
    world = make(only("demo", "web-02"))
    iam = world.account.client("iam")
    nothing = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    arn = iam.create_policy(PolicyName="only-s3", PolicyDocument=json.dumps(nothing))["Policy"]["Arn"]
    iam.put_role_permissions_boundary(RoleName="acme-ec2-managed", PermissionsBoundary=arn)
    takeover = world.start()
    assert kinds(takeover) == []
    status = world.go(takeover)["verify"]["web-02"]
    assert (status.verdict, status.reason) == (Verdict.held, "ROLE_DENIED")
    assert "boundary" in status.message


def test_what_another_made_under_our_name_is_left_alone(make: Any) -> None:
    world = make(only("demo", "batch-01"))
    iam = world.account.client("iam")
    iam.create_role(RoleName="haltuun-instance", AssumeRolePolicyDocument="{}")
    takeover = world.start()
    assert kinds(takeover) == []
    assert world.go(takeover)["verify"]["batch-01"].reason == "NAME_TAKEN"


def test_default_host_management_stands_in_for_a_profile(make: Any) -> None:
    world = make(load_scenario("dhmc"))
    takeover = world.start()
    assert kinds(takeover) == []
    assert "DHMC_HOST" in codes(takeover, world, "stale-by-setting")
    assert {s.verdict for s in world.go(takeover)["verify"].values()} == {Verdict.passed}


def test_a_host_whose_signs_nobody_could_look_for_gets_no_role(make: Any) -> None:
    world = make(only("demo", "batch-01"))
    lost = "done\tsuspect.upload\n"
    world.seen["batch-01"] = lambda kind, text: text.replace(lost, "") if kind == "probe" else text
    takeover = world.start()
    assert kinds(takeover) == []
    status = world.go(takeover)["verify"]["batch-01"]
    assert (status.verdict, status.reason) == (Verdict.unknown, "SUSPECT_UNKNOWN")


def test_one_sign_that_a_host_cannot_tell_is_a_finding_and_holds_nobody(make: Any) -> None:
    world = make(only("demo", "batch-01"))
    lost, told = "done\tsuspect.upload\n", "cannot\tsuspect.upload\ttoo large\n"
    world.seen["batch-01"] = lambda kind, text: text.replace(lost, told)
    takeover = world.start()
    assert "SIGN_NOT_LOOKED_FOR" in codes(takeover, world, "batch-01")
    assert world.go(takeover)["verify"]["batch-01"].verdict is Verdict.passed


def test_what_else_has_the_security_group_is_named(make: Any) -> None:
    world = make(only("demo", "intern-01"))
    ec2 = world.account.client("ec2")
    found = ec2.describe_instances(InstanceIds=[world.ids["intern-01"]])["Reservations"][0]["Instances"][0]
    made = ec2.create_network_interface(
        SubnetId=found["SubnetId"],
        Groups=[group["GroupId"] for group in found["SecurityGroups"]],
        Description="RDSNetworkInterface",
    )["NetworkInterface"]
    takeover = world.start("plan")
    assert takeover.plan is not None
    (change,) = [c for c in takeover.plan.changes if c.kind == "ec2.security_group.egress"]
    (named,) = [text for text in change.concerns if made["NetworkInterfaceId"] in text]
    assert "RDSNetworkInterface" in named
    assert not [text for text in change.concerns if world.ids["intern-01"] in text]


def test_a_role_that_is_full_is_said_to_be(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make(only("full", "weak-role"))
    takeover = world.start()
    assert "iam.role.policy" in kinds(takeover)
    send = botocore.client.BaseClient._make_api_call

    def full(self: Any, operation: str, parameters: Any) -> Any:
        if operation != "PutRolePolicy":
            return send(self, operation, parameters)
        said = "Maximum policy size of 10240 bytes exceeded for role acme-weak"
        raise botocore.exceptions.ClientError(
            {"Error": {"Code": "LimitExceeded", "Message": said}}, operation
        )

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", full)
    status = world.go(takeover)["verify"]["weak-role"]
    assert (status.verdict, status.reason) == (Verdict.held, "POLICY_TOO_LARGE")
    assert "managed policy" in status.remedy


def test_our_policy_is_narrow() -> None:
    text = json.dumps(own_policy("aws-cn", "111122223333"))
    assert "arn:aws:" not in text
    assert "parameter/*" not in text
    wide = [s for s in own_policy("aws", "1")["Statement"] if s["Resource"] == "*"]
    assert [s["Sid"] for s in wide] == ["HaltuunAgent", "HaltuunLogGroups"]
    assert wide[1]["Action"] == "logs:DescribeLogGroups", "names only, and the call takes no resources"
    assert not any("GetParameter" in action for s in wide for action in s["Action"])
