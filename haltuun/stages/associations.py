"""State Manager associations: found by name, read in a change's terms, made, changed and removed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from haltuun.model import Change, Json, Unknown
from haltuun.run import Run
from haltuun.stages.base import Kind
from haltuun.stages.own import ABSENT, Own, as_value, get_own, get_ssm_tags, is_ours
from haltuun.stages.polling import poll
from haltuun.stages.tags import managed_tags

KIND = "ssm.association"
PERMISSIONS = ("ssm:CreateAssociation", "ssm:UpdateAssociation", "ssm:AddTagsToResource")
PATIENCE_S = 60.0
FINAL = frozenset({"Success", "Failed", "TimedOut", "Cancelled", "Skipped"})


def association_value(
    document: str,
    target: tuple[str, Sequence[str]],
    parameters: Mapping[str, Sequence[str]],
    schedule: str | None = None,
) -> Json:
    """What decides of an association: which document runs where, how often and how."""
    return {
        "document": document,
        "targets": [[target[0], sorted(target[1])]],
        "schedule": schedule,
        "parameters": {name: list(values) for name, values in parameters.items()},
    }


def _value(described: Mapping[str, Any]) -> Json:
    return {
        "document": described["Name"],
        "targets": [[t["Key"], sorted(t["Values"])] for t in described.get("Targets") or ()],
        "schedule": described.get("ScheduleExpression") or None,
        "parameters": {name: list(values) for name, values in (described.get("Parameters") or {}).items()},
    }


def get_associations(run: Run, region: str) -> list[dict[str, Any]] | Unknown:
    """All of a region, as ListAssociations gives them: without parameters."""
    return run.aws.ask(lambda: run.aws.pages("ssm", "ListAssociations", "Associations", region))


def get_association(
    run: Run, region: str, name: str, listed: Sequence[dict[str, Any]] | Unknown | None = None
) -> Own | Unknown:
    """Our association of that name; `listed` are the region's, where they have been asked for already."""
    if isinstance(listed, Unknown):
        return listed

    def question() -> Own:
        wanted = [{"key": "AssociationName", "value": name}]
        found_all = (
            run.aws.pages("ssm", "ListAssociations", "Associations", region, AssociationFilterList=wanted)
            if listed is None
            else listed
        )
        # Names of associations are not unique: ours is the one that says so.
        same = [found for found in found_all if found.get("AssociationName") == name]
        for found in same:
            tags = get_ssm_tags(run, region, "Association", found["AssociationId"])
            # An association has no description to tell by: where tags cannot be read, its name does.
            if isinstance(tags, Unknown) or is_ours(tags):
                return _described(run, region, found["AssociationId"])
        return Own(state="foreign", id=same[0]["AssociationId"]) if same else ABSENT

    return get_own(run, question)


def _described(run: Run, region: str, association_id: str) -> Own:
    answer = run.aws.call("ssm", "DescribeAssociation", region, AssociationId=association_id)
    return Own(state="ours", id=association_id, value=_value(answer["AssociationDescription"]))


def look_association(run: Run, change: Change) -> Json | Unknown:
    return as_value(get_association(run, change.region, change.target))


def apply_association(run: Run, change: Change) -> Json:
    seen = get_association(run, change.region, change.target)
    there = isinstance(seen, Own) and seen.state == "ours"
    if change.after is None:
        if isinstance(seen, Own) and there:
            run.aws.call("ssm", "DeleteAssociation", change.region, AssociationId=seen.id)
        return None
    after = change.after
    body: dict[str, Any] = {
        "Name": after["document"],
        "AssociationName": change.target,
        "Targets": [{"Key": key, "Values": values} for key, values in after["targets"]],
        "Parameters": after["parameters"],
        # One host that fails must not keep the others from being served.
        "MaxConcurrency": "50",
        "MaxErrors": "100%",
    }
    if after["schedule"]:
        body["ScheduleExpression"] = after["schedule"]
    if isinstance(seen, Own) and there:
        run.aws.call("ssm", "UpdateAssociation", change.region, AssociationId=seen.id, **body)
        return {"association_id": seen.id}
    made = run.aws.call("ssm", "CreateAssociation", change.region, Tags=managed_tags(), **body)
    return {"association_id": made["AssociationDescription"]["AssociationId"]}


ASSOCIATION = Kind(name=KIND, look=look_association, apply=apply_association)


def get_status(run: Run, region: str, instance_id: str, name: str) -> dict[str, Any] | Unknown | None:
    """How the named association last ended on the host: its InstanceAssociationStatusInfo, or None."""

    def question() -> dict[str, Any] | None:
        infos = run.aws.pages(
            "ssm",
            "DescribeInstanceAssociationsStatus",
            "InstanceAssociationStatusInfos",
            region,
            InstanceId=instance_id,
        )
        return next((dict(info) for info in infos if info.get("AssociationName") == name), None)

    return run.aws.ask(question)


def start_once(run: Run, region: str, name: str) -> bool:
    """Run our association now on all its targets; False when it cannot be started."""
    own = get_association(run, region, name)
    if not isinstance(own, Own) or own.state != "ours":
        return False
    ids = [own.id]
    started = run.aws.ask(lambda: run.aws.call("ssm", "StartAssociationsOnce", region, AssociationIds=ids))
    return not isinstance(started, Unknown)


@dataclass
class _Watch:
    """One association on one host, until it has ended."""

    instance_id: str
    name: str
    reason: str = "it has not run"
    over: bool = False


def await_success(run: Run, region: str, names: Mapping[str, str], deadline_s: float) -> dict[str, str]:
    """`names` is instance id → association; the answer is instance id → "" where it ended well, else why not.

    An association without a schedule runs once for a target: what failed before is started again, and
    so is what State Manager has not begun after PATIENCE_S (an agent asks every ten minutes only).
    """
    watches = [_Watch(instance_id, name) for instance_id, name in names.items()]
    started: dict[str, datetime] = {}
    begun_s = time.monotonic()

    def look() -> bool:
        stuck: set[str] = set()
        for watch in watches:
            if not watch.over:
                status = get_status(run, region, watch.instance_id, watch.name)
                if _update(watch, status, started.get(watch.name), time.monotonic() - begun_s):
                    stuck.add(watch.name)
        for name in sorted(stuck - set(started)):
            started[name] = run.now() - timedelta(seconds=5)
            start_once(run, region, name)
        return all(watch.over for watch in watches)

    poll(look, bool, deadline_s)
    return {watch.instance_id: watch.reason for watch in watches}


def _update(
    watch: _Watch, status: dict[str, Any] | Unknown | None, started: datetime | None, waited_s: float
) -> bool:
    """Take a status in; True when the association has to be started for this host."""
    if isinstance(status, Unknown):
        watch.reason = status.unknown
        return False
    if status is None:
        return waited_s > PATIENCE_S
    state = str(status.get("Status"))
    watch.reason = "" if state == "Success" else str(status.get("DetailedStatus") or state)
    if state not in FINAL:
        return False
    ended = status.get("ExecutionDate")
    again = started is not None and isinstance(ended, datetime) and ended >= started
    watch.over = state == "Success" or again
    return state != "Success"
