"""Haltuun's tags, and the one kind of change that sets a tag of an instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from haltuun.aws import chunks
from haltuun.model import Change, Cost, Host, Json, Reach, StageName, Undo, Unknown
from haltuun.run import Run
from haltuun.stages.base import Kind

MANAGED = "haltuun:managed"  # Haltuun made this resource
EXCLUDE = "haltuun:exclude"  # leave this instance alone
ARMED = "haltuun:armed"  # "yes": has a recovery point, may be patched in the window
BACKUP = "haltuun:backup"  # "daily"
LOGS = "haltuun:logs"  # hash of the instance's agent configuration
SCAN = "haltuun:scan"  # "daily"

KIND = "ec2.tag"
# DescribeTags takes at most 200 values a filter (EC2 API reference, "Filter").
_FILTER_VALUES = 200

InstanceTags = dict[str, dict[str, str]]


def managed_tags() -> list[dict[str, str]]:
    """For what takes [{Key, Value}]."""
    return [{"Key": MANAGED, "Value": "true"}]


def get_instance_tags(run: Run, hosts: Sequence[Host]) -> dict[str, InstanceTags | Unknown]:
    """Region → instance id → its tags, or why they could not be read."""
    found: dict[str, InstanceTags | Unknown] = {}
    for region, ids in ids_by_region(hosts).items():
        found[region] = run.aws.ask(lambda region=region, ids=ids: _read(run, region, ids))  # type: ignore[misc]
    return found


def ids_by_region(hosts: Sequence[Host]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for host in hosts:
        ids.setdefault(host.region, []).append(host.instance_id)
    return ids


def _read(run: Run, region: str, ids: Sequence[str]) -> InstanceTags:
    tags: InstanceTags = {instance_id: {} for instance_id in ids}
    for some in chunks(ids, _FILTER_VALUES):
        tags.update(_tags(run, region, {"resource-id": list(some)}))
    return tags


def _tags(run: Run, region: str, filters: Mapping[str, list[str]]) -> InstanceTags:
    """Those that match, of the instances that have one."""
    found: InstanceTags = {}
    given = [{"Name": name, "Values": values} for name, values in filters.items()]
    for tag in run.aws.pages("ec2", "DescribeTags", "Tags", region, Filters=given):
        found.setdefault(tag["ResourceId"], {})[tag["Key"]] = tag.get("Value", "")
    return found


def tag_change(
    stage: StageName,
    host: Host,
    key: str,
    before: str | None,
    after: str | None,
    summary: str,
    *,
    kind: str = KIND,
    reach: Reach = Reach.host,
    undo: Undo | None = None,
    no_undo: str = "",
    depends_on: tuple[str, ...] = (),
    detail: Json = None,
    permissions: tuple[str, ...] = (),
    monthly_cost: Cost | Unknown | None = None,
) -> Change:
    """One tag of one instance; None is "no such tag". `undo` is given where more than the tag goes back;
    `no_undo` is what does not.
    """
    return Change(
        stage=stage,
        kind=kind,
        region=host.region,
        target=host.instance_id,
        hosts=(host.instance_id,),
        before={key: before},
        after={key: after},
        reach=reach,
        summary=summary,
        permissions=("ec2:CreateTags" if after is not None else "ec2:DeleteTags", *permissions),
        undo=undo or Undo(kind=KIND, after={key: before}),
        no_undo=no_undo,
        depends_on=depends_on,
        detail=detail,
        monthly_cost=monthly_cost,
    )


def look_tag(run: Run, change: Change) -> Json | Unknown:
    """The present values of the tags that the change names; one read serves all hosts of the region."""
    keys = sorted(change.after)
    wanted = {"resource-type": ["instance"], "key": keys}

    def read() -> InstanceTags | Unknown:
        return run.aws.ask(lambda: _tags(run, change.region, wanted))

    seen = run.shared.get(_shared_key(change), change.target, read)
    if isinstance(seen, Unknown):
        return seen
    tags = seen.get(change.target, {})
    return {key: tags.get(key) for key in keys}


def apply_tag(run: Run, change: Change) -> Json:
    wanted: Mapping[str, str | None] = change.after
    put = [{"Key": key, "Value": value} for key, value in wanted.items() if value is not None]
    drop = [{"Key": key} for key, value in wanted.items() if value is None]
    try:
        if put:
            run.aws.call("ec2", "CreateTags", change.region, Resources=[change.target], Tags=put)
        if drop:
            run.aws.call("ec2", "DeleteTags", change.region, Resources=[change.target], Tags=drop)
    except BaseException:  # nobody knows what there is now
        run.shared.changed(_shared_key(change), change.target)
        raise
    run.shared.amend(_shared_key(change), partial(_with_tags, change.target, wanted))
    return None


def _with_tags(instance_id: str, wanted: Mapping[str, str | None], seen: InstanceTags) -> InstanceTags:
    tags = {**seen.get(instance_id, {}), **wanted}
    return {**seen, instance_id: {key: value for key, value in tags.items() if value is not None}}


def _shared_key(change: Change) -> tuple[str, ...]:
    return ("tags", change.region, *sorted(change.after))


TAG = Kind(name=KIND, look=look_tag, apply=apply_tag)
