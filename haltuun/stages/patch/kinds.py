"""Baselines, patch groups and the maintenance window: found by name, made, removed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from haltuun.errors import AwsError
from haltuun.model import Change, Json, Unknown, canonical
from haltuun.run import Run
from haltuun.stages.associations import ASSOCIATION
from haltuun.stages.base import Kind
from haltuun.stages.own import (
    ABSENT,
    MADE_BY,
    Own,
    as_value,
    first_own,
    get_own,
    get_ssm_tags,
    is_ours,
    surely,
)
from haltuun.stages.pages import text
from haltuun.stages.patch.families import FAMILIES, Family, approval_rules
from haltuun.stages.tags import ARMED, TAG, managed_tags

WINDOW = "haltuun-patch"
TARGET = "haltuun-armed"
TASK = "haltuun-install"
DOCUMENT = "AWS-RunPatchBaseline"
# Sunday night, after the night's backup: two hours to begin installing, one more to end.
WINDOW_VALUE: Json = {
    "schedule": "cron(0 3 ? * SUN *)",
    "timezone": "Etc/UTC",
    "duration_h": 3,
    "cutoff_h": 1,
}
TARGET_VALUE: Json = {"targets": [[f"tag:{ARMED}", ["yes"]]]}
# NoReboot: a server that nobody knows may not come up again by itself. What waits for a reboot is
# counted and shown (PENDING_REBOOT) until a person plans one.
PARAMETERS = {"Operation": ["Install"], "RebootOption": ["NoReboot"]}
TASK_VALUE: Json = {
    "document": DOCUMENT,
    "parameters": PARAMETERS,
    "max_concurrency": "10%",
    "max_errors": "1",
}


def family_named(name: str) -> Family:
    return FAMILIES[name.removeprefix("haltuun-")]


# -- baselines ---------------------------------------------------------------------------------


def rules_hash(rules: Json) -> str:
    """Of what a baseline approves, whatever its order and whether defaults are spelled out."""
    plain = [
        {
            "filters": {f["Key"]: sorted(f["Values"]) for f in rule["PatchFilterGroup"]["PatchFilters"]},
            "level": rule.get("ComplianceLevel") or "UNSPECIFIED",
            "after_days": rule.get("ApproveAfterDays"),
            "until": rule.get("ApproveUntilDate") or None,
            "non_security": bool(rule.get("EnableNonSecurity")),
        }
        for rule in (rules or {}).get("PatchRules") or ()
    ]
    return hashlib.sha256(canonical(sorted(plain, key=canonical)).encode()).hexdigest()[:12]


def baseline_value(family: Family) -> Json:
    return {"operating_system": family.operating_system, "rules": rules_hash(approval_rules(family))}


def get_baseline(run: Run, region: str, name: str) -> Own | Unknown:
    """Our baseline of that name, with the hash of its rules (None where they cannot be read)."""

    def question() -> Own | Unknown:
        filters = [{"Key": "NAME_PREFIX", "Values": [name]}, {"Key": "OWNER", "Values": ["Self"]}]
        found = run.aws.pages("ssm", "DescribePatchBaselines", "BaselineIdentities", region, Filters=filters)
        same = [baseline for baseline in found if baseline["BaselineName"] == name]
        return first_own([_baseline(run, region, baseline) for baseline in same])

    return get_own(run, question)


def _baseline(run: Run, region: str, baseline: Mapping[str, Any]) -> Own | Unknown:
    baseline_id = baseline["BaselineId"]
    tags = get_ssm_tags(run, region, "PatchBaseline", baseline_id)
    ours = is_ours(tags, baseline.get("BaselineDescription", ""))
    if isinstance(ours, Unknown):
        return ours
    if not ours:
        return Own(state="foreign", id=baseline_id)
    found = run.aws.ask(lambda: run.aws.call("ssm", "GetPatchBaseline", region, BaselineId=baseline_id))
    rules = None if isinstance(found, Unknown) else rules_hash(found.get("ApprovalRules"))
    value = {"operating_system": baseline["OperatingSystem"], "rules": rules}
    return Own(state="ours", id=baseline_id, value=value)


def apply_baseline(run: Run, change: Change) -> Json:
    if change.after is None:
        seen = surely(get_baseline(run, change.region, change.target), change.target)
        if seen.state == "ours":
            run.aws.call("ssm", "DeletePatchBaseline", change.region, BaselineId=seen.id)
        return None
    family = family_named(change.target)
    try:
        made = run.aws.call(
            "ssm",
            "CreatePatchBaseline",
            change.region,
            Name=change.target,
            OperatingSystem=family.operating_system,
            ApprovalRules=approval_rules(family),
            Description=f"{MADE_BY} Security updates of {family.operating_system}.",
            ClientToken=_token(run, change),
            Tags=managed_tags(),
        )
    except AwsError as error:
        # moto 5.2 makes the baseline and then refuses its tags; the description marks it as ours too.
        there = get_baseline(run, change.region, change.target)
        if error.code != "InvalidResourceId" or isinstance(there, Unknown) or there.state != "ours":
            raise
        return {"baseline_id": there.id, "tags": "refused"}
    return {"baseline_id": text(made, "BaselineId")}


def _token(run: Run, change: Change) -> str:
    # 1 to 64 characters; of this run, so that what was undone can be made again later.
    return f"{change.id}-{run.id}"[:64]


# -- patch groups ------------------------------------------------------------------------------


def get_patch_group(run: Run, region: str, name: str) -> Own | Unknown:
    """Is our baseline registered for the patch group of the same name?"""
    baseline = get_baseline(run, region, name)
    if isinstance(baseline, Unknown) or baseline.state != "ours":
        return baseline

    def question() -> Own:
        # Answers AWS's default baseline for a group that nobody registered.
        answer = run.aws.call(
            "ssm",
            "GetPatchBaselineForPatchGroup",
            region,
            PatchGroup=name,
            OperatingSystem=family_named(name).operating_system,
        )
        if answer.get("BaselineId") == baseline.id:
            return Own(state="ours", id=baseline.id, value={"baseline": name})
        return ABSENT

    return get_own(run, question)


def apply_patch_group(run: Run, change: Change) -> Json:
    seen = surely(get_baseline(run, change.region, change.target), change.target)
    if seen.state != "ours":
        raise AwsError(
            "the baseline is not there.", subject=change.target, remedy="Plan again.", code="PLAN_STALE"
        )
    register = "RegisterPatchBaselineForPatchGroup"
    operation = register if change.after else "DeregisterPatchBaselineForPatchGroup"
    run.aws.call("ssm", operation, change.region, BaselineId=seen.id, PatchGroup=change.target)
    return {"baseline_id": seen.id}


# -- the maintenance window, its target and its task ---------------------------------------------


def get_window(run: Run, region: str, name: str = WINDOW) -> Own | Unknown:
    def question() -> Own | Unknown:
        found = run.aws.pages(
            "ssm",
            "DescribeMaintenanceWindows",
            "WindowIdentities",
            region,
            Filters=[{"Key": "Name", "Values": [name]}],
        )
        return first_own([_window(run, region, window) for window in found if window.get("Name") == name])

    return get_own(run, question)


def _window(run: Run, region: str, window: Mapping[str, Any]) -> Own | Unknown:
    tags = get_ssm_tags(run, region, "MaintenanceWindow", window["WindowId"])
    ours = is_ours(tags, window.get("Description", ""))
    if isinstance(ours, Unknown):
        return ours
    if not ours:
        return Own(state="foreign", id=window["WindowId"])
    return Own(state="ours", id=window["WindowId"], value=_window_value(window))


def _window_value(window: Mapping[str, Any]) -> Json:
    return {
        "schedule": window.get("Schedule"),
        "timezone": window.get("ScheduleTimezone"),
        "duration_h": window.get("Duration"),
        "cutoff_h": window.get("Cutoff"),
    }


def apply_window(run: Run, change: Change) -> Json:
    seen = surely(get_window(run, change.region), WINDOW)
    if change.after is None:
        if seen.state == "ours":
            run.aws.call("ssm", "DeleteMaintenanceWindow", change.region, WindowId=seen.id)
        return None
    body = {
        "Schedule": change.after["schedule"],
        "ScheduleTimezone": change.after["timezone"],
        "Duration": change.after["duration_h"],
        "Cutoff": change.after["cutoff_h"],
    }
    if seen.state == "ours":
        run.aws.call("ssm", "UpdateMaintenanceWindow", change.region, WindowId=seen.id, **body)
        return {"window_id": seen.id}
    made = run.aws.call(
        "ssm",
        "CreateMaintenanceWindow",
        change.region,
        Name=WINDOW,
        Description=f"{MADE_BY} Installs security updates on instances tagged {ARMED}=yes.",
        AllowUnassociatedTargets=False,
        ClientToken=_token(run, change),
        Tags=managed_tags(),
        **body,
    )
    return {"window_id": text(made, "WindowId")}


def _in_window(run: Run, region: str, operation: str, key: str, name: str) -> tuple[str, Any]:
    """The window's id, and the entry of that name in it (or None)."""
    window = surely(get_window(run, region), WINDOW)
    if window.state != "ours":
        return "", None
    entries = run.aws.pages("ssm", operation, key, region, WindowId=window.id)
    return window.id, next((entry for entry in entries if entry.get("Name") == name), None)


