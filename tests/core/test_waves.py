from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from haltuun.waves import waves


@given(st.dictionaries(st.text("abcdef0123456789", min_size=1, max_size=6), st.integers(0, 4), max_size=60))
def test_every_host_is_in_exactly_one_wave_and_each_likeness_begins_alone(likeness):
    result = waves(likeness)
    flat = [host for wave in result for host in wave]
    assert sorted(flat) == sorted(likeness)
    kinds = len(set(likeness.values()))
    assert all(len(wave) == 1 for wave in result[:kinds])
    assert {likeness[wave[0]] for wave in result[:kinds]} == set(likeness.values())


def test_the_rest_grows_by_ten_thirty_and_sixty_percent():
    sizes = [len(wave) for wave in waves({f"h{n}": "same" for n in range(101)})]
    assert sizes == [1, 10, 30, 60]
