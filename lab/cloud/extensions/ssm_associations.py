"""State Manager: associations that run on their targets, at once and again for targets that appear later."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from moto.core.responses import ActionResult
from moto.ssm.responses import SimpleSystemManagerResponse

from lab.cloud import clock
from lab.cloud.errors import CloudError, validation
from lab.cloud.extensions.base import answer, filters_hold, paged, request_of, state_of
from lab.cloud.extensions.ssm_commands import document_exists
from lab.cloud.state import Association, Execution, Invocation, SsmState

FIELDS = (
    "AssociationName",
    "ScheduleExpression",
    "ScheduleOffset",
    "OutputLocation",
    "AutomationTargetParameterName",
    "MaxErrors",
    "MaxConcurrency",
    "ComplianceSeverity",
    "SyncCompliance",
    "ApplyOnlyAtCronInterval",
    "CalendarNames",
    "TargetLocations",
    "Duration",
    "TargetMaps",
)
RATE = re.compile(r"^rate\((?P<count>\d+) (?P<unit>minute|hour|day)s?\)$")
CRON = re.compile(r"^(cron|at)\(.+\)$")
MINIMUM_RATE = timedelta(minutes=30)


def interval_of(expression: str | None) -> timedelta | None:
    """How often it runs. A cron line is taken as daily: that is what the lab's associations use."""
    if not expression:
        return None
    rate = RATE.match(expression)
    if rate:
        return timedelta(**{rate["unit"] + "s": int(rate["count"])})
    if CRON.match(expression):
        return timedelta(days=1)
    raise CloudError("InvalidSchedule", f"The schedule expression {expression} isn't valid.")


def _due(association: Association, node_id: str, now: datetime) -> bool:
    last = association.last_run.get(node_id)
    interval = interval_of(association.fields.get("ScheduleExpression"))
    if last is None:
        return not association.fields.get("ApplyOnlyAtCronInterval") or bool(
            interval and now - association.created >= interval
        )
    return interval is not None and now - last >= interval


def run_due(state: SsmState, association: Association, *, force: bool = False) -> None:
    """Send the document to every target that is Online and due."""
    now = clock.now()
    with state.changed:
        online = [node for node in state.matching(association.targets) if node.ping_status == "Online"]
        due = [node.id for node in online if force or _due(association, node.id, now)]
        if not due:
            return
        execution = Execution(str(uuid.uuid4()), now, str(association.version))
        association.executions.append(execution)
        for node_id in due:
            association.last_run[node_id] = now
            execution.invocations[node_id] = state.invocation(
                association.name, node_id, association.parameters
            )
    for invocation in execution.invocations.values():
        state.send(invocation)


def tick(state: SsmState) -> None:
    for association in list(state.associations.values()):
        run_due(state, association)


def _targets(request: dict[str, Any]) -> list[dict[str, Any]]:
    if request.get("InstanceId"):
        return [{"Key": "InstanceIds", "Values": [request["InstanceId"]]}]
    return request.get("Targets") or []


def create(state: SsmState, request: dict[str, Any]) -> Association:
    name = str(request.get("Name") or "")
    if not document_exists(state, name):
        raise CloudError("InvalidDocument", f"Document with name {name} does not exist.")
    interval = interval_of(request.get("ScheduleExpression"))
    if interval is not None and interval < MINIMUM_RATE:
        raise CloudError("InvalidSchedule", "A rate must be at least 30 minutes.")
    targets = _targets(request)
    if not targets:
        raise validation("An association needs InstanceId or Targets.")
    for other in state.associations.values():
        if (other.name, other.targets, other.parameters) == (name, targets, request.get("Parameters") or {}):
            raise CloudError("AssociationAlreadyExists", "The specified association already exists.")
    association = Association(
        id=str(uuid.uuid4()),
        name=name,
        document_version=str(request.get("DocumentVersion") or "$DEFAULT"),
        targets=targets,
        parameters=request.get("Parameters") or {},
        created=clock.now(),
        fields={key: request[key] for key in FIELDS if request.get(key) is not None},
        updated=clock.now(),
    )
    association.versions.append(_version(association))
    state.associations[association.id] = association
    if request.get("Tags"):
        tags = {row["Key"]: row["Value"] for row in request["Tags"]}
        state.backend._resource_tags["Association"][association.id].update(tags)
    run_due(state, association)
    return association


