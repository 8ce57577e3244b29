"""Takes one account through the stages: look, plan, apply, prove, gate. Written once, for all stages.

No Prefect here: flows call these methods in order and tasks wrap them. What the methods learn goes
to the ledger before they return.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from haltuun.aws import Aws, chunks
from haltuun.clock import Clock
from haltuun.config import Config
from haltuun.effects import still_open
from haltuun.errors import ConfigError, HaltuunError, LeaseLost
from haltuun.gates import Check, GateResult, Row, evaluate
from haltuun.ledger import Lease, Ledger
from haltuun.model import (
    Change,
    Facts,
    Finding,
    Frozen,
    Host,
    HostStatus,
    Json,
    Plan,
    Reach,
    StageName,
    StagePlan,
    Unknown,
    Verdict,
    approval_command,
    held_back,
    share_parts,
)
from haltuun.perform import Outcome, Performer
from haltuun.run import Opener, Run
from haltuun.stages.base import Stage, View
from haltuun.stopping import heed
from haltuun.verdicts import (
    from_barred,
    from_unjudged,
    not_entered,
    status_of,
    unjudged,
    unjudged_together,
    waived,
)
from haltuun.waves import waves

log = logging.getLogger("haltuun")

# So many hosts wait for their effects together, so that those which never come are waited for once; what has
# come is in the ledger before the next ones begin. A stage keeps to AWS's limits by itself.
PROVE_BATCH = 500
# Of a handful of hosts, one held host is already a large part; a percentage says nothing there.
PERCENT_FROM = 5
# A host that is off is held without saying anything of the account or of the configuration.
SWITCHED_OFF = "INSTANCE_STOPPED"
LOOKING = "look"


@dataclass
class Progress:
    """What is known of one stage in this run."""

    raw: bytes = b""  # what the account said, packed
    host_raw: dict[str, bytes] = field(default_factory=dict)  # what each host said, packed
    plan: StagePlan = field(default_factory=StagePlan)
    ordered: tuple[Change, ...] = ()  # the plan's changes, what others need first
    of_host: dict[str, tuple[Change, ...]] = field(default_factory=dict)  # those performed in its turn
    findings: tuple[Finding, ...] = ()
    unjudged: dict[str, Finding] = field(default_factory=dict)  # hosts that could not be judged, and why
    expected: tuple[str, ...] = ()
    entered: tuple[str, ...] = ()
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # by change id
    worse: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)  # hosts whose facts a change may have moved
    worked: set[str] = field(default_factory=set)  # hosts that were changed on the host itself
    right: set[str] = field(default_factory=set)  # of these, the hosts that came right
    likeness: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of the hosts to change on the host
    stopped: str = ""
    blocked: str = ""  # why the stage, and what needs it, ends here for every host
    gate: GateResult | None = None
    statuses: dict[str, HostStatus] = field(default_factory=dict)
    doing: dict[str, tuple[str, str]] = field(default_factory=dict)  # host → what is under way, for people


class Takeover:
    """One run over one account. Methods for one host may run side by side."""

    def __init__(
        self,
        run: Run,
        stages: Sequence[Stage],
        *,
        lister: Callable[[Run], Sequence[Host]],
        only_stages: Iterable[StageName] = (),
        only_hosts: Iterable[str] = (),
    ) -> None:
        self.run = run
        self.stages = {stage.name: stage for stage in stages}
        self.everyone: dict[str, Host] = {}  # of the account: who else is concerned is asked of all
        self.hosts: dict[str, Host] = {}  # those this run works on
        self.progress = {stage.name: Progress() for stage in stages}
        self.plan: Plan | None = None
        self.approved: frozenset[str] = frozenset()
        self.stale: dict[str, str] = {}  # planned changes that are not what was approved, by id: why
        self.performer = Performer(run, self.stages)
        self._lister = lister
        self._only_stages = frozenset(only_stages)
        self._only_hosts = tuple(only_hosts)
        self._planned: dict[str, Change] = {}  # of the plan, by id
        self._in_effect: set[str] = set()
        self._admitted: set[str] = set()  # hosts that this run may change, one by one
        self._changed: set[str] = set()  # and those of them of which it did
        self._lock = threading.Lock()

    # -- beginning and end -------------------------------------------------------------------

    def begin(self, body: Mapping[str, Json]) -> None:
        """Take the lease (when applying), confirm the account, list its hosts.

        Raises:
            LeaseHeld, AwsError, ConfigError.
        """
        run = self.run
        if run.mode == "apply":
            self.performer.take_lease()
        run.aws.confirm_account()
        hosts = {host.instance_id: host for host in self._lister(run)}
        strangers = [host for host in self._only_hosts if host not in hosts]
        if strangers:
            raise ConfigError(
                f"there is no such instance in the account's regions ({', '.join(run.aws.regions())}).",
                subject=strangers[0],
                remedy="Check the id and 'regions' in haltuun.yaml.",
                code="UNKNOWN_HOST",
            )
        self.everyone = hosts
        self.hosts = {i: h for i, h in hosts.items() if not self._only_hosts or i in self._only_hosts}
        run.ledger.start_run(run.account.id, run.id, {**body, "mode": run.mode}, run.now())
        known = run.ledger.hosts(run.account.id).values()
        gone = [h for h in known if h.instance_id not in hosts and h.region in run.listed]
        run.ledger.saw_hosts(run.id, self.hosts.values(), gone)

    def end(self, outcome: str) -> None:
        """Write the end and give the lease back. Safe to call after any failure."""
        run = self.run
        body = {"plan_hash": self.plan.hash if self.plan else "", "calls": len(run.aws.calls)}
        run.ledger.end_run(run.account.id, run.id, outcome, body, run.now())
        self.performer.release_lease()

    def let_go(self) -> None:
        """Of what was seen and planned: the ledger has it, and telling of a large account needs the room."""
        self.run.facts.clear()
        self.run.account_facts.clear()
        self.progress = {name: Progress() for name in self.stages}
        self.plan, self._planned = None, {}

    @property
    def lease(self) -> Lease | None:
        return self.performer.lease

    @property
    def blocked(self) -> str:
        """The first stage that is blocked, and why; "" when none is."""
        return next((f"{name.value}: {p.blocked}" for name, p in self.progress.items() if p.blocked), "")

    def outcome(self) -> str:
        """GateBlocked, AwaitingApproval, PartiallyDone or Done."""
        if self.blocked:
            return "GateBlocked"
        if self.awaiting():
            return "AwaitingApproval"
        return "Done" if self.all_through() and not self.not_judged_together() else "PartiallyDone"

    def all_through(self) -> bool:
        bad = {Verdict.held, Verdict.unknown, Verdict.waiting, Verdict.pending}
        return not any(s.verdict in bad for p in self.progress.values() for s in p.statuses.values())

    def not_judged_together(self) -> list[str]:
        """Of the stages that could not judge their hosts together, though perhaps each alone: why."""
        found = [f for progress in self.progress.values() for f in progress.findings if f.not_judged_together]
        return [f"{finding.message} {finding.remedy}" for finding in found]

    def reconcile(self) -> None:
        """Resolve by looking what a killed run left intended, sent or unknown."""
        opened = still_open(self.run.ledger.change_events(self.run.account.id))
        found = self.performer.resolve_all([event for event in opened if self._can_look_at(event.change)])
        for event in opened:
            if found.get(event.change_id) == "confirmed":
                # It took effect while or after this run looked: look again before judging.
                self.progress[event.change.stage].touched.update(event.change.hosts or self.hosts)

    def _can_look_at(self, change: Change) -> bool:
        kind = self.stages[change.stage].kinds.get(change.kind)
        return kind is not None and (not kind.on_host or set(change.hosts) <= set(self.hosts))

    # -- look ------------------------------------------------------------------------------------

    def view(self, stage: StageName, entering: Sequence[str]) -> View:
        run = self.run
        planned: list[Change] = []
        for name in self.stages:
            if name is stage:
                break
            planned.extend(self.progress[name].plan.changes)
        return View(
            account=run.account,
            config=run.config,
            account_id=run.account.id,
            partition=run.aws.partition,
            now=run.now(),
            run_id=run.id,
            hosts=self.everyone,
            entering=tuple(entering),
            facts=run.facts,
            account_facts=run.account_facts,
            planned=tuple(planned),
        )

    def look_account(self, name: StageName) -> None:
        """The account's side of a stage, all hosts at once."""
        stage, progress = self.stages[name], self.progress[name]
        raw = stage.probe_account(self.run, list(self.everyone.values()))
        progress.raw = _packed(raw)
        self.run.account_facts[name] = stage.parse_account(self.view(name, ()), raw)
        stage.forget()

    def look_host(self, name: StageName, instance_id: str) -> None:
        """The host's side: one connection, one script. Never raises for the host's faults."""
        stage, progress = self.stages[name], self.progress[name]
        if stage.probe_host is None:
            return
        progress.doing[instance_id] = (LOOKING, f"looking at {self.hosts[instance_id].label}")
        try:
            raw = stage.probe_host(self.run, self.hosts[instance_id], self.view(name, (instance_id,)))
        except LeaseLost:
            raise
        except HaltuunError as error:
            raw = Unknown(unknown=f"{error.code}: {error}")
        except Exception as error:
            log.exception("looking at %s in %s", instance_id, name.value)
            raw = Unknown(unknown=f"INTERNAL: {type(error).__name__} while looking at the host; see the log.")
        finally:
            progress.doing.pop(instance_id, None)
        with self._lock:
            progress.host_raw[instance_id] = _packed(raw)

    def settle(self, name: StageName) -> tuple[Finding, ...]:
        """Parse and judge what was looked at before the plan; into the ledger."""
        self._parse(name)
        return self._judge(name, "plan")

    def _parse(self, name: StageName) -> None:
        stage, progress = self.stages[name], self.progress[name]
        view, raw = self.view(name, ()), _unpacked(progress.raw)
        missing = _packed(Unknown(unknown="NOT_LOOKED: the host was not asked in this stage"))
        facts: dict[str, Facts] = {}
        for instance_id, host in self.everyone.items():
            host_raw = _unpacked(progress.host_raw.get(instance_id, missing))
            try:
                facts[instance_id] = stage.parse_host(view, host, raw, host_raw)
            except Exception as error:
                log.exception("parsing %s in %s", instance_id, name.value)
                unread = Unknown(
                    unknown=f"INTERNAL: {type(error).__name__} while reading what it said; see the log."
                )
                # Where it is not the host's answer either, it is left out of the table: the gate finds it
                # missing and says so.
                with contextlib.suppress(Exception):
                    facts[instance_id] = stage.parse_host(view, host, raw, unread)
        stage.forget()
        self.run.facts[name] = facts

    def _judge(self, name: StageName, phase: str) -> tuple[Finding, ...]:
        progress, run = self.progress[name], self.run
        judged = self._findings(name)
        progress.findings = tuple(f for f in judged if f.host is None or f.host in self.hosts)
        facts = run.facts[name]
        seen: dict[str, Frozen] = {host: facts[host] for host in self.hosts if host in facts}
        seen[""] = run.account_facts[name]
        run.ledger.observed(run.account.id, run.id, name, phase, seen, run.now())
        run.ledger.found(run.account.id, run.id, name, phase, progress.findings)
        return progress.findings

    def _findings(self, name: StageName) -> Sequence[Finding]:
        """Of all hosts at once, for some hold for several; where that fails, of each alone."""
        stage, progress, view = self.stages[name], self.progress[name], self.view(name, ())
        progress.unjudged = {}
        try:
            return stage.judge(view)
        except Exception as error:
            log.exception("judging %s", name.value)
            found: dict[Finding, None] = {unjudged_together(name, error): None}
        for instance_id, facts in view.facts[name].items():
            try:
                alone = replace(view, facts={**view.facts, name: {instance_id: facts}})
                found.update(dict.fromkeys(stage.judge(alone)))
            except Exception as error:
                log.exception("judging %s in %s", instance_id, name.value)
                progress.unjudged[instance_id] = finding = unjudged(instance_id, error)
                found[finding] = None
        return tuple(found)

    # -- plan ------------------------------------------------------------------------------------

    def plan_stage(self, name: StageName) -> StagePlan:
        """Plan for the hosts that would come this far if all earlier changes were made."""
        stage, progress = self.stages[name], self.progress[name]
        expected = [set(self.progress[need].expected) for need in stage.needs]
        entering = [host for host in self.hosts if all(host in some for some in expected)]
        entering = [host for host in entering if host not in progress.unjudged]
        progress.plan = stage.plan(self.view(name, entering))
        share_parts(progress.plan.changes)
        progress.ordered = _ordered(progress.plan.changes)
        progress.of_host = {}
        for change in filter(of_one_host, progress.ordered):
            (host,) = change.hosts
            progress.of_host[host] = (*progress.of_host.get(host, ()), change)
        barred = {b.host for b in progress.plan.barred}
        progress.expected = tuple(host for host in entering if host not in barred)
        return progress.plan

    def make_plan(self) -> Plan:
        """All stages' changes as one plan, into the ledger."""
        chosen = self._only_stages or frozenset(self.stages)
        self.plan = Plan(
            account=self.run.account.id,
            changes=tuple(c for name, p in self.progress.items() if name in chosen for c in p.plan.changes),
            findings=tuple(f for p in self.progress.values() for f in (*p.findings, *p.plan.notes)),
            barred={name.value: self.progress[name].plan.barred for name in self.progress if name in chosen},
        )
        self._planned = {change.id: change for change in self.plan.changes}
        self.run.ledger.planned(self.run.id, self.plan, self.run.now())
        return self.plan

    def approve(self, plan_hash: str | None, *, everything: bool, who: str) -> None:
        """Record the approval and what was shown. What has changed since then stays unapproved.

        Raises:
            ConfigError: no earlier run made a plan of this hash for the account.
        """
        assert self.plan is not None
        run = self.run
        if everything:
            self.approved = frozenset(change.id for change in self.plan.changes)
            run.ledger.approved(
                run.id, self.plan, who, "every change, unseen (--yes or approve_all)", run.now()
            )
        elif plan_hash:
            found = run.ledger.shown_plan(run.account.id, plan_hash, run.id)
            if found is None:
                raise unknown_plan(run.account.label, plan_hash)
            plan_run, shown = found
            self.approved = frozenset(change.id for change in shown.changes)
            run.ledger.approved(run.id, shown, who, "plan hash", run.now(), plan_run=plan_run)
            self._mark_stale(shown)

    def _mark_stale(self, shown: Plan) -> None:
        """Planned changes of things whose approved change is not planned any more, or concerns more than was
        shown: another approval is needed. That it concerns fewer is no harm.
        """
        assert self.plan is not None
        was_shown = {change.id: change for change in shown.changes}
        planned = {change.id for change in self.plan.changes}
        moved = {_thing(change): change for change in shown.changes if change.id not in planned}
        for fresh in self.plan.changes:
            old = moved.get(_thing(fresh))
            why = ""
            if not self.needs_approval(fresh):
                continue
            if fresh.id in was_shown:
                more = fresh.concerned - was_shown[fresh.id].concerned
                why = f"it concerns now also {self._told(more)}" if more else ""
            elif old is not None:
                why = f"approved as {old.id}; what that was planned on has moved"
            if why:
                self.approved -= {fresh.id}
                self.stale[fresh.id] = why
                self.run.journal(fresh, "stale", why)

    def _told(self, concerned: Iterable[str]) -> str:
        """Some of them by name, and how many they are."""
        names = sorted(self.everyone[who].label if who in self.everyone else who for who in concerned)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"{', '.join(names[:5])}{more}"

    def needs_approval(self, change: Change) -> bool:
        return change.reach in self.run.config.policy.approve

    def awaiting(self) -> tuple[Change, ...]:
        """Planned changes that wait for a person's approval, their own or that of what they build on."""
        if self.plan is None:
            return ()
        open_ones = [change for change in self.plan.changes if change.id not in self._in_effect]
        return tuple(held_back(open_ones, {c.id for c in open_ones if self._waits_for_approval(c.id)}))

    @property
    def approval_command(self) -> str:
        """What a person types to approve this run's plan."""
        stages = [stage.value for stage in self.stages if stage in self._only_stages]
        return approval_command(self.run.account.label, self.plan_hash, stages, self._only_hosts)

    def _waits_for_approval(self, change_id: str) -> bool:
        change = self._planned.get(change_id)
        return (
            change is not None
            and self.needs_approval(change)
            and change_id not in self.approved
            and change_id not in self._in_effect
        )

    # -- apply -----------------------------------------------------------------------------------

    def enter(self, name: StageName) -> tuple[str, ...]:
        """The hosts that passed all that the stage needs. Blocks it when too many are held beforehand.

        A blocked stage bars those that need it, and no others: backup goes on.
        """
        stage, progress = self.stages[name], self.progress[name]
        good = {Verdict.passed, Verdict.waived}
        if any(self.progress[need].blocked for need in stage.needs):
            return progress.entered
        progress.entered = tuple(
            host
            for host in self.hosts
            if all(
                (status := self.progress[need].statuses.get(host)) is not None and status.verdict in good
                for need in stage.needs
            )
        )
        entered = set(progress.entered)
        barred = [b for b in progress.plan.barred if b.host in entered]
        held = [b for b in barred if b.verdict is Verdict.held and b.code != SWITCHED_OFF]
        running = len(progress.entered) - sum(b.code == SWITCHED_OFF for b in barred)
        limit = self.run.config.policy.max_held_percent
        if running >= PERCENT_FROM and len(held) * 100 > limit * running:
            progress.stopped = (
                f"{len(held)} of {running} hosts are held before any change, more than"
                f" policy.max_held_percent ({limit} %) allows"
            )
            progress.blocked = f"{progress.stopped}."
        return progress.entered

    def apply_account(self, name: StageName) -> list[Outcome]:
        """The stage's changes that concern more than one host, once, in order."""
        progress = self.progress[name]
        entered = set(progress.entered)
        outcomes: list[Outcome] = []
        if progress.stopped or not entered or not self.chosen(name):
            return outcomes
        for change in progress.ordered:
            if not of_one_host(change) and (not change.hosts or entered & set(change.hosts)):
                outcomes.append(self._perform(name, change))
        return outcomes

    def host_changes(self, name: StageName, instance_id: str) -> tuple[Change, ...]:
        return self.progress[name].of_host.get(instance_id, ()) if self.chosen(name) else ()

    def waves(self, name: StageName) -> Iterator[tuple[str, ...]]:
        """The entered hosts in the order in which to work on them: canaries first where hosts change.

        To be asked for the next wave when the last one has been worked on.
        """
        progress, stage, run = self.progress[name], self.stages[name], self.run
        was_worse = {host for host, where in run.ledger.worse(run.account.id) if where is name}
        # A host that a change once made worse is no canary: it would stop the others each time.
        for host in sorted(progress.entered, key=lambda host: host in was_worse):
            kinds = [c.kind for c in self.host_changes(name, host) if stage.kinds[c.kind].on_host]
            if kinds:
                progress.likeness[host] = self._likeness(host, kinds[0])
        still = tuple(host for host in progress.entered if host not in progress.likeness)
        if still:
            yield still
        yield from waves(progress.likeness, lambda host: bool(progress.stopped) or host in progress.right)

    def _likeness(self, host: str, kind: str) -> tuple[str, ...]:
        facts = self.run.facts.get(StageName.discover, {}).get(host)
        return (*(str(getattr(facts, n, "")) for n in ("os_id", "init", "agent_package")), kind)

    def work_host(self, name: StageName, instance_id: str) -> list[Outcome]:
        """The host's own changes, then a look at it. Never raises for the host's faults."""
        progress = self.progress[name]
        outcomes: list[Outcome] = []
        if progress.stopped:
            return []
        changed = failed = False
        for change in self.host_changes(name, instance_id):
            progress.doing[instance_id] = (change.kind.rpartition(".")[2], change.summary)
            try:
                outcome = self._perform(name, change)
            finally:
                progress.doing.pop(instance_id, None)
            outcomes.append(outcome)
            on_host = self.stages[name].kinds[change.kind].on_host
            changed = changed or (on_host and outcome.status == "done")
            if outcome.status == "failed" and on_host:
                failed = True
                if outcome.error is None or not outcome.error.unchanged:
                    self._count_worse(name, instance_id, outcome)
                break
        if changed and not failed:
            with self._lock:
                progress.right.add(instance_id)
        return outcomes

    def _count_worse(self, name: StageName, instance_id: str, outcome: Outcome) -> None:
        """Worse after a change: the stage ends at a host for whose like none has come right yet, else
        at the second one. Hosts of the same wave that are under way come to their end."""
        progress, run = self.progress[name], self.run
        with self._lock:
            progress.worse.add(instance_id)
            like = progress.likeness.get(instance_id)
            vouched = any(progress.likeness.get(host) == like for host in progress.right)
            if not vouched or len(progress.worse) >= 2:
                progress.stopped = f"{len(progress.worse)} host(s) did not come right after a change"
        body = {"change": outcome.change.id, "summary": outcome.change.summary, "message": outcome.message}
        run.ledger.went_worse(run.account.id, run.id, instance_id, name, body, run.now())

    def relook(self, name: StageName) -> tuple[str, ...]:
        """The entered hosts whose facts an earlier change of this run may have moved."""
        return tuple(host for host in self.progress[name].entered if self.was_touched(name, host))

    def was_touched(self, name: StageName, host: str) -> bool:
        """True when a change of this stage, or of one before it, may have moved the host's facts."""
        for stage, progress in self.progress.items():
            if host in progress.touched:
                return True
            if stage is name:
                break
        return False

    def account_moved(self, name: StageName) -> bool:
        """True when a change was made since the account's side of this stage was looked at."""
        return any(progress.touched for progress in self.progress.values())

    def _perform(self, name: StageName, change: Change) -> Outcome:
        progress = self.progress[name]
        outcome = self._barrier(name, change) or self.performer.perform(change)
        with self._lock:
            progress.outcomes[change.id] = outcome
            if outcome.in_effect:
                self._in_effect.add(change.id)
            if of_one_host(change):
                self._count(change.hosts[0], outcome)
            if outcome.status in ("done", "not_taken", "failed"):
                progress.touched.update(change.hosts or progress.entered)
                if self.stages[name].kinds[change.kind].on_host:
                    progress.worked.update(change.hosts)
        return outcome

    def _barrier(self, name: StageName, change: Change) -> Outcome | None:
        """Why a change is not to be performed now, if it is not."""
        if change.only_if_failed:
            before = self.progress[name].outcomes.get(change.only_if_failed)
            if before is None or before.status != "not_taken":
                return Outcome(change, "skipped", "not needed")
        if self.needs_approval(change) and change.id not in self.approved:
            return Outcome(change, "approval", self.stale.get(change.id, "waits for approval"))
        missing = [d for d in change.depends_on if d not in self._in_effect]
        if missing:
            status = "approval" if any(map(self._waits_for_approval, missing)) else "waits"
            return Outcome(change, status, f"needs {', '.join(missing)} first")
        if of_one_host(change) and not self._admits(change.hosts[0]):
            limit = self.run.config.policy.max_hosts
            return Outcome(change, "limit", f"this run has changed {limit} hosts (policy.max_hosts)")
        return None

    def _admits(self, host: str) -> bool:
        """Whether the run may change the host: one that it changes already, or has room for."""
        limit = self.run.config.policy.max_hosts
        with self._lock:
            if limit is None or len(self._admitted) < limit:
                self._admitted.add(host)
            return host in self._admitted

    def _count(self, host: str, outcome: Outcome) -> None:
        """A host of which nothing was changed leaves its place to another, in this run and the next ones."""
        unchanged = outcome.error is not None and outcome.error.unchanged
        if outcome.status in ("done", "not_taken", "failed") and not unchanged:
            self._changed.add(host)
        elif host not in self._changed:
            self._admitted.discard(host)

    # -- prove and gate ----------------------------------------------------------------------------

    def prove(self, name: StageName) -> int:
        """Look for the effect on the entered hosts, and judge again; returns how many proofs are new.

        A barred host is left out: there is no effect to wait for.
        """
        stage, progress, run = self.stages[name], self.progress[name], self.run
        self._parse(name)
        new = 0
        merged = dict(run.facts[name])
        barred = {b.host for b in progress.plan.barred}
        hopeful = [host for host in progress.entered if host not in barred]
        for batch in chunks(hopeful, PROVE_BATCH):
            hosts = [self.hosts[host] for host in batch]
            found = stage.prove(run, hosts, self.view(name, batch))
            heed()  # what was not waited for is not written down as missing
            for instance_id, proven in found.items():
                if instance_id in merged:
                    merged[instance_id] = merged[instance_id].model_copy(update=dict(proven.fields))
                run.ledger.proved(run.account.id, run.id, proven.proofs)
                new += len(proven.proofs)
        run.facts[name] = merged
        self._judge(name, "result")
        return new

    def gate(self, name: StageName) -> dict[str, HostStatus]:
        """Judge the entered hosts by the stage's checks; every host gets a status in the ledger."""
        stage, progress, run = self.stages[name], self.progress[name], self.run
        self.performer.check_lease()  # a run that lost it must not write over the verdicts of the next one
        barred = {b.host: b for b in progress.plan.barred}
        excluded = {h for h in progress.entered if h in barred and barred[h].verdict is Verdict.excluded}
        judged = [h for h in progress.entered if h not in excluded and h not in progress.unjudged]
        rows = {host: _columns(facts.row(), stage.checks) for host, facts in run.facts.get(name, {}).items()}
        progress.gate = evaluate(judged, rows, stage.checks)
        progress.blocked = progress.blocked or progress.gate.blocked
        ended, how_to_approve = _by_host(progress.outcomes.values(), self.hosts), self._how_to_approve()
        statuses = {}
        for host in self.hosts:
            if host in excluded:
                statuses[host] = from_barred(barred[host])
            elif host in progress.entered and host in progress.unjudged:
                statuses[host] = from_unjudged(progress.unjudged[host])
            elif host in progress.gate.verdicts:
                statuses[host] = status_of(
                    progress.gate.verdicts[host],
                    barred.get(host),
                    ended[host],
                    stale=self.stale,
                    how_to_approve=how_to_approve,
                    untouched=self._untouched(name, host),
                )
            else:
                needs = ((need, self.progress[need]) for need in stage.needs)
                statuses[host] = not_entered((n, p.blocked, p.statuses.get(host)) for n, p in needs)
        now = run.now()
        statuses = {host: waived(one, run.account.host(host).waive) for host, one in statuses.items()}
        progress.statuses = {h: s.model_copy(update={"since": now}) for h, s in statuses.items()}
        run.ledger.judged(run.account.id, run.id, name, progress.statuses, now)
        # Nothing of it is parsed again, and of ten thousand hosts it is much.
        progress.raw, progress.host_raw = b"", {}
        return progress.statuses

    def _untouched(self, name: StageName, host: str) -> str:
        """Why the stage ended before a host's turn that was to be changed."""
        progress = self.progress[name]
        left_out = progress.stopped and self.host_changes(name, host) and host not in progress.worked
        return progress.stopped if left_out else ""

    def _how_to_approve(self) -> str:
        # A command that names hundreds of hosts, kept for each of them, would fill the ledger.
        if len(self._only_hosts) <= 5:
            return f"Approve the plan: {self.approval_command}"
        return f"Approve plan {self.plan_hash}; the command: haltuun status {self.run.account.label}"

    @property
    def plan_hash(self) -> str:
        return self.plan.hash if self.plan else ""

    def chosen(self, name: StageName) -> bool:
        """False for a stage in which this run was told to change nothing."""
        return not self._only_stages or name in self._only_stages

    def sequence(self) -> list[StageName]:
        """The stages to go through: the chosen ones and those they need, the latter without changes."""
        wanted = {name for name in self.stages if self.chosen(name)}
        for name in reversed(list(self.stages)):
            if name in wanted:
                wanted.update(self.stages[name].needs)
        return [name for name in self.stages if name in wanted]

    def has_work(self, name: StageName, host: str) -> bool:
        """True when the host is changed in this stage, or must be looked at again."""
        return bool(self.host_changes(name, host)) or self.was_touched(name, host)


