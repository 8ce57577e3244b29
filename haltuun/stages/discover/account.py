"""Looks at the account: its instances in every region and state, Systems Manager's nodes, and what a
predecessor left. Reads only.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from haltuun.aws import Aws, chunks, tags_of
from haltuun.errors import AwsError, NotFound
from haltuun.model import Host, Json, Unknown
from haltuun.run import Run
from haltuun.stages.pages import member, text, unreadable

log = logging.getLogger("haltuun")

SESSION_DOCUMENT = "SSM-SessionManagerRunShell"
DHMC_SETTING = "/ssm/managed-instance/default-ec2-instance-management-role"
EVIDENCE_TAG = "haltuun:evidence"
GONE = ("terminated", "shutting-down")
# A filter takes 200 values, DescribeContainerInstances 100 (botocore 1.44).
FILTER_VALUES = 200
CONTAINER_INSTANCES = 100
# DescribeVolumes answers with this many a page (EC2 API reference).
VOLUMES_A_PAGE = 500
# DescribeInstanceStatus gives 1,000 a page at most (EC2 API reference).
STATUSES_A_PAGE = 1000
# No customer's registration is in what these sell; a lineage ends there (EC2 User Guide, "AMI ancestry").
VENDORS = ("amazon", "aws-marketplace")
# Images of a region that are asked for what they were made of, at a call each.
LINEAGES = 20
REGIONS_AT_ONCE = 8
T = TypeVar("T")


def list_hosts(run: Run) -> list[Host]:
    """All instances of the account's regions that are not gone, in every other state.

    A region that cannot be asked is left out here; parse_account says so, as unknown.

    Raises:
        AwsError: no region could be asked.
    """
    hosts: list[Host] = []
    failed: list[AwsError] = []
    regions = run.aws.regions()
    for region in regions:
        try:
            listed = get_instances(run.aws, region, partial(_host, run.account.id, region))
        except AwsError as error:
            failed.append(error)
            continue
        unread = sum(isinstance(host, Unknown) for host in listed)
        if unread:  # then nobody knows which of those that were there are gone
            log.warning("%s: %d instance(s) left out: AWS gave no id or no state of them", region, unread)
        else:
            run.listed.add(region)
        hosts.extend(host for host in listed if isinstance(host, Host))
    if failed and len(failed) == len(regions):
        raise failed[0]
    return sorted(hosts, key=lambda host: (host.region, host.name, host.instance_id))


def _host(account: str, region: str, instance: Mapping[str, Any]) -> Host | Unknown | None:
    if not is_whole(instance):
        return unreadable("InstanceId and State")
    if instance["State"]["Name"] in GONE:
        return None
    name = tags_of(instance).get("Name", "")
    return Host(account=account, region=region, instance_id=instance["InstanceId"], name=name)


def is_whole(instance: Json) -> bool:
    """Whether it has what no instance is without; one that has not is left out, and the run says so."""
    return bool(text(instance, "InstanceId") and text(member(instance, "State", dict), "Name"))


def probe_account(run: Run, hosts: Sequence[Host]) -> Json:
    """Region → what was asked → answer or Unknown."""
    regions = run.aws.regions()
    with ThreadPoolExecutor(max_workers=min(REGIONS_AT_ONCE, len(regions))) as pool:
        answers = pool.map(lambda region: get_region(run.aws, region), regions)
        return dict(zip(regions, answers, strict=True))


def get_instances(aws: Aws, region: str, each: Callable[[dict[str, Any]], T]) -> list[T]:
    """What `each` makes of every instance."""
    reservations = aws.pages(
        "ec2",
        "DescribeInstances",
        "Reservations",
        region,
        each=lambda reservation: [each(instance) for instance in reservation.get("Instances") or ()],
    )
    return [instance for instances in reservations for instance in instances]


def get_region(aws: Aws, region: str) -> dict[str, Json]:
    def pages(service: str, operation: str, key: str, **parameters: Any) -> Json:
        return aws.ask(lambda: aws.pages(service, operation, key, region, **{"each": plain, **parameters}))

    instances: Json = aws.ask(lambda: list(filter(is_whole, get_instances(aws, region, _instance))))
    images = _images(aws, region, instances)
    groups = pages("autoscaling", "DescribeAutoScalingGroups", "AutoScalingGroups")
    own = [{"Key": "OWNER", "Values": ["Self"]}]
    return {
        "instances": instances,
        "statuses": pages("ec2", "DescribeInstanceStatus", "InstanceStatuses", MaxResults=STATUSES_A_PAGE),
        "images": images,
        "lineage": images
        if isinstance(images, Unknown)
        else aws.ask(lambda: get_lineage(aws, region, images)),
        "volumes": pages(
            "ec2",
            "DescribeVolumes",
            "Volumes",
            each=lambda volume: {key: volume.get(key) for key in ("VolumeId", "Size")},
            Filters=[{"Name": "status", "Values": ["in-use"]}],
            MaxResults=VOLUMES_A_PAGE,
        ),
        "evidence": pages(
            "ec2",
            "DescribeSnapshots",
            "Snapshots",
            OwnerIds=["self"],
            Filters=[{"Name": "tag-key", "Values": [EVIDENCE_TAG]}],
        ),
        "nodes": pages("ssm", "DescribeInstanceInformation", "InstanceInformationList", MaxResults=50),
        "asg_instances": pages("autoscaling", "DescribeAutoScalingInstances", "AutoScalingInstances"),
        "groups": groups,
        "launch_configurations": pages("autoscaling", "DescribeLaunchConfigurations", "LaunchConfigurations"),
        "launch_templates": plain(aws.ask(lambda: get_template_versions(aws, region, groups))),
        "ecs_instances": aws.ask(lambda: get_ecs_instances(aws, region)),
        "dhmc": plain(
            aws.ask(
                lambda: aws.call("ssm", "GetServiceSetting", region, SettingId=DHMC_SETTING)["ServiceSetting"]
            )
        ),
        "baselines": pages("ssm", "DescribePatchBaselines", "BaselineIdentities", Filters=own),
        "patch_groups": pages("ssm", "DescribePatchGroups", "Mappings"),
        "windows": pages("ssm", "DescribeMaintenanceWindows", "WindowIdentities"),
        "associations": pages("ssm", "ListAssociations", "Associations"),
        "backup_plans": pages("backup", "ListBackupPlans", "BackupPlansList"),
        "backup_vaults": pages("backup", "ListBackupVaults", "BackupVaultList"),
        "log_groups": pages("logs", "DescribeLogGroups", "logGroups"),
        "session_preferences": _or_none(
            aws, lambda: aws.call("ssm", "GetDocument", region, Name=SESSION_DOCUMENT)["Content"]
        ),
    }


def _images(aws: Aws, region: str, instances: Json) -> Json:
    """By filter and not by id: an image that no longer exists would make the whole call fail."""
    if isinstance(instances, Unknown):
        return instances
    ids = sorted({instance["ImageId"] for instance in instances if instance.get("ImageId")})

    def ask() -> list[Any]:
        found: list[Any] = []
        for some in chunks(ids, FILTER_VALUES):
            wanted = [{"Name": "image-id", "Values": list(some)}]
            found.extend(aws.pages("ec2", "DescribeImages", "Images", region, each=plain, Filters=wanted))
        return found

    return aws.ask(ask)


def get_lineage(aws: Aws, region: str, images: Sequence[Json]) -> dict[str, list[str]] | Unknown:
    """Image → the ids of what it was made of, the nearest first. DescribeImages tells the first of them; of
    the next it tells nothing where that is deregistered or another account's.

    One call an image: only where several may be kin.
    """
    private = [image for image in images if image.get("ImageOwnerAlias") not in VENDORS]
    asked = [image["ImageId"] for image in private if image.get("SourceImageId")]
    if len(asked) > LINEAGES:
        return Unknown(unknown=f"NOT_ASKED: {len(asked)} images, a call each")
    return {one: _ancestors(aws, region, one) for one in asked} if len(private) > 1 else {}


def _ancestors(aws: Aws, region: str, image_id: str) -> list[str]:
    entries = aws.call("ec2", "GetImageAncestry", region, ImageId=image_id).get("ImageAncestryEntries") or ()
    return [entry["SourceImageId"] for entry in entries if entry.get("SourceImageId")]


def get_template_versions(aws: Aws, region: str, groups: Json) -> list[dict[str, Any]]:
    """The newest and the default version of each launch template, and those that a group names by number."""

    def versions(names: Sequence[str], **which: Any) -> list[dict[str, Any]]:
        return aws.pages(
            "ec2",
            "DescribeLaunchTemplateVersions",
            "LaunchTemplateVersions",
            region,
            Versions=list(names),
            **which,
        )

    found = versions(["$Latest", "$Default"])
    known = {(row["LaunchTemplateId"], str(row["VersionNumber"])) for row in found}
    pinned: dict[str, set[str]] = {}
    for group in () if isinstance(groups, Unknown) else groups:
        for one in specifications_of(group):
            template, version = one.get("LaunchTemplateId"), str(one.get("Version") or "")
            if template and version.isdecimal() and (template, version) not in known:
                pinned.setdefault(template, set()).add(version)
    for template, numbers in sorted(pinned.items()):
        for number in sorted(numbers):
            # A group may go on naming what was deleted; one such would hide all others.
            with contextlib.suppress(NotFound):
                found += versions([number], LaunchTemplateId=template)
    return found


def specifications_of(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The launch templates that a row of DescribeAutoScalingGroups names."""
    mixed = (group.get("MixedInstancesPolicy") or {}).get("LaunchTemplate") or {}
    overrides = [one.get("LaunchTemplateSpecification") for one in mixed.get("Overrides") or ()]
    return list(
        filter(None, [group.get("LaunchTemplate"), mixed.get("LaunchTemplateSpecification"), *overrides])
    )


