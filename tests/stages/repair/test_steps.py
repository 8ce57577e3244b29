"""Every step of every script that changes a host: cut off there, killed there, and gone on from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.stages.repair.host_kit import Hosts, lab_of
from tests.stages.repair.pairs import Case
from tests.stages.repair.steps import ENDED, Alone, Step, Walker

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.timeout(7200)]

# Each on a host of its own. Together they have every action that a lab's host can need, and so every undo.
CASES = (
    Case("stale", "systemd", "running"),
    Case("does not clear", "systemd", "running"),
    Case("named twice", "systemd", "running"),
    Case("not restarted", "systemd", "running"),
    Case("missing and stale", "systemd", "stopped"),
    Case("none", "systemd", "not enabled"),
    Case("stale", "upstart", "stopped and disabled"),
)
FORTH = {"clear", "aside", "config", "restart", "credentials", "install"}
BACK = {"state", "restore", "remove"}
SYSTEMS = {"systemd": "ubuntu-18.04", "upstart": "ubuntu-14.04"}
AT_ONCE = 4
# Of each run, by far: with fewer the gate has missed most.
STEPS = 10
# The last steps of a run that now and then has one less.
MISSED = 2
# A script does not notice that nobody listens, so these stand for all: of them every step is cut off.
CUT_OFF = (CASES[0], CASES[4])

SCENARIO = """\
name: steps
account_id: "333344445555"
region: eu-west-1
hosts:
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    rows = "".join(
        f"  - {{name: steps-{n}, os: {SYSTEMS[case.init]}, agent: stale}}\n" for n, case in enumerate(CASES)
    )
    with lab_of(SCENARIO + rows, tmp_path_factory.mktemp("steps"), f"steps-{os.getpid()}") as lab:
        yield lab


def _shared_out(alone: list[Alone]) -> list[list[Step]]:
    """Of each run some of its steps, of all runs all: what several actions do (saving, say) is one step, and
    is walked in one of them, the next in another."""
    runs: dict[tuple[str, int], list[tuple[int, Step]]] = {}
    for n, run in enumerate(alone):
        often: Counter[str] = Counter()
        for step in run.steps:
            often[step.command] += 1
            runs.setdefault((step.command, often[step.command]), []).append((n, step))
    mine: list[list[Step]] = [[] for _ in alone]
    for turn, having in enumerate(runs.values()):
        n, step = having[turn % len(having)]
        mine[n].append(step)
    return [sorted(steps, key=lambda step: step.number) for steps in mine]


@pytest.mark.parametrize("back", [False, True], ids=["forth", "back"])
def test_at_each_step_it_goes_on_from_there(hosts: Hosts, tmp_path: Path, back: bool) -> None:
    """Killed or rebooted, alone or with the run, at each that is not like another."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        walkers = [Walker(hosts, f"steps-{n}", case, tmp_path, back) for n, case in enumerate(CASES)]
        alone = list(pool.map(Walker.alone, walkers))
        assert all(len(run.steps) > STEPS for run in alone), [len(run.steps) for run in alone]
        assert {step.action for run in alone for step in run.steps} >= (BACK if back else FORTH)
        walks = [pool.submit(_walk, *one) for one in zip(walkers, alone, _shared_out(alone), strict=True)]
        wrong = [error for walk in walks if isinstance(error := walk.exception(), Exception)]
        if wrong:
            raise ExceptionGroup("what came of the walks", wrong)


def _walk(walker: Walker, alone: Alone, steps: list[Step]) -> None:
    if walker.case in CUT_OFF:
        walker.disturbed(alone)
    missed = [
        step
        for n, step in enumerate(steps)
        if not walker.ended(alone, step, ENDED[n % 2], run_dies=n % 4 < 2)
    ]
    assert len(missed) <= MISSED, missed
