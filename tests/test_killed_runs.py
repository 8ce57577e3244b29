"""Runs of killed processes on a real Prefect server: the next run of the account tells them, and no other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.prefect_fixtures import PROJECT, PrefectServer

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(600)]

ACCOUNT, OTHER = "111122223333", "444455556666"
# What each of Haltuun's flows does first; then it waits where the process is killed, or ends at once.
FLOWS = """
import json, sys

from prefect import flow, runtime

from tasks.leftovers import take_up

parent, child, account, then = sys.argv[1:]
ids = []

def begun(of):
    take_up(of)
    ids.append(str(runtime.flow_run.id))

@flow(name=child)
def inner():
    begun(account)
    deepest()

@flow(name="stage")
def deepest():
    ids.append(str(runtime.flow_run.id))
    print(json.dumps(ids), flush=True)
    if then == "wait":
        sys.stdin.read()

@flow(name=parent)
def outer():
    begun("several" if parent == "onboard-accounts" else account)
    inner()

outer()
"""


@contextmanager
def working(
    server: PrefectServer, folder: Path, parent: str, child: str, account: str
) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of its flow; killed -9 at the end."""
    command = [sys.executable, "-c", FLOWS, parent, child, account, "wait"]
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env=server.environment({"PYTHONPATH": str(PROJECT)}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "errors").open("ab"),
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def ids_of(process: subprocess.Popen[str]) -> list[str]:
    """Of its flow runs, once all of them run."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process ended before it was in its flow"
    return list(json.loads(line))


def test_the_next_run_of_the_account_tells_those_whose_process_is_gone_and_no_other(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    def states(ids: list[str]) -> set[str]:
        return {prefect_server.get(f"flow_runs/{one}")["state_type"] for one in ids}

    def begin(parent: str, child: str, account: str) -> list[str]:
        with working(prefect_server, tmp_path, parent, child, account) as process:
            ids = ids_of(process)
            assert states(ids) == {"RUNNING"}
        return ids

    with working(prefect_server, tmp_path, "retry-hosts", "take-over-account", ACCOUNT) as living:
        alive = ids_of(living)
        retried = begin("retry-hosts", "take-over-account", ACCOUNT)
        onboarding, *others = begin("onboard-accounts", "take-over-account", OTHER)
        again = begin("undo-run", "take-over-account", ACCOUNT)  # the run that comes after them
        assert states([*retried, onboarding]) == {"CRASHED"}
        assert states([*alive, *others]) == {"RUNNING"}  # others: of the other account's next run to tell
        assert states(again) == {"RUNNING"}
        message = prefect_server.get(f"flow_runs/{retried[0]}")["state"]["message"]
        assert message == "Its process was killed."
