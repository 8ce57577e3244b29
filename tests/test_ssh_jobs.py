"""Jobs: run apart from the connection, once, whatever breaks. Against real sshd on loopback."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from haltuun.config import SshConfig
from haltuun.envelope import host_script
from haltuun.errors import CommandTimeout, LeaseLost, Unreachable
from haltuun.jobs import FENCE, INTERRUPTED, TARGET, Job
from haltuun.reach import Reached
from haltuun.ssh import SshTransport
from haltuun.transport import Result
from tests.sshd_fixtures import USERS, Sshd, keygen

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keygen(tmp_path_factory.mktemp("keys") / "acme")


@pytest.fixture
def sshd(tmp_path: Path, key: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "a")
    server.allow(key, *USERS, "root")
    yield server.start()
    server.stop()


@pytest.fixture
def ssh(sshd: Sshd, key: Path, tmp_path: Path) -> SshConfig:
    return SshConfig(key_files=[key], known_hosts=sshd.known_hosts(tmp_path / "known"), connect_timeout_s=20)


@pytest.fixture
def transport(sshd: Sshd, ssh: SshConfig) -> Iterator[SshTransport]:
    transport = sshd.connect(ssh)
    yield transport
    transport.close()


def until(true: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def in_background(call: Callable[[], Result]) -> tuple[threading.Thread, list[Result | Exception]]:
    answers: list[Result | Exception] = []

    def work() -> None:
        try:
            answers.append(call())
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, answers


def runner(sshd: Sshd, job_id: str) -> int:
    link = sshd.root / "jobs" / job_id / ".run" / "started"
    until(link.is_symlink)
    return int(os.readlink(link).split(":")[0])


def test_files_env_and_streams(transport: SshTransport, sshd: Sshd) -> None:
    package = os.urandom(2_500_000)
    files = {"agent_3.3~1+b.deb": package, "empty": b""}
    script = (
        'sha256sum <"$JOB_DIR/agent_3.3~1+b.deb";'
        ' pwd; umask; wc -c <"$JOB_DIR/empty"; printf %s "$GREETING" >&2; echo kept >note; exit 9'
    )
    result = transport.run_job("job-1", script, timeout_s=30, env={"GREETING": "it's me"}, files=files)
    digest, place, umask, empty = result.stdout.splitlines()
    assert digest.split()[0] == hashlib.sha256(package).hexdigest()
    assert (place, umask, empty.strip()) == ("/var/lib/haltuun/jobs/job-1", "0022", "0")
    assert (result.stderr, result.exit_code) == ("it's me", 9)
    folder = sshd.root / "jobs" / "job-1"
    assert (folder.stat().st_mode & 0o777, sshd.root.stat().st_mode & 0o777) == (0o700, 0o700)
    assert sorted(os.listdir(folder)) == [".run", "note"]
    assert not (folder / ".run" / "env").exists()


# "busy" has mksh, whose profile may print; the terminal of "ttyonly" carries no bytes.
@pytest.mark.parametrize(
    ("user", "prints", "by_sftp"),
    [
        ("root", "", True),
        ("ubuntu", "", True),
        ("busy", "", True),
        ("ubuntu", "echo welcome", False),
        ("ttyonly", "", False),
    ],
)
def test_a_large_file_goes_over_sftp_into_the_root_only_folder(
    sshd: Sshd, ssh: SshConfig, user: str, prints: str, by_sftp: bool
) -> None:
    if prints:
        (sshd.home(user) / ".bashrc").write_text(f"{prints}\n")
    transport = sshd.connect(ssh, user)
    sessions = {}
    for name, size in (("small", 1_500_000), ("large", 6_000_000)):
        data = os.urandom(size)
        before = sshd.log.read_text().count("Starting session")
        script = 'sha256sum <"$JOB_DIR/p"; stat -c %U:%a "$JOB_DIR/p"'
        result = transport.run_job(name, script, timeout_s=60, files={"p": data})
        sessions[name] = sshd.log.read_text().count("Starting session") - before
        digest, mode = result.stdout.splitlines()
        assert digest.split()[0] == hashlib.sha256(data).hexdigest()
        assert mode == "root:600"
    transport.close()
    # Inside scripts each megabyte takes a session of its own.
    assert (sessions["large"] == sessions["small"]) is by_sftp


def test_where_sftp_cannot_write_the_scripts_say_why(transport: SshTransport, sshd: Sshd) -> None:
    assert sshd._process is not None
    inside = ["nsenter", "-t", str(sshd._process.pid), "-m"]
    full = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/var/lib/haltuun"]
    subprocess.run([*inside, *full], check=True)
    with pytest.raises(Unreachable, match="No space left"):
        transport.run_job("job-1", "true", timeout_s=30, files={"p": os.urandom(3_000_000)})


def test_the_same_job_is_not_started_twice(transport: SshTransport, sshd: Sshd, ssh: SshConfig) -> None:
    script = "echo once >>/var/lib/haltuun/count; echo done"
    first = transport.run_job("job-1", script, timeout_s=30)
    other = sshd.connect(ssh)
    assert other.run_job("job-1", script, timeout_s=30) == first
    other.close()
    assert (sshd.root / "count").read_text() == "once\n"


def test_two_at_once_start_it_once(transport: SshTransport, sshd: Sshd, ssh: SshConfig) -> None:
    script = "echo once >>/var/lib/haltuun/count; sleep 1; echo done"
    other = sshd.connect(ssh)
    thread, answers = in_background(lambda: other.run_job("job-1", script, timeout_s=30))
    mine = transport.run_job("job-1", script, timeout_s=30)
    thread.join()
    other.close()
    assert answers == [mine]
    assert (sshd.root / "count").read_text() == "once\n"


def test_it_goes_on_when_the_connection_breaks(transport: SshTransport, sshd: Sshd) -> None:
    script = "echo once >>/var/lib/haltuun/count; sleep 3; echo done"
    thread, answers = in_background(lambda: transport.run_job("job-1", script, timeout_s=30))
    runner(sshd, "job-1")
    sshd.cut()
    thread.join()
    assert answers == [Result(exit_code=0, stdout="done\n", stderr="")]
    assert (sshd.root / "count").read_text() == "once\n"


def test_sshds_death_does_not_end_it(transport: SshTransport, sshd: Sshd) -> None:
    script = "sleep 2; touch /var/lib/haltuun/end; echo done"
    thread, answers = in_background(lambda: transport.run_job("job-1", script, timeout_s=30))
    runner(sshd, "job-1")
    assert sshd._process is not None
    for pid in (*sshd.sessions(), sshd._process.pid):
        os.kill(pid, signal.SIGKILL)
    sshd._process.wait(10)
    until((sshd.root / "end").exists)
    sshd.log.write_text("")
    sshd.start()
    thread.join()
    assert answers == [Result(exit_code=0, stdout="done\n", stderr="")]


def test_a_caller_that_comes_again_attaches(transport: SshTransport, sshd: Sshd, ssh: SshConfig) -> None:
    script = "echo once >>/var/lib/haltuun/count; sleep 3; echo done"
    with pytest.raises(CommandTimeout, match="still runs"):
        transport.run_job("job-1", script, timeout_s=1.5)
    other = sshd.connect(ssh)
    assert other.run_job("job-1", script, timeout_s=30).stdout == "done\n"
    other.close()
    assert (sshd.root / "count").read_text() == "once\n"


def test_a_killed_script_is_a_result(transport: SshTransport) -> None:
    result = transport.run_job("job-1", "echo begun; kill -9 $$", timeout_s=30)
    assert (result.exit_code, result.stdout) == (137, "begun\n")


def test_a_job_that_died_without_a_word_is_interrupted(transport: SshTransport, sshd: Sshd) -> None:
    script = "echo begun; sleep 60"
    thread, answers = in_background(lambda: transport.run_job("job-1", script, timeout_s=30))
    pid = runner(sshd, "job-1")
    until((sshd.root / "jobs" / "job-1" / ".run" / "stdout").exists)
    until((sshd.root / "jobs" / "job-1" / ".run" / "stdout").read_text)
    os.killpg(pid, signal.SIGKILL)
    thread.join()
    assert answers == [Result(exit_code=INTERRUPTED, stdout="begun\n", stderr="")]
    assert transport.run_job("job-1", script, timeout_s=30).exit_code == INTERRUPTED


def test_a_script_whose_runner_alone_died_is_waited_for(transport: SshTransport, sshd: Sshd) -> None:
    script = "sleep 2; touch /var/lib/haltuun/end"
    thread, answers = in_background(lambda: transport.run_job("job-1", script, timeout_s=30))
    pid = runner(sshd, "job-1")
    until((sshd.root / "jobs" / "job-1" / ".run" / "stdout").exists)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert (sshd.root / "end").exists()
    assert [answer.exit_code for answer in answers if isinstance(answer, Result)] == [INTERRUPTED]


def test_a_job_of_before_a_reboot_is_interrupted(transport: SshTransport, sshd: Sshd) -> None:
    transport.run_job("job-1", "echo done", timeout_s=30)
    inside = sshd.root / "jobs" / "job-1" / ".run"
    (inside / "exit").unlink()
    pid, start, _ = os.readlink(inside / "started").split(":")
    (inside / "started").unlink()
    (inside / "started").symlink_to(f"{pid}:{start}:00000000-0000-0000-0000-000000000000")
    assert transport.run_job("job-1", "echo done", timeout_s=30).exit_code == INTERRUPTED


def test_a_lower_lease_is_refused_and_changes_nothing(transport: SshTransport, sshd: Sshd) -> None:
    transport.run_job("job-7", "true", timeout_s=30, env={FENCE: "7"})
    script = "touch /var/lib/haltuun/ran"
    with pytest.raises(LeaseLost, match="seen lease 7, this run holds 6"):
        transport.run_job("job-6", script, timeout_s=30, env={FENCE: "6"})
    assert not (sshd.root / "ran").exists()
    assert os.listdir(sshd.root / "lock" / "fence") == ["7"]
    # The same change, by a run that holds the account again.
    assert transport.run_job("job-6", script, timeout_s=30, env={FENCE: "8"}).exit_code == 0
    assert (sshd.root / "ran").exists()


def test_a_lease_that_is_lost_on_the_way_to_the_host_begins_nothing(
    transport: SshTransport, sshd: Sshd
) -> None:
    def lost() -> None:
        if (sshd.root / "jobs" / "job-1").exists():
            raise LeaseLost("a later run has the account.")

    reached = Reached([lambda: transport], "")
    with pytest.raises(LeaseLost):
        reached.run_job("job-1", "touch /var/lib/haltuun/ran", timeout_s=30, before_start=lost)
    assert not (sshd.root / "jobs" / "job-1" / ".run" / "started").is_symlink()
    assert not (sshd.root / "ran").exists()


def test_leases_of_two_ledgers_do_not_compare(transport: SshTransport, sshd: Sshd) -> None:
    """A fresh clone begins at 1, whatever another has counted to here."""
    transport.run_job("job-1", "true", timeout_s=30, env={FENCE: "aaaa:7"})
    assert transport.run_job("job-2", "true", timeout_s=30, env={FENCE: "bbbb:1"}).exit_code == 0
    with pytest.raises(LeaseLost, match="seen lease 7, this run holds 6") as caught:
        transport.run_job("job-3", "true", timeout_s=30, env={FENCE: "aaaa:6"})
    assert caught.value.unchanged
    assert transport.run_job("job-4", "true", timeout_s=30, env={FENCE: "bbbb:2"}).exit_code == 0


# A curl that answers as the metadata service of this instance does.
CURL = """#!/bin/sh
case "$*" in
    */api/token) echo token ;;
    *) echo '{"instanceId": "i-1", "accountId": "1", "region": "r"}' ;;
