"""The experiments with the real agent: what was done to a contaminated host, and whose id it used afterwards.

By default on the stand-in's package; `pytest tests/lab/test_agent_table.py --agent-deb FILE` runs the same on
a package of the real agent.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.agent.build import build_agent_deb
from lab.box.machine import put
from tests.lab.agent_host import CONFIG, CREDENTIALS, REGISTRATION_KEY, STATE, WORKER, AgentHost, agent_host
from tests.lab.agent_package import NAME, WrongPackage, check_package

# A real agent waits minutes where the stand-in waits seconds.
REAL_PATIENCE = 6.0
TAKES_EC2 = "INFO Agent will take identity from EC2\n"
TAKES_ONPREM = "INFO Agent will take identity from OnPrem\n"
ASLEEP = "before retrying retrieve credentials"


@pytest.fixture(scope="module")
def module_host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentHost]:
    given = request.config.getoption("--agent-deb")
    folder = tmp_path_factory.mktemp("agent")
    deb = check_package(given) if given else build_agent_deb(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_TIME_SCALE", "200")
        with agent_host(folder, deb, REAL_PATIENCE if given else 1.0) as found:
            yield found


def start(host: AgentHost) -> None:
    host.start()


def run_as_hybrid(host: AgentHost) -> None:
    host.start()
    host.wait_online(host.hybrid_id)


def delete_folder_and_registration(host: AgentHost) -> None:
    host.remove(host.hybrid_id, "registration")


def and_start(*acts: Callable[[AgentHost], None]) -> Callable[[AgentHost], None]:
    """Done to the stopped host, which then starts."""

    def act(host: AgentHost) -> None:
        for one in acts:
            one(host)
        host.start()

    return act


def while_running(*acts: Callable[[AgentHost], None]) -> Callable[[AgentHost], None]:
    """Done to the running host, which then restarts."""

    def act(host: AgentHost) -> None:
        run_as_hybrid(host)
        for one in acts:
            one(host)
        host.stop()
        host.start()

    return act


def remove(*names: str) -> Callable[[AgentHost], None]:
    return lambda host: host.remove(*names)


def install_over(host: AgentHost) -> None:
    run_as_hybrid(host)
    host.install()


def purge_and_install(*between: Callable[[AgentHost], None]) -> Callable[[AgentHost], None]:
    def act(host: AgentHost) -> None:
        host.purge()
        for one in between:
            one(host)
        host.install()

    return act


def clear_running(host: AgentHost) -> None:
    run_as_hybrid(host)
    host.clear()


def order_ec2(host: AgentHost) -> None:
    host.path(CONFIG).parent.mkdir(parents=True, exist_ok=True)
    host.path(CONFIG).write_text('{"Identity": {"ConsumptionOrder": ["EC2"]}}')


def move_aside(host: AgentHost) -> None:
    host.sh(
        f"cd {STATE} && mkdir /root/aside && mv Vault registration runtimeconfig {host.hybrid_id} /root/aside"
    )


def clear_then_restore(host: AgentHost) -> None:
    host.sh(f"rm -rf /root/saved && cp -a {STATE} /root/saved")
    host.clear()
    host.start()
    host.wait_online(host.instance_id)
    assert host.taken_identity() == host.instance_id
    host.stop()
    host.sh(f"rm -rf {STATE} && mv /root/saved {STATE}")
    host.start()


def clear_without_role(host: AgentHost) -> None:
    host.take_role()
    host.clear()
    host.start()


def kill_empty_start(host: AgentHost) -> None:
    run_as_hybrid(host)
    host.kill_core()
    host.empty()
    host.orphans = host.pids(WORKER)
    assert host.orphans
    host.start()


def kill_clear_without_role(host: AgentHost) -> None:
    run_as_hybrid(host)
    host.kill_core()
    host.take_role()
    host.clear()
    host.orphans = host.pids(WORKER)
    host.start()


# What else is known of a row beside the id.


def nothing_more(host: AgentHost) -> None:
    return


def refused_by_fingerprint(host: AgentHost) -> None:
    host.wait_log("Retrieve credentials produced error: MachineFingerprintDoesNotMatch: ")
    assert "Machine configuration has changed more than the allowed threshold." in host.log()
    assert host.taken_identity() == host.hybrid_id
    saved = json.loads(host.path(f"{STATE}/Vault/Store/InstanceFingerprint").read_text())
    assert saved["fingerprint"] != host.fingerprint, "the old one is gone"
    host.stop()
    host.start()
    host.wait_log("MachineFingerprintDoesNotMatch: ")
    assert "more than the allowed threshold" not in host.log(), "a later boot no longer names what changed"


def the_token_is_roots_default_profile(host: AgentHost) -> None:
    assert host.path(CREDENTIALS).read_text().startswith("[default]\naws_access_key_id")


def no_check_was_made(host: AgentHost) -> None:
    assert "threshold" not in host.log()


def only_the_folder_is_back(host: AgentHost) -> None:
    assert host.path(f"{STATE}/{host.hybrid_id}").is_dir()
    assert not host.path(f"{STATE}/registration").exists()


def leftovers_stay(host: AgentHost) -> None:
    assert host.path(f"{STATE}/{host.hybrid_id}").is_dir() and host.path(f"{STATE}/registration").exists()


def still_hybrid_though_cleared(host: AgentHost) -> None:
    host.answers_as(host.hybrid_id)
    said = json.loads(host.sh("ssm-cli get-instance-information"))
    assert said["instance-id"] == host.instance_id, "ssm-cli reads the disk"


def warns_of_the_missing_file(host: AgentHost) -> None:
    assert "WARN [OnPremIdentity] Error while loading server info" in host.log()


def the_vault_is_untouched(host: AgentHost) -> None:
    assert json.loads(host.path(REGISTRATION_KEY).read_text())["instanceID"] == host.hybrid_id


def sleeps_until_restarted(host: AgentHost) -> None:
    assert "Error: EC2RoleRequestError: no EC2 instance role found\n" in host.log()
    assert "Systems Manager's instance management role is not configured for account" in host.log()
    assert not host.pids(WORKER)
    host.give_role()
    assert not host.is_connected(host.instance_id)
    host.stop()
    host.start()
    host.wait_online(host.instance_id)


def the_orphan_is_gone(host: AgentHost) -> None:
    assert "Found orphan ssm-agent-worker process from previous execution, terminating..." in host.log()
    assert not set(host.orphans) & set(host.pids(WORKER))


def the_orphan_lives_on(host: AgentHost) -> None:
    host.answers_as(host.hybrid_id)
    assert host.pids(WORKER) == host.orphans
    assert "Found orphan" not in host.log()


EC2, HYBRID, REFUSED, EC2_ASLEEP = "i-", "mi-", "mi-, refused", "i-, asleep"


@dataclass(frozen=True)
class Row:
    """What was done to a contaminated, stopped host, and whose id it used afterwards."""

    name: str
    act: Callable[[AgentHost], None]
    used: str
    also: Callable[[AgentHost], None] = nothing_more
    same_hardware: bool = True
    living_token: bool = False


def clear(host: AgentHost) -> None:
    host.clear()


def empty(host: AgentHost) -> None:
    host.empty()


FORGET = (delete_folder_and_registration,)
TABLE = [
    Row("B1", start, REFUSED, refused_by_fingerprint, same_hardware=False),
    Row("B2", start, HYBRID, the_token_is_roots_default_profile),
    Row("B0", start, HYBRID, no_check_was_made, same_hardware=False, living_token=True),
    Row("A1", and_start(*FORGET), HYBRID, only_the_folder_is_back),
    Row("A2", while_running(*FORGET), HYBRID, only_the_folder_is_back),
    Row("B-over", install_over, HYBRID),
    Row("B-purge", purge_and_install(), HYBRID),
    Row("B-purge-delete", purge_and_install(*FORGET), HYBRID, only_the_folder_is_back),
    Row("C1", and_start(clear), EC2, leftovers_stay),
    Row("C2", clear_running, HYBRID, still_hybrid_though_cleared),
    Row("C3", while_running(clear), EC2),
    Row("C4", and_start(lambda host: host.clear("-y")), EC2),
    Row("D1", and_start(remove("Vault/Store/RegistrationKey")), EC2, warns_of_the_missing_file),
    Row("D2", and_start(remove("Vault")), EC2),
    Row("D3", and_start(remove("Vault/Manifest")), EC2),
    Row("E1", and_start(empty), EC2),
    Row("E2", purge_and_install(empty), EC2),
    Row("E3", while_running(empty), EC2),
    Row("F", and_start(order_ec2), EC2, the_vault_is_untouched),
    Row("H", and_start(move_aside), EC2),
    Row("I", and_start(clear), EC2, same_hardware=False),
    Row("M5", clear_then_restore, HYBRID),
    Row("M6", clear_without_role, EC2_ASLEEP, sleeps_until_restarted),
    Row("G", kill_empty_start, EC2, the_orphan_is_gone),
    Row("M7", kill_clear_without_role, EC2_ASLEEP, the_orphan_lives_on),
]


def assert_ec2(host: AgentHost) -> None:
    """Registered by the identity role, then online by the profile, and the account sees the instance."""
    host.wait_online(host.instance_id)
    assert host.taken_identity() == host.instance_id
    log = host.log()
    assert TAKES_EC2 in log and TAKES_ONPREM not in log
    assert "[EC2Identity] EC2 registration was successful." in log
    assert "EC2RoleProvider Successfully connected with instance profile role credentials" in log
    assert not host.is_connected(host.hybrid_id)
    listed = host.account.client("ssm").describe_instance_information()["InstanceInformationList"]
    assert [row["PingStatus"] for row in listed if row["InstanceId"] == host.instance_id] == ["Online"]


def assert_hybrid(host: AgentHost) -> None:
    host.wait_online(host.hybrid_id)
    assert host.taken_identity() == host.hybrid_id
    assert TAKES_ONPREM in host.log() and TAKES_EC2 not in host.log()
    assert not host.is_connected(host.instance_id)


def assert_refused(host: AgentHost) -> None:
    host.wait_log(ASLEEP)
    assert TAKES_ONPREM in host.log()
    assert not host.is_connected(host.instance_id) and not host.is_connected(host.hybrid_id)


def assert_ec2_asleep(host: AgentHost) -> None:
    host.wait_log(ASLEEP)
    assert host.taken_identity() == host.instance_id
    assert TAKES_EC2 in host.log()
    assert not host.is_connected(host.instance_id)


USED = {
    EC2: assert_ec2,
    HYBRID: assert_hybrid,
    REFUSED: assert_refused,
    EC2_ASLEEP: assert_ec2_asleep,
}


@pytest.mark.lab
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_whose_id_is_used_afterwards(module_host: AgentHost, row: Row) -> None:
    host = module_host
    host.reset(same_hardware=row.same_hardware, living_token=row.living_token)
    row.act(host)
    USED[row.used](host)
    row.also(host)


def package(folder: Path, name: str, architecture: str) -> Path:
    control = f"Package: {name}\nVersion: 1\nArchitecture: {architecture}\nMaintainer: a\nDescription: b\n"
    tree = folder / f"{name}-{architecture}"
    put(tree / "DEBIAN/control", control)
    target = folder / f"{tree.name}.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(target)], check=True, capture_output=True)
    return target


def test_a_package_that_the_table_cannot_run_on_is_one_sentence(tmp_path: Path) -> None:
    own = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()
    text = tmp_path / "text.deb"
    text.write_text("not a package")
    wrong = {
        tmp_path / "missing.deb": "there is no such file",
        text: "no Debian package",
        package(tmp_path, "another-agent", own): "holds another-agent, not amazon-ssm-agent",
        package(tmp_path, NAME, "riscv64"): f"is for riscv64, and this machine is {own}",
    }
    for path, why in wrong.items():
        with pytest.raises(WrongPackage, match=why):
            check_package(path)
    right = package(tmp_path, NAME, own)
    assert check_package(right) == right
