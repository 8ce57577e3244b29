"""Patch Manager: baselines, patch groups and what scans found."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

from moto.core.responses import ActionResult
from moto.ssm.models import FakePatchBaseline, FakePatchGroup
from moto.ssm.responses import SimpleSystemManagerResponse

from lab.cloud import clock
from lab.cloud.errors import CloudError
from lab.cloud.extensions.base import answer, filters_hold, paged, request_of, state_of
from lab.cloud.extensions.ssm_inventory import captured, entries, moment
from lab.cloud.state import SsmState

COUNTS = (
    "InstalledCount",
    "InstalledOtherCount",
    "InstalledPendingRebootCount",
    "InstalledRejectedCount",
    "MissingCount",
    "FailedCount",
    "UnreportedNotApplicableCount",
    "NotApplicableCount",
    "AvailableSecurityUpdateCount",
    "CriticalNonCompliantCount",
    "SecurityNonCompliantCount",
    "OtherNonCompliantCount",
)
PATCH_GROUP_TAGS = ("Patch Group", "PatchGroup")
STATES = {
    "installed": "INSTALLED",
    "installedother": "INSTALLED_OTHER",
    "installedpendingreboot": "INSTALLED_PENDING_REBOOT",
    "installedrejected": "INSTALLED_REJECTED",
    "missing": "MISSING",
    "notapplicable": "NOT_APPLICABLE",
    "failed": "FAILED",
    "availablesecurityupdate": "AVAILABLE_SECURITY_UPDATE",
}


def aws_baselines(region: str) -> dict[str, str]:
    """Operating system → ARN of the baseline that AWS owns."""
    return dict(FakePatchGroup("aws", region).default_associations)


def default_baseline(state: SsmState, operating_system: str) -> str:
    own = state.default_baselines.get(operating_system)
    found = own or aws_baselines(state.region).get(operating_system)
    if found is None:
        raise CloudError("ValidationException", f"There is no operating system {operating_system}.")
    return found


def patch_group_of(state: SsmState, node_id: str) -> str:
    tags = state.instance_tags(node_id)
    return next((tags[key] for key in PATCH_GROUP_TAGS if key in tags), "")


def groups(state: SsmState) -> dict[tuple[str, str], str]:
    """(patch group, operating system) → baseline id."""
    found: dict[tuple[str, str], str] = state.__dict__.setdefault("patch_groups", {})
    return found


def baseline_for(state: SsmState, group: str, operating_system: str) -> str:
    return groups(state).get((group, operating_system)) or default_baseline(state, operating_system)


def _os_of(state: SsmState, node_id: str) -> str:
    node = state.nodes.get(node_id)
    name = (node.platform_name if node else "").lower()
    table = {
        "ubuntu": "UBUNTU",
        "debian": "DEBIAN",
        "amazon": "AMAZON_LINUX_2",
        "windows": "WINDOWS",
        "centos": "CENTOS",
    }
    return next((known for part, known in table.items() if part in name), "UBUNTU")


def patch_state(state: SsmState, node_id: str) -> dict[str, Any] | None:
    """A node that has never been scanned has no row."""
    summary = entries(state, node_id, "AWS:PatchSummary")
    if not summary:
        return None
    found = summary[0]
    group = found.get("PatchGroup") or patch_group_of(state, node_id)
    scanned = captured(state, node_id, "AWS:PatchSummary") or clock.now()
    row: dict[str, Any] = {
        "InstanceId": node_id,
        "PatchGroup": group,
        "BaselineId": found.get("BaselineId") or baseline_for(state, group, _os_of(state, node_id)),
        "SnapshotId": found.get("SnapshotId") or None,
        "OwnerInformation": found.get("OwnerInformation", ""),
        "Operation": found.get("Operation") or found.get("OperationType") or "Scan",
        "OperationStartTime": moment(found.get("OperationStartTime")) or scanned,
        "OperationEndTime": moment(found.get("OperationEndTime")) or scanned,
        "RebootOption": found.get("RebootOption") or None,
    }
    row |= {name: int(found.get(name) or 0) for name in COUNTS}
    return {key: value for key, value in row.items() if value is not None}


def patches(state: SsmState, node_id: str) -> list[dict[str, Any]]:
    rows = list(entries(state, node_id, "AWS:PatchCompliance"))
    if not rows:
        upload = state.compliance.get(node_id, {}).get("Patch", {"Items": []})
        for item in upload["Items"]:
            details = item.get("Details") or {}
            rows.append(
                {
                    "Title": item.get("Title") or item.get("Id", ""),
                    "Classification": details.get("Classification", ""),
                    "Severity": details.get("PatchSeverity") or item.get("Severity", ""),
                    "State": details.get("PatchState", ""),
                    "KBId": details.get("KBId") or item.get("Id", ""),
                }
            )
    return [_patch_row(row) for row in rows]


def _patch_row(row: dict[str, str]) -> dict[str, Any]:
    said = row.get("State", "")
    return {
        "Title": row.get("Title", ""),
        "KBId": row.get("KBId") or row.get("Id") or row.get("Title", ""),
        "Classification": row.get("Classification", ""),
        "Severity": row.get("Severity", ""),
        "State": STATES.get(said.replace("_", "").lower(), said),
        "InstalledTime": moment(row.get("InstalledTime")) or datetime(1970, 1, 1, tzinfo=UTC),
        "CVEIds": row.get("CVEIds", ""),
    }


def _identity(state: SsmState, baseline: FakePatchBaseline) -> dict[str, Any]:
    system = baseline.operating_system or "WINDOWS"
    return {
        "BaselineId": baseline.id,
        "BaselineName": baseline.name,
        "OperatingSystem": system,
        "BaselineDescription": baseline.description or "",
        "DefaultBaseline": state.default_baselines.get(system) == baseline.id,
    }


def _aws_identity(state: SsmState, system: str, arn: str) -> dict[str, Any]:
    names = {"UBUNTU": "AWS-UbuntuDefaultPatchBaseline", "DEBIAN": "AWS-DebianDefaultPatchBaseline"}
    return {
        "BaselineId": arn,
        "BaselineName": names.get(system, f"AWS-{system.title().replace('_', '')}DefaultPatchBaseline"),
        "OperatingSystem": system,
        "BaselineDescription": "Default Patch Baseline Provided by AWS.",
        "DefaultBaseline": system not in state.default_baselines,
    }


def identities(state: SsmState) -> list[dict[str, Any]]:
    own = [_identity(state, baseline) for baseline in state.backend.baselines.values()]
    return [*own, *(_aws_identity(state, system, arn) for system, arn in aws_baselines(state.region).items())]


def _existing(state: SsmState, baseline_id: str) -> dict[str, Any]:
    for row in identities(state):
        if baseline_id in (row["BaselineId"], str(row["BaselineId"]).rsplit("/", 1)[-1]):
            return row
    raise CloudError("DoesNotExistException", f"Patch baseline {baseline_id} does not exist.")


def _prefix_filters(rows: list[dict[str, Any]], filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def hit(row: dict[str, Any], one: dict[str, Any]) -> bool:
        key, values = one["Key"], one.get("Values") or []
        owner = "AWS" if str(row["BaselineId"]).startswith("arn:") else "Self"
        if key == "NAME_PREFIX":
            return any(str(row["BaselineName"]).startswith(value) for value in values)
        if key == "OWNER":
            return owner in values
        if key == "OPERATING_SYSTEM":
            return row["OperatingSystem"] in values
        raise CloudError("ValidationException", f"The filter key {key} is not valid.")

    return [row for row in rows if all(hit(row, one) for one in filters)]


class SsmPatch(SimpleSystemManagerResponse):
    def describe_patch_baselines(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        rows = _prefix_filters(identities(state), request.get("Filters") or [])
        return paged("BaselineIdentities", rows, request, default=50, high=100)

    def get_patch_baseline(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        row = _existing(state, str(request.get("BaselineId")))
        found = {
            "BaselineId": row["BaselineId"],
            "Name": row["BaselineName"],
            "Description": row["BaselineDescription"],
        }
        found["OperatingSystem"] = row["OperatingSystem"]
        found["PatchGroups"] = [
            group for (group, _), known in groups(state).items() if known == row["BaselineId"]
        ]
        own = state.backend.baselines.get(row["BaselineId"])
        if own is not None:
            found |= {
                "GlobalFilters": own.global_filters or {"PatchFilters": []},
                "ApprovalRules": own.approval_rules or {"PatchRules": []},
                "ApprovedPatches": own.approved_patches or [],
                "ApprovedPatchesComplianceLevel": own.approved_patches_compliance_level or "UNSPECIFIED",
                "ApprovedPatchesEnableNonSecurity": bool(own.approved_patches_enable_non_security),
                "RejectedPatches": own.rejected_patches or [],
                "RejectedPatchesAction": own.rejected_patches_action or "ALLOW_AS_DEPENDENCY",
                "Sources": own.sources or [],
            }
        return answer(**found)

    def update_patch_baseline(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        own = state.backend.baselines.get(str(request.get("BaselineId")))
        if own is None:
            raise CloudError(
                "DoesNotExistException", f"Patch baseline {request.get('BaselineId')} does not exist."
            )
        fields = {
            "Name": "name",
            "Description": "description",
            "GlobalFilters": "global_filters",
            "ApprovalRules": "approval_rules",
            "ApprovedPatches": "approved_patches",
            "ApprovedPatchesComplianceLevel": "approved_patches_compliance_level",
            "ApprovedPatchesEnableNonSecurity": "approved_patches_enable_non_security",
            "RejectedPatches": "rejected_patches",
            "RejectedPatchesAction": "rejected_patches_action",
            "Sources": "sources",
        }
        for theirs, ours in fields.items():
            if theirs in request:
                setattr(own, ours, request[theirs])
        return SsmPatch.get_patch_baseline(self)

    def delete_patch_baseline(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        baseline_id = str(request.get("BaselineId"))
        if baseline_id in groups(state).values() or baseline_id in state.default_baselines.values():
            raise CloudError("ResourceInUseException", f"Patch baseline {baseline_id} is in use.")
        state.backend.baselines.pop(baseline_id, None)
        return answer(BaselineId=baseline_id)

    def get_default_patch_baseline(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        system = str(request.get("OperatingSystem") or "WINDOWS")
        return answer(BaselineId=default_baseline(state, system), OperatingSystem=system)

    def register_default_patch_baseline(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        row = _existing(state, str(request.get("BaselineId")))
        state.default_baselines[row["OperatingSystem"]] = str(row["BaselineId"])
        return answer(BaselineId=row["BaselineId"])

    def register_patch_baseline_for_patch_group(self) -> ActionResult:
        """A group has at most one baseline for each operating system."""
        state, request = state_of(self), request_of(self)
        row, group = _existing(state, str(request.get("BaselineId"))), str(request.get("PatchGroup"))
        known = groups(state).get((group, row["OperatingSystem"]))
        if known not in (None, row["BaselineId"]):
            raise CloudError(
                "AlreadyExistsException",
                f"Patch group {group} already has a baseline for {row['OperatingSystem']}: {known}.",
            )
        groups(state)[group, row["OperatingSystem"]] = str(row["BaselineId"])
        return answer(BaselineId=row["BaselineId"], PatchGroup=group)

    def deregister_patch_baseline_for_patch_group(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        baseline_id, group = str(request.get("BaselineId")), str(request.get("PatchGroup"))
        for key in [k for k, known in groups(state).items() if k[0] == group and known == baseline_id]:
            del groups(state)[key]
        return answer(BaselineId=baseline_id, PatchGroup=group)

    def get_patch_baseline_for_patch_group(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        group, system = str(request.get("PatchGroup")), str(request.get("OperatingSystem") or "WINDOWS")
        return answer(BaselineId=baseline_for(state, group, system), PatchGroup=group, OperatingSystem=system)

    def describe_patch_groups(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        rows = []
        for (group, _), baseline_id in groups(state).items():
            identity = _existing(state, baseline_id)
            wanted = [f["Values"] for f in request.get("Filters") or [] if f["Key"] == "NAME_PREFIX"]
            if all(any(group.startswith(value) for value in values) for values in wanted):
                rows.append({"PatchGroup": group, "BaselineIdentity": identity})
        return paged("Mappings", rows, request, default=50, high=100)

    def describe_instance_patch_states(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        ids = [str(found) for found in request.get("InstanceIds") or []]
        if len(ids) > 50:
            raise CloudError(
                "ValidationException", "InstanceIds: member must have length less than or equal to 50."
            )
        rows = [row for row in (patch_state(state, node_id) for node_id in ids) if row]
        return paged("InstancePatchStates", rows, request, default=50, low=10, high=100)

    def describe_instance_patch_states_for_patch_group(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        rows = _group_states(state, str(request.get("PatchGroup")))
        return paged("InstancePatchStates", rows, request, default=50, low=10, high=100)

    def describe_instance_patches(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        filters = request.get("Filters") or []
        found = patches(state, str(request.get("InstanceId")))
        rows = [row for row in found if filters_hold(filters, partial(_patch_value, row))]
        return paged("Patches", rows, request, default=50, low=10, high=100)

    def describe_patch_group_state(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        rows = _group_states(state, str(request.get("PatchGroup")))

        def having(count: str) -> int:
            return sum(row[count] > 0 for row in rows)

        return answer(
            Instances=len(rows),
            InstancesWithInstalledPatches=having("InstalledCount"),
            InstancesWithInstalledOtherPatches=having("InstalledOtherCount"),
            InstancesWithInstalledPendingRebootPatches=having("InstalledPendingRebootCount"),
            InstancesWithInstalledRejectedPatches=having("InstalledRejectedCount"),
            InstancesWithMissingPatches=having("MissingCount"),
            InstancesWithFailedPatches=having("FailedCount"),
            InstancesWithNotApplicablePatches=having("NotApplicableCount"),
            InstancesWithUnreportedNotApplicablePatches=having("UnreportedNotApplicableCount"),
            InstancesWithCriticalNonCompliantPatches=having("CriticalNonCompliantCount"),
            InstancesWithSecurityNonCompliantPatches=having("SecurityNonCompliantCount"),
            InstancesWithOtherNonCompliantPatches=having("OtherNonCompliantCount"),
            InstancesWithAvailableSecurityUpdates=having("AvailableSecurityUpdateCount"),
        )


def _patch_value(row: dict[str, Any], key: str) -> list[str] | None:
    return [str(row[key])] if key in ("Title", "KBId", "Severity", "Classification", "State") else None


def _group_states(state: SsmState, group: str) -> list[dict[str, Any]]:
    rows = [row for row in (patch_state(state, node_id) for node_id in list(state.nodes)) if row]
    return [row for row in rows if row["PatchGroup"] == group]