def get_window_target(run: Run, region: str, name: str = TARGET) -> Own | Unknown:
    def question() -> Own:
        _, entry = _in_window(run, region, "DescribeMaintenanceWindowTargets", "Targets", name)
        if entry is None:
            return ABSENT
        targets = [[t["Key"], list(t["Values"])] for t in entry["Targets"]]
        return Own(state="ours", id=entry["WindowTargetId"], value={"targets": targets})

    return get_own(run, question)


def apply_window_target(run: Run, change: Change) -> Json:
    """One that is there is changed and not made anew: the task names it by its id."""
    window_id, entry = _in_window(run, change.region, "DescribeMaintenanceWindowTargets", "Targets", TARGET)
    there = {"WindowId": window_id, "WindowTargetId": entry["WindowTargetId"]} if entry is not None else {}
    if change.after is None:
        if there:
            run.aws.call("ssm", "DeregisterTargetFromMaintenanceWindow", change.region, **there)
        return None
    targets = [{"Key": key, "Values": values} for key, values in change.after["targets"]]
    if there:
        run.aws.call("ssm", "UpdateMaintenanceWindowTarget", change.region, Targets=targets, **there)
        return {"window_target_id": there["WindowTargetId"]}
    made = run.aws.call(
        "ssm",
        "RegisterTargetWithMaintenanceWindow",
        change.region,
        WindowId=window_id,
        ResourceType="INSTANCE",
        Name=TARGET,
        Targets=targets,
        ClientToken=_token(run, change),
    )
    return {"window_target_id": text(made, "WindowTargetId")}


