"""Which fault leads to which least step, and what is never done."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from haltuun.config import AgentConfig, HostConfig
from haltuun.model import Reach, Unknown, Verdict
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.repair import facts as f
from haltuun.stages.repair.parse import vault_foreign
from tests.stages.repair.plan_kit import (
    AS_EC2,
    AS_ONPREM,
    CHANNEL,
    CORE,
    HOST,
    IID,
    MI,
    NO_TOKEN,
    NOW,
    PACKAGE,
    REGION,
    STALE_VAULT,
    START,
    WORKER,
    agent,
    log,
    node,
    plan,
    stale,
    verify_change,
)

TOKEN = f.RootCredentials(
    present=True, sections=("default",), default_kind="temporary", of_agent=True, digest="d" * 64
)
NO_ROLE = (
    "EC2RoleProvider Failed to connect to Systems Manager with instance profile role credentials."
    " Err: retrieved credentials failed to report to ssm."
    " Error: EC2RoleRequestError: no EC2 instance role found"
)
DOWN: dict[str, Any] = {"processes": ()}
ELSEWHERE = STALE_VAULT.model_copy(update={"region": "eu-west-1"})
ROW = {"InstanceId": MI, "PingStatus": "Online", "IPAddress": "10.0.0.5", "ComputerName": "web-01"}
BARE: dict[str, Any] = {**DOWN, "packages": {}, "binary": "", "enabled": False, "log": ()}

STEPS = {
    "healthy": (agent(), {"nodes": (node(IID),)}, []),
    "stale": (stale(), {}, ["agent.clear", "agent.vault_aside"]),
    "stale and stopped": (stale(**DOWN), {}, ["agent.clear", "agent.vault_aside"]),
    "will be stale at its next start": (
        agent(vault=STALE_VAULT),
        {"nodes": (node(IID), node(MI))},
        ["agent.clear", "agent.vault_aside"],
    ),
    "cleared and not restarted": (
        stale(vault=f.Vault(manifest=True, key_file=True)),
        {},
        ["agent.restart"],
    ),
    "key deleted under a running agent": (
        stale(vault=f.Vault(manifest=True, key_file=False)),
        {},
        ["agent.restart"],
    ),
    "stopped": (agent(**DOWN), {}, ["agent.restart"]),
    "disabled": (agent(**DOWN, enabled=False), {}, ["agent.restart"]),
    "runs and is not enabled": (agent(enabled=False), {"nodes": (node(IID),)}, ["agent.state"]),
    "orphan worker": (agent(processes=(WORKER,)), {}, ["agent.restart"]),
    "asleep since there was no role": (agent(log=log(*AS_EC2, NO_ROLE)), {}, ["agent.restart"]),
    "lost after it had come up": (agent(log=log(*AS_EC2, CHANNEL, NO_ROLE)), {}, ["agent.restart"]),
    "no agent": (agent(**BARE), {}, ["agent.install"]),
    "no agent, stale vault": (stale(**BARE), {}, ["agent.vault_aside", "agent.install"]),
    "token left behind": (
        agent(credentials=TOKEN, hybrid_dirs=(MI,)),
        {"nodes": (node(IID),)},
        ["agent.credentials_aside"],
    ),
    "token beside a person's profiles": (
        agent(credentials=TOKEN.model_copy(update={"sections": ("default", "me")}), hybrid_dirs=(MI,)),
        {"nodes": (node(IID),)},
        ["agent.credentials_aside"],
    ),
    "a temporary key that may be a person's": (
        agent(credentials=TOKEN.model_copy(update={"of_agent": False}), hybrid_dirs=(MI,)),
        {"nodes": (node(IID),)},
        [],
    ),
}


@pytest.mark.parametrize("case", STEPS)
def test_least_step(case: str) -> None:
    seen, account, kinds = STEPS[case]
    planned = plan(seen, **account)
    assert planned.barred == ()
    assert [change.kind for change in planned.changes] == kinds
    assert all(change.reach is Reach.host and change.hosts == (IID,) for change in planned.changes)
    assert all(change.undo or change.no_undo for change in planned.changes)
    assert all(change.before != change.after for change in planned.changes)
    again = plan(seen, **account)
    assert [change.id for change in again.changes] == [change.id for change in planned.changes]


BARRED: dict[str, tuple[Any, dict[str, Any], str, Verdict]] = {
    "said to be deliberate": (
        stale(),
        {"host": HostConfig(deliberate_hybrid=True)},
        "DELIBERATE_HYBRID",
        Verdict.excluded,
    ),
    "threshold -1": (
        stale(vault=STALE_VAULT.model_copy(update={"similarity_threshold": -1})),
        {},
        "DELIBERATE_HYBRID",
        Verdict.held,
    ),
    "its original lives elsewhere": (
        stale(),
        {"nodes": (node(MI, ip="192.168.50.20", name="appsrv01"),)},
        "HYBRID_IN_USE",
        Verdict.held,
    ),
    "its original lives, at this host's own address": (
        stale(),
        {"nodes": (node(MI, name="appsrv01"),)},
        "HYBRID_IN_USE",
        Verdict.held,
    ),
    "its original lives, at the address of another image's instance": (
        stale(),
        {
            "nodes": (node(MI, ip="10.0.0.9", name="appsrv01"),),
            "image_id": "ami-1",
            "clones": {"i-0c": DiscoverFacts(private_ip="10.0.0.9", image_id="ami-2", hostname="db-01")},
        },
        "HYBRID_IN_USE",
        Verdict.held,
    ),
    "a Greengrass device": (
        stale(),
        {"nodes": (node(MI, source_type="AWS::IoT::Thing"),)},
        "HYBRID_SOURCE",
        Verdict.held,
    ),
    "another cloud's machine, of a region without hosts": (
        stale(vault=ELSEWHERE),
        {"asked": {**ROW, "PingStatus": "ConnectionLost", "SourceType": "Microsoft.Compute/virtualMachines"}},
        "HYBRID_SOURCE",
        Verdict.held,
    ),
    "in use in a region without hosts": (
        stale(vault=ELSEWHERE),
        {"asked": ROW},
        "HYBRID_IN_USE",
        Verdict.held,
    ),
    "a region without hosts does not say": (
        stale(vault=ELSEWHERE),
        {"asked": Unknown(unknown="ACCESS_DENIED: no")},
        "HYBRID_IN_USE",
        Verdict.unknown,
    ),
    "signs of compromise not judged": (
        stale(),
        {"suspect": Unknown(unknown="the look ended before")},
        "SUSPECT_UNKNOWN",
        Verdict.unknown,
    ),
    "membership not readable": (
        stale(),
        {"asg": Unknown(unknown="ACCESS_DENIED"), "managed_by": Unknown(unknown="ACCESS_DENIED")},
        "MEMBERSHIP_UNKNOWN",
        Verdict.unknown,
    ),
    "snap, and its agent is the only way in": (
        stale(packages={"snap": "3.3"}),
        {"way": "run-command"},
        "SNAP_NEEDS_SSH",
        Verdict.held,
    ),
    "stopped snap, found over Run Command": (
        agent(**DOWN, packages={"snap": "3.3"}),
        {"way": "run-command"},
        "SNAP_NEEDS_SSH",
        Verdict.held,
    ),
    "default host management, no profile": (
        stale(),
        {"profile_arn": None, "dhmc": "AWSSystemsManagerDefaultEC2InstanceManagementRole"},
        "DHMC_GUARD",
        Verdict.held,
    ),
    "default host management not readable": (
        stale(),
        {"profile_arn": None, "dhmc": Unknown(unknown="ACCESS_DENIED")},
        "DHMC_GUARD",
        Verdict.held,
    ),
    "no room to save": (stale(disk_free_kb=100), {}, "DISK_FULL", Verdict.held),
    "another machine answers": (
        stale(imds_instance_id="i-0ffffffffffffffff"),
        {},
        "WRONG_BOX",
        Verdict.held,
    ),
    "no metadata": (
        stale(imds_instance_id=Unknown(unknown="IMDS")),
        {},
        "IMDS_UNREACHABLE",
        Verdict.held,
    ),
    "another account": (stale(imds_account="999999999999"), {}, "WRONG_BOX", Verdict.held),
    "compromised": (stale(), {"suspect": ("runs from /tmp",)}, "SUSPECT", Verdict.held),
    "member of a group": (stale(), {"asg": "web"}, "ASG_MEMBER", Verdict.excluded),
    "spot": (stale(), {"managed_by": ("spot",)}, "MANAGED_MEMBER", Verdict.excluded),
    "windows": (
        Unknown(unknown="WINDOWS_BY_HAND: no"),
        {"platform": "windows"},
        "WINDOWS_BY_HAND",
        Verdict.held,
    ),
    "stopped instance": (
        Unknown(unknown="INSTANCE_STOPPED: no"),
        {"state": "stopped"},
        "INSTANCE_STOPPED",
        Verdict.held,
    ),
    "left alone": (stale(), {"exclude": "belongs to finance"}, "EXCLUDED", Verdict.excluded),
    "sshd hangs": (
        Unknown(unknown="SSH_HANGS: no banner within 10 s"),
        {},
        "SSH_HANGS",
        Verdict.unknown,
    ),
    "no root": (stale(root=False), {}, "NO_SUDO", Verdict.held),
    "sysv": (stale(init="sysv"), {}, "INIT_UNKNOWN", Verdict.held),
    "broken configuration": (
        agent(**DOWN, config=f.AgentConfig(state="broken", problem="not valid JSON")),
        {},
        "CONFIG_BROKEN",
        Verdict.held,
    ),
    "region pinned": (
        agent(log=log(*AS_EC2), config=f.AgentConfig(state="ok", region="us-east-1")),
        {},
        "REGION_PINNED",
        Verdict.held,
    ),
    "order without EC2": (
        stale(config=f.AgentConfig(state="ok", consumption_order=("OnPrem",))),
        {},
        "IDENTITY_ORDER_OVERRIDE",
        Verdict.held,
    ),
    "snap and deb": (
        stale(packages={"snap": "3.3", "deb": "3.3"}),
        {},
        "SNAP_AND_DEB",
        Verdict.held,
    ),
    "no agent and no package": (agent(**BARE), {"package": AgentConfig()}, "AGENT_MISSING", Verdict.held),
    "no agent and a wrong package": (
        agent(**BARE),
        {"package_problems": {"a" * 64: "no *.deb in the folder has the pinned sha256."}},
        "AGENT_PACKAGE",
        Verdict.held,
    ),
    "no agent on a rpm host": (agent(**BARE, dpkg_arch=""), {}, "AGENT_MISSING", Verdict.held),
    "nothing left to do": (
        agent(),
        {"nodes": (node(IID, "ConnectionLost"),)},
        "WAITING_SERVICE",
        Verdict.waiting,
    ),
    "waited too long": (
        agent(),
        {"nodes": (node(IID, "ConnectionLost", last_ping_at=NOW - timedelta(days=60)),)},
        "WAITING_LIMIT",
        Verdict.held,
    ),
}


@pytest.mark.parametrize("case", BARRED)
def test_barred(case: str) -> None:
    seen, account, code, verdict = BARRED[case]
    planned = plan(seen, **account)
    assert planned.changes == ()
    (barred,) = planned.barred
    assert (barred.code, barred.verdict) == (code, verdict)
    assert barred.message
    assert barred.remedy


def _refused(version: str, **special: Any) -> f.Agent:
    """Its metadata answered it with 401."""
    special = {"log": log(*START, NO_TOKEN), "identity_config": None, **special}
    return agent(packages={"deb": f"{version}-1"}, **special)


@pytest.mark.parametrize(
    ("seen", "tokens", "step"),
    [
        (_refused("2.3.50.0"), "required", "agent.install"),
        (_refused("2.3.50.0"), Unknown(unknown="not asked"), "agent.install"),
        (_refused("2.3.50.0", **DOWN), "required", "agent.install"),
        (_refused("2.3.1319.0"), "required", "agent.install"),
        (_refused("2.3.50.0", log=(), **DOWN), "required", "agent.install"),
        # It is let in without one now, or can use one.
        (_refused("2.3.50.0"), "optional", "agent.restart"),
        (_refused("3.1.1732.0"), "required", "agent.restart"),
        (_refused("2.3.1319.0", log=(), **DOWN), "required", "agent.restart"),
        (_refused("2.3.701.0", log=(), **DOWN), Unknown(unknown="not asked"), "agent.restart"),
    ],
)
def test_an_agent_too_old_for_tokens_is_not_restarted_for_ever(seen: f.Agent, tokens: Any, step: str) -> None:
    (change,) = plan(seen, nodes=(node(IID, "ConnectionLost"),), imds_tokens=tokens).changes
    assert change.kind == step
    if step == "agent.install":
        assert "sends no session token" in change.summary
        old = PACKAGE.model_copy(update={"version": "2.3.871.0"})
        for package in (AgentConfig(), old):
            planned = plan(seen, imds_tokens=tokens, package=package)
            (barred,) = planned.barred
            assert (planned.changes, barred.code) == ((), "IMDS_TOKENS_REQUIRED")
            assert "HttpTokens=optional" in barred.remedy and "newer" in barred.remedy
            assert ("401" in barred.message) == (seen.log != ()), "only what its log says is said of it"


def test_of_an_agent_whose_version_nobody_knows_nothing_is_replaced() -> None:
    planned = plan(agent(packages={}, log=log(*START, NO_TOKEN)), imds_tokens="required")
    assert (planned.changes, planned.barred[0].code) == ((), "IMDS_TOKENS_REQUIRED")


def test_no_registration_is_cleared_of_an_agent_that_would_have_no_identity() -> None:
    old = stale(packages={"deb": "2.3.50.0-1"})
    planned = plan(old, imds_tokens="required")
    assert (planned.changes, planned.barred[0].code) == ((), "IMDS_TOKENS_REQUIRED")
    remedy = planned.barred[0].remedy
    assert "by hand" in remedy and "pin" not in remedy
    assert f"--region {REGION} --instance-id {IID} --http-tokens optional" in remedy
    assert "3.0.413.0 or newer" in remedy and "dpkg -i amazon-ssm-agent.deb" in remedy
    assert plan(old, imds_tokens="optional").barred == () == plan(old).barred


def test_an_old_agent_that_does_not_connect_without_a_reason_is_replaced() -> None:
    (change,) = plan(agent(packages={"deb": "2.2.24.0-1"}, log=log(*AS_EC2))).changes
    assert change.kind == "agent.install"
    (change,) = plan(agent(packages={"deb": "2.2.24.0-1"}, log=log(*AS_EC2, NO_ROLE))).changes
    assert change.kind == "agent.restart"


def test_waiting_says_when_it_looks_again() -> None:
    """The daily recheck finds its time come, although the run before it took some hours."""
    this_morning = NOW.replace(hour=6, minute=30)
    judged = this_morning + timedelta(hours=3)
    (barred,) = plan(agent(), nodes=(node(IID, "ConnectionLost"),), now=judged).barred
    assert barred.next_check is not None
    assert judged < barred.next_check <= this_morning + timedelta(days=1)
    lately = node(IID, "ConnectionLost", last_ping_at=judged - timedelta(minutes=9))
    (barred,) = plan(agent(), nodes=(lately,), now=judged).barred
    assert barred.next_check == judged + timedelta(minutes=15)


@pytest.mark.parametrize(
    ("special", "account"),
    [
        ({"vault": STALE_VAULT.model_copy(update={"similarity_threshold": -1})}, {}),
        ({}, {"nodes": (node(MI, ip="192.168.50.20"),)}),
        ({}, {"nodes": (node(MI, source_type="AWS::IoT::Thing"),)}),
        ({"vault": ELSEWHERE}, {"asked": Unknown(unknown="ACCESS_DENIED: no")}),
    ],
)
def test_a_person_may_say_that_it_is_not_meant(special: dict[str, Any], account: dict[str, Any]) -> None:
    planned = plan(stale(**special), host=HostConfig(deliberate_hybrid=False), **account)
    assert [change.kind for change in planned.changes] == ["agent.clear", "agent.vault_aside"]


def test_a_node_that_an_activation_made_is_an_ordinary_one() -> None:
    by_activation = node(MI, source_type="AWS::SSM::ManagedInstance")
    assert plan(stale(), nodes=(by_activation,)).changes == plan(stale(), nodes=(node(MI),)).changes
    elsewhere = by_activation.model_copy(update={"ip_address": "192.168.50.20"})
    (barred,) = plan(stale(), nodes=(elsewhere,)).barred
    assert barred.code == "HYBRID_IN_USE" and "AWS::SSM::ManagedInstance" in barred.message


def test_online_from_a_clone_of_the_same_image_is_no_original() -> None:
    clone = DiscoverFacts(private_ip="10.0.0.9", image_id="ami-1")
    nodes = (node(MI, ip="10.0.0.9", name="lifted"),)
    planned = plan(stale(), nodes=nodes, image_id="ami-1", clones={"i-0c": clone})
    assert planned.barred == ()


def test_a_host_that_nobody_looked_into_and_is_online_is_well() -> None:
    closed = Unknown(unknown="SSH_TIMEOUT: nobody answers")
    planned = plan(closed, nodes=(node(IID),), suspect=closed)
    assert planned.changes == () == planned.barred


def test_what_is_installed_decides_the_id() -> None:
    (pinned,) = plan(agent(**BARE)).changes
    other = PACKAGE.model_copy(update={"sha256": "b" * 64})
    (another,) = plan(agent(**BARE), package=other).changes
    assert pinned.id != another.id


def test_whose_registration_it_is_decides_the_id() -> None:
    ours, foreign = (plan(stale(), nodes=nodes).changes[0] for nodes in ((node(MI),), ()))
    assert ours.before == foreign.before
    assert ours.id != foreign.id


SAVED_AT = NOW.replace(tzinfo=None) - timedelta(hours=2)  # an hour before the log's lines
LEFT = f.Unfinished(change_id="0123456789ab", foreign=False, saved_at=SAVED_AT)


@pytest.mark.parametrize(
    ("seen", "ends"),
    [
        (agent(**DOWN, unfinished=(LEFT,), log=log(*AS_EC2)), True),
        (agent(unfinished=(LEFT,), log=log(*AS_EC2, NO_ROLE)), True),
        (agent(**DOWN, unfinished=(LEFT,), log=log(*AS_ONPREM, CHANNEL)), True),
        (agent(unfinished=(LEFT,), log=log(*AS_EC2, CHANNEL, NO_ROLE)), False),
        (agent(**DOWN, unfinished=(LEFT.model_copy(update={"saved_at": datetime(2026, 11, 1)}),)), False),
    ],
)
def test_a_killed_repair_is_ended_by_the_next_restart(seen: f.Agent, ends: bool) -> None:
    (restart,) = plan(seen).changes
    assert restart.kind == "agent.restart"
    assert ("put back" in restart.summary) is ends
    assert restart.after.get("unfinished") == (LEFT.change_id if ends else None)


def test_a_killed_repair_is_ended_of_an_agent_too_old_for_tokens_too() -> None:
    """It may be what took its identity: that is put back first."""
    (restart,) = plan(_refused("2.3.50.0", unfinished=(LEFT,)), imds_tokens="required").changes
    assert (restart.kind, restart.after["unfinished"]) == ("agent.restart", LEFT.change_id)


@pytest.mark.parametrize(("foreign", "fate"), [(False, "put back"), (True, "stays off")])
def test_what_ends_a_killed_repair_leads_back_to_before_it(foreign: bool, fate: str) -> None:
    """The killed one's own change is not in effect, so there is nothing else to take back."""
    left = LEFT.model_copy(update={"registration": MI, "foreign": foreign})
    (restart,) = plan(agent(**DOWN, unfinished=(left,), log=log(*AS_EC2))).changes
    assert (restart.after["registration"], restart.after["unproven"]) == (MI, fate)
    assert restart.undo is not None and restart.undo.kind == "agent.restore"
    assert restart.undo.after == {
        "identity": "OnPrem",
        "instance_id": MI,
        "vault": MI,
        "saved": f"/var/lib/haltuun/saved/{LEFT.change_id}",
    }


