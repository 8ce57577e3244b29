"""Retry over a real ledger: runs of the engine's little stages, a look, and what is decided of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from haltuun.causes import Decision
from haltuun.errors import HaltuunError
from haltuun.ledger import Ledger
from haltuun.model import Barred, HostStatus, StageName, Unknown, Verdict
from haltuun.retrying import (
    by_stage,
    decisions,
    from_stage,
    held_in,
    not_held,
    record_tries,
    unfinished,
    worth_a_look,
)
from tests.core.test_engine import ACCOUNT, NAMES, World, account, go, make_stages, start

__all__ = ["account"]
CANARY, SECOND = NAMES[:2]


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield made
    made.close()


def take_over(world: World, ledger: Ledger, **more: Any) -> None:
    takeover = start(world, ledger, **more)
    takeover.approve(None, everything=True, who="me")
    go(takeover)


def retry(
    world: World,
    ledger: Ledger,
    *named: str,
    force: bool = False,
    barred: Any = None,
    there: tuple[str, ...] = NAMES,
) -> dict[str, Decision]:
    """Looks, decides, and works on those that are tried again, as the flow does."""
    held = held_in(ledger, ACCOUNT, None, named)
    asked = worth_a_look(ledger, ACCOUNT, held, named, there)
    look = ""
    if asked:
        looking = start(world, ledger, mode="plan", only_hosts=asked, barred=barred)
        looking.end("Planned")
        look = looking.run.id
    decided = decisions(
        ledger,
        ACCOUNT,
        "acme",
        make_stages(world),
        held,
        look,
        asked,
        there,
        named=named,
        force=force,
        max_tries=3,
    )
    for stage, chosen in by_stage(one for one in decided if one.retried):
        hosts = [one.host for one in chosen]
        takeover = start(world, ledger, only_stages=from_stage(stage), only_hosts=hosts, barred=barred)
        record_tries(takeover.run, chosen)
        takeover.approve(None, everything=True, who="me")
        go(takeover)
    return {one.host: one for one in decided}


def test_a_bad_canary_ends_the_stage_and_the_next_retry_leaves_it_and_the_others(ledger):
    world = World()
    world.broken[CANARY] = HaltuunError("it does not answer any more.", code="NOT_PROVEN")
    take_over(world, ledger)
    assert world.calls == ["shared", CANARY]
    world.calls.clear()
    decided = retry(world, ledger, force=False)
    assert {one.action for one in decided.values()} == {"leave"}
    assert "worse after a change" in decided[CANARY].why
    assert CANARY in decided[SECOND].why
    assert world.calls == []

    world.broken.clear()  # a person has mended it and names it
    assert retry(world, ledger, CANARY)[CANARY].action == "retry"
    assert world.calls == [CANARY]
    decided = retry(world, ledger)
    assert set(decided) == set(NAMES[1:])
    assert {one.changed for one in decided.values()} == {
        ("the host that had ended the stage has come right since",)
    }
    assert set(world.switch.values()) == {"on"}
    assert retry(world, ledger) == {}


def test_who_was_worse_stays_out_of_it_though_an_earlier_stage_holds_it_by_now(ledger):
    """A retry from there would come to the stage in which it was worse, and change it again unnamed."""
    world = World(NAMES[:1])
    world.broken[CANARY] = HaltuunError("it does not answer any more.", code="NOT_PROVEN")
    take_over(world, ledger)
    world.broken.clear()
    later, now = "later", datetime.now(UTC)
    ledger.start_run(ACCOUNT, later, {"mode": "apply"}, now)
    hangs = HostStatus(verdict=Verdict.held, reason="SSH_HANGS", message="It hangs.", remedy="Look.")
    ledger.judged(ACCOUNT, later, StageName.discover, {CANARY: hangs}, now)
    world.calls.clear()
    left = retry(world, ledger, force=True)[CANARY]
    assert (left.action, left.stage) == ("leave", StageName.discover)
    assert f"switch {CANARY} on" in left.why and world.calls == []
    assert retry(world, ledger, CANARY, force=True)[CANARY].action == "retry"


def test_forced_the_others_go_on_without_the_canary(ledger):
    world = World()
    world.broken[CANARY] = HaltuunError("no.", code="NOT_PROVEN")
    take_over(world, ledger)
    decided = retry(world, ledger, force=True)
    assert {host for host, one in decided.items() if one.action == "leave"} == {CANARY}
    assert world.calls.count(CANARY) == 1
    assert world.switch[SECOND] == "on"


def test_a_failed_change_is_tried_three_times_and_then_left(ledger):
    world = World(NAMES[:1])
    world.broken[CANARY] = HaltuunError("full.", remedy="Free it.", code="DISK_FULL", unchanged=True)
    take_over(world, ledger)
    for _ in range(3):
        assert retry(world, ledger)[CANARY].action == "retry"
    left = retry(world, ledger)[CANARY]
    assert left.action == "leave" and "retried 3 times" in left.why
    assert left.remedy.startswith("Free it.")
    assert world.calls.count(CANARY) == 4


def test_what_a_look_shows_of_a_failed_change_that_changed_nothing_is_not_tried_unless_forced(ledger):
    """A full disk is seen: to try once more proves nothing, and touches production for it."""
    world = World(NAMES[:1])
    world.found[CANARY] = "DISK_FULL"
    world.broken[CANARY] = HaltuunError("full.", remedy="Free it.", code="DISK_FULL", unchanged=True)
    take_over(world, ledger)
    world.calls.clear()
    left = retry(world, ledger)[CANARY]
    assert left.action == "leave" and world.calls == []
    assert (
        "shows DISK_FULL still" in left.why and f"switch {CANARY} on. Nothing has changed since" in left.why
    )
    assert left.remedy == "Free it. To try it all the same: --force."
    for _ in range(3):
        assert retry(world, ledger, force=True)[CANARY].action == "retry"
    assert "retried 3 times" in retry(world, ledger, force=True)[CANARY].why
    assert world.calls == [CANARY] * 3

    world.found.clear()  # it is freed
    world.broken.clear()
    assert retry(world, ledger)[CANARY].changed == ("no longer found: repair DISK_FULL",)
    assert world.switch[CANARY] == "on"


def test_what_is_found_of_a_host_that_was_worse_does_not_keep_its_named_retry(ledger):
    world = World(NAMES[:1])
    world.found[CANARY] = "DISK_FULL"
    world.broken[CANARY] = HaltuunError("full.", remedy="Free it.", code="DISK_FULL")
    take_over(world, ledger)
    assert retry(world, ledger, CANARY)[CANARY].action == "retry"


def test_who_passed_since_is_tried_for_the_same_cause_anew(ledger):
    world = World(NAMES[:1])
    full = HaltuunError("full.", remedy="Free it.", code="DISK_FULL", unchanged=True)
    world.broken[CANARY] = full
    take_over(world, ledger)
    for _ in range(3):
        retry(world, ledger)
    assert retry(world, ledger)[CANARY].action == "leave"
    world.broken.clear()
    take_over(world, ledger)  # it is freed, and passes
    assert ledger.tries(ACCOUNT) == [] and retry(world, ledger) == {}
    world.switch[CANARY], world.broken[CANARY] = "off", full
    take_over(world, ledger)
    assert retry(world, ledger)[CANARY].action == "retry"
    assert len(ledger.tries(ACCOUNT)) == 1


def test_a_bar_holds_until_it_is_lifted_and_what_is_possible_then_is_said(ledger):
    world = World(NAMES[:2])
    bar = {CANARY: Barred(host=CANARY, code="AGENT_PACKAGE", message="no package.", remedy="Configure it.")}
    take_over(world, ledger, barred=bar)
    left = retry(world, ledger, barred=bar)[CANARY]
    assert left.action == "leave" and left.remedy.startswith("Configure it.")
    assert CANARY not in world.calls
    again = retry(world, ledger)[CANARY]
    assert again.changed == ("bars it no longer: repair AGENT_PACKAGE", f"possible now: switch {CANARY} on")
    assert world.switch[CANARY] == "on"


def test_unknown_stays_unknown_until_it_is_seen(ledger):
    world = World(NAMES[:1])
    world.switch[CANARY] = Unknown(unknown="ACCESS_DENIED: not allowed")
    take_over(world, ledger)
    assert retry(world, ledger)[CANARY].action == "leave"
    world.switch[CANARY] = "elsewhere"
    assert retry(world, ledger)[CANARY].changed == ("on was unknown (ACCESS_DENIED), is False",)


def test_a_host_that_is_gone_is_not_looked_at(ledger):
    world = World()
    world.broken[CANARY] = HaltuunError("no.", code="NOT_PROVEN")
    take_over(world, ledger)
    decided = retry(world, ledger, there=NAMES[1:])
    assert "not among the account's instances" in decided[CANARY].why
    # With the host that ended it the reason is gone.
    assert decided[SECOND].action == "retry"


def test_a_try_is_of_the_run_that_made_it(ledger):
    world = World(NAMES[:1])
    world.broken[CANARY] = HaltuunError("no.", code="DISK_FULL", unchanged=True)
    take_over(world, ledger)
    decision = retry(world, ledger)[CANARY]
    counted = ledger.host_events(ACCOUNT, "tried")
    assert [(event.host, event.stage, event.body) for event in counted] == [
        (CANARY, StageName.repair, {"cause": decision.cause})
    ]
    assert [event.run for event in counted] == [ledger.runs(ACCOUNT)[-1].run]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [("Stopped", "was stopped"), ("Failed", "failed"), ("", "has not ended"), ("PartiallyDone", "")],
)
def test_of_hosts_that_had_no_turn_it_says_what_goes_on_with_them(ledger, outcome, said):
    """They are not held: the run was stopped, or killed, before anything was judged."""
    takeover = start(World(), ledger, only_hosts=NAMES[:2])
    ledger.start_run(ACCOUNT, "stopped", {"mode": "apply", "hosts": [CANARY]}, takeover.run.now())
    if outcome:
        ledger.end_run(ACCOUNT, "stopped", outcome, {}, takeover.run.now())
    told = unfinished(ledger, ACCOUNT, "acme")
    assert bool(told) == bool(said) and said in told
    if said:
        assert told.endswith(f"To go on: haltuun takeover acme --host {CANARY}")


def test_of_a_named_host_that_nothing_holds_there_is_said_so(ledger):
    world = World(NAMES[:2])
    world.broken[CANARY] = HaltuunError("no.", code="DISK_FULL", unchanged=True)
    take_over(world, ledger)
    named, known = [CANARY, SECOND, "i-gone"], ledger.hosts(ACCOUNT)
    assert not_held(named, held_in(ledger, ACCOUNT, None, named), known, None) == {
        SECOND: "is not held: left alone.",
        "i-gone": "is not known to the ledger: left alone.",
    }
    elsewhere = held_in(ledger, ACCOUNT, StageName.backup, [CANARY])
    assert not_held([CANARY], elsewhere, known, StageName.backup) == {
        CANARY: "is not held in backup: left alone."
    }
