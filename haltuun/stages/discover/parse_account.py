"""What AWS said → facts of the account. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

from haltuun.aws import tags_of
from haltuun.config import AccountConfig
from haltuun.model import Json, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.account import EVIDENCE_TAG, is_whole, specifications_of
from haltuun.stages.discover.facts import (
    Association,
    BackupPlan,
    BackupVault,
    Baseline,
    DiscoverAccount,
    HybridNode,
    ImageFacts,
    LogGroup,
    MaintenanceWindow,
    PatchGroup,
    RegionFacts,
    ScalingGroup,
    SsmStatus,
    Standing,
    Template,
)
from haltuun.stages.discover.lookup import find
from haltuun.stages.pages import readable, text
from haltuun.stages.tags import EXCLUDE

T = TypeVar("T")

STATUSES: dict[str, SsmStatus] = {
    "Online": "Online",
    "ConnectionLost": "ConnectionLost",
    "Connection Lost": "ConnectionLost",
    "Inactive": "Inactive",
}
_NOT_ASKED: Json = {}
# VM Import names its images so, and describes them so (AWS VM Import/Export user guide).
IMPORT_NAME = re.compile(r"^import-ami-[0-9a-f]+$")
IMPORT_DESCRIPTION = re.compile(r"^AWS-VMImport service:|^AWS-VMImport", re.IGNORECASE)


def parse_account(view: View, raw: Json) -> DiscoverAccount:
    regions = {region: parse_region(answers) for region, answers in raw.items()}
    standing = {
        instance["InstanceId"]: parse_standing(instance, answers["nodes"], answers["images"], view.account)
        for answers in raw.values()
        for instance in filter(is_whole, _list(answers["instances"]))
    }
    evidence = {region: parse_evidence(answers["evidence"]) for region, answers in raw.items()}
    return DiscoverAccount(regions=regions, standing=standing, evidence=evidence)


def parse_standing(instance: Json, nodes: Json, images: Json, account: AccountConfig) -> Standing:
    image: Json = find(_list(images), "ImageId", instance.get("ImageId")) or {}
    return Standing(
        state=instance["State"]["Name"],
        platform=platform_of(instance),
        private_ip=instance.get("PrivateIpAddress") or None,
        public_ip=instance.get("PublicIpAddress") or None,
        key_name=instance.get("KeyName") or None,
        image_name=image.get("Name") or None,
        ssm_status=ssm_status_of(instance, nodes),
        exclude=exclude_of(instance, account),
    )


def parse_evidence(snapshots: Json) -> tuple[str, ...] | Unknown:
    """Instance ids of which a snapshot is kept as evidence."""
    if isinstance(snapshots, Unknown):
        return snapshots
    kept = [tags_of(row).get(EVIDENCE_TAG, "") for row in snapshots if row.get("State") != "error"]
    return tuple(sorted(set(kept)))


def parse_region(raw: Json) -> RegionFacts:
    instances = raw["instances"]
    return RegionFacts(
        instances=instances if isinstance(instances, Unknown) else len(instances),
        dhmc_role=dhmc_role_of(raw["dhmc"]),
        baselines=_each(raw["baselines"], _baseline),
        patch_groups=_each(raw["patch_groups"], _patch_group),
        windows=_each(raw["windows"], _window),
        associations=_each(raw["associations"], _association),
        backup_plans=_each(
            raw["backup_plans"],
            lambda row: BackupPlan(plan_id=row["BackupPlanId"], name=row["BackupPlanName"]),
        ),
        backup_vaults=_each(
            raw["backup_vaults"],
            lambda row: BackupVault(name=row["BackupVaultName"], arn=row.get("BackupVaultArn") or ""),
        ),
        log_groups=_each(
            raw["log_groups"],
            lambda row: LogGroup(name=row["logGroupName"], retention_days=row.get("retentionInDays")),
        ),
        session_preferences=raw["session_preferences"],
        hybrid_nodes=parse_hybrid_nodes(raw["nodes"]),
        groups=_each(raw["groups"], _group),
        templates=readable(lambda: _templates(raw["launch_templates"], raw["launch_configurations"])),
        images=_each(raw["images"], lambda row: parse_image(row, raw["lineage"])),
    )


def parse_hybrid_nodes(nodes: Json) -> tuple[HybridNode, ...] | Unknown:
    if isinstance(nodes, Unknown):
        return nodes
    return tuple(_hybrid_node(node) for node in nodes if text(node, "InstanceId").startswith("mi-"))


def dhmc_role_of(setting: Json) -> str | Unknown | None:
    """The role's name; without one AWS answers "$None" (Default Host Management Configuration)."""
    if isinstance(setting, Unknown):
        return setting
    value = str(setting.get("SettingValue") or "")
    return None if value in ("", "$None") else value


def platform_of(instance: Json) -> Literal["linux", "windows"]:
    """`Platform` is present for Windows only (EC2, Instance)."""
    return "windows" if str(instance.get("Platform") or "").lower() == "windows" else "linux"


def exclude_of(instance: Json, account: AccountConfig) -> str | None:
    """Why the host is left alone."""
    configured = account.host(instance["InstanceId"]).exclude
    if configured:
        return configured
    tag = tags_of(instance).get(EXCLUDE)
    return None if tag is None else f"its tag {EXCLUDE} says {tag or 'so'}"


