"""Raw answers to facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from haltuun.model import Host, Json, StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.pages import member, moment, one_of, unreadable
from haltuun.stages.patch.facts import SCAN_MAX_AGE_H, PatchAccount, PatchFacts
from haltuun.stages.patch.families import Family
from haltuun.stages.patch.probe import family_from
from haltuun.stages.tags import SCAN

GROUP_KEYS = ("Patch Group", "PatchGroup")


def parse_account(view: View, raw: Json) -> PatchAccount:
    return PatchAccount.model_validate({"regions": raw["regions"]})


def parse_host(view: View, host: Host, raw: Json, host_raw: Json | Unknown) -> PatchFacts:
    found = view.facts.get(StageName.discover, {}).get(host.instance_id)
    discover = found if isinstance(found, DiscoverFacts) else None
    family = family_from(discover)
    columns = {
        **_family_columns(family),
        **_group_columns(discover, family, _of_host(raw["tags"], host)),
        **state_columns(_of_host(raw["states"], host), view.now),
    }
    eol = discover.eol if discover else Unknown(unknown="nothing was discovered of the host")
    prereq = _prerequisites(discover, family, columns)
    return PatchFacts(observed_at=view.now, eol=eol, prereq_ok=prereq, **columns)


def _of_host(by_region: Json, host: Host) -> Json | Unknown:
    """The host's entry in {region: {instance id: …}}; {} where the region answered and had none."""
    region = by_region.get(host.region, Unknown(unknown=f"{host.region} was not asked"))
    if isinstance(region, Mapping) and set(region) == {"unknown"}:
        return Unknown.model_validate(region)  # as a recorded case spells it
    if isinstance(region, Unknown):
        return region
    found = one_of(region, host.instance_id)
    return {} if found is None else found


def _family_columns(family: Family | Unknown | None) -> dict[str, Any]:
    if isinstance(family, Unknown):
        return {"family": family, "supported": family}
    return {"family": family.name if family else None, "supported": family is not None}


def _group_columns(
    discover: DiscoverFacts | None, family: Family | Unknown | None, tags: Json | Unknown
) -> dict[str, Any]:
    if not isinstance(tags, Mapping | Unknown):
        tags = unreadable("Tags")
    if isinstance(tags, Unknown):
        return {"group": tags, "group_foreign": tags, "scan_tag": tags, "group_key": tags}
    key = next((key for key in GROUP_KEYS if key in tags), None)
    group_key: str | Unknown | None = key
    if key is None:
        # EC2 refuses a space in a tag's key while tags are in the instance metadata.
        in_metadata = discover.imds_tags if discover else Unknown(unknown="nothing was discovered")
        group_key = in_metadata if isinstance(in_metadata, Unknown) else GROUP_KEYS[bool(in_metadata)]
    group = member(tags, key, str) if key else None
    foreign: bool | Unknown
    if group is None:
        foreign = False
    elif isinstance(group, Unknown):
        foreign = group
    else:
        foreign = family if isinstance(family, Unknown) else group != (family.name if family else None)
    return {
        "group": group,
        "group_foreign": foreign,
        "scan_tag": member(tags, SCAN, str),
        "group_key": group_key,
    }


def state_columns(state: Json | Unknown, now: datetime) -> dict[str, Any]:
    """The columns of one InstancePatchState; {} means never scanned, which is known."""
    names = (
        "scan_at",
        "scan_age_h",
        "baseline_id",
        "missing",
        "failed",
        "security_missing",
        "pending_reboot",
    )
    if isinstance(state, Unknown):
        return {"scanned": state, **dict.fromkeys(names, state)}
    if isinstance(state, Mapping) and not state:
        return {"scanned": False, **dict.fromkeys(names)}
    ended = moment(state, "OperationEndTime")
    if not isinstance(ended, datetime):
        # It has a state, so something ran there; nobody knows when.
        why = ended if isinstance(ended, Unknown) else unreadable("OperationEndTime")
        return {"scanned": why, **dict.fromkeys(names, why)}
    return {
        "scanned": True,
        "scan_at": ended,
        "scan_age_h": round((now - ended).total_seconds() / 3600, 2),
        "baseline_id": member(state, "BaselineId", str),
        "missing": member(state, "MissingCount", int),
        "failed": member(state, "FailedCount", int),
        "security_missing": member(state, "SecurityNonCompliantCount", int),
        "pending_reboot": member(state, "InstalledPendingRebootCount", int),
    }


def _prerequisites(
    discover: DiscoverFacts | None, family: Family | Unknown | None, columns: Mapping[str, Any]
) -> bool | Unknown:
    """Can a scan run at all? A fresh scan answers that better than any look at the host."""
    age = columns["scan_age_h"]
    if isinstance(age, float) and age <= SCAN_MAX_AGE_H:
        return True
    if isinstance(family, Unknown):
        return family
    if family is None or not family.apt:
        return True
    # Patch Manager's apt plugin is Python 3 (user guide, "Patch Manager prerequisites").
    python3 = discover.python3 if discover else Unknown(unknown="nothing was discovered of the host")
    return python3 if isinstance(python3, Unknown) else python3 is not None
