"""Who cannot go on from discover, and the snapshot that is kept of a host that looks compromised."""

from __future__ import annotations

from typing import Any

from haltuun.cost import full_backup
from haltuun.errors import HaltuunError
from haltuun.gates import Check
from haltuun.model import Barred, Change, Host, Json, Reach, StageName, StagePlan, Unknown, Verdict
from haltuun.run import Run
from haltuun.stages.base import Kind, View
from haltuun.stages.discover.account import EVIDENCE_TAG
from haltuun.stages.discover.facts import DiscoverAccount, DiscoverFacts

EVIDENCE = "ec2.snapshot.evidence"

CHECKS = (
    Check(
        column="state",
        op="in_set",
        values=("running", "stopped", "pending", "stopping"),
        code="INSTANCE_GONE",
        message="The instance is {value}.",
        remedy="Nothing to do: it will not be listed any more.",
    ),
    Check(
        column="platform",
        op="in_set",
        values=("linux", "windows"),
        code="HOST_UNKNOWN",
        message="EC2 gives no platform for the instance.",
        remedy="Allow ec2:DescribeInstances in its region, then retry.",
    ),
    Check(
        column="image_id",
        op="match",
        pattern="^ami-",
        code="HOST_UNKNOWN",
        message="EC2 gives no image for the instance.",
        remedy="Allow ec2:DescribeInstances in its region, then retry.",
    ),
    Check(
        column="compromise",
        op="in_set",
        values=("none seen", "not looked"),
        code="SUSPECT",
        message="There are strong signs of a compromise.",
        remedy="Isolate it, keep a snapshot as evidence, and let a person decide.",
    ),
)


def plan(view: View) -> StagePlan:
    changes: list[Change] = []
    barred: list[Barred] = []
    for instance_id in view.entering:
        facts = view.facts.get(StageName.discover, {}).get(instance_id)
        if not isinstance(facts, DiscoverFacts):
            continue
        if facts.exclude is not None:
            barred.append(
                Barred(
                    host=instance_id,
                    code="EXCLUDED",
                    message=f"Left alone: {facts.exclude}.",
                    remedy="Take the exclusion out of haltuun.yaml or off its tags to take it over.",
                    verdict=Verdict.excluded,
                )
            )
        elif facts.is_suspect and isinstance(facts.suspect, tuple):
            barred.append(
                Barred(
                    host=instance_id,
                    code="SUSPECT",
                    message=f"Strong signs of a compromise: {'; '.join(facts.suspect[:3])}.",
                    remedy="Isolate it, approve the snapshot as evidence, and let a person decide.",
                )
            )
            change = plan_evidence(view, view.hosts[instance_id], facts)
            if change is not None:
                changes.append(change)
    return StagePlan(changes=tuple(changes), barred=tuple(barred))


def plan_evidence(view: View, host: Host, facts: DiscoverFacts) -> Change | None:
    account = view.account_facts.get(StageName.discover)
    kept = account.evidence.get(host.region) if isinstance(account, DiscoverAccount) else None
    if isinstance(kept, tuple) and host.instance_id in kept:
        return None
    return Change(
        stage=StageName.discover,
        kind=EVIDENCE,
        region=host.region,
        target=host.instance_id,
        hosts=(host.instance_id,),
        before={"kept": False},
        after={"kept": True},
        reach=Reach.irreversible,
        summary=f"Keep a snapshot of all volumes of {host.label} as evidence.",
        permissions=("ec2:CreateSnapshots", "ec2:CreateTags", "ec2:DescribeSnapshots"),
        no_undo="evidence is deleted by a person only",
        detail={"name": host.name},
        monthly_cost=full_backup(host.region, facts.volumes_gib),
    )


def look_evidence(run: Run, change: Change) -> Json | Unknown:
    found = run.aws.ask(
        lambda: run.aws.pages(
            "ec2",
            "DescribeSnapshots",
            "Snapshots",
            change.region,
            OwnerIds=["self"],
            Filters=[{"Name": f"tag:{EVIDENCE_TAG}", "Values": [change.target]}],
        )
    )
    if isinstance(found, Unknown):
        return found
    return {"kept": any(snapshot.get("State") != "error" for snapshot in found)}


def apply_evidence(run: Run, change: Change) -> Json:
    """A crash-consistent set over all volumes: CreateSnapshots takes them at one point in time."""
    tags = [
        {"Key": "Name", "Value": f"haltuun-evidence {change.target}"},
        {"Key": "haltuun:managed", "Value": "true"},
        {"Key": EVIDENCE_TAG, "Value": change.target},
        {"Key": "haltuun:run", "Value": run.id},
    ]
    answer: dict[str, Any] = run.aws.call(
        "ec2",
        "CreateSnapshots",
        change.region,
        InstanceSpecification={"InstanceId": change.target, "ExcludeBootVolume": False},
        Description=f"Evidence: {change.target} looked compromised",
        TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}],
    )
    ids = [snapshot["SnapshotId"] for snapshot in answer.get("Snapshots") or ()]
    if not ids:
        raise HaltuunError(
            "no snapshot was made.",
            subject=change.target,
            remedy="Make one by hand before anything is changed on the host.",
            code="EVIDENCE_FAILED",
        )
    return {"snapshots": ids}


KINDS = {EVIDENCE: Kind(name=EVIDENCE, look=look_evidence, apply=apply_evidence)}
