"""AWS reads are batched: fifty hosts more cost a stage a few calls more."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from haltuun.stages import polling
from haltuun.stages.backup import STAGE as BACKUP
from haltuun.stages.base import Stage
from haltuun.stages.logs import STAGE as LOGS
from haltuun.stages.patch import STAGE as PATCH
from tests.stages.account_kit import World, ubuntu, world

FEW, MANY, SIDE_BY_SIDE = 5, 55, 10


def reads(account: World, stage: Stage, mode: str) -> Counter[str]:
    """Of one run: look, plan, and where it applies change, prove and judge."""
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
    return Counter(f"{c.service}:{c.operation}" for c in takeover.run.aws.calls if not c.mutating)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [PATCH, BACKUP, LOGS], ids=lambda stage: stage.name.value)
def test_fifty_hosts_more(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[str, int], Counter[str]] = {}
    wait_s = polling.FIRST_WAIT_S
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        folder.mkdir()
        with world(folder, monkeypatch, *(ubuntu() for _ in range(count)), managed_policies=True) as account:
            monkeypatch.setattr(polling, "FIRST_WAIT_S", wait_s)  # what is shared is as fresh as that
            seen["plan", count] = reads(account, stage, "plan")
            seen["apply", count] = reads(account, stage, "apply")
            seen["again", count] = reads(account, stage, "apply")
    assert all(seen[run, FEW] for run in ("plan", "apply", "again"))
    # While jobs and installations run they are watched, for all hosts at work together. State Manager's
    # runs are read one by one, and here each host has nearly its own.
    first = {PATCH.name: 5, BACKUP.name: 25, LOGS.name: 60}[stage.name]
    for run, limit in (("plan", 5), ("again", 5), ("apply", first)):
        grown = seen[run, MANY] - seen[run, FEW]
        assert sum(grown.values()) <= limit, (run, grown)
