"""What is approved by its hash must be found again: an account that stands still gives the same plan, at
another time, in another run and from another ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haltuun.engine import Takeover
from haltuun.ledger import Ledger
from haltuun.model import Change, Plan, StageName
from haltuun.stages.backup import STAGE as BACKUP
from haltuun.stages.discover.facts import LogFile
from haltuun.stages.logs import STAGE as LOGS
from haltuun.stages.patch import STAGE as PATCH
from haltuun.stages.repair import facts as f
from lab.cloud import clock
from lab.scenario import load_scenario
from tests.stages.account_kit import ubuntu, world
from tests.stages.repair.plan_kit import AS_ONPREM, CHANNEL, FILE, NOW, plan, stale
from tests.stages.takeover_kit import seeded

LATER_S = 17 * 60.0


@pytest.fixture(autouse=True)
def clock_put_back() -> Iterator[None]:
    yield
    clock.move(0)


def planned(takeover: Takeover) -> tuple[str, list[Change], datetime]:
    takeover.end("Planned")
    assert takeover.plan is not None
    return takeover.plan.hash, list(takeover.plan.changes), takeover.run.now()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [PATCH, BACKUP, LOGS], ids=lambda stage: stage.name.value)
def test_an_account_that_stands_still(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nginx = (LogFile(path="/var/log/nginx/access.log", service="nginx"),)
    with world(tmp_path, monkeypatch, ubuntu(), ubuntu(log_files=nginx), managed_policies=True) as made:
        _same(made, lambda: made.start(stage, mode="plan"), tmp_path)


@pytest.mark.slow
def test_a_seeded_account_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = load_scenario("demo")
    wanted = [host for host in demo.hosts if host.name in ("web-01", "batch-01", "intern-01")]
    suspect = demo.host("web-02").model_copy(update={"compromised": True})
    scenario = demo.model_copy(update={"hosts": [*wanted, suspect]})
    with seeded(scenario, tmp_path, monkeypatch) as made:
        stages = _same(made, lambda: made.start("plan"), tmp_path)
    assert stages == {StageName.discover, StageName.verify}


def _same(made: Any, start: Any, folder: Path) -> set[StageName]:
    """Plan, and plan again minutes later in a fresh ledger; returns the stages that changes are of."""
    first, changes, then = planned(start())
    clock.move(LATER_S)
    ledger, made.ledger = made.ledger, Ledger(f"sqlite:///{folder}/fresh.db")
    try:
        again, others, now = planned(start())
    finally:
        made.ledger.close()
        made.ledger = ledger
    assert now - then >= timedelta(seconds=LATER_S)
    assert changes and [c.id for c in changes] == [c.id for c in others]
    assert first == again
    return {change.stage for change in changes}


@given(
    later=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=2)),
    pid=st.integers(200, 30_000),
    disk_free_kb=st.integers(2_000_000, 9_000_000),
    run_id=st.text("abcdef0123456789", min_size=6, max_size=12),
    lines=st.integers(1, 5),
)
def test_a_host_that_stands_still(
    later: timedelta, pid: int, disk_free_kb: int, run_id: str, lines: int
) -> None:
    """Its processes, its free space, its clock and the end of its log go on."""
    texts = [*AS_ONPREM, *[CHANNEL] * lines]
    log = [
        f.LogLine(file=FILE, line=n, text=f"{NOW + later:%Y-%m-%d %H:%M:%S}.0000 INFO {text}")
        for n, text in enumerate(texts, 1)
    ]
    processes = tuple(
        f.Process(comm=comm, pid=pid + n, started=1000 + n)
        for n, comm in enumerate(("amazon-ssm-agen", "ssm-agent-worke"))
    )
    moved = {
        "processes": processes,
        "disk_free_kb": disk_free_kb,
        "clock": (NOW + later).replace(tzinfo=None),
        "log": tuple(log),
    }
    then = plan(stale())
    now = plan(stale(**moved), now=NOW + later, run_id=run_id)
    assert then.changes
    assert [change.id for change in then.changes] == [change.id for change in now.changes]


@given(st.permutations(range(4)), st.lists(st.integers(0, 3), max_size=4))
def test_a_hash_is_over_the_ids_in_any_order_and_nothing_volatile(order: list[int], twice: list[int]) -> None:
    changes = plan(stale()).changes[:1]
    one = changes[0]
    four = [one.model_copy(update={"target": f"i-{n}"}) for n in range(4)]
    shuffled = [four[n].model_copy(update={"summary": "x", "detail": {"n": n}}) for n in [*order, *twice]]
    assert Plan(account="1", changes=tuple(four)).hash == Plan(account="2", changes=tuple(shuffled)).hash
    assert Plan(account="1", changes=tuple(four[:3])).hash != Plan(account="1", changes=tuple(four)).hash


def test_steps_of_a_ladder_are_planned_as_conditional_changes() -> None:
    changes = plan(stale()).changes
    ids = [change.id for change in changes]
    conditional = [change for change in changes if change.only_if_failed]
    assert conditional
    assert all(ids.index(str(c.only_if_failed)) < ids.index(c.id) for c in conditional)
