"""Undo on small stages of its own and on random histories: what goes back, in which order, and what stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haltuun.config import AccountConfig, Config
from haltuun.effects import effects, left
from haltuun.errors import (
    AwsError,
    CommandTimeout,
    ConfigError,
    HaltuunError,
    LeaseHeld,
    LeaseLost,
    PlanStale,
)
from haltuun.ledger import ChangeEvent, Ledger
from haltuun.model import Change, HostStatus, Proof, Reach, StageName, Undo, Unknown, Verdict
from haltuun.report.changes import taken_back
from haltuun.report.page import undone_line
from haltuun.report.render import undo_markdown
from haltuun.report.rows import read
from haltuun.stages import polling
from haltuun.stages.base import Kind
from haltuun.undo import Undoing, find_run, open_undo, plan_undo
from tests.core.test_engine import ACCOUNT, NAMES, World, account, go, ledger, make_stages, start

__all__ = ["account", "ledger"]  # fixtures

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
KINDS = {StageName.repair: {"k": Kind("k", lambda run, c: None, lambda run, c: None)}}


def change(n: int, *needs: str, undo: bool = True, hosts: tuple[str, ...] = ()) -> Change:
    return Change(
        stage=StageName.repair,
        kind="k",
        region="r",
        target=f"t{n}",
        hosts=hosts,
        before=None,
        after=n,
        reach=Reach.account,
        summary=f"make t{n}",
        undo=Undo(kind="k", after=None) if undo else None,
        no_undo="" if undo else "it is data",
        depends_on=needs,
    )


def told(*events: tuple[str, Change, str]) -> list[ChangeEvent]:
    return [
        ChangeEvent(run=run, change_id=c.id, event=event, at=NOW + timedelta(seconds=n), change=c)
        for n, (run, c, event) in enumerate(events)
    ]


def made(run: str, *changes: Change) -> list[tuple[str, Change, str]]:
    return [(run, c, event) for c in changes for event in ("intended", "sent", "confirmed")]


def standing(events: list[ChangeEvent]) -> list[ChangeEvent]:
    return list(effects(events)[0].values())


def back(c: Change) -> Change:
    return next(s.inverse for s in plan_undo(told(*made("1", c)), "1", KINDS) if s.inverse)


def test_what_is_in_effect_follows_the_history() -> None:
    a = change(1)
    undone = back(a)
    again = undone.model_copy(
        update={"before": undone.after, "after": undone.before, "undoes": undone.id, "undo": None}
    )
    history = made("1", a)
    assert [(s.change.id, s.run) for s in standing(told(*history))] == [(a.id, "1")]
    history += made("2", undone)
    assert [(s.change.id, s.run) for s in standing(told(*history))] == [(undone.id, "2")]
    assert [(s.change.id, s.run) for s in standing(told(*history, *made("3", again)))] == [(a.id, "1")]
    assert [(s.change.id, s.run) for s in standing(told(*history, *made("4", a)))] == [(a.id, "4")]
    failed = [("5", a, "intended"), ("5", a, "sent"), ("5", a, "failed")]
    assert standing(told(*made("1", a), *failed)) == []


def test_what_a_killed_run_sent_is_its_own_whoever_found_it_done() -> None:
    a = change(1)
    history = told(("1", a, "intended"), ("1", a, "sent"), ("2", a, "confirmed"))
    assert [(s.change.id, s.run) for s in standing(history)] == [(a.id, "1")]


@given(data=st.data())
def test_dependants_go_back_first_and_what_others_need_stays(data: st.DataObject) -> None:
    runs, changes = {}, []
    for n in range(data.draw(st.integers(1, 8))):
        needs = data.draw(st.lists(st.sampled_from([c.id for c in changes] or [""]), unique=True, max_size=3))
        one = change(n, *filter(None, needs), undo=data.draw(st.booleans()))
        runs[one.id] = data.draw(st.sampled_from(["1", "2"]))
        changes.append(one)
    history = told(*(event for c in changes for event in made(runs[c.id], c)))
    steps = plan_undo(history, "1", KINDS)
    assert {s.change.id for s in steps} == {c.id for c in changes if runs[c.id] == "1"}
    place = {s.change.id: n for n, s in enumerate(steps)}
    by_id = {c.id: c for c in changes}
    for step in steps:
        assert (step.inverse is None) == bool(step.status)
        for need in step.change.depends_on:
            if need in place:
                assert place[step.change.id] < place[need]
    for c in changes:
        if runs[c.id] == "2":
            for need in c.depends_on:
                step = next((s for s in steps if s.change.id == need), None)
                assert step is None or step.inverse is None, f"{c.summary} needs {by_id[need].summary}"


def test_what_a_later_run_changed_further_stays_until_that_run_is_taken_back() -> None:
    first = change(1)
    further = first.model_copy(update={"before": 1, "after": 2, "undo": Undo(kind="k", after=1)})
    (step,) = plan_undo(told(*made("1", first), *made("2", further)), "1", KINDS)
    assert (step.status, "Run 2" in step.message) == ("needed", True)
    (step,) = plan_undo(told(*made("1", first), *made("2", further), *made("3", back(further))), "1", KINDS)
    assert step.inverse is not None


def test_what_is_made_again_builds_on_what_it_was_built_on_before() -> None:
    """A selection that was set otherwise: run "b" takes it away and makes it again, which is "a"'s change."""
    plan, gone = change(1), change(3)
    selection = change(2, plan.id)
    again = selection.model_copy(update={"depends_on": (gone.id,)})
    assert again.id == selection.id
    events = told(*made("a", plan, selection), *made("b", gone, again))
    assert {s.change.id: s.status for s in plan_undo(events, "a", KINDS)} == {plan.id: "needed"}


