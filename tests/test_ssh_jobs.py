"""Jobs: run apart from the connection, once, whatever breaks. Against real sshd on loopback."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from haltuun.config import SshConfig
from haltuun.errors import CommandTimeout, LeaseLost, Unreachable
from haltuun.jobs import FENCE, INTERRUPTED
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
    os.kill(runner(sshd, "job-1"), signal.SIGKILL)
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
    parts = sshd.root / "jobs" / "job-1" / ".run" / "parts"
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
