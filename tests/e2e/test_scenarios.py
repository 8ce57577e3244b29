"""The other scenarios: each host comes to the end that its fault is meant for, and no further."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from haltuun.errors import EXIT_HELD
from haltuun.ledger import Ledger
from lab import api
from lab.expectation import surprises
from lab.scenario import load_scenario
from tests.prefect_fixtures import PrefectServer

pytestmark = [
    pytest.mark.lab,
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.timeout(1200),
]

HALTUUN = str(Path(sys.executable).with_name("haltuun"))
SCENARIOS = api.DEMO_SCENARIO.parent
# Kinds of changes that a host which is held may get all the same: evidence, and its backup.
HARMLESS = {"ec2.snapshot.evidence", "ec2.tag", "backup.job", "backup.arm"}


@pytest.mark.parametrize("which", ["full", "dhmc", "hardened"])
def test_every_host_comes_to_its_end(which: str, prefect_server: PrefectServer, tmp_path: Path) -> None:
    scenario = load_scenario(SCENARIOS / f"{which}.yaml")
    name = f"{which}-{os.getpid()}"
    try:
        info = api.up(SCENARIOS / f"{which}.yaml", out=tmp_path, name=name)
        done = subprocess.run(
            [HALTUUN, "takeover", scenario.alias, "--yes", "--json"],
            env=prefect_server.environment(info.env),
            capture_output=True,
            text=True,
            timeout=900,
        )
    finally:
        api.down(name, keep_out=True)
    assert done.returncode == EXIT_HELD, done.stderr
    assert surprises(scenario, json.loads(done.stdout)) == []
    ledger = Ledger(f"sqlite:///{tmp_path}/state/ledger.db")
    untouchable = {
        info.hosts[host.name]["instance_id"]
        for host in scenario.hosts
        if host.name in info.hosts and host.expect.get("verify", "").startswith("held")
    }
    for event in ledger.change_events(info.account_id):
        if set(event.change.hosts) & untouchable and len(event.change.hosts) == 1:
            assert event.change.kind in HARMLESS, event.change.summary
