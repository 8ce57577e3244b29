"""One read for all hosts that ask at the same time, so that a thousand hosts cost no thousand calls."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

from haltuun.model import Unknown

T = TypeVar("T")

# A look before a change may be as old as this: less than what AWS itself takes until all its
# readers see a change.
FRESH_S = 5.0


class SharedReads:
    """Answers by key, each with the moment its reading began. Thread-safe: who asks while one reads, waits
    for that."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, tuple[float, object]] = {}
        self._changed: dict[tuple[Hashable, str], float] = {}
        self._lock = threading.Lock()
        self._reading: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)

    def get(self, key: Hashable, target: str, read: Callable[[], T], *, fresh_s: float = FRESH_S) -> T:
        """The answer to `key`, for what one wants to know of `target`: read anew where it is older than
        `fresh_s`, or than what this run changed of the target. What is Unknown is asked again."""
        with self._lock:
            reading = self._reading[key]
        with reading:
            began = time.monotonic()
            with self._lock:
                known_at, answer = self._answers.get(key, (float("-inf"), None))
                changed_at = self._changed.get((key, target), float("-inf"))
            if known_at > changed_at and began - known_at <= fresh_s:
                return cast(T, answer)
            fresh = read()
            if not isinstance(fresh, Unknown):
                with self._lock:
                    self._answers[key] = (began, fresh)
            return fresh

    def changed(self, key: Hashable, target: str) -> None:
        """This run has changed what `key` asks of the target: answers that began before say nothing of it."""
        with self._lock:
            self._changed[key, target] = time.monotonic()
