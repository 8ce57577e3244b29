"""What patch would change: baseline and group by family, the scan, the window, each host's tags. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from haltuun.model import Barred, Host, Json, StageName, StagePlan, Unknown, is_false, is_true
from haltuun.stages.associations import KIND as ASSOCIATION_KIND
from haltuun.stages.associations import PERMISSIONS as ASSOCIATION_PERMISSIONS
from haltuun.stages.associations import association_value
from haltuun.stages.base import View
from haltuun.stages.own import Draft, Own
from haltuun.stages.patch.facts import PatchAccount, PatchFacts, PatchRegion
from haltuun.stages.patch.kinds import (
    BASELINE,
    DOCUMENT,
    MAINTENANCE_WINDOW,
    PATCH_GROUP,
    TARGET,
    TARGET_VALUE,
    TASK,
    TASK_VALUE,
    WINDOW,
    WINDOW_TARGET,
    WINDOW_TASK,
    WINDOW_VALUE,
    baseline_value,
    family_named,
)
from haltuun.stages.patch.probe import SCAN
from haltuun.stages.tags import ARMED, tag_change
from haltuun.stages.tags import SCAN as SCAN_TAG

# Twice a day, so that the last scan is always younger than the day that the gate allows.
SCAN_SCHEDULE = "rate(12 hours)"
SCAN_VALUE = association_value(
    DOCUMENT,
    (f"tag:{SCAN_TAG}", ["daily"]),
    {"Operation": ["Scan"], "RebootOption": ["NoReboot"]},
    SCAN_SCHEDULE,
)


def plan(view: View) -> StagePlan:
    draft = Draft(StageName.patch)
    account = view.account_facts.get(StageName.patch)
    regions = account.regions if isinstance(account, PatchAccount) else {}
    rows = {i: f for i, f in view.facts.get(StageName.patch, {}).items() if isinstance(f, PatchFacts)}
    entering = [view.hosts[i] for i in sorted(view.entering) if i in rows]
    for host in entering:
        if is_false(rows[host.instance_id].supported):
            draft.barred.append(_unsupported(host))
    able = [host for host in entering if is_true(rows[host.instance_id].supported)]
    for region in sorted({host.region for host in able}):
        here = [host for host in able if host.region == region]
        _plan_region(draft, region, regions.get(region, PatchRegion()), here, rows)
    return StagePlan(changes=tuple(draft.changes), barred=tuple(draft.barred), notes=tuple(draft.notes))


def _unsupported(host: Host) -> Barred:
    return Barred(
        host=host.instance_id,
        code="PATCH_UNSUPPORTED",
        message="Patch Manager does not know this operating system.",
        remedy="Patch it by another way and waive this for it in haltuun.yaml.",
    )


def _plan_region(
    draft: Draft, region: str, facts: PatchRegion, hosts: Sequence[Host], rows: dict[str, PatchFacts]
) -> None:
    ids = [host.instance_id for host in hosts]
    groups = _plan_families(draft, region, facts, hosts, rows)
    scan = draft.want(
        facts.scan,
        SCAN_VALUE,
        kind=ASSOCIATION_KIND,
        region=region,
        target=SCAN,
        hosts=ids,
        summary=f"Scan instances tagged {SCAN_TAG}=daily for missing patches twice a day ({region}).",
        permissions=ASSOCIATION_PERMISSIONS,
    )
    _plan_window(draft, region, facts, ids)
    for host in hosts:
        row = rows[host.instance_id]
        _plan_group_tag(draft, host, row, groups.get(str(row.family)))
        if scan is not None and not isinstance(row.scan_tag, Unknown) and row.scan_tag != "daily":
            draft.changes.append(
                tag_change(
                    StageName.patch,
                    host,
                    SCAN_TAG,
                    row.scan_tag,
                    "daily",
                    f"Tag {host.label} {SCAN_TAG}=daily: it is scanned.",
                    depends_on=scan,
                )
            )


def _plan_families(
    draft: Draft, region: str, facts: PatchRegion, hosts: Sequence[Host], rows: dict[str, PatchFacts]
) -> dict[str, tuple[str, ...]]:
    """Baseline and patch group of each family; the families whose group stands or will stand."""
    groups: dict[str, tuple[str, ...]] = {}
    unseen = Unknown(unknown=f"{region} was not asked")
    for name in sorted({str(rows[host.instance_id].family) for host in hosts}):
        family = family_named(name)
        theirs = [host.instance_id for host in hosts if rows[host.instance_id].family == name]
        seen = facts.baselines.get(name, unseen)
        baseline = draft.want(
            seen,
            _kept_baseline(seen, baseline_value(family)),
            kind=BASELINE.name,
            region=region,
            target=name,
            hosts=theirs,
            summary=f"Create the patch baseline {name}: security updates ({region}).",
            permissions=("ssm:CreatePatchBaseline", "ssm:AddTagsToResource"),
        )
        if baseline is None:
            continue
        group = draft.want(
            facts.groups.get(name, unseen),
            {"baseline": name},
            kind=PATCH_GROUP.name,
            region=region,
            target=name,
            hosts=theirs,
            summary=f"Use that baseline for the patch group {name} ({region}).",
            permissions=("ssm:RegisterPatchBaselineForPatchGroup",),
            needs=[baseline],
        )
        if group is not None:
            groups[name] = group
    return groups


def _kept_baseline(seen: Own | Unknown, wanted: Json) -> Json:
    """Rules that a person has set in our baseline since stay (see judge)."""
    if isinstance(seen, Own) and seen.state == "ours":
        same_system = seen.value["operating_system"] == wanted["operating_system"]
        return seen.value if same_system else wanted
    return wanted


def _plan_window(draft: Draft, region: str, facts: PatchRegion, ids: Sequence[str]) -> None:
    window = draft.want(
        facts.window,
        WINDOW_VALUE,
        kind=MAINTENANCE_WINDOW.name,
        region=region,
        target=WINDOW,
        hosts=ids,
        summary=f"Create the maintenance window {WINDOW}: Sundays 03:00 UTC, three hours ({region}).",
        permissions=("ssm:CreateMaintenanceWindow", "ssm:UpdateMaintenanceWindow", "ssm:AddTagsToResource"),
    )
    if window is None:
        return
    target = draft.want(
        facts.window_target,
        TARGET_VALUE,
        kind=WINDOW_TARGET.name,
        region=region,
        target=TARGET,
        hosts=ids,
        summary=f"Let the window take instances tagged {ARMED}=yes, those with a recovery point ({region}).",
        permissions=("ssm:RegisterTargetWithMaintenanceWindow", "ssm:UpdateMaintenanceWindowTarget"),
        needs=[window],
    )
    if target is None:
        return
    draft.want(
        facts.window_task,
        TASK_VALUE,
        kind=WINDOW_TASK.name,
        region=region,
        target=TASK,
        hosts=ids,
        summary=f"Install missing patches in the window, without rebooting ({region})."
        + _set_otherwise(facts.window_task),
        # The service-linked role is made with the first task that names no role.
        permissions=(
            "ssm:RegisterTaskWithMaintenanceWindow",
            "ssm:UpdateMaintenanceWindowTask",
            "iam:CreateServiceLinkedRole",
        ),
        needs=[window, target],
    )


def _set_otherwise(task: Own | Unknown) -> str:
    if isinstance(task, Unknown) or task.state != "ours":
        return ""
    now = "; ".join(f"{key} {task.value[key]}" for key in TASK_VALUE if task.value[key] != TASK_VALUE[key])
    return f" Somebody has set the task otherwise since ({now}): that goes." if now else ""


def _plan_group_tag(draft: Draft, host: Host, row: PatchFacts, group: tuple[str, ...] | None) -> None:
    """A predecessor's patch group stays; a node has one group only (user guide, "Patch groups")."""
    if group is None or row.group is not None or isinstance(row.group_key, Unknown):
        return
    draft.changes.append(
        tag_change(
            StageName.patch,
            host,
            row.group_key,
            None,
            str(row.family),
            f"Tag {host.label} {row.group_key}={row.family}: patched by that baseline.",
            depends_on=group,
        )
    )