def test_what_was_built_before_a_run_made_its_part_anew_does_not_keep_that_part() -> None:
    role = change(1)
    restart = change(2, role.id, undo=False)
    history = told(*made("1", role, restart), *made("2", back(role)), *made("3", role))
    (step,) = plan_undo(history, "3", KINDS)
    assert (step.change.id, step.status) == (role.id, "")


# -- on a little account ---------------------------------------------------------------------------


def taken_over(world: World, ledger: Ledger) -> str:
    takeover = start(world, ledger)
    takeover.approve(None, everything=True, who="me")
    go(takeover)
    world.calls.clear()
    return takeover.run.id


def undoing(world: World, ledger: Ledger, of: str, *, approved: bool = True) -> Undoing:
    config = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=["eu-central-1"])])
    made = open_undo(
        config,
        of,
        approved=approved,
        stages=make_stages(world),
        opener=lambda run, host: None,  # type: ignore[arg-type,return-value]
        ledger=ledger,
    )
    made.begin("me")
    return made


def undo(world: World, ledger: Ledger, of: str) -> tuple[str, dict[str, str]]:
    going = undoing(world, ledger, of)
    for wave in going.waves():
        for host in wave:
            going.act_on_host(host)
    going.act_on_account()
    outcome = going.outcome()
    going.end(outcome)
    return outcome, {step.change.target: step.status for step in going.steps}


def repairs(ledger: Ledger) -> dict[str, str]:
    """Host → the verdict of its repair, or its reason where there is one."""
    found = {host: stages[StageName.repair] for host, stages in ledger.status(ACCOUNT).items()}
    return {host: status.reason or status.verdict.value for host, status in found.items()}


def test_everything_goes_back_and_an_undo_of_the_undo_has_it_again_but_for_repairs(ledger: Ledger) -> None:
    world = World()
    of = taken_over(world, ledger)
    outcome, _ = undo(world, ledger, of)
    assert outcome == "Undone"
    assert (world.shared, set(world.switch.values())) == ("off", {"off"})
    assert undo(world, ledger, of) == ("NothingToUndo", {})
    last = ledger.runs(ACCOUNT)[-2]
    assert (last.mode, last.outcome) == ("undo", "Undone")
    again, steps = undo(world, ledger, last.run)
    assert (again, world.shared) == ("Undone", "on")
    assert {steps[name] for name in NAMES} == {"kept"}
    assert undo(world, ledger, of)[0] == "Undone"
    assert world.shared == "off"


