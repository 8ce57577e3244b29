from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from haltuun.waves import CANARIES, waves

FLEET = st.dictionaries(st.text("abcdef0123456789", min_size=1, max_size=6), st.integers(0, 4), max_size=60)


@given(FLEET)
def test_every_host_is_in_exactly_one_wave_and_each_likeness_begins_alone(likeness):
    result = list(waves(likeness))
    flat = [host for wave in result for host in wave]
    assert sorted(flat) == sorted(likeness)
    kinds = len(set(likeness.values()))
    assert all(len(wave) == 1 for wave in result[:kinds])
    assert {likeness[wave[0]] for wave in result[:kinds]} == set(likeness.values())


@given(FLEET, st.data())
def test_none_goes_with_others_before_one_of_its_like_came_right_or_three_were_tried(likeness, data):
    right: set[str] = set()
    begun: list[str] = []
    for wave in waves(likeness, lambda host: host in right):
        for host in wave:
            alike = [other for other in begun if likeness[other] == likeness[host]]
            if len(wave) > 1:
                assert right & set(alike) or len(alike) >= CANARIES
        begun += wave
        right.update(host for host in wave if data.draw(st.booleans()))
    assert sorted(begun) == sorted(likeness)


def test_the_rest_grows_by_ten_thirty_and_sixty_percent():
    sizes = [len(wave) for wave in waves({f"h{n}": "same" for n in range(101)})]
    assert sizes == [1, 10, 30, 60]
