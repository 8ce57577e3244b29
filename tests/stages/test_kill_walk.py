"""Promise 4: killed before and after each call that changes the account, the next run goes on from there; an
undo, too.

A run dies without a word, as by kill -9: nothing after the call is journaled. What is killed on a host is in
tests/stages/repair/test_steps.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from haltuun.aws import READS, Aws
from haltuun.config import Config
from haltuun.effects import open_changes
from haltuun.engine import Takeover
from haltuun.ledger import Ledger
from haltuun.model import Verdict
from haltuun.reach import open_host
from haltuun.stages.backup import STAGE as BACKUP
from haltuun.stages.base import Stage
from haltuun.stages.discover import STAGE as DISCOVER
from haltuun.stages.logs import STAGE as LOGS
from haltuun.stages.patch import STAGE as PATCH
from haltuun.stages.verify import STAGE as VERIFY
from haltuun.undo import Undoing, open_undo
from lab.scenario import load_scenario
from tests.stages import takeover_kit
from tests.stages.account_kit import ACCOUNT, World, go_back, ubuntu, world
from tests.stages.account_state import account_state, differences
from tests.stages.cloudwatch_kit import tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# It changes nothing: a scan or a marker line that was begun twice is no harm.
PROOF = "SendCommand"
# More calls than any stage makes.
MANY = 80


class Killed(BaseException):
    pass


def killed_in(takeover: Takeover, go: Callable[[Takeover], None], kill: str) -> str | None:
    """A run that is killed "before" or "after" its first changing call; which one that was."""
    seen = kill_at_first_change(takeover.run.aws, kill)
    try:
        takeover.reconcile()
        go(takeover)
    except Killed:
        # What the ledger does for a process that is seen to be dead.
        takeover.performer.release_lease()
        return seen[0]
    takeover.end(takeover.outcome())
    return None


def kill_at_first_change(aws: Aws, kill: str) -> list[str]:
    real, seen = aws.call, []

    def call(service: str, operation: str, region: str, **parameters: Any) -> dict[str, Any]:
        if operation.startswith(READS) or operation == PROOF:
            return real(service, operation, region, **parameters)
        seen.append(f"{service}:{operation}")
        if kill == "after":
            real(service, operation, region, **parameters)
        raise Killed

    aws.call = call  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize(
    "stage",
    [pytest.param(PATCH, marks=pytest.mark.soak), pytest.param(BACKUP, marks=pytest.mark.soak), LOGS],
    ids=lambda stage: stage.name.value,
)
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
            at = killed_in(account.start(stage), account.go, "before")
            assert killed_in(account.start(stage), account.go, "after") == at
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


# -- discover and verify: the evidence, roles and profiles, security groups ----------------------------------


@pytest.mark.parametrize(
    ("scenario", "names"),
    [
        ("full", ("weak-role",)),
        pytest.param("full", ("miner", "stopped-agent"), marks=pytest.mark.soak),
        pytest.param("demo", ("web-01", "batch-01", "intern-01"), marks=pytest.mark.soak),
    ],
)
def test_killed_at_every_change_before_the_repair_and_at_every_one_of_the_way_back(
    scenario: str, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_scenario(scenario)
    few = loaded.model_copy(update={"hosts": [host for host in loaded.hosts if host.name in names]})
    (tmp_path / "once").mkdir()
    with takeover_kit.seeded(few, tmp_path / "once", monkeypatch) as account:
        account.go(account.start())
        wanted = _made(account)
    (tmp_path / "walk").mkdir()
    with takeover_kit.seeded(few, tmp_path / "walk", monkeypatch) as account:
        first = account_state(account.account.client)
        killed = _walk(account, _take_over)
        assert killed
        assert _made(account) == wanted
        again = account.start()
        assert again.plan is not None and again.plan.changes == ()
        again.end(again.outcome())
        assert open_changes(account.ledger.change_events(few.account_id)) == []
        back = _walk(account, _undo)
        assert len(back) >= len(killed) - 1, "but for a snapshot that is evidence"
        assert differences(first, account_state(account.account.client)) == []
        assert open_changes(account.ledger.change_events(few.account_id)) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    ("scenario", "names"),
    [("full", ("weak-role",)), ("demo", ("web-01", "batch-01", "intern-01"))],
)
def test_an_undo_killed_at_every_change_has_all_back_in_the_end(
    scenario: str, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that made all of it; of our own role and profile alone it is in verify/test_roles.py."""
    loaded = load_scenario(scenario)
    few = loaded.model_copy(update={"hosts": [host for host in loaded.hosts if host.name in names]})
    with takeover_kit.seeded(few, tmp_path, monkeypatch) as account:
        first = account_state(account.account.client)
        takeover = account.start()
        account.go(takeover)
        assert takeover.plan is not None
        assert len(_walk(account, _undo)) == len(takeover.plan.changes)
        assert differences(first, account_state(account.account.client)) == []
        assert open_changes(account.ledger.change_events(few.account_id)) == []


