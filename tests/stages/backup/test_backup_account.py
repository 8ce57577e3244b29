"""backup over an emulated account: what it makes, that a second run makes nothing, what holds a host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from typing import Any

import botocore.session
import pytest

from haltuun.errors import HaltuunError
from haltuun.model import Reach, Severity, StageName
from haltuun.stages.backup import STAGE, jobs
from haltuun.stages.backup.names import PLAN, ROLE, SELECTION, VAULT
from haltuun.stages.discover.facts import Listener
from lab.cloud.extensions import backup_state as lab_backup
from lab.cloud.extensions.backup_state import backup_state
from tests.stages.account_kit import ACCOUNT, LABEL, REGION, World, take_back, ubuntu, world
from tests.stages.account_state import differences
from tests.stages.test_kill_walk import killed_in

pytestmark = pytest.mark.slow

# The package exports the function of that name; its deadline is the module's.
PROVE = import_module("haltuun.stages.backup.prove")


@pytest.fixture
def account(tmp_path: Any, monkeypatch: Any) -> Iterator[World]:
    with world(tmp_path, monkeypatch, ubuntu(), ubuntu(), managed_policies=True) as made:
        yield made


def statuses(takeover: Any) -> dict[str, tuple[str, str]]:
    found = takeover.progress[StageName.backup].statuses
    return {i: (status.verdict.value, status.reason) for i, status in found.items()}


def test_every_host_has_a_recovery_point_and_is_armed(account: World) -> None:
    takeover = account.take(STAGE)
    assert set(statuses(takeover).values()) == {("passed", "")}
    for instance_id in account.facts:
        assert account.tags(instance_id) == {"haltuun:backup": "daily", "haltuun:armed": "yes"}
        proof = takeover.run.valid_proof(StageName.backup, "recovery_point", instance_id)
        assert proof is not None
    points = account.client("backup").list_recovery_points_by_backup_vault(BackupVaultName=VAULT)
    assert len(points["RecoveryPoints"]) == 2


def test_a_second_run_plans_and_mutates_nothing(account: World) -> None:
    account.take(STAGE)
    again = account.take(STAGE)
    assert again.plan is not None
    assert again.plan.changes == ()
    assert [call for call in again.run.aws.calls if call.mutating] == []
    assert set(statuses(again).values()) == {("passed", "")}


def test_the_selection_names_types_and_demands_the_tag(account: World) -> None:
    account.take(STAGE)
    backup = account.client("backup")
    plan = next(p for p in backup.list_backup_plans()["BackupPlansList"] if p["BackupPlanName"] == PLAN)
    listed = backup.list_backup_selections(BackupPlanId=plan["BackupPlanId"])["BackupSelectionsList"]
    assert [s["SelectionName"] for s in listed] == [SELECTION]
    body = backup.get_backup_selection(
        BackupPlanId=plan["BackupPlanId"], SelectionId=listed[0]["SelectionId"]
    )
    selection = body["BackupSelection"]
    assert selection["Resources"] == ["arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*:*:volume/*"]
    assert selection["Conditions"]["StringEquals"] == [
        {"ConditionKey": "aws:ResourceTag/haltuun:backup", "ConditionValue": "daily"}
    ]
    assert not selection.get("ListOfTags")


def test_the_first_backup_cannot_be_undone_and_waits_for_approval(account: World) -> None:
    takeover = account.start(STAGE, mode="plan")
    assert takeover.plan is not None
    jobs = [c for c in takeover.plan.changes if c.kind == "backup.job"]
    assert {c.reach for c in jobs} == {Reach.irreversible}
    assert all(c.no_undo and c.undo is None for c in jobs)
    assert {c.id for c in jobs} <= {c.id for c in takeover.awaiting()}
    arms = [c for c in takeover.plan.changes if c.kind == "backup.arm"]
    assert {c.depends_on for c in arms} == {(c.id,) for c in jobs}
    assert {c.reach for c in arms} == {Reach.irreversible}, "what the window installs does not come off again"
    assert all("installs its missing security updates" in c.summary for c in arms)
    assert [call for call in takeover.run.aws.calls if call.mutating] == []


def test_a_running_job_is_joined_and_not_started_twice(account: World) -> None:
    takeover = account.start(STAGE)
    account.go(takeover)
    takeover.end("killed")
    state = backup_state(ACCOUNT, REGION)
    state.points.clear()
    for job in state.jobs.values():  # as if the first run had been killed while they run
        job.state, job.completed, job.started_s = "RUNNING", None, job.started_s + 3600
    again = account.start(STAGE)
    assert again.plan is not None
    assert again.plan.changes == ()
    again.end("Done")


def test_a_failed_job_holds_the_host_with_its_reason_and_arms_nothing(account: World) -> None:
    account.client("iam").create_role(
        RoleName=ROLE,
        AssumeRolePolicyDocument=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Principal": {"Service": "backup.amazonaws.com"},
                        "Action": "sts:AssumeRole",
                    }
                ],
            }
        ),
        Tags=[{"Key": "haltuun:managed", "Value": "true"}],
        PermissionsBoundary="arn:aws:iam::aws:policy/ReadOnlyAccess",
    )
    takeover = account.take(STAGE)
    assert set(statuses(takeover).values()) == {("held", "NO_RECOVERY_POINT")}
    status = next(iter(takeover.progress[StageName.backup].statuses.values()))
    assert "FAILED" in status.message
    assert all("haltuun:armed" not in account.tags(i) for i in account.facts)
    after = account.start(STAGE)
    assert "BACKUP_FAILED" in {f.code for f in after.progress[StageName.backup].findings}
    after.end("Done")


@pytest.fixture
def slow_jobs(monkeypatch: Any) -> Any:
    """Jobs that do not end before they are told to; a turn and the proof wait a second for them."""
    monkeypatch.setattr(lab_backup, "COMPLETED_AFTER_S", 1e9)
    monkeypatch.setattr(jobs, "ARM_WAIT_S", 1.0)
    monkeypatch.setattr(PROVE, "JOB_WAIT_S", 1.0)
    return lambda: monkeypatch.setattr(lab_backup, "COMPLETED_AFTER_S", 0.0)


def test_jobs_that_take_hours_are_all_started_and_waited_for_once(account: World, slow_jobs: Any) -> None:
    takeover = account.take(STAGE)
    calls = [call.operation for call in takeover.run.aws.calls]
    first, second = (i for i, name in enumerate(calls) if name == "StartBackupJob")
    # In the first host's turn the job is looked at again and again; in the second's what is known will do.
    assert calls[first:second].count("ListBackupJobs") > 3
    turn = calls[second : calls.index("ListBackupVaults", second)]
    assert turn.count("ListBackupJobs") <= 1
    assert set(statuses(takeover).values()) == {("held", "NO_RECOVERY_POINT")}
    status = next(iter(takeover.progress[StageName.backup].statuses.values()))
    assert "RUNNING" in status.message and "no second one is started" in status.remedy
    assert {f.code for f in takeover.progress[StageName.backup].findings} == set()


def test_what_completes_later_is_named_and_armed_by_the_approval_given_once(
    account: World, slow_jobs: Any
) -> None:
    shown = account.start(STAGE, mode="plan")
    shown.end("Planned")
    takeover = account.start(STAGE)
    account.go(takeover, shown.plan_hash)
    takeover.end(takeover.outcome())
    slow_jobs()
    nobody = account.start(STAGE)
    assert nobody.plan is not None
    assert {c.kind for c in nobody.plan.changes} == {"backup.arm"}
    # A run in which nobody approves anything.
    account.pass_through(nobody)
    assert set(statuses(nobody).values()) == {("passed", "")}
    found = [f for f in nobody.progress[StageName.backup].findings if f.code == "NOT_ARMED"]
    assert {f.host for f in found} == set(account.facts)
    assert all(f.severity is Severity.medium and f"takeover {LABEL} --plan" in f.remedy for f in found)
    nobody.end("AwaitingApproval")
    again = account.start(STAGE)
    account.go(again, shown.plan_hash)
    again.end(again.outcome())
    assert all(account.tags(i)["haltuun:armed"] == "yes" for i in account.facts)
    assert arming(again)[1] == []


def test_an_old_recovery_point_is_followed_by_a_new_job(account: World) -> None:
    account.take(STAGE)
    state = backup_state(ACCOUNT, REGION)
    for point in state.points.values():
        point.created -= timedelta(hours=31)
    for job in state.jobs.values():
        job.created -= timedelta(hours=31)
    takeover = account.start(STAGE)
    assert takeover.plan is not None
    assert {c.kind for c in takeover.plan.changes} == {"backup.job"}
    takeover.end("Done")


def test_a_vault_of_many_nights_is_not_paged_at_every_look(account: World, monkeypatch: Any) -> None:
    account.take(STAGE)
    state = backup_state(ACCOUNT, REGION)
    nights = [
        replace(point, arn=f"{point.arn}-{night}", created=point.created - timedelta(days=night))
        for point in state.points.values()
        for night in range(1, 600)
    ]
    monkeypatch.setattr(state, "points", state.points | {point.arn: point for point in nights})
    takeover = account.start(STAGE)
    account.go(takeover)
    takeover.end(takeover.outcome())
    calls = [call.operation for call in takeover.run.aws.calls]
    # Two looks at all of the vault, of two pages each, and one at the last hours.
    assert calls.count("ListRecoveryPointsByBackupVault") == 2 + 2 + 1
    assert set(statuses(takeover).values()) == {("passed", "")}


def test_what_is_only_old_is_told_as_old_and_not_as_none(account: World, slow_jobs: Any) -> None:
    slow_jobs()
    account.take(STAGE)
    for point in backup_state(ACCOUNT, REGION).points.values():
        point.created -= timedelta(hours=40)
    takeover = account.start(STAGE)
    account.pass_through(takeover)  # nobody approves another job
    takeover.end(takeover.outcome())
    rows = takeover.run.facts[StageName.backup].values()
    assert {(row.recovery_point, int(row.recovery_point_age_h)) for row in rows} == {(True, 40)}  # type: ignore[attr-defined]


def test_members_of_scaling_groups_and_suspects_are_left_alone(tmp_path: Any, monkeypatch: Any) -> None:
    odd = (ubuntu(asg="asg-web"), ubuntu(suspect=("runs from /tmp",)), ubuntu(exclude="theirs"))
    with world(tmp_path, monkeypatch, *odd) as account:
        takeover = account.take(STAGE)
        assert takeover.plan is not None
        assert takeover.plan.changes == ()
        assert set(statuses(takeover).values()) == {("excluded", "NOT_BACKED_UP")}


def test_what_a_predecessor_left_is_named_and_stays(account: World) -> None:
    backup = account.client("backup")
    backup.create_backup_vault(BackupVaultName="old")
    body = {"BackupPlanName": PLAN, "Rules": [{"RuleName": "weekly", "TargetBackupVaultName": "old"}]}
    backup.create_backup_plan(BackupPlan=body)
    first = next(iter(account.facts))
    ec2 = account.client("ec2")
    instance = ec2.describe_instances(InstanceIds=[first])["Reservations"][0]["Instances"][0]
    volume = instance["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    ec2.create_snapshot(VolumeId=volume, Description="by hand")
    account.facts[first] = ubuntu(volume_ids=(volume,))
    takeover = account.start(STAGE, mode="plan")
    assert takeover.plan is not None
    assert {b.code for b in takeover.plan.barred["backup"]} == {"NAME_TAKEN"}
    assert not [c for c in takeover.plan.changes if c.kind in ("backup.plan", "backup.selection")]
    found = [f for f in takeover.progress[StageName.backup].findings if f.code == "ALREADY_PROTECTED"]
    assert [f.host for f in found] == [first]
    assert volume in found[0].evidence[0]


def test_a_database_is_said_to_be_crash_consistent(tmp_path: Any, monkeypatch: Any) -> None:
    mysql = Listener(port=3306, protocol="tcp", address="0.0.0.0", process="mysqld")
    with world(tmp_path, monkeypatch, ubuntu(listeners=(mysql,))) as account:
        takeover = account.start(STAGE, mode="plan")
        codes = {f.code for f in takeover.progress[StageName.backup].findings}
        assert "CRASH_CONSISTENT" in codes


def test_retention_follows_the_configuration(account: World) -> None:
    account.take(STAGE)
    account.policy = account.policy.model_copy(update={"backup_retention_days": 90})
    takeover = account.start(STAGE)
    assert takeover.plan is not None
    (change,) = takeover.plan.changes
    assert (change.kind, change.after["delete_after_days"]) == ("backup.plan", 90)
    assert change.undo is not None and change.undo.after["delete_after_days"] == 35
    account.go(takeover)
    takeover.end("Done")
    again = account.start(STAGE, mode="plan")
    assert again.plan is not None and again.plan.changes == ()


def arming(takeover: Any) -> tuple[list[str], list[str | None]]:
    """Hosts that are to be armed, and those that are said not to be."""
    planned = [c.target for c in takeover.plan.changes if c.kind == "backup.arm"]
    found = takeover.progress[StageName.backup].findings
    return planned, [f.host for f in found if f.code == "NOT_ARMED"]


def test_who_was_disarmed_by_a_person_stays_so(account: World) -> None:
    first, second = account.facts
    ec2 = account.client("ec2")
    ec2.create_tags(Resources=[first], Tags=[{"Key": "haltuun:armed", "Value": "no"}])
    takeover = account.start(STAGE, mode="plan")
    assert arming(takeover) == ([second], [first])
    account.take(STAGE)
    assert account.tags(first)["haltuun:armed"] == "no"
    ec2.delete_tags(Resources=[second], Tags=[{"Key": "haltuun:armed"}])
    again = account.take(STAGE)
    assert arming(again) == ([], [first, second])
    assert "haltuun:armed" not in account.tags(second)


def test_what_a_person_added_to_the_plan_is_kept(account: World) -> None:
    account.take(STAGE)
    backup = account.client("backup")
    plan_id = next(p for p in backup.list_backup_plans()["BackupPlansList"] if p["BackupPlanName"] == PLAN)[
        "BackupPlanId"
    ]

    def rules() -> dict[str, dict[str, Any]]:
        found = backup.get_backup_plan(BackupPlanId=plan_id)["BackupPlan"]["Rules"]
        return {rule.pop("RuleName"): rule for rule in found}

    ours = {k: v for k, v in rules()["daily"].items() if k != "RuleId"}
    yearly = {"RuleName": "yearly", "TargetBackupVaultName": VAULT, "Lifecycle": {"DeleteAfterDays": 3650}}
    daily = {"RuleName": "daily", **ours, "StartWindowMinutes": 120}
    body = {"BackupPlanName": PLAN, "Rules": [yearly, daily]}
    backup.update_backup_plan(BackupPlanId=plan_id, BackupPlan=body)
    account.policy = account.policy.model_copy(update={"backup_retention_days": 90})
    takeover = account.start(STAGE)
    account.go(takeover)
    assert rules()["yearly"]["Lifecycle"] == {"DeleteAfterDays": 3650}
    assert rules()["daily"]["Lifecycle"] == {"DeleteAfterDays": 90}
    assert rules()["daily"]["StartWindowMinutes"] == 120
    account.undo(takeover, STAGE)
    assert rules()["daily"]["Lifecycle"] == {"DeleteAfterDays": 35}
    assert set(rules()) == {"daily", "yearly"}


def test_a_selection_that_was_set_otherwise_comes_back_though_the_run_was_killed_between(
    account: World,
) -> None:
    """There is no call that changes one: it is taken away and made."""
    account.take(STAGE)
    backup = account.client("backup")
    (listed,) = backup.list_backup_plans()["BackupPlansList"]
    in_plan = {"BackupPlanId": listed["BackupPlanId"]}

    def selections() -> list[dict[str, Any]]:
        rows = backup.list_backup_selections(**in_plan)["BackupSelectionsList"]
        ids = [row["SelectionId"] for row in rows]
        return [backup.get_backup_selection(**in_plan, SelectionId=i)["BackupSelection"] for i in ids]

    (ours,) = selections()
    (row,) = backup.list_backup_selections(**in_plan)["BackupSelectionsList"]
    backup.delete_backup_selection(**in_plan, SelectionId=row["SelectionId"])
    production = {"ConditionType": "STRINGEQUALS", "ConditionKey": "env", "ConditionValue": "prod"}
    narrower = {
        "Resources": ours["Resources"][:1],
        "ListOfTags": [production],
        "NotResources": [f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-0123456789abcdef0"],
        "Conditions": {
            **ours["Conditions"],
            "StringLike": [{"ConditionKey": "aws:ResourceTag/team", "ConditionValue": "web*"}],
        },
    }
    backup.create_backup_selection(**in_plan, BackupSelection={**ours, **narrower})
    (theirs,) = selections()
    before = len(account.ledger.runs(ACCOUNT))
    killed = [killed_in(account.start(STAGE), account.go, "after") for _ in range(2)]
    assert killed == ["backup:DeleteBackupSelection", "backup:CreateBackupSelection"]
    assert selections() == [ours]
    for made in reversed(account.ledger.runs(ACCOUNT)[before:]):
        take_back(account.config(), account.ledger, made.run, [STAGE])
    assert selections() == [theirs]


def test_a_plan_with_rules_of_others_is_not_deleted(account: World) -> None:
    takeover = account.start(STAGE)
    account.go(takeover)
    backup = account.client("backup")
    (listed,) = backup.list_backup_plans()["BackupPlansList"]
    yearly = {"RuleName": "yearly", "TargetBackupVaultName": VAULT}
    daily = backup.get_backup_plan(BackupPlanId=listed["BackupPlanId"])["BackupPlan"]["Rules"][0]
    daily.pop("RuleId", None)
    backup.update_backup_plan(
        BackupPlanId=listed["BackupPlanId"], BackupPlan={"BackupPlanName": PLAN, "Rules": [daily, yearly]}
    )
    assert takeover.plan is not None
    made = next(c for c in takeover.plan.changes if c.kind == "backup.plan")
    back = made.model_copy(update={"before": made.after, "after": None})
    with pytest.raises(HaltuunError, match="yearly"):
        STAGE.kinds["backup.plan"].apply(takeover.run, back)
    takeover.end("Done")
    assert backup.list_backup_plans()["BackupPlansList"]


def test_a_rule_goes_back_to_aws_as_it_takes_it() -> None:
    service = botocore.session.get_session().get_service_model("backup")
    given, taken = (service.shape_for(name).members for name in ("BackupRule", "BackupRuleInput"))
    assert set(given) - set(taken) == {"RuleId"}


def test_all_but_the_recovery_points_and_their_vault_can_be_undone(account: World) -> None:
    before = account.state()
    takeover = account.start(STAGE)
    account.go(takeover)
    undoing = account.undo(takeover, STAGE)
    assert undoing.outcome() == "Undone"
    left = differences(before, account.state())
    assert [name for name in left if not name.startswith("backup:points/")] == [f"backup:vaults/{VAULT}"]
    assert len(left) == 1 + len(account.facts)
    why = {step.change.kind: step.message for step in undoing.steps if step.status == "kept"}
    assert why["backup.vault"] == f"It holds {len(account.facts)} recovery point(s)."
    assert "delete it by hand" in why["backup.job"]


def test_an_empty_vault_goes_too(account: World) -> None:
    before = account.state()
    takeover = account.start(STAGE)
    account.go(takeover)
    backup_state(ACCOUNT, REGION).points.clear()
    account.undo(takeover, STAGE)
    assert differences(before, account.state()) == []
