"""Names and settings of the backup that Haltuun sets up, and how its things are spelled in changes."""

from __future__ import annotations

from haltuun.model import Json
from haltuun.stages.tags import BACKUP

VAULT = "haltuun"
ROLE = "haltuun-backup"
PLAN = "haltuun-daily"
SELECTION = "haltuun-tagged"
RULE = "daily"
TAG_VALUE = "daily"
SERVICE = "backup.amazonaws.com"
# Nothing here restores, so the role has no right to.
POLICIES = ("AWSBackupServiceRolePolicyForBackup",)

# Before the patch window of Sunday 03:00 UTC: a recovery point is fresh when something is installed.
SCHEDULE = "cron(0 1 ? * * *)"
START_WINDOW_MINUTES = 60
COMPLETION_WINDOW_MINUTES = 720
# A day, the hour in which the next job may start, and what a large one takes to end.
MAX_AGE_H = 30.0


def policy_arn(partition: str, name: str) -> str:
    return f"arn:{partition}:iam::aws:policy/service-role/{name}"


def role_arn(partition: str, account: str) -> str:
    return f"arn:{partition}:iam::{account}:role/{ROLE}"


def instance_arn(partition: str, region: str, account: str, instance_id: str) -> str:
    return f"arn:{partition}:ec2:{region}:{account}:instance/{instance_id}"


def plan_value(retention_days: int) -> Json:
    return {"vault": VAULT, "schedule": SCHEDULE, "delete_after_days": retention_days}


def selection_value(partition: str) -> Json:
    """Named types ignore the region's opt-in, and Conditions are ANDed with Resources.

    A selection by ListOfTags alone would obey the opt-in, and one without any condition would take
    all that is opted in (AWS Backup developer guide, "Assign resources").
    """
    return {
        "resources": [f"arn:{partition}:ec2:*:*:instance/*", f"arn:{partition}:ec2:*:*:volume/*"],
        "conditions": [[f"aws:ResourceTag/{BACKUP}", TAG_VALUE]],
    }
