"""A box under systemd: what a repair relies on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.box.box import Box
from lab.box.machine import put
from tests.lab.box_fixtures import running_box
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.lab

DEMON = """\
[Unit]
Description=A demon

[Service]
ExecStart=/bin/sh -c 'setsid sleep 1000 & exec sleep 2000'
KillMode=process
Restart=always
RestartSec=8

[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    def add_units(box: Box) -> None:
        put(box.upper / "usr/lib/systemd/system/demon.service", DEMON)
        put(
            box.upper / "etc/systemd/system/demon.service.d/proxy.conf",
            "[Service]\nEnvironment=PROXY=there\n",
        )
        put(box.upper / "usr/lib/systemd/system/bad.service", "[Service]\nExecStart=/bin/false\n")

    with running_box(tmp_path_factory.mktemp("systemd"), "ubuntu-22.04", before=add_units) as found:
        yield found


def said(box: Box, command: str) -> str:
    return box.run("sh", "-c", command).stdout.strip()


def test_it_is_a_machine_of_its_own(box: Box) -> None:
    assert said(box, "cat /proc/1/comm; hostname; id -u").split() == ["systemd", "box-jammy", "0"]
    assert 'VERSION_ID="22.04"' in said(box, "cat /etc/os-release")
    assert said(box, "cat /proc/self/cgroup | grep -c '/.'") == "0"
    assert os.readlink(f"/proc/{box.pid}/ns/net") != os.readlink("/proc/self/ns/net")


def test_what_is_enabled_runs_after_boot(box: Box) -> None:
    wait_until(lambda: said(box, "systemctl is-active ssh") == "active")
    assert "sshd" in said(box, "ss -ltnp")


def test_a_client_is_fast(box: Box) -> None:
    """Repairs call systemctl often; a second for ten calls would already hurt."""
    said(box, "systemctl is-active ssh")
    done = subprocess.run(
        box.enter("sh", "-c", "i=0; while [ $i -lt 10 ]; do systemctl is-active ssh; i=$((i+1)); done"),
        capture_output=True,
        timeout=5,
    )
    assert done.returncode == 0


def test_stop_with_kill_mode_process_leaves_the_children(box: Box) -> None:
    box.run("systemctl", "start", "demon", check=True)
    main = said(box, "systemctl show -p MainPID --value demon")
    assert "PROXY=there" in said(box, f"tr '\\0' '\\n' </proc/{main}/environ")
    wait_until(lambda: said(box, "pgrep -fx 'sleep 1000'") != "")
    box.run("systemctl", "stop", "demon", check=True)
    assert said(box, "pgrep -fx 'sleep 2000'") == ""
    assert said(box, "pgrep -fx 'sleep 1000'") != ""
    said(box, "pkill -fx 'sleep 1000'")


def test_a_killed_service_comes_back_after_restart_sec(box: Box) -> None:
    box.run("systemctl", "start", "demon", check=True)
    first = said(box, "systemctl show -p MainPID --value demon")
    said(box, f"kill -9 {first}")
    wait_until(lambda: said(box, "systemctl show -p SubState --value demon") == "auto-restart")
    wait_until(lambda: said(box, "systemctl show -p MainPID --value demon") not in ("0", first))
    assert said(box, "systemctl show -p NRestarts --value demon") == "1"
    box.run("systemctl", "stop", "demon", check=True)
    said(box, "pkill -fx 'sleep 1000'")


def test_enable_disable_and_mask_are_files(box: Box) -> None:
    assert said(box, "systemctl is-enabled demon") == "disabled"
    box.run("systemctl", "enable", "demon", check=True)
    assert said(box, "readlink /etc/systemd/system/multi-user.target.wants/demon.service") == (
        "/lib/systemd/system/demon.service"
    )
    assert said(box, "systemctl is-enabled demon") == "enabled"
    box.run("systemctl", "disable", "demon", check=True)
    assert box.run("systemctl", "is-enabled", "demon").returncode == 1
    box.run("systemctl", "mask", "demon", check=True)
    assert box.run("systemctl", "start", "demon").returncode == 1
    box.run("systemctl", "unmask", "demon", check=True)
    assert said(box, "systemctl is-enabled demon") == "disabled"


def test_failures_have_systemd_exit_codes(box: Box) -> None:
    assert box.run("systemctl", "status", "nothing").returncode == 4
    assert box.run("systemctl", "start", "nothing").returncode == 5
    assert box.run("systemctl", "is-active", "nothing").returncode == 3
    box.run("systemctl", "start", "bad")
    wait_until(lambda: said(box, "systemctl is-active bad") == "failed")
    assert box.run("systemctl", "is-failed", "bad").returncode == 0
    box.run("systemctl", "reset-failed", "bad", check=True)


def test_only_root_starts_services(box: Box) -> None:
    done = box.run("su", "-s", "/bin/sh", "ubuntu", "-c", "systemctl is-active ssh && systemctl stop ssh")
    assert done.stdout.strip() == "active"
    assert "authentication required" in done.stderr


def test_what_was_stopped_stays_down(box: Box) -> None:
    for _ in range(8):
        box.run("systemctl", "start", "demon", check=True)
        box.run("systemctl", "stop", "demon", check=True)
        assert said(box, "systemctl is-active demon") == "inactive"


def test_orphans_belong_to_pid_1_and_are_reaped(box: Box) -> None:
    box.run("sh", "-c", "setsid sh -c 'exec sleep 3.21' >/dev/null 2>&1 &", check=True)
    wait_until(lambda: said(box, "pgrep -fx 'sleep 3.21'") != "")
    pid = said(box, "pgrep -fx 'sleep 3.21'")
    assert said(box, f"sed -n 's/^PPid:.//p' /proc/{pid}/status") == "1"
    said(box, f"kill {pid}")
    wait_until(lambda: not (box.root / f"proc/{pid}").exists())


def test_syslog_is_written(box: Box) -> None:
    said(box, "logger -t marker hello; logger -p auth.info -t marker secret")
    wait_until(lambda: "marker: hello" in said(box, "cat /var/log/syslog"))
    wait_until(lambda: "marker: secret" in said(box, "cat /var/log/auth.log"))


def test_unknown_addresses_time_out_and_service_addresses_answer(box: Box) -> None:
    def curl() -> int:
        return box.run("curl", "-s", "-m", "1", "http://10.99.0.10/").returncode

    assert curl() == 28
    box.gateway.answer_for("10.99.0.10", True)
    assert curl() == 7  # refused: the address is there, and nobody listens
    with box.gateway.socket() as listener:
        listener.bind(("10.99.0.10", 80))
        listener.listen()
        assert curl() == 28
    box.gateway.answer_for("10.99.0.10", False)
    assert curl() == 28


def test_what_the_gateway_listens_on_is_not_the_hosts(box: Box) -> None:
    box.gateway.answer_for("169.254.169.254", True)
    with box.gateway.socket() as listener:
        listener.bind(("169.254.169.254", 80))
        listener.listen()
        ports = {row.split()[3].rpartition(":")[2] for row in said(box, "ss -Hltn").splitlines()}
        assert ports == {"22"}
        assert "169.254" not in said(box, "ip -4 address")
    box.gateway.answer_for("169.254.169.254", False)


def test_a_full_disk_refuses_writes_and_recovers(box: Box) -> None:
    box.fill_disk(True)
    try:
        assert box.run("sh", "-c", "echo x >/var/tmp/x").returncode != 0
        assert "100%" in said(box, "df /")
        assert said(box, "systemctl is-active ssh") == "active"
    finally:
        box.fill_disk(False)
    box.run("sh", "-c", "echo x >/var/tmp/x", check=True)


def test_a_stopped_box_leaves_nothing(tmp_path: Path) -> None:
    with running_box(tmp_path, "debian-12") as box:
        pid, folder = box.pid, box.folder
        assert said(box, "getent passwd admin").startswith("admin:")
    assert not folder.exists()
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
