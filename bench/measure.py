"""Two ways to do the same, timed in turns in one run, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """Medians over the rounds. `amount` (in `unit`) is what one round works through."""

    what: str
    ours_s: float
    peer: str
    peer_s: float
    amount: float
    unit: str

    @property
    def ratio(self) -> float:
        return self.ours_s / self.peer_s

    def rate(self, seconds: float) -> str:
        """`unit` a second where there are many, else milliseconds for one."""
        if self.amount / seconds >= 1000:
            return f"{self.amount / seconds:,.0f} {self.unit}/s"
        if self.unit == "MB":
            return f"{self.amount / seconds:.1f} MB/s"
        return f"{seconds / self.amount * 1000:.1f} ms/{self.unit}"


def compare(
    what: str, ours: Work, peer_is: str, peer: Work, *, rounds: int, amount: float, unit: str
) -> Figure:
    """Each once to warm up, then in turns."""
    ours()
    peer()
    seconds = [(timed(ours), timed(peer)) for _ in range(rounds)]
    ours_s, peer_s = (statistics.median(column) for column in zip(*seconds, strict=True))
    return Figure(what, ours_s, peer_is, peer_s, amount, unit)


def timed(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
