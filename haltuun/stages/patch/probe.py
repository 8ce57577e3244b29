"""Looks: Haltuun's own patch things in each region, who else scans, and each host's last scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from haltuun.aws import chunks
from haltuun.model import Host, Json, StageName, Unknown
from haltuun.run import Run
from haltuun.stages.associations import get_association, get_associations
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.pages import text, unreadable
from haltuun.stages.patch.families import Family, family_of
from haltuun.stages.patch.kinds import (
    get_baseline,
    get_patch_group,
    get_window,
    get_window_target,
    get_window_task,
)
from haltuun.stages.tags import get_instance_tags, ids_by_region

SCAN = "haltuun-scan"
# Documents that scan or install; AWS-RunPatchBaselineAssociation is Quick Setup's.
_PATCH_DOCUMENTS = ("AWS-RunPatchBaseline", "AWSQuickSetup-", "AWS-QuickSetup", "AWS-InstallWindowsUpdates")
# DescribeInstancePatchStates takes 50 ids (botocore 1.44).
_STATES = 50


def family_from(facts: DiscoverFacts | None) -> Family | Unknown | None:
    """The host's family; None when Patch Manager has none, Unknown when nobody could say what it runs."""
    if facts is None:
        return Unknown(unknown="nothing was discovered of the host")
    if facts.platform == "windows":
        return family_of("windows", "")
    if not isinstance(facts.os_id, Unknown):
        version = "" if isinstance(facts.os_version, Unknown) else facts.os_version
        return family_of(facts.os_id, version)
    if isinstance(facts.ssm_platform_name, str):
        version = facts.ssm_platform_version if isinstance(facts.ssm_platform_version, str) else ""
        return family_of("", version, facts.ssm_platform_name)
    return facts.os_id


def discovered(run: Run, host: Host) -> DiscoverFacts | None:
    facts = run.facts.get(StageName.discover, {}).get(host.instance_id)
    return facts if isinstance(facts, DiscoverFacts) else None


def probe_account(run: Run, hosts: Sequence[Host]) -> Json:
    """By region: our own things, competing associations, tags and patch states of the hosts."""
    families: dict[str, set[str]] = {}
    for host in hosts:
        family = family_from(discovered(run, host))
        names = families.setdefault(host.region, set())
        if isinstance(family, Family):
            names.add(family.name)
    return {
        "regions": {region: _probe_region(run, region, sorted(names)) for region, names in families.items()},
        "tags": get_instance_tags(run, hosts),
        "states": {
            region: get_patch_states(run, region, ids) for region, ids in ids_by_region(hosts).items()
        },
    }


def _probe_region(run: Run, region: str, names: Sequence[str]) -> Mapping[str, Any]:
    return {
        "baselines": {name: get_baseline(run, region, name) for name in names},
        "groups": {name: get_patch_group(run, region, name) for name in names},
        "window": get_window(run, region),
        "window_target": get_window_target(run, region),
        "window_task": get_window_task(run, region),
        "scan": get_association(run, region, SCAN),
        "competing": _competing(get_associations(run, region)),
    }


def _competing(associations: list[dict[str, Any]] | Unknown) -> list[str] | Unknown:
    if isinstance(associations, Unknown):
        return associations
    return sorted(
        f"{found.get('AssociationName') or found.get('AssociationId', '?')} ({found['Name']})"
        for found in associations
        if str(found.get("Name", "")).startswith(_PATCH_DOCUMENTS)
        and not str(found.get("AssociationName", "")).startswith("haltuun-")
    )


def get_patch_states(run: Run, region: str, ids: Sequence[str]) -> dict[str, Json | Unknown] | Unknown:
    """Instance id → InstancePatchState with times as text; hosts that were never scanned are not in it (see
    `one_of`)."""

    def question() -> dict[str, Json | Unknown]:
        states: dict[str, Json | Unknown] = {}
        for some in chunks(ids, _STATES):
            for state in run.aws.pages(
                "ssm", "DescribeInstancePatchStates", "InstancePatchStates", region, InstanceIds=list(some)
            ):
                whose = text(state, "InstanceId")
                states[whose] = (
                    {
                        key: value.isoformat() if hasattr(value, "isoformat") else value
                        for key, value in state.items()
                    }
                    if whose
                    else unreadable("InstanceId")
                )
        return states

    return run.aws.ask(question)
