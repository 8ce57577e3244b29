"""A host as EC2 and Systems Manager know it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from haltuun.aws import tags_of
from haltuun.model import Host, Json, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.console import Console
from haltuun.stages.discover.facts import DiscoverFacts, HybridNode, ImageFacts
from haltuun.stages.discover.lookup import find
from haltuun.stages.discover.parse_account import (
    exclude_of,
    node_of,
    parse_image,
    platform_of,
    ssm_status_of,
)
from haltuun.stages.pages import text, unreadable

NOT_LISTED = Unknown(unknown="EC2 did not list the instance")
# Clones of one machine keep its name; these names say nothing.
NAMELESS = {"", "localhost", "ubuntu", "debian"}
# How vendors name their images; the first that fits decides.
IMAGE_NAMES = (
    # ubuntu/images/hvm-ssd/ubuntu-xenial-16.04-amd64-server-20210928
    (re.compile(r"ubuntu.*?[-/ ](\d\d\.\d\d)", re.IGNORECASE), "ubuntu"),
    (re.compile(r"debian-(\d+)", re.IGNORECASE), "debian"),
    (re.compile(r"^al(2023)-ami"), "amzn"),
    (re.compile(r"^amzn(2)-ami"), "amzn"),
    (re.compile(r"^RHEL-(\d+\.\d+)"), "rhel"),
    (re.compile(r"CentOS[^\d]*(\d+)", re.IGNORECASE), "centos"),
)


def parse_ec2(view: View, host: Host, raw: Json) -> dict[str, Any]:
    answers = raw.get(host.region) or {}
    instances = answers.get("instances", NOT_LISTED)
    unlisted = {"exclude": view.account.host(host.instance_id).exclude}
    if isinstance(instances, Unknown):
        return _all_ec2(instances) | unlisted
    instance = find(instances, "InstanceId", host.instance_id)
    if instance is None:
        return _all_ec2(NOT_LISTED) | unlisted
    images = answers["images"]
    image = _image_of(instance, images)
    nodes = answers["nodes"]
    node = nodes if isinstance(nodes, Unknown) else node_of(host.instance_id, nodes) or {}
    options = instance.get("MetadataOptions") or {}
    tags = tags_of(instance)
    disks = [one.get("Ebs") for one in instance.get("BlockDeviceMappings") or () if one.get("Ebs")]
    volume_ids = _ids(disks, "VolumeId")
    return {
        "state": instance["State"]["Name"],
        "state_reason": (instance.get("StateReason") or {}).get("Message")
        or instance.get("StateTransitionReason")
        or "",
        "checks": _checks(instance, answers["statuses"]),
        "events": _events(instance, answers["statuses"]),
        "launched_at": instance.get("LaunchTime"),
        "platform": platform_of(instance),
        "architecture": instance.get("Architecture") or Unknown(unknown="EC2 does not say"),
        "image_id": instance.get("ImageId") or Unknown(unknown="EC2 does not say"),
        "image_name": image if isinstance(image, Unknown) else image.name,
        "image_imported": image if isinstance(image, Unknown) else image.imported,
        "vpc_id": instance.get("VpcId"),
        "subnet_id": instance.get("SubnetId"),
        "private_ip": instance.get("PrivateIpAddress"),
        "public_ip": instance.get("PublicIpAddress"),
        "security_groups": _ids(instance.get("SecurityGroups") or (), "GroupId"),
        "profile_arn": (instance.get("IamInstanceProfile") or {}).get("Arn"),
        "asg": _asg_of(instance, tags, answers["asg_instances"]),
        "managed_by": _managed_by(instance, tags, answers["asg_instances"], answers["ecs_instances"]),
        "imds_tokens": _option(options, "HttpTokens"),
        "imds_hop_limit": _option(options, "HttpPutResponseHopLimit"),
        "imds_tags": _enabled(options, "InstanceMetadataTags"),
        "imds_endpoint": _option(options, "HttpEndpoint"),
        "key_name": instance.get("KeyName"),
        "tags": tags,
        "volume_ids": volume_ids,
        "volumes_gib": _volumes_gib(volume_ids, answers["volumes"]),
        "exclude": exclude_of(instance, view.account),
        "ssm_status": ssm_status_of(instance, answers["nodes"]),
        "ssm_agent_version": node if isinstance(node, Unknown) else node.get("AgentVersion"),
        "ssm_last_ping_at": node if isinstance(node, Unknown) else node.get("LastPingDateTime"),
        "ssm_platform_name": node if isinstance(node, Unknown) else node.get("PlatformName"),
        "ssm_platform_version": node if isinstance(node, Unknown) else node.get("PlatformVersion"),
    }


def _ids(rows: Sequence[Json], name: str) -> tuple[str, ...] | Unknown:
    """Without one of them it is not known which there are."""
    found = tuple(text(row, name) for row in rows)
    return found if all(found) else unreadable(name)


def _checks(instance: Json, statuses: Json) -> str | Unknown | None:
    """EC2 checks from outside every minute: the hardware and network below ("system"), and whether the
    instance answers ARP ("instance") (EC2 User Guide, status checks)."""
    if isinstance(statuses, Unknown):
        return statuses
    row = find(statuses, "InstanceId", instance["InstanceId"])
    if row is None:
        return None
    said = {
        name: (row.get(f"{name}Status") or {}).get("Status") or "unknown" for name in ("System", "Instance")
    }
    wrong = [f"{name.lower()} {status}" for name, status in said.items() if status != "ok"]
    return ", ".join(wrong) or "ok"


def _events(instance: Json, statuses: Json) -> tuple[str, ...] | Unknown:
    if isinstance(statuses, Unknown):
        return statuses
    row = find(statuses, "InstanceId", instance["InstanceId"]) or {}
    return tuple(
        f"{event.get('Code')} on {str(event.get('NotBefore'))[:10]}: {event.get('Description') or ''}".rstrip(
            ": "
        )
        for event in row.get("Events") or ()
        # What is over or called off stays listed for a week.
        if not str(event.get("Description") or "").startswith(("[Completed]", "[Canceled]"))
    )


def _all_ec2(why: Unknown) -> dict[str, Any]:
    """Every fact from AWS, unknown for the same reason."""
    names = list(DiscoverFacts.model_fields)
    return {name: why for name in names[names.index("state") : names.index("tags")]}


def _image_of(instance: Json, images: Json) -> ImageFacts | Unknown:
    if isinstance(images, Unknown):
        return images
    row = find(images, "ImageId", instance.get("ImageId"))
    return parse_image(row) if row else Unknown(unknown="the image no longer exists, or is not shared")


def _volumes_gib(volume_ids: tuple[str, ...] | Unknown, rows: Json) -> int | Unknown:
    """All together; one volume of unknown size makes the sum unknown."""
    if isinstance(volume_ids, Unknown):
        return volume_ids
    if isinstance(rows, Unknown):
        return rows
    sizes: dict[str, int] = {one: (find(rows, "VolumeId", one) or {}).get("Size") or 0 for one in volume_ids}
    unsized = [volume_id for volume_id, size in sizes.items() if not size]
    if unsized:
        return Unknown(unknown=f"EC2 gives no size for {', '.join(unsized)}")
    return sum(sizes.values())


def _option(options: Mapping[str, Any], name: str) -> Any:
    value = options.get(name)
    return Unknown(unknown="EC2 does not say") if value in (None, "") else value


def _enabled(options: Mapping[str, Any], name: str) -> bool | Unknown:
    value = _option(options, name)
    return value if isinstance(value, Unknown) else value == "enabled"


def _asg_of(instance: Json, tags: Mapping[str, str], rows: Json) -> str | Unknown | None:
    if "aws:autoscaling:groupName" in tags:
        return tags["aws:autoscaling:groupName"]
    if isinstance(rows, Unknown):
        return rows
    row = find(rows, "InstanceId", instance["InstanceId"])
    return (text(row, "AutoScalingGroupName") or unreadable("AutoScalingGroupName")) if row else None


def _managed_by(
    instance: Json, tags: Mapping[str, str], asg_rows: Json, ecs_rows: Json
) -> tuple[str, ...] | Unknown:
    """Who replaces or reverts this host, beside its owner."""
    found: list[str] = []
    asg = _asg_of(instance, tags, asg_rows)
    if isinstance(asg, str):
        found.append(f"asg:{asg}")
    if any(name.startswith("kubernetes.io/cluster/") or name == "aws:eks:cluster-name" for name in tags):
        found.append("eks")
    if "AmazonECSManaged" in tags or (
        not isinstance(ecs_rows, Unknown) and instance["InstanceId"] in ecs_rows
    ):
        found.append("ecs")
    if instance.get("InstanceLifecycle") == "spot":
        found.append("spot")
    if "elasticbeanstalk:environment-name" in tags:
        found.append("beanstalk")
    if not found and isinstance(asg, Unknown):
        return asg
    return tuple(found)


def same_box_nodes(facts: Mapping[str, Any], nodes: list[HybridNode]) -> tuple[str, ...]:
    """Hybrid nodes that are this machine under another id: same address, or same name.

    A hint and no proof: clones share names, and networks share addresses.
    """
    addresses = {facts[name] for name in ("private_ip", "public_ip") if isinstance(facts.get(name), str)}
    names = {facts.get("hostname"), facts.get("tags", {}).get("Name")}
    known = {_short(name) for name in names if isinstance(name, str)} - NAMELESS
    return tuple(
        sorted(
            {
                node.node_id
                for node in nodes
                if node.ip_address in addresses - {""} or _short(node.computer_name) in known
            }
        )
    )


def _short(name: str) -> str:
    return name.lower().split(".")[0]


def guess_os(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the host probably runs, for hosts that nobody can log in to."""
    name, version = facts.get("ssm_platform_name"), facts.get("ssm_platform_version")
    if isinstance(name, str) and name and isinstance(version, str):
        return {"os_guess": f"{name} {version}", "os_guess_source": "its last report to Systems Manager"}
    console = facts.get("console")
    if isinstance(console, Console) and console.system:
        return {"os_guess": console.system, "os_guess_source": "what it printed on its console"}
    image = facts.get("image_name")
    if isinstance(image, str):
        for pattern, system in IMAGE_NAMES:
            found = pattern.search(image)
            if found:
                source = f"the name of its image, {image}"
                return {"os_guess": f"{system} {found.group(1)}", "os_guess_source": source}
    return {}
