"""The repair itself, on real hosts with the stand-in agent."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import pytest

from haltuun.config import PackagePin
from haltuun.errors import HaltuunError
from haltuun.model import Change, StageName, Undo, Unknown, Verdict
from haltuun.stages.repair.facts import Agent, RepairFacts
from haltuun.stages.repair.probe import get_output
from lab import api
from lab.agent.build import build_agent_deb
from tests.lab.test_supervisor import ssh
from tests.stages.repair import pairs
from tests.stages.repair.host_kit import Bench, Hosts, bench, lab_of

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SCENARIO = """\
name: repair
account_id: "333344445555"
region: eu-west-1
images:
  lifted: {source: vmware, description: "lifted"}
hosts:
  - {name: refused, os: ubuntu-14.04, agent: stale-fingerprint, sudo: requiretty}
  - {name: clone-1, os: ubuntu-16.04, image: lifted, agent: stale, login_shell: csh, login_noise: true}
  - {name: clone-2, os: ubuntu-16.04, image: lifted, agent: stale}
  - {name: killed, os: ubuntu-18.04, agent: half-repaired}
  - {name: bare, os: ubuntu-20.04, agent: none, tmp: noexec}
  - {name: meant, os: ubuntu-18.04, agent: hybrid-deliberate}
  - {name: waiting, os: ubuntu-22.04, agent: connection-lost}
  - {name: own-blocked, os: ubuntu-18.04, agent: stale, network: blocked}
  - {name: killed-blocked, os: ubuntu-18.04, agent: stale, network: blocked}
  - {name: foreign-blocked, os: ubuntu-18.04, agent: stale, network: blocked, mi_region: us-east-1}
  - {name: with-mksh, os: ubuntu-18.04, agent: stale}
  - {name: with-busybox, os: ubuntu-14.04, agent: stale}
  - {name: moved, os: ubuntu-22.04, agent: stopped, ssh: "twin-of: waiting"}
