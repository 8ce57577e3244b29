"""The account as a process: health, clock, faults, what nobody implements, and use without a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from lab.cloud.extensions import apply_extensions
from lab.cloud.seed import seed
from lab.cloud.state import ssm_state
from lab.scenario import load_scenario
from tests.lab.cloud_kit import REGION, Account, emulated_account

pytestmark = pytest.mark.slow


@pytest.fixture
def account() -> Iterator[Account]:
    with emulated_account() as found:
        yield found


def test_the_caller_is_in_the_scenarios_account(account: Account) -> None:
    assert account.client("sts").get_caller_identity()["Account"] == "111122223333"


def test_the_clock_moves_with_the_date_header_and_back(account: Account) -> None:
    ssm = account.client("ssm")
    real = ssm.describe_activations()["ResponseMetadata"]["HTTPHeaders"]["date"]
    account.steer("clock", offset_s=86400 * 400)
    try:
        moved = ssm.describe_activations()["ResponseMetadata"]["HTTPHeaders"]["date"]
    finally:
        account.steer("clock", offset_s=0)
    assert int(moved.split()[3]) in (int(real.split()[3]) + 1, int(real.split()[3]) + 2)
    assert ssm.describe_activations()["ResponseMetadata"]["HTTPHeaders"]["date"].split()[3] == real.split()[3]


@pytest.mark.parametrize(
    ("service", "operation", "error", "said"),
    [
        ("ssm", "DescribeActivations", "AccessDeniedException", "AccessDeniedException"),
        ("ssm", "DescribeActivations", "ThrottlingException", "ThrottlingException"),
        ("backup", "ListBackupVaults", "AccessDeniedException", "AccessDeniedException"),
        ("ec2", "DescribeInstances", "AccessDeniedException", "UnauthorizedOperation"),
        ("ec2", "DescribeInstances", "ThrottlingException", "RequestLimitExceeded"),
        ("iam", "ListRoles", "AccessDeniedException", "AccessDenied"),
        ("logs", "DescribeLogGroups", "ThrottlingException", "ThrottlingException"),
    ],
)
def test_a_fault_lasts_as_often_as_it_was_asked_for(
    account: Account, service: str, operation: str, error: str, said: str
) -> None:
    account.steer("fault", operation=f"{service}:{operation}", error=error, times=2)
    client = account.client(service)
    method = "".join(f"_{c.lower()}" if c.isupper() else c for c in operation).lstrip("_")
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            getattr(client, method)()
        assert caught.value.response["Error"]["Code"] == said
    getattr(client, method)()


def test_an_operation_that_nobody_implements_answers_as_moto_does(account: Account) -> None:
    with pytest.raises(ClientError) as caught:
        account.client("ssm").describe_ops_items(OpsItemFilters=[])
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


def test_steering_says_what_it_does_not_know(account: Account) -> None:
    for path, code in (("nonsense", 404), ("node", 400)):
        request = urllib.request.Request(f"{account.endpoint_url}/lab/{path}", data=b"{}")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == code


@pytest.mark.parametrize("name", ["demo", "full", "dhmc"])
def test_every_scenario_can_be_seeded(account: Account, name: str) -> None:
    scenario = load_scenario(name, seed=5)
    ids = seed(account.endpoint_url, scenario)
    ec2 = account.client("ec2")
    rows = [row for found in ec2.describe_instances()["Reservations"] for row in found["Instances"]]
    seen = {row["InstanceId"]: row for row in rows}
    assert set(ids.values()) == set(seen)
    for host in scenario.hosts:
        row = seen[host.instance_id]
        assert (row["PrivateIpAddress"], row["State"]["Name"]) == (host.private_ip, host.state)
        assert row["LaunchTime"] == host.launched
        assert ("IamInstanceProfile" in row) == (host.profile != "none")
        assert row.get("Platform") == ("windows" if host.platform == "windows" else None)
    images = ec2.describe_images(ImageIds=[row["ImageId"] for row in rows])["Images"]
    imported = [image for image in images if image["Name"].startswith("import-ami-")]
    assert len(imported) == len(scenario.images)
    members = account.client("autoscaling").describe_auto_scaling_instances()["AutoScalingInstances"]
    assert {row["InstanceId"] for row in members} == {h.instance_id for h in scenario.hosts if h.asg}


def test_the_demo_begins_without_backup_and_the_full_one_with_a_predecessors(account: Account) -> None:
    seed(account.endpoint_url, load_scenario("demo"))
    backup = account.client("backup")
    assert backup.list_backup_plans()["BackupPlansList"] == []
    assert backup.list_backup_vaults()["BackupVaultList"] == []


def test_leftovers_stand_where_a_predecessor_made_them(account: Account) -> None:
    seed(account.endpoint_url, load_scenario("full"))
    plans = account.client("backup").list_backup_plans()["BackupPlansList"]
    assert [plan["BackupPlanName"] for plan in plans] == ["acme-weekly"]
    groups = account.client("logs").describe_log_groups()["logGroups"]
    assert [group["logGroupName"] for group in groups if "retentionInDays" not in group] == ["/acme/syslog"]
    own = [{"Key": "OWNER", "Values": ["Self"]}]
    found = account.client("ssm").describe_patch_baselines(Filters=own)["BaselineIdentities"]
    assert [row["BaselineName"] for row in found] == ["acme-ubuntu"]


def test_the_package_bucket_is_readable_without_credentials(account: Account, tmp_path: Path) -> None:
    deb = tmp_path / "amazon-cloudwatch-agent.deb"
    deb.write_bytes(b"!<arch>\n" * 1000)
    seed(account.endpoint_url, load_scenario("dhmc"), cloudwatch_deb=deb)
    request = urllib.request.Request(
        f"{account.endpoint_url}/lab-packages-{REGION}/{deb.name}",
        headers={"Host": f"s3.{REGION}.amazonaws.com"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.read() == deb.read_bytes()


def test_the_extensions_work_without_a_server() -> None:
    apply_extensions()
    with mock_aws():
        ssm = boto3.client("ssm", region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b")
        state = ssm_state("123456789012", REGION)
        state.put_node("i-0123456789abcdef0", simulated=True, platform_name="Ubuntu")
        state.responder = lambda message, _: {
            "CommandId": message["CommandId"],
            "Status": "Success",
            "ResponseCode": 0,
            "StandardOutput": message["Parameters"]["commands"][0],
        }
        nodes = ssm.describe_instance_information()["InstanceInformationList"]
        assert [(row["InstanceId"], row["PingStatus"]) for row in nodes] == [
            ("i-0123456789abcdef0", "Online")
        ]
        command = ssm.send_command(
            InstanceIds=["i-0123456789abcdef0"],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": ["true"]},
        )["Command"]["CommandId"]
        found = ssm.get_command_invocation(CommandId=command, InstanceId="i-0123456789abcdef0")
        assert (found["Status"], found["StandardOutputContent"]) == ("Success", "true")
        backup = boto3.client("backup", region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b")
        backup.create_backup_vault(BackupVaultName="main")
        assert backup.list_backup_jobs()["BackupJobs"] == []
        assert backup.list_recovery_points_by_backup_vault(BackupVaultName="main")["RecoveryPoints"] == []


def test_the_server_runs_as_a_process_and_leaves_on_sigterm(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "lab.cloud.server",
        "--run-dir",
        str(tmp_path),
        "--seed-scenario",
        "dhmc",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        endpoint_url = process.stdout.readline().strip()
        assert json.loads((tmp_path / "cloud.json").read_text())["endpoint_url"] == endpoint_url
        with urllib.request.urlopen(f"{endpoint_url}/lab/health", timeout=10) as answer:
            assert json.loads(answer.read())["account_id"] == "111122223333"
        account = Account(endpoint_url)
        assert account.client("iam").list_account_aliases()["AccountAliases"] == ["acme-dhmc"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
