"""Inventory and compliance: what agents report and what can be read back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ssm.responses import SimpleSystemManagerResponse

from lab.cloud import clock
from lab.cloud.errors import CloudError
from lab.cloud.extensions.base import answer, filters_hold, paged, request_of, state_of
from lab.cloud.extensions.ssm_agent import _owner_check
from lab.cloud.state import SsmState

SEVERITIES = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNSPECIFIED")
INFORMATION = "AWS:InstanceInformation"


def entries(state: SsmState, node_id: str, type_name: str) -> list[dict[str, str]]:
    """The entries of one inventory type; AWS:InstanceInformation comes from the node itself."""
    if type_name == INFORMATION and node_id in state.nodes:
        node = state.nodes[node_id]
        return [
            {
                "InstanceId": node.id,
                "AgentType": "amazon-ssm-agent",
                "AgentVersion": node.agent_version,
                "ComputerName": node.computer_name,
                "IpAddress": node.ip_address,
                "PlatformName": node.platform_name,
                "PlatformType": node.platform_type,
                "PlatformVersion": node.platform_version,
                "ResourceType": "ManagedInstance" if node.is_hybrid else "EC2Instance",
                "InstanceStatus": "Active",
            }
        ]
    return list(state.inventory.get(node_id, {}).get(type_name, {}).get("Content") or [])


def captured(state: SsmState, node_id: str, type_name: str) -> datetime | None:
    return moment(state.inventory.get(node_id, {}).get(type_name, {}).get("CaptureTime"))


def moment(value: Any) -> datetime | None:
    """Times come as ISO text or as seconds; AWS answers with real times."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00")) if value else None
    except ValueError:
        return None


def _known_severity(item: dict[str, Any]) -> str:
    """Severities of Debian and Ubuntu are not those of compliance; an unknown one is UNSPECIFIED."""
    said = str(item.get("Severity", "")).upper()
    return {"IMPORTANT": "HIGH", "MODERATE": "MEDIUM"}.get(
        said, said if said in SEVERITIES else "UNSPECIFIED"
    )


def _severity(items: list[dict[str, Any]], status: str) -> dict[str, Any]:
    names = SEVERITIES
    found = [item for item in items if item["Status"] == status]
    counts = {name: sum(item.get("Severity") == name for item in found) for name in names}
    keys = {name: f"{name.capitalize()}Count" for name in names}
    field = "CompliantCount" if status == "COMPLIANT" else "NonCompliantCount"
    return {field: len(found), "SeveritySummary": {keys[name]: counts[name] for name in names}}


def compliance_items(state: SsmState, resource_id: str) -> list[dict[str, Any]]:
    """Items as ListComplianceItems gives them: those put, and associations, which the service adds itself."""
    rows: list[dict[str, Any]] = []
    for kind, upload in state.compliance.get(resource_id, {}).items():
        for item in upload["Items"]:
            rows.append(
                {
                    "ComplianceType": kind,
                    "ResourceType": "ManagedInstance",
                    "ResourceId": resource_id,
                    "ExecutionSummary": upload["ExecutionSummary"],
                    **item,
                }
            )
    for patch in entries(state, resource_id, "AWS:PatchCompliance"):
        bad = patch.get("State", "").upper() in ("MISSING", "FAILED")
        summary = {"ExecutionTime": captured(state, resource_id, "AWS:PatchCompliance") or clock.now()}
        rows.append(
            {
                "ComplianceType": "Patch",
                "ResourceType": "ManagedInstance",
                "ResourceId": resource_id,
                "Id": patch.get("Title", ""),
                "Title": patch.get("Title", ""),
                "Status": "NON_COMPLIANT" if bad else "COMPLIANT",
                "Severity": "UNSPECIFIED",
                "ExecutionSummary": summary,
                "Details": {"PatchState": patch.get("State", ""), "PatchSeverity": patch.get("Severity", "")},
            }
        )
    return [*rows, *_association_items(state, resource_id)]


def _association_items(state: SsmState, resource_id: str) -> list[dict[str, Any]]:
    rows = []
    for association in state.associations.values():
        for execution in association.executions[-1:]:
            invocation = execution.invocations.get(resource_id)
            if invocation is None or invocation.status in ("Pending", "InProgress"):
                continue
            rows.append(
                {
                    "ComplianceType": "Association",
                    "ResourceType": "ManagedInstance",
                    "ResourceId": resource_id,
                    "Id": association.id,
                    "Title": association.name,
                    "Status": "COMPLIANT" if invocation.status == "Success" else "NON_COMPLIANT",
                    "Severity": association.fields.get("ComplianceSeverity", "UNSPECIFIED"),
                    "ExecutionSummary": {"ExecutionTime": execution.created, "ExecutionId": execution.id},
                    "Details": {"DocumentName": association.name},
                }
            )
    return rows


