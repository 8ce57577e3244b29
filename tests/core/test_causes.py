"""Has the cause of a hold moved: by what two looks concluded, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haltuun.causes import STOPPED, Decision, Hold, Sight, decide, digest, moved
from haltuun.gates import Check
from haltuun.ledger import HostEvent
from haltuun.model import HostStatus, StageName, Unknown, Verdict

AT = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
ONLINE = Check(
    column="ssm_status", op="in_set", values=("Online",), code="NOT_ONLINE", message="is not.", remedy="See."
)
WORSE = HostEvent(
    run="r", host="i-1", stage=StageName.repair, event="worse", at=AT, body={"summary": "clear it"}
)
LOST, NOT_SENT = "ConnectionLost", Unknown(unknown="NOT_SENT: a plan sends no command")
words = st.frozensets(st.sampled_from(["repair A", "repair B", "verify C"]))
sights = st.builds(
    Sight,
    unseen=st.sampled_from(["", "SSH_HANGS", "AUTH_REFUSED"]),
    findings=words,
    bars=words,
    changes=st.dictionaries(st.sampled_from("abc"), st.just("do it")),
)


def hold(sight: Sight | None = None, reason: str = "NOT_ONLINE", **more: Any) -> Hold:
    seen = sight or Sight(columns={"ssm_status": LOST})
    status = HostStatus(verdict=Verdict.held, reason=reason, message="It is held.", remedy="Mend it.")
    known = {"checks": (ONLINE,)} if reason == "NOT_ONLINE" and not more else more
    return Hold(
        host="i-1", stage=StageName.repair, status=status, judged_at=AT, before=seen, after=seen, **known
    )


def decided(held: Hold, now: Sight | None, **more: Any) -> Decision:
    given = {"named": False, "force": False, "worse": None, "tries": {}, "max_tries": 3, "account": "acme"}
    return decide(held, now, **{**given, **more})


@given(sights)
def test_the_same_look_again_has_not_moved(sight):
    held = hold(sight, reason="SSH_HANGS")
    assert moved(held, sight) == ()
    left = decided(held, sight)
    assert (left.action, left.remedy) == ("leave", "Mend it. To try it all the same: --force.")
    assert "since it was judged on 2026-11-24 10:00 UTC" in left.why
    assert decided(held, sight, force=True).action == "retry"


@given(sights, sights)
def test_whatever_differs_is_named_and_is_another_cause(sight, now):
    held = hold(sight, reason="SSH_HANGS")
    if now != sight:
        assert decided(held, now).action == "retry"
        assert decided(held, now).changed
        assert digest(held, now) != digest(held, sight)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Sight(columns={"ssm_status": "Online"}), "ssm_status was ConnectionLost, is Online"),
        (Sight(unseen="SSH_HANGS", columns={"ssm_status": LOST}), "cannot be looked into now: SSH_HANGS"),
        (Sight(findings=frozenset({"repair STALE_HYBRID"}), columns={"ssm_status": LOST}), "found now:"),
        (Sight(changes={"c1": "Install the agent."}, columns={"ssm_status": LOST}), "possible now: Install"),
    ],
)
def test_what_has_changed_is_said(now, said):
    (phrase,) = decided(hold(), now).changed
    assert said in phrase


def test_what_the_run_itself_found_before_and_mended_is_no_move():
    seen = Sight(findings=frozenset({"verify ROLE_MISSING", "repair OLD"}))
    held = hold(seen, reason="SSH_HANGS").model_copy(
        update={"after": Sight(findings=frozenset({"repair OLD"}))}
    )
    assert moved(held, Sight(findings=frozenset({"repair OLD"}))) == ()
    assert moved(held, Sight()) == ("no longer found: repair OLD",)


@pytest.mark.parametrize(
    ("was", "now", "action"),
    [
        (False, NOT_SENT, "retry"),  # only a run that applies sends the command
        (Unknown(unknown="THROTTLED: later"), NOT_SENT, "retry"),
        (NOT_SENT, Unknown(unknown="NOT_SENT: in other words"), "leave"),
        (LOST, LOST, "leave"),
        (NOT_SENT, LOST, "retry"),
    ],
)
def test_unknown_is_not_unchanged(was, now, action):
    held = hold(Sight(columns={"ssm_status": was}))
    assert decided(held, Sight(columns={"ssm_status": now})).action == action


def test_a_change_that_failed_shows_only_in_trying():
    held = hold(Sight(), reason="AWS_REFUSED", failed="attach the role")
    assert decided(held, Sight()).why == "Only trying shows whether it fails again: attach the role"


FULL = Sight(findings=frozenset({"repair DISK_FULL"}))
ELSEWHERE = Sight(findings=frozenset({"verify DISK_FULL", "repair OTHER"}))


@pytest.mark.parametrize(
    ("after", "now", "unchanged", "action"),
    [
        (FULL, FULL, True, "leave"),
        (FULL, FULL, False, "retry"),  # what it left behind nobody knows
        (Sight(), Sight(), True, "retry"),  # a look does not show it
        (ELSEWHERE, ELSEWHERE, True, "retry"),  # nor this: another stage's, and another cause
        (FULL, Sight(), True, "retry"),
        (Sight(), FULL, True, "retry"),
    ],
)
def test_a_cause_that_is_seen_as_then_is_tried_only_by_force(after, now, unchanged, action):
    held = hold(after, reason="DISK_FULL", failed="Install the agent.", unchanged=unchanged)
    assert decided(held, now).action == action
    assert decided(held, now, force=True).action == "retry"


def test_worse_after_a_change_is_retried_only_by_name_and_force_is_no_name():
    held = hold(Sight(), reason="NOT_PROVEN", failed="clear it")
    left = decided(held, None, worse=WORSE, force=True)
    assert left.action == "leave"
    assert "worse after a change on 2026-11-24 10:00 UTC" in left.why and "clear it" in left.why
    assert left.remedy.endswith("haltuun retry acme --host i-1")
    assert decided(held, Sight(), worse=WORSE, named=True).action == "retry"


def test_a_cause_is_tried_so_many_times_and_another_cause_anew():
    held = hold(Sight(), reason="AWS_REFUSED", failed="attach the role")
    cause = decided(held, Sight()).cause
    assert decided(held, Sight(), tries={cause: 2}).action == "retry"
    for force in (False, True):
        left = decided(held, Sight(), tries={cause: 3}, force=force)
        assert left.action == "leave"
        assert "retried 3 times" in left.why and "policy.max_tries: 3" in left.why
        assert left.remedy == "Mend it. When that is done: haltuun takeover acme --host i-1"
    other = Sight(findings=frozenset({"repair OTHER"}))
    assert decided(held, other, tries={cause: 3}).action == "retry"


def test_a_stopped_stage_waits_for_the_host_that_ended_it():
    held = hold(Sight(), reason=STOPPED, stoppers=("i-canary",))
    left = decided(held, Sight())
    assert left.action == "leave" and "i-canary" in left.why and "--host i-canary" in left.remedy
    assert decided(hold(Sight(), reason=STOPPED, stoppers=()), Sight()).action == "retry"
    by_percentage = hold(Sight(), reason=STOPPED, stopped_elsewhere=True)
    assert decided(by_percentage, Sight()).why == "Only the stage itself shows whether it is stopped again."


def test_a_host_that_is_gone_is_left_and_said_to_be():
    assert "not among the account's instances" in decided(hold(), None).why
