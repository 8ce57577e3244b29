"""AWS-RunPatchBaseline on a list of patches that the scenario wrote for this host."""

from __future__ import annotations

import json
from typing import Any

from ..netkit.hostfs import at, read_text, write_atomically
from .inventory import item, now_text
from .session import Session

PATCHES = "/var/lib/lab/patches.json"
Patch = dict[str, str]


def load_patches() -> dict[str, list[Patch]]:
    """The host's patches: lists `missing` and `installed`."""
    data: dict[str, Any] = json.loads(read_text(PATCHES) or "{}")
    return {"missing": list(data.get("missing") or []), "installed": list(data.get("installed") or [])}


def _install(patches: dict[str, list[Patch]]) -> dict[str, list[Patch]]:
    installed = [{**patch, "State": "Installed"} for patch in patches["missing"]]
    after: dict[str, list[Patch]] = {"missing": [], "installed": patches["installed"] + installed}
    at(PATCHES).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(PATCHES, json.dumps(after), mode=0o644)
    return after


def _summary(
    patches: dict[str, list[Patch]], operation: str, started: str, snapshot_id: str
) -> dict[str, str]:
    missing = patches["missing"]
    critical = sum(1 for patch in missing if patch.get("Severity", "").lower() == "critical")
    security = sum(1 for patch in missing if patch.get("Classification", "").lower() == "security")
    counts = {
        "InstalledCount": len(patches["installed"]),
        "MissingCount": len(missing),
        "FailedCount": 0,
        "NotApplicableCount": 0,
        "InstalledOtherCount": 0,
        "InstalledPendingRebootCount": 0,
        "InstalledRejectedCount": 0,
        "CriticalNonCompliantCount": critical,
        "SecurityNonCompliantCount": security,
        "OtherNonCompliantCount": max(0, len(missing) - critical - security),
    }
    return {
        "PatchGroup": "",
        "BaselineId": "",
        "SnapshotId": snapshot_id,
        "OwnerInformation": "",
        "OperationType": operation,
        "OperationStartTime": started,
        "OperationEndTime": now_text(),
        **{name: str(value) for name, value in counts.items()},
    }


def _compliance_items(patches: dict[str, list[Patch]]) -> list[dict[str, Any]]:
    rows = [(patch, "Missing", "NON_COMPLIANT") for patch in patches["missing"]]
    rows += [(patch, "Installed", "COMPLIANT") for patch in patches["installed"]]
    return [
        {
            "Id": patch["Title"],
            "Title": patch["Title"],
            "Severity": (patch.get("Severity") or "UNSPECIFIED").upper(),
            "Status": status,
            "Details": {
                "PatchState": state,
                "PatchSeverity": patch.get("Severity", ""),
                "Classification": patch.get("Classification", ""),
            },
        }
        for patch, state, status in rows
    ]


def run_patch_baseline(session: Session, operation: str, snapshot_id: str) -> str:
    """Scan or install, and report; the document's output."""
    started = now_text()
    patches = load_patches()
    if operation == "Install" and patches["missing"]:
        patches = _install(patches)
    summary = _summary(patches, operation, started, snapshot_id)
    instance_id = session.identity.instance_id
    client = session.client("ssm")
    client.call(
        "AmazonSSM.PutInventory", {"InstanceId": instance_id, "Items": [item("AWS:PatchSummary", [summary])]}
    )
    client.call(
        "AmazonSSM.PutComplianceItems",
        {
            "ResourceId": instance_id,
            "ResourceType": "ManagedInstance",
            "ComplianceType": "Patch",
            "ExecutionSummary": {
                "ExecutionTime": started,
                "ExecutionId": snapshot_id,
                "ExecutionType": "Command",
            },
            "Items": _compliance_items(patches),
        },
    )
    lines = [f"Patch compliance: {summary['MissingCount']} missing, {summary['InstalledCount']} installed"]
    lines += [f"  missing: {patch['Title']} ({patch.get('Severity', '')})" for patch in patches["missing"]]
    return "\n".join([f"Operation: {operation}", *lines]) + "\n"