def test_who_approved_an_undo_is_told_beside_what_it_took_back(ledger: Ledger) -> None:
    world = World()
    undo(world, ledger, taken_over(world, ledger))
    (undone,) = taken_back(read(ledger, ACCOUNT))
    assert f"Run {undone.run}, approved by me, took {undone.count} change(s) back." in undone_line(undone)


def test_what_is_not_shown_yet_right_after_it_was_sent_is_taken_back_all_the_same(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(World):
        """AWS shows the account's switch at the third look only."""

        def __init__(self) -> None:
            super().__init__(NAMES[:1])
            self.seen = ["off", "off", "on"]

        @property
        def shared(self) -> str:
            return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]

        @shared.setter
        def shared(self, value: str) -> None:
            self.seen = [value]

    monkeypatch.setattr(polling, "FIRST_WAIT_S", 0.01)
    first = start(World(NAMES[:1]), ledger)
    shared = next(change for change in first.plan.changes if change.kind == "shared")
    for event in ("intended", "sent", "unknown"):
        ledger.journal(first.run.id, ACCOUNT, shared, event, first.run.now())
    first.end("PartiallyDone")
    late = Late()
    assert undo(late, ledger, first.run.id) == ("Undone", {"account": "done"})
    assert late.shared == "off"


def test_what_is_of_the_account_goes_back_last_even_where_it_concerns_one_host(ledger: Ledger) -> None:
    world = World()
    world.sharing = NAMES[3:4]
    outcome, steps = undo(world, ledger, taken_over(world, ledger))
    assert (outcome, set(steps.values())) == ("Undone", {"done"})
    assert world.calls[-1] == "shared"
    assert (world.shared, set(world.switch.values())) == ("off", {"off"})


def test_a_look_beforehand_changes_nothing_and_says_what_would_go_back(ledger: Ledger) -> None:
    world = World()
    of = taken_over(world, ledger)
    world.switch[NAMES[0]] = "elsewhere"
    world.switch[NAMES[1]] = Unknown(unknown="denied")
    world.switch[NAMES[2]] = "off"
    look = undoing(world, ledger, of, approved=False)
    look.preview([step.change.id for step in look.steps])
    seen = {step.change.target: step.status for step in look.steps}
    assert [seen[n] for n in NAMES[:4]] == ["stale", "unknown", "already", "ready"]
    assert look.outcome() == "AwaitingApproval"
    look.end(look.outcome())
    assert world.calls == []
    assert ledger.runs(ACCOUNT)[-1].mode == "apply"


def test_a_look_knows_what_the_runs_own_later_change_will_have_given_back(ledger: Ledger) -> None:
    world = World()
    of = taken_over(world, ledger)
    made = next(
        s.change for s in undoing(world, ledger, of, approved=False).steps if s.change.target == "account"
    )
    further = made.model_copy(
        update={"before": "on", "after": "loud", "undo": Undo(kind=made.kind, after="on"), "depends_on": ()}
    )
    for event in ("intended", "sent", "confirmed"):
        ledger.journal(of, ACCOUNT, further, event, datetime.now(UTC))
    world.shared = "loud"
    look = undoing(world, ledger, of, approved=False)
    look.preview([step.change.id for step in look.steps])
    of_the_account = [s.status for s in look.steps if s.change.target == "account"]
    assert of_the_account == ["ready", "ready"]
    assert undo(world, ledger, of)[0] == "Undone" and world.shared == "off"


def test_drift_and_doubt_keep_their_own_target_and_what_it_needs(ledger: Ledger) -> None:
    world = World()
    of = taken_over(world, ledger)
    world.switch[NAMES[0]] = "elsewhere"
    world.switch[NAMES[5]] = Unknown(unknown="denied")  # it depends on the account's switch
    outcome, steps = undo(world, ledger, of)
    assert outcome == "PartlyUndone"
    assert (steps[NAMES[0]], steps[NAMES[5]], steps["account"]) == ("stale", "unknown", "waits")
    assert {steps[n] for n in NAMES[1:5]} == {"done"}
    assert (world.switch[NAMES[0]], world.shared) == ("elsewhere", "on")


