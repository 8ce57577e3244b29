"""The account's clock, which the lab may move, and a stopwatch, which it may not."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

_lock = threading.Lock()
_frozen: list[Any] = []
_offset_s: list[float] = [0.0]


def now() -> datetime:
    """The account's time: the machine's, plus what `move` was told."""
    return datetime.now(UTC)


def stopwatch() -> float:
    """Seconds that no emulation touches; freezegun patches time.monotonic but not clock_gettime."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def machine_time() -> datetime:
    return datetime.fromtimestamp(time.clock_gettime(time.CLOCK_REALTIME), UTC)


def offset_s() -> float:
    return _offset_s[0]


def move(to_offset_s: float) -> None:
    """Set the account's clock to the machine's plus `to_offset_s`; it goes on ticking."""
    import freezegun

    with _lock:
        for freezer in _frozen:
            freezer.stop()
        _frozen.clear()
        _offset_s[0] = to_offset_s
        if to_offset_s:
            target = machine_time() + timedelta(seconds=to_offset_s)
            freezer = freezegun.freeze_time(target.replace(tzinfo=None), tick=True)
            freezer.start()
            _frozen.append(freezer)
