"""patch over an emulated account: what it makes, that a second run makes nothing, what holds a host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from haltuun.model import StageName, Unknown, Verdict
from haltuun.stages.associations import send_once
from haltuun.stages.patch import STAGE
from haltuun.stages.patch.kinds import PARAMETERS, TASK, WINDOW
from haltuun.stages.patch.plan import SCAN_VALUE
from haltuun.stages.polling import poll
from lab.cloud.state import ssm_state
from tests.stages.account_kit import ACCOUNT, REGION, World, ubuntu, world
from tests.stages.account_state import differences

pytestmark = pytest.mark.slow


@pytest.fixture
def account(tmp_path: Any, monkeypatch: Any) -> Iterator[World]:
    with world(
        tmp_path, monkeypatch, ubuntu(), ubuntu(os_id="debian", os_version="12", imds_tags=True)
    ) as made:
        yield made


def statuses(takeover: Any) -> dict[str, tuple[str, str]]:
    found = takeover.progress[StageName.patch].statuses
    return {i: (status.verdict.value, status.reason) for i, status in found.items()}


def test_a_host_is_tagged_scanned_and_passes(account: World) -> None:
    first, second = account.facts
    takeover = account.take(STAGE)
    assert statuses(takeover) == {first: ("passed", ""), second: ("passed", "")}
    assert account.tags(first) == {"Patch Group": "haltuun-ubuntu", "haltuun:scan": "daily"}
    assert account.tags(second) == {"PatchGroup": "haltuun-debian", "haltuun:scan": "daily"}
    facts = takeover.run.facts[StageName.patch][first]
    assert (facts.scanned, facts.missing, facts.security_missing) == (True, 2, 1)  # type: ignore[attr-defined]
    assert {f.code for f in takeover.progress[StageName.patch].findings} >= {"PATCHES_MISSING"}


def test_a_second_run_plans_and_mutates_nothing(account: World) -> None:
    account.take(STAGE)
    again = account.take(STAGE)
    assert again.plan is not None
    assert again.plan.changes == ()
    assert [call for call in again.run.aws.calls if call.mutating] == []


def test_the_window_installs_on_armed_hosts_without_rebooting(account: World) -> None:
    account.take(STAGE)
    ssm = account.client("ssm")
    window = next(w for w in ssm.describe_maintenance_windows()["WindowIdentities"] if w["Name"] == WINDOW)
    target = ssm.describe_maintenance_window_targets(WindowId=window["WindowId"])["Targets"][0]
    assert target["Targets"] == [{"Key": "tag:haltuun:armed", "Values": ["yes"]}]
    task = ssm.describe_maintenance_window_tasks(WindowId=window["WindowId"])["Tasks"][0]
    assert (task["Name"], task["TaskArn"]) == (TASK, "AWS-RunPatchBaseline")
    assert PARAMETERS["RebootOption"] == ["NoReboot"]


def test_the_baseline_of_apt_systems_names_no_delay(account: World) -> None:
    account.take(STAGE)
    ssm = account.client("ssm")
    filters = [{"Key": "NAME_PREFIX", "Values": ["haltuun-"]}]
    found = ssm.describe_patch_baselines(Filters=filters)["BaselineIdentities"]
    assert {b["OperatingSystem"] for b in found} == {"UBUNTU", "DEBIAN"}
    for baseline in found:
        rules = ssm.get_patch_baseline(BaselineId=baseline["BaselineId"])["ApprovalRules"]["PatchRules"]
        assert all("ApproveAfterDays" not in rule for rule in rules)
        group = ssm.get_patch_baseline_for_patch_group(
            PatchGroup=baseline["BaselineName"], OperatingSystem=baseline["OperatingSystem"]
        )
        assert group["BaselineId"] == baseline["BaselineId"]


def test_a_predecessors_patch_group_stays(account: World) -> None:
    first = next(iter(account.facts))
    account.client("ec2").create_tags(Resources=[first], Tags=[{"Key": "Patch Group", "Value": "prod"}])
    takeover = account.take(STAGE)
    assert account.tags(first)["Patch Group"] == "prod"
    assert statuses(takeover)[first] == ("passed", "")
    findings = [f for f in takeover.progress[StageName.patch].findings if f.host == first]
    assert "PATCH_GROUP_FOREIGN" in {f.code for f in findings}


def test_a_baseline_of_our_name_that_is_not_ours_is_not_touched(account: World) -> None:
    ssm = account.client("ssm")
    ssm.create_patch_baseline(Name="haltuun-ubuntu", OperatingSystem="UBUNTU", Description="mine")
    first, second = account.facts
    takeover = account.start(STAGE)
    assert takeover.plan is not None
    barred = takeover.plan.barred["patch"]
    assert [(b.host, b.code) for b in barred] == [(first, "NAME_TAKEN")]
    assert not [c for c in takeover.plan.changes if c.target == "haltuun-ubuntu"]
    assert second in takeover.progress[StageName.patch].expected


def test_another_scan_association_is_a_finding(account: World) -> None:
    account.client("ssm").create_association(
        Name="AWS-RunPatchBaseline",
        AssociationName="their-scan",
        Targets=[{"Key": "tag:Team", "Values": ["web"]}],
        Parameters={"Operation": ["Scan"]},
    )
    takeover = account.start(STAGE, mode="plan")
    assert "COMPETING_SCAN" in {f.code for f in takeover.progress[StageName.patch].findings}


def test_a_system_without_updates_is_held_whatever_the_scan_says(tmp_path: Any, monkeypatch: Any) -> None:
    old = ubuntu(os_version="14.04", eol=True, eol_since="2019-04-30")
    with world(tmp_path, monkeypatch, old) as account:
        takeover = account.take(STAGE)
        (instance_id,) = account.facts
        assert statuses(takeover) == {instance_id: ("held", "EOL")}
        assert takeover.run.facts[StageName.patch][instance_id].scanned is True  # type: ignore[attr-defined]


def test_a_system_of_unknown_term_is_not_told_to_move(tmp_path: Any, monkeypatch: Any) -> None:
    new = ubuntu(os_version="31.04", eol=Unknown(unknown="eol.yaml has no entry for ubuntu 31.04"))
    with world(tmp_path, monkeypatch, new) as account:
        takeover = account.take(STAGE)
        (instance_id,) = account.facts
        assert statuses(takeover) == {instance_id: ("unknown", "EOL_UNKNOWN")}


def test_a_scan_that_ends_badly_is_not_waited_for(tmp_path: Any, monkeypatch: Any) -> None:
    with world(tmp_path, monkeypatch, ubuntu(python3=None)) as account:
        (instance_id,) = account.facts
        account.nodes[instance_id].ends["AWS-RunPatchBaseline"] = "Failed"
        takeover = account.take(STAGE)
        assert statuses(takeover) == {instance_id: ("held", "PATCH_PREREQ")}
        facts = takeover.run.facts[StageName.patch][instance_id]
        assert facts.scan_note == "Failed"  # type: ignore[attr-defined]


def test_a_fresh_scan_outweighs_what_the_host_seems_to_lack(tmp_path: Any, monkeypatch: Any) -> None:
    with world(tmp_path, monkeypatch, ubuntu(python3=None)) as account:
        takeover = account.take(STAGE)
        assert [v for v, _ in statuses(takeover).values()] == [Verdict.passed]


def test_a_reboot_that_a_person_set_is_seen_and_named(account: World) -> None:
    account.take(STAGE)
    windows = ssm_state(ACCOUNT, REGION).backend.windows.values()
    (task,) = next(w for w in windows if w.name == WINDOW).tasks.values()
    theirs = {"Operation": ["Install"], "RebootOption": ["RebootIfNeeded"]}
    task.task_invocation_parameters = {"RunCommand": {"Parameters": theirs}}
    takeover = account.start(STAGE)
    assert takeover.plan is not None
    (change,) = takeover.plan.changes
    assert "RebootIfNeeded" in change.summary
    assert change.before["parameters"] == theirs
    account.go(takeover)
    account.undo(takeover, STAGE)
    assert task.task_invocation_parameters == {"RunCommand": {"Parameters": theirs}}


def test_what_a_person_said_of_another_document_is_not_said_of_ours(account: World) -> None:
    account.take(STAGE)
    windows = ssm_state(ACCOUNT, REGION).backend.windows.values()
    (task,) = next(w for w in windows if w.name == WINDOW).tasks.values()
    command = {"Parameters": PARAMETERS, "DocumentVersion": "7", "Comment": "theirs", "TimeoutSeconds": 900}
    task.task_arn, task.task_invocation_parameters = "their-document", {"RunCommand": command}
    account.take(STAGE)
    kept = {"Parameters": PARAMETERS, "Comment": "theirs", "TimeoutSeconds": 900}
    assert (task.task_arn, task.task_invocation_parameters["RunCommand"]) == ("AWS-RunPatchBaseline", kept)


def test_a_target_that_a_person_set_otherwise_stays_the_one_that_the_task_names(account: World) -> None:
    account.take(STAGE)
    windows = ssm_state(ACCOUNT, REGION).backend.windows.values()
    window = next(w for w in windows if w.name == WINDOW)
    (target,), (task,) = window.targets.values(), window.tasks.values()
    ours, theirs = target.targets, [{"Key": "tag:haltuun:armed", "Values": ["no"]}]
    target.targets = theirs
    takeover = account.start(STAGE)
    account.go(takeover)
    assert target.targets == ours
    assert list(window.targets.values()) == [target]
    assert task.targets == [{"Key": "WindowTargetIds", "Values": [target.window_target_id]}]
    account.undo(takeover, STAGE)
    assert target.targets == theirs


def test_rules_that_a_person_set_in_our_baseline_stay(account: World) -> None:
    account.take(STAGE)
    ssm = account.client("ssm")
    found = ssm.describe_patch_baselines(Filters=[{"Key": "NAME_PREFIX", "Values": ["haltuun-ubuntu"]}])
    baseline = found["BaselineIdentities"][0]["BaselineId"]
    rule = {"PatchFilterGroup": {"PatchFilters": [{"Key": "PRIORITY", "Values": ["Required"]}]}}
    ssm.update_patch_baseline(BaselineId=baseline, ApprovalRules={"PatchRules": [rule]})
    takeover = account.start(STAGE, mode="plan")
    assert takeover.plan is not None and takeover.plan.changes == ()
    changed = [f for f in takeover.progress[StageName.patch].findings if f.code == "BASELINE_CHANGED"]
    assert [f.evidence for f in changed] == [(baseline,)]


def test_a_scan_by_hand_runs_on_no_neighbour(account: World) -> None:
    account.take(STAGE)
    first, second = account.facts
    before = {i: len(node.ran) for i, node in account.nodes.items()}
    takeover = account.start(STAGE)
    sent = send_once(takeover.run, REGION, "haltuun-scan", SCAN_VALUE, [first])
    assert poll(lambda: sent.look(takeover.run), bool, 20) == {first: ""}
    takeover.end("Done")
    assert {i: len(node.ran) - before[i] for i, node in account.nodes.items()} == {first: 1, second: 0}


def test_plan_mode_makes_no_mutating_call(account: World) -> None:
    takeover = account.start(STAGE, mode="plan")
    assert [call for call in takeover.run.aws.calls if call.mutating] == []
    assert takeover.plan is not None
    kinds = [change.kind for change in takeover.plan.changes]
    assert kinds.count("ssm.patch_baseline") == kinds.count("ssm.patch_group") == 2
    assert all(change.undo for change in takeover.plan.changes)
    assert {change.region for change in takeover.plan.changes} == {REGION}


def test_every_change_can_be_undone(account: World) -> None:
    before = account.state()
    takeover = account.start(STAGE)
    account.go(takeover)
    assert differences(before, account.state())
    assert account.undo(takeover, STAGE).outcome() == "Undone"
    assert differences(before, account.state()) == []


def test_what_a_person_has_changed_since_is_left_and_the_rest_goes_back(account: World) -> None:
    first, second = account.facts
    takeover = account.take(STAGE)
    account.client("ec2").create_tags(Resources=[first], Tags=[{"Key": "Patch Group", "Value": "prod"}])
    undoing = account.undo(takeover, STAGE)
    assert undoing.outcome() == "PartlyUndone"
    assert account.tags(first) == {"Patch Group": "prod"}
    assert account.tags(second) == {}
    stale = [step.change.summary for step in undoing.steps if step.status == "stale"]
    assert len(stale) == 1 and first in stale[0] and "Patch Group" in stale[0]
    groups = {s.change.target: s.status for s in undoing.steps if s.change.kind == "ssm.patch_group"}
    assert groups == {"haltuun-ubuntu": "waits", "haltuun-debian": "done"}
