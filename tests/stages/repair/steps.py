"""Runs over a lab's host that come to grief at each step of their scripts, with something of the host.

What a step is, the host's own gate tells (gate.sh): none is named here. The engine and the stage are the real
ones; what comes before the stage is given, so that there is time for every step.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from haltuun.config import load_config
from haltuun.effects import open_changes
from haltuun.engine import Takeover, open_run
from haltuun.ledger import Ledger
from haltuun.model import Host, StageName
from haltuun.reach import open_host
from haltuun.stages.repair import STAGE
from haltuun.stages.repair.facts import RepairFacts
from haltuun.stages.repair.probe import look_at
from haltuun.undo import open_undo
from tests.stages.repair.host_kit import Hosts, discovered
from tests.stages.repair.interrupted import WAYS, all_known_and_once, is_right
from tests.stages.repair.pairs import Case, kept, lay

_GATE = Path(__file__).with_name("gate.sh").read_text()
# Whose interpreter it is goes through it: a job's runner, its script, and what dpkg runs for it.
_SHELL = """#!/usr/bin/dash
case ${1:-} in
    */.run/lay.*/own/runner.sh | */.run/script.sh) ;;
    /var/lib/dpkg/*) [ -n "${JOB_DIR:-}" ] || exec /usr/bin/dash "$@" ;;
    *) exec /usr/bin/dash "$@" ;;
esac
[ -e /var/cache/gate/stop ] || exec /usr/bin/dash "$@"
exec /bin/bash /var/cache/gate/gate.sh "$@"
"""
# Forked from a process that has imported all that a run needs, and has no threads.
_CLEAN = multiprocessing.get_context("forkserver")
_CLEAN.set_forkserver_preload([__name__])
END_S = 600
LONG_S = 240  # after which a run says where it stands
NEARLY = 0.8

SURVIVED = ("sshd is killed", "the connection is cut")
ENDED = ("the script is killed", "the host is rebooted")


@dataclass(frozen=True)
class Step:
    """`number` of the run that was left alone; which `action`'s script stands, and before which `command`."""

    number: int
    action: str
    command: str


@dataclass(frozen=True)
class Alone:
    """What came of a run that nobody disturbed: its steps, and what it left."""

    steps: tuple[Step, ...]
    left: Mapping[str, str]


@dataclass
class Walker:
    """Walks one host; several may be walked at once."""

    hosts: Hosts
    name: str
    case: Case
    folder: Path
    back: bool = False  # the undo is walked

    def alone(self) -> Alone:
        first, url = self._begin()
        with self._gated("0"):
            self._end(self._start(url))
            steps = self._steps()
        if self.back:
            _same(self._kept(), first)
        return Alone(steps, self._left())

    def disturbed(self, alone: Alone) -> None:
        """One run that is cut off at each step: its script goes on, and it takes it up again."""
        _, url = self._begin()
        with self._gated("every"):
            run, stood = self._start(url), 0
            while self._until_it_stands(run):
                stood += 1
                WAYS[SURVIVED[stood % 2]](self.hosts, self.name, True)
                self._gate("reached").unlink()
            self._end(run)
        assert stood > NEARLY * len(alone.steps), (stood, len(alone.steps))
        self._is_as(alone, url)

    def ended(self, alone: Alone, step: Step, way: str, *, run_dies: bool) -> bool:
        """The next run comes to where the one left alone came to, and the undo to where all began.

        False where this run had fewer steps than the one before, and was ended at none.
        """
        first, url = self._begin()
        with self._gated(str(step.number)):
            run = self._start(url)
            stood = self._until_it_stands(run)
            if stood and run_dies:
                run.kill()
                run.join()
            if stood:
                WAYS[way](self.hosts, self.name, not run_dies)
        # One that lives has gone on from there, or could not see how it ended: the next one does.
        run.join(END_S)
        assert run.exitcode is not None, (self.name, step, way, "died" if run_dies else "lives")
        self._end(self._start(url))
        self._is_as(alone, url)
        if not self.back:
            _undo(self.hosts, self.name, url)
            _same(self._kept(), first)
        return stood

    def _is_as(self, alone: Alone, url: str) -> None:
        _same(self._left(), alone.left)
        ledger = Ledger(url)
        events = ledger.change_events(self.hosts.info.account_id)
        ledger.close()
        assert open_changes(events) == [] and all_known_and_once(events), [
            (event.change.kind, event.event) for event in events
        ]

    def _begin(self) -> tuple[dict[str, str], str]:
        lay(self.hosts, self.name, self.case)
        sh = self.hosts.file(self.name, "/usr/bin/sh")
        if sh.is_symlink():
            sh.unlink()
            sh.write_text(_SHELL)
            sh.chmod(0o755)
        ledger = self.folder / f"{self.name}.db"
        for old in self.folder.glob(f"{ledger.name}*"):
            old.unlink()
        first, url = self._kept(), f"sqlite:///{ledger}"
        if self.back:
            _repair(self.hosts, self.name, url)
        return first, url

    def _kept(self) -> dict[str, str]:
        return kept(self.hosts, self.name, self.case)

    def _left(self) -> dict[str, str]:
        """An agent that clears its registration writes the time into the file."""
        seen = self._kept()
        return {
            path: about.rpartition(" ")[0] if path.endswith("/RegistrationKey") else about
            for path, about in seen.items()
        }

    # -- the gate ----------------------------------------------------------------------------------------

    def _gate(self, file: str) -> Path:
        return self.hosts.file(self.name, f"/var/cache/gate/{file}")

    @contextmanager
    def _gated(self, stop: str) -> Iterator[None]:
        """Scripts that begin in here stand still at the step of this number, or at every one."""
        self._gate("").mkdir(exist_ok=True)
        for old in self._gate("").iterdir():
            old.unlink()
        self._gate("gate.sh").write_text(_GATE)
        self._gate("stop").write_text(f"{stop}\n")
        try:
            yield
        finally:
            for file in ("stop", "reached"):
                self._gate(file).unlink(missing_ok=True)

    def _steps(self) -> tuple[Step, ...]:
        lines = (line.split("\t") for line in self._gate("steps").read_text().splitlines())
        return tuple(Step(int(number), action, command) for number, action, command in lines)

    def _until_it_stands(self, run: BaseProcess) -> bool:
        """False where the run came to its end instead. That an agent beside the script is up, or gone,
        is noticed at one command or at another, so a run has some steps more or less than the one before.
        """
        deadline = time.monotonic() + END_S
        while not self._gate("reached").exists():
            if not run.is_alive():
                return self._gate("reached").exists()
            assert time.monotonic() < deadline, f"neither a step nor the end after {self._steps()[-1:]}"
            time.sleep(0.02)
        return True

    # -- a run in a process of its own -------------------------------------------------------------------

    def _start(self, url: str) -> BaseProcess:
        what = _undo if self.back else _repair
        run = _CLEAN.Process(target=_go, args=(dict(os.environ), what, self.hosts, self.name, url))
        run.start()
        return run

    def _end(self, run: BaseProcess) -> None:
        run.join(END_S)
        assert run.exitcode == 0


def _same(one: Mapping[str, str], other: Mapping[str, str]) -> None:
    paths = sorted(one.keys() | other.keys())
    unlike = [(path, one.get(path), other.get(path)) for path in paths if one.get(path) != other.get(path)]
    assert unlike == [], unlike


def _go(env: Mapping[str, str], what: Callable[[Hosts, str, str], None], *given: str) -> None:
    os.environ.update(env)
    faulthandler.dump_traceback_later(LONG_S)
    what(*given)  # type: ignore[arg-type]


def _repair(hosts: Hosts, name: str, url: str) -> None:
    """As takeovers do it: look, plan, perform, prove; of the host alone."""
    config, host, ledger = load_config(hosts.info.config_path), hosts.host(name), Ledger(url)
    run = open_run(config, host.account, "apply", open_host, ledger=ledger)
    run.facts = {StageName.discover: discovered(hosts)}
    takeover = Takeover(run, [replace(STAGE, needs=(), probe_host=look_at)], lister=_only(host))
    takeover.begin({})
    _look(takeover, host)
    takeover.settle(STAGE.name)
    barred = takeover.plan_stage(STAGE.name).barred
    assert barred == (), barred
    takeover.make_plan()
    takeover.reconcile()
    takeover.approve(None, everything=True, who="test")
    takeover.enter(STAGE.name)
    takeover.apply_account(STAGE.name)
    takeover.work_host(STAGE.name, host.instance_id)
    _look(takeover, host)
    takeover.prove(STAGE.name)
    facts = run.facts[StageName.repair][host.instance_id]
    assert isinstance(facts, RepairFacts)
    is_right(facts, host.instance_id)
    takeover.end("Completed")
    ledger.close()


def _only(host: Host) -> Callable[[object], Sequence[Host]]:
    return lambda run: [host]


def _look(takeover: Takeover, host: Host) -> None:
    takeover.look_account(STAGE.name)
    takeover.look_host(STAGE.name, host.instance_id)


def _undo(hosts: Hosts, name: str, url: str) -> None:
    """Of all that runs did, the last one first."""
    config, host, ledger = load_config(hosts.info.config_path), hosts.host(name), Ledger(url)
    for row in reversed(ledger.runs(host.account)):
        if row.mode == "apply":
            undoing = open_undo(
                config, row.run, approved=True, stages=[STAGE], opener=open_host, ledger=ledger
            )
            undoing.begin("test")
            undoing.act_on_host(host.instance_id)
            undoing.end(undoing.outcome())
            assert undoing.outcome() in ("Undone", "NothingToUndo"), undoing.steps
    ledger.close()
