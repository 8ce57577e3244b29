"""What a predecessor left in the account; Haltuun must see it and leave it as it is."""

from __future__ import annotations

import json

from lab.cloud.seeding import Seeding


def make_leftovers(work: Seeding) -> None:
    scenario = work.scenario
    wanted = set(scenario.leftovers)
    ssm = work.client("ssm")
    if "log-group" in wanted:
        work.client("logs").create_log_group(logGroupName="/acme/syslog")
    if "patch-baseline" in wanted:
        made = ssm.create_patch_baseline(
            Name="acme-ubuntu", OperatingSystem="UBUNTU", Description="made by the predecessor"
        )
        ssm.register_patch_baseline_for_patch_group(
            BaselineId=made["BaselineId"], PatchGroup="acme-production"
        )
    if "maintenance-window" in wanted:
        ssm.create_maintenance_window(
            Name="acme-sunday",
            Schedule="cron(0 3 ? * SUN *)",
            Duration=3,
            Cutoff=1,
            AllowUnassociatedTargets=False,
        )
    if "association" in wanted:
        ssm.create_association(
            Name="AWS-GatherSoftwareInventory",
            AssociationName="acme-inventory",
            Targets=[{"Key": "tag:Environment", "Values": ["production"]}],
            ScheduleExpression="rate(1 day)",
        )
    if "session-preferences" in wanted:
        content = {
            "schemaVersion": "1.0",
            "description": "acme",
            "sessionType": "Standard_Stream",
            "inputs": {},
        }
        ssm.create_document(
            Name="SSM-SessionManagerRunShell",
            Content=json.dumps(content),
            DocumentType="Session",
            DocumentFormat="JSON",
        )
    if "backup-plan" in wanted:
        backup = work.client("backup")
        backup.create_backup_vault(BackupVaultName="acme-old")
        rule = {
            "RuleName": "weekly",
            "TargetBackupVaultName": "acme-old",
            "ScheduleExpression": "cron(0 2 ? * SUN *)",
        }
        backup.create_backup_plan(BackupPlan={"BackupPlanName": "acme-weekly", "Rules": [rule]})
