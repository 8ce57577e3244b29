"""An account field by field, as its API tells it: what an undo has to bring back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Client = Callable[[str], Any]

# Moments, and ids that a thing made anew gets.
VOLATILE = frozenset(
    {
        "ResponseMetadata",
        "LastUpdateAssociationDate",
        "LastExecutionDate",
        "LastSuccessfulExecutionDate",
        "Overview",
        "NextExecutionTime",
        "LastExecutionTime",
        "NumberOfRecoveryPoints",
        "storedBytes",
        "RoleLastUsed",
        "UsageOperationUpdateTime",
    }
)


def account_state(client: Client) -> dict[str, str]:
    """ "ec2:instances/i-…" → its fields as JSON, for everything that Haltuun could touch."""
    return _as_text(_everything(client))


def roles_state(client: Client) -> dict[str, str]:
    """Of roles, profiles and who has them alone: plain moto knows no more."""
    return _as_text([*_ec2(client("ec2")), *_iam(client("iam"))])


def _as_text(things: Iterable[tuple[str, Any]]) -> dict[str, str]:
    return {name: json.dumps(_steady(value), sort_keys=True, default=str) for name, value in things}


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(inner) for key, inner in value.items() if key not in VOLATILE}
    return [_steady(inner) for inner in value] if isinstance(value, list) else value


def _everything(client: Client) -> Iterator[tuple[str, Any]]:
    yield from _ec2(client("ec2"))
    yield from _iam(client("iam"))
    yield from _ssm(client("ssm"))
    yield from _backup(client("backup"))
    for group in client("logs").describe_log_groups()["logGroups"]:
        yield f"logs:{group['logGroupName']}", group


def _ec2(ec2: Any) -> Iterator[tuple[str, Any]]:
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            instance["Tags"] = sorted(instance.get("Tags", []), key=lambda tag: str(tag["Key"]))
            yield f"ec2:instances/{instance['InstanceId']}", instance
    for group in ec2.describe_security_groups()["SecurityGroups"]:
        yield f"ec2:security_groups/{group['GroupId']}", group
    for row in ec2.describe_iam_instance_profile_associations()["IamInstanceProfileAssociations"]:
        yield f"ec2:associations/{row['InstanceId']}", row["IamInstanceProfile"]["Arn"]


def _iam(iam: Any) -> Iterator[tuple[str, Any]]:
    for role in iam.list_roles()["Roles"]:
        name = role["RoleName"]
        yield f"iam:roles/{name}", iam.get_role(RoleName=name)["Role"]
        yield f"iam:roles/{name}/attached", iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            found = iam.get_role_policy(RoleName=name, PolicyName=policy)
            yield f"iam:roles/{name}/{policy}", found["PolicyDocument"]
    for profile in iam.list_instance_profiles()["InstanceProfiles"]:
        yield f"iam:profiles/{profile['InstanceProfileName']}", profile


def _ssm(ssm: Any) -> Iterator[tuple[str, Any]]:
    mine = [{"Key": "OWNER", "Values": ["Self"]}]
    for row in ssm.describe_patch_baselines(Filters=mine)["BaselineIdentities"]:
        yield f"ssm:baselines/{row['BaselineName']}", ssm.get_patch_baseline(BaselineId=row["BaselineId"])
    for row in ssm.describe_patch_groups()["Mappings"]:
        yield f"ssm:patch_groups/{row['PatchGroup']}", row
    for row in ssm.describe_maintenance_windows()["WindowIdentities"]:
        window = row["WindowId"]
        yield f"ssm:windows/{row['Name']}", ssm.get_maintenance_window(WindowId=window)
        targets = ssm.describe_maintenance_window_targets(WindowId=window)["Targets"]
        yield f"ssm:windows/{row['Name']}/targets", targets
        yield (
            f"ssm:windows/{row['Name']}/tasks",
            ssm.describe_maintenance_window_tasks(WindowId=window)["Tasks"],
        )
    for row in ssm.list_associations()["Associations"]:
        yield f"ssm:associations/{row['AssociationId']}", row
    for row in ssm.describe_parameters()["Parameters"]:
        yield f"ssm:parameters/{row['Name']}", ssm.get_parameter(Name=row["Name"])["Parameter"]
    for row in ssm.list_documents(Filters=mine)["DocumentIdentifiers"]:
        yield f"ssm:documents/{row['Name']}", ssm.get_document(Name=row["Name"])["Content"]


def _backup(backup: Any) -> Iterator[tuple[str, Any]]:
    for vault in backup.list_backup_vaults()["BackupVaultList"]:
        yield f"backup:vaults/{vault['BackupVaultName']}", vault
        points = backup.list_recovery_points_by_backup_vault(BackupVaultName=vault["BackupVaultName"])
        for point in points["RecoveryPoints"]:
            yield f"backup:points/{point['RecoveryPointArn']}", point
    for plan in backup.list_backup_plans()["BackupPlansList"]:
        plan_id = plan["BackupPlanId"]
        yield (
            f"backup:plans/{plan['BackupPlanName']}",
            backup.get_backup_plan(BackupPlanId=plan_id)["BackupPlan"],
        )
        for row in backup.list_backup_selections(BackupPlanId=plan_id)["BackupSelectionsList"]:
            found = backup.get_backup_selection(BackupPlanId=plan_id, SelectionId=row["SelectionId"])
            yield f"backup:selections/{row['SelectionName']}", found["BackupSelection"]