def test_an_undo_says_of_each_change_whether_it_is_undone_in_turn(ledger: Ledger) -> None:
    world = World(NAMES[:2])
    of = taken_over(world, ledger)
    world.switch[NAMES[1]] = "elsewhere"
    look = undoing(world, ledger, of, approved=False)
    look.preview([step.change.id for step in look.steps])
    said = {step.change.target: (step.in_turn, step.not_in_turn) for step in look.steps}
    assert said["account"] == (True, "")
    again, why = said[NAMES[0]]
    assert not again and why.startswith("Not undone in turn: The next takeover repairs the host again")
    assert said[NAMES[1]] == (False, "")  # it stays


def test_what_goes_back_in_part_is_said_before_and_when_it_is_done(ledger: Ledger) -> None:
    world = World(NAMES[:2])
    world.in_part = "What was switched on meanwhile stays."
    of = taken_over(world, ledger)
    look = undoing(world, ledger, of, approved=False)
    look.preview([step.change.id for step in look.steps])
    going = undoing(world, ledger, of)
    for host in NAMES[:2]:
        going.act_on_host(host)
    going.act_on_account()
    for steps, status in ((look.steps, "ready"), (going.steps, "done")):
        told = {step.change.target: (step.status, step.message) for step in steps}
        partly = (status, "In part: What was switched on meanwhile stays.")
        assert told == {NAMES[0]: partly, NAMES[1]: partly, "account": (status, "")}
        page = undo_markdown(of, "acme", "Undone", steps, ledger.hosts(ACCOUNT))
        assert page.count(" In part: What was switched on meanwhile stays.") == 2
    going.end(going.outcome())
    assert left(ledger.runs(ACCOUNT)) == {}, "it is no reason to try again"


def gone_back(stages: Any, ledger: Ledger, of: str) -> tuple[str, Any]:
    """A whole undo of what is of the first two hosts or of the account."""
    config = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=["eu-central-1"])])
    nobody: Any = lambda run, host: None  # noqa: E731
    going = open_undo(config, of, approved=True, stages=stages, opener=nobody, ledger=ledger)
    going.begin("me")
    for host in NAMES[:2]:
        going.act_on_host(host)
    going.act_on_account()
    outcome = going.outcome()
    going.end(outcome)
    return outcome, going.steps


