"""Ctrl-C: the first lets what is under way come to an end, the second leaves at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from haltuun import stopping

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count


@contextmanager
def stoppable() -> Iterator[None]:
    """While a run lasts. Where SIGINT is ignored (a job in the background) it stays so."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            # The lease of a dead process is free for the next run, and its journal says what was sent.
            os._exit(EXIT_INTERRUPTED)
        asked = True
        stopping.ask()
        sys.stderr.write(
            "\nhaltuun: stopping when what is under way on a host has ended. Ctrl-C again leaves at once.\n"
        )
        raise KeyboardInterrupt

    tell = sys.unraisablehook

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        # Where it strikes a finalizer its exception ends there; the run is asked to stop all the same.
        if not issubclass(what.exc_type, KeyboardInterrupt):
            tell(what)

    sys.unraisablehook = unraisable
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = tell
        stopping.forget()
