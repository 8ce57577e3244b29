"""What the policies allow and what they do not, decided by the lab's evaluator of IAM policies."""

from __future__ import annotations

import json
from functools import cache

import pytest

from deployments.iam.policies import HERE
from haltuun.stages.verify.needs import OWN_ROLE
from lab.cloud.policy import Document, document, evaluate

EC2 = "arn:aws:ec2:eu-central-1:111122223333"
SSM = "arn:aws:ssm:eu-central-1:111122223333"
IAM = "arn:aws:iam::111122223333"
INSTANCE = f"{EC2}:instance/i-0abc1234def567890"
OWN_PROFILE = f"{IAM}:instance-profile/{OWN_ROLE}"
OURS = {"aws:ResourceTag/haltuun:managed": ["true"]}
AS_OURS = {"aws:RequestTag/haltuun:managed": ["true"]}

Case = tuple[str, str, dict[str, list[str]]]

ALLOWED: list[Case] = [
    ("ec2:CreateTags", INSTANCE, {"aws:TagKeys": ["haltuun:armed"]}),
    ("ec2:CreateTags", INSTANCE, {"aws:TagKeys": ["Patch Group"]}),
    ("ec2:CreateTags", "arn:aws:ec2:eu-central-1::snapshot/*", {"ec2:CreateAction": ["CreateSnapshots"]}),
    ("ec2:AssociateIamInstanceProfile", INSTANCE, {"ec2:NewInstanceProfile": [OWN_PROFILE]}),
    ("iam:PassRole", f"{IAM}:role/{OWN_ROLE}", {"iam:PassedToService": ["ec2.amazonaws.com"]}),
    ("iam:PassRole", f"{IAM}:role/{OWN_ROLE}", {}),
    ("iam:PutRolePolicy", f"{IAM}:role/app/web", {}),
    ("ssm:SendCommand", INSTANCE, {}),
    ("ssm:SendCommand", "arn:aws:ssm:eu-central-1::document/AWS-RunShellScript", {}),
    ("ssm:CreateAssociation", "arn:aws:ssm:eu-central-1::document/AWS-RunPatchBaseline", AS_OURS),
    ("ssm:UpdateAssociation", f"{SSM}:association/8dfe3659", OURS),
    ("ssm:UpdateMaintenanceWindow", f"{SSM}:maintenancewindow/mw-0123", OURS),
    ("ssm:CreatePatchBaseline", "*", AS_OURS),
    ("kms:CreateGrant", "arn:aws:kms:eu-central-1:111122223333:key/1", {"kms:ViaService": ["backup.x.y"]}),
]
REFUSED: list[Case] = [
    ("ec2:CreateTags", INSTANCE, {"aws:TagKeys": ["Owner"]}),
    ("ec2:CreateTags", INSTANCE, {"aws:TagKeys": ["haltuun:armed", "Owner"]}),
    ("ec2:DeleteTags", INSTANCE, {}),
    ("ec2:AssociateIamInstanceProfile", INSTANCE, {"ec2:NewInstanceProfile": [f"{IAM}:instance-profile/x"]}),
    ("ec2:DisassociateIamInstanceProfile", INSTANCE, {"ec2:InstanceProfile": [f"{IAM}:instance-profile/x"]}),
    ("ec2:AuthorizeSecurityGroupIngress", f"{EC2}:security-group/sg-1", {}),
    ("ec2:DeleteSnapshot", "arn:aws:ec2:eu-central-1::snapshot/snap-1", {}),
    ("ec2:TerminateInstances", INSTANCE, {}),
    ("iam:PassRole", f"{IAM}:role/admin", {"iam:PassedToService": ["ec2.amazonaws.com"]}),
    ("iam:PassRole", f"{IAM}:role/{OWN_ROLE}", {"iam:PassedToService": ["lambda.amazonaws.com"]}),
    ("iam:PutRolePolicy", f"{IAM}:role/haltuun", {}),
    ("iam:PutUserPolicy", f"{IAM}:user/somebody", {}),
    ("iam:CreateRole", f"{IAM}:role/another", {}),
    ("iam:AttachRolePolicy", f"{IAM}:role/haltuun-backup", {"iam:PolicyARN": ["arn:aws:iam::aws:policy/A"]}),
    ("iam:AttachRolePolicy", f"{IAM}:role/{OWN_ROLE}", {}),
    ("ssm:SendCommand", f"{SSM}:managed-instance/mi-0abc1234def567890", {}),
    ("ssm:SendCommand", f"{SSM}:document/somebodys-own", {}),
    ("ssm:UpdateAssociation", f"{SSM}:association/8dfe3659", {}),
    ("ssm:UpdateMaintenanceWindow", f"{SSM}:maintenancewindow/mw-0123", {}),
    ("ssm:CreatePatchBaseline", "*", {}),
    ("ssm:UpdateDocument", f"{SSM}:document/SSM-SessionManagerRunShell", {}),
    ("ssm:GetParameter", f"{SSM}:parameter/prod/db-password", {}),
    ("ssm:PutParameter", f"{SSM}:parameter/prod/db-password", {}),
    ("backup:DeleteRecoveryPoint", "*", {}),
    ("backup:UpdateBackupPlan", "arn:aws:backup:eu-central-1:111122223333:backup-plan:1", {}),
    ("kms:Decrypt", "arn:aws:kms:eu-central-1:111122223333:key/1", {"kms:ViaService": ["s3.x.y"]}),
    ("kms:Decrypt", "arn:aws:kms:eu-central-1:111122223333:key/1", {}),
    ("logs:FilterLogEvents", "arn:aws:logs:eu-central-1:111122223333:log-group:/app/web", {}),
    ("logs:DeleteLogGroup", "arn:aws:logs:eu-central-1:111122223333:log-group:/haltuun/acme/syslog", {}),
]


