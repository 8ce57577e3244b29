"""Promise 4: killed before and after each call that changes the account, the next run goes on from there.

A run dies without a word, as by kill -9: nothing after the call is journaled.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from haltuun.aws import READS
from haltuun.engine import Takeover, open_changes
from haltuun.model import Verdict
from haltuun.stages.backup import STAGE as BACKUP
from haltuun.stages.base import Stage
from haltuun.stages.logs import STAGE as LOGS
from haltuun.stages.patch import STAGE as PATCH
from tests.stages.account_kit import ACCOUNT, World, ubuntu, world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# It changes nothing: a scan or a marker line that was begun twice is no harm.
PROOF = "SendCommand"
# More calls than any stage makes.
MANY = 80


class Killed(BaseException):
    pass


def take(account: World, stage: Stage, *, kill: str) -> str | None:
    """One run that is killed "before" or "after" its first changing call; which one that was."""
    takeover = account.start(stage)
    seen = _kill_at_first_change(takeover, kill)
    try:
        takeover.reconcile()
        account.go(takeover)
    except Killed:
        # What the ledger does for a process that is seen to be dead.
        takeover.performer.release_lease()
        return seen[0]
    takeover.end(takeover.outcome())
    return None


def _kill_at_first_change(takeover: Takeover, kill: str) -> list[str]:
    aws, seen = takeover.run.aws, []
    real = aws.call

    def call(service: str, operation: str, region: str, **parameters: Any) -> dict[str, Any]:
        if operation.startswith(READS) or operation == PROOF:
            return real(service, operation, region, **parameters)
        seen.append(f"{service}:{operation}")
        if kill == "after":
            real(service, operation, region, **parameters)
        raise Killed

    aws.call = call  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("stage", [PATCH, BACKUP, LOGS], ids=lambda stage: stage.name.value)
def test_killed_at_every_change_it_comes_to_the_same_end(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "once").mkdir()
    with world(tmp_path / "once", monkeypatch, ubuntu(), managed_policies=True) as account:
        account.take(stage)
        wanted = _names(account)
    (tmp_path / "walk").mkdir()
    with world(tmp_path / "walk", monkeypatch, ubuntu(), managed_policies=True) as account:
        killed: list[str] = []
        for _ in range(MANY):
            at = take(account, stage, kill="before")
            assert take(account, stage, kill="after") == at
            if at is None:
                break
            killed.append(at)
        assert len(killed) >= 5, killed
        assert _names(account) == wanted
        again = account.start(stage)
        assert again.plan is not None and again.plan.changes == ()
        account.go(again)
        again.end(again.outcome())
        assert {s.verdict for s in again.progress[stage.name].statuses.values()} == {Verdict.passed}
        assert open_changes(account.ledger.change_events(ACCOUNT)) == []


def _names(account: World) -> Counter[str]:
    """How often each thing that Haltuun names is there."""
    names: Counter[str] = Counter()
    for key, value in account.state().items():
        kind, _, name = key.partition("/")
        if kind == "ssm:associations":
            name = value.partition('"AssociationName": "')[2].partition('"')[0]
        if kind in ("ec2:instances", "ec2:security_groups", "backup:points"):
            name = "one"
        if kind.startswith("ssm:windows"):
            name = f"{name} of {value.count('WindowTaskId')} tasks, {value.count('WindowTargetId')} targets"
        names[f"{kind} {name}"] += 1
    names.update(f"tag {tag}" for host in account.facts for tag in account.tags(host).items())
    return names
