"""Whether a person asked the run to stop, for code between one step and the next.

The signal's exception alone does not do: where it strikes a finalizer or a library that catches
everything, Python drops it (seen: a Ctrl-C was told and the run went on).
"""

from __future__ import annotations

import threading

_asked = threading.Event()


def ask() -> None:
    _asked.set()


def forget() -> None:
    _asked.clear()


def heed() -> None:
    """Raises KeyboardInterrupt where a stop was asked for."""
    if _asked.is_set():
        raise KeyboardInterrupt