def new_run_id(now: datetime | None = None) -> str:
    return f"{(now or datetime.now(UTC)):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"


def open_run(
    config: Config, account_name: str, mode: str, opener: Opener, *, ledger: Ledger | None = None
) -> Run:
    """A Run over the named account, with its own AWS sessions and the configured ledger.

    Raises:
        ConfigError: no such account. HaltuunError: the ledger cannot be opened.
    """
    account = config.account(account_name)
    clock = Clock()
    return Run(
        id=new_run_id(),
        config=config,
        account=account,
        mode=mode,
        aws=Aws(account, clock, read_only=mode != "apply"),
        clock=clock,
        ledger=ledger or Ledger(config.ledger_url),
        opener=opener,
    )


def unknown_plan(label: str, plan_hash: str) -> ConfigError:
    return ConfigError(
        f"no plan {plan_hash} was made for this account.",
        subject=label,
        remedy=f"Run 'haltuun plan {label}' and approve the hash it prints.",
        code="UNKNOWN_PLAN",
    )


def _packed(raw: Json | Unknown) -> bytes:
    """What was read stays until the result is judged; of thousands of hosts it takes gigabytes unpacked."""
    return zlib.compress(pickle.dumps(raw), level=1)


def _unpacked(packed: bytes) -> Json | Unknown:
    return pickle.loads(zlib.decompress(packed))