def test_a_profile_that_verify_plans_lifts_the_dhmc_guard() -> None:
    prepared = verify_change("ec2.instance.profile")
    planned = plan(stale(), profile_arn=None, dhmc="role", prepared=(prepared,))
    assert planned.barred == ()
    assert all(prepared.id in change.depends_on for change in planned.changes)


def test_the_ladder() -> None:
    clear, aside = plan(stale()).changes
    assert aside.only_if_failed == clear.id
    assert clear.only_if_failed is None
    assert clear.undo is not None
    assert clear.undo.after == {**clear.before, "saved": f"/var/lib/haltuun/saved/{clear.id}"}


@pytest.mark.parametrize(
    ("vault", "nodes", "foreign"),
    [
        (STALE_VAULT, (node(MI),), False),
        (STALE_VAULT, (), True),
        (STALE_VAULT.model_copy(update={"region": "us-east-1"}), (node(MI),), True),
    ],
)
def test_whose_registration_stays_off_is_said_beforehand(vault: f.Vault, nodes: Any, foreign: bool) -> None:
    clear = plan(stale(vault=vault), nodes=nodes).changes[0]
    assert ("stays off" in clear.summary) is foreign
    assert ("put back" in clear.summary) is not foreign
    assert clear.after["unproven"] == ("stays off" if foreign else "put back")


def test_whose_registration_it_is_may_be_unknown() -> None:
    denied = Unknown(unknown="ACCESS_DENIED")
    assert vault_foreign(HOST, f.RepairAccount(nodes={REGION: denied}), STALE_VAULT) == denied


def test_a_token_of_the_agent_goes_with_the_registration() -> None:
    clear, _ = plan(stale(credentials=TOKEN)).changes
    assert clear.after["token"] == "goes with it"
    assert clear.id != plan(stale()).changes[0].id
    assert "/root/.aws/credentials" in clear.summary


def test_the_orphan_is_not_taken_for_an_agent() -> None:
    (restart,) = plan(agent(processes=(WORKER,))).changes
    assert restart.before["running"] is False
    (late,) = plan(agent(processes=(CORE, WORKER.model_copy(update={"started": 10})))).changes
    assert late.before["connected"] is False
