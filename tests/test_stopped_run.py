"""A run on a real Prefect server is stopped, by Ctrl-C and as a cancel in its UI does: the host in hand is
finished, and no other is begun."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from haltuun.cli.interrupt import EXIT_INTERRUPTED
from haltuun.effects import open_changes
from haltuun.ledger import Ledger
from tests import inside
from tests.core.test_engine import ACCOUNT, NAMES
from tests.prefect_fixtures import PROJECT, PrefectServer

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(300)]

# The first of a wave whose three hosts share a task run.
IN_HAND = NAMES[3]
# `haltuun takeover` over the engine's little stages: a host in hand waits until it is told to go on.
COMMAND = """
import sys, time
from pathlib import Path

from moto import mock_aws

from flows import takeover
from haltuun import stopping
from haltuun.cli import main
from haltuun.model import Host
from tests.core.test_engine import ACCOUNT, World, make_stages

class Waits(list):
    def append(self, change):
        if change == IN_HAND:
            Path("in-hand").touch()
            while not Path("go-on").exists():
                time.sleep(0.02)
                try:
                    stopping.heed()
                except KeyboardInterrupt:
                    Path("asked").touch()

IN_HAND = sys.argv.pop()
world = World()
world.calls = Waits()
takeover.STAGES = make_stages(world)
hosts = [Host(account=ACCOUNT, region="eu-central-1", instance_id=host) for host in world.hosts]
takeover.list_hosts = lambda run: hosts
takeover.TASK_RUNS_PER_STAGE = 2
with mock_aws():
    main()
"""


@pytest.mark.parametrize(
    ("sent", "code", "told"),
    [
        (signal.SIGINT, EXIT_INTERRUPTED, "haltuun: stopped. The ledger holds what was done"),
        (signal.SIGTERM, -signal.SIGTERM, ""),  # which Prefect's worker sends, and tells of by itself
    ],
    ids=["Ctrl-C", "cancelled"],
)
def test_the_host_in_hand_is_finished_and_retry_knows_that_the_others_had_no_turn(
    prefect_server: PrefectServer, tmp_path: Path, sent: signal.Signals, code: int, told: str
) -> None:
    account = {"id": ACCOUNT, "alias": "acme", "regions": ["eu-central-1"], "ssh": {"config": None}}
    (tmp_path / "haltuun.yaml").write_text(yaml.safe_dump({"state_dir": "state", "accounts": [account]}))
    environment = prefect_server.environment(
        {
            "PYTHONPATH": str(PROJECT),
            "HALTUUN_CONFIG": str(tmp_path / "haltuun.yaml"),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
    )
    run = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "takeover", "acme", "--yes", IN_HAND],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in a shell's background, it is ignored there and would be here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        _await(tmp_path / "in-hand", run)
        run.send_signal(sent)
        _await(tmp_path / "asked", run)
        (tmp_path / "go-on").touch()
        out, err = run.communicate(timeout=120)
    finally:
        run.kill()
        run.wait()
    assert (run.returncode, out) == (code, ""), err
    assert told in err and "Traceback" not in err
    assert ("stopping when what is under way on a host has ended" in err) is bool(told)

    ledger = Ledger(f"sqlite:///{tmp_path}/state/ledger.db")
    events = ledger.change_events(ACCOUNT)
    ended = {event.change.target: event.event for event in events if event.change.kind == "switch"}
    (last,) = ledger.runs(ACCOUNT)
    ledger.release_lease(ledger.take_lease(ACCOUNT, "the next one"))
    ledger.close()
    assert ended == dict.fromkeys(NAMES[:4], "confirmed") and open_changes(events) == []
    assert last.outcome == "Stopped"
    retry = inside.call(environment, tmp_path, "retry", "acme")
    assert "nothing to retry" in retry.stdout
    assert f"Run {last.run} was stopped: not every host had its turn. To go on: haltuun takeover acme" in (
        retry.stderr
    )


def _await(file: Path, run: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < deadline, f"no {file.name}"
        try:
            run.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(run.communicate())
