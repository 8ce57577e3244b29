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
        summary=f"Tag {host}.",
        undo=Undo(kind="ec2.tag", after={"scan": None}),
        **{"after": {"scan": "daily"}, "reach": Reach.host, **given},
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


ALB = "ELB app/web/50dc6c495c0c9188, of amazon-elb"
FUNCTION = "AWS Lambda VPC ENI-bill-{}, of AROAEXAMPLE:bill"
MADE = ("7c9a5e1b-0a1b-4c2d-8e3f-0123456789ab", "11111111-2222-4333-8444-555555555555")


def test_an_interface_that_is_made_anew_is_the_same_user_and_another_one_is_not() -> None:
    def group(*concerns: str) -> Change:
        return change("i-0a", reach=Reach.shared, concerns=concerns)

    def hash_of(one: Change) -> str:
        return Plan(account="1", changes=(one,)).hash

    shown = group(f"eni-01 ({ALB})", f"eni-02 ({FUNCTION.format(MADE[0])})", "eni-03 (RDSNetworkInterface)")
    later = group(
        f"eni-0a ({ALB})",
        f"eni-0b ({ALB})",
        f"eni-0c ({FUNCTION.format(MADE[1])})",
        f"eni-0d ({FUNCTION.format(MADE[0])})",
        "eni-03 (RDSNetworkInterface)",
    )
    assert later.concerned == shown.concerned and hash_of(later) == hash_of(shown)
    others = ("eni-0e (RDSNetworkInterface)", "eni-0e", f"eni-0e ({ALB.replace('web', 'shop')})")
    for other in (*others, f"eni-0e ({FUNCTION.format(MADE[0]).replace('bill', 'ship')})"):
        more = group(*shown.concerns, other)
        assert len(more.concerned - shown.concerned) == 1 and hash_of(more) != hash_of(shown)


def test_one_more_host_that_needs_a_thing_of_the_account_changes_nothing_for_who_approved_it() -> None:
    def hash_of(reach: Reach, hosts: tuple[str, ...], *concerns: str) -> str:
        one = change("account", reach=reach, concerns=concerns).model_copy(update={"hosts": hosts})
        return Plan(account="1", changes=(one,)).hash

    few, more = ("i-0a",), ("i-0a", "i-0b")
    assert hash_of(Reach.account, few) == hash_of(Reach.account, more)
    assert hash_of(Reach.account, few) != hash_of(
        Reach.account, few, "i-0b web-02: its sessions stay unlogged"
    )
    for reach in (Reach.shared, Reach.irreversible):
        assert hash_of(reach, few) != hash_of(reach, more)
