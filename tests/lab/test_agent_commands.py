"""Run Command, patching and log shipping by the stand-in agents."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.agent.build import build_agent_deb, build_cloudwatch_deb
from tests.lab.agent_cloud import EC2_ID, REGION, wait_until
from tests.lab.agent_world import World, make_certificate, unpack_agent

pytestmark = pytest.mark.lab

CTL = "/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl"


@pytest.fixture(scope="module")
def package_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    tree = unpack_agent(folder)
    subprocess.run(["dpkg-deb", "-x", str(build_cloudwatch_deb(folder)), str(tree)], check=True)
    return tree


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def world(tmp_path: Path, package_tree: Path, certificate: tuple[Path, Path]) -> Iterator[World]:
    made = World(tmp_path / "root", package_tree, certificate)
    yield made
    made.close()


@pytest.fixture
def online(world: World) -> World:
    world.start()
    world.wait_online(EC2_ID)
    return world


def test_shell_script(online: World) -> None:
    reply = online.cloud.send_command(
        "AWS-RunShellScript", {"commands": ["echo $((6*7))", "echo oops >&2", "exit 3"]}
    )
    assert (reply["Status"], reply["ResponseCode"]) == ("Failed", 3)
    assert reply["StandardOutput"] == "42\n"
    assert reply["StandardError"] == "oops\nfailed to run commands: exit status 3"


def test_shell_script_times_out(online: World) -> None:
    parameters = {"commands": ["sleep 60"], "executionTimeout": ["1"]}
    assert online.cloud.send_command("AWS-RunShellScript", parameters)["Status"] == "TimedOut"


def test_unknown_document_fails(online: World) -> None:
    reply = online.cloud.send_command("AWS-Nonsense", {})
    assert reply["Status"] == "Failed" and "AWS-Nonsense" in reply["StandardError"]


def test_patch_scan_and_install(online: World) -> None:
    missing = [{"Title": "openssl", "Severity": "Critical", "Classification": "Security", "State": "Missing"}]
    online.write("/var/lib/lab/patches.json", json.dumps({"missing": missing}))

    def summary() -> dict[str, str]:
        sent = [data for name, data in online.cloud.payloads if name == "PutInventory"]
        content: dict[str, str] = sent[-1]["Items"][0]["Content"][0]
        return content

    assert online.cloud.send_command("AWS-RunPatchBaseline", {"Operation": ["Scan"]})["Status"] == "Success"
    assert (summary()["MissingCount"], summary()["CriticalNonCompliantCount"]) == ("1", "1")
    assert (
        online.cloud.send_command("AWS-RunPatchBaseline", {"Operation": ["Install"]})["Status"] == "Success"
    )
    assert (summary()["MissingCount"], summary()["InstalledCount"]) == ("0", "1")


def test_inventory_names_the_host(online: World) -> None:
    assert online.cloud.send_command("AWS-GatherSoftwareInventory", {})["Status"] == "Success"
    sent = [data for name, data in online.cloud.payloads if name == "PutInventory"]
    assert sent[-1]["InstanceId"] == EC2_ID


def test_package_that_is_not_there(online: World) -> None:
    parameters = {"action": ["Install"], "name": ["AmazonCloudWatchAgent"]}
    reply = online.cloud.send_command("AWS-ConfigureAWSPackage", parameters)
    assert reply["Status"] == "Failed" and "status 404" in reply["StandardError"]


def test_cloudwatch_agent_ships_lines(world: World) -> None:
    collect = [
        {"file_path": "/var/log/app.log", "log_group_name": "/lab/app", "log_stream_name": "{instance_id}"}
    ]
    config = {"logs": {"logs_collected": {"files": {"collect_list": collect}}}}
    world.cloud.parameters["AmazonCloudWatch-lab"] = json.dumps(config)
    world.write("/var/log/app.log", "one\ntwo\nunfinished")
    done = world.command(CTL, "-a", "fetch-config", "-m", "ec2", "-c", "ssm:AmazonCloudWatch-lab")
    assert done.returncode == 0, done.stderr
    status = json.loads(world.command(CTL, "-a", "status").stdout)
    assert (status["status"], status["configstatus"]) == ("stopped", "configured")
    world.cloud.denied = {"PutLogEvents"}
    world.start_program("/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent")
    log = world.path("/opt/aws/amazon-cloudwatch-agent/logs/amazon-cloudwatch-agent.log")
    wait_until(lambda: log.exists() and "AccessDeniedException" in log.read_text(), "the refusal in its log")
    world.cloud.denied = set()
    wait_until(lambda: world.cloud.log_lines == ["one", "two"], "both complete lines")
    with world.path("/var/log/app.log").open("a") as stream:
        stream.write(" now\n")
    wait_until(
        lambda: world.cloud.log_lines == ["one", "two", "unfinished now"], "the line once it is complete"
    )
    created = [data for name, data in world.cloud.payloads if name == "CreateLogStream"]
    assert created[0] == {"logGroupName": "/lab/app", "logStreamName": EC2_ID}


def test_a_configuration_is_removed_by_where_it_came_from_and_without_any_it_has_none(world: World) -> None:
    world.cloud.parameters.update({"AmazonCloudWatch-lab": "{}", "AmazonCloudWatch-other": "{}"})
    for name in world.cloud.parameters:
        assert world.command(CTL, "-a", "append-config", "-m", "ec2", "-c", f"ssm:{name}").returncode == 0
    told = []
    for name in ("AmazonCloudWatch-lab", "AmazonCloudWatch-lab", "AmazonCloudWatch-other"):
        done = world.command(CTL, "-a", "remove-config", "-m", "ec2", "-c", f"ssm:{name}")
        status = json.loads(world.command(CTL, "-a", "status").stdout)
        told.append((done.returncode, status["configstatus"]))
    assert told == [(0, "configured"), (1, "configured"), (0, "not configured")]


def test_cloudwatch_parameter_refused(world: World) -> None:
    world.cloud.denied = {"GetParameter"}
    done = world.command(CTL, "-a", "fetch-config", "-m", "ec2", "-c", "ssm:x", "-s")
    assert done.returncode == 1
    assert "AccessDeniedException" in done.stderr


def test_package_carries_its_version(tmp_path: Path) -> None:
    package = build_agent_deb(tmp_path, version="2.3.1234.0")
    fields = subprocess.run(
        ["dpkg-deb", "-f", str(package), "Package", "Version"], capture_output=True, text=True, check=True
    ).stdout
    assert fields == "Package: amazon-ssm-agent\nVersion: 2.3.1234.0\n"
    listing = subprocess.run(
        ["dpkg-deb", "-c", str(package)], capture_output=True, text=True, check=True
    ).stdout
    for path in (
        "usr/bin/ssm-cli",
        "lib/systemd/system/amazon-ssm-agent.service",
        "etc/init/amazon-ssm-agent.conf",
    ):
        assert f"./{path}\n" in listing
    assert "./var" not in listing and REGION not in listing


def test_version_flag(world: World) -> None:
    done = world.command("/usr/bin/amazon-ssm-agent", "-version")
    assert (done.returncode, done.stdout) == (0, "SSM Agent version: 3.3.1142.0\n")
