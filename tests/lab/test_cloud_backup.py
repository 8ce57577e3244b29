"""AWS Backup as far as a takeover uses it, with jobs that take their time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lab.cloud.seed import seed
from tests.lab.cloud_kit import Account, emulated_account, small_scenario, until

pytestmark = pytest.mark.slow

SERVICE_POLICY = "arn:aws:iam::aws:policy/service-role/AWSBackupServiceRolePolicyForBackup"


@pytest.fixture
def account() -> Iterator[Account]:
    with emulated_account() as found:
        yield found


@pytest.fixture
def instance_arn(account: Account) -> str:
    scenario = small_scenario()
    seed(account.endpoint_url, scenario)
    return f"arn:aws:ec2:eu-central-1:111122223333:instance/{scenario.hosts[0].instance_id}"


def role(account: Account, service: str = "backup.amazonaws.com", policy: str | None = SERVICE_POLICY) -> str:
    trust = {"Statement": {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}}
    iam = account.client("iam")
    made = iam.create_role(RoleName="backup", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    if policy:
        iam.attach_role_policy(RoleName="backup", PolicyArn=policy)
    return str(made["Arn"])


def start(account: Account, role_arn: str, resource_arn: str, **more: Any) -> str:
    backup = account.client("backup")
    backup.create_backup_vault(BackupVaultName="main")
    asked = {"BackupVaultName": "main", "ResourceArn": resource_arn, "IamRoleArn": role_arn}
    return str(backup.start_backup_job(**asked, **more)["BackupJobId"])


def test_a_job_ends_in_a_recovery_point(account: Account, instance_arn: str) -> None:
    backup = account.client("backup")
    tags = {"made-by": "haltuun"}
    job = start(account, role(account), instance_arn, RecoveryPointTags=tags, IdempotencyToken="one")
    again = backup.start_backup_job(
        BackupVaultName="main",
        ResourceArn=instance_arn,
        IamRoleArn="arn:aws:iam::111122223333:role/backup",
        IdempotencyToken="one",
    )
    assert again["BackupJobId"] == job
    states = [backup.describe_backup_job(BackupJobId=job)["State"]]

    def done() -> bool:
        states.append(backup.describe_backup_job(BackupJobId=job)["State"])
        return states[-1] == "COMPLETED"

    until(done)
    assert list(dict.fromkeys(states)) == ["CREATED", "RUNNING", "COMPLETED"]
    point = backup.describe_backup_job(BackupJobId=job)["RecoveryPointArn"]
    assert ":image/ami-" in point
    listed = backup.list_recovery_points_by_resource(ResourceArn=instance_arn)["RecoveryPoints"]
    assert [(row["RecoveryPointArn"], row["Status"]) for row in listed] == [(point, "COMPLETED")]
    listed = backup.list_recovery_points_by_backup_vault(BackupVaultName="main")["RecoveryPoints"]
    assert [row["ResourceArn"] for row in listed] == [instance_arn]
    found = backup.describe_recovery_point(BackupVaultName="main", RecoveryPointArn=point)
    assert found["ResourceType"] == "EC2"
    assert backup.list_tags(ResourceArn=point)["Tags"] == tags
    assert [row["ResourceArn"] for row in backup.list_protected_resources()["Results"]] == [instance_arn]
    assert backup.describe_backup_vault(BackupVaultName="main")["NumberOfRecoveryPoints"] == 1
    image = point.rsplit("/", 1)[-1]
    assert account.client("ec2").describe_images(ImageIds=[image])["Images"][0]["State"] == "available"
    with pytest.raises(ClientError, match="contains recovery points"):
        backup.delete_backup_vault(BackupVaultName="main")
    backup.delete_recovery_point(BackupVaultName="main", RecoveryPointArn=point)
    backup.delete_backup_vault(BackupVaultName="main")


def test_jobs_are_listed_by_resource_and_state(account: Account, instance_arn: str) -> None:
    backup = account.client("backup")
    job = start(account, role(account), instance_arn)
    until(lambda: backup.list_backup_jobs(ByState="COMPLETED")["BackupJobs"])
    listed = backup.list_backup_jobs(ByResourceArn=instance_arn)["BackupJobs"]
    assert [row["BackupJobId"] for row in listed] == [job]
    assert backup.list_backup_jobs(ByState="FAILED")["BackupJobs"] == []


def test_the_role_must_be_backups_to_assume(account: Account, instance_arn: str) -> None:
    with pytest.raises(ClientError, match="cannot be assumed by AWS Backup"):
        start(account, role(account, service="ec2.amazonaws.com"), instance_arn)


def test_a_role_without_permissions_fails_the_job(account: Account, instance_arn: str) -> None:
    job = start(account, role(account, policy=None), instance_arn)
    backup = account.client("backup")
    until(lambda: backup.describe_backup_job(BackupJobId=job)["State"] == "FAILED")
    assert "lacks ec2:CreateImage" in backup.describe_backup_job(BackupJobId=job)["StatusMessage"]
    assert backup.list_protected_resources()["Results"] == []


def test_vault_and_resource_must_exist(account: Account, instance_arn: str) -> None:
    arn, backup = role(account), account.client("backup")
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        backup.start_backup_job(BackupVaultName="none", ResourceArn=instance_arn, IamRoleArn=arn)
    with pytest.raises(ClientError, match="InvalidParameterValueException"):
        start(account, arn, instance_arn[:-3] + "fff")


def test_a_plan_with_its_selection(account: Account) -> None:
    backup, arn = account.client("backup"), role(account)
    rule = {"RuleName": "daily", "TargetBackupVaultName": "main", "Lifecycle": {"DeleteAfterDays": 35}}
    asked = {"BackupPlan": {"BackupPlanName": "daily", "Rules": [rule]}, "CreatorRequestId": "one"}
    plan = backup.create_backup_plan(**asked, BackupPlanTags={"a": "b"})["BackupPlanId"]
    assert backup.create_backup_plan(**asked)["BackupPlanId"] == plan
    with pytest.raises(ClientError, match="AlreadyExistsException"):
        backup.create_backup_plan(**asked | {"CreatorRequestId": "two"})
    selection = {
        "SelectionName": "tagged",
        "IamRoleArn": arn,
        "ListOfTags": [
            {"ConditionType": "STRINGEQUALS", "ConditionKey": "haltuun:backup", "ConditionValue": "daily"}
        ],
    }
    made = backup.create_backup_selection(BackupPlanId=plan, BackupSelection=selection)
    found = backup.get_backup_selection(BackupPlanId=plan, SelectionId=made["SelectionId"])
    assert found["BackupSelection"]["ListOfTags"] == selection["ListOfTags"]
    listed = backup.list_backup_selections(BackupPlanId=plan)["BackupSelectionsList"]
    assert [row["SelectionName"] for row in listed] == ["tagged"]
    with pytest.raises(ClientError, match="AlreadyExistsException"):
        backup.create_backup_selection(BackupPlanId=plan, BackupSelection=selection)
    with pytest.raises(ClientError, match="selections must be deleted first"):
        backup.delete_backup_plan(BackupPlanId=plan)
    backup.delete_backup_selection(BackupPlanId=plan, SelectionId=made["SelectionId"])
    backup.delete_backup_plan(BackupPlanId=plan)
    assert backup.list_backup_plans()["BackupPlansList"] == []
    assert backup.create_backup_plan(**asked | {"CreatorRequestId": "three"})["BackupPlanId"] != plan


def test_a_vault_has_a_key_and_a_point_is_encrypted_as_its_source(
    account: Account, instance_arn: str
) -> None:
    backup, kms, ec2 = account.client("backup"), account.client("kms"), account.client("ec2")
    start(account, role(account), instance_arn)
    vault = backup.list_backup_vaults()["BackupVaultList"][0]
    assert vault["EncryptionKeyArn"] == kms.describe_key(KeyId="alias/aws/backup")["KeyMetadata"]["Arn"]
    assert vault["Locked"] is False
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    volume = ec2.create_volume(AvailabilityZone=zone, Size=8, Encrypted=True)
    asked = {"BackupVaultName": "main", "IamRoleArn": "arn:aws:iam::111122223333:role/backup"}
    volume_arn = f"arn:aws:ec2:eu-central-1:111122223333:volume/{volume['VolumeId']}"
    backup.start_backup_job(**asked, ResourceArn=volume_arn)
    until(lambda: len(backup.list_backup_jobs(ByState="COMPLETED")["BackupJobs"]) == 2)
    points = backup.list_recovery_points_by_backup_vault(BackupVaultName="main")["RecoveryPoints"]
    encrypted = {row["ResourceArn"]: (row["IsEncrypted"], row.get("EncryptionKeyArn")) for row in points}
    assert encrypted == {instance_arn: (False, None), volume_arn: (True, volume["KmsKeyId"])}


def test_an_account_begins_without_images_and_snapshots(account: Account) -> None:
    ec2 = account.client("ec2")
    assert ec2.describe_images(Owners=["self"])["Images"] == []
    assert ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] == []


def test_lists_are_paged(account: Account) -> None:
    backup = account.client("backup")
    for number in range(5):
        backup.create_backup_vault(BackupVaultName=f"vault-{number}")
    page = backup.list_backup_vaults(MaxResults=2)
    assert len(page["BackupVaultList"]) == 2
    page = backup.list_backup_vaults(MaxResults=3, NextToken=page["NextToken"])
    assert [row["BackupVaultName"] for row in page["BackupVaultList"]] == ["vault-2", "vault-3", "vault-4"]
    assert "NextToken" not in page


def test_region_settings_are_kept(account: Account) -> None:
    backup = account.client("backup")
    assert backup.describe_region_settings()["ResourceTypeOptInPreference"]["EC2"]
    backup.update_region_settings(ResourceTypeOptInPreference={"EC2": False})
    assert not backup.describe_region_settings()["ResourceTypeOptInPreference"]["EC2"]
