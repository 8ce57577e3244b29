"""A row by its id, out of a list that is gone through once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from haltuun.stages.discover.lookup import find

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