"""

KEY_FILE = "/var/lib/amazon/ssm/Vault/Store/RegistrationKey"
VAULT = ("Manifest", "Store/RegistrationKey", "Store/InstanceFingerprint")
TOKEN = "/root/.aws/credentials"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with lab_of(SCENARIO + pairs.ROWS, tmp_path_factory.mktemp("repair"), f"repair-{os.getpid()}") as lab:
        yield lab


def registered(hosts: Hosts, name: str) -> str:
    file = hosts.file(name, KEY_FILE)
    return str(json.loads(file.read_text())["instanceID"]) if file.exists() else ""


def vault(hosts: Hosts, name: str) -> dict[str, bytes]:
    return {part: hosts.file(name, f"/var/lib/amazon/ssm/Vault/{part}").read_bytes() for part in VAULT}


def only(changes: tuple[Change, ...], kind: str) -> Change:
    assert kind in [change.kind for change in changes]
    return next(change for change in changes if change.kind == kind)


def failure(b: Bench, change: Change) -> HaltuunError:
    with pytest.raises(HaltuunError) as caught:
        b.kind(change).apply(b.run, change)
    return caught.value


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def test_accounts_and_disks_are_in_the_way(hosts: Hosts) -> None:
    """As the scenario says; the repairs below go through them all the same."""
    shell = ssh(hosts.info, "clone-1", "echo $shell")
    assert shell.stdout.splitlines()[-1] == "/bin/csh"
    assert "recorded" in shell.stdout and "almost full" in shell.stderr
    old = {"PubkeyAcceptedAlgorithms": "+ssh-rsa", "HostKeyAlgorithms": "+ssh-rsa"}
    assert "must have a tty" in ssh(hosts.info, "refused", "sudo -n id -u", **old).stderr
    assert "ermission denied" in ssh(hosts.info, "bare", "cp /bin/true /tmp/try; /tmp/try").stderr


def test_looking_and_planning_write_nothing(hosts: Hosts) -> None:
    with bench(hosts, "clone-2", "plan") as b:
        b.look()
        before = hosts.tree("clone-2")
        plan = b.plan()
        assert only(plan.changes, "agent.clear").before["instance_id"] == registered(hosts, "clone-2")
        assert hosts.tree("clone-2") == before
        assert not [call for call in b.run.aws.calls if call.mutating]
        assert b.plan().changes == plan.changes
        key = json.loads(hosts.file("clone-2", KEY_FILE).read_text())["privateKey"]
        assert key not in get_output(b.run, b.host)


def test_refused_on_upstart_is_cleared_proven_and_undone(hosts: Hosts) -> None:
    with bench(hosts, "refused") as b:
        plan = b.plan()
        assert {"STALE_HYBRID", "FINGERPRINT_MISMATCH"} <= set(b.look().causes)
        clear = only(plan.changes, "agent.clear")
        original, token = vault(hosts, "refused"), hosts.file("refused", TOKEN).read_bytes()

        note = b.perform(clear)
        saved = hosts.file("refused", note["saved"])
        assert saved.stat().st_mode & 0o777 == 0o700
        assert (saved / f"files{KEY_FILE}").read_bytes() == original["Store/RegistrationKey"]
        assert registered(hosts, "refused") == ""
        assert not hosts.file("refused", TOKEN).exists()
        assert "privateKey" not in json.dumps(note)

        proven = b.prove()
        assert proven.fields["online_as"] == b.host.instance_id
        assert proven.fields["echoed"] is True
        assert [proof.kind for proof in proven.proofs] == ["echo"]
        b.run.ledger.proved(b.run.account.id, b.run.id, proven.proofs)
        assert b.prove().proofs == (), "a proof that is still valid is not repeated"
        b.run.journal(clear, "confirmed")
        again = b.prove().proofs
        assert [proof.kind for proof in again] == ["echo"], "it says nothing of what was changed after it"
        b.run.ledger.proved(b.run.account.id, b.run.id, again)
        assert b.plan().changes == ()

        b.undo(clear)
        assert vault(hosts, "refused") == original
        assert hosts.file("refused", TOKEN).read_bytes() == token
        assert b.look().identity == "OnPrem"

        # The real agent prints what it logs; the lab's does not.
        own = hosts.file("refused", "/var/log/amazon/ssm/amazon-ssm-agent.log").read_text()
        printed = hosts.file("refused", "/var/log/upstart/amazon-ssm-agent.log")
        for last_words, dies in (("", False), ("panic: x\n\ngoroutine 44 [running]:\n", True)):
            printed.write_text(own + last_words)
            seen = b.look()
            assert isinstance(seen.agent, Agent) and not isinstance(seen.agent.died, Unknown)
            assert ("AGENT_CRASHES" in seen.causes) == dies


def test_where_clearing_takes_nothing_the_vault_is_moved_aside(hosts: Hosts) -> None:
    with bench(hosts, "clone-1") as b:
        plan = b.plan()
        assert plan.barred == ()
        clear, aside = only(plan.changes, "agent.clear"), only(plan.changes, "agent.vault_aside")
        assert aside.only_if_failed == clear.id
        agent = hosts.file("clone-1", "/usr/bin/amazon-ssm-agent")
        real = agent.with_name("amazon-ssm-agent.real")
        agent.rename(real)
        agent.write_text(
            '#!/bin/sh\n[ "$1" = -register ] && exit 1\nexec /usr/bin/amazon-ssm-agent.real "$@"\n'
        )
        agent.chmod(0o755)
        original = vault(hosts, "clone-1")
        try:
            assert failure(b, clear).code == "NOT_TAKEN"
            assert vault(hosts, "clone-1") == original
            assert b.look().running is True, "a step without effect leaves the agent as it was"
            note = b.perform(aside)
        finally:
            real.rename(agent)
        for part in VAULT:
            assert not hosts.file("clone-1", f"/var/lib/amazon/ssm/Vault/{part}").exists()
            assert hosts.file("clone-1", f"{note['saved']}/moved/{part.rpartition('/')[2]}").exists()
        assert b.look().identity == "EC2"


@pytest.mark.parametrize(
    ("name", "shell"),
    [pytest.param("with-mksh", "mksh", marks=pytest.mark.soak), ("with-busybox", "busybox")],
)
def test_other_shells(hosts: Hosts, name: str, shell: str) -> None:
    """dash is the hosts' own sh; here it is another, for the login as well."""
    program = shutil.which(shell)
    assert program, f"{shell} is not installed: make setup"
    shutil.copy(program, hosts.file(name, f"/usr/local/bin/{shell}"))
    sh = hosts.file(name, "/usr/bin/sh")
    sh.unlink()
    sh.symlink_to(f"/usr/local/bin/{shell}")
    with bench(hosts, name) as b:
        clear = only(b.plan().changes, "agent.clear")
        b.perform(clear)
        b.undo(clear)
        assert b.look().identity == "OnPrem"