@pytest.mark.parametrize(
    ("parts", "first"),
    [(lambda changes: [changes], "waits"), (lambda changes: [changes[:3], changes[3:]], "needed")],
    ids=["of one run", "of another run"],
)
def test_what_a_host_is_reached_by_waits_for_what_is_taken_back_over_it(
    ledger: Ledger, parts: Any, first: str
) -> None:
    """A host that does not answer keeps its repair and the role that it shares; its neighbour goes back."""
    world = World(NAMES[:2])
    there: dict[tuple[str, str], Any] = {}
    away = {NAMES[0]}

    def apply(run: Any, c: Change) -> None:
        if c.kind == "ship" and c.target in away:
            raise HaltuunError("it does not answer", subject=c.target, unchanged=True)
        there[c.kind, c.target] = c.after

    def kind(name: str) -> Kind:
        return Kind(name, lambda run, c: there[c.kind, c.target], apply, by_ssm=name == "ship")

    names = {StageName.verify: "role", StageName.repair: "mend", StageName.logs: "ship"}
    like = next(stage for stage in make_stages(world) if stage.name is StageName.repair)
    stages = [replace(like, name=stage, kinds={name: kind(name)}) for stage, name in names.items()]
    of_host = [(stage, host) for stage in (StageName.repair, StageName.logs) for host in NAMES[:2]]
    changes = [
        change(n, hosts=hosts).model_copy(
            update={"stage": stage, "kind": names[stage], "target": target, "after": "on"}
            | {"undo": Undo(kind=names[stage], after=None)}
        )
        for n, (stage, target, hosts) in enumerate(
            [(StageName.verify, "role", NAMES[:2]), *((stage, host, (host,)) for stage, host in of_host)]
        )
    ]

    def go_back(of: str) -> tuple[str, set[tuple[str, str]]]:
        outcome, steps = gone_back(stages, ledger, of)
        return outcome, {(s.change.kind, s.status) for s in steps if s.change.target != NAMES[1]}

    runs = []
    for some in parts(changes):
        takeover = start(world, ledger)
        for run, c, event in made("", *some):
            takeover.run.journal(c, event, run)
            there[c.kind, c.target] = c.after
        takeover.end("Done")
        runs.append(takeover.run.id)
    kept = {("mend", first), ("role", first)}
    if len(runs) == 2:
        assert go_back(runs[0]) == ("PartlyUndone", kept), "the other run goes first"
    assert go_back(runs[-1]) == ("PartlyUndone", {("ship", "failed")} | (kept if len(runs) == 1 else set()))
    if len(runs) == 2:
        assert go_back(runs[0]) == ("PartlyUndone", kept), "as long as its host has not gone back"
    assert {key for key, value in there.items() if value} == {
        ("ship", NAMES[0]),
        ("mend", NAMES[0]),
        ("role", "role"),
    }
    away.clear()
    assert {go_back(run)[0] for run in reversed(runs)} == {"Undone"}
    assert not any(there.values())


def test_what_another_runs_hosts_go_back_by_stays_until_they_have(ledger: Ledger) -> None:
    """A document, say, that the first run made and the second found there. A host that somebody has changed
    since does not go back, and needs it no more."""
    there: dict[tuple[str, str], Any] = {}

    def kind(name: str) -> Kind:
        def apply(run: Any, c: Change) -> None:
            there[c.kind, c.target] = c.after

        return Kind(name, lambda run, c: there[c.kind, c.target], apply, by_ssm=name == "ship")

    like = next(stage for stage in make_stages(World(NAMES[:2])) if stage.name is StageName.repair)
    stages = [replace(like, name=StageName.logs, kinds={name: kind(name) for name in ("document", "ship")})]

    def made_by_a_run(name: str, target: str, hosts: tuple[str, ...], detail: Any = None) -> str:
        run = start(World(NAMES[:2]), ledger)
        given = {"stage": StageName.logs, "kind": name, "target": target, "after": "on", "detail": detail}
        c = change(0, hosts=hosts).model_copy(update={**given, "undo": Undo(kind=name, after=None)})
        for event in ("intended", "sent", "confirmed"):
            run.run.journal(c, event)
        there[name, target] = "on"
        run.end("Done")
        return run.run.id

    first = made_by_a_run("document", "doc", NAMES[:2])
    second, third = [made_by_a_run("ship", host, (host,), {"document": "doc"}) for host in NAMES[:2]]
    _, (step,) = gone_back(stages, ledger, first)
    assert (step.status, step.message.split(":")[0]) == ("needed", f"Run {second} goes back by it, and first")
    there["ship", NAMES[1]] = "by hand"
    assert gone_back(stages, ledger, third)[0] == "PartlyUndone"
    assert gone_back(stages, ledger, first)[1][0].status == "needed"
    assert [gone_back(stages, ledger, run)[0] for run in (second, first)] == ["Undone", "Undone"]
    assert there["document", "doc"] is None and there["ship", NAMES[1]] == "by hand"