@cache
def policy(access: str) -> Document:
    text = (HERE / f"{access}.json").read_text(encoding="utf-8")
    text = text.replace("${AWS::Partition}", "aws").replace("${AWS::AccountId}", "111122223333")
    return document(access, "IAM Policy", json.loads(text))


@pytest.mark.parametrize(("action", "resource", "context"), ALLOWED)
def test_what_a_takeover_does_is_allowed(action: str, resource: str, context: dict[str, list[str]]) -> None:
    assert evaluate([policy("read"), policy("write")], action, resource, context).allowed
    assert not evaluate([policy("read")], action, resource, context).allowed


@pytest.mark.parametrize(("action", "resource", "context"), REFUSED)
def test_what_is_a_predecessors_is_refused(action: str, resource: str, context: dict[str, list[str]]) -> None:
    assert not evaluate([policy("read"), policy("write")], action, resource, context).allowed


@pytest.mark.parametrize(
    ("action", "resource", "allowed"),
    [
        ("ssm:UpdateInstanceInformation", INSTANCE, True),
        ("ssmmessages:OpenControlChannel", "*", True),
        ("ssm:GetParameter", f"{SSM}:parameter/AmazonCloudWatch-haltuun-1f2e", True),
        ("ssm:GetParameter", f"{SSM}:parameter/prod/db-password", False),
        (
            "logs:PutLogEvents",
            "arn:aws:logs:eu-central-1:111122223333:log-group:/haltuun/a:log-stream:i",
            True,
        ),
        (
            "logs:PutLogEvents",
            "arn:aws:logs:eu-central-1:111122223333:log-group:/app/web:log-stream:i",
            False,
        ),
        ("ssm:SendCommand", INSTANCE, False),
        ("iam:PutRolePolicy", f"{IAM}:role/app/web", False),
    ],
)
def test_an_instance_may_do_its_agents_work_and_reach_nothing_of_others(
    action: str, resource: str, allowed: bool
) -> None:
    assert evaluate([policy("instance")], action, resource, {}).allowed is allowed
