"""Retry: what the ledger holds about each held host, brought together for `haltuun.causes`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from haltuun.attention import Standing, held_hosts
from haltuun.causes import STOPPED, Decision, Hold, Sight, column, decide
from haltuun.gates import Check, evaluate_plainly
from haltuun.ledger import ChangeEvent, HostEvent, Ledger
from haltuun.model import Change, Facts, Finding, Plan, StageName, Unknown, Verdict, command
from haltuun.run import Run
from haltuun.stages.base import Stage

Stages = Mapping[StageName, Stage]
# A change that ended so was begun, and a look does not show whether it would end so again ...
_FAILED = ("failed", "unknown", "not_done")
# ... and so it is known to have had no effect, unless the host was worse after it.
_UNCHANGED = ("failed", "not_done")

# Called with an applying run as soon as it has begun: a retry counts its tries then.
on_begun: ContextVar[Callable[[Run], None]] = ContextVar("on_begun", default=lambda run: None)
# Who is told of the decisions before anything is changed: the command line sets it.
on_decided: ContextVar[Callable[[Sequence[Decision]], None]] = ContextVar(
    "on_decided", default=lambda decisions: None
)


@dataclass(frozen=True)
class Seen:
    """All that one run saw and planned."""

    facts: Mapping[tuple[str, StageName, str], Mapping[str, Any]] = field(default_factory=dict)
    findings: Mapping[tuple[str, StageName, str], Sequence[Finding]] = field(default_factory=dict)
    plan: Plan | None = None
    chosen: frozenset[StageName] = frozenset(StageName)
    events: Sequence[ChangeEvent] = ()

    def sight(self, stages: Stages, hold: Hold, phase: str, chosen: frozenset[StageName]) -> Sight:
        """Of the host: findings of the stage that holds it, plans of that and of those it needs, if `chosen`.

        Findings of other stages may come and go by themselves: one mi- node wanders between clones. What
        the run itself brought into effect is no longer part of its plan.
        """
        within = _needed(stages, hold.stage)
        plan = self.plan or Plan(account="")
        made = {event.change_id for event in self.events if event.event == "confirmed"}
        planned = [
            change
            for change in plan.changes
            if change.stage in within & chosen and change.id not in made and _concerns(change, hold.host)
        ]
        return Sight(
            unseen=_unseen(self.facts.get((hold.host, StageName.discover, phase), {})),
            findings=frozenset(
                f"{hold.stage.value} {finding.code}"
                for finding in self.findings.get((hold.host, hold.stage, phase), ())
            ),
            bars=frozenset(
                f"{stage.value} {bar.code}"
                for stage in within & chosen
                for bar in plan.barred.get(stage.value, ())
                if bar.host == hold.host
            ),
            changes={_mark(change): change.summary for change in planned},
            columns=self._columns(stages[hold.stage], hold, phase),
        )

    def _columns(self, stage: Stage, hold: Hold, phase: str) -> dict[str, Any]:
        facts = _facts(stage, self.facts.get((hold.host, hold.stage, phase)))
        if facts is None:
            missing = Unknown(unknown="NO_FACTS: not observed")
            return {check.column: missing for check in hold.checks}
        row = facts.row()
        return {check.column: column(check, row, getattr(facts, check.column, None)) for check in hold.checks}


@dataclass(frozen=True)
class Worse:
    """Hosts that were worse after a change: the standing ones, and every time it happened."""

    standing: Mapping[tuple[str, StageName], HostEvent]
    of_run: Sequence[HostEvent]

    def of(self, host: str, stage: StageName) -> HostEvent | None:
        """Of the stage that holds the host, else of any: a retry goes on to the stages behind it."""
        mine = [event for (one, _), event in self.standing.items() if one == host]
        return self.standing.get((host, stage)) or next(iter(mine), None)


def held_in(ledger: Ledger, account: str, stage: StageName | None, hosts: Iterable[str]) -> Standing:
    """The held hosts of the account, those named (none: all), held in `stage` (None: any)."""
    named = set(hosts)
    held = held_hosts(ledger.status(account), stage)
    return {host: one for host, one in held.items() if not named or host in named}


def worth_a_look(
    ledger: Ledger, account: str, held: Standing, hosts: Iterable[str], there: Iterable[str]
) -> list[str]:
    """Of the held hosts, those that still exist and may be retried at all."""
    named, exist = set(hosts), set(there)
    worse = {host for host, _ in ledger.worse(account)}
    return [host for host in held if host in exist and (host in named or host not in worse)]


def decisions(
    ledger: Ledger,
    account: str,
    label: str,
    stages: Sequence[Stage],
    held: Standing,
    look: str,
    looked: Sequence[str],
    there: Iterable[str],
    *,
    named: Iterable[str],
    force: bool,
    max_tries: int,
) -> list[Decision]:
    """For every held host whether it is tried again, and why.

    `look` is the run that just looked at `looked`, `there` are the account's instances.
    """
    by_name = {stage.name: stage for stage in stages}
    judged, exist, asked = ledger.judgements(account), set(there), set(named)
    worse = Worse(ledger.worse(account), ledger.host_events(account, "worse"))
    now = _seen_in(ledger, account, look) if look else Seen()
    runs = {judged[host, stage].run for host, (stage, _) in held.items()}
    chosen = {run.run: run.body.get("stages") for run in ledger.runs(account) if run.run in runs}
    seen = {run: _seen_in(ledger, account, run, chosen.get(run) or ()) for run in runs}
    tries = _tries(ledger, account)
    found = []
    for host, (stage, status) in held.items():
        run = judged[host, stage].run
        bare = Hold(host=host, stage=stage, status=status, judged_at=judged[host, stage].at)
        hold = _hold(by_name, bare, run, seen[run], worse, exist)
        sight = now.sight(by_name, hold, "plan", seen[run].chosen) if host in looked else None
        found.append(
            decide(
                hold,
                sight,
                named=host in asked,
                force=force,
                worse=worse.of(host, stage) if host in exist else None,
                tries=tries[host],
                max_tries=max_tries,
                account=label,
            )
        )
    return found


def record_tries(run: Run, tried: Sequence[Decision]) -> None:
    """Count a try for each host. To be called as `on_begun`: however the run ends, it was one."""
    for decision in tried:
        run.ledger.tried(run.account.id, run.id, decision.host, decision.stage, decision.cause, run.now())


def not_held(
    named: Iterable[str], held: Standing, known: Collection[str], stage: StageName | None
) -> dict[str, str]:
    """Of the named hosts those that are left alone as nothing holds them there → what is said of each."""
    where = f" in {stage.value}" if stage else ""
    return {
        host: f"is not held{where}: left alone."
        if host in known
        else "is not known to the ledger: left alone."
        for host in named
        if host not in held
    }


def unfinished(ledger: Ledger, account: str, label: str) -> str:
    """What goes on with the hosts that had no turn yet, as the last run was stopped, failed or killed; ""
    where it came to its end. A retry is for hosts that are held, and these are not."""
    runs = [run for run in ledger.runs(account) if run.mode == "apply"]
    how = {"Stopped": "was stopped", "Failed": "failed", "not ended": "has not ended"}
    if not runs or runs[-1].outcome not in how:
        return ""
    last = runs[-1]
    goes_on = command("takeover", label, last.body.get("stages") or (), last.body.get("hosts") or ())
    return f"Run {last.run} {how[last.outcome]}: not every host had its turn. To go on: {goes_on}"


def by_stage(chosen: Iterable[Decision]) -> list[tuple[StageName, list[Decision]]]:
    """The hosts by the stage that held them, in the order of the stages: changes begin there."""
    groups: dict[StageName, list[Decision]] = defaultdict(list)
    for decision in chosen:
        groups[decision.stage].append(decision)
    return [(stage, groups[stage]) for stage in StageName if stage in groups]


def from_stage(stage: StageName) -> list[StageName]:
    names = list(StageName)
    return names[names.index(stage) :]


def _hold(stages: Stages, bare: Hold, run: str, seen: Seen, events: Worse, exist: set[str]) -> Hold:
    """The hold with what the run saw that judged it."""
    stage = stages[bare.stage]
    phase = "result" if (bare.host, bare.stage, "result") in seen.facts else "plan"
    facts = _facts(stage, seen.facts.get((bare.host, bare.stage, phase)))
    checks = tuple(
        check
        for check in stage.checks
        if check.code == bare.status.reason and (facts is None or not _met(check, facts))
    )
    stopped = bare.status.reason == STOPPED
    failed = _failed_change(seen.events, bare.host, bare.stage)
    worse = any((e.run, e.host, e.stage) == (run, bare.host, bare.stage) for e in events.of_run)
    ended_it = [e.host for e in events.of_run if e.run == run and e.stage is bare.stage]
    hold = bare.model_copy(
        update={
            "checks": checks,
            "failed": failed.change.summary if failed else "",
            "unchanged": failed is not None and failed.event in _UNCHANGED and not worse,
            "stoppers": tuple(
                host
                for host in dict.fromkeys(ended_it)
                if stopped and (host, bare.stage) in events.standing and host in exist
            ),
            "stopped_elsewhere": stopped and not ended_it,
        }
    )
    before = seen.sight(stages, hold, "plan", seen.chosen)
    if f"{bare.stage.value} {bare.status.reason}" in before.bars:
        hold = hold.model_copy(update={"failed": ""})  # barred: no change of its own holds it
    after = seen.sight(stages, hold, "result", seen.chosen) if phase == "result" else before
    return hold.model_copy(update={"before": before, "after": after})


def _seen_in(ledger: Ledger, account: str, run: str, chosen: Iterable[str] = ()) -> Seen:
    findings: dict[tuple[str, StageName, str], list[Finding]] = defaultdict(list)
    for stage, phase, finding in ledger.found_in(account, run):
        findings[finding.host or "", stage, phase].append(finding)
    return Seen(
        facts=ledger.observed_in(account, run),
        findings=findings,
        plan=ledger.plan_of(account, run),
        chosen=frozenset(StageName(name) for name in chosen) or frozenset(StageName),
        events=ledger.change_events(account, run),
    )


def _needed(stages: Stages, stage: StageName) -> frozenset[StageName]:
    """The stage and all that it needs, directly or not."""
    return frozenset({stage}.union(*(_needed(stages, need) for need in stages[stage].needs)))


def _facts(stage: Stage, body: Mapping[str, Any] | None) -> Facts | None:
    try:
        return None if body is None else stage.host_facts.model_validate(body)
    except ValidationError:  # written by a Haltuun that knew other facts
        return None


def _met(check: Check, facts: Facts) -> bool:
    verdict = evaluate_plainly(["host"], {"host": facts.row()}, [check]).verdicts["host"].verdict
    return verdict is Verdict.passed


def _unseen(discovered: Mapping[str, Any]) -> str:
    """The code of why nobody could look inside; empty where somebody could."""
    way = discovered.get("way")
    return str(way.get("unknown", "")).partition(":")[0] if isinstance(way, Mapping) else ""


def _concerns(change: Change, host: str) -> bool:
    return not change.hosts or host in change.hosts


def _mark(change: Change) -> str:
    """One for this host by its id; one for several without what it starts from, which is the others' too."""
    if len(change.hosts) == 1:
        return change.id
    return f"{change.kind} {change.region} {change.target}"


def _failed_change(events: Sequence[ChangeEvent], host: str, stage: StageName) -> ChangeEvent | None:
    """How the stage's last change for the host ended that was begun and failed."""
    last = {e.change_id: e for e in events if e.change.stage is stage and _concerns(e.change, host)}
    failed = [event for event in last.values() if event.event in _FAILED]
    return failed[-1] if failed else None


def _tries(ledger: Ledger, account: str) -> dict[str, Counter[str]]:
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for event in ledger.tries(account):
        counted[event.host][event.body["cause"]] += 1
    return counted
