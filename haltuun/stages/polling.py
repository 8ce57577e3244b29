"""Waiting for an effect: looks again at growing intervals, until it is there or the deadline is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from haltuun import stopping

T = TypeVar("T")

FIRST_WAIT_S = 1.0
# AWS's own examples poll commands and jobs every few seconds; longer saves calls, not time.
LONGEST_WAIT_S = 20.0
GROWTH = 1.5
# Until all of AWS sees what was just made or removed ("eventual consistency", IAM user guide): seconds.
SETTLES_S = 30.0


def poll(
    look: Callable[[], T], done: Callable[[T], bool], deadline_s: float, *, gives_way: bool = False
) -> T:
    """The first answer that is `done`, else the last one before the deadline.

    `gives_way`: nothing is under way meanwhile, so the deadline comes at once where a person asks the run to
    stop. Then nobody has waited for what was not seen: it must not be judged.
    """
    end = time.monotonic() + deadline_s
    wait_s = FIRST_WAIT_S
    while True:
        seen = look()
        left_s = end - time.monotonic()
        if done(seen) or left_s <= 0:
            return seen
        if not gives_way:
            time.sleep(min(wait_s, left_s))
        elif stopping.pause(min(wait_s, left_s)):
            return seen
        wait_s = min(wait_s * GROWTH, LONGEST_WAIT_S)
