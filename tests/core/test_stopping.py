"""A stop that was asked for is heeded until the run is over."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture

from flows.takeover import finish
from haltuun import stopping
from haltuun.cli.interrupt import stoppable
from haltuun.stages.polling import poll


class Swallows:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler runs between two of these, and its exception ends here
            pass


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Where the tests run in a shell's background, SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Fails:
    def __del__(self) -> None:
        raise ValueError


def test_a_ctrl_c_that_strikes_a_finalizer_is_heeded_at_the_next_step_and_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_type))
    with stoppable():
        fails: Fails | None = Fails()
        assert fails is not None
        fails = None
        stopping.heed()
        swallows: Swallows | None = Swallows()
        assert swallows is not None
        swallows = None
        with pytest.raises(KeyboardInterrupt):
            stopping.heed()
    stopping.heed()
    assert told == [ValueError]


def test_of_several_hosts_the_one_in_hand_is_the_last() -> None:
    worked = []
    try:
        for host in stopping.until_asked(["first", "in hand", "next"]):
            worked.append(host)
            if host == "in hand":
                stopping.ask()
    finally:
        stopping.forget()
    assert worked == ["first", "in hand"]


def test_a_wait_for_an_effect_gives_way_in_every_thread_and_returns_what_was_seen_last() -> None:
    looked = threading.Event()

    def look() -> str:
        looked.set()
        return "pending"

    with ThreadPoolExecutor() as pool:
        try:
            waiting = pool.submit(poll, look, lambda seen: False, 600.0, gives_way=True)
            assert looked.wait(60)
            stopping.ask()
            assert waiting.result(timeout=60) == "pending"
            # What is under way goes on until it is seen.
            seen = iter(["half", "whole"])
            assert poll(lambda: next(seen), lambda one: one == "whole", 60.0) == "whole"
        finally:
            stopping.forget()


def test_a_cancel_that_strikes_while_tasks_are_begun_is_told_to_the_threads() -> None:
    def begun() -> Iterator[PrefectFuture[None]]:
        raise TerminationSignal(signal=signal.SIGTERM)
        yield

    try:
        with pytest.raises(TerminationSignal):
            finish(begun())
        with pytest.raises(KeyboardInterrupt):
            stopping.heed()
    finally:
        stopping.forget()
