"""Whose flow runs the next run tells as crashed."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from uuid import uuid4

from prefect.client.schemas.objects import FlowRun
from prefect.states import Pending, Running, State

from haltuun.ledger import RunRow
from haltuun.processes import machine, process
from tasks.leftovers import ACCOUNT, MACHINE, PROCESS, RUN_COUNT, begun_anew, dead_runs, is_dead

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def row(name: str, ended: bool, mode: str = "apply") -> RunRow:
    at = NOW if ended else None
    return RunRow(
        run=name, account="111122223333", started_at=NOW, ended_at=at, mode=mode, outcome="", body={}
    )


def test_a_killed_run_is_found_whatever_ended_since() -> None:
    runs = [row("killed", False), row("plan", False, "plan"), row("failed", True), row("own", False)]
    assert [run.run for run in dead_runs(runs, "own")] == ["killed"]


def flow_run(pid_and_start: str, run_count: int, state: State, **labels: int) -> FlowRun:
    """One whose labels are of its first beginning, unless they say another."""
    whose = {ACCOUNT: "111122223333", MACHINE: machine(), PROCESS: pid_and_start, RUN_COUNT: 1}
    return FlowRun(flow_id=uuid4(), state=state, run_count=run_count, labels={**whose, **labels})


def test_a_run_that_was_begun_again_is_not_told_by_the_labels_of_its_dead_process() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, living = f"{ended.pid} 1", process(os.getpid())

    def is_told(*of: object) -> bool:
        return is_dead(flow_run(*of), "111122223333")  # type: ignore[arg-type]

    assert is_told(dead, 1, Running())
    assert not is_told(dead, 1, Pending()), "it waits to be begun again"
    assert not is_told(dead, 2, Running()), "it was, and has not labelled itself yet"
    assert not is_told(living, 1, Running())
    again = flow_run(dead, 2, Running(), **{RUN_COUNT: 2})
    assert not begun_anew(again) and is_dead(again, "111122223333"), "killed once more"
    assert not is_dead(again, "444455556666")


def test_a_run_that_never_labelled_itself_is_not_known_to_be_begun_again() -> None:
    assert not begun_anew(FlowRun(flow_id=uuid4(), state=Pending(), run_count=0))
