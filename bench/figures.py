"""What needs neither root nor a lab: gate, ledger, AWS calls, diagnosis."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import boto3

from bench.measure import Figure, compare
from haltuun.aws import Aws
from haltuun.clock import Clock
from haltuun.config import AccountConfig
from haltuun.gates import Check, Row, evaluate, evaluate_plainly
from haltuun.ledger import Ledger
from haltuun.model import StageName
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.repair.bundle import read_bundle
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.offline import read_agent
from lab.cloud.server import CloudServer

ACCOUNT, REGION = "111122223333", "eu-central-1"
ROWS = 1000
CALLS = 50
LOG_BYTES = 200_000_000


def gate() -> Figure:
    """Great Expectations over 1,000 hosts, 3 % of the values wrong and 1 % unknown."""
    checks = [
        check
        for i in range(4)
        for check in (
            _check(f"is_{i}", "in_set", values=(True,)),
            _check(f"state_{i}", "in_set", values=("Online",)),
            _check(f"age_h_{i}", "between", low=0, high=24),
        )
    ]
    checks += [_check(f"version_{i}", "match", pattern=r"\d+\.\d+") for i in range(2)]
    chance = random.Random(7)
    good: dict[str, str | float | bool] = {
        "is": True,
        "state": "Online",
        "age_h": 3.5,
        "version": "3.3.1142.0",
    }
    bad: dict[str, str | float | bool] = {
        "is": False,
        "state": "ConnectionLost",
        "age_h": 90.0,
        "version": "unversioned",
    }

    def value(column: str) -> str | float | bool | None:
        kind, drawn = column.rpartition("_")[0], chance.random()
        return None if drawn < 0.01 else (bad if drawn < 0.04 else good)[kind]

    rows: dict[str, Row] = {
        f"i-{n:017x}": {check.column: value(check.column) for check in checks} for n in range(ROWS)
    }
    hosts = list(rows)
    return compare(
        f"gate: {len(checks)} checks, {ROWS} hosts",
        lambda: evaluate(hosts, rows, checks),
        "plain evaluator",
        lambda: evaluate_plainly(hosts, rows, checks),
        rounds=5,
        amount=ROWS,
        unit="hosts",
    )


def _check(column: str, op: str, **more: object) -> Check:
    given = {"column": column, "op": op, "code": "HELD", "message": "is {value}", "remedy": "look", **more}
    return Check.model_validate(given)


def ledger() -> Figure:
    """Facts of 1,000 hosts as they are written after a stage, each time in one transaction on disk."""
    facts = {
        f"i-{n:017x}": DiscoverFacts(
            state="running",
            platform="linux",
            os_id="ubuntu",
            os_version="22.04",
            private_ip=f"10.0.{n >> 8}.1",
        )
        for n in range(ROWS)
    }
    at = datetime(2026, 1, 5, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ledger(f"sqlite:///{folder}/ledger.db")
        bare = sqlite3.connect(f"{folder}/bare.db")
        bare.execute("pragma journal_mode = wal")
        bare.execute("create table o (account, run, host, stage, phase, at, body)")

        def peer() -> None:
            rows = [
                (ACCOUNT, "run", host, "discover", "plan", at.isoformat(), one.model_dump_json())
                for host, one in facts.items()
            ]
            with bare:
                bare.executemany("insert into o values (?, ?, ?, ?, ?, ?, ?)", rows)

        figure = compare(
            f"ledger: {ROWS} observations",
            lambda: ours.observed(ACCOUNT, "run", StageName.discover, "plan", facts, at),
            "sqlite3 executemany",
            peer,
            rounds=9,
            amount=ROWS,
            unit="rows",
        )
        bare.close()
        ours.close()
    return figure


def aws_call() -> Figure:
    """Small reads; the account is emulated in this process and takes most of the time of both."""
    with CloudServer(ACCOUNT) as server, _environment(AWS_ENDPOINT_URL=server.endpoint_url):
        aws = Aws(AccountConfig(id=ACCOUNT, regions=[REGION]), Clock(), read_only=True)
        client = boto3.client("ssm", region_name=REGION)

        def ours() -> None:
            for _ in range(CALLS):
                aws.call("ssm", "DescribeInstanceInformation", REGION)

        def peer() -> None:
            for _ in range(CALLS):
                client.describe_instance_information()

        return compare(
            "AWS call to a local endpoint",
            ours,
            "bare boto3 client",
            peer,
            rounds=9,
            amount=CALLS,
            unit="call",
        )


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    known = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "none", **values}
    before = {name: os.environ.get(name) for name in known}
    os.environ.update(known)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def agent_log() -> Figure:
    """One start that goes on for 200 MB, every third line of which is a fault: the hardest log there is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "amazon-ssm-agent.log")
        size = _write_log(path)
        peak = _peak_mb(path)

        def peer() -> int:
            with path.open("rb") as log:
                return sum(b"identity" in line for line in log)

        return compare(
            f"diagnosis of a log ({peak:.0f} MB of memory)",
            lambda: diagnose(read_agent(read_bundle(path))),
            "loop over its lines",
            peer,
            rounds=3,
            amount=size / 1e6,
            unit="MB",
        )


# Of the process itself: what a parent is told of its child includes the moment before its start.
_DIAGNOSE = """
import re, sys
from pathlib import Path
from haltuun.cli.diagnose import diagnose_files
diagnose_files(Path(sys.argv[1]), as_json=True)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


def _peak_mb(path: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _DIAGNOSE, str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stderr) / 1024


def _write_log(path: Path) -> int:
    """The size in bytes."""
    story = "\n".join(_log_lines()) + "\n"
    with path.open("w") as log:
        log.write(story.split("\n", 1)[0] + "\n")
        while log.tell() < LOG_BYTES:
            log.write(story.replace("Proxy environment variables:", "No second start:"))
        return log.tell()


def _log_lines() -> list[str]:
    said = (
        "INFO Proxy environment variables:",
        "INFO https_proxy: ",
        "INFO no_proxy: ",
        "INFO Checking if agent identity type OnPrem can be assumed",
        "INFO Agent will take identity from OnPrem",
        "INFO [amazon-ssm-agent] amazon-ssm-agent - v3.3.1142.0",
        *("INFO [ssm-agent-worker] [HealthCheck] HealthCheck reporting agent health.",) * 12,
        "ERROR [ssm-agent-worker] [MessageService] error calling RequestManagedInstanceRoleToken API",
        "\tstatus code: 400, request id: 0f6e1b3c-0000-4000-8000-000000000000",
    )
    lines: list[str] = []
    size = 0
    while size < 1_000_000:
        second = len(lines) // len(said) % 60
        for text in said:
            lines.append(text if text[0] == "\t" else f"2026-11-02 04:17:{second:02d}.1234 {text}")
            size += len(lines[-1]) + 1
    return lines


FIGURES = (gate, ledger, aws_call, agent_log)