def test_what_an_undo_left_and_would_leave_again_is_remembered(ledger: Ledger) -> None:
    world = World()
    of = taken_over(world, ledger)
    world.switch[NAMES[0]] = "elsewhere"
    world.switch[NAMES[1]] = "off"
    world.switch[NAMES[5]] = Unknown(unknown="denied")
    undo(world, ledger, of)
    found = left(ledger.runs(ACCOUNT))
    by_id = {change.id: change.target for change in (e.change for e in ledger.change_events(ACCOUNT))}
    assert {by_id[change]: why for (run, change), why in found.items() if run == of} == {
        NAMES[0]: "It has been changed since; it is left as it is.",
        NAMES[1]: "It is not there any more.",
        NAMES[5]: "It could not be looked at: denied",
        "account": f"Still needed: switch {NAMES[5]} on",
    }
    world.switch[NAMES[5]] = "on"  # the next undo can tell
    undo(world, ledger, of)
    assert {by_id[change] for _, change in left(ledger.runs(ACCOUNT))} == set(NAMES[:2])


def test_an_undo_of_an_undo_clears_what_an_earlier_one_left(ledger: Ledger) -> None:
    world = World(NAMES[:1])
    of = taken_over(world, ledger)
    world.shared = "elsewhere"
    undo(world, ledger, of)
    shared = next(change for run, change in left(ledger.runs(ACCOUNT)))
    assert left(ledger.runs(ACCOUNT)) == {(of, shared): "It has been changed since; it is left as it is."}
    world.shared = "on"
    undo(world, ledger, of)
    undo(world, ledger, ledger.runs(ACCOUNT)[-1].run)
    assert world.shared == "on", "it is there again"
    assert left(ledger.runs(ACCOUNT)) == {}


def test_whether_it_must_stay_and_nobody_can_tell_is_unknown_and_no_reason_to_leave_it(
    ledger: Ledger,
) -> None:
    world = World(NAMES[:1])
    of = taken_over(world, ledger)
    world.keeps = Unknown(unknown="THROTTLED")
    look = undoing(world, ledger, of, approved=False)
    look.preview([step.change.id for step in look.steps])
    assert [s.status for s in look.steps if s.change.target == "account"] == ["unknown"]
    outcome, steps = undo(world, ledger, of)
    assert (outcome, steps["account"], world.shared) == ("PartlyUndone", "unknown", "on")
    assert list(left(ledger.runs(ACCOUNT)).values()) == ["It could not be looked at: THROTTLED"]
    world.keeps = "It holds something."
    outcome, steps = undo(world, ledger, of)
    assert (outcome, steps["account"], world.shared) == ("Undone", "kept", "on")
    assert list(left(ledger.runs(ACCOUNT)).values()) == ["It holds something."]
    world.keeps = ""
    assert undo(world, ledger, of)[0] == "Undone" and world.shared == "off"


def test_a_host_that_does_not_go_back_ends_the_undo_there(ledger: Ledger) -> None:
    world = World()
    of = taken_over(world, ledger)
    for name in NAMES:
        world.broken[name] = HaltuunError("the disk is full.", subject=name, code="DISK_FULL")
        world.after_failure[name] = "on"
    outcome, steps = undo(world, ledger, of)
    assert outcome == "PartlyUndone"
    assert len(world.calls) == 1
    assert sorted(steps[name] for name in NAMES) == ["failed", *["waits"] * 5]
    assert steps["account"] == "waits"
    why = Counter(left(ledger.runs(ACCOUNT)).values())
    assert sorted(why.values()) == [1, len(NAMES)]  # the one that failed; the others, and the account's
    assert all("the disk is full" in said for said in why)
    assert sum(n for said, n in why.items() if said.startswith("Not begun: ")) == len(NAMES)


def test_a_host_that_refuses_before_anything_was_changed_keeps_only_its_own(ledger: Ledger) -> None:
    world = World()
    of = taken_over(world, ledger)
    first = undoing(world, ledger, of, approved=False).waves()[0][0]
    world.broken[first] = PlanStale("the file was changed since.", subject=first, unchanged=True)
    world.after_failure[first] = "on"
    outcome, steps = undo(world, ledger, of)
    assert outcome == "PartlyUndone"
    # The first one needs what is of the account.
    assert (steps.pop(first), steps.pop("account")) == ("failed", "waits")
    assert set(steps.values()) == {"done"}


