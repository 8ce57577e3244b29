"""The engine on small stages of its own: what is performed, what waits, what holds whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from moto import mock_aws

from haltuun import engine, perform, stopping
from haltuun.config import AccountConfig, Config, PolicyConfig
from haltuun.effects import open_changes
from haltuun.errors import AwsUnanswered, CommandTimeout, ConfigError, HaltuunError, LeaseHeld, LeaseLost
from haltuun.gates import Check
from haltuun.ledger import Ledger
from haltuun.model import (
    Barred,
    Change,
    Facts,
    Finding,
    Frozen,
    Host,
    Reach,
    Severity,
    StageName,
    StagePlan,
    Undo,
    Unknown,
    Verdict,
)
from haltuun.stages import polling
from haltuun.stages.base import Kind, Proven, Stage, no_proof

ACCOUNT = "123456789012"  # moto's
NAMES = tuple(f"i-{n:08x}" for n in range(6))


class World:
    """What the little stages look at and change: a switch a host and one of the account."""

    def __init__(self, hosts: tuple[str, ...] = NAMES) -> None:
        self.hosts = hosts
        self.switch: dict[str, Any] = {host: "off" for host in hosts}
        self.shared = "off"
        self.sharing: tuple[str, ...] = ()  # the hosts that the account's switch concerns
        self.others: tuple[str, ...] = ()  # who else it concerns, as told
        self.reach = Reach.shared  # of the account's switch
        self.goal = "on"  # what the account is to be switched to
        self.in_part = ""  # what of a host's switch an undo leaves
        self.keeps: str | Unknown = ""  # why the account's switch must stay on
        self.broken: dict[str, Exception] = {}
        self.after_failure: dict[str, Any] = {}
        self.calls: list[str] = []
        self.found: dict[str, str] = {}  # host → the code of what a look finds there


class SwitchFacts(Facts):
    on: bool | Unknown = Unknown(unknown="not looked")


class NoFacts(Frozen):
    pass


def make_stages(world: World, barred: Mapping[str, Barred] | None = None) -> tuple[Stage, ...]:
    def parse(view: Any, host: Host, raw: Any, host_raw: Any) -> SwitchFacts:
        value = raw[host.instance_id]
        return SwitchFacts(on=value if isinstance(value, Unknown) else value == "on")

    def plan(view: Any) -> StagePlan:
        shared = Change(
            stage=StageName.repair,
            kind="shared",
            region="r",
            target="account",
            hosts=world.sharing,
            before=world.shared,
            after=world.goal,
            reach=world.reach,
            summary="switch the account on",
            concerns=world.others,
            undo=Undo(kind="shared", after=world.shared),
        )
        changes = [] if world.shared == world.goal else [shared]
        for host in view.entering:
            if host in (barred or {}) or world.switch[host] not in ("off", "dim"):
                continue
            changes.append(
                Change(
                    stage=StageName.repair,
                    kind="switch",
                    region="r",
                    target=host,
                    hosts=(host,),
                    before=world.switch[host],
                    after="on",
                    reach=Reach.host,
                    summary=f"switch {host} on",
                    undo=Undo(kind="switch", after="off"),
                    no_undo=world.in_part,
                    depends_on=(shared.id,) if host == NAMES[5] and shared in changes else (),
                )
            )
        return StagePlan(changes=tuple(changes), barred=tuple((barred or {}).values()))

    def apply_switch(run: Any, change: Change) -> None:
        world.calls.append(change.target)
        if change.target in world.broken:
            world.switch[change.target] = world.after_failure.get(change.target, "off")
            raise world.broken[change.target]
        world.switch[change.target] = change.after

    def apply_shared(run: Any, change: Change) -> None:
        world.calls.append("shared")
        world.shared = change.after

    repair = Stage(
        name=StageName.repair,
        needs=(StageName.discover,),
        account_facts=NoFacts,
        host_facts=SwitchFacts,
        probe_account=lambda run, hosts: dict(world.switch),
        parse_account=lambda view, raw: NoFacts(),
        probe_host=None,
        parse_host=parse,
        judge=lambda view: tuple(
            Finding(code=code, severity=Severity.high, host=host, message="It is found.", remedy="Mend it.")
            for host, code in world.found.items()
            if host in view.hosts
        ),
        plan=plan,
        kinds={
            "switch": Kind("switch", lambda run, c: world.switch[c.target], apply_switch, on_host=True),
            "shared": Kind(
                "shared", lambda run, c: world.shared, apply_shared, keeps=lambda run, c: world.keeps
            ),
        },
        prove=no_proof,
        checks=(
            Check(column="on", op="in_set", values=(True,), code="OFF", message="is off", remedy="switch"),
        ),
    )
    discover = Stage(
        name=StageName.discover,
        needs=(),
        account_facts=NoFacts,
        host_facts=Facts,
        probe_account=lambda run, hosts: {},
        parse_account=lambda view, raw: NoFacts(),
        probe_host=None,
        parse_host=lambda view, host, raw, host_raw: Facts(),
        judge=lambda view: (),
        plan=lambda view: StagePlan(),
        kinds={},
        prove=no_proof,
        checks=(),
    )
    return discover, repair


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def account(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


def start(
    world: World, ledger: Ledger, *, mode: str = "apply", policy: PolicyConfig | None = None, **more: Any
):
    config = Config(
        accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=["eu-central-1"])],
        policy=policy or PolicyConfig(),
    )
    run = engine.open_run(config, "acme", mode, lambda run, host: None, ledger=ledger)
    takeover = engine.Takeover(
        run,
        more.pop("stages", None) or make_stages(world, more.pop("barred", None)),
        lister=lambda run: [Host(account=ACCOUNT, region="r", instance_id=i) for i in world.hosts],
        **more,
    )
    takeover.begin({})
    for stage in takeover.stages:
        takeover.look_account(stage)
        takeover.settle(stage)
        takeover.plan_stage(stage)
    takeover.make_plan()
    return takeover


def go(takeover: engine.Takeover) -> str:
    for stage in takeover.sequence():
        takeover.enter(stage)
        takeover.apply_account(stage)
        for wave in takeover.waves(stage):
            for host in wave:
                takeover.work_host(stage, host)
        takeover.look_account(stage)
        takeover.prove(stage)
        takeover.gate(stage)
    outcome = takeover.outcome()
    takeover.end(outcome)
    return outcome


def verdicts(takeover: engine.Takeover) -> dict[str, Verdict]:
    return {host: status.verdict for host, status in takeover.progress[StageName.repair].statuses.items()}


def test_unasked_only_what_concerns_one_host_and_depends_on_nothing_unapproved(ledger):
    world = World()
    takeover = start(world, ledger)
    takeover.approve(None, everything=False, who="me")
    assert go(takeover) == "AwaitingApproval"
    assert world.calls == list(NAMES[:5])
    status = takeover.progress[StageName.repair].statuses[NAMES[5]]
    assert (status.verdict, status.reason) == (Verdict.pending, "AWAITS_APPROVAL")
    assert takeover.plan_hash in status.remedy


def test_the_approved_hash_performs_the_rest_and_a_third_run_nothing(ledger):
    world = World()
    first = start(world, ledger)
    first.approve(None, everything=False, who="me")
    go(first)
    second = start(world, ledger)
    second.approve(first.plan_hash, everything=False, who="me")
    assert go(second) == "Done"
    assert world.shared == "on"
    assert set(world.switch.values()) == {"on"}
    world.calls.clear()
    third = start(world, ledger)
    third.approve(None, everything=False, who="me")
    assert go(third) == "Done"
    assert third.plan is not None and third.plan.changes == ()
    assert world.calls == []


def test_a_stage_forgets_what_was_read_when_it_is_parsed(ledger):
    forgotten: list[int] = []
    takeover = start(World(), ledger, mode="plan")
    for name, stage in takeover.stages.items():
        takeover.stages[name] = replace(stage, forget=lambda: forgotten.append(1))
    takeover.look_account(StageName.repair)
    takeover.settle(StageName.repair)
    assert len(forgotten) == 2


def test_plan_mode_performs_nothing_and_takes_no_lease(ledger):
    world = World()
    takeover = start(world, ledger, mode="plan")
    assert takeover.lease is None
    assert len(takeover.plan.changes) == 7
    assert world.calls == []


def test_one_host_never_fails_its_neighbours_and_its_error_is_its_reason(ledger):
    world = World()
    world.broken[NAMES[0]] = HaltuunError(
        "the disk is full.", subject=NAMES[0], remedy="Free it.", code="DISK_FULL"
    )
    world.broken[NAMES[1]] = ZeroDivisionError()
    takeover = start(world, ledger, only_hosts=NAMES[:3])
    takeover.approve(None, everything=True, who="me")
    # A single canary that fails stops the stage; here all are worked on to see them side by side.
    for host in NAMES[:3]:
        takeover.progress[StageName.repair].stopped = ""
        takeover.enter(StageName.discover)
        takeover.gate(StageName.discover)
        takeover.enter(StageName.repair)
        takeover.apply_account(StageName.repair)
        takeover.work_host(StageName.repair, host)
    takeover.look_account(StageName.repair)
    takeover.prove(StageName.repair)
    statuses = takeover.gate(StageName.repair)
    assert statuses[NAMES[0]].reason == "DISK_FULL"
    assert statuses[NAMES[1]].reason == "INTERNAL"
    assert statuses[NAMES[2]].verdict is Verdict.passed


def test_a_host_that_cannot_be_judged_keeps_only_its_own(ledger):
    world = World()
    odd = NAMES[2]

    def judge(view):
        seen = view.facts[StageName.repair]
        return [Finding(code="SEEN", severity="info", host=h, message=f"{1 / (h != odd)}") for h in seen]

    discover, repair = make_stages(world)
    takeover = start(world, ledger, stages=(discover, replace(repair, judge=judge)))
    found = {f.host: f.code for f in takeover.progress[StageName.repair].findings}
    assert found == {**dict.fromkeys(NAMES, "SEEN"), odd: "INTERNAL", None: "INTERNAL"}
    takeover.approve(None, everything=True, who="me")
    assert go(takeover) == "PartiallyDone"
    statuses = takeover.progress[StageName.repair].statuses
    assert (statuses[odd].verdict, statuses[odd].reason) == (Verdict.unknown, "INTERNAL")
    assert {statuses[host].verdict for host in NAMES if host != odd} == {Verdict.passed}
    assert odd not in world.calls, "nothing is done to it"


def test_what_holds_for_several_hosts_and_cannot_be_judged_is_told_and_the_run_is_not_clean(ledger):
    def judge(view):
        if len(seen := view.facts[StageName.repair]) > 1:
            raise KeyError("one of two")
        return [Finding(code="SEEN", severity="info", host=host, message="is.") for host in seen]

    world = World(NAMES[:2])
    discover, repair = make_stages(world)
    takeover = start(world, ledger, stages=(discover, replace(repair, judge=judge)))
    takeover.approve(None, everything=True, who="me")
    assert go(takeover) == "PartiallyDone"
    found = {f.host: (f.code, f.message) for _, f in ledger.findings(ACCOUNT)}
    assert {host: code for host, (code, _) in found.items()} == {
        None: "INTERNAL",
        **dict.fromkeys(NAMES[:2], "SEEN"),
    }
    assert found[None][1].startswith("KeyError while repair was judged: what holds for several hosts")
    assert [said[:32] for said in takeover.not_judged_together()] == ["KeyError while repair was judged"]
    assert {s.verdict for s in takeover.progress[StageName.repair].statuses.values()} == {Verdict.passed}


def test_a_canary_that_does_not_come_right_ends_the_stage_there(ledger):
    world = World()
    world.broken[NAMES[0]] = HaltuunError("no.", code="WORSE")
    takeover = start(world, ledger)
    takeover.approve(None, everything=True, who="me")
    assert go(takeover) == "PartiallyDone"
    assert [call for call in world.calls if call != "shared"] == [NAMES[0]]
    assert takeover.progress[StageName.repair].statuses[NAMES[1]].reason == "STAGE_STOPPED"


def prepared(world: World, ledger: Ledger, **more: Any) -> engine.Takeover:
    """At the beginning of repair, its account changed."""
    takeover = start(world, ledger, **more)
    takeover.approve(None, everything=True, who="me")
    takeover.enter(StageName.discover)
    takeover.gate(StageName.discover)
    takeover.enter(StageName.repair)
    takeover.apply_account(StageName.repair)
    return takeover


def worked(world: World) -> list[str]:
    return [call for call in world.calls if call != "shared"]


def test_a_canary_that_was_not_changed_vouches_for_nobody(ledger):
    """The next of its like goes alone, and if that one is worse the stage ends there."""
    world = World()
    refused = HaltuunError("no room to save.", code="REPAIR_FAILED", unchanged=True)
    world.broken |= {NAMES[0]: refused, NAMES[1]: HaltuunError("no.", code="WORSE")}
    takeover = prepared(world, ledger)
    waves = takeover.waves(StageName.repair)
    for expected in NAMES[:2]:
        assert next(waves) == (expected,)
        takeover.work_host(StageName.repair, expected)
    for host in (host for wave in waves for host in wave):
        takeover.work_host(StageName.repair, host)
    assert worked(world) == list(NAMES[:2])
    assert takeover.progress[StageName.repair].worse == {NAMES[1]}


def test_after_a_sound_canary_the_second_worse_host_ends_the_stage(ledger):
    world = World()
    world.broken |= dict.fromkeys(NAMES[1:4], HaltuunError("no.", code="WORSE"))
    takeover = prepared(world, ledger)
    takeover.approve(None, everything=True, who="me")
    go(takeover)
    assert worked(world) == list(NAMES[:3])
    reasons = {h: s.reason for h, s in takeover.progress[StageName.repair].statuses.items()}
    assert reasons[NAMES[2]] == "WORSE"
    assert {reasons[host] for host in NAMES[3:]} == {"STAGE_STOPPED"}


def test_hosts_of_one_wave_that_have_not_begun_do_not_begin_after_the_stop(ledger):
    """Two are under way side by side when the second goes wrong: the other ends, the next do not begin."""
    world = World()
    takeover = prepared(world, ledger)
    canary, worse, second, under_way, *others = NAMES
    begun, may_end = threading.Event(), threading.Event()

    def switch(run: Any, change: Change) -> None:
        world.calls.append(change.target)
        if change.target in (worse, second):
            assert change.target == worse or begun.wait(timeout=20)
            raise HaltuunError("no.", code="WORSE")
        if change.target == under_way:
            begun.set()
            assert may_end.wait(timeout=20)
        world.switch[change.target] = "on"

    stage = takeover.stages[StageName.repair]
    takeover.stages[StageName.repair] = replace(
        stage, kinds={**stage.kinds, "switch": replace(stage.kinds["switch"], apply=switch)}
    )
    waves = takeover.waves(StageName.repair)
    assert next(waves) == (canary,)
    takeover.work_host(StageName.repair, canary)
    takeover.work_host(StageName.repair, worse)
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {h: pool.submit(takeover.work_host, StageName.repair, h) for h in NAMES[2:]}
        futures[second].result(timeout=20)
        may_end.set()
        outcomes = {host: future.result(timeout=20) for host, future in futures.items()}
    assert [one.status for one in outcomes[under_way]] == ["done"]
    assert [outcomes[host] for host in others] == [[], []]
    assert worked(world) == [canary, worse, *sorted([second, under_way], key=world.calls.index)]


def test_held_before_any_change_is_not_worse_after_one(ledger):
    world = World()
    refused = HaltuunError("no room to save.", code="REPAIR_FAILED", unchanged=True)
    world.broken |= dict.fromkeys(NAMES[:3], refused)
    takeover = prepared(world, ledger)
    go(takeover)
    progress = takeover.progress[StageName.repair]
    assert (progress.worse, progress.stopped) == (set(), "")
    assert worked(world) == list(NAMES)
    assert ledger.worse(ACCOUNT) == {}


def test_worse_after_a_change_stands_in_the_ledger_until_the_host_passes(ledger):
    world = World()
    world.broken[NAMES[0]] = HaltuunError("no.", code="WORSE")
    first = prepared(world, ledger)
    go(first)
    event = ledger.worse(ACCOUNT)[NAMES[0], StageName.repair]
    assert event.run == first.run.id
    assert event.body["summary"] == f"switch {NAMES[0]} on"
    world.broken.clear()
    again = prepared(world, ledger, only_hosts=NAMES[:1])
    # An account whose clock was set back in between: what counts is that this run came later.
    again.run.clock.heard("Wed, 25 Nov 2020 12:00:00 GMT", datetime.now(UTC))
    go(again)
    assert ledger.worse(ACCOUNT) == {}
    assert len(ledger.host_events(ACCOUNT, "worse")) == 1


def test_what_has_moved_since_it_was_planned_is_stale_for_that_target_alone(ledger):
    world = World()
    takeover = start(world, ledger)
    takeover.approve(None, everything=True, who="me")
    world.switch[NAMES[2]] = "elsewhere"
    go(takeover)
    assert NAMES[2] not in world.calls
    assert takeover.progress[StageName.repair].statuses[NAMES[2]].reason == "PLAN_STALE"
    assert verdicts(takeover)[NAMES[3]] is Verdict.passed


def test_every_mutation_is_journaled_before_it_is_made(ledger):
    world = World(NAMES[:1])
    world.broken[NAMES[0]] = KeyboardInterrupt()  # the process is told to die in the call
    takeover = start(world, ledger)
    takeover.approve(None, everything=True, who="me")
    takeover.enter(StageName.discover)
    takeover.gate(StageName.discover)
    takeover.enter(StageName.repair)
    with pytest.raises(KeyboardInterrupt):
        takeover.work_host(StageName.repair, NAMES[0])
    events = [e.event for e in ledger.change_events(ACCOUNT) if e.change.target == NAMES[0]]
    assert events == ["intended", "sent"]
    assert ledger.change_events(ACCOUNT)[-1].change.undo == Undo(kind="switch", after="off")


def test_unknown_does_not_pass_and_absent_facts_block(ledger):
    world = World(NAMES[:2])
    world.switch[NAMES[1]] = Unknown(unknown="denied")
    takeover = start(world, ledger)
    takeover.approve(None, everything=True, who="me")
    go(takeover)
    assert verdicts(takeover) == {NAMES[0]: Verdict.passed, NAMES[1]: Verdict.unknown}


def test_too_many_held_beforehand_block_the_stage_before_any_change(ledger):
    barred = {
        host: Barred(host=host, code="SSH_HANGS", message="hangs.", remedy="look.") for host in NAMES[:4]
    }
    world = World()
    takeover = start(world, ledger, barred=barred)
    takeover.approve(None, everything=True, who="me")
    assert go(takeover) == "GateBlocked"
    assert world.calls == []
    assert takeover.progress[StageName.repair].statuses[NAMES[0]].reason == "SSH_HANGS"


def test_a_blocked_stage_bars_what_needs_it_and_nothing_else(ledger):
    barred = {
        host: Barred(host=host, code="SSH_HANGS", message="hangs.", remedy="look.") for host in NAMES[:4]
    }
    takeover = start(World(), ledger, barred=barred)
    discover = takeover.stages[StageName.discover]
    for name, needs in ((StageName.backup, StageName.discover), (StageName.logs, StageName.repair)):
        takeover.stages[name] = replace(discover, name=name, needs=(needs,))
        takeover.progress[name] = engine.Progress()
    takeover.approve(None, everything=True, who="me")
    for name in (StageName.backup, StageName.logs):
        takeover.look_account(name)
    assert go(takeover) == "GateBlocked"
    backup, logs = (takeover.progress[name].statuses for name in (StageName.backup, StageName.logs))
    assert {status.verdict for status in backup.values()} == {Verdict.passed}
    assert {status.reason for status in logs.values()} == {"STAGE_BLOCKED"}


def test_hosts_that_are_switched_off_block_nothing(ledger):
    barred = {
        host: Barred(host=host, code="INSTANCE_STOPPED", message="off.", remedy="-") for host in NAMES[:4]
    }
    world = World()
    takeover = start(world, ledger, barred=barred)
    takeover.approve(None, everything=True, who="me")
    assert go(takeover) == "PartiallyDone"
    assert set(worked(world)) == set(NAMES[4:])


def test_a_host_that_was_worse_once_is_no_canary(ledger):
    world = World()
    world.broken[NAMES[0]] = HaltuunError("no.", code="WORSE")
    first = start(world, ledger)
    first.approve(None, everything=True, who="me")
    go(first)
    world.calls.clear()
    second = start(world, ledger)
    second.approve(None, everything=True, who="me")
    go(second)
    assert worked(world)[-1] == NAMES[0]
    assert set(world.switch[name] for name in NAMES[1:]) == {"on"}


def test_a_host_that_is_gone_is_neither_counted_nor_asked_for(ledger):
    world = World()
    go(start(world, ledger))
    world.hosts = NAMES[1:]
    later = start(world, ledger, mode="plan")
    assert NAMES[0] in ledger.hosts(ACCOUNT), "its region was not listed: not known to be gone"
    later.run.listed.add("r")
    later.begin({})
    assert NAMES[0] not in ledger.hosts(ACCOUNT)
    assert NAMES[0] not in ledger.status(ACCOUNT)


def test_a_second_run_is_refused_and_a_later_lease_stops_the_earlier_one(ledger):
    world = World()
    takeover = start(world, ledger)
    takeover.approve(None, everything=True, who="me")
    takeover.enter(StageName.discover)
    takeover.gate(StageName.discover)
    takeover.enter(StageName.repair)
    with pytest.raises(LeaseHeld, match=takeover.run.id):
        ledger.take_lease(ACCOUNT, "another")
    ledger.release_lease(takeover.lease)
    later = ledger.take_lease(ACCOUNT, "another")
    assert later.fence == takeover.lease.fence + 1
    with pytest.raises(LeaseLost):
        takeover.work_host(StageName.repair, NAMES[0])
    with pytest.raises(LeaseLost):
        takeover.gate(StageName.repair)
    assert world.calls == []


def test_a_host_that_refuses_our_number_is_that_hosts_affair(ledger):
    world = World(NAMES[:2])
    world.broken[NAMES[0]] = LeaseLost(
        "another ledger has worked here.", subject=NAMES[0], remedy="Look.", unchanged=True
    )
    takeover = start(world, ledger)
    takeover.approve(None, everything=True, who="me")
    go(takeover)
    statuses = takeover.progress[StageName.repair].statuses
    assert statuses[NAMES[0]].reason == "HOST_FENCED"
    assert statuses[NAMES[1]].verdict is Verdict.passed
    assert open_changes(ledger.change_events(ACCOUNT)) == []


def test_what_was_under_way_when_the_lease_was_lost_is_looked_for_by_the_next_run(ledger):
    """Some of it was sent; the sending after that was refused."""
    world = World(NAMES[:1])
    world.broken[NAMES[0]] = LeaseLost("a later run has the account.")
    world.after_failure[NAMES[0]] = "on"
    takeover = start(world, ledger)
    takeover.approve(None, everything=True, who="me")
    go(takeover)
    assert [c.kind for c in open_changes(ledger.change_events(ACCOUNT))] == ["switch"]
    start(world, ledger).reconcile()
    assert ledger.change_events(ACCOUNT)[-1].event == "confirmed"


def test_a_change_whose_answer_never_came_is_resolved_by_looking(ledger):
    world = World(NAMES[:2])
    for host, switched in ((NAMES[0], "on"), (NAMES[1], "off")):
        world.broken[host] = CommandTimeout("no answer.", subject=host, unchanged=True)
        world.after_failure[host] = switched
    takeover = start(world, ledger)
    takeover.approve(None, everything=True, who="me")
    go(takeover)
    last = {e.change.target: e.event for e in ledger.change_events(ACCOUNT) if e.change.kind == "switch"}
    assert last == {NAMES[0]: "confirmed", NAMES[1]: "not_done"}
    statuses = takeover.progress[StageName.repair].statuses
    assert statuses[NAMES[0]].verdict is Verdict.passed
    assert statuses[NAMES[1]].reason == "COMMAND_TIMEOUT"


def test_what_a_killed_run_left_open_is_resolved_by_the_next(ledger):
    world = World(NAMES[:2])
    first = start(world, ledger)
    switch = next(c for c in first.plan.changes if c.target == NAMES[0])
    ledger.journal(first.run.id, ACCOUNT, switch, "sent", first.run.now())
    world.switch[NAMES[0]] = "on"
    ledger.release_lease(first.lease)
    second = start(world, ledger)
    second.reconcile()
    assert ledger.change_events(ACCOUNT)[-1].event == "confirmed"


@pytest.mark.parametrize(("age_s", "found"), [(0, "confirmed"), (3600, "not_done")])
def test_what_an_earlier_run_sent_is_waited_for_as_long_as_aws_may_not_show_it(
    ledger, monkeypatch, age_s, found
):
    monkeypatch.setattr(polling, "FIRST_WAIT_S", 0.01)
    world = World(NAMES[:1])
    first = start(world, ledger)
    shared = next(change for change in first.plan.changes if change.kind == "shared")
    ledger.journal(first.run.id, ACCOUNT, shared, "sent", first.run.now() - timedelta(seconds=age_s))
    ledger.release_lease(first.lease)
    second = start(world, ledger)
    shown = iter(["off", "off"])
    kind = second.stages[StageName.repair].kinds["shared"]
    second.stages[StageName.repair].kinds["shared"] = replace(kind, look=lambda run, c: next(shown, "on"))
    second.reconcile()
    assert ledger.change_events(ACCOUNT)[-1].event == found


def test_what_cannot_be_looked_at_by_a_defect_stays_open_and_takes_no_other_along(ledger, monkeypatch):
    monkeypatch.setattr(perform, "SETTLES_S", 0.0)
    world = World(NAMES[:2])
    first = start(world, ledger)
    for change in first.plan.changes:
        ledger.journal(first.run.id, ACCOUNT, change, "sent", first.run.now())
    ledger.release_lease(first.lease)
    second = start(world, ledger)
    world.switch[NAMES[1]] = "on"
    world.switch.pop(NAMES[0])
    second.reconcile()
    last = {event.change.target: event.event for event in ledger.change_events(ACCOUNT)}
    assert last == {NAMES[0]: "unknown", NAMES[1]: "confirmed", "account": "not_done"}


def test_hundreds_that_are_never_seen_are_waited_for_together(ledger, monkeypatch):
    monkeypatch.setattr(polling, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(perform, "SETTLES_S", 0.5)
    world = World(NAMES[:1])
    first = start(world, ledger)
    shared = next(change for change in first.plan.changes if change.kind == "shared")
    many = [shared.model_copy(update={"target": f"thing-{n}"}) for n in range(300)]
    for change in many:
        ledger.journal(first.run.id, ACCOUNT, change, "sent", first.run.now())
    ledger.release_lease(first.lease)
    second = start(world, ledger)
    began = time.monotonic()
    second.reconcile()
    assert time.monotonic() - began < 300 * 0.5 / 4
    ended = [event.event for event in ledger.change_events(ACCOUNT)]
    assert ended.count("not_done") == 300 and open_changes(ledger.change_events(ACCOUNT)) == []


def test_a_narrowed_run_judges_by_the_whole_account(ledger):
    world = World()
    takeover = start(world, ledger, only_hosts=NAMES[:1])
    assert set(takeover.view(StageName.repair, ()).hosts) == set(NAMES)
    takeover.approve(None, everything=True, who="me")
    go(takeover)
    assert [call for call in world.calls if call != "shared"] == [NAMES[0]]
    assert set(takeover.progress[StageName.repair].statuses) == {NAMES[0]}


def test_what_the_proof_shows_is_judged_too_and_replaces_what_was_found_before(ledger):
    def finding(view: Any) -> list[Finding]:
        rows = view.facts[StageName.repair].items()
        return [Finding(code=f"ON_{f.on}", severity="low", message="is.", host=host) for host, f in rows]

    world = World(NAMES[:2])
    takeover = start(world, ledger)
    takeover.stages[StageName.repair] = replace(
        takeover.stages[StageName.repair],
        judge=finding,
        prove=lambda run, hosts, view: {NAMES[0]: Proven(fields={"on": Unknown(unknown="gone")})},
    )
    takeover.settle(StageName.repair)
    before = [(f.host, f.code) for _, f in ledger.findings(ACCOUNT)]
    assert before == [(NAMES[0], "ON_False"), (NAMES[1], "ON_False")]
    takeover.approve(None, everything=True, who="me")
    go(takeover)
    after = [(f.host, f.code) for _, f in ledger.findings(ACCOUNT)]
    assert after == [(NAMES[0], "ON_unknown='gone'"), (NAMES[1], "ON_True")]


def test_of_a_proof_that_nobody_waited_for_nothing_is_judged(ledger):
    """The stop came while it was waited for."""

    def asked_to_stop(run: Any, hosts: Any, view: Any) -> dict[str, Proven]:
        stopping.ask()
        return {NAMES[0]: Proven(fields={"on": False})}

    takeover = start(World(NAMES[:1]), ledger)
    repair = takeover.stages[StageName.repair]
    takeover.stages[StageName.repair] = replace(repair, prove=asked_to_stop)
    takeover.approve(None, everything=True, who="me")
    before = ledger.observations(ACCOUNT, NAMES[0])[StageName.repair]
    try:
        with pytest.raises(KeyboardInterrupt):
            go(takeover)
    finally:
        stopping.forget()
    assert ledger.observations(ACCOUNT, NAMES[0])[StageName.repair] == before
    assert StageName.repair not in ledger.status(ACCOUNT).get(NAMES[0], {})


def test_an_unknown_host_or_plan_is_named(ledger):
    with pytest.raises(ConfigError, match="i-nope"):
        start(World(), ledger, only_hosts=["i-nope"], mode="plan")
    takeover = start(World(), ledger)
    with pytest.raises(ConfigError, match="no plan abc"):
        takeover.approve("abc", everything=False, who="me")


# -- what was approved, and what has moved since -----------------------------------------------------

ALL = PolicyConfig(approve=list(Reach))


def plan_once(world: World, ledger: Ledger, **more: Any) -> engine.Takeover:
    """As `haltuun plan` does: shown, nothing made."""
    shown = start(world, ledger, mode="plan", **more)
    shown.end("Planned")
    return shown


def approved(world: World, ledger: Ledger, plan_hash: str, **more: Any) -> engine.Takeover:
    """A run with that hash, through to its end."""
    takeover = start(world, ledger, **more)
    takeover.approve(plan_hash, everything=False, who="me")
    go(takeover)
    return takeover


def stale_of(ledger: Ledger) -> list[str]:
    return [e.change.target for e in ledger.change_events(ACCOUNT) if e.event == "stale"]


def test_an_approved_change_of_the_account_whose_ground_has_moved_is_stale_alone(ledger):
    world = World()
    shown = plan_once(world, ledger)
    world.shared = "dim"
    takeover = approved(world, ledger, shown.plan_hash)
    assert world.calls == list(NAMES[:5])
    assert stale_of(ledger) == ["account"] and len(takeover.stale) == 1
    status = takeover.progress[StageName.repair].statuses[NAMES[5]]
    assert (status.verdict, status.reason) == (Verdict.pending, "PLAN_STALE")
    assert takeover.plan_hash in status.remedy and takeover.plan_hash != shown.plan_hash
    assert takeover.outcome() == "AwaitingApproval"


def test_an_approved_change_that_concerns_more_hosts_by_now_is_stale_alone(ledger):
    world = World()
    world.sharing = NAMES[5:]
    shown = plan_once(world, ledger)
    world.sharing = NAMES[2:]
    plan_once(world, ledger)  # nobody looked at it
    takeover = approved(world, ledger, shown.plan_hash)
    assert world.calls == list(NAMES[:5])
    assert stale_of(ledger) == ["account"]
    status = takeover.progress[StageName.repair].statuses[NAMES[5]]
    assert (status.verdict, status.reason) == (Verdict.pending, "PLAN_STALE")
    assert f"(it concerns now also {', '.join(NAMES[2:5])})" in status.message
    assert takeover.plan_hash in status.remedy and takeover.plan_hash != shown.plan_hash
    assert takeover.outcome() == "AwaitingApproval"
    approved(world, ledger, takeover.plan_hash)
    assert world.calls[5:] == ["shared", NAMES[5]]


def test_an_approved_change_that_concerns_fewer_hosts_by_now_is_made(ledger):
    world = World()
    world.sharing = NAMES[2:]
    shown = plan_once(world, ledger)
    world.sharing = NAMES[5:]
    takeover = approved(world, ledger, shown.plan_hash)
    assert "shared" in world.calls and takeover.stale == {} and stale_of(ledger) == []


def test_an_approved_change_of_the_account_that_one_more_host_needs_by_now_is_made(ledger):
    world = World()
    world.reach, world.sharing = Reach.account, NAMES[5:]
    shown = plan_once(world, ledger)
    world.sharing = NAMES[2:]
    takeover = approved(world, ledger, shown.plan_hash)
    assert "shared" in world.calls and takeover.stale == {} and stale_of(ledger) == []


def test_an_approved_change_whose_users_have_new_interfaces_is_made(ledger):
    world = World()
    world.others = ("eni-0a (ELB app/web/50dc6c495c0c9188, of amazon-elb)",)
    shown = plan_once(world, ledger)
    world.others = ("eni-0b (ELB app/web/50dc6c495c0c9188, of amazon-elb)",)
    takeover = approved(world, ledger, shown.plan_hash)
    assert "shared" in world.calls and takeover.stale == {} and stale_of(ledger) == []


@pytest.mark.parametrize("reach", [Reach.account, Reach.shared])
def test_an_approved_change_that_others_are_concerned_by_by_now_is_stale_and_names_them(ledger, reach):
    world = World()
    world.reach = reach
    shown = plan_once(world, ledger)
    world.others = ("eni-0b (ELB app/web/50dc6c495c0c9188, of amazon-elb)",)
    takeover = approved(world, ledger, shown.plan_hash)
    assert "shared" not in world.calls and stale_of(ledger) == ["account"]
    (why,) = takeover.stale.values()
    assert why == "it concerns now also ELB app/web/50dc6c495c0c9188, of amazon-elb"


def test_an_approved_change_of_a_host_whose_ground_has_moved_is_stale_alone(ledger):
    world = World()
    shown = plan_once(world, ledger, policy=ALL)
    world.switch[NAMES[2]] = "dim"
    takeover = approved(world, ledger, shown.plan_hash, policy=ALL)
    assert sorted(world.calls) == sorted(["shared", *(name for name in NAMES if name != NAMES[2])])
    assert stale_of(ledger) == [NAMES[2]]
    statuses = takeover.progress[StageName.repair].statuses
    assert statuses[NAMES[2]].reason == "PLAN_STALE"
    assert {statuses[name].verdict for name in NAMES if name != NAMES[2]} == {Verdict.passed}


@pytest.mark.parametrize(
    ("moved", "held", "untouched"),
    [("account", NAMES[5], {"shared", NAMES[5]}), (NAMES[2], NAMES[2], {NAMES[2]})],
)
def test_what_moves_between_approval_and_change_is_stale_alone(ledger, moved, held, untouched):
    """The last host's change depends on the account's."""
    world = World()
    shown = plan_once(world, ledger, policy=ALL)
    takeover = start(world, ledger, policy=ALL)
    takeover.approve(shown.plan_hash, everything=False, who="me")
    if moved == "account":
        world.shared = "dim"
    else:
        world.switch[moved] = "dim"
    go(takeover)
    assert set(world.calls) == {"shared", *NAMES} - untouched
    assert stale_of(ledger) == [moved]
    statuses = takeover.progress[StageName.repair].statuses
    assert statuses[held].reason == "PLAN_STALE"
    assert {s.verdict for name, s in statuses.items() if name != held} == {Verdict.passed}


def test_an_approved_change_that_is_not_planned_any_more_is_neither_made_nor_missed(ledger):
    world = World()
    shown = plan_once(world, ledger)
    world.shared, world.switch[NAMES[1]] = "on", "on"
    takeover = approved(world, ledger, shown.plan_hash)
    assert takeover.outcome() == "Done"
    assert set(world.calls) == set(NAMES) - {NAMES[1]}
    assert stale_of(ledger) == []


def test_a_hash_approves_no_other_change_of_the_same_thing(ledger):
    world = World()
    shown = plan_once(world, ledger)
    world.goal = "loud"
    takeover = approved(world, ledger, shown.plan_hash)
    assert world.shared == "off" and "shared" not in world.calls
    assert stale_of(ledger) == ["account"]
    assert [c.after for c in takeover.awaiting()] == ["loud", "on"]  # the second builds on the first


def test_what_runs_unasked_is_not_called_stale(ledger):
    world = World()
    shown = plan_once(world, ledger)
    world.switch[NAMES[2]] = "dim"
    takeover = approved(world, ledger, shown.plan_hash)
    assert NAMES[2] in world.calls and stale_of(ledger) == [] and not takeover.stale


def test_a_plan_that_nobody_was_shown_cannot_be_approved_by_its_hash(ledger):
    takeover = start(World(), ledger)
    with pytest.raises(ConfigError, match="no plan"):
        takeover.approve(takeover.plan_hash, everything=False, who="me")


def test_an_approval_keeps_who_when_how_and_what_was_shown(ledger):
    world = World()
    shown = plan_once(world, ledger)
    world.switch[NAMES[1]] = "on"
    takeover = approved(world, ledger, shown.plan_hash)
    (one,) = ledger.approvals(ACCOUNT)
    assert (one.run, one.who, one.how) == (takeover.run.id, "me", "plan hash")
    assert one.plan_hash == shown.plan_hash != takeover.plan_hash
    seen = ledger.shown(ACCOUNT, takeover.run.id)
    assert seen.plan_run == shown.run.id
    assert seen.changes == shown.plan.changes, "as it was shown, not as it was planned since"
    world.shared = "dim"
    unseen = start(world, ledger)
    unseen.approve(None, everything=True, who="you")
    go(unseen)
    _, all_of_it = ledger.approvals(ACCOUNT)
    assert (all_of_it.run, all_of_it.who) == (unseen.run.id, "you") and "--yes" in all_of_it.how
    seen = ledger.shown(ACCOUNT, unseen.run.id)
    assert seen.plan_run == "" and seen.changes == unseen.plan.changes


def test_what_one_host_says_and_nobody_can_read_is_its_own_matter(ledger):
    world = World()
    discover, repair = make_stages(world)

    def parse(view: Any, host: Host, raw: Any, said: Any) -> SwitchFacts:
        if said == "gibberish":
            raise ZeroDivisionError
        return SwitchFacts(on=said if isinstance(said, Unknown) else True)

    def probe(run: Any, host: Host, view: Any) -> str:
        return "gibberish" if host.instance_id == NAMES[2] else "fine"

    stages = (discover, replace(repair, probe_host=probe, parse_host=parse, plan=lambda view: StagePlan()))
    takeover = start(world, ledger, stages=stages)
    for host in takeover.hosts:
        takeover.look_host(StageName.repair, host)
    takeover.settle(StageName.repair)
    go(takeover)
    statuses = takeover.progress[StageName.repair].statuses
    assert statuses[NAMES[2]].verdict is Verdict.unknown
    assert {statuses[name].verdict for name in NAMES if name != NAMES[2]} == {Verdict.passed}


def test_hosts_whose_effect_never_comes_are_waited_for_together(ledger):
    world = World(tuple(f"i-{number:04}" for number in range(120)))
    _, repair = make_stages(world)
    waited: list[int] = []

    def prove(run: Any, hosts: Any, view: Any) -> dict[str, Any]:
        waited.append(len(hosts))
        return {}

    takeover = start(world, ledger, stages=(replace(repair, needs=(), prove=prove),))
    takeover.enter(StageName.repair)
    takeover.prove(StageName.repair)
    assert waited == [120]
    takeover.end("Done")


def test_what_is_half_seen_is_looked_at_again_until_it_is_whole(ledger, monkeypatch):
    """AWS answers with an error of its own, does it all the same, and shows it part by part."""

    class PartByPart(dict):
        shown = iter(["off", "half", "on"])

        def __getitem__(self, host):
            return next(self.shown, "on")

    monkeypatch.setattr(polling, "FIRST_WAIT_S", 0.01)
    world = World(NAMES[:1])
    takeover = start(world, ledger)
    takeover.approve(None, everything=True, who="test")
    (switch,) = [change for change in takeover.plan.changes if change.kind == "switch"]
    world.switch = PartByPart(world.switch)
    world.broken[NAMES[0]] = AwsUnanswered("500", subject="", remedy="")
    assert takeover.performer.perform(switch).status == "done"
    assert [e.event for e in ledger.change_events(ACCOUNT) if e.change_id == switch.id][-1] == "confirmed"
