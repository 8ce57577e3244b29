"""Between the last look at the lease and a job on the host lies the way there; and between two attempts."""

from __future__ import annotations

from pathlib import Path

import pytest

from haltuun.config import AccountConfig, Config
from haltuun.engine import open_run
from haltuun.errors import HaltuunError, LeaseLost, Unreachable
from haltuun.jobs import INTERRUPTED
from haltuun.ledger import Ledger
from haltuun.model import Change, Host
from haltuun.perform import Performer
from haltuun.run import Run
from haltuun.simulated import SimulatedTransport
from haltuun.stages.repair import STAGE
from haltuun.transport import Result
from tests.stages.repair.plan_kit import ACCOUNT, REGION, STALE_VAULT, plan, stale


def _clear() -> Change:
    (change,) = [c for c in plan(stale(vault=STALE_VAULT)).changes if c.kind == "agent.clear"]
    return change


def test_a_lease_that_is_lost_while_the_host_is_reached_begins_no_job(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    begun: list[str] = []
    change = _clear()

    def answer(script: str, *_: object) -> Result:
        begun.append(script)
        return Result(exit_code=0, stdout="", stderr="")

    def slowly(run: Run, host: Host) -> SimulatedTransport:
        assert performer.lease is not None
        ledger.release_lease(performer.lease)
        ledger.take_lease(ACCOUNT, "later")
        return SimulatedTransport(answer)

    config = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=[REGION])])
    run = open_run(config, "acme", "apply", slowly, ledger=ledger)
    performer = Performer(run, {change.stage: STAGE})
    performer.take_lease()
    with pytest.raises(LeaseLost, match="a later run has taken the account over"):
        STAGE.kinds[change.kind].apply(run, change)
    performer.release_lease()
    ledger.close()
    assert begun == []


@pytest.mark.parametrize("why", [LeaseLost, Unreachable])
def test_what_keeps_a_second_attempt_from_beginning_says_nothing_of_the_first(
    why: type[HaltuunError], tmp_path: Path
) -> None:
    ledger, attempts = Ledger(f"sqlite:///{tmp_path}/ledger.db"), []

    def answer(*_: object) -> Result:
        attempts.append(why)
        if len(attempts) == 1:
            return Result(exit_code=INTERRUPTED, stdout="", stderr="")
        raise why("not now.", subject="", remedy="", code=why.code, unchanged=True)

    config = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=[REGION])])
    run = open_run(config, "acme", "apply", lambda *_: SimulatedTransport(answer), ledger=ledger)
    change = _clear()
    with pytest.raises(why) as caught:
        STAGE.kinds[change.kind].apply(run, change)
    ledger.close()
    assert len(attempts) == 2 and not caught.value.unchanged