def ssm_status_of(instance: Json, nodes: Json) -> SsmStatus | Unknown:
    if isinstance(nodes, Unknown):
        return nodes
    node = node_of(instance["InstanceId"], nodes)
    if node is not None:
        return STATUSES.get(str(node.get("PingStatus")), "Inactive")
    if instance["State"]["Name"] != "running":
        # DescribeInstanceInformation leaves them out (its API reference).
        return Unknown(unknown="Systems Manager does not list instances that do not run")
    return "never"


def node_of(instance_id: str, nodes: Json) -> Json:
    return find(_list(nodes), "InstanceId", instance_id)


def parse_image(row: Json, lineage: Json | Unknown = _NOT_ASKED) -> ImageFacts:
    name, description = str(row.get("Name") or ""), str(row.get("Description") or "")
    imported = bool(IMPORT_NAME.match(name) or IMPORT_DESCRIPTION.match(description))
    return ImageFacts(
        image_id=row["ImageId"],
        name=name,
        description=description,
        owner=str(row.get("ImageOwnerAlias") or row.get("OwnerId") or ""),
        imported=imported,
        created_at=_created_at(row),
        source_instance=str(row.get("SourceInstanceId") or ""),
        source_image=str(row.get("SourceImageId") or ""),
        lineage=lineage if isinstance(lineage, Unknown) else tuple(lineage.get(row["ImageId"], ())),
    )


def _created_at(row: Json) -> datetime | None:
    """CreationDate is ISO text; the images of some emulators have another."""
    try:
        return datetime.fromisoformat(str(row.get("CreationDate") or "").replace("Z", "+00:00"))
    except ValueError:
        return None


def _baseline(row: Json) -> Baseline:
    return Baseline(
        baseline_id=row["BaselineId"],
        name=row.get("BaselineName") or "",
        operating_system=row.get("OperatingSystem") or "",
        default=bool(row.get("DefaultBaseline")),
    )


def _patch_group(row: Json) -> PatchGroup:
    identity = row.get("BaselineIdentity") or {}
    return PatchGroup(
        group=row["PatchGroup"],
        baseline_id=identity.get("BaselineId") or "",
        operating_system=identity.get("OperatingSystem") or "",
    )


def _window(row: Json) -> MaintenanceWindow:
    return MaintenanceWindow(
        window_id=row["WindowId"],
        name=row.get("Name") or "",
        schedule=row.get("Schedule") or "",
        enabled=bool(row.get("Enabled", True)),
    )


def _association(row: Json) -> Association:
    targets = [
        f"{target['Key']}={','.join(target.get('Values') or ())}" for target in row.get("Targets") or ()
    ]
    if row.get("InstanceId"):
        targets.append(f"InstanceIds={row['InstanceId']}")
    return Association(
        association_id=row.get("AssociationId") or "",
        name=row.get("AssociationName") or "",
        document=row.get("Name") or "",
        schedule=row.get("ScheduleExpression") or "",
        targets=tuple(targets),
    )


def _hybrid_node(row: Json) -> HybridNode:
    return HybridNode(
        node_id=row["InstanceId"],
        ping_status=str(row.get("PingStatus") or ""),
        ip_address=row.get("IPAddress") or "",
        computer_name=row.get("ComputerName") or "",
        source_type=row.get("SourceType") or "",
        activation_id=row.get("ActivationId") or "",
    )


def _group(row: Json) -> ScalingGroup:
    called = {
        f"{name}:{one.get('Version') or '$Default'}"
        for one in specifications_of(row)
        for name in (one.get("LaunchTemplateId"), one.get("LaunchTemplateName"))
        if name
    }
    configuration = row.get("LaunchConfigurationName")
    if configuration:
        called.add(f"configuration:{configuration}")
    return ScalingGroup(name=row["AutoScalingGroupName"], starts_from=tuple(sorted(called)))


def _templates(versions: Json, configurations: Json) -> tuple[Template, ...] | Unknown:
    for rows in (versions, configurations):
        if isinstance(rows, Unknown):
            return rows
    newest: dict[str, int] = {}
    for row in versions:
        newest[row["LaunchTemplateId"]] = max(row["VersionNumber"], newest.get(row["LaunchTemplateId"], 0))
    found = {_version(row, newest[row["LaunchTemplateId"]] == row["VersionNumber"]) for row in versions}
    found |= {
        Template(
            label=f"launch configuration {row['LaunchConfigurationName']}",
            image_id=row.get("ImageId") or "",
            called=(f"configuration:{row['LaunchConfigurationName']}",),
        )
        for row in configurations
    }
    return tuple(sorted(found, key=lambda one: one.label))


def _version(row: Json, is_newest: bool) -> Template:
    """One row of DescribeLaunchTemplateVersions; the same version may be listed more than once."""
    name, number = row.get("LaunchTemplateName") or row["LaunchTemplateId"], row["VersionNumber"]
    said = [
        str(number),
        *(["$Latest"] if is_newest else []),
        *(["$Default"] if row.get("DefaultVersion") else []),
    ]
    return Template(
        label=f"launch template {name} (version {number})",
        image_id=(row.get("LaunchTemplateData") or {}).get("ImageId") or "",
        called=tuple(
            f"{one}:{version}" for one in dict.fromkeys((row["LaunchTemplateId"], name)) for version in said
        ),
    )


def _each(rows: Json, make: Callable[[Any], T]) -> tuple[T, ...] | Unknown:
    """Of a row that cannot be read nobody knows what it is, and so not what there is in all."""
    return rows if isinstance(rows, Unknown) else readable(lambda: tuple(make(row) for row in rows))


def _list(rows: Json) -> Sequence[Any]:
    return () if isinstance(rows, Unknown) else rows