esac
"""


@pytest.mark.parametrize(
    ("target", "state"), [("i-1", "new\n"), ("i-2", "elsewhere i-1 1 r\n"), (None, "new\n")]
)
def test_nothing_is_laid_on_another_machine(tmp_path: Path, target: str | None, state: str) -> None:
    curl = tmp_path / "bin" / "curl"
    curl.parent.mkdir()
    curl.write_text(CURL)
    curl.chmod(0o755)
    env = {} if target is None else dict(zip(TARGET, (target, "1", "r"), strict=True))
    job = Job("job-1", "true", env=env, files={}, chunk_bytes=1000)
    done = subprocess.run(
        ["sh", "-c", job.step("open", 0)],
        env={"PATH": f"{curl.parent}:{os.environ['PATH']}", "HALTUUN_ROOT": str(tmp_path / "root")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == state
    assert (tmp_path / "root").exists() is (state == "new\n")


def test_a_machine_that_does_not_say_who_it_is_gets_no_job(transport: SshTransport, sshd: Sshd) -> None:
    env = dict(zip(TARGET, ("i-1", "1", "r"), strict=True))
    with pytest.raises(Unreachable) as caught:
        transport.run_job("job-1", "true", timeout_s=30, env=env)
    assert caught.value.code == "IMDS_UNREACHABLE"
    assert caught.value.unchanged
    assert os.listdir(sshd.root) == []


def test_what_is_long_over_is_swept_and_what_was_saved_is_not(transport: SshTransport, sshd: Sshd) -> None:
    over = ("jobs/old/.run/exit", "notes/old/ended", "jobs/new/.run/exit")
    finished = [sshd.root / name for name in over]
    kept = [sshd.root / n for n in ("jobs/alive/.run/stdout", "notes/killed/was_enabled", "saved/x/y")]
    for file in (*finished, *kept):
        file.parent.mkdir(parents=True)
        file.touch()
    week_ago = time.time() - 8 * 24 * 3600
    for folder in ("jobs/old", "jobs/alive", "notes/old", "notes/killed", "saved/x", "saved"):
        os.utime(sshd.root / folder, (week_ago, week_ago))
    transport.run_job("job-1", "true", timeout_s=30)
    assert [file.exists() for file in finished] == [False, False, True]
    assert all(file.exists() for file in kept)


def take_lock(folder: Path, script: str) -> str:
    """What `script` says, with the lock's functions at hand."""
    text = f"lock={folder}\n{host_script('process.sh')}{host_script('lock.sh')}{script}"
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True).stdout


