"""The declared IAM actions against the calls that takeovers of emulated accounts really make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.iam.policies import declared
from haltuun.aws import Aws, CallRecord
from haltuun.engine import Takeover
from haltuun.stages.backup import STAGE as BACKUP
from haltuun.stages.logs import STAGE as LOGS
from haltuun.stages.patch import STAGE as PATCH
from lab.cloud.extensions.backup_state import backup_state
from lab.scenario import load_scenario
from tests.stages.account_kit import ACCOUNT, REGION, World, ubuntu, world
from tests.stages.takeover_kit import seeded

pytestmark = pytest.mark.slow

# What proves an effect, or asks a host a question, is no change of a plan.
PROOFS = {"ssm:SendCommand", "ssm:CancelCommand"}


def actions(calls: Iterable[CallRecord], *, mutating: bool) -> set[str]:
    return {f"{call.service}:{call.operation}" for call in calls if call.mutating is mutating}


def check(takeover: Takeover) -> None:
    """What a run called and planned, against the list."""
    known = declared()
    calls = takeover.run.aws.calls
    read = {action for statement in known.policy("read")["Statement"] for action in statement["Action"]}
    assert actions(calls, mutating=False) <= read | {action.action for action in known.free}
    assert takeover.plan is not None
    planned = {action for change in takeover.plan.changes for action in change.permissions}
    assert planned <= known.actions()
    written = actions(calls, mutating=True)
    assert written <= planned | PROOFS
    assert written <= known.actions("call"), "marked as for undo only"


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with world(tmp_path, monkeypatch, ubuntu(), managed_policies=True) as made:
        yield made


@pytest.mark.parametrize("stage", [PATCH, BACKUP, LOGS], ids=lambda stage: stage.name.value)
def test_a_stage_over_an_account_keeps_to_the_list(account: World, stage: Any) -> None:
    takeover = account.start(stage)
    account.go(takeover)
    check(takeover)
    assert actions(takeover.run.aws.calls, mutating=True)
    _forget_recovery_points()
    undone = actions(account.undo(takeover, stage).run.aws.calls, mutating=True)
    assert undone <= declared().actions("call", "undo")
    assert undone & declared().actions("undo")


def _forget_recovery_points() -> None:
    """A vault that holds some is not deleted, rightly."""
    backup_state(ACCOUNT, REGION).points.clear()


def test_discover_and_verify_keep_to_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = load_scenario("demo")
    wanted = ("web-01", "batch-01", "intern-01")
    scenario = demo.model_copy(update={"hosts": [host for host in demo.hosts if host.name in wanted]})
    with seeded(scenario, tmp_path, monkeypatch) as made:
        takeover = made.start()
        made.go(takeover)
        check(takeover)
        done = actions(takeover.run.aws.calls, mutating=True)
    assert {"iam:PutRolePolicy", "iam:CreateRole", "ec2:AuthorizeSecurityGroupEgress"} <= done


def test_a_plan_needs_the_read_policy_alone(account: World) -> None:
    takeover = account.start(BACKUP, mode="plan")
    aws: Aws = takeover.run.aws
    assert aws.read_only
    assert actions(aws.calls, mutating=True) == set()
    check(takeover)