def _overview(association: Association) -> dict[str, Any]:
    counts: dict[str, int] = {}
    if association.executions:
        for invocation in association.executions[-1].invocations.values():
            counts[invocation.status] = counts.get(invocation.status, 0) + 1
    detail = association.status
    return {"Status": detail, "DetailedStatus": detail, "AssociationStatusAggregatedCount": counts}


def describe(association: Association) -> dict[str, Any]:
    row: dict[str, Any] = {
        "AssociationId": association.id,
        "Name": association.name,
        "AssociationVersion": str(association.version),
        "DocumentVersion": association.document_version,
        "Date": association.created,
        "LastUpdateAssociationDate": association.updated,
        "Targets": association.targets,
        "Parameters": association.parameters,
        "Overview": _overview(association),
        **association.fields,
    }
    if association.executions:
        row["LastExecutionDate"] = association.executions[-1].created
        if association.executions[-1].status == "Success":
            row["LastSuccessfulExecutionDate"] = association.executions[-1].created
    return row


def _version(association: Association) -> dict[str, Any]:
    keys = (
        "AssociationId",
        "AssociationVersion",
        "Name",
        "DocumentVersion",
        "Parameters",
        "Targets",
        *FIELDS,
    )
    full = describe(association)
    return {"CreatedDate": clock.now()} | {key: full[key] for key in keys if key in full}


def find(state: SsmState, request: dict[str, Any]) -> Association:
    for association in state.associations.values():
        if association.id == request.get("AssociationId"):
            return association
        by_node = [{"Key": "InstanceIds", "Values": [request.get("InstanceId")]}]
        if request.get("Name") == association.name and association.targets == by_node:
            return association
    raise CloudError("AssociationDoesNotExist", "The specified association does not exist.")


def _listed(association: Association, key: str) -> list[str] | None:
    ids = [value for row in association.targets if row.get("Key") == "InstanceIds" for value in row["Values"]]
    values: dict[str, list[str]] = {
        "AssociationId": [association.id],
        "Name": [association.name],
        "AssociationName": [str(association.fields.get("AssociationName", ""))],
        "AssociationStatusName": [association.status],
        "InstanceId": ids,
    }
    return values.get(key)


