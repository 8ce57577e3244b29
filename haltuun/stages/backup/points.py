"""Recovery points and jobs of Haltuun's vault: the newest of each instance."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from haltuun.model import Json, Unknown
from haltuun.run import Run
from haltuun.sharing import FRESH_S
from haltuun.stages.backup.names import MAX_AGE_H, VAULT
from haltuun.stages.pages import UNNAMED, member, moment, text, unreadable

RUNNING = frozenset({"CREATED", "PENDING", "RUNNING"})
# AVAILABLE and COMPLETED are both whole; PARTIAL is not (botocore backup RecoveryPointStatus).
_WHOLE = frozenset({"COMPLETED", "AVAILABLE"})


Rows = dict[str, Json | Unknown]  # by instance id, and UNNAMED


def _instance_of(row: Json) -> str:
    return text(row, "ResourceArn").rpartition("/")[2] or UNNAMED


def share_points(run: Run, region: str, target: str, fresh_s: float = FRESH_S) -> Rows | Unknown:
    """`get_points`, the recent ones, read once for all hosts that ask."""
    return run.shared.get(
        ("points", region), target, lambda: get_points(run, region, recent=True), fresh_s=fresh_s
    )


def share_jobs(run: Run, region: str, target: str, fresh_s: float = FRESH_S) -> Rows | Unknown:
    """`get_jobs`, read once for all hosts that ask."""
    return run.shared.get(_jobs_key(region), target, lambda: get_jobs(run, region), fresh_s=fresh_s)


def job_started(run: Run, region: str, instance_id: str, answer: Mapping[str, Any] | None) -> None:
    """What StartBackupJob answered (None: nobody knows) goes into what is shared."""
    if answer is None:
        run.shared.changed(_jobs_key(region), instance_id)
        return
    at = moment(answer, "CreationDate")
    job = {
        "id": text(answer, "BackupJobId"),
        "at": (at if isinstance(at, datetime) else run.now()).isoformat(),
        "state": "CREATED",
        "message": "",
        "failed": 0,
    }

    def put(jobs: Rows) -> Rows:
        before = jobs.get(instance_id)
        failed = before["failed"] if before and not isinstance(before, Unknown) else 0
        return {**jobs, instance_id: {**job, "failed": failed}}

    run.shared.amend(_jobs_key(region), put)


def _jobs_key(region: str) -> tuple[str, str]:
    return ("jobs", region)


def get_points(run: Run, region: str, *, recent: bool = False) -> Rows | Unknown:
    """Instance id → its newest whole recovery point: {"arn", "at"}; unknown where none is surely whole and of
    some time. `recent`: of the last hours alone, for a vault keeps one a night of each host.
    """
    narrowed: dict[str, Any] = {"ByResourceType": "EC2"}
    if recent:
        narrowed["ByCreatedAfter"] = run.now() - timedelta(hours=MAX_AGE_H)

    def question() -> Rows:
        newest: Rows = {}
        for point in run.aws.pages(
            "backup",
            "ListRecoveryPointsByBackupVault",
            "RecoveryPoints",
            region,
            BackupVaultName=VAULT,
            **narrowed,
        ):
            status, at = member(point, "Status", str), moment(point, "CreationDate")
            if isinstance(status, str) and status not in _WHOLE:
                continue
            if isinstance(status, str) and isinstance(at, datetime):
                entry: Json = {"arn": text(point, "RecoveryPointArn") or None, "at": at.isoformat()}
            else:
                entry = unreadable("CreationDate" if isinstance(status, str) else "Status")
            _keep_newest(newest, _instance_of(point), entry)
        return newest

    return run.aws.ask(question)


def get_jobs(run: Run, region: str) -> Rows | Unknown:
    """Instance id → its newest job of the last hours: {"id", "at", "state", "message", "failed"}; unknown
    where none says its state and its time."""

    def question() -> Rows:
        newest: Rows = {}
        failed: dict[str, int] = {}
        for job in run.aws.pages(
            "backup",
            "ListBackupJobs",
            "BackupJobs",
            region,
            ByBackupVaultName=VAULT,
            ByCreatedAfter=run.now() - timedelta(hours=MAX_AGE_H),
        ):
            instance_id = _instance_of(job)
            state, at = member(job, "State", str), moment(job, "CreationDate")
            if not isinstance(state, str) or not isinstance(at, datetime):
                _keep_newest(newest, instance_id, unreadable("State and CreationDate"))
                continue
            if state not in RUNNING | {"COMPLETED"}:
                failed[instance_id] = failed.get(instance_id, 0) + 1
            entry = {
                "id": text(job, "BackupJobId"),
                "at": at.isoformat(),
                "state": state,
                "message": text(job, "StatusMessage"),
            }
            _keep_newest(newest, instance_id, entry)
        return {
            i: one if isinstance(one, Unknown) else {**one, "failed": failed.get(i, 0)}
            for i, one in newest.items()
        }

    return run.aws.ask(question)


def _keep_newest(newest: Rows, instance_id: str, entry: Json | Unknown) -> None:
    """What is known of the host stands, whatever else there is; of a row that names no host nothing is."""
    have = newest.get(instance_id)
    if instance_id == UNNAMED:
        newest[UNNAMED] = unreadable("ResourceArn")
    elif have is None or isinstance(have, Unknown) or _is_newer(entry, have):
        newest[instance_id] = entry


def _is_newer(entry: Json | Unknown, have: Json) -> bool:
    return not isinstance(entry, Unknown) and bool(entry["at"] > have["at"])
