"""One read for all who ask at the same time, and never one from before a change of one's own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from haltuun.model import Unknown
from haltuun.sharing import SharedReads


def test_who_asks_while_one_reads_waits_for_that_answer() -> None:
    shared, began, go_on = SharedReads(), threading.Event(), threading.Event()
    reads: list[int] = []

    def read() -> int:
        reads.append(1)
        began.set()
        go_on.wait(10)
        return 7

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(shared.get, "tags", "i-0", read)
        began.wait(10)
        others = [pool.submit(shared.get, "tags", f"i-{n}", read) for n in range(1, 5)]
        go_on.set()
        assert [first.result(), *(other.result() for other in others)] == [7] * 5
    assert len(reads) == 1


def test_what_was_changed_is_read_again_for_its_own_target_and_key_alone() -> None:
    shared = SharedReads()
    answers = iter(range(10))
    assert shared.get("tags", "i-0", lambda: next(answers)) == 0
    shared.changed("tags", "i-0")
    assert shared.get("tags", "i-1", lambda: next(answers)) == 0
    assert shared.get("tags", "i-0", lambda: next(answers)) == 1
    assert shared.get("tags", "i-0", lambda: next(answers)) == 1
    assert shared.get("tags", "i-0", lambda: next(answers), fresh_s=-1.0) == 2


def test_unknown_is_asked_again() -> None:
    shared = SharedReads()
    answers = iter((Unknown(unknown="THROTTLED: later"), 5))
    assert isinstance(shared.get("jobs", "i-0", lambda: next(answers)), Unknown)
    assert shared.get("jobs", "i-0", lambda: next(answers)) == 5


def test_what_aws_answered_to_a_change_needs_no_reading() -> None:
    shared = SharedReads()
    assert shared.get("jobs", "i-0", lambda: {"i-1": "RUNNING"}) == {"i-1": "RUNNING"}
    shared.amend("jobs", lambda jobs: {**jobs, "i-0": "CREATED"})
    assert shared.get("jobs", "i-0", dict) == {"i-1": "RUNNING", "i-0": "CREATED"}


def test_a_reading_that_began_before_a_change_is_amended_too() -> None:
    shared = SharedReads()

    def read() -> dict[str, str]:
        shared.amend("jobs", lambda jobs: {**jobs, "i-0": "CREATED"})  # a neighbour's, meanwhile
        return {}

    assert shared.get("jobs", "i-1", read) == {"i-0": "CREATED"}
    assert shared.get("jobs", "i-1", dict, fresh_s=-1.0) == {}, "what is read after it knows by itself"
