"""`policy.max_hosts`: a run changes so many hosts and no more, and the next one goes on."""

from __future__ import annotations

import pytest

from haltuun.config import PolicyConfig
from haltuun.errors import HaltuunError
from haltuun.ledger import Ledger
from haltuun.model import StageName, Verdict
from tests.core.test_engine import ACCOUNT, NAMES, World, account, go, ledger, start

__all__ = ["account", "ledger"]  # fixtures
TWO = PolicyConfig(max_hosts=2)


def take_over(world: World, ledger: Ledger) -> str:
    takeover = start(world, ledger, policy=TWO)
    takeover.approve(None, everything=True, who="me")
    return go(takeover)


def test_each_run_changes_as_many_as_it_may_until_none_is_left(ledger: Ledger) -> None:
    world = World(NAMES[:5])
    for outcome, changed in (("PartiallyDone", 2), ("PartiallyDone", 4), ("Done", 5), ("Done", 5)):
        assert take_over(world, ledger) == outcome
        status = {host: stages[StageName.repair] for host, stages in ledger.status(ACCOUNT).items()}
        left = {host for host, one in status.items() if one.verdict is not Verdict.passed}
        assert list(world.switch.values()).count("on") == changed == 5 - len(left)
        assert {(status[host].verdict, status[host].reason) for host in left} <= {
            (Verdict.pending, "RUN_LIMIT")
        }
    assert world.calls == ["shared", *NAMES[:5]], "what is of the account is no host"


@pytest.mark.parametrize("unchanged", [True, False])
def test_only_a_host_that_was_changed_takes_a_place(ledger: Ledger, unchanged: bool) -> None:
    """Else two that fail before anything is changed would keep all others waiting, run after run."""
    world = World(NAMES[:3])
    world.broken = dict.fromkeys(NAMES[:2], HaltuunError("full.", code="DISK_FULL", unchanged=unchanged))
    take_over(world, ledger)
    reasons = [stages[StageName.repair].reason for stages in ledger.status(ACCOUNT).values()]
    assert reasons[0] == "DISK_FULL"
    assert (world.switch[NAMES[2]] == "on") is unchanged
