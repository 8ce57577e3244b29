"""Whose identity the stand-in agent takes, beside the table of experiments (test_agent_table.py)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.agent.stale import StaleRegistration, write_stale_state
from tests.lab.agent_cloud import EC2_ID, HYBRID_ID, REGION
from tests.lab.agent_world import World, make_certificate, unpack_agent

pytestmark = pytest.mark.lab

STATE = "/var/lib/amazon/ssm"
AGENT = "/usr/bin/amazon-ssm-agent"
REGISTRATION_KEY = f"{STATE}/Vault/Store/RegistrationKey"
FINGERPRINT = "cf4a2dc7-bb0f-42b2-bc42-2535ff23ab36"
TAKES_EC2 = "INFO Agent will take identity from EC2\n"
TAKES_ONPREM = "INFO Agent will take identity from OnPrem\n"


@pytest.fixture(scope="module")
def package_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_agent(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def world(tmp_path: Path, package_tree: Path, certificate: tuple[Path, Path]) -> Iterator[World]:
    """A clean host with a role."""
    made = World(tmp_path / "root", package_tree, certificate)
    yield made
    made.close()


@pytest.fixture
def stale_world(world: World) -> World:
    """A clone whose stale registration, from before the move, still authenticates."""
    machine_id = "0123456789abcdef0123456789abcdef"
    write_stale_state(world.root, StaleRegistration(HYBRID_ID, REGION, FINGERPRINT, machine_id, True))
    return world


def assert_ec2(world: World) -> None:
    """Registered by the identity role, then online by the profile, as i-."""
    world.wait_online(EC2_ID)
    assert world.taken_identity() == EC2_ID
    log = world.log()
    assert TAKES_EC2 in log and TAKES_ONPREM not in log
    assert "[EC2Identity] EC2 registration was successful." in log
    assert "EC2RoleProvider Successfully connected with instance profile role credentials" in log
    operations = [name for name, who, _ in world.cloud.calls if who == EC2_ID]
    assert operations[:2] == ["RegisterManagedInstance", "UpdateInstanceInformation"]
    assert "CreateControlChannel" in operations
    assert world.cloud.called("OpenControlChannel", HYBRID_ID) == 0


def assert_hybrid(world: World) -> None:
    world.wait_online(HYBRID_ID)
    assert world.taken_identity() == HYBRID_ID
    assert TAKES_ONPREM in world.log()
    assert "identity type EC2 can be assumed" not in world.log()


def test_l0_clean_host_is_online_as_itself(world: World) -> None:
    world.start()
    assert_ec2(world)
    key = json.loads(world.path(f"{STATE}/Vault/Store/EC2RegistrationKey").read_text())
    assert (key["instanceID"], key["region"], key["privateKeyType"]) == (EC2_ID, REGION, "Rsa")
    assert not world.path(f"{STATE}/Vault/Manifest").exists()
    assert world.pids("amazon-ssm-agen") and world.pids("ssm-agent-worke")
    argv = Path(f"/proc/{world.pids('amazon-ssm-agen')[0]}/cmdline").read_bytes()
    assert argv == b"/usr/bin/amazon-ssm-agent\0"


def test_hybrid_gone_is_said_by_the_service(stale_world: World) -> None:
    stale_world.cloud.hybrid_fingerprint = None
    stale_world.start()
    stale_world.wait_log(f"produced error: InvalidInstanceId: Not existing InstanceId {HYBRID_ID}")


def test_ssm_cli_without_root_gives_the_healthy_answer(stale_world: World) -> None:
    for folder in [stale_world.root, *stale_world.root.parents]:
        if folder.is_relative_to(tempfile.gettempdir()) and folder.stat().st_mode & 0o001 == 0:
            folder.chmod(0o755)
    answer = stale_world.command("/usr/bin/ssm-cli", "get-instance-information", user="65534")
    assert json.loads(answer.stdout)["instance-id"] == EC2_ID
    answer = stale_world.command("/usr/bin/ssm-cli", "get-instance-information")
    assert json.loads(answer.stdout)["instance-id"] == HYBRID_ID
    refused = stale_world.command(AGENT, "-register", "-clear", user="65534")
    assert refused.returncode == 1
    assert "Try running as sudo/administrator." in refused.stdout


def test_registering_replaces_the_identity(world: World) -> None:
    done = world.command(AGENT, "-register", "-code", "c", "-id", "a", "-region", REGION)
    assert done.returncode == 0, done.stdout
    registration = json.loads(world.path(f"{STATE}/registration").read_text())
    assert registration == {"ManagedInstanceID": HYBRID_ID, "Region": REGION}
    world.start()
    assert_hybrid(world)
