"""A stop that was asked for is heeded until the run is over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture

from flows.takeover import finish
from haltuun import stopping
from haltuun.cli.interrupt import stoppable


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_strikes_a_finalizer_is_heeded_at_the_next_step() -> None:
    with stoppable():
        stopping.heed()
        swallows: Swallows | None = Swallows()
        assert swallows is not None
        swallows = None
        with pytest.raises(KeyboardInterrupt):
            stopping.heed()
    stopping.heed()


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
