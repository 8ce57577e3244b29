"""A worker that the machine puts to sleep past its lease wakes to an account that is another's."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from haltuun.ledger import Ledger
from tests.core.test_engine import ACCOUNT, World, account, go, ledger, start

__all__ = ["account", "ledger"]  # fixtures

# Says whom it changes; it stops itself as SIGSTOP does, between its look at the third host and the change.
WORKER = """
import os, signal, sys
from moto import mock_aws
from haltuun.errors import LeaseLost
from haltuun.ledger import Ledger
from tests.core.test_engine import NAMES, World, go, start

class Falls(dict):
    awake = True
    def __getitem__(self, host):
        if not self.awake and host == NAMES[2]:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().__getitem__(host)

class Said(list):
    def append(self, change):
        print(change, flush=True)

with mock_aws():
    world = World()
    world.switch, world.calls = Falls(world.switch), Said()
    takeover = start(world, Ledger(sys.argv[1]))
    takeover.approve(None, everything=True, who="me")
    world.switch.awake = False
    try:
        go(takeover)
    except LeaseLost as error:
        print("stopped:", error.code, flush=True)
"""


def test_stopped_past_its_lease_and_woken_it_changes_nothing(ledger: Ledger, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, url], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert worker.stdout is not None
        before = [worker.stdout.readline().strip() for _ in range(3)]
        _await_stopped(worker.pid)
        _let_the_lease_run_out(tmp_path / "ledger.db")
        world = World()
        world.switch.update(dict.fromkeys(before, "on"))
        world.shared = "on"
        takeover = start(world, ledger)
        takeover.approve(None, everything=True, who="you")
        assert go(takeover) == "Done"
        told = ledger.change_events(ACCOUNT)
        os.kill(worker.pid, signal.SIGCONT)
        rest = worker.communicate(timeout=60)[0].splitlines()
    finally:
        worker.kill()
        worker.wait()
    assert before == ["shared", *sorted(world.hosts)[:2]]
    assert rest == ["stopped: LEASE_LOST"]
    assert ledger.change_events(ACCOUNT) == told


def _await_stopped(pid: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "it did not stop"
        time.sleep(0.02)


def _let_the_lease_run_out(path: Path) -> None:
    """As an hour of sleep does; nobody else writes now."""
    with sqlite3.connect(path) as database:
        database.execute("update leases set expires_at = '2020-01-01 00:00:00.000000'")