def _columns(row: Row, checks: Sequence[Check]) -> Row:
    """What the checks ask for: whole rows of ten thousand hosts are hundreds of megabytes."""
    asked = {name for check in checks for name in (check.column, check.because)}
    return {name: row[name] for name in asked if name in row}


def _thing(change: Change) -> tuple[str, ...]:
    """What a change concerns, whatever it starts from and wants to reach.

    Of a dictionary its keys tell: several tags of one instance are several things.
    """
    keys = sorted(change.after) if isinstance(change.after, dict) else ()
    return (change.kind, change.region, change.target, *keys)


def _by_host(outcomes: Iterable[Outcome], hosts: Iterable[str]) -> dict[str, list[Outcome]]:
    """A change that names no host concerns all."""
    found: dict[str, list[Outcome]] = {host: [] for host in hosts}
    for outcome in outcomes:
        for host in outcome.change.hosts or found:
            if host in found:
                found[host].append(outcome)
    return found


def of_one_host(change: Change) -> bool:
    """Performed in the host's turn; all others once for the account, before the hosts."""
    return change.reach in (Reach.host, Reach.irreversible) and len(change.hosts) == 1


def _ordered(changes: Sequence[Change]) -> tuple[Change, ...]:
    """Dependencies first; otherwise as the stage gave them."""
    by_id = {change.id: change for change in changes}
    done: dict[str, Change] = {}

    def put(change: Change, above: tuple[str, ...]) -> None:
        if change.id in done or change.id in above:
            return
        for need in (*change.depends_on, *filter(None, [change.only_if_failed])):
            if need in by_id:
                put(by_id[need], (*above, change.id))
        done[change.id] = change

    for change in changes:
        put(change, ())
    return tuple(done.values())


_SESSIONS: dict[str, Takeover] = {}


def keep(takeover: Takeover) -> None:
    """Make it findable by its run id: subflows are given ids, never facts."""
    _SESSIONS[takeover.run.id] = takeover


def session(run_id: str) -> Takeover:
    return _SESSIONS[run_id]


def current() -> Takeover | None:
    """The newest run of this process, for showing its progress."""
    return next(reversed(list(_SESSIONS.values())), None)


def drop(run_id: str) -> None:
    """It has ended."""
    ended = _SESSIONS.pop(run_id, None)
    if ended is not None:
        ended.let_go()
