"""The proof of backup: a completed recovery point of each host, not older than the daily plan allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from haltuun.model import Host, Json, Proof, StageName, Unknown
from haltuun.run import Run
from haltuun.stages import polling
from haltuun.stages.backup.jobs import is_running
from haltuun.stages.backup.kinds import get_vault
from haltuun.stages.backup.names import MAX_AGE_H
from haltuun.stages.backup.parse import point_columns
from haltuun.stages.backup.points import share_jobs, share_points
from haltuun.stages.base import Proven, View
from haltuun.stages.own import Own
from haltuun.stages.pages import one_of
from haltuun.stages.polling import poll
from haltuun.stages.tags import ids_by_region

# A job is waited for until it is this old, so that all hosts together wait once: their jobs run side by
# side. A small volume is done by then. What takes longer is for a later run to find.
JOB_WAIT_S = 900.0

Seen = tuple[Json | Unknown, Json | Unknown]


def prove(run: Run, hosts: Sequence[Host], view: View) -> Mapping[str, Proven]:
    proven: dict[str, Proven] = {}
    by_id = {host.instance_id: host for host in hosts}
    for region, ids in ids_by_region(hosts).items():
        vault = run.shared.get(("vault", region), "", partial(get_vault, run, region))
        if isinstance(vault, Own) and vault.state != "ours":
            continue  # no vault, no recovery points: what the look said of these hosts holds
        points, jobs = _wait_for_points(run, region, ids)
        now = run.now()
        for instance_id in ids:
            point = points if isinstance(points, Unknown) else one_of(points, instance_id)
            # Where no recent one is, what the look said of older ones holds.
            columns = {} if point is None else point_columns(point, now)
            job = None if isinstance(jobs, Unknown) else one_of(jobs, instance_id)
            if job is not None and not isinstance(job, Unknown):
                columns = {**columns, "job_state": job["state"], "job_message": job["message"]}
            proven[instance_id] = Proven(fields=columns, proofs=_proof(run, by_id[instance_id], columns))
    return proven


def _wait_for_points(run: Run, region: str, ids: Sequence[str]) -> Seen:
    # The batches of one stage look at the same vault, one right after the other.
    def look() -> Seen:
        fresh_s = polling.FIRST_WAIT_S
        return share_points(run, region, "", fresh_s), share_jobs(run, region, "", fresh_s)

    def done(seen: Seen) -> bool:
        points, jobs = seen
        if isinstance(points, Unknown) or isinstance(jobs, Unknown):
            return True
        return not any(_awaited(run, one_of(points, i), one_of(jobs, i)) for i in ids)

    return poll(look, done, JOB_WAIT_S, gives_way=True)


def _awaited(run: Run, point: Json | Unknown, job: Json | Unknown) -> bool:
    """No recent recovery point, and a young job that may still bring one."""
    if isinstance(point, Unknown) or isinstance(job, Unknown):
        return False
    if point and _age_h(run, point["at"]) <= MAX_AGE_H:
        return False
    return bool(job) and is_running(run, job) and not is_running(run, job, beyond_s=JOB_WAIT_S)


def _age_h(run: Run, at: str) -> float:
    return (run.now() - datetime.fromisoformat(at)).total_seconds() / 3600


def _proof(run: Run, host: Host, columns: Mapping[str, Any]) -> tuple[Proof, ...]:
    age, at = columns.get("recovery_point_age_h"), columns.get("recovery_point_at")
    if not isinstance(age, float) or age > MAX_AGE_H or not isinstance(at, datetime):
        return ()
    if run.valid_proof(StageName.backup, "recovery_point", host.instance_id):
        return ()
    return (
        Proof(
            host=host.instance_id,
            stage=StageName.backup,
            kind="recovery_point",
            evidence=f"{columns['recovery_point_arn']} completed, begun {at.isoformat()}",
            observed_at=run.now(),
            valid_until=at + timedelta(hours=MAX_AGE_H),
        ),
    )
