"""A row by its id, out of a list that is gone through once."""

from __future__ import annotations

import weakref
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from haltuun.stages.discover.lookup import find, forget

IDS = st.sampled_from(["i-0", "i-1", "i-2", "i-3"])


@given(st.lists(st.lists(IDS)), IDS)
def test_it_is_the_first_of_each_list_whatever_was_looked_up_before(
    lists: list[list[str]], wanted: str
) -> None:
    rows = [[{"InstanceId": one, "n": n} for n, one in enumerate(ids)] for ids in lists]
    for some in rows:
        plainly = next((row for row in some if row["InstanceId"] == wanted), None)
        assert find(some, "InstanceId", wanted) is plainly
    assert find([], "InstanceId", None) is None


class Rows(list[Any]):
    """A list that tells whether it is still there."""


def test_what_was_looked_up_is_let_go_of() -> None:
    rows = Rows([{"InstanceId": "i-0"}])
    there = weakref.ref(rows)
    assert find(rows, "InstanceId", "i-0") is rows[0]
    forget()
    del rows
    assert there() is None
