"""What an agent's host needs of AWS: actions, services, names. And the policy that grants the actions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from haltuun.model import Json

POLICY_NAME = "haltuun-instance"
OWN_ROLE = "haltuun-instance"
PARAMETERS = ("AmazonCloudWatch-haltuun-*", "haltuun/*")
LOG_GROUPS = "/haltuun/*"

# AmazonSSMManagedInstanceCore v2 (2019-05-23), by the kind of resource that each action is checked
# against (Service Authorization Reference, AWS Systems Manager).
SSM_ANY = (
    "ssm:GetDeployablePatchSnapshotForInstance",
    "ssm:GetManifest",
    "ssm:ListAssociations",
    "ssm:PutComplianceItems",
    "ssm:PutConfigurePackageResult",
    "ssm:PutInventory",
)
SSM_INSTANCE = (
    "ssm:DescribeAssociation",
    "ssm:ListInstanceAssociations",
    "ssm:UpdateAssociationStatus",
    "ssm:UpdateInstanceAssociationStatus",
    "ssm:UpdateInstanceInformation",
)
SSM_DOCUMENT = ("ssm:DescribeDocument", "ssm:GetDocument")
SSM_PARAMETER = ("ssm:GetParameter", "ssm:GetParameters")
MESSAGES = (
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
)
# The older channel: what the agent falls back to, and all that it knew before 3.3.40.0.
FALLBACK = (
    "ec2messages:AcknowledgeMessage",
    "ec2messages:DeleteMessage",
    "ec2messages:FailMessage",
    "ec2messages:GetEndpoint",
    "ec2messages:GetMessages",
    "ec2messages:SendReply",
)
# To ship logs: the CloudWatch agent reads its configuration from a parameter. Default host management's
# own policy (AmazonSSMManagedEC2InstanceDefaultPolicy) has no GetParameter, and its hosts are Online.
LOGS = ("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents")
SHIPPING = (*SSM_PARAMETER, *LOGS)
# The Session Manager agent looks for its group with this; it cannot be narrowed to one group.
LOGS_LIST = "logs:DescribeLogGroups"

DHMC_SINCE = (3, 2, 582)  # Systems Manager User Guide, Default Host Management Configuration
SSMMESSAGES_FIRST_SINCE = (3, 3, 40)  # amazon-ssm-agent RELEASENOTES, 3.3.40.0
# Regions launched from 2024 on have no ec2messages ("Reference: ec2messages, ssmmessages", SSM user guide).
WITHOUT_FALLBACK = {
    "ap-east-2",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "eusc-de-east-1",
    "mx-central-1",
}
# common/identity/endpoint/endpoint.go of amazon-ssm-agent; aws-eusc from botocore's partitions.
DOMAINS = {
    "aws-cn": "amazonaws.com.cn",
    "aws-iso": "c2s.ic.gov",
    "aws-iso-b": "sc2s.sgov.gov",
    "aws-eusc": "amazonaws.eu",
}
OPTIONAL_SERVICES = ("s3", "logs")


def actions_by_resource(
    partition: str, account: str, region: str, instance_id: str
) -> Mapping[str, tuple[str, ...]]:
    """Resource ARN → actions to ask the simulator about with it."""
    ssm = f"arn:{partition}:ssm:{region}:{account}"
    return {
        "*": (*SSM_ANY, *MESSAGES, *FALLBACK),
        f"arn:{partition}:ec2:{region}:{account}:instance/{instance_id}": SSM_INSTANCE,
        f"arn:{partition}:ssm:{region}::document/AWS-RunShellScript": SSM_DOCUMENT,
        f"{ssm}:parameter/AmazonCloudWatch-haltuun-x": SSM_PARAMETER,
        f"arn:{partition}:logs:{region}:{account}:log-group:/haltuun/x:log-stream:{instance_id}": LOGS,
    }


def own_policy(partition: str, account: str) -> Json:
    """The inline policy `haltuun-instance`: AmazonSSMManagedInstanceCore with parameters narrowed to
    Haltuun's, and writing to Haltuun's log groups. Statements of ours are known by their Sid."""
    logs = f"arn:{partition}:logs:*:{account}:log-group"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "HaltuunAgent",
                "Effect": "Allow",
                "Action": sorted((*SSM_ANY, *SSM_INSTANCE, *SSM_DOCUMENT, *MESSAGES, *FALLBACK)),
                "Resource": "*",
            },
            {
                "Sid": "HaltuunParameters",
                "Effect": "Allow",
                "Action": list(SSM_PARAMETER),
                "Resource": [f"arn:{partition}:ssm:*:{account}:parameter/{name}" for name in PARAMETERS],
            },
            {
                "Sid": "HaltuunLogs",
                "Effect": "Allow",
                "Action": list(LOGS),
                "Resource": [f"{logs}:{LOG_GROUPS}", f"{logs}:{LOG_GROUPS}:log-stream:*"],
            },
            {
                "Sid": "HaltuunLogGroups",
                "Effect": "Allow",
                "Action": LOGS_LIST,
                "Resource": "*",  # the call takes no resources (Service Authorization Reference)
            },
        ],
    }


def is_own_policy(document: Json) -> bool:
    """True when every statement carries our Sid: inline policies take no tags."""
    statements = document.get("Statement") if isinstance(document, dict) else None
    return isinstance(statements, list) and all(
        str(statement.get("Sid", "")).startswith("Haltuun") for statement in statements
    )


def own_trust(partition: str) -> Json:
    service = "ec2.amazonaws.com.cn" if partition == "aws-cn" else "ec2.amazonaws.com"
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}],
    }


def needs_fallback(agent_version: object, region: str) -> bool:
    """Whether ec2messages is needed: by an agent that does not prefer ssmmessages yet."""
    version = numbers_of(agent_version)
    return region not in WITHOUT_FALLBACK and version is not None and version < SSMMESSAGES_FIRST_SINCE


def numbers_of(agent_version: object) -> tuple[int, ...] | None:
    """The first three of its version. As a host said it: what is no version at all must not end the look at
    the account."""
    if not isinstance(agent_version, str):
        return None
    found = re.match(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})(?![0-9])", agent_version)
    return tuple(map(int, found.groups())) if found else None


def required_services(agent_version: object, region: str) -> tuple[str, ...]:
    return ("ssm", "ssmmessages", *(("ec2messages",) if needs_fallback(agent_version, region) else ()))


def host_name(service: str, region: str, partition: str) -> str:
    return f"{service}.{region}.{DOMAINS.get(partition, 'amazonaws.com')}"