def test_who_saw_a_dead_holder_does_not_remove_his_heirs_lock(tmp_path: Path) -> None:
    dead = "1:1:00000000-0000-0000-0000-000000000000"
    (tmp_path / "held").symlink_to(dead)
    (tmp_path / f"heir.{dead}").symlink_to("2:2:00000000-0000-0000-0000-000000000000")
    assert take_lock(tmp_path, "take_lock; readlink $lock/held; identity_of $$").split()[0] != dead
    # Another saw the dead one, too, and comes only now that the first holds the lock.
    (tmp_path / "held").unlink()
    (tmp_path / "held").symlink_to("the-first")
    take_lock(tmp_path, f"bury {dead}")
    assert os.readlink(tmp_path / "held") == "the-first"
    assert os.listdir(tmp_path) == ["held"]


def test_jobs_of_a_host_run_one_after_the_other(transport: SshTransport, sshd: Sshd, ssh: SshConfig) -> None:
    other = sshd.connect(ssh)
    first = "echo a >>/var/lib/haltuun/order; sleep 2; echo b >>/var/lib/haltuun/order"
    thread, _ = in_background(lambda: other.run_job("job-1", first, timeout_s=30, env={FENCE: "1"}))
    until((sshd.root / "order").exists)
    transport.run_job("job-2", "echo c >>/var/lib/haltuun/order", timeout_s=30, env={FENCE: "2"})
    thread.join()
    other.close()
    assert (sshd.root / "order").read_text().split() == ["a", "b", "c"]
    assert not (sshd.root / "lock" / "held").is_symlink()


