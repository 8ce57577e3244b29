"""Looks: our own backup things, recovery points and jobs in our vault, and what protects hosts already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from haltuun.aws import chunks, tags_of
from haltuun.model import Host, Json, StageName, Unknown
from haltuun.run import Run
from haltuun.stages.backup.kinds import get_plan, get_role, get_role_policy, get_selection, get_vault
from haltuun.stages.backup.names import POLICIES, SELECTION, VAULT
from haltuun.stages.backup.points import get_jobs, get_points
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.own import Own
from haltuun.stages.pages import UNNAMED, moment, text, unreadable
from haltuun.stages.tags import ARMED, MANAGED, get_instance_tags, ids_by_region

# DescribeSnapshots takes at most 200 values a filter (EC2 API reference, "Filter").
_FILTER_VALUES = 200


def probe_account(run: Run, hosts: Sequence[Host]) -> Json:
    home = run.aws.home_region
    regions = {region: _probe_region(run, region) for region in ids_by_region(hosts)}
    return {
        "home_region": home,
        "role": get_role(run, home),
        "policies": {name: get_role_policy(run, home, name) for name in POLICIES},
        "regions": regions,
        "points": {region: _if_vault(seen, run, region, get_points) for region, seen in regions.items()},
        "jobs": {region: _if_vault(seen, run, region, get_jobs) for region, seen in regions.items()},
        "tags": get_instance_tags(run, hosts),
        "armed_before": get_armed_before(run),
        "protected": {region: get_protected(run, region) for region in regions},
        "snapshots": _probe_snapshots(run, hosts),
    }


def get_armed_before(run: Run) -> list[str]:
    """Instances that Haltuun armed, by its ledger, and has not disarmed since."""
    armed: dict[str, bool] = {}
    for event in run.ledger.change_events(run.account.id):
        after = event.change.after
        if event.event == "confirmed" and isinstance(after, dict) and ARMED in after:
            armed[event.change.target] = after[ARMED] == "yes"
    return sorted(instance_id for instance_id, yes in armed.items() if yes)


def _probe_region(run: Run, region: str) -> Mapping[str, Any]:
    return {
        "vault": get_vault(run, region),
        "plan": get_plan(run, region),
        "selection": get_selection(run, region, SELECTION),
        "opted_out": _opted_out(run, region),
    }


def _if_vault(seen: Mapping[str, Any], run: Run, region: str, get: Any) -> Json | Unknown:
    """Without a vault of ours there are no recovery points in it: known without asking."""
    vault = seen["vault"]
    if isinstance(vault, Own) and vault.state != "ours":
        return {}
    return get(run, region)


def _opted_out(run: Run, region: str) -> list[str] | Unknown:
    def question() -> list[str]:
        answer = run.aws.call("backup", "DescribeRegionSettings", region)
        opted = answer.get("ResourceTypeOptInPreference") or {}
        return [kind for kind in ("EBS", "EC2") if opted.get(kind) is False]

    return run.aws.ask(question)


def get_protected(run: Run, region: str) -> dict[str, str | Unknown] | Unknown:
    """Instance id → where AWS Backup holds a recovery point of it outside our vault, and since when."""

    def question() -> dict[str, str | Unknown]:
        found: dict[str, str | Unknown] = {}
        for resource in run.aws.pages("backup", "ListProtectedResources", "Results", region):
            arn, vault = text(resource, "ResourceArn"), text(resource, "LastBackupVaultArn")
            if not arn:
                found[UNNAMED] = unreadable("ResourceArn")
            if ":instance/" in arn and vault.rpartition(":")[2] != VAULT:
                last = moment(resource, "LastBackupTime")
                day = last.date().isoformat() if isinstance(last, datetime) else "unknown"
                name = vault.rpartition(":")[2] or "?"
                found[arn.rpartition("/")[2]] = f"AWS Backup, vault {name}, last {day}"
        return found

    return run.aws.ask(question)


def _probe_snapshots(run: Run, hosts: Sequence[Host]) -> dict[str, Json | Unknown]:
    """Region → volume id → the newest snapshot that AWS Backup did not make, as a sentence's part."""
    volumes: dict[str, list[str]] = {}
    for host in hosts:
        facts = run.facts.get(StageName.discover, {}).get(host.instance_id)
        ids = facts.volume_ids if isinstance(facts, DiscoverFacts) else ()
        volumes.setdefault(host.region, []).extend(ids if isinstance(ids, tuple) else ())
    return {region: get_snapshots(run, region, ids) for region, ids in volumes.items()}


def get_snapshots(run: Run, region: str, volume_ids: Sequence[str]) -> dict[str, str | Unknown] | Unknown:
    def question() -> dict[str, str | Unknown]:
        newest: dict[str, tuple[str, str]] = {}
        unread: dict[str, str | Unknown] = {}
        for some in chunks(volume_ids, _FILTER_VALUES):
            filters = [{"Name": "volume-id", "Values": list(some)}]
            for snapshot in run.aws.pages(
                "ec2", "DescribeSnapshots", "Snapshots", region, OwnerIds=["self"], Filters=filters
            ):
                tags = tags_of(snapshot)
                if snapshot.get("State") != "completed" or MANAGED in tags or _by_aws_backup(snapshot, tags):
                    continue
                policy = tags.get("aws:dlm:lifecycle-policy-id")
                begun, volume = moment(snapshot, "StartTime"), text(snapshot, "VolumeId")
                if not volume:
                    unread[UNNAMED] = unreadable("VolumeId")
                    continue
                day = begun.date().isoformat() if isinstance(begun, datetime) else "?"
                made_by = f"lifecycle policy {policy}" if policy else "snapshot"
                told = f"{made_by}, {text(snapshot, 'SnapshotId') or '?'} of {day}"
                newest[volume] = max(newest.get(volume, ("", "")), (day.replace("?", ""), told))
        return {**unread, **{volume: told for volume, (_, told) in newest.items()}}

    return run.aws.ask(question)


def _by_aws_backup(snapshot: Mapping[str, Any], tags: Mapping[str, str]) -> bool:
    """AWS Backup tags what it makes, and says so in words: ListProtectedResources has those."""
    marked = any(key.startswith("aws:backup:") for key in tags)
    return marked or "AWS Backup" in str(snapshot.get("Description", ""))
