"""The account's time: the Date header of its answers, unless this machine's clock explains it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from haltuun.clock import Clock

HOUR = timedelta(hours=1)


def _heard(ago: timedelta, asked_ago: timedelta = timedelta(0)) -> timedelta:
    """How far the account's time is from this machine's after a Date header of `ago`."""
    clock, now = Clock(), datetime.now(UTC)
    clock.heard(format_datetime(now - ago), now - asked_ago)
    return clock.now() - datetime.now(UTC)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_the_accounts_time_is_that_of_its_answers(ahead: timedelta) -> None:
    assert abs(_heard(-ahead) - ahead) < timedelta(seconds=2)


def test_a_slow_answer_is_no_difference_of_clocks() -> None:
    assert abs(_heard(timedelta(seconds=30), asked_ago=timedelta(seconds=31))) < timedelta(seconds=1)


@pytest.mark.parametrize("header", [None, "", "yesterday", "Tue, 99 Foo 2026"])
def test_what_is_no_date_changes_nothing(header: str | None) -> None:
    clock = Clock()
    clock.heard(header, datetime.now(UTC))
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)
