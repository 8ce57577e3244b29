"""An emulated account in a process of its own, for all tests of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.scenario import load_scenario
from tests.cli.kit import ACCOUNT, ALIAS, REGION, Cli
from tests.prefect_fixtures import PrefectServer

SCENARIO = f"""
name: cli
account_id: "{ACCOUNT}"
alias: {ALIAS}
region: {REGION}
hosts:
  - {{name: sound, os: ubuntu-22.04, launched: 2023-02-14T09:12:00Z}}
  - {{name: silent, os: ubuntu-22.04, agent: none, launched: 2023-03-14T09:12:00Z}}
"""


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The account's address, and host name → instance id."""
    folder = tmp_path_factory.mktemp("cli-account")
    scenario = folder / "scenario.yaml"
    scenario.write_text(SCENARIO)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_"))}
    with (folder / "account.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.cloud.server", "--seed-scenario", str(scenario)],
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url, (folder / "account.log").read_text()
        yield url, {host.name: host.instance_id for host in load_scenario(scenario).hosts}
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def cli(endpoint: tuple[str, dict[str, str]], tmp_path: Path) -> Cli:
    """Ends early: no Prefect server answers here."""
    url, instances = endpoint
    made = Cli(tmp_path, url, instances)
    _write_key(tmp_path / "key.pem")
    made.write()
    return made


@pytest.fixture(scope="module")
def running(
    endpoint: tuple[str, dict[str, str]],
    prefect_server: PrefectServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Cli:
    """One folder and ledger for a module's runs, against a real Prefect server."""
    url, instances = endpoint
    folder = tmp_path_factory.mktemp("cli-runs")
    environment = prefect_server.environment()
    prefect = {name: value for name, value in environment.items() if name.startswith(("PREFECT_", "DO_NOT"))}
    made = Cli(folder, url, instances, prefect)
    _write_key(folder / "key.pem")
    made.write()
    return made


def _write_key(path: Path, passphrase: str = "") -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
