"""What hosts cost by their number: one run of the real flow each, over an emulated region of simulated hosts.

Nothing is approved in it, so nothing is changed: every host is looked at in three stages and judged by the
gates of all six, which is what a scheduled run does.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from haltuun.cli import server
from haltuun.config import load_config
from haltuun.ledger import Ledger
from haltuun.model import StageName, Verdict
from lab.calls import reads, seen_calls
from lab.crowd import cloud_of, make_crowd

SIZES = (100, 1_000, 10_000)
MOST_MB = 1024
# Of CPU time, which other work on the machine moves less than the clock's; what starting costs lowers it.
STEEPEST = 1.1
MOST_READS = 12  # of AWS that fifty hosts more may cost, where nothing is changed
LOOKED_IN = (StageName.discover, StageName.verify, StageName.repair)  # the stages that look at each host
ENDED = {"COMPLETED", "FAILED"}  # held hosts are red
MOST_HELD = 0.25  # of all hosts, at one stage's gate: with more, what comes after it is not measured
RECORDED_WITHIN_S = 300.0  # the server takes what it was told in turns, for a while after the run
PAGE = 200  # of Prefect's API
OWNERS = ("Prefect", "GX", "Haltuun", "AWS calls", "other")


@dataclass(frozen=True)
class Sample:
    """One run. `shares_s` are seconds of CPU of the worker; `server_s` of the Prefect server beside it."""

    hosts: int
    seconds: float
    cpu_s: float
    shares_s: dict[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0
    server_s: float = 0.0
    reads: int = 0
    state: str = ""
    task_runs: Counter[str] = field(default_factory=Counter)  # by the type of their state
    looked: dict[str, Counter[str]] = field(default_factory=dict)  # stage → host → task runs that looked
    judged: dict[str, Counter[str]] = field(default_factory=dict)  # stage → host → task runs with its verdict
    held: dict[str, int] = field(default_factory=dict)  # stage → hosts that its gate holds


def broken(sample: Sample, before: Sample | None = None) -> list[str]:
    """What of the promises to large accounts this run did not keep, in sentences; `before` is of fewer hosts.
    Pure."""
    of = f"With {sample.hosts:,} hosts"
    told = []
    if sample.state != "AwaitingApproval":
        told.append(f"{of} the run ended as {sample.state}, not as AwaitingApproval.")
    unended = sum(n for state, n in sample.task_runs.items() if state not in ENDED)
    if unended:
        told.append(f"{of} {unended} of {sample.task_runs.total()} task runs are not recorded as ended.")
    for what, stages, counted in (
        ("looked at", LOOKED_IN, sample.looked),
        ("judged", tuple(StageName), sample.judged),
    ):
        for stage in stages:
            hosts = counted.get(stage.value, Counter())
            if len(hosts) != sample.hosts or hosts.total() != sample.hosts:
                told.append(
                    f"{of} {stage.value} has {hosts.total():,} task runs in which a host was {what},"
                    f" of {len(hosts):,} hosts."
                )
    told += [
        f"{of} {stage} holds {held:,}: what comes after it was measured for the others alone."
        for stage, held in sample.held.items()
        if held > MOST_HELD * sample.hosts
    ]
    if sample.peak_mb >= MOST_MB:
        told.append(f"{of} the worker took {sample.peak_mb:.0f} MB; {MOST_MB} are promised.")
    return told + ([] if before is None else _outgrown(sample, before))


def _outgrown(sample: Sample, before: Sample) -> list[str]:
    told = []
    grown = f"From {before.hosts:,} to {sample.hosts:,} hosts"
    steep = slope(before, sample)
    if steep > STEEPEST:
        told.append(f"{grown} the worker's CPU time grows with slope {steep:.2f}; 1 is linear.")
    each = 50 * (sample.reads - before.reads) / (sample.hosts - before.hosts)
    if each > MOST_READS:
        told.append(f"{grown} fifty more cost {each:.1f} AWS reads; {MOST_READS} are promised.")
    return told


def scale(sizes: Sequence[int] = SIZES) -> Iterator[Sample]:
    for hosts in sizes:
        with tempfile.TemporaryDirectory() as folder, _prefect(Path(folder)) as (url, pid):
            yield _sample(Path(folder), url, pid, hosts)


def _sample(folder: Path, url: str, pid: int, hosts: int) -> Sample:
    with cloud_of("111122223333") as endpoint_url:
        crowd = make_crowd(endpoint_url, "111122223333", hosts)
        crowd.write(folder)
        environment = {**os.environ, **crowd.env, **server.client_environment(folder / "state", url)}
        before_s, before = _cpu_s(pid), seen_calls(endpoint_url)
        command = [sys.executable, "-m", "lab.crowd_takeover", str(folder), "apply"]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        rows = _task_runs(url)
        return Sample(
            hosts=hosts,
            task_runs=Counter(row["state_type"] for row in rows),
            looked=_by_stage(rows, "look {stage} "),
            judged=_by_stage(rows, "{stage} "),
            held=_held(folder),
            server_s=_cpu_s(pid) - before_s,
            reads=reads(seen_calls(endpoint_url) - before).total(),
            **told,
        )


def _held(folder: Path) -> dict[str, int]:
    """By the ledger: a task run of many hosts is red for one of them."""
    config = load_config(folder / "haltuun.yaml")
    ledger = Ledger(config.ledger_url)
    try:
        found = ledger.status(config.accounts[0].id)
    finally:
        ledger.close()
    held = Counter(
        stage.value
        for stages in found.values()
        for stage, status in stages.items()
        if status.verdict is Verdict.held
    )
    return dict(held)


def _task_runs(url: str) -> list[dict[str, Any]]:
    """Those that the server knows, when all of them have ended and no more come, or it has had its time."""
    deadline = time.monotonic() + RECORDED_WITHIN_S
    before = -1
    while True:
        rows: dict[str, dict[str, Any]] = {}  # by id: while more come, a page may repeat some
        offset = 0
        while page := _post(url, "task_runs/filter", {"sort": "ID_DESC", "limit": PAGE, "offset": offset}):
            rows.update((row["id"], row) for row in page)
            offset += len(page)
        ended = all(row["state_type"] in ENDED for row in rows.values())
        if (ended and len(rows) == before) or time.monotonic() > deadline:
            return list(rows.values())
        before = len(rows)
        time.sleep(1)


def _post(url: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with server.opener(url).open(request, timeout=60) as answer:
        return json.load(answer)


def _by_stage(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Counter[str]]:
    """Stage → host → how many task runs named so were about it, by their tags. Pure."""
    return {
        stage.value: Counter(
            tag
            for row in rows
            if row["name"].startswith(name.format(stage=stage.value))
            for tag in row["tags"]
            if tag.startswith("host:")
        )
        for stage in StageName
    }


@contextmanager
def _prefect(folder: Path) -> Iterator[tuple[str, int]]:
    """Its API's address and its process."""
    state_dir = folder / "state"
    url = server.start(state_dir)
    try:
        yield url, server.process_of(state_dir)
    finally:
        server.stop(state_dir)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def scale_table(samples: Sequence[Sample]) -> Table:
    """The slope is of the worker's CPU time against the row before: 1 is as many times more as hosts."""
    made = Table(box=None, pad_edge=False, title="one run over an account, by its hosts")
    for title in (
        "hosts",
        "seconds",
        "worker's CPU",
        "slope",
        *OWNERS,
        "server's CPU",
        "memory",
        "AWS reads",
    ):
        made.add_column(title, justify="right", no_wrap=True)
    before: Sample | None = None
    for one in samples:
        whole = sum(one.shares_s.values()) or 1.0
        made.add_row(
            f"{one.hosts:,}",
            f"{one.seconds:.0f}",
            f"{one.cpu_s:.0f} s",
            f"{slope(before, one):.2f}" if before else "",
            *(f"{100 * one.shares_s.get(owner, 0.0) / whole:.0f} %" for owner in OWNERS),
            f"{one.server_s:.0f} s",
            f"{one.peak_mb:.0f} MB",
            f"{one.reads:,}",
        )
        before = one
    return made


def slope(before: Sample, after: Sample) -> float:
    return math.log(after.cpu_s / before.cpu_s) / math.log(after.hosts / before.hosts)
