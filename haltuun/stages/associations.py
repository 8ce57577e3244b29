"""State Manager associations: found by name, read in a change's terms, made, changed and removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from haltuun.model import Change, Json, Unknown, canonical
from haltuun.run import Run
from haltuun.stages.base import Kind
from haltuun.stages.commands import Sent, send
from haltuun.stages.own import Own, as_value, first_own, get_own, get_ssm_tags, is_ours, surely
from haltuun.stages.pages import text
from haltuun.stages.tags import managed_tags

KIND = "ssm.association"
PERMISSIONS = ("ssm:CreateAssociation", "ssm:UpdateAssociation", "ssm:AddTagsToResource")


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


def status_on_host(run: Run, region: str, instance_id: str, name: str) -> str | Unknown | None:
    """How State Manager's last run of the association of that name stands on the host; None where it has not
    begun there. One call for one host.
    """

    def question() -> str | None:
        infos = run.aws.pages(
            "ssm",
            "DescribeInstanceAssociationsStatus",
            "InstanceAssociationStatusInfos",
            region,
            InstanceId=instance_id,
        )
        return next((str(i.get("Status")) for i in infos if i.get("AssociationName") == name), None)

    return run.aws.ask(question)


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
    seen = surely(get_association(run, change.region, change.target), change.target)
    if change.after is None:
        if seen.state == "ours":
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
    if seen.state == "ours":
        run.aws.call("ssm", "UpdateAssociation", change.region, AssociationId=seen.id, **body)
        return {"association_id": seen.id}
    made = run.aws.call("ssm", "CreateAssociation", change.region, Tags=managed_tags(), **body)
    return {"association_id": text(made.get("AssociationDescription"), "AssociationId")}


ASSOCIATION = Kind(name=KIND, look=look_association, apply=apply_association)


def send_once(run: Run, region: str, name: str, wanted: Json, ids: Sequence[str]) -> Sent:
    """Do now, on these hosts alone, what our association does, as long as that is what is `wanted` of it:
    somebody may have changed it.
    """
    own = get_association(run, region, name)
    value = own.value if isinstance(own, Own) and own.state == "ours" else None
    if value is None or canonical(value) != canonical(wanted):
        other = "is not ours" if value is None else "was changed, and is not what Haltuun would run"
        why = own if isinstance(own, Unknown) else Unknown(unknown=f"the association {name} {other}")
        return Sent(region, refused=dict.fromkeys(ids, why))
    return send(run, region, ids, value["document"], lambda _: value["parameters"], f"Haltuun: {name}")