def test_it_is_refused_while_a_run_works_on_the_account(ledger: Ledger) -> None:
    world = World(NAMES[:1])
    of = taken_over(world, ledger)
    ledger.take_lease(ACCOUNT, "another")
    with pytest.raises(LeaseHeld):
        undoing(world, ledger, of)
    assert world.calls == []


def test_killed_in_the_middle_the_next_one_goes_on(ledger: Ledger) -> None:
    world = World(NAMES[:3])
    of = taken_over(world, ledger)
    killed = undoing(world, ledger, of)
    killed.act_on_host(killed.waves()[0][0])
    second = killed.waves()[1][0]
    world.broken[second] = KeyboardInterrupt()  # the process is told to die in the call, which arrived
    world.after_failure[second] = "off"
    with pytest.raises(KeyboardInterrupt):
        killed.act_on_host(second)
    world.broken.clear()
    assert killed.lease is not None
    ledger.release_lease(killed.lease)
    assert world.switch[third := killed.waves()[2][0]] == "on"
    assert repairs(ledger) == {killed.waves()[0][0]: "UNDONE", second: "UNDONE", third: "passed"}
    world.calls.clear()
    assert undo(world, ledger, of)[0] == "Undone"
    assert second not in world.calls
    assert set(world.switch.values()) == {"off"}
    assert set(repairs(ledger).values()) == {"UNDONE"}
    go(start(world, ledger))
    assert set(repairs(ledger).values()) == {"passed"}


def test_killed_at_what_is_of_the_account_it_leaves_nobody_passed_whom_that_concerns(ledger: Ledger) -> None:
    world = World(NAMES[:3])
    world.sharing = NAMES[1:3]
    of = taken_over(world, ledger)
    killed = undoing(world, ledger, of)
    killed.act_on_account()
    assert world.shared == "off"
    assert repairs(ledger) == {NAMES[0]: "passed", NAMES[1]: "UNDONE", NAMES[2]: "UNDONE"}


def test_what_names_no_host_concerns_all(ledger: Ledger) -> None:
    world = World(NAMES[:2])
    killed = undoing(world, ledger, taken_over(world, ledger))
    killed.act_on_account()
    assert world.shared == "off" and repairs(ledger) == dict.fromkeys(NAMES[:2], "UNDONE")


def test_whom_an_undo_concerns_beside_its_run_is_not_passed_any_more(ledger: Ledger) -> None:
    """What is of the account goes, and hosts of a later run that found it there use it, too."""
    world = World()
    world.hosts = world.sharing = NAMES[:2]
    of = taken_over(world, ledger)
    world.hosts = NAMES[:4]
    later = taken_over(world, ledger)
    held = HostStatus(verdict=Verdict.held, reason="OFF")
    ledger.judged(ACCOUNT, later, StageName.repair, {NAMES[3]: held}, NOW)
    going = undoing(world, ledger, of)
    for host in NAMES[:2]:
        going.act_on_host(host)
    others = {NAMES[2]: "passed", NAMES[3]: "OFF"}
    assert repairs(ledger) == {NAMES[0]: "UNDONE", NAMES[1]: "UNDONE", **others}
    going.act_on_account()
    assert world.shared == "off"
    assert repairs(ledger) == {**dict.fromkeys(NAMES[:3], "UNDONE"), NAMES[3]: "OFF"}


def test_whom_a_change_named_as_concerned_is_not_passed_when_it_goes(ledger: Ledger) -> None:
    """As it was named: by its id and more. It was in no state to be taken over when the change was made."""
    world = World(NAMES[:2])
    world.sharing, world.others = NAMES[:1], (f"{NAMES[1]} web-02 (SUSPECT)",)
    of = taken_over(world, ledger)
    going = undoing(world, ledger, of)
    going.act_on_host(NAMES[0])
    assert repairs(ledger)[NAMES[1]] == "passed"
    going.act_on_account()
    assert world.shared == "off" and repairs(ledger)[NAMES[1]] == "UNDONE"