class SsmInventory(SimpleSystemManagerResponse):
    def put_inventory(self) -> ActionResult:
        """A type that is put again replaces what was there."""
        state, request = state_of(self), request_of(self)
        node_id = str(request.get("InstanceId"))
        _owner_check(self, node_id)
        if node_id not in state.nodes:
            raise CloudError("InvalidInstanceId", f"{node_id} is not a managed node.")
        with state.changed:
            for item in request.get("Items") or []:
                state.inventory.setdefault(node_id, {})[str(item["TypeName"])] = item
        return answer()

    def get_inventory(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        asked = [row["TypeName"] for row in request.get("ResultAttributes") or []] or [INFORMATION]
        rows = []
        for node in state.managed():
            if not all(_inventory_hit(state, node.id, row) for row in request.get("Filters") or []):
                continue
            data = {}
            for name in asked:
                found = entries(state, node.id, name)
                item = state.inventory.get(node.id, {}).get(name, {})
                if found:
                    data[name] = {
                        "TypeName": name,
                        "SchemaVersion": item.get("SchemaVersion", "1.0"),
                        "CaptureTime": item.get("CaptureTime", ""),
                        "ContentHash": item.get("ContentHash", ""),
                        "Content": found,
                    }
            rows.append({"Id": node.id, "Data": data})
        return paged("Entities", rows, request)

    def list_inventory_entries(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        node_id, name = str(request.get("InstanceId")), str(request.get("TypeName"))
        if node_id not in state.nodes:
            raise CloudError("InvalidInstanceId", f"{node_id} is not a managed node.")
        item = state.inventory.get(node_id, {}).get(name, {})
        return answer(
            TypeName=name,
            InstanceId=node_id,
            SchemaVersion=item.get("SchemaVersion", "1.0"),
            CaptureTime=item.get("CaptureTime", ""),
            Entries=entries(state, node_id, name),
        )

    def put_compliance_items(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        resource_id = str(request.get("ResourceId"))
        _owner_check(self, resource_id)
        if resource_id not in state.nodes:
            raise CloudError("InvalidResourceId", f"{resource_id} is not a managed node.")
        kind = str(request.get("ComplianceType"))
        summary = dict(request.get("ExecutionSummary") or {})
        summary["ExecutionTime"] = moment(summary.get("ExecutionTime")) or clock.now()
        items = [dict(item) | {"Severity": _known_severity(item)} for item in request.get("Items") or []]
        with state.changed:
            held = state.compliance.setdefault(resource_id, {})
            if request.get("UploadType") == "PARTIAL" and kind in held:
                fresh = {item.get("Id") for item in items}
                items += [item for item in held[kind]["Items"] if item.get("Id") not in fresh]
            held[kind] = {"ExecutionSummary": summary, "Items": items}
        return answer()

    def list_compliance_items(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        asked = request.get("ResourceIds") or list(state.nodes)
        rows = [row for node_id in asked for row in compliance_items(state, str(node_id))]
        filters = request.get("Filters") or []
        return paged("ComplianceItems", [row for row in rows if _item_hit(row, filters)], request)

    def list_resource_compliance_summaries(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        rows = []
        for node_id in state.nodes:
            items = compliance_items(state, node_id)
            for kind in dict.fromkeys(item["ComplianceType"] for item in items):
                mine = [item for item in items if item["ComplianceType"] == kind]
                bad = any(item["Status"] != "COMPLIANT" for item in mine)
                row = {
                    "ComplianceType": kind,
                    "ResourceType": "ManagedInstance",
                    "ResourceId": node_id,
                    "Status": "NON_COMPLIANT" if bad else "COMPLIANT",
                    "OverallSeverity": "UNSPECIFIED",
                    "ExecutionSummary": mine[-1]["ExecutionSummary"],
                    "CompliantSummary": _severity(mine, "COMPLIANT"),
                    "NonCompliantSummary": _severity(mine, "NON_COMPLIANT"),
                }
                if _item_hit(row, request.get("Filters") or []):
                    rows.append(row)
        return paged("ResourceComplianceSummaryItems", rows, request)

    def list_compliance_summaries(self) -> ActionResult:
        """For each kind of compliance, how many items are compliant and how many are not."""
        state, request = state_of(self), request_of(self)
        items = [item for node_id in state.nodes for item in compliance_items(state, node_id)]
        items = [item for item in items if _item_hit(item, request.get("Filters") or [])]
        rows = []
        for kind in dict.fromkeys(item["ComplianceType"] for item in items):
            mine = [item for item in items if item["ComplianceType"] == kind]
            rows.append(
                {
                    "ComplianceType": kind,
                    "CompliantSummary": _severity(mine, "COMPLIANT"),
                    "NonCompliantSummary": _severity(mine, "NON_COMPLIANT"),
                }
            )
        return paged("ComplianceSummaryItems", rows, request)


def _item_hit(row: dict[str, Any], filters: list[dict[str, Any]]) -> bool:
    keys = ("ComplianceType", "Status", "Severity", "ResourceId", "ResourceType", "Id", "Title")
    return filters_hold(filters, lambda key: [str(row.get(key))] if key in keys else None)


def _inventory_hit(state: SsmState, node_id: str, row: dict[str, Any]) -> bool:
    """Filter keys are TYPE.ATTRIBUTE, as in AWS:InstanceInformation.InstanceId."""
    key, values = str(row["Key"]), [str(value) for value in row.get("Values", [])]
    name, _, attribute = key.rpartition(".")
    have = [str(entry.get(attribute)) for entry in entries(state, node_id, name)]
    kind = row.get("Type", "Equal")
    if kind == "Exists":
        return bool(have)
    if kind == "NotEqual":
        return not set(have) & set(values)
    if kind == "BeginWith":
        return any(text.startswith(value) for text in have for value in values)
    return bool(set(have) & set(values))
