"""Whose is a thing under one of our names? By our tag or our words; what cannot be read is unknown."""

from __future__ import annotations

from haltuun.model import Unknown
from haltuun.stages.own import ABSENT, MADE_BY, Own, first_own, is_ours

DENIED = Unknown(unknown="ACCESS_DENIED: ssm:ListTagsForResource")
OURS, THEIRS = Own(state="ours", id="1"), Own(state="foreign", id="2")


def test_unreadable_tags_make_nothing_ours() -> None:
    assert is_ours(DENIED) == DENIED
    assert is_ours(DENIED, "by hand") == DENIED
    assert is_ours(DENIED, f"{MADE_BY} A window.") is True
    assert is_ours({}) is False
    assert is_ours({"haltuun:managed": "true"}) is True


def test_of_several_of_one_name_a_doubt_outweighs_a_stranger() -> None:
    assert first_own([]) == ABSENT
    assert first_own([THEIRS]) == THEIRS
    assert first_own([THEIRS, DENIED]) == DENIED
    assert first_own([THEIRS, DENIED, OURS]) == OURS
