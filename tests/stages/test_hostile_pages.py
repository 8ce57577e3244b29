"""AWS's answers hold what strangers typed: names, tags and descriptions of any text, and members left out.

The pages are made of botocore's own descriptions of the services.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape
from hypothesis import given, settings
from hypothesis import strategies as st

from haltuun.model import StageName
from haltuun.stages.discover.judge import judge
from haltuun.stages.discover.parse_account import parse_account
from haltuun.stages.discover.parse_host import parse_host
from tests.stages.test_hostile_hosts import HOST, ODD, raw, view

# What `discover` asks: its name for the answer → service, operation, and the member that holds the rows.
PAGES = {
    "statuses": ("ec2", "DescribeInstanceStatus", "InstanceStatuses"),
    "images": ("ec2", "DescribeImages", "Images"),
    "volumes": ("ec2", "DescribeVolumes", "Volumes"),
    "evidence": ("ec2", "DescribeSnapshots", "Snapshots"),
    "nodes": ("ssm", "DescribeInstanceInformation", "InstanceInformationList"),
    "asg_instances": ("autoscaling", "DescribeAutoScalingInstances", "AutoScalingInstances"),
    "groups": ("autoscaling", "DescribeAutoScalingGroups", "AutoScalingGroups"),
    "launch_configurations": ("autoscaling", "DescribeLaunchConfigurations", "LaunchConfigurations"),
    "launch_templates": ("ec2", "DescribeLaunchTemplateVersions", "LaunchTemplateVersions"),
    "baselines": ("ssm", "DescribePatchBaselines", "BaselineIdentities"),
    "patch_groups": ("ssm", "DescribePatchGroups", "Mappings"),
    "windows": ("ssm", "DescribeMaintenanceWindows", "WindowIdentities"),
    "associations": ("ssm", "ListAssociations", "Associations"),
    "backup_plans": ("backup", "ListBackupPlans", "BackupPlansList"),
    "backup_vaults": ("backup", "ListBackupVaults", "BackupVaultList"),
    "log_groups": ("logs", "DescribeLogGroups", "logGroups"),
}
# Members without which a row would be none.
ALWAYS = ("State", "Key", "Value", "PatchGroup", "VersionNumber")
ALWAYS_ENDINGS = ("Id", "Name", "Identity", "Arn")
TIMES = ("2026-11-23T10:00:00+00:00", "1970-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00")
DEEPEST = 4
SESSION = botocore.session.Session()
STATES = SESSION.get_service_model("ec2").shape_for("InstanceStateName").enum


@dataclass(frozen=True)
class Pages:
    """Makes answers, the same for the same seed. (Hypothesis's strategies take seconds for one page.)"""

    dice: Random
    texts: Sequence[str]

    def region(self) -> dict[str, Any]:
        """What discover's get_region gives: name → rows."""
        answers = {name: self.rows(*asked) for name, asked in PAGES.items()}
        reservations = self.rows("ec2", "DescribeInstances", "Reservations")
        instances = [instance for one in reservations for instance in one.get("Instances", ())]
        for instance in instances:
            instance["State"] = {"Name": self.dice.choice(STATES)}
        if instances:
            instances[0]["InstanceId"] = HOST.instance_id
        return answers | {
            "instances": instances,
            "ecs_instances": [self.text()],
            "dhmc": {"SettingValue": self.text()},
            "session_preferences": self.dice.choice((None, self.text())),
        }

    def rows(self, service: str, operation: str, member: str) -> list[Any]:
        output = SESSION.get_service_model(service).operation_model(operation).output_shape
        return list(self.made_of(output.members[member], ()))

    def text(self) -> str:
        return self.dice.choice(self.texts)

    def made_of(self, shape: Shape, above: tuple[str, ...]) -> Any:
        if isinstance(shape, StructureShape):
            if shape.name in above or len(above) > DEEPEST:
                return {}
            return {
                name: self.made_of(part, (*above, shape.name))
                for name, part in shape.members.items()
                if name in ALWAYS or name.endswith(ALWAYS_ENDINGS) or self.dice.random() < 0.5
            }
        if isinstance(shape, ListShape):
            return [self.made_of(shape.member, above) for _ in range(self.dice.randint(0, 2))]
        if isinstance(shape, MapShape):
            return {self.text(): self.made_of(shape.value, above) for _ in range(self.dice.randint(0, 2))}
        if isinstance(shape, StringShape) and shape.enum:
            return self.dice.choice(shape.enum)
        numbers = {"integer": (0, 1, 2**31 - 1), "long": (0, 2**63)}
        others = numbers | {"boolean": (True, False), "timestamp": TIMES}
        return self.dice.choice(others.get(shape.type_name, self.texts))


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.lists(ODD, min_size=1, max_size=8))
def test_discover_reads_any_page(seed: int, texts: list[str]) -> None:
    pages = {HOST.region: Pages(Random(seed), texts).region()}
    account = parse_account(view(), pages)
    json.loads(account.model_dump_json())
    seen = replace(view(), account_facts={StageName.discover: account})
    facts = parse_host(seen, HOST, pages, raw(f"probe\t1\n{texts[0]}"))
    json.loads(facts.model_dump_json())
    json.dumps(facts.row(), allow_nan=False)
    seen = replace(seen, facts={StageName.discover: {HOST.instance_id: facts}})
    assert all(finding.message for finding in judge(seen))
