"""State Manager associations: found by name, read in a change's terms, made, changed and removed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from haltuun.model import Change, Json, StageName, Unknown
from haltuun.run import Run
from haltuun.sharing import FRESH_S
from haltuun.stages import polling
from haltuun.stages.base import Kind
from haltuun.stages.commands import ending, send
from haltuun.stages.own import Own, as_value, first_own, get_own, get_ssm_tags, is_ours
from haltuun.stages.polling import poll
from haltuun.stages.tags import managed_tags

KIND = "ssm.association"
PERMISSIONS = ("ssm:CreateAssociation", "ssm:UpdateAssociation", "ssm:AddTagsToResource")
PATIENCE_S = 60.0
# An execution that is no older is left to come to its end before its targets are read.
_YOUNG = timedelta(seconds=20)
# Clocks differ, and an association that was made right before may have run already.
BEFORE = timedelta(minutes=10)
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

    def question() -> Own | Unknown:
        wanted = [{"key": "AssociationName", "value": name}]
        found_all = (
            run.aws.pages("ssm", "ListAssociations", "Associations", region, AssociationFilterList=wanted)
            if listed is None
            else listed
        )
        # Names of associations are not unique: ours is the one that says so.
        same = [found["AssociationId"] for found in found_all if found.get("AssociationName") == name]
        return first_own([_described(run, region, association_id) for association_id in same])

    return get_own(run, question)


def _described(run: Run, region: str, association_id: str) -> Own | Unknown:
    ours = is_ours(get_ssm_tags(run, region, "Association", association_id))
    if isinstance(ours, Unknown):
        return ours
    if not ours:
        return Own(state="foreign", id=association_id)
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


Status = Mapping[str, Any]  # "Status" and "DetailedStatus"


def get_statuses(run: Run, region: str, name: str) -> dict[str, Status] | Unknown:
    """Instance id → how our association of that name ended there, by its executions since this run began:
    a few calls for all its targets, where DescribeInstanceAssociationsStatus is one for each.
    """
    forever = float("inf")
    since = run.shared.get("associations since", "", run.now, fresh_s=forever) - BEFORE
    own = run.shared.get(
        ("association", region, name), "", lambda: get_association(run, region, name), fresh_s=forever
    )
    if isinstance(own, Unknown) or own.state != "ours":
        return own if isinstance(own, Unknown) else {}

    def question() -> dict[str, Status]:
        executions = run.aws.pages(
            "ssm",
            "DescribeAssociationExecutions",
            "AssociationExecutions",
            region,
            AssociationId=own.id,
            Filters=[
                {"Key": "CreatedTime", "Value": f"{since:%Y-%m-%dT%H:%M:%S.000Z}", "Type": "GREATER_THAN"}
            ],
        )
        found: dict[str, Status] = {}
        for execution in sorted(executions, key=lambda row: row["CreatedTime"]):
            if execution.get("Status") in FINAL or run.now() - execution["CreatedTime"] > _YOUNG:
                for target in _targets(run, region, own.id, execution):
                    found[target["ResourceId"]] = target
        return found

    key = ("association statuses", region, name)
    return run.shared.get(key, "", lambda: run.aws.ask(question), fresh_s=polling.FIRST_WAIT_S)


def _targets(run: Run, region: str, association_id: str, execution: Status) -> list[dict[str, Any]]:
    """Of one execution: one that has ended is read once, one that goes on now and then."""
    read = partial(
        run.aws.pages,
        "ssm",
        "DescribeAssociationExecutionTargets",
        "AssociationExecutionTargets",
        region,
        AssociationId=association_id,
        ExecutionId=execution["ExecutionId"],
    )
    ended = execution.get("Status") in FINAL
    key = ("execution", region, execution["ExecutionId"], ended)
    return run.shared.get(key, "", read, fresh_s=float("inf") if ended else FRESH_S)


def get_status(run: Run, region: str, instance_id: str, name: str) -> Status | Unknown | None:
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


def send_once(run: Run, region: str, name: str, ids: Sequence[str]) -> dict[str, str | Unknown]:
    """Do now, on these hosts alone, what our association does: instance id → command, or why none."""
    own = get_association(run, region, name)
    if isinstance(own, Unknown) or own.state != "ours":
        why = own if isinstance(own, Unknown) else Unknown(unknown=f"there is no association {name} of ours")
        return dict.fromkeys(ids, why)
    value = own.value
    return send(run, region, ids, value["document"], lambda _: value["parameters"], f"Haltuun: {name}")


@dataclass
class _Watch:
    """One association on one host, until it has ended; `command` is what was sent in its place."""

    instance_id: str
    name: str
    reason: str = "it has not run"
    over: bool = False
    command: str | Unknown | None = None


def await_success(run: Run, region: str, names: Mapping[str, str], deadline_s: float) -> dict[str, str]:
    """`names` is instance id → association; the answer is instance id → "" where it ended well, else why not.

    An association without a schedule runs once for a target: where it failed before, its document is sent
    once more to that host, and so it is where State Manager has not begun after PATIENCE_S (an agent asks
    every ten minutes only).
    """
    watches = [_Watch(instance_id, name) for instance_id, name in names.items()]
    begun_s = time.monotonic()

    def look() -> bool:
        stuck: dict[str, list[_Watch]] = {}
        for watch in watches:
            if not watch.over and _is_stuck(run, region, watch, time.monotonic() - begun_s):
                stuck.setdefault(watch.name, []).append(watch)
        for name, some in sorted(stuck.items()):
            sent = send_once(run, region, name, [watch.instance_id for watch in some])
            for watch in some:
                watch.command = sent[watch.instance_id]
        return all(watch.over for watch in watches)

    poll(look, bool, deadline_s)
    return {watch.instance_id: watch.reason for watch in watches}


def _is_new(run: Run, watch: _Watch) -> bool:
    """Whether this run made the host a target: then nothing has ended there before."""
    did = run.did(watch.instance_id)
    return any(stage is StageName.logs and event == "confirmed" for stage, _, event in did)


def _is_stuck(run: Run, region: str, watch: _Watch, waited_s: float) -> bool:
    """Take in how it stands on the host; True when the document has to be sent to it."""
    if watch.command is not None:
        watch.over, why = ending(run, region, watch.command, watch.instance_id)
        watch.reason = why if watch.over else "it runs"
        return False
    statuses = get_statuses(run, region, watch.name)
    status: Status | Unknown | None = None
    if not isinstance(statuses, Unknown):
        status = statuses.get(watch.instance_id)
    if status is None and (isinstance(statuses, Unknown) or waited_s > PATIENCE_S or not _is_new(run, watch)):
        status = get_status(run, region, watch.instance_id, watch.name)
    if isinstance(status, Unknown):
        watch.reason = status.unknown
        return False
    if status is None:
        return waited_s > PATIENCE_S
    state = str(status.get("Status"))
    watch.over = state == "Success"
    watch.reason = "" if watch.over else str(status.get("DetailedStatus") or state)
    return state in FINAL - {"Success"}
