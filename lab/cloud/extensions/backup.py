"""AWS Backup: selections, jobs, recovery points, region settings (API reference 2018-11-15)."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import unquote

import moto.backup.urls as moto_urls
from moto.backup.models import Plan, backup_backends
from moto.backup.responses import BackupResponse
from moto.core.responses import ActionResult, EmptyResult

from lab.cloud import clock
from lab.cloud.errors import CloudError
from lab.cloud.extensions.backup_state import BackupState, Job, Point, backup_state
from lab.cloud.extensions.base import graft, page_of, request_of

SELECTIONS_BY_TAG_LIMIT = 30
Row = TypeVar("Row", Job, Point)


def state_of(response: BackupResponse) -> BackupState:
    state = backup_state(response.current_account, response.region)
    state.settle()
    return state


def _query(response: BackupResponse) -> dict[str, str]:
    return {
        key: str(values[0])
        for key, values in response.querystring.items()
        if isinstance(values, list) and values
    }


def _label(response: BackupResponse, name: str) -> str:
    return unquote(str(response.uri_match[name]))


def _paged(response: BackupResponse, key: str, rows: list[Any]) -> ActionResult:
    query = _query(response)
    asked: dict[str, Any] = {"NextToken": query.get("nextToken")}
    if query.get("maxResults"):
        asked["MaxResults"] = int(query["maxResults"])
    page, token = page_of(rows, asked, default=1000, high=1000)
    answer: dict[str, Any] = {key: page}
    if token:
        answer["NextToken"] = token
    return ActionResult(answer)


def _created_after(query: dict[str, str], rows: list[Row]) -> list[Row]:
    if "createdAfter" not in query:
        return rows
    after = datetime.fromisoformat(query["createdAfter"])
    return [row for row in rows if row.created > after]


def _plan(state: BackupState, plan_id: str) -> Plan:
    plan = state.backend.plans.get(plan_id)
    if plan is None or plan.deletion_date is not None:
        raise CloudError("ResourceNotFoundException", f"Backup plan {plan_id} was not found.")
    return plan


def _job_row(state: BackupState, job: Job) -> dict[str, Any]:
    done = job.state == "COMPLETED"
    row: dict[str, Any] = {
        "AccountId": state.account_id,
        "BackupJobId": job.id,
        "BackupVaultName": job.vault,
        "BackupVaultArn": state.vault(job.vault).backup_vault_arn,
        "ResourceArn": job.resource_arn,
        "ResourceType": job.resource_type,
        "CreationDate": job.created,
        "InitiationDate": job.created,
        "State": job.state,
        "StatusMessage": job.message or None,
        "PercentDone": "100.0" if done else "0.0",
        "BackupSizeInBytes": 8 * 1024**3 if done else 0,
        "IamRoleArn": job.role_arn,
        "RecoveryPointArn": job.point_arn or None,
        "CompletionDate": job.completed,
        "IsParent": False,
        "MessageCategory": "SUCCESS" if done else "AccessDenied" if job.state == "FAILED" else None,
    }
    return {key: value for key, value in row.items() if value is not None}


def _point_row(state: BackupState, point: Point) -> dict[str, Any]:
    vault = state.vault(point.vault)
    row: dict[str, Any] = {
        "RecoveryPointArn": point.arn,
        "BackupVaultName": point.vault,
        "BackupVaultArn": vault.backup_vault_arn,
        "ResourceArn": point.resource_arn,
        "ResourceType": point.resource_type,
        "IamRoleArn": point.role_arn,
        "Status": "COMPLETED",
        "CreationDate": point.created,
        "CompletionDate": point.completed,
        "BackupSizeInBytes": point.size_bytes,
        "BackupSizeBytes": point.size_bytes,
        "Lifecycle": point.lifecycle or None,
        "EncryptionKeyArn": point.key_arn,
        "IsEncrypted": point.is_encrypted,
        "StorageClass": "WARM",
        "IsParent": False,
    }
    return {key: value for key, value in row.items() if value is not None}


class BackupJobs(BackupResponse):
    def start_backup_job(self) -> ActionResult:
        job = state_of(self).start(request_of(self))
        return ActionResult({"BackupJobId": job.id, "CreationDate": job.created, "IsParent": False})

    def describe_backup_job(self) -> ActionResult:
        state, job_id = state_of(self), _label(self, "backupJobId")
        if job_id not in state.jobs:
            raise CloudError("ResourceNotFoundException", f"Backup job {job_id} was not found.")
        return ActionResult(_job_row(state, state.jobs[job_id]))

    def stop_backup_job(self) -> EmptyResult:
        state, job_id = state_of(self), _label(self, "backupJobId")
        if job_id not in state.jobs:
            raise CloudError("ResourceNotFoundException", f"Backup job {job_id} was not found.")
        if state.jobs[job_id].state in ("CREATED", "RUNNING"):
            state.jobs[job_id].state = "ABORTED"
        return EmptyResult()

    def list_backup_jobs(self) -> ActionResult:
        state, query = state_of(self), _query(self)
        fields = {"resourceArn": "resource_arn", "state": "state", "backupVaultName": "vault"}
        fields["resourceType"] = "resource_type"
        jobs = sorted(state.jobs.values(), key=lambda job: job.created, reverse=True)
        for asked, ours in fields.items():
            if asked in query:
                jobs = [job for job in jobs if getattr(job, ours) == query[asked]]
        jobs = _created_after(query, jobs)
        return _paged(self, "BackupJobs", [_job_row(state, job) for job in jobs])

    def list_recovery_points_by_resource(self) -> ActionResult:
        state, arn = state_of(self), _label(self, "resourceArn")
        rows = [_point_row(state, point) for point in state.points.values() if point.resource_arn == arn]
        return _paged(self, "RecoveryPoints", rows)

    def list_recovery_points_by_backup_vault(self) -> ActionResult:
        state, query = state_of(self), _query(self)
        vault = _label(self, "backupVaultName")
        state.vault(vault)
        points = [point for point in state.points.values() if point.vault == vault]
        for asked, ours in {"resourceArn": "resource_arn", "resourceType": "resource_type"}.items():
            if asked in query:
                points = [point for point in points if getattr(point, ours) == query[asked]]
        points = _created_after(query, points)
        return _paged(self, "RecoveryPoints", [_point_row(state, point) for point in points])

    def describe_recovery_point(self) -> ActionResult:
        state = state_of(self)
        return ActionResult(_point_row(state, _point(self, state)))

    def delete_recovery_point(self) -> EmptyResult:
        state = state_of(self)
        point = _point(self, state)
        vault = state.vault(point.vault)
        if vault.locked:
            raise CloudError("InvalidRequestException", f"Backup vault {point.vault} is locked.")
        del state.points[point.arn]
        vault.num_of_recovery_points -= 1
        return EmptyResult()

    def list_protected_resources(self) -> ActionResult:
        return _paged(self, "Results", list(_protected(state_of(self)).values()))

    def list_protected_resources_by_backup_vault(self) -> ActionResult:
        state, vault = state_of(self), _label(self, "backupVaultName")
        return _paged(self, "Results", list(_protected(state, vault).values()))

    def describe_protected_resource(self) -> ActionResult:
        state, arn = state_of(self), _label(self, "resourceArn")
        found = _protected(state).get(arn)
        if found is None:
            raise CloudError("ResourceNotFoundException", f"{arn} is not a protected resource.")
        return ActionResult(found)


def _point(response: BackupResponse, state: BackupState) -> Point:
    arn, vault = _label(response, "recoveryPointArn"), _label(response, "backupVaultName")
    point = state.points.get(arn)
    if point is None or point.vault != vault:
        raise CloudError("ResourceNotFoundException", f"Recovery point {arn} was not found in {vault}.")
    return point


def _protected(state: BackupState, vault: str | None = None) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for point in state.points.values():
        if vault in (None, point.vault):
            found[point.resource_arn] = {
                "ResourceArn": point.resource_arn,
                "ResourceType": point.resource_type,
                "LastBackupTime": point.completed,
                "LastBackupVaultArn": state.vault(point.vault).backup_vault_arn,
                "LastRecoveryPointArn": point.arn,
            }
    return found


class BackupPlans(BackupResponse):
    def create_backup_plan(self) -> str:
        """The same request twice gives the same plan; a name is free again once its plan is deleted."""
        state, request = state_of(self), request_of(self)
        name, token = request["BackupPlan"]["BackupPlanName"], request.get("CreatorRequestId")
        for plan in list(state.backend.plans.values()):
            if plan.deletion_date is not None or plan.backup_plan.get("BackupPlanName") != name:
                continue
            if token and plan.creator_request_id == token:
                return json.dumps(plan.to_dict())
            raise CloudError(
                "AlreadyExistsException", "Backup plan with the same plan document already exists"
            )
        plan = Plan(request["BackupPlan"], token or "", state.backend)
        state.backend.plans[plan.backup_plan_id] = plan
        if request.get("BackupPlanTags"):
            state.backend.tag_resource(plan.backup_plan_arn, request["BackupPlanTags"])
        return json.dumps(plan.to_dict())

    def update_backup_plan(self) -> str:
        state, request = state_of(self), request_of(self)
        plan = _plan(state, _label(self, "backupPlanId"))
        fresh = Plan(request["BackupPlan"], plan.creator_request_id, state.backend)
        plan.backup_plan, plan.version_id = fresh.backup_plan, fresh.version_id
        return json.dumps(plan.to_dict())

    def list_backup_plans(self) -> ActionResult:  # type: ignore[override]
        state, deleted = state_of(self), _query(self).get("includeDeleted", "").lower() == "true"
        plans = [plan for plan in state.backend.plans.values() if deleted or plan.deletion_date is None]
        return _paged(self, "BackupPlansList", [plan.to_list_dict() for plan in plans])

    def delete_backup_plan(self) -> str:
        state = state_of(self)
        plan = _plan(state, _label(self, "backupPlanId"))
        if state.selections.get(plan.backup_plan_id):
            raise CloudError(
                "InvalidRequestException", "Related backup plan selections must be deleted first."
            )
        found = state.backend.delete_backup_plan(plan.backup_plan_id)
        return json.dumps(
            dict(zip(("BackupPlanId", "BackupPlanArn", "DeletionDate", "VersionId"), found, strict=True))
        )

    def create_backup_vault(self) -> str:
        """Without a key of its own a vault is encrypted with the account's aws/backup key."""
        state, request = state_of(self), request_of(self)
        vault = state.backend.create_backup_vault(
            backup_vault_name=_label(self, "backupVaultName"),
            backup_vault_tags=request.get("BackupVaultTags") or {},
            encryption_key_arn=request.get("EncryptionKeyArn") or state.default_key_arn(),
            creator_request_id=request.get("CreatorRequestId") or "",
        )
        return json.dumps(vault.to_dict())

    def list_backup_vaults(self) -> ActionResult:  # type: ignore[override]
        vaults = state_of(self).backend.vaults.values()
        return _paged(self, "BackupVaultList", [vault.to_list_dict() for vault in vaults])

    def describe_backup_vault(self) -> ActionResult:
        return ActionResult(state_of(self).vault(_label(self, "backupVaultName")).to_list_dict())

    def delete_backup_vault(self) -> EmptyResult:
        state, name = state_of(self), _label(self, "backupVaultName")
        if any(point.vault == name for point in state.points.values()):
            raise CloudError(
                "InvalidRequestException", "Backup vault cannot be deleted: it contains recovery points."
            )
        state.vault(name)
        state.backend.delete_backup_vault(name)
        return EmptyResult()

    def create_backup_selection(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        plan = _plan(state, _label(self, "backupPlanId"))
        wanted = request["BackupSelection"]
        held = state.selections.setdefault(plan.backup_plan_id, {})
        for known in held.values():
            if known["BackupSelection"]["SelectionName"] == wanted["SelectionName"]:
                if (
                    request.get("CreatorRequestId")
                    and known["CreatorRequestId"] == request["CreatorRequestId"]
                ):
                    return ActionResult(
                        {key: known[key] for key in ("SelectionId", "BackupPlanId", "CreationDate")}
                    )
                raise CloudError(
                    "AlreadyExistsException", "Backup selection with the same name already exists"
                )
        if len(wanted.get("ListOfTags") or []) > SELECTIONS_BY_TAG_LIMIT:
            raise CloudError("LimitExceededException", "A selection holds at most 30 tags.")
        state.check_role(str(wanted["IamRoleArn"]))
        row = {
            "SelectionId": str(uuid.uuid4()),
            "BackupPlanId": plan.backup_plan_id,
            "CreationDate": clock.now(),
            "CreatorRequestId": request.get("CreatorRequestId") or "",
            "BackupSelection": wanted,
        }
        held[row["SelectionId"]] = row
        return ActionResult({key: row[key] for key in ("SelectionId", "BackupPlanId", "CreationDate")})

    def get_backup_selection(self) -> ActionResult:
        return ActionResult(_selection(self, state_of(self)))

    def list_backup_selections(self) -> ActionResult:
        state = state_of(self)
        plan = _plan(state, _label(self, "backupPlanId"))
        rows = []
        for row in state.selections.get(plan.backup_plan_id, {}).values():
            listed = {key: value for key, value in row.items() if key != "BackupSelection"}
            wanted = row["BackupSelection"]
            rows.append(
                listed | {"SelectionName": wanted["SelectionName"], "IamRoleArn": wanted["IamRoleArn"]}
            )
        return _paged(self, "BackupSelectionsList", rows)

    def delete_backup_selection(self) -> EmptyResult:
        state = state_of(self)
        row = _selection(self, state)
        del state.selections[row["BackupPlanId"]][row["SelectionId"]]
        return EmptyResult()

    def describe_region_settings(self) -> ActionResult:
        state = state_of(self)
        return ActionResult(
            {
                "ResourceTypeOptInPreference": state.opt_in,
                "ResourceTypeManagementPreference": state.management,
            }
        )

    def update_region_settings(self) -> EmptyResult:
        state, request = state_of(self), request_of(self)
        state.opt_in.update(request.get("ResourceTypeOptInPreference") or {})
        state.management.update(request.get("ResourceTypeManagementPreference") or {})
        return EmptyResult()


def _selection(response: BackupResponse, state: BackupState) -> dict[str, Any]:
    plan_id, selection_id = _label(response, "backupPlanId"), _label(response, "selectionId")
    row = state.selections.get(plan_id, {}).get(selection_id)
    if row is None:
        raise CloudError("ResourceNotFoundException", f"Backup selection {selection_id} was not found.")
    return row


def tick(account_id: str) -> None:
    for region in dict(backup_backends[account_id]):
        backup_state(account_id, region).settle()


def apply() -> None:
    graft(BackupJobs, BackupResponse)
    graft(BackupPlans, BackupResponse)
    for path in ("backup-jobs", "resources", "account-settings"):
        moto_urls.url_paths[f"{{0}}/{path}/?$"] = BackupResponse.dispatch
        moto_urls.url_paths[f"{{0}}/{path}/(?P<rest>.+)$"] = BackupResponse.dispatch
    moto_urls.url_paths["{0}/backup-vaults/(?P<name>[^/]+)/(?P<rest>.+)$"] = BackupResponse.dispatch