def get_window_task(run: Run, region: str, name: str = TASK) -> Own | Unknown:
    def question() -> Own:
        window_id, entry = _in_window(run, region, "DescribeMaintenanceWindowTasks", "Tasks", name)
        if entry is None:
            return ABSENT
        command = _command_of(run, region, window_id, entry)
        value = {
            "document": entry.get("TaskArn"),
            "parameters": {name: list(values) for name, values in (command.get("Parameters") or {}).items()},
            "max_concurrency": entry.get("MaxConcurrency"),
            "max_errors": entry.get("MaxErrors"),
        }
        return Own(state="ours", id=entry["WindowTaskId"], value=value)

    return get_own(run, question)


def _command_of(run: Run, region: str, window_id: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the task runs: the list gives no parameters of it (API reference, MaintenanceWindowTask)."""
    task = run.aws.call(
        "ssm", "GetMaintenanceWindowTask", region, WindowId=window_id, WindowTaskId=entry["WindowTaskId"]
    )
    return dict((task.get("TaskInvocationParameters") or {}).get("RunCommand") or {})


def apply_window_task(run: Run, change: Change) -> Json:
    region = change.region
    window_id, entry = _in_window(run, region, "DescribeMaintenanceWindowTasks", "Tasks", TASK)
    there = {"WindowId": window_id, "WindowTaskId": entry["WindowTaskId"]} if entry is not None else {}
    if change.after is None:
        if there:
            run.aws.call("ssm", "DeregisterTaskFromMaintenanceWindow", region, **there)
        return None
    target = surely(get_window_target(run, region), TARGET)
    if target.state != "ours":
        raise AwsError("the window has no target.", subject=WINDOW, remedy="Plan again.", code="PLAN_STALE")
    # An update takes away what it does not name.
    command = _command_of(run, region, window_id, entry) if entry is not None else {"TimeoutSeconds": 600}
    if entry is not None and entry.get("TaskArn") != change.after["document"]:
        for of_the_other in ("DocumentVersion", "DocumentHash", "DocumentHashType"):
            command.pop(of_the_other, None)
    body = {
        "TaskArn": change.after["document"],
        "Targets": [{"Key": "WindowTargetIds", "Values": [target.id]}],
        "TaskInvocationParameters": {"RunCommand": {**command, "Parameters": change.after["parameters"]}},
        "MaxConcurrency": change.after["max_concurrency"],
        "MaxErrors": change.after["max_errors"],
    }
    if there:
        run.aws.call("ssm", "UpdateMaintenanceWindowTask", region, **there, **body)
        return {"window_task_id": there["WindowTaskId"]}
    # Without ServiceRoleArn Systems Manager uses its service-linked role, and makes it if need be.
    made = run.aws.call(
        "ssm",
        "RegisterTaskWithMaintenanceWindow",
        region,
        WindowId=window_id,
        Name=TASK,
        TaskType="RUN_COMMAND",
        Priority=1,
        ClientToken=_token(run, change),
        **body,
    )
    return {"window_task_id": text(made, "WindowTaskId")}


def _kind(name: str, get: Any, apply: Any) -> Kind:
    return Kind(
        name=name, look=lambda run, change: as_value(get(run, change.region, change.target)), apply=apply
    )


BASELINE = _kind("ssm.patch_baseline", get_baseline, apply_baseline)
PATCH_GROUP = _kind("ssm.patch_group", get_patch_group, apply_patch_group)
MAINTENANCE_WINDOW = _kind("ssm.maintenance_window", get_window, apply_window)
WINDOW_TARGET = _kind("ssm.maintenance_window.target", get_window_target, apply_window_target)
WINDOW_TASK = _kind("ssm.maintenance_window.task", get_window_task, apply_window_task)

KINDS = {
    kind.name: kind
    for kind in (BASELINE, PATCH_GROUP, MAINTENANCE_WINDOW, WINDOW_TARGET, WINDOW_TASK, ASSOCIATION, TAG)
}