def test_a_lock_of_a_dead_job_is_taken_over(transport: SshTransport, sshd: Sshd) -> None:
    (sshd.root / "lock").mkdir()
    (sshd.root / "lock" / "held").symlink_to("1:1:00000000-0000-0000-0000-000000000000")
    assert transport.run_job("job-1", "echo done", timeout_s=30).stdout == "done\n"


def test_what_an_interrupted_attempt_left_is_not_run(transport: SshTransport, sshd: Sshd) -> None:
    parts = sshd.root / "jobs" / "job-1" / ".run" / "lay.00000000" / "parts"
    parts.mkdir(parents=True)
    (parts / "haltuun:script.sh.000000").write_text("touch /var/lib/haltuun/wrong\n")
    (parts / "haltuun:script.sh.000001").write_text("touch /var/lib/haltuun/wrong\n")
    assert transport.run_job("job-1", "echo right", timeout_s=30).stdout == "right\n"
    assert not (sshd.root / "wrong").exists()


def test_a_job_that_cannot_be_laid_is_an_error(transport: SshTransport, sshd: Sshd) -> None:
    (sshd.root / "jobs").write_text("in the way")
    with pytest.raises(Unreachable) as caught:
        transport.run_job("job-1", "true", timeout_s=30)
    assert caught.value.code == "JOB_NOT_STARTED"


def test_over_a_sudo_that_wants_a_terminal(sshd: Sshd, ssh: SshConfig) -> None:
    transport = sshd.connect(ssh, "ttyonly")
    package = os.urandom(300_000)
    result = transport.run_job("job-1", "wc -c <$JOB_DIR/p", timeout_s=30, files={"p": package})
    transport.close()
    assert result.stdout.strip() == "300000"
