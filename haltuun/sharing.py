"""One read for all hosts that ask at the same time, so that a thousand hosts cost no thousand calls."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from haltuun.model import Unknown

T = TypeVar("T")

# A look before a change may be as old as this: less than what AWS itself may take until all its
# readers see a change (EC2: "some minutes", its API guide on eventual consistency).
FRESH_S = 20.0


class SharedReads:
    """Answers by key, each with the moment its reading began. Thread-safe: who asks while one reads, waits
    for that."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, tuple[float, object]] = {}
        self._changed: dict[tuple[Hashable, str], float] = {}
        self._amended: defaultdict[Hashable, list[tuple[float, Callable[[Any], Any]]]] = defaultdict(list)
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
            if isinstance(fresh, Unknown):
                return fresh
            with self._lock:
                self._amended[key] = [(at, change) for at, change in self._amended[key] if at >= began]
                for _, change in self._amended[key]:
                    fresh = change(fresh)
                self._answers[key] = (began, fresh)
            return fresh

    def amend(self, key: Hashable, change: Callable[[T], T]) -> None:
        """AWS's answer to a change tells what there is now: it goes into every answer to `key` whose reading
        began before this, so that none has to be read anew."""
        with self._lock:
            self._amended[key].append((time.monotonic(), change))
            if key in self._answers:
                known_at, answer = self._answers[key]
                self._answers[key] = known_at, change(cast(T, answer))

    def changed(self, key: Hashable, target: str) -> None:
        """This run has changed what `key` asks of the target: answers that began before say nothing of it."""
        with self._lock:
            self._changed[key, target] = time.monotonic()
