"""A box that is Ubuntu 14.04: upstart, and OpenSSH 6.6 as it was."""

from __future__ import annotations

import io
from collections.abc import Iterator

import paramiko
import pytest

from lab.box.box import Box
from lab.box.door import Door, Doorkeeper
from lab.box.machine import put
from tests.lab.box_fixtures import KEY, running_box
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.lab

JOB = """\
description "A demon"
start on (runlevel [345]
          and started network)
respawn
env GREETING=hello
pre-start script
    mkdir -p /run/demon
end script
chdir /run
exec sleep 3000
"""
ADDRESS, PORT = "127.19.0.1", 2205


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    def add_job(box: Box) -> None:
        put(box.upper / "etc/init/demon.conf", JOB)

    with running_box(tmp_path_factory.mktemp("upstart"), "ubuntu-14.04", before=add_job) as found:
        wait_until(lambda: "start/running" in said(found, "status ssh"))
        yield found


@pytest.fixture
def door(box: Box) -> Iterator[Door]:
    keeper = Doorkeeper()
    found = Door(ADDRESS, PORT, box)
    keeper.open(found)
    yield found
    keeper.shut(found)
    keeper.stop()


def said(box: Box, command: str) -> str:
    return box.run("sh", "-c", command).stdout.strip()


def connect(**options: object) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    key = paramiko.RSAKey.from_private_key(io.StringIO(KEY.private))
    given = {"pkey": key, "allow_agent": False, "look_for_keys": False, "timeout": 5, "banner_timeout": 2}
    client.connect(ADDRESS, PORT, "ubuntu", **(given | options))  # type: ignore[arg-type]
    return client


def test_jobs_start_at_boot_and_answer_in_upstart_words(box: Box) -> None:
    assert said(box, "cat /proc/1/comm") == "init"
    assert said(box, "status demon").startswith("demon start/running, process ")
    pid = said(box, "status demon").split()[-1]
    assert "GREETING=hello" in said(box, f"tr '\\0' '\\n' </proc/{pid}/environ")
    assert said(box, f"readlink /proc/{pid}/cwd") == "/run"
    assert said(box, "stop demon") == "demon stop/waiting"
    assert box.run("stop", "demon").stderr.strip() == "stop: Unknown instance:"
    assert said(box, "initctl start demon").startswith("demon start/running")
    assert box.run("start", "demon").returncode == 1
    assert box.run("status", "nothing").stderr.strip() == "status: Unknown job: nothing"


def test_a_killed_job_respawns(box: Box) -> None:
    before = said(box, "status demon").split()[-1]
    said(box, f"kill -9 {before}")
    wait_until(
        lambda: "process" in said(box, "status demon") and said(box, "status demon").split()[-1] != before
    )


def test_rsa_keys_work_only_with_sha_1(door: Door) -> None:
    with pytest.raises(paramiko.AuthenticationException):
        connect()
    old = {"pubkeys": ["rsa-sha2-512", "rsa-sha2-256"]}
    with connect(disabled_algorithms=old) as client:
        transport = client.get_transport()
        assert transport is not None
        assert "OpenSSH_6.6.1p1" in transport.remote_version
        assert not transport.server_extensions
        _, output, _ = client.exec_command("sudo id -u")
        assert output.read().strip() == b"0"


def test_a_hanging_door_never_greets(door: Door) -> None:
    door.hangs = True
    with pytest.raises(paramiko.SSHException, match="banner"):
        connect()


def test_without_sshd_the_connection_is_dropped(box: Box, door: Door) -> None:
    said(box, "stop ssh")
    with pytest.raises((paramiko.SSHException, OSError, EOFError)):
        connect()
    said(box, "start ssh")


def test_the_package_keeps_its_own_sshd(box: Box) -> None:
    """A changed checksum of sshd would be a sign of compromise."""
    check = "cd / && grep ' usr/sbin/sshd$' /var/lib/dpkg/info/openssh-server.md5sums | md5sum -c --status"
    assert box.run("sh", "-c", check).returncode == 0
