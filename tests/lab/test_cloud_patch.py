"""Patch Manager, inventory, compliance, maintenance windows, session preferences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lab.cloud.seed import seed
from tests.lab.cloud_kit import Account, Machine, emulated_account, small_scenario

pytestmark = pytest.mark.slow

ROLE = "arn:aws:iam::111122223333:role/acme-ec2-managed"
NOW = "2026-01-02T03:04:05Z"


@pytest.fixture
def account() -> Iterator[Account]:
    with emulated_account() as found:
        yield found


@pytest.fixture
def web(account: Account) -> Machine:
    scenario = small_scenario()
    seed(account.endpoint_url, scenario)
    machine = account.machine(scenario.hosts[0].instance_id, ROLE)
    machine.ping()
    return machine


def scanned(machine: Machine, missing: int = 1) -> None:
    """What an agent reports after AWS-RunPatchBaseline."""
    summary = {"OperationType": "Scan", "InstalledCount": "7", "MissingCount": str(missing), "PatchGroup": ""}
    item = {"TypeName": "AWS:PatchSummary", "SchemaVersion": "1.0", "CaptureTime": NOW, "Content": [summary]}
    assert machine.ssm("PutInventory", InstanceId=machine.node_id, Items=[item])[0] == 200
    rows = [
        {
            "Id": f"p{number}",
            "Title": f"package{number}.amd64",
            "Severity": "IMPORTANT",
            "Status": "NON_COMPLIANT",
            "Details": {"PatchState": "Missing", "Classification": "Security"},
        }
        for number in range(missing)
    ]
    status, _ = machine.ssm(
        "PutComplianceItems",
        ResourceId=machine.node_id,
        ResourceType="ManagedInstance",
        ComplianceType="Patch",
        ExecutionSummary={"ExecutionTime": NOW},
        Items=rows,
    )
    assert status == 200


def test_a_scan_is_read_back_with_its_time(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    assert ssm.describe_instance_patch_states(InstanceIds=[web.node_id])["InstancePatchStates"] == []
    scanned(web)
    found = ssm.describe_instance_patch_states(InstanceIds=[web.node_id])["InstancePatchStates"][0]
    assert (found["MissingCount"], found["InstalledCount"], found["Operation"]) == (1, 7, "Scan")
    assert found["OperationEndTime"].isoformat()[:19] == NOW[:19]
    patches = ssm.describe_instance_patches(
        InstanceId=web.node_id, Filters=[{"Key": "State", "Values": ["MISSING"]}]
    )["Patches"]
    assert [(row["Title"], row["Classification"]) for row in patches] == [("package0.amd64", "Security")]


def test_the_patch_group_comes_from_the_tag(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    scanned(web)
    account.client("ec2").create_tags(Resources=[web.node_id], Tags=[{"Key": "Patch Group", "Value": "prod"}])
    found = ssm.describe_instance_patch_states(InstanceIds=[web.node_id])["InstancePatchStates"][0]
    assert found["PatchGroup"] == "prod"
    state = ssm.describe_patch_group_state(PatchGroup="prod")
    assert (state["Instances"], state["InstancesWithMissingPatches"]) == (1, 1)


def test_a_group_has_one_baseline_for_each_system(account: Account) -> None:
    ssm = account.client("ssm")
    asked: dict[str, Any] = {"Name": "ours", "Tags": [{"Key": "a", "Value": "b"}], "ClientToken": "one"}
    ubuntu = ssm.create_patch_baseline(OperatingSystem="UBUNTU", **asked)["BaselineId"]
    assert ssm.create_patch_baseline(OperatingSystem="UBUNTU", **asked)["BaselineId"] == ubuntu
    debian = ssm.create_patch_baseline(Name="ours-debian", OperatingSystem="DEBIAN")["BaselineId"]
    other = ssm.create_patch_baseline(Name="other", OperatingSystem="UBUNTU")["BaselineId"]
    for baseline in (ubuntu, debian, ubuntu):
        ssm.register_patch_baseline_for_patch_group(BaselineId=baseline, PatchGroup="prod")
    with pytest.raises(ClientError, match="AlreadyExistsException"):
        ssm.register_patch_baseline_for_patch_group(BaselineId=other, PatchGroup="prod")
    asked = {"PatchGroup": "prod", "OperatingSystem": "UBUNTU"}
    assert ssm.get_patch_baseline_for_patch_group(**asked)["BaselineId"] == ubuntu
    assert ssm.get_patch_baseline(BaselineId=ubuntu)["PatchGroups"] == ["prod"]
    with pytest.raises(ClientError, match="ResourceInUseException"):
        ssm.delete_patch_baseline(BaselineId=ubuntu)
    ssm.deregister_patch_baseline_for_patch_group(BaselineId=ubuntu, PatchGroup="prod")
    default = ssm.get_default_patch_baseline(OperatingSystem="UBUNTU")["BaselineId"]
    assert ssm.get_patch_baseline_for_patch_group(**asked)["BaselineId"] == default
    assert default.startswith("arn:aws:ssm:eu-central-1:")
    assert [row["PatchGroup"] for row in ssm.describe_patch_groups()["Mappings"]] == ["prod"]
    tags = ssm.list_tags_for_resource(ResourceType="PatchBaseline", ResourceId=ubuntu)["TagList"]
    assert tags == [{"Key": "a", "Value": "b"}]


def test_baselines_are_told_apart_by_owner(account: Account) -> None:
    ssm = account.client("ssm")
    ssm.create_patch_baseline(Name="haltuun-ubuntu", OperatingSystem="UBUNTU")
    own = ssm.describe_patch_baselines(Filters=[{"Key": "OWNER", "Values": ["Self"]}])["BaselineIdentities"]
    assert [row["BaselineName"] for row in own] == ["haltuun-ubuntu"]
    asked = [{"Key": "OPERATING_SYSTEM", "Values": ["UBUNTU"]}, {"Key": "OWNER", "Values": ["AWS"]}]
    assert len(ssm.describe_patch_baselines(Filters=asked)["BaselineIdentities"]) == 1


def test_compliance_is_listed_and_summed_up(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    scanned(web, missing=2)
    asked = [{"Key": "ComplianceType", "Values": ["Patch"], "Type": "EQUAL"}]
    items = ssm.list_compliance_items(ResourceIds=[web.node_id], Filters=asked)["ComplianceItems"]
    assert [(row["Status"], row["Severity"]) for row in items] == [("NON_COMPLIANT", "HIGH")] * 2
    summary = ssm.list_resource_compliance_summaries(Filters=asked)["ResourceComplianceSummaryItems"][0]
    assert (summary["Status"], summary["NonCompliantSummary"]["NonCompliantCount"]) == ("NON_COMPLIANT", 2)
    total = ssm.list_compliance_summaries(Filters=asked)["ComplianceSummaryItems"]
    assert [(row["ComplianceType"], row["NonCompliantSummary"]["NonCompliantCount"]) for row in total] == [
        ("Patch", 2)
    ]


def test_inventory_is_replaced_and_found(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    content = [{"Name": "apache2", "Version": "2.4"}]
    item = {"TypeName": "AWS:Application", "SchemaVersion": "1.1", "CaptureTime": NOW, "Content": content}
    web.ssm("PutInventory", InstanceId=web.node_id, Items=[item])
    assert (
        ssm.list_inventory_entries(InstanceId=web.node_id, TypeName="AWS:Application")["Entries"] == content
    )
    entities = ssm.get_inventory(
        Filters=[{"Key": "AWS:Application.Name", "Values": ["apache2"], "Type": "Equal"}],
        ResultAttributes=[{"TypeName": "AWS:Application"}],
    )["Entities"]
    assert [row["Id"] for row in entities] == [web.node_id]


def test_a_window_with_targets_and_tasks(account: Account) -> None:
    ssm = account.client("ssm")
    asked: dict[str, Any] = {
        "Name": "haltuun",
        "Schedule": "cron(0 3 ? * SUN *)",
        "Duration": 3,
        "Cutoff": 1,
        "AllowUnassociatedTargets": False,
        "ClientToken": "one",
    }
    window = ssm.create_maintenance_window(**asked)["WindowId"]
    assert ssm.create_maintenance_window(**asked)["WindowId"] == window
    target = ssm.register_target_with_maintenance_window(
        WindowId=window,
        ResourceType="INSTANCE",
        Targets=[{"Key": "tag:haltuun:armed", "Values": ["yes"]}],
        Name="armed",
    )["WindowTargetId"]
    task = ssm.register_task_with_maintenance_window(
        WindowId=window,
        Targets=[{"Key": "WindowTargetIds", "Values": [target]}],
        TaskArn="AWS-RunPatchBaseline",
        TaskType="RUN_COMMAND",
        TaskInvocationParameters={"RunCommand": {"Parameters": {"Operation": ["Install"]}}},
    )["WindowTaskId"]
    assert ssm.describe_maintenance_windows()["WindowIdentities"][0]["Enabled"]
    assert ssm.describe_maintenance_window_targets(WindowId=window)["Targets"][0]["Name"] == "armed"
    assert ssm.describe_maintenance_window_tasks(WindowId=window)["Tasks"][0]["Type"] == "RUN_COMMAND"
    found = ssm.get_maintenance_window_task(WindowId=window, WindowTaskId=task)
    run = found["TaskInvocationParameters"]["RunCommand"]
    assert run["Parameters"] == {"Operation": ["Install"]}
    assert not ssm.update_maintenance_window(WindowId=window, Enabled=False)["Enabled"]
    ssm.deregister_task_from_maintenance_window(WindowId=window, WindowTaskId=task)
    ssm.deregister_target_from_maintenance_window(WindowId=window, WindowTargetId=target)
    ssm.delete_maintenance_window(WindowId=window)
    assert ssm.describe_maintenance_windows()["WindowIdentities"] == []


def test_session_preferences_are_a_document(account: Account) -> None:
    ssm, name = account.client("ssm"), "SSM-SessionManagerRunShell"
    with pytest.raises(ClientError, match="InvalidDocument"):
        ssm.get_document(Name=name)
    content: dict[str, Any] = {"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": {}}
    ssm.create_document(Name=name, Content=json.dumps(content), DocumentType="Session", DocumentFormat="JSON")
    assert json.loads(ssm.get_document(Name=name)["Content"]) == content
    assert ssm.describe_document(Name=name)["Document"]["DocumentType"] == "Session"
    content["inputs"] = {"cloudWatchLogGroupName": "sessions"}
    version = ssm.update_document(Name=name, Content=json.dumps(content), DocumentVersion="$LATEST")
    number = version["DocumentDescription"]["DocumentVersion"]
    ssm.update_document_default_version(Name=name, DocumentVersion=number)
    assert (
        json.loads(ssm.get_document(Name=name)["Content"])["inputs"]["cloudWatchLogGroupName"] == "sessions"
    )