def get_ecs_instances(aws: Aws, region: str) -> list[str]:
    """Instance ids that are registered in an ECS cluster."""
    found: list[str] = []
    for cluster in aws.pages("ecs", "ListClusters", "clusterArns", region):
        arns = aws.pages("ecs", "ListContainerInstances", "containerInstanceArns", region, cluster=cluster)
        for some in chunks(arns, CONTAINER_INSTANCES):
            answer = aws.call(
                "ecs", "DescribeContainerInstances", region, cluster=cluster, containerInstances=list(some)
            )
            found.extend(
                row["ec2InstanceId"] for row in answer["containerInstances"] if row.get("ec2InstanceId")
            )
    return sorted(found)


def _instance(said: Mapping[str, Any]) -> Json:
    """Without its interfaces: what is read of them stands on the instance too, and they are half of it."""
    return plain({key: value for key, value in said.items() if key != "NetworkInterfaces"})


def _or_none(aws: Aws, question: Callable[[], Any]) -> Json:
    """None where AWS says that there is no such thing: that is an answer."""

    def ask() -> Any:
        try:
            return question()
        except NotFound:
            return None

    return plain(aws.ask(ask))


def plain(value: Any) -> Json:
    """As JSON has it: times as ISO text, without the envelope of the answer."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key != "ResponseMetadata"}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value
