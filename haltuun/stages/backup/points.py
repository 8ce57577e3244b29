"""Recovery points and jobs of Haltuun's vault: the newest of each instance."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from haltuun.model import Json, Unknown
from haltuun.run import Run
from haltuun.sharing import FRESH_S
from haltuun.stages.backup.names import MAX_AGE_H, VAULT

RUNNING = frozenset({"CREATED", "PENDING", "RUNNING"})
# AVAILABLE and COMPLETED are both whole; PARTIAL is not (botocore backup RecoveryPointStatus).
_WHOLE = frozenset({"COMPLETED", "AVAILABLE"})


def _instance_of(arn: str) -> str:
    return arn.rpartition("/")[2]


def _text(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def share_points(run: Run, region: str, target: str, fresh_s: float = FRESH_S) -> dict[str, Json] | Unknown:
    """`get_points`, the recent ones, read once for all hosts that ask."""
    return run.shared.get(
        ("points", region), target, lambda: get_points(run, region, recent=True), fresh_s=fresh_s
    )


def share_jobs(run: Run, region: str, target: str, fresh_s: float = FRESH_S) -> dict[str, Json] | Unknown:
    """`get_jobs`, read once for all hosts that ask."""
    return run.shared.get(_jobs_key(region), target, lambda: get_jobs(run, region), fresh_s=fresh_s)


def job_started(run: Run, region: str, instance_id: str, answer: Mapping[str, Any] | None) -> None:
    """What StartBackupJob answered (None: nobody knows) goes into what is shared."""
    if answer is None:
        run.shared.changed(_jobs_key(region), instance_id)
        return
    job = {
        "id": answer["BackupJobId"],
        "at": _text(answer.get("CreationDate") or run.now()),
        "state": "CREATED",
        "message": "",
        "failed": 0,
    }

    def put(jobs: dict[str, Json]) -> dict[str, Json]:
        before = jobs.get(instance_id)
        return {**jobs, instance_id: {**job, "failed": before["failed"] if before else 0}}

    run.shared.amend(_jobs_key(region), put)


def _jobs_key(region: str) -> tuple[str, str]:
    return ("jobs", region)


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
