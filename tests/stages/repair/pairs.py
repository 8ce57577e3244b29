"""A host put into a first state, repaired, looked at a second time and taken back: one case.

Two hosts serve for all cases: what a repair may touch is saved once and laid there again before each.
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from haltuun.errors import HaltuunError
from haltuun.model import Change
from lab import api
from tests.stages.repair.host_kit import Bench, Hosts, bench

ROWS = """\
  - {name: paired-upstart, os: ubuntu-14.04, agent: stale}
  - {name: paired-systemd, os: ubuntu-18.04, agent: stale}
"""
_WORDS = Path(__file__).with_name("pairs.sh").read_text()
INITS = ("systemd", "upstart")
STATES = ("running", "stopped", "stopped and disabled", "not enabled")

CLEAR, ASIDE, RESTART, CONFIG = "agent.clear", "agent.vault_aside", "agent.restart", "agent.config"
TOKEN, INSTALL = "agent.credentials_aside", "agent.install"
STARTS = (CLEAR, ASIDE, RESTART, INSTALL)


@dataclass(frozen=True)
class Fault:
    """`steps` mend it; `before` and `after` the agent's start it is made so; `refused` is what the account
    refuses while it starts, and no longer after it."""

    steps: tuple[str, ...]
    before: str = ":"
    after: str = ":"
    refused: str = ""
    states: tuple[str, ...] = STATES
    inits: tuple[str, ...] = INITS


FAULTS: dict[str, Fault] = {
    "stale": Fault((CLEAR,)),
    "refused": Fault((CLEAR,), "on_another_machine"),
    "half repaired": Fault((CLEAR,), "rm -rf $state/registration $state/mi-*"),
    "does not clear": Fault((ASIDE,), "does_not_clear"),
    "named twice": Fault((CONFIG, CLEAR), "named_twice"),
    "not restarted": Fault((RESTART, TOKEN), after="cleared", states=("running", "not enabled")),
    "key deleted": Fault(
        (RESTART, TOKEN), after="rm $state/Vault/Store/RegistrationKey", states=("running", "not enabled")
    ),
    "none": Fault((), "as_itself", states=STATES[1:]),
    "token left": Fault((TOKEN,), "cleared"),
    "asleep": Fault(
        (RESTART,),
        "as_itself",
        refused="ssm:UpdateInstanceInformation=AccessDeniedException",
        states=("running", "not enabled"),
    ),
    # upstart starts it again at once, and the new core ends the old worker.
    "orphan": Fault((RESTART,), "as_itself", "orphaned", states=("running",), inits=("systemd",)),
    "missing": Fault((INSTALL,), "as_itself; without_package", states=("stopped",)),
    "missing and stale": Fault((ASIDE, INSTALL), "without_package", states=("stopped",)),
}


@dataclass(frozen=True)
class Case:
    fault: str
    init: str
    state: str

    def __str__(self) -> str:
        return f"{self.fault}, {self.init}, {self.state}"


def all_cases() -> Iterator[Case]:
    for name, fault in FAULTS.items():
        for init, state in itertools.product(fault.inits, fault.states):
            yield Case(name, init, state)


# What each run of the tests has time for.
CORE = (
    Case("stale", "upstart", "stopped and disabled"),
    Case("missing and stale", "upstart", "stopped"),
    Case("token left", "systemd", "stopped and disabled"),
)


def pairs(cases: Sequence[Case]) -> list[Case]:
    """Few of the cases, in which any two values that can come together do: the greedy way."""
    wanted = {pair for case in cases for pair in _pairs_of(case)}
    chosen = []
    while wanted:
        best = max(cases, key=lambda case: len(wanted & _pairs_of(case)))
        wanted -= _pairs_of(best)
        chosen.append(best)
    return chosen


def _pairs_of(case: Case) -> set[frozenset[tuple[str, str]]]:
    return set(map(frozenset, itertools.combinations(vars(case).items(), 2)))


# -- one case on its host ---------------------------------------------------------------------------------


def inside(hosts: Hosts, name: str, script: str) -> None:
    enter = ["nsenter", "-t", str(hosts.info.hosts[name]["pid"]), "-m", "-u", "-i", "-n", "-p", "-C"]
    done = subprocess.run(
        [*enter, "sh", "-s"], input=_WORDS + script, capture_output=True, text=True, timeout=90, env={}
    )
    assert done.returncode == 0, (done.returncode, done.stderr)


def lay(hosts: Hosts, name: str, case: Case) -> None:
    fault = FAULTS[case.fault]
    deb = hosts.file(name, "/var/cache/agent.deb")
    if not deb.exists():
        (package,) = (hosts.info.config_path.parent / "packages").glob("amazon-ssm-agent*.deb")
        deb.write_bytes(package.read_bytes())
    script = f"again\n{fault.before}\n"
    if "stopped" not in case.state:
        script += f"up\n{fault.after}\n"
    if case.state in ("stopped and disabled", "not enabled"):
        script += "be_disabled\n"
    if not fault.refused:
        inside(hosts, name, script)
        return
    api.fault(hosts.info.name, "account", fault.refused, True)
    try:
        inside(hosts, name, script)
    finally:
        api.fault(hosts.info.name, "account", fault.refused, False)


def kept(hosts: Hosts, name: str, case: Case) -> dict[str, str]:
    """Each file and folder that a repair could have moved, with owner, mode and checksum; but what an agent
    that runs writes by itself: its token, and the keys that it makes where it came up as the instance."""
    root = hosts.file(name, "/")
    found = {}
    for top in ("var/lib/amazon/ssm/Vault", "var/lib/amazon/ssm/registration", "root", "etc"):
        for path in (root / top, *(root / top).rglob("*")):
            where = str(path.relative_to(root))
            if "EC2" in path.name or (path.name == "credentials" and "stopped" not in case.state):
                continue
            if path.is_symlink():
                found[where] = f"to {path.readlink()}"
            elif path.exists():
                status = path.stat()
                digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
                found[where] = f"{status.st_mode:o} {status.st_uid} {status.st_gid} {digest}"
    return found


def expected(case: Case) -> tuple[str, ...]:
    """The kinds that are performed, in order."""
    steps = FAULTS[case.fault].steps
    if "stopped" in case.state and not {*STARTS} & {*steps}:
        return (RESTART, *steps)
    if case.state == "not enabled" and not {*STARTS} & {*steps}:
        return (*steps, "agent.state")
    return steps


def walk(hosts: Hosts, case: Case) -> None:
    """The end state; that a second run changes nothing; and that the undo leads back, byte for byte."""
    name = f"paired-{case.init}"
    lay(hosts, name, case)
    first = kept(hosts, name, case)
    with bench(hosts, name) as b:
        was = b.look()
        done = perform_all(b)
        assert tuple(change.kind for change in done) == expected(case)
        seen = b.prove().fields
        assert (seen["online_as"], seen["echoed"]) == (b.host.instance_id, True)
        now = b.look()
        assert (now.identity, now.connected, now.running, now.enabled) == ("EC2", True, True, True)
        assert now.causes == () and now.agent.unfinished == ()
    with bench(hosts, name) as b:
        again = b.plan()
        assert (again.changes, again.barred) == ((), ())
        for change in reversed(done):
            if change.undo is not None:
                b.undo(change)
        back = b.look()
        words = ["running", "enabled", "package", "vault_instance_id"]
        if FAULTS[case.fault].after == ":":  # else the running agent's, which nothing on the disk brings back
            words.append("identity")
        for word in words:
            assert getattr(back, word) == getattr(was, word), word
    assert kept(hosts, name, case) == first


def perform_all(b: Bench) -> list[Change]:
    """The plan's changes as the engine performs them: the next rung only where one took nothing."""
    done: list[Change] = []
    not_taken: set[str] = set()
    for change in b.plan().changes:
        if change.only_if_failed and change.only_if_failed not in not_taken:
            continue
        try:
            b.perform(change)
        except HaltuunError as error:
            assert error.code == "NOT_TAKEN", error
            not_taken.add(change.id)
        else:
            done.append(change)
    return done