class SsmAssociations(SimpleSystemManagerResponse):
    def create_association(self) -> ActionResult:
        state = state_of(self)
        return answer(AssociationDescription=describe(create(state, request_of(self))))

    def create_association_batch(self) -> ActionResult:
        state = state_of(self)
        made = [describe(create(state, entry)) for entry in request_of(self).get("Entries") or []]
        return answer(Successful=made, Failed=[])

    def describe_association(self) -> ActionResult:
        return answer(AssociationDescription=describe(find(state_of(self), request_of(self))))

    def list_associations(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        filters = [
            {"Key": row["key"], "Values": [row["value"]]}
            for row in request.get("AssociationFilterList") or []
        ]
        found = [a for a in state.associations.values() if filters_hold(filters, partial(_listed, a))]
        rows = []
        for association in found:
            full = describe(association)
            keys = ("Name", "AssociationId", "AssociationVersion", "DocumentVersion", "Targets", "Overview")
            more = ("LastExecutionDate", "ScheduleExpression", "AssociationName", "ScheduleOffset")
            rows.append({key: full[key] for key in (*keys, *more) if key in full})
        return paged("Associations", rows, request)

    def list_association_versions(self) -> ActionResult:
        request = request_of(self)
        return paged("AssociationVersions", find(state_of(self), request).versions, request)

    def update_association(self) -> ActionResult:
        """What a request leaves out is reset, as the API reference warns; a new version runs at once."""
        state, request = state_of(self), request_of(self)
        association = find(state, request)
        with state.changed:
            association.fields = {key: request[key] for key in FIELDS if request.get(key) is not None}
            association.parameters = request.get("Parameters") or {}
            association.targets = _targets(request) or association.targets
            association.document_version = str(request.get("DocumentVersion") or association.document_version)
            association.version += 1
            association.updated = clock.now()
            association.last_run.clear()
            association.versions.append(_version(association))
        run_due(state, association)
        return answer(AssociationDescription=describe(association))

    def delete_association(self) -> ActionResult:
        state = state_of(self)
        del state.associations[find(state, request_of(self)).id]
        return answer()

    def start_associations_once(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        found = [find(state, {"AssociationId": known}) for known in request.get("AssociationIds") or []]
        for association in found:
            run_due(state, association, force=True)
        return answer()

    def describe_association_executions(self) -> ActionResult:
        request = request_of(self)
        association = find(state_of(self), request)
        rows = [_execution_row(association, execution) for execution in reversed(association.executions)]
        wanted = [row for row in rows if _execution_passes(row, request.get("Filters") or [])]
        return paged("AssociationExecutions", wanted, request)

    def describe_association_execution_targets(self) -> ActionResult:
        request = request_of(self)
        association = find(state_of(self), request)
        for execution in association.executions:
            if execution.id == request.get("ExecutionId"):
                rows = [_target_row(association, execution, node_id) for node_id in execution.invocations]
                wanted = [row for row in rows if _target_passes(row, request.get("Filters") or [])]
                return paged("AssociationExecutionTargets", wanted, request)
        raise CloudError("AssociationExecutionDoesNotExist", "The specified execution ID doesn't exist.")

    def describe_instance_associations_status(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        node_id = str(request.get("InstanceId"))
        rows = []
        for association in state.associations.values():
            runs = [e.invocations[node_id] for e in association.executions if node_id in e.invocations]
            if not runs:
                continue
            rows.append(
                {
                    "AssociationId": association.id,
                    "Name": association.name,
                    "DocumentVersion": association.document_version,
                    "AssociationVersion": str(association.version),
                    "InstanceId": node_id,
                    "ExecutionDate": runs[-1].started or runs[-1].created,
                    "Status": runs[-1].status,
                    "DetailedStatus": runs[-1].detail,
                    "ExecutionSummary": _summary(runs[-1]),
                    "AssociationName": association.fields.get("AssociationName", ""),
                }
            )
        return paged("InstanceAssociationStatusInfos", rows, request)

    def describe_effective_instance_associations(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        node_id = str(request.get("InstanceId"))
        rows = [
            {
                "AssociationId": a.id,
                "InstanceId": node_id,
                "AssociationVersion": str(a.version),
                "Content": "{}",
            }
            for a in state.associations.values()
            if node_id in [node.id for node in state.matching(a.targets)]
        ]
        return paged("Associations", rows, request, default=5, high=5)


def _summary(invocation: Invocation) -> str:
    return f"1 out of 1 plugin processed, {int(invocation.status == 'Success')} success."


def _execution_row(association: Association, execution: Execution) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for invocation in execution.invocations.values():
        counts[invocation.status] = counts.get(invocation.status, 0) + 1
    return {
        "AssociationId": association.id,
        "AssociationVersion": execution.version,
        "ExecutionId": execution.id,
        "Status": execution.status,
        "DetailedStatus": execution.status,
        "CreatedTime": execution.created,
        "LastExecutionDate": execution.created,
        "ResourceCountByStatus": "{" + ", ".join(f"{key}={value}" for key, value in counts.items()) + "}",
    }


def _target_row(association: Association, execution: Execution, node_id: str) -> dict[str, Any]:
    invocation = execution.invocations[node_id]
    return {
        "AssociationId": association.id,
        "AssociationVersion": execution.version,
        "ExecutionId": execution.id,
        "ResourceId": node_id,
        "ResourceType": "ManagedInstance",
        "Status": invocation.status,
        "DetailedStatus": invocation.detail,
        "LastExecutionDate": invocation.ended or invocation.created,
        "OutputSource": {"OutputSourceId": invocation.id, "OutputSourceType": "RunCommand"},
    }


def _execution_passes(row: dict[str, Any], filters: list[dict[str, Any]]) -> bool:
    for given in filters:
        if given["Key"] == "CreatedTime":
            created, asked = row["CreatedTime"], datetime.fromisoformat(given["Value"].replace("Z", "+00:00"))
            holds = {"GREATER_THAN": created > asked, "LESS_THAN": created < asked, "EQUAL": created == asked}
            if not holds[given["Type"]]:
                return False
        elif row.get(given["Key"]) != given["Value"]:
            return False
    return True


def _target_passes(row: dict[str, Any], filters: list[dict[str, Any]]) -> bool:
    return all(
        row.get(f["Key"]) == f["Value"]
        for f in filters
        if f["Key"] in ("Status", "ResourceId", "ResourceType")
    )
