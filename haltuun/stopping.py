"""Whether a person asked the run to stop, for code between one step and the next.

The signal's exception alone does not do: where it strikes a finalizer or a library that catches
everything, Python drops it (seen: a Ctrl-C was told and the run went on).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_asked = threading.Event()


def ask() -> None:
    _asked.set()


def forget() -> None:
    _asked.clear()


def heed() -> None:
    """Raises KeyboardInterrupt where a stop was asked for."""
    if _asked.is_set():
        raise KeyboardInterrupt


def pause(wait_s: float) -> bool:
    """Sleep so long; True, and at once, where a stop is asked for before."""
    return _asked.wait(wait_s)


def until_asked(things: Iterable[T]) -> Iterator[T]:
    """For threads, that no signal reaches: each as long as nobody has asked to stop before it."""
    for one in things:
        if _asked.is_set():
            return
        yield one
