"""AWS reads are batched: thirty hosts more cost a stage a few calls more."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from haltuun.stages import polling
from haltuun.stages.backup import STAGE as BACKUP
from haltuun.stages.base import Stage
from haltuun.stages.logs import STAGE as LOGS
from haltuun.stages.patch import STAGE as PATCH
from tests.stages.account_kit import World, ubuntu, world

FEW, MANY, SIDE_BY_SIDE = 5, 35, 10
# What is asked again and again while something goes on: each look costs one call, however many hosts wait.
LOOKS = {"ssm:ListCommands", "logs:FilterLogEvents", "backup:ListBackupJobs"}


@dataclass(frozen=True)
class Run:
    """What one run asked, and how long it took."""

    reads: Counter[str]
    took_s: float


def run(account: World, stage: Stage, mode: str) -> Run:
    """Look, plan, and where it applies change, prove and judge."""
    begun_s = time.monotonic()
    takeover = account.start(stage, mode=mode)
    if mode == "apply":
        takeover.approve(None, everything=True, who="test")
        for name in takeover.stages:
            takeover.enter(name)
            takeover.apply_account(name)
            for wave in takeover.waves(name):
                with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
                    list(pool.map(partial(takeover.work_host, name), wave))
            takeover.look_account(name)
            takeover.prove(name)
            takeover.gate(name)
    takeover.end(takeover.outcome() if mode == "apply" else "Planned")
    return Run(
        Counter(f"{c.service}:{c.operation}" for c in takeover.run.aws.calls if not c.mutating),
        time.monotonic() - begun_s,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [pytest.param(PATCH, marks=pytest.mark.soak), pytest.param(BACKUP, marks=pytest.mark.soak), LOGS],
    ids=lambda stage: stage.name.value,
)
def test_thirty_hosts_more(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[str, int], Run] = {}
    wait_s = polling.FIRST_WAIT_S
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        folder.mkdir()
        with world(folder, monkeypatch, *(ubuntu() for _ in range(count)), managed_policies=True) as account:
            monkeypatch.setattr(polling, "FIRST_WAIT_S", wait_s)  # what is shared is as fresh as that
            for name, mode in (("plan", "plan"), ("first", "apply"), ("again", "apply")):
                seen[name, count] = run(account, stage, mode)
    assert all(seen[name, FEW].reads for name in ("plan", "first", "again"))
    for name in ("plan", "first", "again"):
        many = seen[name, MANY]
        grown = many.reads - seen[name, FEW].reads
        looks = {operation: grown.pop(operation) for operation in LOOKS & grown.keys()}
        assert max(looks.values(), default=0) <= 1 + many.took_s / wait_s, (name, many)
        assert sum(grown.values()) <= 5, (name, grown)
