"""Raw answers to facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from haltuun.model import Host, Json, StageName, Unknown
from haltuun.stages.backup.facts import BackupAccount, BackupFacts
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.pages import member, moment, one_of, unreadable
from haltuun.stages.tags import ARMED, BACKUP


def parse_account(view: View, raw: Json) -> BackupAccount:
    names = ("home_region", "role", "policies", "regions")
    return BackupAccount.model_validate({name: raw[name] for name in names})


def parse_host(view: View, host: Host, raw: Json, host_raw: Json | Unknown) -> BackupFacts:
    found = view.facts.get(StageName.discover, {}).get(host.instance_id)
    discover = found if isinstance(found, DiscoverFacts) else None
    tags = entry_of(raw["tags"], host)
    return BackupFacts(
        observed_at=view.now,
        excluded_why=_excluded_why(discover),
        backup_tag=tags if isinstance(tags, Unknown) else member(tags, BACKUP, str),
        armed=tags if isinstance(tags, Unknown) else member(tags, ARMED, str),
        armed_before=host.instance_id in raw["armed_before"],
        protected_by=_protected_by(host, discover, raw),
        consistency="crash",
        **point_columns(entry_of(raw["points"], host), view.now),
        **_job_columns(entry_of(raw["jobs"], host)),
    )


def entry_of(by_region: Json, host: Host, key: str = "") -> Any:
    """The host's entry in {region: {instance id: …}}; {} where the region answered and had none (see
    `one_of`)."""
    region = by_region.get(host.region, Unknown(unknown=f"{host.region} was not asked"))
    if isinstance(region, Mapping) and set(region) == {"unknown"}:
        return Unknown.model_validate(region)  # as a recorded case spells it
    if isinstance(region, Unknown):
        return region
    found = one_of(region, key or host.instance_id)
    return {} if found is None else found


def point_columns(point: Json | Unknown, now: datetime) -> dict[str, Any]:
    """The columns of a host's newest recovery point; {} means there is none, which is known."""
    names = ("recovery_point_arn", "recovery_point_at", "recovery_point_age_h")
    if isinstance(point, Unknown):
        return {"recovery_point": point, **dict.fromkeys(names, point)}
    if isinstance(point, Mapping) and not point:
        return {"recovery_point": False, **dict.fromkeys(names)}
    at = moment(point, "at")
    if not isinstance(at, datetime):
        why = at if isinstance(at, Unknown) else unreadable("CreationDate")
        return {"recovery_point": why, **dict.fromkeys(names, why)}
    return {
        "recovery_point": True,
        "recovery_point_arn": member(point, "arn", str),
        "recovery_point_at": at,
        "recovery_point_age_h": round((now - at).total_seconds() / 3600, 2),
    }


def _job_columns(job: Json | Unknown) -> dict[str, Any]:
    if isinstance(job, Unknown):
        return {"job_state": job, "job_message": job}
    return {"job_state": member(job, "state", str), "job_message": member(job, "message", str)}


def _excluded_why(discover: DiscoverFacts | None) -> str:
    if discover is None:
        return ""
    if discover.exclude:
        return f"it is to be left alone: {discover.exclude}"
    if discover.is_suspect:
        return "it may be compromised: its snapshot is evidence, and a person decides"
    if isinstance(discover.asg, str):
        return f"it is a member of the Auto Scaling group {discover.asg}, which replaces it"
    return ""


def _protected_by(host: Host, discover: DiscoverFacts | None, raw: Json) -> tuple[str, ...] | Unknown:
    backed = entry_of(raw["protected"], host)
    if isinstance(backed, Unknown):
        return backed
    volumes = discover.volume_ids if discover else Unknown(unknown="nothing was discovered of the host")
    if isinstance(volumes, Unknown):
        return volumes
    if not isinstance(backed, str) and backed != {}:
        return unreadable("ResourceArn")
    found = [backed] if backed else []
    for volume in volumes:
        snapshot = entry_of(raw["snapshots"], host, volume)
        if isinstance(snapshot, Unknown):
            return snapshot
        if not isinstance(snapshot, str) and snapshot != {}:
            return unreadable("SnapshotId")
        if snapshot:
            found.append(f"{volume}: {snapshot}")
    return tuple(found)
