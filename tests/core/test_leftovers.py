"""Whose flow runs the next run tells as crashed."""

from __future__ import annotations

from datetime import UTC, datetime

from haltuun.ledger import RunRow
from tasks.leftovers import dead_runs

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def row(name: str, ended: bool, mode: str = "apply") -> RunRow:
    at = NOW if ended else None
    return RunRow(
        run=name, account="111122223333", started_at=NOW, ended_at=at, mode=mode, outcome="", body={}
    )


def test_a_killed_run_is_found_whatever_ended_since() -> None:
    runs = [row("killed", False), row("plan", False, "plan"), row("failed", True), row("own", False)]
    assert [run.run for run in dead_runs(runs, "own")] == ["killed"]
