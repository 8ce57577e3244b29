"""The first backup of a host, and arming it once its recovery point is there."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from haltuun.errors import AwsError, HaltuunError
from haltuun.model import Change, Json, Unknown
from haltuun.run import Run
from haltuun.stages import polling
from haltuun.stages.backup.names import (
    COMPLETION_WINDOW_MINUTES,
    MAX_AGE_H,
    START_WINDOW_MINUTES,
    VAULT,
    instance_arn,
    role_arn,
)
from haltuun.stages.backup.points import RUNNING, job_started, share_jobs, share_points
from haltuun.stages.base import Kind
from haltuun.stages.pages import one_of, text
from haltuun.stages.polling import poll
from haltuun.stages.tags import MANAGED, apply_tag, look_tag

STARTED: Json = {"backup": "started"}
# How long a host's own turn waits for its recovery point. While it waits, the jobs of the hosts after it
# are not started; a first backup takes from minutes to hours. What comes later is armed by a later run.
ARM_WAIT_S = 30.0
# A new role is known to AWS Backup within seconds of its making.
ROLE_SETTLES_S = 60.0


def _arn(run: Run, change: Change) -> str:
    return instance_arn(run.aws.partition, change.region, run.account.id, change.target)


def _age_h(run: Run, at: str) -> float:
    return (run.now() - datetime.fromisoformat(at)).total_seconds() / 3600


def look_job(run: Run, change: Change) -> Json | Unknown:
    """ "started" when a job runs or a recent recovery point is there: then none is to be started."""
    points = share_points(run, change.region, change.target)
    if isinstance(points, Unknown):
        return points
    point = one_of(points, change.target)
    if isinstance(point, Unknown):
        return point
    if _recent(run, point):
        return STARTED
    job = _job_of(run, change)
    if isinstance(job, Unknown):
        return job
    return STARTED if job and job["state"] in RUNNING else None


def apply_job(run: Run, change: Change) -> Json:
    arn = _arn(run, change)
    job = _job_of(run, change)
    failed = job["failed"] if job and not isinstance(job, Unknown) else 0
    # The same token within a day starts no second job; one that failed must not be answered again.
    token = f"haltuun-{change.target}-{run.now():%Y%m%d}-{failed}"

    def attempt() -> dict[str, Any] | AwsError:
        try:
            return run.aws.call(
                "backup",
                "StartBackupJob",
                change.region,
                BackupVaultName=VAULT,
                ResourceArn=arn,
                IamRoleArn=role_arn(run.aws.partition, run.account.id),
                IdempotencyToken=token,
                StartWindowMinutes=START_WINDOW_MINUTES,
                CompleteWindowMinutes=COMPLETION_WINDOW_MINUTES,
                Lifecycle={"DeleteAfterDays": run.config.policy.backup_retention_days},
                RecoveryPointTags={MANAGED: "true"},
            )
        except AwsError as error:
            return error

    answer = poll(attempt, lambda seen: not is_role_unsettled(seen), ROLE_SETTLES_S)
    if isinstance(answer, AwsError):
        job_started(run, change.region, change.target, None)
        raise answer
    job_started(run, change.region, change.target, answer)
    return {"job_id": text(answer, "BackupJobId")}


def _job_of(run: Run, change: Change) -> Json | Unknown | None:
    jobs = share_jobs(run, change.region, change.target)
    return jobs if isinstance(jobs, Unknown) else one_of(jobs, change.target)


def is_role_unsettled(answer: object) -> bool:
    """AWS Backup cannot yet assume a role that IAM has only just made."""
    return (
        isinstance(answer, AwsError)
        and answer.code == "InvalidParameterValueException"
        and "role" in answer.message.lower()
    )


def apply_arm(run: Run, change: Change) -> Json:
    """Set the tag, but only once a recent recovery point is complete.

    Where any host's job has run longer than a turn waits, this one will not be quicker: then nothing is
    waited for, and two hundred hosts cost one wait and not two hundred.
    """
    # Hosts that wait side by side look together.
    fresh_s = polling.FIRST_WAIT_S

    def look() -> tuple[Json | Unknown, Json | Unknown]:
        points = share_points(run, change.region, change.target, fresh_s)
        point = points if isinstance(points, Unknown) else one_of(points, change.target)
        return point, share_jobs(run, change.region, change.target, fresh_s)

    def done(seen: tuple[Json | Unknown, Json | Unknown]) -> bool:
        point, jobs = seen
        if isinstance(point, Unknown) or _recent(run, point):
            return True
        if isinstance(jobs, Unknown):
            return False
        job = one_of(jobs, change.target)
        if isinstance(job, Unknown):
            return False
        ended = job is None or job["state"] not in RUNNING | {"COMPLETED"}
        others = (other for other in jobs.values() if not isinstance(other, Unknown))
        return ended or any(is_running(run, other, beyond_s=ARM_WAIT_S) for other in others)

    point, jobs = poll(look, done, ARM_WAIT_S)
    if isinstance(point, Unknown) or not _recent(run, point):
        raise _not_ready(change, point, jobs if isinstance(jobs, Unknown) else one_of(jobs, change.target))
    apply_tag(run, change)
    return {"recovery_point": point["arn"]}


def is_running(run: Run, job: Json, *, beyond_s: float = 0.0) -> bool:
    """Not ended, and begun more than `beyond_s` ago."""
    return job["state"] in RUNNING and _age_h(run, job["at"]) * 3600 >= beyond_s


def _recent(run: Run, point: Json) -> bool:
    return bool(point) and _age_h(run, point["at"]) <= MAX_AGE_H


def _not_ready(change: Change, point: Json | Unknown, job: Json | Unknown) -> HaltuunError:
    remedy = "Look at the job in AWS Backup, then retry."
    if isinstance(point, Unknown):
        message = f"its recovery points could not be read ({point.unknown})."
    elif isinstance(job, Unknown) or not job:
        message = "no recovery point is there, and no backup job is running."
    elif job["state"] in RUNNING:
        message = f"its backup job was {job['state']} when it was to be armed: nothing was complete."
        remedy = "Run again when it has ended: no second one is started, and the approved plan still holds."
    else:
        message = f"its backup job ended {job['state']}: {job['message'] or 'no reason given'}."
    return HaltuunError(
        message,
        subject=change.target,
        remedy=remedy,
        code="NO_RECOVERY_POINT",
        unchanged=True,
    )


JOB = Kind(name="backup.job", look=look_job, apply=apply_job)
ARM = Kind(name="backup.arm", look=look_tag, apply=apply_arm)