def test_what_was_not_begun_to_be_taken_back_stays_passed(ledger: Ledger) -> None:
    world = World(NAMES[:2])
    of = taken_over(world, ledger)
    world.switch[NAMES[0]] = Unknown(unknown="denied")
    undoing(world, ledger, of).act_on_host(NAMES[0])
    assert repairs(ledger) == dict.fromkeys(NAMES[:2], "passed")


def test_an_undo_that_lost_its_lease_writes_over_nothing_of_the_run_that_has_it(ledger: Ledger) -> None:
    world = World(NAMES[:2])
    of = taken_over(world, ledger)
    late = undoing(world, ledger, of)
    late.act_on_host(NAMES[0])
    assert late.lease is not None
    ledger.release_lease(late.lease)
    again = start(world, ledger)
    again.approve(None, everything=True, who="me")
    go(again)
    assert set(repairs(ledger).values()) == {"passed"}
    later = datetime.now(UTC) + timedelta(days=1)
    proof = Proof(
        stage=StageName.repair,
        host=NAMES[0],
        kind="echo",
        evidence="x",
        observed_at=NOW,
        valid_until=later,
    )
    ledger.proved(ACCOUNT, again.run.id, [proof])
    with pytest.raises(LeaseLost):
        late.act_on_host(NAMES[1])
    late.end("Failed")
    assert set(repairs(ledger).values()) == {"passed"}
    now = datetime.now(UTC)
    assert ledger.valid_proof(ACCOUNT, StageName.repair, "echo", NAMES[0], now) is not None
    assert {run.run: run.outcome for run in ledger.runs(ACCOUNT)}[late.run.id] == "Failed"


@pytest.mark.parametrize(
    "error",
    [
        CommandTimeout("no answer.", subject=NAMES[0]),
        AwsError("it is there.", subject=NAMES[0], code="EntityAlreadyExists"),
        AwsError("it is there.", subject=NAMES[0], code="InvalidPermission.Duplicate"),
        AwsError("There is an existing association.", subject=NAMES[0], code="IncorrectState"),
    ],
    ids=lambda error: error.code,
)
def test_an_answer_that_never_came_is_looked_for_and_so_is_what_is_said_to_be_there(
    ledger: Ledger, error: HaltuunError
) -> None:
    """botocore sends a call again whose answer was lost, and the second is refused."""
    world = World(NAMES[:1])
    of = taken_over(world, ledger)
    world.broken[NAMES[0]] = error
    world.after_failure[NAMES[0]] = "off"
    outcome, steps = undo(world, ledger, of)
    assert (outcome, steps[NAMES[0]]) == ("Undone", "done")


def test_what_was_proven_and_judged_holds_no_more(ledger: Ledger) -> None:
    world = World(NAMES[:1])
    of = taken_over(world, ledger)
    proof: dict[str, Any] = {"host": NAMES[0], "kind": "echo", "evidence": "x", "observed_at": NOW}
    for stage in (StageName.repair, StageName.discover):
        later = datetime.now(UTC) + timedelta(days=1)
        ledger.proved(ACCOUNT, of, [Proof(stage=stage, valid_until=later, **proof)])
    undo(world, ledger, of)
    now = datetime.now(UTC)
    assert ledger.valid_proof(ACCOUNT, StageName.repair, "echo", NAMES[0], now) is None
    assert ledger.valid_proof(ACCOUNT, StageName.discover, "echo", NAMES[0], now) is not None
    status = ledger.status(ACCOUNT)[NAMES[0]]
    assert status[StageName.repair].reason == "UNDONE"
    assert status[StageName.discover].verdict.value == "passed"


def test_a_run_that_is_not_there_or_only_planned_is_named(ledger: Ledger) -> None:
    config = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=["eu-central-1"])])
    world = World(NAMES[:1])
    planned = start(world, ledger, mode="plan").run.id
    of = taken_over(world, ledger)
    with pytest.raises(ConfigError, match=of):
        find_run(config, ledger, "nope")
    with pytest.raises(ConfigError, match="only planned"):
        find_run(config, ledger, planned)
    assert find_run(config, ledger, of)[0] == ACCOUNT