@pytest.mark.parametrize(
    "at",
    [
        pytest.param("saved", marks=pytest.mark.soak),
        pytest.param("cleared", marks=pytest.mark.soak),
        "script",
    ],
)
def test_killed_on_the_host_it_goes_on(hosts: Hosts, at: str) -> None:
    name = "killed"
    with bench(hosts, name) as b:
        clear = only(b.plan().changes, "agent.clear")
        job = hosts.file(name, f"/var/lib/haltuun/jobs/{clear.id}-{b.run.id}-1/.run/started")
        shutil.rmtree(hosts.file(name, f"/var/lib/haltuun/saved/{clear.id}"), ignore_errors=True)

        def kill() -> None:
            if at != "cleared":
                until(hosts.file(name, f"/var/lib/haltuun/saved/{clear.id}/SHA256SUMS").exists)
            else:
                until(lambda: registered(hosts, name) == "")
            session = os.readlink(job).split(":")[0]
            for pid, inner in _session(hosts, name, session).items():
                # Alone: its runner lives on and writes down that it was killed, as after want of memory.
                if at != "script" or inner != session:
                    _kill(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        b.perform(clear)
        killer.join()
        assert hosts.file(name, f"/var/lib/haltuun/jobs/{clear.id}-{b.run.id}-2").exists()
        assert b.look().identity == "EC2"
        b.undo(clear)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it ended by itself since it was found
        os.kill(pid, signal.SIGKILL)


def _kill_once(hosts: Hosts, b: Bench, change: Change, when: Callable[[], bool]) -> None:
    """The change is begun, killed on the host, and not begun again: its run has died, too."""
    name = b.host.name
    job = hosts.file(name, f"/var/lib/haltuun/jobs/{change.id}-{b.run.id}-1/.run/started")

    def kill() -> None:
        until(when)
        session = os.readlink(job).split(":")[0]

        def is_dead() -> bool:
            """Also who was begun while the others were killed."""
            alive = _session(hosts, name, session)
            for pid in alive:
                _kill(pid)
            return not alive

        until(is_dead)

    killer = threading.Thread(target=kill)
    killer.start()
    assert failure(b, change).code == "REPAIR_INTERRUPTED"
    killer.join()


def test_the_next_run_ends_what_a_killed_one_left(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proof comes in a closed network: what the first run took away, the second one puts back."""
    name = "killed-blocked"
    monkeypatch.setenv("HALTUUN_AGENT_WAIT_S", "8")
    monkeypatch.setattr("haltuun.stages.repair.kinds.ATTEMPTS", 1)
    with bench(hosts, name) as b:
        original = vault(hosts, name)
        clear = only(b.plan().changes, "agent.clear")
        _kill_once(hosts, b, clear, lambda: registered(hosts, name) == "")
    with bench(hosts, name) as b:
        restart = b.plan().changes[0]
        assert restart.kind == "agent.restart"
        assert restart.after["unfinished"] == clear.id
        assert "put back" in restart.summary
        failure(b, restart)
        assert vault(hosts, name) == original
        assert (b.look().identity, b.look().running) == ("OnPrem", True)
        assert b.look().agent.unfinished == ()
        assert [change.id for change in b.plan().changes][:1] == [clear.id]


@pytest.mark.soak
def test_the_next_run_knows_how_it_was_before_a_killed_one(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "killed"
    monkeypatch.setattr("haltuun.stages.repair.kinds.ATTEMPTS", 1)
    with bench(hosts, name) as b:
        clear = only(b.plan().changes, "agent.clear")
        saved = hosts.file(name, f"/var/lib/haltuun/saved/{clear.id}")
        shutil.rmtree(saved, ignore_errors=True)
        # It stands still between what it saved and what it is to change, until it is killed.
        sums = hosts.file(name, "/usr/local/bin/sha256sum")
        sums.write_text("#!/bin/sh\n[ $# -gt 0 ] || exec /usr/bin/sha256sum\nexec sleep 600\n")
        sums.chmod(0o755)
        try:
            _kill_once(hosts, b, clear, (saved / "files").exists)
        finally:
            sums.unlink()
        assert b.look().running is False
    with bench(hosts, name) as b:
        clear = only(b.plan().changes, "agent.clear")
        note = b.perform(clear)
        assert hosts.file(name, f"{note['saved']}/was_running").read_text() == "yes\n"
        b.undo(clear)
        assert b.look().running is True


@pytest.mark.soak
def test_only_the_agents_own_section_is_taken_and_given_back(hosts: Hosts) -> None:
    name = "with-busybox"
    file = hosts.file(name, TOKEN)
    head, tail = "# mine\n[me]\naws_access_key_id = AKIAMINE00000000\n\n", "[other]\nregion = eu-west-1\n"
    mixed, rest = f"{head}{file.read_text()}{tail}", f"{head}{tail}"
    secret, written = file.read_text().split()[-1], file.stat().st_mtime

    def put(text: str) -> None:
        file.write_text(text)
        os.utime(file, (written, written))
        file.chmod(0o640)
        os.chown(file, 0, 12)

    def is_there(text: str) -> bool:
        about = file.stat()
        owner = (about.st_mode & 0o777, about.st_uid, about.st_gid)
        return (file.read_text(), owner) == (text, (0o640, 0, 12))

    put(mixed)
    with bench(hosts, name) as b:
        clear = only(b.plan().changes, "agent.clear")
        assert "2 other profile(s) there stay" in clear.summary
        b.perform(clear)
        assert is_there(rest)

        put(mixed)  # as a repair by hand leaves it
        os.utime(file)
        assert b.plan().changes == (), "an agent that is EC2 has not written it"
        put(mixed)
        (aside,) = b.plan().changes
        said = aside.model_dump_json() + b.look().model_dump_json()
        assert secret not in said and "AKIAMINE" not in said
        put(mixed.replace("eu-west-1", "eu-west-2"))
        assert b.kind(aside).look(b.run, aside) != aside.before, "what a person does in between is not lost"
        put(mixed)
        note = b.perform(aside)
        assert is_there(rest)
        assert b.prove().fields["online_as"] == b.host.instance_id
        saved = hosts.file(name, note["saved"])
        assert saved.stat().st_mode & 0o777 == 0o700
        assert (saved / f"files{TOKEN}").read_text() == mixed

        put(rest + "[new]\nregion = x\n")
        assert aside.undo is not None
        back = aside.model_copy(update={"kind": aside.undo.kind, "after": aside.undo.after})
        assert failure(b, back).code == "PLAN_STALE"
        put(rest)
        b.undo(aside)
        assert is_there(mixed)


@pytest.mark.soak
def test_the_registration_named_a_second_time_goes_first(hosts: Hosts) -> None:
    name = "with-mksh"
    file = hosts.file(name, "/etc/amazon/ssm/amazon-ssm-agent.json")
    named = {"CustomIdentities": [{"InstanceID": registered(hosts, name), "Region": "eu-west-1"}]}
    text = json.dumps({"Agent": {"ContainerMode": False}, "Identity": named})  # its last line has no end
    file.write_text(text)
    file.chmod(0o640)
    try:
        with bench(hosts, name) as b:
            plan = b.plan()
            cut, clear = plan.changes[:2]
            assert (cut.kind, clear.kind) == ("agent.config", "agent.clear")
            assert "CUSTOM_IDENTITY" in b.look().causes
            b.perform(cut)
            assert json.loads(file.read_text()) == {"Agent": {"ContainerMode": False}}
            assert file.stat().st_mode & 0o777 == 0o640
            b.perform(clear)
            assert b.prove().fields["online_as"] == b.host.instance_id
            b.undo(clear)
            b.undo(cut)
            assert (file.read_text(), file.stat().st_mode & 0o777) == (text, 0o640)
        file.write_text(f"{text}\n")
        with bench(hosts, name) as b:
            assert b.kind(cut).look(b.run, cut) != cut.before
            assert failure(b, cut).code == "PLAN_STALE" and file.read_text() == f"{text}\n"
    finally:
        file.unlink()


def test_what_can_be_moved_only_in_part_is_put_back(hosts: Hosts) -> None:
    """Manifest is immutable: half a vault would be no identity that anybody chose."""
    name = "with-mksh"
    mv = hosts.file(name, "/usr/local/bin/mv")
    mv.write_text('#!/bin/sh\ncase "$1" in */Manifest) exit 1 ;; esac\nexec /bin/mv "$@"\n')
    mv.chmod(0o755)
    try:
        with bench(hosts, name) as b:
            aside = only(b.plan().changes, "agent.vault_aside")
            original = vault(hosts, name)
            error = failure(b, aside)
            assert (error.code, error.unchanged) == ("REPAIR_FAILED", False)
            assert vault(hosts, name) == original
            assert (b.look().identity, b.look().running) == ("OnPrem", True)
    finally:
        mv.unlink()


def test_a_full_disk_is_said_and_nothing_begun_until_there_is_room(hosts: Hosts) -> None:
    """The host's whole disk: one can log in and look, and nothing can be written."""
    name = "with-mksh"
    with bench(hosts, name) as b:
        clear = only(b.plan().changes, "agent.clear")
        api.fault(hosts.info.name, name, "disk_full", True)
        try:
            assert "full" in ssh(hosts.info, name, "echo x >$HOME/x || echo full").stdout
            before = hosts.tree(name)
            plan = b.plan()
            assert ([b.code for b in plan.barred], plan.changes) == (["DISK_FULL"], ())
            seen = b.facts[StageName.repair][b.host.instance_id]
            assert isinstance(seen, RepairFacts) and isinstance(seen.agent, Agent)
            assert {"DISK_FULL", "STALE_HYBRID"} <= set(seen.causes)
            assert hosts.tree(name) == before
            error = failure(b, clear)  # planned while there was room
            assert (error.code, error.unchanged) == ("DISK_FULL", True)
            assert "No space left on device" in error.message
            left = hosts.tree(name).items() - before.items()
            assert all(path.startswith("/var/lib/haltuun/jobs/") for path, _ in left)  # empty, or cut off
        finally:
            api.fault(hosts.info.name, name, "disk_full", False)
        df = hosts.file(name, "/usr/local/bin/df")
        df.write_text("#!/bin/sh\necho; echo none 9 9 9\n")
        df.chmod(0o755)
        try:
            error = failure(b, clear)  # room for a script, and none for the agent's state
        finally:
            df.unlink()
        assert "not enough room" in error.message and error.unchanged
        assert b.look().agent.processes == seen.agent.processes
    with bench(hosts, name) as b:
        b.perform(only(b.plan().changes, "agent.clear"))
        now = b.look()
        assert (now.identity, now.connected, now.causes) == ("EC2", True, ())


DPKG = """#!/bin/sh
echo "$*" >>/var/lib/dpkg-calls
case $1 in -i) ;; *) exec /usr/bin/dpkg "$@" ;; esac
if [ "$(grep -c '^-i' /var/lib/dpkg-calls)" -gt {locked} ]; then {then}; fi
echo 'dpkg: error: dpkg frontend lock was locked by another process with pid 12' >&2
exit 2
"""


@contextmanager
def _dpkg(hosts: Hosts, name: str, locked: int, then: str) -> Iterator[Path]:
    file, calls = hosts.file(name, "/usr/local/bin/dpkg"), hosts.file(name, "/var/lib/dpkg-calls")
    file.write_text(DPKG.replace("{locked}", str(locked)).replace("{then}", then))
    file.chmod(0o755)
    try:
        yield calls
    finally:
        file.unlink()
        calls.unlink(missing_ok=True)


@pytest.mark.soak
def test_a_locked_dpkg_is_waited_for(hosts: Hosts) -> None:
    with bench(hosts, "bare") as b, _dpkg(hosts, "bare", 1, 'exec /usr/bin/dpkg "$@"') as calls:
        (install,) = b.plan().changes
        b.perform(install)
        assert [call[:2] for call in calls.read_text().splitlines() if call.startswith("-i")] == ["-i", "-i"]
        b.undo(install)


def test_where_nothing_was_unpacked_nothing_is_removed(hosts: Hosts) -> None:
    interrupted = "echo 'dpkg: error: dpkg was interrupted, run dpkg --configure -a'; exit 2"
    with bench(hosts, "bare") as b, _dpkg(hosts, "bare", 0, interrupted) as calls:
        (install,) = b.plan().changes
        error = failure(b, install)
        assert "dpkg was interrupted" in error.message
        assert "dpkg --configure -a" in error.remedy
        assert error.unchanged
        assert not [call for call in calls.read_text().splitlines() if "--remove" in call]


def _session(hosts: Hosts, name: str, session: str) -> dict[int, str]:
    """Pids, as seen from outside, of the box's processes in this session of theirs: with their own there."""
    namespace = os.readlink(f"/proc/{hosts.info.hosts[name]['pid']}/ns/pid")
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if os.readlink(folder / "ns/pid") != namespace:
                continue
            status = (folder / "status").read_text()
        except OSError:
            continue
        inner = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSsid:"))
        if inner == session:
            found[int(folder.name)] = next(
                line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")
            )
    return found


def test_install_and_remove_again(hosts: Hosts) -> None:
    with bench(hosts, "bare") as b, bench(hosts, "bare", "plan") as looking:
        (install,) = b.plan().changes
        assert install.kind == "agent.install"
        b.perform(install)
        assert b.prove().fields["echoed"] is True
        seen = looking.prove().fields
        assert seen["online_as_self"] is True
        assert isinstance(seen["echoed"], Unknown), "a plan sends no command"
        assert not [call for call in looking.run.aws.calls if call.mutating]
        b.undo(install)
        assert b.look().package == "none"


@pytest.mark.soak
def test_a_deb_is_made_whole_and_an_older_one_replaced(hosts: Hosts, tmp_path: Path) -> None:
    """Real dpkg; what rpm and snap do there is tried against recorded output in test_packages.py."""
    with bench(hosts, "bare") as b:
        (install,) = b.plan().changes
        b.perform(install)
        b.run.open(b.host).run("systemctl stop amazon-ssm-agent", timeout_s=60)
        hosts.file("bare", "/usr/bin/amazon-ssm-agent").unlink()
        (again,) = b.plan().changes
        assert again.kind == "agent.install" and again.undo is None and "UNPROVEN" not in again.summary
        b.perform(again)

        (pinned,) = Path(b.run.config.agent.package_source or "").glob("*.deb")
        tree, older = tmp_path / "tree", hosts.file("bare", "/var/lib/older.deb")
        subprocess.run(["dpkg-deb", "-R", str(pinned), str(tree)], check=True)
        control = tree / "DEBIAN/control"
        control.write_text(re.sub("(?m)^Version: .*$", "Version: 2.2.800.0-1", control.read_text()))
        subprocess.run(["dpkg-deb", "-b", str(tree), str(older)], check=True, stdout=subprocess.DEVNULL)
        b.run.open(b.host).run("dpkg -i /var/lib/older.deb", timeout_s=60)
        there = {"package": "deb", "version": "2.2.800.0", "running": True}
        assert install.undo is not None
        older_sum = hashlib.sha256(older.read_bytes()).hexdigest()
        packages = tmp_path / "packages"
        packages.mkdir()
        shutil.copy(pinned, packages / "newer.deb")
        shutil.copy(older, packages / "older.deb")
        pin = PackagePin(format="deb", version="2.2.800.0", sha256=older_sum)
        update = {"package_source": str(packages), "packages": [pin]}
        agent = b.run.config.agent.model_copy(update=update)
        b.run.config = b.run.config.model_copy(update={"agent": agent})
        undo = Undo(kind="agent.install", after={**there, "enabled": True, "sha256": older_sum})
        replace = install.model_copy(update={"before": there, "undo": undo})
        b.perform(replace)
        b.undo(replace)
        back = b.look()
        assert (back.version, back.running, back.enabled) == ("2.2.800.0", True, True)
        b.perform(
            install.model_copy(update={"kind": "agent.remove", "before": there, "after": install.before})
        )
        assert b.look().package == "none"


def test_a_package_that_is_not_pinned_is_not_installed(hosts: Hosts) -> None:
    with bench(hosts, "bare") as b:
        (install,) = b.plan().changes
        other = install.model_copy(update={"after": {**install.after, "sha256": "0" * 64}})
        error = failure(b, other)
        assert (error.code, error.unchanged) == ("AGENT_PACKAGE", True)
        assert "not pinned" in error.message
        assert b.look().package == "none"


@pytest.mark.parametrize("case", pairs.CORE, ids=str)
def test_repaired_twice_and_taken_back(hosts: Hosts, case: pairs.Case) -> None:
    assert case in pairs.all_cases()
    pairs.walk(hosts, case)


def test_barred(hosts: Hosts) -> None:
    for name, code, verdict in [
        ("meant", "DELIBERATE_HYBRID", Verdict.excluded),
        ("waiting", "WAITING_SERVICE", Verdict.waiting),
        ("moved", "WRONG_BOX", Verdict.held),
    ]:
        with bench(hosts, name, "plan") as b:
            plan = b.plan()
            assert plan.changes == ()
            assert [(bar.code, bar.verdict) for bar in plan.barred] == [(code, verdict)]


def test_the_script_itself_leaves_the_wrong_box(hosts: Hosts) -> None:
    """Should anything else fail to see it: nothing at all is written there."""
    with bench(hosts, "waiting") as there, bench(hosts, "moved") as b:
        there.look()
        before = hosts.tree("waiting")
        change = Change.model_validate(
            {
                "stage": "repair",
                "kind": "agent.restart",
                "region": b.host.region,
                "target": b.host.instance_id,
                "hosts": (b.host.instance_id,),
                "before": {},
                "after": {},
                "reach": "host",
                "summary": "",
            }
        )
        error = failure(b, change)
        assert (error.code, error.unchanged) == ("WRONG_BOX", True)
        assert hosts.tree("waiting") == before


@pytest.mark.parametrize(("name", "restored"), [("own-blocked", True), ("foreign-blocked", False)])
def test_without_proof(hosts: Hosts, name: str, restored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is put back as it was; another region's stays off, and the plan said so."""
    monkeypatch.setenv("HALTUUN_AGENT_WAIT_S", "8")
    with bench(hosts, name) as b:
        clear = only(b.plan().changes, "agent.clear")
        assert ("stays off" in clear.summary) is not restored
        original = vault(hosts, name)
        assert failure(b, clear).code in ("NOT_PROVEN", "EGRESS_BLOCKED")
        if restored:
            assert vault(hosts, name) == original
            assert b.look().identity == "OnPrem"
        else:
            assert registered(hosts, name) == ""
            assert b.look().identity == "EC2"


@contextmanager
def _wants_tokens(hosts: Hosts, name: str) -> Iterator[None]:
    ec2, instance = boto3.client("ec2", region_name=hosts.info.region), hosts.host(name).instance_id
    ec2.modify_instance_metadata_options(InstanceId=instance, HttpTokens="required")
    try:
        yield
    finally:
        ec2.modify_instance_metadata_options(InstanceId=instance, HttpTokens="optional")


@pytest.mark.soak
def test_an_agent_too_old_for_tokens_is_replaced_and_not_restarted(hosts: Hosts, tmp_path: Path) -> None:
    old = build_agent_deb(tmp_path, version="2.3.50.0")
    hosts.file("bare", "/var/cache/old.deb").write_bytes(old.read_bytes())
    with _wants_tokens(hosts, "bare"), bench(hosts, "bare") as b:
        pairs.inside(hosts, "bare", "dpkg -i /var/cache/old.deb >/dev/null && service start")
        try:
            until(lambda: "IMDS_TOKENS_REQUIRED" in b.look().causes)
            (install,) = b.plan().changes
            assert install.kind == "agent.install" and "sends no session token" in install.summary
            b.perform(install)
            assert b.prove().fields["online_as"] == b.host.instance_id
            assert (b.look().causes, b.plan().changes) == ((), ())
        finally:
            pairs.inside(hosts, "bare", "dpkg --purge $agent >/dev/null; rm -rf $state /var/log/amazon")
