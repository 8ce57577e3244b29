"""What many hosts' changes have in common is held once."""

from __future__ import annotations

from typing import Any

from haltuun.model import Change, Reach, StageName, Undo, share_parts


def change(host: str, **given: Any) -> Change:
    return Change(
        stage=StageName.patch,
        kind="ec2.tag",
        region="eu-central-1",
        target=host,
        hosts=(host,),
        before={"scan": None},
        reach=Reach.host,
        summary=f"Tag {host}.",
        undo=Undo(kind="ec2.tag", after={"scan": None}),
        **{"after": {"scan": "daily"}, **given},
    )


def test_equal_parts_are_one_object_and_the_changes_are_as_they_were() -> None:
    one, other = change("i-0"), change("i-1")
    plain = [change("i-0"), change("i-1")]
    share_parts([one, other])
    assert one.before is other.before and one.after is other.after and one.undo is other.undo
    assert [one, other] == plain and [one.id, other.id] == [c.id for c in plain]


def test_what_only_compares_equal_is_not_shared() -> None:
    one, other = change("i-0", after={"scan": True}), change("i-1", after={"scan": 1})
    share_parts([one, other])
    assert one.after == {"scan": True} and other.after["scan"] is not True
