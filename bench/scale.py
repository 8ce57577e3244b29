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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from haltuun.cli import server
from lab.calls import reads, seen_calls
from lab.crowd import cloud_of, make_crowd

SIZES = (100, 1_000, 10_000)
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
        told.pop("state")
        return Sample(
            hosts=hosts,
            server_s=_cpu_s(pid) - before_s,
            reads=reads(seen_calls(endpoint_url) - before).total(),
            **told,
        )


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
    """The slope is of the time against the row before: 1 is as many times longer as more hosts."""
    made = Table(box=None, pad_edge=False, title="one run over an account, by its hosts")
    for title in (
        "hosts",
        "seconds",
        "slope",
        "worker's CPU",
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
            f"{_slope(before, one):.2f}" if before else "",
            f"{one.cpu_s:.0f} s",
            *(f"{100 * one.shares_s.get(owner, 0.0) / whole:.0f} %" for owner in OWNERS),
            f"{one.server_s:.0f} s",
            f"{one.peak_mb:.0f} MB",
            f"{one.reads:,}",
        )
        before = one
    return made


def _slope(before: Sample, after: Sample) -> float:
    return math.log(after.seconds / before.seconds) / math.log(after.hosts / before.hosts)
