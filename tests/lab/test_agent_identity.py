"""The experiments with the real agent, run against the stand-in: which action changes its identity."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.agent.stale import StaleRegistration, write_stale_state
from tests.lab.agent_cloud import EC2_ID, HYBRID_ID, REGION, wait_until
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


def contaminate(world: World, *, same_hardware: bool = True, **options: object) -> None:
    """A registration from before the move, with the machine id kept by lift and shift."""
    stale = StaleRegistration(
        HYBRID_ID, REGION, FINGERPRINT, "0123456789abcdef0123456789abcdef", same_hardware
    )
    write_stale_state(world.root, stale, **options)  # type: ignore[arg-type]


@pytest.fixture
def stale_world(world: World) -> World:
    """A clone whose stale registration still authenticates."""
    contaminate(world)
    return world


def clear(world: World, *more: str) -> None:
    done = world.command(AGENT, "-register", "-clear", *more)
    assert done.returncode == 0
    assert "INFO Registration information has been removed from the instance." in done.stdout


def remove(world: World, *names: str) -> None:
    for name in names:
        path = world.path(f"{STATE}/{name}")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def empty_state(world: World) -> None:
    for entry in world.path(STATE).iterdir():
        remove(world, entry.name)


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


def still_answers(world: World, instance_id: str) -> None:
    """The channel of that identity is open, and what comes through it is done."""
    assert world.cloud.is_connected(instance_id)
    reply = world.cloud.send_command("AWS-RunShellScript", {"commands": ["echo here"]})
    assert (reply["Status"], reply["StandardOutput"]) == ("Success", "here\n")


def test_l0_clean_host_is_online_as_itself(world: World) -> None:
    world.start()
    assert_ec2(world)
    key = json.loads(world.path(f"{STATE}/Vault/Store/EC2RegistrationKey").read_text())
    assert (key["instanceID"], key["region"], key["privateKeyType"]) == (EC2_ID, REGION, "Rsa")
    assert not world.path(f"{STATE}/Vault/Manifest").exists()
    assert world.pids("amazon-ssm-agen") and world.pids("ssm-agent-worke")
    argv = Path(f"/proc/{world.pids('amazon-ssm-agen')[0]}/cmdline").read_bytes()
    assert argv == b"/usr/bin/amazon-ssm-agent\0"


def test_b1_changed_hardware_is_refused_and_loses_its_fingerprint(world: World) -> None:
    contaminate(world, same_hardware=False)
    world.start()
    world.wait_log("Retrieve credentials produced error: MachineFingerprintDoesNotMatch: ")
    log = world.log()
    assert log.count("Machine configuration has changed more than the allowed threshold.") == 3
    assert "WARN [OnPremCredsProvider] The 'bios-hash' value () has changed from the registered" in log
    assert "Calculated hardware difference, regenerating fingerprint..." in log
    saved = json.loads(world.path(f"{STATE}/Vault/Store/InstanceFingerprint").read_text())
    assert saved["fingerprint"] != FINGERPRINT
    world.stop()
    world.start()
    world.wait_log("MachineFingerprintDoesNotMatch: ", count=2)
    assert world.log().count("more than the allowed threshold") == 3, (
        "a later boot no longer names what changed"
    )
    assert world.taken_identity() == HYBRID_ID
    assert world.cloud.called("UpdateInstanceInformation") == 0


def test_b2_similar_hardware_is_online_as_the_old_node(stale_world: World) -> None:
    stale_world.start()
    assert_hybrid(stale_world)
    profile = stale_world.path("/root/.aws/credentials").read_text()
    assert profile.startswith("[default]\naws_access_key_id     = ASIAHYBRID")


def test_b0_living_credentials_are_used_without_a_check(world: World) -> None:
    contaminate(world, same_hardware=False, token_life_s=3000.0)
    world.start()
    assert_hybrid(world)
    assert world.cloud.called("RequestManagedInstanceRoleToken") == 0
    assert "threshold" not in world.log()


@pytest.mark.parametrize("running", [False, True], ids=["a1-stopped", "a2-running"])
def test_a_deleting_folder_and_registration_changes_nothing(stale_world: World, running: bool) -> None:
    if running:
        stale_world.start()
        stale_world.wait_online(HYBRID_ID)
    remove(stale_world, HYBRID_ID, "registration")
    if running:
        stale_world.stop()
    stale_world.start()
    stale_world.wait_online(HYBRID_ID, count=2 if running else 1)
    assert_hybrid(stale_world)
    assert stale_world.path(f"{STATE}/{HYBRID_ID}").is_dir()
    assert not stale_world.path(f"{STATE}/registration").exists()


@pytest.mark.parametrize("more", [(), ("-y",)], ids=["c1", "c4"])
def test_c1_c4_clear_is_enough(stale_world: World, more: tuple[str, ...]) -> None:
    clear(stale_world, *more)
    stale_world.start()
    assert_ec2(stale_world)
    assert stale_world.path(f"{STATE}/registration").exists()
    assert stale_world.path(f"{STATE}/{HYBRID_ID}").is_dir()
    assert json.loads(stale_world.path(REGISTRATION_KEY).read_text())["instanceID"] == ""


def test_c2_c3_clear_takes_effect_with_the_restart(stale_world: World) -> None:
    stale_world.start()
    stale_world.wait_online(HYBRID_ID)
    clear(stale_world)
    still_answers(stale_world, HYBRID_ID)
    answer = stale_world.command("/usr/bin/ssm-cli", "get-instance-information")
    assert json.loads(answer.stdout)["instance-id"] == EC2_ID, "ssm-cli reads the disk"
    stale_world.stop()
    stale_world.start()
    stale_world.wait_online(EC2_ID, count=2)
    assert stale_world.taken_identity() == EC2_ID


@pytest.mark.parametrize(
    "names",
    [("Vault/Store/RegistrationKey",), ("Vault",), ("Vault/Manifest",)],
    ids=["d1", "d2", "d3"],
)
def test_d_without_its_vault_files_the_host_is_ec2(stale_world: World, names: tuple[str, ...]) -> None:
    remove(stale_world, *names)
    stale_world.start()
    assert_ec2(stale_world)
    warning = "WARN [OnPremIdentity] Error while loading server info Failed to load instance info from vault."
    assert (warning in stale_world.log()) == (names[0].endswith("RegistrationKey"))


def test_e3_emptying_the_state_while_running(stale_world: World) -> None:
    stale_world.start()
    stale_world.wait_online(HYBRID_ID)
    empty_state(stale_world)
    stale_world.stop()
    stale_world.start()
    stale_world.wait_online(EC2_ID, count=2)
    assert stale_world.taken_identity() == EC2_ID


def test_f_the_order_alone_makes_it_ec2(stale_world: World) -> None:
    stale_world.write("/etc/amazon/ssm/amazon-ssm-agent.json", '{"Identity": {"ConsumptionOrder": ["EC2"]}}')
    stale_world.start()
    assert_ec2(stale_world)
    assert json.loads(stale_world.path(REGISTRATION_KEY).read_text())["instanceID"] == HYBRID_ID


def test_i_clear_on_the_host_with_a_refused_fingerprint(world: World) -> None:
    contaminate(world, same_hardware=False)
    clear(world)
    world.start()
    assert_ec2(world)


def test_m5_restoring_the_backup_brings_the_old_identity_back(stale_world: World, tmp_path: Path) -> None:
    backup = tmp_path / "state.tar"
    with tarfile.open(backup, "w") as archive:
        archive.add(stale_world.path(STATE), "ssm")
    clear(stale_world)
    stale_world.start()
    assert_ec2(stale_world)
    stale_world.stop()
    shutil.rmtree(stale_world.path(STATE))
    with tarfile.open(backup) as archive:
        archive.extractall(stale_world.path(STATE).parent, filter="tar")
    stale_world.start()
    stale_world.wait_online(HYBRID_ID, count=2)
    assert stale_world.taken_identity() == HYBRID_ID


def test_m6_cleared_without_a_role_sleeps_for_long(stale_world: World) -> None:
    stale_world.cloud.has_role = False
    clear(stale_world)
    stale_world.start()
    stale_world.wait_log("before retrying retrieve credentials")
    log = stale_world.log()
    assert "Error: EC2RoleRequestError: no EC2 instance role found\n" in log
    assert (
        "Systems Manager's instance management role is not configured for account: 111122223333\n\tstatus"
        in log
    )
    stale_world.cloud.has_role = True
    tokens = stale_world.cloud.called("RequestManagedInstanceRoleToken")
    assert not stale_world.pids("ssm-agent-worke")
    stale_world.stop()
    assert stale_world.cloud.called("RequestManagedInstanceRoleToken") == tokens
    stale_world.start()
    stale_world.wait_online(EC2_ID)


def kill_core(world: World) -> None:
    for pid in world.pids("amazon-ssm-agen"):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not world.pids("amazon-ssm-agen"), "the core is gone")


def test_g_an_orphan_worker_is_found_and_killed(stale_world: World) -> None:
    stale_world.start()
    stale_world.wait_online(HYBRID_ID)
    orphans = stale_world.pids("ssm-agent-worke")
    kill_core(stale_world)
    empty_state(stale_world)
    assert stale_world.pids("ssm-agent-worke") == orphans
    stale_world.start()
    stale_world.wait_log(
        "[WorkerProvider] Found orphan ssm-agent-worker process from previous execution, terminating..."
    )
    stale_world.wait_online(EC2_ID, count=2)
    assert orphans[0] not in stale_world.pids("ssm-agent-worke")


def test_m7_without_credentials_the_orphan_lives_on(stale_world: World) -> None:
    stale_world.start()
    stale_world.wait_online(HYBRID_ID)
    orphans = stale_world.pids("ssm-agent-worke")
    kill_core(stale_world)
    stale_world.cloud.has_role = False
    clear(stale_world)
    stale_world.start()
    stale_world.wait_log("before retrying retrieve credentials")
    still_answers(stale_world, HYBRID_ID)
    assert stale_world.pids("ssm-agent-worke") == orphans
    assert "Found orphan" not in stale_world.log()


def test_hybrid_gone_is_said_by_the_service(stale_world: World) -> None:
    stale_world.cloud.hybrid_fingerprint = None
    stale_world.start()
    stale_world.wait_log(f"produced error: InvalidInstanceId: Not existing InstanceId {HYBRID_ID}")


def test_ssm_cli_without_root_gives_the_healthy_answer(stale_world: World) -> None:
    for folder in [stale_world.root, *stale_world.root.parents]:
        if folder.is_relative_to("/tmp/pytest-of-root"):
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
