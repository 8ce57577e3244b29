"""Maintenance windows, tags and idempotent creation: what moto keeps, answered as AWS would.

The lab's windows do not open by themselves: no execution is ever made.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ssm.models import FakeMaintenanceWindow, SimpleSystemManagerBackend
from moto.ssm.responses import SimpleSystemManagerResponse

from lab.cloud import clock
from lab.cloud.errors import CloudError
from lab.cloud.extensions.base import answer, paged, request_of, state_of
from lab.cloud.state import SsmState

CREATORS = (
    "create_maintenance_window",
    "register_target_with_maintenance_window",
    "register_task_with_maintenance_window",
    "create_patch_baseline",
)
WINDOW_FIELDS = {
    "Name": "name",
    "Description": "description",
    "Duration": "duration",
    "Cutoff": "cutoff",
    "Schedule": "schedule",
    "ScheduleTimezone": "schedule_timezone",
    "ScheduleOffset": "schedule_offset",
    "StartDate": "start_date",
    "EndDate": "end_date",
}
TARGET_FIELDS = {
    "Targets": "targets",
    "OwnerInformation": "owner_information",
    "Name": "name",
    "Description": "description",
}
TASK_FIELDS = {
    "Targets": "targets",
    "TaskArn": "task_arn",
    "TaskInvocationParameters": "task_invocation_parameters",
    "Priority": "priority",
    "MaxConcurrency": "max_concurrency",
    "MaxErrors": "max_errors",
    "Name": "name",
    "Description": "description",
}
TAGGED_TYPES = ("ManagedInstance", "PatchBaseline", "Association", "OpsItem", "OpsMetadata")


def idempotent(create: Callable[..., ActionResult]) -> Callable[..., ActionResult]:
    """The same ClientToken gives the same answer; moto makes a second resource."""

    def run(self: SimpleSystemManagerResponse) -> ActionResult:
        state, token = state_of(self), request_of(self).get("ClientToken")
        done: dict[tuple[str, str], ActionResult] = state.__dict__.setdefault("client_tokens", {})
        if token and (create.__name__, token) in done:
            return done[create.__name__, token]
        result = create(self)
        if token:
            done[create.__name__, str(token)] = result
        return result

    run.__name__ = create.__name__
    return run


def check_tagged(self: SimpleSystemManagerBackend, resource_type: str, resource_id: str) -> str:
    """moto refuses every PatchBaseline and ManagedInstance, although it knows the types."""
    if resource_type in TAGGED_TYPES:
        if resource_type == "PatchBaseline" and resource_id not in self.baselines:
            raise CloudError("InvalidResourceId", "Invalid Resource Id")
        return resource_id
    return _moto_check(self, resource_type, resource_id)


_moto_check: Callable[..., str] = SimpleSystemManagerBackend._validate_resource_type_and_id


def _window(state: SsmState, window_id: str) -> FakeMaintenanceWindow:
    return state.backend.get_maintenance_window(window_id)


def _describe(window: FakeMaintenanceWindow) -> dict[str, Any]:
    row = {key: value for key, value in window.to_json().items() if value is not None}
    row["Enabled"] = getattr(window, "enabled", True)
    row["AllowUnassociatedTargets"] = getattr(window, "allow_unassociated_targets", False)
    stamp: datetime = window.__dict__.setdefault("created", clock.now())
    return row | {"CreatedDate": stamp, "ModifiedDate": getattr(window, "modified", stamp)}


def _set(thing: object, fields: dict[str, str], request: dict[str, Any]) -> None:
    """What the request does not name stays."""
    for theirs, ours in fields.items():
        if theirs in request:
            setattr(thing, ours, request[theirs])


class SsmWindows(SimpleSystemManagerResponse):
    def get_maintenance_window(self) -> ActionResult:
        return answer(**_describe(_window(state_of(self), str(request_of(self).get("WindowId")))))

    def describe_maintenance_windows(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        rows = []
        for window in state.backend.windows.values():
            row = _describe(window)
            tests = {"Name": row["Name"], "Enabled": str(row["Enabled"]).lower()}
            if all(tests.get(f["Key"]) in f["Values"] for f in request.get("Filters") or []):
                rows.append(
                    {
                        key: value
                        for key, value in row.items()
                        if not key.endswith("Date") or key in WINDOW_FIELDS
                    }
                )
        return paged("WindowIdentities", rows, request, default=50, low=10, high=100)

    def update_maintenance_window(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        window = _window(state, str(request.get("WindowId")))
        _set(window, WINDOW_FIELDS, request)
        for theirs, ours in (
            ("Enabled", "enabled"),
            ("AllowUnassociatedTargets", "allow_unassociated_targets"),
        ):
            if theirs in request:
                window.__dict__[ours] = bool(request[theirs])
        window.__dict__["modified"] = clock.now()
        return answer(**_describe(window))

    def delete_maintenance_window(self) -> ActionResult:
        state, window_id = state_of(self), str(request_of(self).get("WindowId"))
        state.backend.windows.pop(window_id, None)
        return answer(WindowId=window_id)

    def describe_maintenance_window_targets(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        rows = []
        for target in _window(state, str(request.get("WindowId"))).targets.values():
            row = {key: value for key, value in target.to_json().items() if value is not None}
            row["OwnerInformation"] = target.owner_information or ""
            if _field_filters(row, request):
                rows.append(row)
        return paged("Targets", rows, request, default=50, low=10, high=100)

    def describe_maintenance_window_tasks(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        rows = []
        for task in _window(state, str(request.get("WindowId"))).tasks.values():
            row = {key: value for key, value in task.to_json().items() if value is not None}
            row["Type"] = row.pop("TaskType")
            row.pop("TaskInvocationParameters", None)
            if _field_filters(row, request):
                rows.append(row)
        return paged("Tasks", rows, request, default=50, low=10, high=100)

    def get_maintenance_window_task(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        task = _window(state, str(request.get("WindowId"))).tasks.get(str(request.get("WindowTaskId")))
        if task is None:
            raise CloudError(
                "DoesNotExistException",
                f"Maintenance window task {request.get('WindowTaskId')} does not exist.",
            )
        return answer(**{key: value for key, value in task.to_json().items() if value is not None})

    def describe_maintenance_window_executions(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        _window(state, str(request.get("WindowId")))
        return paged("WindowExecutions", [], request, default=50, low=10, high=100)

    def update_maintenance_window_target(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        window_id, target_id = str(request.get("WindowId")), str(request.get("WindowTargetId"))
        target = _window(state, window_id).targets.get(target_id)
        if target is None:
            raise CloudError(
                "DoesNotExistException", f"Maintenance window target {target_id} does not exist."
            )
        _set(target, TARGET_FIELDS, request)
        return answer(WindowId=window_id, WindowTargetId=target_id)

    def update_maintenance_window_task(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        window_id, task_id = str(request.get("WindowId")), str(request.get("WindowTaskId"))
        task = _window(state, window_id).tasks.get(task_id)
        if task is None:
            raise CloudError("DoesNotExistException", f"Maintenance window task {task_id} does not exist.")
        _set(task, TASK_FIELDS, request)
        return answer(WindowId=window_id, WindowTaskId=task_id)

    def deregister_target_from_maintenance_window(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        window_id, target_id = str(request.get("WindowId")), str(request.get("WindowTargetId"))
        if _window(state, window_id).targets.pop(target_id, None) is None:
            raise CloudError(
                "DoesNotExistException", f"Maintenance window target {target_id} does not exist."
            )
        return answer(WindowId=window_id, WindowTargetId=target_id)

    def deregister_task_from_maintenance_window(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        window_id, task_id = str(request.get("WindowId")), str(request.get("WindowTaskId"))
        if _window(state, window_id).tasks.pop(task_id, None) is None:
            raise CloudError("DoesNotExistException", f"Maintenance window task {task_id} does not exist.")
        return answer(WindowId=window_id, WindowTaskId=task_id)


def _field_filters(row: dict[str, Any], request: dict[str, Any]) -> bool:
    return all(str(row.get(f["Key"])) in f["Values"] for f in request.get("Filters") or [])


def apply() -> None:
    SimpleSystemManagerBackend._validate_resource_type_and_id = check_tagged  # type: ignore[method-assign]
    for name in CREATORS:
        setattr(SimpleSystemManagerResponse, name, idempotent(getattr(SimpleSystemManagerResponse, name)))
