"""A thousand hosts are no different from ten: through a real Prefect server, over an emulated region."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.takeover import TASK_RUNS_PER_STAGE
from haltuun.effects import open_changes
from haltuun.ledger import Ledger
from haltuun.model import Verdict
from lab.calls import reads, seen_calls
from lab.cloud.seeding import steer
from lab.crowd import ALIAS, cloud_of, make_crowd
from tests.prefect_fixtures import PrefectServer

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900)]

ACCOUNT = "111122223333"
FEW, MANY = 50, 1_000
CHANGED = 300
LOOKED_IN = ("discover", "verify", "repair")  # the stages that look at each host


@dataclass(frozen=True)
class Run:
    state: str
    peak_mb: float
    reads: Counter[str]
    task_runs: list[dict[str, Any]]


def take_over(server: PrefectServer, folder: Path, hosts: int, mode: str) -> Run:
    folder.mkdir()
    with cloud_of(ACCOUNT) as endpoint_url:
        crowd = make_crowd(endpoint_url, ACCOUNT, hosts)
        crowd.write(folder)
        steer(endpoint_url, "backup", completed_after_s=1.0)
        before = seen_calls(endpoint_url)
        done = subprocess.run(
            [sys.executable, "-m", "lab.crowd_takeover", str(folder), mode],
            env=server.environment(crowd.env),
            capture_output=True,
            text=True,
            timeout=840,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        read = reads(seen_calls(endpoint_url) - before)
    newest = {"sort": "START_TIME_DESC", "limit": 1, "flows": {"name": {"any_": ["take-over-account"]}}}
    (run,) = server.post("flow_runs/filter", newest)
    ended = server.await_end(run["id"], deadline_s=60)
    return Run(told["state"], told["peak_mb"], read, server.task_runs(ended["id"]))


@pytest.fixture(scope="module")
def runs(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    made = tmp_path_factory.mktemp("crowds")
    return {hosts: take_over(prefect_server, made / str(hosts), hosts, "plan") for hosts in (FEW, MANY)}


def test_every_task_run_is_recorded_and_ended(runs: dict[int, Run]) -> None:
    for hosts, run in runs.items():
        assert run.state == "Planned"
        assert {row["state_type"] for row in run.task_runs} == {"COMPLETED"}
        for stage in LOOKED_IN:
            tags = {f"account:{ALIAS}", f"stage:{stage}"}
            looks = [row for row in run.task_runs if tags <= set(row["tags"])]
            seen = [tag for row in looks for tag in row["tags"] if tag.startswith("host:")]
            assert len(seen) == len(set(seen)) == hosts, stage
            assert len(looks) <= TASK_RUNS_PER_STAGE


def test_it_stays_within_a_gigabyte(runs: dict[int, Run]) -> None:
    assert runs[MANY].peak_mb < 1024


def test_fifty_hosts_more_cost_at_most_twelve_reads(runs: dict[int, Run]) -> None:
    grown = runs[MANY].reads - runs[FEW].reads
    assert grown.total() <= 12 * (MANY - FEW) / 50, grown


def test_a_run_that_changes_them_all_is_as_whole(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """Waves, changes, proofs and gates of each host: none is lost, and who is held is told as failed."""
    run = take_over(prefect_server, tmp_path / "changed", CHANGED, "approve")
    assert run.state == "PartiallyDone"
    assert run.peak_mb < 1024
    ledger = Ledger(f"sqlite:///{tmp_path}/changed/state/ledger.db")
    try:
        assert open_changes(ledger.change_events(ACCOUNT)) == []
        statuses = ledger.status(ACCOUNT)
    finally:
        ledger.close()
    assert len(statuses) == CHANGED
    verdicts = {host: {status.verdict for status in rows.values()} for host, rows in statuses.items()}
    assert sum(seen == {Verdict.passed} for seen in verdicts.values()) > 0.8 * CHANGED
    held = {host for host, seen in verdicts.items() if Verdict.held in seen}
    assert {row["state_type"] for row in run.task_runs} == {"COMPLETED", "FAILED"}
    failed = [_hosts(row) for row in run.task_runs if row["state_type"] == "FAILED"]
    assert held <= set().union(*failed) and all(hosts & held for hosts in failed)


def _hosts(row: dict[str, Any]) -> set[str]:
    return {tag.removeprefix("host:") for tag in row["tags"] if tag.startswith("host:")}
