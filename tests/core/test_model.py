"""What many hosts' changes have in common is held once; whom a change concerns."""

from __future__ import annotations

from typing import Any

from haltuun.model import Change, Plan, Reach, StageName, Undo, share_parts


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


def test_a_plans_hash_covers_whom_a_shared_change_concerns_however_they_are_called() -> None:
    others = ("i-0b web (SUSPECT)", "eni-0c (rds)", "others: no")
    shared = change("i-0a", concerns=others).model_copy(update={"reach": Reach.shared})
    assert shared.concerned == {"i-0a", "i-0b", "eni-0c", "others: no"}

    def hash_of(**moved: Any) -> str:
        return Plan(account="1", changes=(shared.model_copy(update=moved),)).hash

    same = {"hosts": ("i-0b",), "concerns": ("others: no", "i-0a db", "eni-0c (lambda)")}
    assert hash_of() == hash_of(**same)
    assert hash_of() != hash_of(concerns=(*shared.concerns, "i-0d new"))
    assert shared.id == shared.model_copy(update={"concerns": ()}).id