@pytest.mark.soak
@pytest.mark.parametrize("stage", [PATCH, BACKUP, LOGS], ids=lambda stage: stage.name.value)
def test_an_undo_killed_at_every_change_leaves_only_what_any_undo_leaves(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: dict[str, Counter[str]] = {}
    for which in ("once", "walk"):
        (tmp_path / which).mkdir()
        with world(tmp_path / which, monkeypatch, ubuntu(), managed_policies=True) as account:
            for node in account.nodes.values():
                for folder in ("etc", "opt", "var/lib", "var/log"):  # what any host has
                    (node.root / folder).mkdir(parents=True)
            first, hosts = account.state(), [tree(node.root) for node in account.nodes.values()]
            account.take(stage)
            given = account.config(), account.ledger, [stage]
            killed = []
            while which == "walk" and (at := undo_killed(*given, "before")) is not None:
                assert undo_killed(*given, "after") == at
                killed.append(at)
                assert len(killed) < MANY
            assert which == "once" or len(killed) >= 4, killed
            assert undo_killed(*given, "") is None
            left[which] = Counter(name.partition("/")[0] for name in differences(first, account.state()))
            assert [tree(node.root) for node in account.nodes.values()] == hosts
            assert open_changes(account.ledger.change_events(ACCOUNT)) == []
    assert left["walk"] == left["once"]


Going = Callable[[takeover_kit.World, str], str | None]


def _walk(account: takeover_kit.World, go: Going) -> list[str]:
    killed: list[str] = []
    for _ in range(MANY):
        at = go(account, "before")
        assert go(account, "after") == at
        if at is None:
            return killed
        killed.append(at)
    raise AssertionError(f"it comes to no end: {killed}")


def _take_over(account: takeover_kit.World, kill: str) -> str | None:
    return killed_in(account.start(), account.go, kill)


def _undo(account: takeover_kit.World, kill: str) -> str | None:
    return undo_killed(account.config(), account.ledger, [DISCOVER, VERIFY], kill)


def undo_killed(config: Config, ledger: Ledger, stages: Sequence[Stage], kill: str) -> str | None:
    """Of all that runs did, the last one first."""
    runs = [row.run for row in ledger.runs(config.accounts[0].id) if row.mode == "apply"]
    for run in reversed(runs):
        undoing = open_undo(config, run, approved=True, stages=stages, opener=open_host, ledger=ledger)
        undoing.begin("test")
        at = killed_going_back(undoing, kill)
        if at is not None:
            return at
    return None


def killed_going_back(undoing: Undoing, kill: str) -> str | None:
    """What the undo was killed at; None where it came to its end. `kill` "before" or "after" one, or ""."""
    seen = kill_at_first_change(undoing.run.aws, kill) if kill else []
    try:
        go_back(undoing)
    except Killed:
        undoing.performer.release_lease()
        _nobody_passed_of_whom_something_went_back(undoing)
        return seen[0]
    undoing.end(undoing.outcome())
    return None


def _nobody_passed_of_whom_something_went_back(undoing: Undoing) -> None:
    ledger, account, run = undoing.run.ledger, undoing.run.account.id, undoing.run.id
    begun = [event.change for event in ledger.change_events(account, run) if event.change.undoes]
    assert begun
    status = ledger.status(account)
    assert {status[h][one.stage].reason for one in begun for h in one.hosts if h in status} <= {"UNDONE"}


def _made(account: takeover_kit.World) -> Counter[str]:
    """How often each thing is there; what AWS numbers, by its kind."""
    names: Counter[str] = Counter()
    for key, value in account_state(account.account.client).items():
        kind, _, name = key.partition("/")
        names[f"{kind} {value.count('GroupId')}" if kind.startswith("ec2:") else f"{kind} {name}"] += 1
    snapshots = account.account.client("ec2").describe_snapshots(OwnerIds=["self"])["Snapshots"]
    names["snapshots"] = len(snapshots)
    return names
