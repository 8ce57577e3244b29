"""What the log of a planning task run says: of a large account the beginning, and how much more there is."""

from __future__ import annotations

import logging

from haltuun.model import Barred, StagePlan
from tasks.stages import LOGGED, plan_lines


def barred(count: int) -> StagePlan:
    return StagePlan(
        barred=tuple(Barred(host=f"i-{n}", code="EOL", message="Old.", remedy="Renew.") for n in range(count))
    )


def test_a_small_plan_is_told_whole() -> None:
    told = list(plan_lines(barred(2)))
    assert told == [(logging.WARNING, f"i-{n} EOL: Old. Renew.") for n in (0, 1)]


def test_of_a_large_plan_the_rest_is_counted() -> None:
    *told, last = plan_lines(barred(LOGGED + 7))
    assert len(told) == LOGGED
    assert last == (logging.INFO, "and 7 more: see the plan among the artifacts")
