"""Recovery points and jobs of Haltuun's vault: the newest of each instance."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from haltuun.model import Json, Unknown
from haltuun.run import Run
from haltuun.stages.backup.names import MAX_AGE_H, VAULT

RUNNING = frozenset({"CREATED", "PENDING", "RUNNING"})
# AVAILABLE and COMPLETED are both whole; PARTIAL is not (botocore backup RecoveryPointStatus).
_WHOLE = frozenset({"COMPLETED", "AVAILABLE"})


def _instance_of(arn: str) -> str:
    return arn.rpartition("/")[2]


def _text(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def get_points(run: Run, region: str, *, recent: bool = False) -> dict[str, Json] | Unknown:
    """Instance id → its newest whole recovery point: {"arn", "at"}. `recent`: of the last hours alone, for
    a vault keeps one a night of each host.
    """
    narrowed: dict[str, Any] = {"ByResourceType": "EC2"}
    if recent:
        narrowed["ByCreatedAfter"] = run.now() - timedelta(hours=MAX_AGE_H)

    def question() -> dict[str, Json]:
        newest: dict[str, Json] = {}
        for point in run.aws.pages(
            "backup",
            "ListRecoveryPointsByBackupVault",
            "RecoveryPoints",
            region,
            BackupVaultName=VAULT,
            **narrowed,
        ):
            if point.get("Status") in _WHOLE and point.get("CreationDate"):
                entry = {"arn": point["RecoveryPointArn"], "at": _text(point["CreationDate"])}
                _keep_newest(newest, _instance_of(str(point.get("ResourceArn"))), entry)
        return newest

    return run.aws.ask(question)


def get_jobs(run: Run, region: str) -> dict[str, Json] | Unknown:
    """Instance id → its newest job of the last hours: {"id", "at", "state", "message", "failed"}."""

    def question() -> dict[str, Json]:
        newest: dict[str, Json] = {}
        failed: dict[str, int] = {}
        for job in run.aws.pages(
            "backup",
            "ListBackupJobs",
            "BackupJobs",
            region,
            ByBackupVaultName=VAULT,
            ByCreatedAfter=run.now() - timedelta(hours=MAX_AGE_H),
        ):
            instance_id = _instance_of(str(job.get("ResourceArn")))
            if job.get("State") not in RUNNING | {"COMPLETED"}:
                failed[instance_id] = failed.get(instance_id, 0) + 1
            entry = {
                "id": job.get("BackupJobId"),
                "at": _text(job.get("CreationDate")),
                "state": job.get("State"),
                "message": job.get("StatusMessage") or "",
            }
            _keep_newest(newest, instance_id, entry)
        return {i: {**entry, "failed": failed.get(i, 0)} for i, entry in newest.items()}

    return run.aws.ask(question)


def _keep_newest(newest: dict[str, Json], instance_id: str, entry: Mapping[str, Any]) -> None:
    have = newest.get(instance_id)
    if have is None or str(entry["at"]) > str(have["at"]):
        newest[instance_id] = dict(entry)
