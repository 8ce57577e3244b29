"""A whole lab: up, steered, killed, down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from lab import api
from lab.errors import LabError
from lab.places import RUN_ROOT, Places
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

SCENARIO = """\
name: small
account_id: "222233334444"
alias: small
region: eu-west-1
images:
  lifted: {source: vmware, description: "lifted"}
hosts:
  - {name: good, os: ubuntu-22.04}
  - {name: clone-1, os: ubuntu-16.04, image: lifted, agent: stale}
  - {name: clone-2, os: ubuntu-16.04, image: lifted, agent: stale}
  - {name: asleep, os: ubuntu-20.04, state: stopped}
  - {name: moved, os: ubuntu-20.04, agent: disabled, ssh: "twin-of: good"}
"""
NAME = f"test-{os.getpid()}"


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "small.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture(scope="module")
def lab(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.LabInfo]:
    yield api.up(scenario, out=tmp_path_factory.mktemp("out"), name=NAME, seed=7)
    api.down(NAME)


def ssh(info: api.LabInfo, host: str, command: str, **options: str) -> subprocess.CompletedProcess[str]:
    where = info.hosts[host]
    folder = info.config_path.parent
    asked = {
        "BatchMode": "yes",
        "ConnectTimeout": "3",
        "UserKnownHostsFile": str(folder / "known_hosts"),
        "StrictHostKeyChecking": "yes",
        **options,
    }
    words = [word for key, value in asked.items() for word in ("-o", f"{key}={value}")]
    login = ["-i", str(folder / "id_rsa"), "-p", str(where["port"]), f"ubuntu@{where['address']}"]
    return subprocess.run(["ssh", *words, *login, command], capture_output=True, text=True, timeout=30)


def nodes(info: api.LabInfo) -> dict[str, str]:
    client = boto3.client(
        "ssm",
        endpoint_url=info.endpoint_url,
        region_name=info.region,
        aws_access_key_id=info.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=info.env["AWS_SECRET_ACCESS_KEY"],
    )
    rows = client.describe_instance_information()["InstanceInformationList"]
    return {row["InstanceId"]: row["PingStatus"] for row in rows}


def test_everybody_who_can_is_online(lab: api.LabInfo) -> None:
    found = nodes(lab)
    assert found[lab.hosts["good"]["instance_id"]] == "Online"
    assert [status for name, status in found.items() if name.startswith("mi-")] == ["Online"]
    assert lab.hosts["clone-1"]["instance_id"] not in found
    assert lab.hosts["asleep"]["address"] == ""


def test_hosts_answer_at_their_own_address(lab: api.LabInfo) -> None:
    done = ssh(
        lab, "clone-1", "hostname; sudo id -u; curl -s http://169.254.169.254/latest/meta-data/instance-id"
    )
    assert done.stdout.split() == ["clone-1", "0", lab.hosts["clone-1"]["instance_id"]]


def test_a_twin_answers_at_anothers_address(lab: api.LabInfo) -> None:
    assert ssh(lab, "moved", "hostname").stdout.strip() == "good"


def test_clones_share_the_registration_and_the_machine_id(lab: api.LabInfo) -> None:
    look = "sudo cat /etc/machine-id /var/lib/amazon/ssm/Vault/Store/RegistrationKey"
    first, second = ssh(lab, "clone-1", look).stdout, ssh(lab, "clone-2", look).stdout
    assert first == second
    assert '"region":"eu-west-1"' in first


def test_a_second_up_is_the_same_lab(lab: api.LabInfo, scenario: Path) -> None:
    again = api.up(scenario, out=lab.config_path.parent, name=NAME, seed=7)
    assert again == lab


def test_another_scenario_under_the_same_name_is_refused(lab: api.LabInfo) -> None:
    with pytest.raises(LabError, match="already up"):
        api.up("demo", out=lab.config_path.parent, name=NAME, seed=7)


def test_ssh_faults_are_switched_while_it_runs(lab: api.LabInfo) -> None:
    for fault, words in (
        ("sshd_refused", "refused"),
        ("sshd_hang", "timed out"),
        ("host_key_changed", "verification failed"),
    ):
        api.fault(NAME, "good", fault, True)
        assert words in ssh(lab, "good", "true").stderr
        api.fault(NAME, "good", fault, False)
        assert ssh(lab, "good", "true").returncode == 0, fault


def test_network_faults_are_switched_while_it_runs(lab: api.LabInfo) -> None:
    reach = "curl -s -m 2 -o /dev/null https://ssm.eu-west-1.amazonaws.com/"
    assert ssh(lab, "good", reach).returncode == 0
    api.fault(NAME, "good", "egress_closed", True)
    assert ssh(lab, "good", reach).returncode == 28
    api.fault(NAME, "good", "egress_closed", False)
    wait_until(lambda: ssh(lab, "good", reach).returncode == 0)


def test_a_wrong_clock_is_seen_by_the_shell(lab: api.LabInfo) -> None:
    def offset_s() -> int:
        return int(ssh(lab, "clone-2", "date +%s").stdout) - int(time.time())

    api.fault(NAME, "clone-2", "clock_skew", True)
    assert 3500 < offset_s() < 3700
    api.fault(NAME, "clone-2", "clock_skew", False)
    assert abs(offset_s()) < 100


def test_aws_refuses_what_a_wrong_clock_signs(lab: api.LabInfo) -> None:
    good = lab.hosts["good"]["instance_id"]
    api.fault(NAME, "good", "clock_skew", True)
    refused = "sudo grep -c 'InvalidSignatureException: Signature not yet' /var/log/amazon/ssm/errors.log"
    wait_until(lambda: int(ssh(lab, "good", refused).stdout or 0) > 0, timeout_s=45)
    # An open channel was signed once; it is a new one that does not come.
    ssh(lab, "good", "sudo systemctl restart amazon-ssm-agent")
    wait_until(lambda: nodes(lab)[good] == "ConnectionLost", timeout_s=90)
    api.fault(NAME, "good", "clock_skew", False)
    ssh(lab, "good", "sudo systemctl restart amazon-ssm-agent")
    wait_until(lambda: nodes(lab)[good] == "Online", timeout_s=90)


def test_a_killed_agent_comes_back(lab: api.LabInfo) -> None:
    look = "sudo systemctl show -p MainPID --value amazon-ssm-agent"
    before = ssh(lab, "good", look).stdout.strip()
    api.fault(NAME, "good", "agent_killed", True)
    api.fault(NAME, "good", "agent_killed", False)
    wait_until(lambda: ssh(lab, "good", look).stdout.strip() not in ("", "0", before), timeout_s=30)


def test_a_host_reboots_with_what_is_on_its_disk(lab: api.LabInfo) -> None:
    ssh(lab, "good", "sudo touch /var/tmp/kept /run/gone; sync")
    api.fault(NAME, "good", "rebooted", True)
    api.fault(NAME, "good", "rebooted", False)
    pid = api.status(NAME)["boxes"]["good"]["pid"]
    assert pid != lab.hosts["good"]["pid"] and not Path(f"/proc/{lab.hosts['good']['pid']}").exists()
    lab.hosts["good"]["pid"] = pid
    wait_until(lambda: ssh(lab, "good", "ls /var/tmp/kept /run/gone").stdout.split() == ["/var/tmp/kept"])
    agent = "sudo systemctl show -p MainPID --value amazon-ssm-agent"
    wait_until(lambda: ssh(lab, "good", agent).stdout.strip() not in ("", "0"))


def test_unknown_faults_and_hosts_are_named(lab: api.LabInfo) -> None:
    with pytest.raises(LabError, match="no fault 'nonsense'"):
        api.fault(NAME, "good", "nonsense", True)
    with pytest.raises(LabError, match="No running host"):
        api.fault(NAME, "nobody", "sshd_hang", True)


def test_the_status_names_boxes_and_faults(lab: api.LabInfo) -> None:
    found = api.status(NAME)
    assert found["state"] == "ready"
    assert found["boxes"]["good"] == {"running": True, "pid": lab.hosts["good"]["pid"], "faults": []}


def remains(name: str, out: Path) -> list[str]:
    """Processes, mounts and files that mention a lab."""
    found = [str(path) for path in (RUN_ROOT / name, out / "haltuun.yaml", out / "id_rsa") if path.exists()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                mounts = (entry / "mounts").read_text(errors="replace")
            except OSError:
                continue
            if f"/{name}/" in line or f"/haltuun-lab/{name}" in mounts:
                found.append(f"{entry.name}: {line[:80]}")
    return found


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
def test_down_leaves_nothing(scenario: Path, tmp_path: Path, killed: bool) -> None:
    name = f"{NAME}-{'k' if killed else 'a'}"
    info = api.up(scenario, out=tmp_path / "out", name=name)
    boxes = [host["pid"] for host in info.hosts.values() if host["pid"]]
    assert remains(name, tmp_path / "out")
    if killed:
        os.kill(int(Places.of(name).read_state()["pid"]), signal.SIGKILL)
        wait_until(lambda: api.status(name)["state"] == "dead")
    assert api.down(name)
    assert remains(name, tmp_path / "out") == []
    assert not any(
        Path(f"/proc/{pid}/root").exists() and Path(f"/proc/{pid}/ns/pid").exists() for pid in boxes
    )
    assert not api.down(name)


DIES_SLOWLY = """\
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
listener.accept()[0].close()
time.sleep(0.3)
"""


def test_a_supervisor_that_closes_and_then_is_gone_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "DYING_S", 60.0)  # however busy the machine is
    places = Places.of(f"{NAME}-d")
    places.folder.mkdir(parents=True)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", DIES_SLOWLY, str(places.control)], stdout=subprocess.PIPE
        ) as dying:
            assert dying.stdout and dying.stdout.readline()
            places.record(dying.pid)
            places.supervisor_file.write_text(str(dying.pid))
            places.write_state({"state": "ready"})
            assert api.status(places.name)["state"] == "dead"
    finally:
        places.remove()


@pytest.mark.soak
def test_up_after_the_supervisor_was_killed_makes_a_new_lab(scenario: Path, tmp_path: Path) -> None:
    name = f"{NAME}-u"
    before = api.up(scenario, out=tmp_path / "out", name=name)
    os.kill(int(Places.of(name).read_state()["pid"]), signal.SIGKILL)
    wait_until(lambda: api.status(name)["state"] == "dead")
    after = api.up(scenario, out=tmp_path / "out", name=name)
    assert after.hosts["good"]["pid"] != before.hosts["good"]["pid"]
    assert ssh(after, "good", "hostname").stdout.strip() == "good"
    assert api.down(name)
    assert remains(name, tmp_path / "out") == []


def test_a_scenario_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\nhosts: [{name: a, os: plan9}]\n")
    with pytest.raises(LabError, match="plan9"):
        api.up(broken, out=tmp_path / "out", name=f"{NAME}-x")
    assert not (RUN_ROOT / f"{NAME}-x").exists()
