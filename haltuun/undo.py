"""Takes a run's changes back, the last first.

An undo is an inverse change with a precondition of its own: performed only while what the change made is
still there, so that nobody's later work is lost. It is journaled like any other change and can be undone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from haltuun.config import Config
from haltuun.effects import effects, staying, still_open
from haltuun.engine import of_one_host, open_run
from haltuun.errors import ConfigError, HaltuunError
from haltuun.ledger import ChangeEvent, Lease, Ledger, RunRow
from haltuun.model import Change, Host, HostStatus, Json, StageName, Undo, Unknown, Verdict, canonical
from haltuun.perform import Outcome, Performer
from haltuun.run import Opener, Run
from haltuun.stages.base import Kind, Stage
from haltuun.waves import waves

log = logging.getLogger("haltuun")

MODE = "undo"
GONE_BACK = ("done", "already")
# What an undo leaves on purpose is no failure of it.
SETTLED = (*GONE_BACK, "kept")
# Where Systems Manager's way to a host is set up.
_REACHED_BY = (StageName.verify, StageName.repair)
_NEXT_TAKEOVER = "The next takeover repairs the host again, with all its guards."


@dataclass(frozen=True)
class Step:
    """One change of the run and how it is taken back. `status` is "" until it was looked at.

    kept: it stays on purpose · needed: another run builds on it · stale: it has been changed since ·
    ready: it would be taken back · done, already, unknown, failed, waits: what came of it
    """

    change: Change
    inverse: Change | None
    status: str = ""
    message: str = ""
    # Changes whose steps come before: what this one builds on is made again there.
    after: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        return self.inverse is not None and self.status in ("", "ready")

    @property
    def in_turn(self) -> bool:
        """Whether it goes back, and that could itself be undone."""
        return self._goes_back and self.inverse is not None and self.inverse.undo is not None

    @property
    def not_in_turn(self) -> str:
        """Why what goes back could not be undone itself; "" where it could, or nothing goes back."""
        if not self._goes_back or self.in_turn or self.inverse is None:
            return ""
        return f"Not undone in turn: {self.inverse.no_undo}"

    @property
    def in_part(self) -> str:
        """What of it stays there though it goes back; "" where nothing does."""
        return f"In part: {self.change.no_undo}" if self.inverse is not None and self.change.no_undo else ""

    @property
    def _goes_back(self) -> bool:
        return self.inverse is not None and self.status in ("", "ready", "done")


def plan_undo(
    events: Iterable[ChangeEvent], of: str, kinds: Mapping[StageName, Mapping[str, Kind]]
) -> list[Step]:
    """How each change of the run `of` that is in effect is taken back, in order. Pure.

    What stays is named: see `staying`.
    """
    events = list(events)
    there = list(effects(events)[0].values())
    stay = staying(there)
    before = _made_before(events, [one.change for one in there if one.run == of])
    steps = []
    for one in reversed([one for one in there if one.run == of]):
        change = one.change
        if change.id in stay:
            steps.append(Step(change, None, *stay[change.id]))
        else:
            others = sorted(
                {h for o in there if o.run != of and _beside(o.change, change) for h in o.change.hosts}
            )
            steps.append(Step(change, _inverse(change, kinds, others), after=before.get(change.id, ())))
    return steps


def _made_before(events: Iterable[ChangeEvent], changes: Sequence[Change]) -> dict[str, tuple[str, ...]]:
    """Of inverse changes: which of the others took away what theirs was built on, and so are undone first."""
    known = {event.change_id: event.change for event in events}
    by_undone = {change.undoes: change.id for change in changes if change.undoes}
    return {
        change.id: tuple(by_undone[need] for need in known[change.undoes].depends_on if need in by_undone)
        for change in changes
        if change.undoes in known
    }


def _by_ssm(change: Change, kinds: Mapping[StageName, Mapping[str, Kind]]) -> bool:
    """Whether it is taken back on its host, through Systems Manager."""
    if change.undo is None or change.undoes:
        return False
    kind = kinds.get(change.stage, {}).get(change.undo.kind)
    return kind is not None and kind.by_ssm


def _goes_by(other: Change, change: Change) -> bool:
    """Whether `other`, which goes back on its host, needs this change for that: to reach it, or by name."""
    if change.stage in _REACHED_BY:
        return not change.hosts or not set(change.hosts).isdisjoint(other.hosts)
    names = other.detail.values() if isinstance(other.detail, dict) else ()
    return (change.stage, change.region) == (other.stage, other.region) and change.target in names


def _beside(other: Change, change: Change) -> bool:
    """Hosts of other runs that use what is of the whole account: no id says so, their tags do."""
    return len(change.hosts) != 1 and (other.stage, other.region) == (change.stage, change.region)


def _inverse(change: Change, kinds: Mapping[StageName, Mapping[str, Kind]], others: Sequence[str]) -> Change:
    assert change.undo is not None
    on_host = kinds[change.stage][change.kind].on_host
    return change.model_copy(
        update={
            "kind": change.undo.kind,
            "before": change.after,
            "after": change.undo.after,
            "summary": f"Take back: {change.summary}",
            # A repair is not repeated from memory: it is judged anew.
            "undo": None if on_host else Undo(kind=change.kind, after=change.after),
            "no_undo": _NEXT_TAKEOVER if on_host else "",
            "concerns": tuple(sorted({*change.concerns, *others} - set(change.hosts))),
            "depends_on": (),
            "only_if_failed": None,
            "undoes": change.id,
        }
    )


def find_run(config: Config, ledger: Ledger, run_id: str) -> tuple[str, RunRow]:
    """The account and the row of a run.

    Raises:
        ConfigError: no such run, or one that changes nothing.
    """
    rows = [row for account in config.accounts for row in ledger.runs(account.id)]
    found = next((row for row in rows if row.run == run_id), None)
    if found is not None and found.mode != "plan":
        return found.account, found
    begun = {e.run for account in config.accounts for e in ledger.change_events(account.id)}
    changing = [row.run for row in rows if row.run in begun]
    last = ", ".join(changing[-5:]) or "none"
    raise ConfigError(
        "this run only planned; it changed nothing." if found else "the ledger knows no such run.",
        subject=run_id,
        remedy=f"The last runs that changed something: {last}.",
        code="UNKNOWN_RUN",
    )


def _why_left(step: Step) -> str:
    if step.status == "done":
        return ""
    return f"It could not be looked at: {step.message}" if step.status == "unknown" else step.message


class Undoing:
    """One undo of one run. First looks (`preview`), then, when approved, acts. `act_on` is thread-safe."""

    def __init__(self, run: Run, of: str, stages: Sequence[Stage], hosts: Mapping[str, Host]) -> None:
        self.run = run
        self.of = of
        self.hosts = hosts
        self.kinds = {stage.name: stage.kinds for stage in stages}
        self.performer = Performer(run, {stage.name: stage for stage in stages})
        self.stopped = ""
        self.approved_by = ""
        self._steps: dict[str, Step] = {}
        # What other runs did on hosts that is taken back through Systems Manager.
        self._others: list[ChangeEvent] = []
        self._unproven: set[tuple[StageName, str]] = set()

    @property
    def lease(self) -> Lease | None:
        return self.performer.lease

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._steps.values())

    def begin(self, who: str, prefect_run: str = "") -> None:
        """Plan it; when it is to be performed, under the account's lease, and what is open is resolved first.

        Raises:
            LeaseHeld, AwsError, HaltuunError.
        """
        run, self.approved_by = self.run, who
        if run.mode != "plan":
            self.performer.take_lease()
        run.aws.confirm_account()
        body = {"mode": MODE, "undoes": self.of, "approved_by": who, "prefect_run": prefect_run}
        if run.mode != "plan":
            run.ledger.start_run(run.account.id, run.id, body, run.now())
            opened = still_open(run.ledger.change_events(run.account.id))
            self.performer.resolve_all([e for e in opened if e.change.kind in self.kinds[e.change.stage]])
        events = run.ledger.change_events(run.account.id)
        self._steps = {step.change.id: step for step in plan_undo(events, self.of, self.kinds)}
        there = effects(events)[0].values()
        self._others = [one for one in there if one.run != self.of and _by_ssm(one.change, self.kinds)]

    def preview(self, ids: Iterable[str]) -> None:
        """Look whether each would be taken back; changes nothing."""
        for change_id in ids:
            step = self._steps[change_id]
            if step.inverse is not None and not step.status:
                self._steps[change_id] = self._looked_at(step, step.inverse)

    def _looked_at(self, step: Step, inverse: Change) -> Step:
        kind = self.performer.kind_of(inverse)
        try:
            kept = self._kept(step, inverse)
            seen = kind.look(self.run, inverse)
        except HaltuunError as error:
            return replace(step, status="unknown", message=str(error))
        if kept is not None:
            return kept
        if isinstance(seen, Unknown):
            return replace(step, status="unknown", message=seen.unknown)
        seen = self._by_then(step, seen)
        if canonical(seen) == canonical(inverse.after):
            return replace(step, status="already", message=_GONE)
        if canonical(seen) != canonical(inverse.before):
            return replace(step, status="stale", message=_DRIFTED)
        return replace(step, status="ready", message=self._said(step, inverse))

    def _said(self, step: Step, inverse: Change) -> str:
        """What would go with it, and what of it stays."""
        goes = self.performer.kind_of(inverse).goes
        return " ".join(filter(None, (goes(inverse) if goes else "", step.in_part)))

    def _kept(self, step: Step, inverse: Change) -> Step | None:
        """The step where it stays, or where that cannot be seen."""
        over = self._needed_over(step.change)
        if over is not None:
            said = f"Run {over.run} goes back by it, and first: {over.change.summary}"
            return replace(step, status="needed", message=said)
        keeps = self.performer.kind_of(inverse).keeps
        if keeps and not of_one_host(inverse):
            going = {
                host
                for other in self.steps
                if other.open and of_one_host(other.change) and step.change.id in other.change.depends_on
                for host in other.change.hosts
            }
            inverse = inverse.model_copy(update={"hosts": tuple(sorted(going))})
        why = keeps(self.run, inverse) if keeps else ""
        if isinstance(why, Unknown):
            return replace(step, status="unknown", message=why.unknown)
        return replace(step, status="kept", message=why) if why else None

    def _needed_over(self, change: Change) -> ChangeEvent | None:
        """What another run did on a host and has yet to take back there, over this change or with its help.

        What somebody has changed since does not go back, and needs nothing.
        """
        for other in self._others:
            if _goes_by(other.change, change):
                back = _inverse(other.change, self.kinds, ())
                seen = self.performer.kind_of(back).look(self.run, back)
                if isinstance(seen, Unknown) or canonical(seen) == canonical(back.before):
                    return other
        return None

    def _tried_again_over(self, change: Change) -> Step | None:
        """What did not go back on a host that is reached by this change, and shall when it is tried again."""
        if change.stage not in _REACHED_BY:
            return None
        hosts = set(change.hosts)
        open_ones = (step for step in self.steps if step.status in ("failed", "waits", "unknown"))
        over = (step for step in open_ones if _by_ssm(step.change, self.kinds))
        return next((step for step in over if not hosts or not hosts.isdisjoint(step.change.hosts)), None)

    def _by_then(self, step: Step, seen: Json) -> Json:
        """What will be there when it is this step's turn: later changes of the same thing go back first."""
        for other in self.steps:
            if other.change.id == step.change.id:
                break
            one, mine = other.inverse, step.change
            if one is None or (one.kind, one.region, one.target) != (mine.kind, mine.region, mine.target):
                continue
            if canonical(one.before) == canonical(seen):
                seen = one.after
        return seen

    # -- act -------------------------------------------------------------------------------------

    @property
    def account_first(self) -> bool:
        """Whether `act_on_account` comes before the hosts: an undo of an undo makes what they build on."""
        return any(step.change.undoes for step in self.steps)

    def waves(self) -> list[tuple[str, ...]]:
        """The hosts with changes of their own, in the order in which they go back: on-host ones in waves."""
        own = self._own()
        touched: dict[str, tuple[str, ...]] = {}
        for host, steps in own.items():
            on_host = [
                s.inverse.kind for s in steps if s.inverse and self.performer.kind_of(s.inverse).on_host
            ]
            if on_host:
                touched[host] = tuple(on_host)
        still = tuple(host for host in own if host not in touched)
        return [*([still] if still else []), *waves(touched)]

    def _own(self) -> dict[str, list[Step]]:
        own: dict[str, list[Step]] = {}
        for step in self.steps:
            if of_one_host(step.change):
                own.setdefault(step.change.hosts[0], []).append(step)
        return own

    def act_on_host(self, instance_id: str) -> list[Step]:
        """The host's own changes. Never raises for the host's faults; a failure on it ends the undo there.

        Raises:
            LeaseLost.
        """
        return self._act([step.change.id for step in self._own().get(instance_id, ())])

    def act_on_account(self) -> list[Step]:
        """What is not of one host alone: once the hosts have gone back, or `account_first`."""
        return self._act([step.change.id for step in self.steps if not of_one_host(step.change)])

    def _act(self, ids: Sequence[str]) -> list[Step]:
        acted = []
        for change_id in ids:
            step = self._steps[change_id]
            if step.open and step.inverse is not None:
                self._steps[change_id] = step = self._go_back(step, step.inverse)
                acted.append(step)
        return acted

    def _go_back(self, step: Step, inverse: Change) -> Step:
        if self.stopped:
            return replace(step, status="waits", message=f"Not begun: {self.stopped}.")
        staying = [s for s in self.steps if step.change.id in s.change.depends_on and s.status not in SETTLED]
        if staying:
            return replace(step, status="waits", message=f"Still needed: {staying[0].change.summary}")
        missing = [s for s in self.steps if s.change.id in step.after and s.status not in GONE_BACK]
        if missing:
            return replace(
                step, status="waits", message=f"What it builds on is not there: {missing[0].change.summary}"
            )
        over = self._tried_again_over(step.change)
        if over is not None:
            why = f"{over.change.target} has to be reached still, to take back: {over.change.summary}"
            return replace(step, status="waits", message=why)
        kept = self._kept(step, inverse)
        if kept is not None:
            return kept
        kind = self.performer.kind_of(inverse)
        outcome = self.performer.perform(inverse, lambda: self._unprove(step.change, inverse.concerned))
        # What was refused before anything was changed says nothing of the next host.
        unchanged = outcome.error is not None and outcome.error.unchanged
        if outcome.status == "failed" and kind.on_host and not unchanged:
            self.stopped = f"{inverse.target} did not go back ({outcome.message})"
        message = _message(outcome)
        if outcome.status == "done":
            message = f"{message} {step.in_part}".strip()
        return replace(step, status=outcome.status, message=message)

    # -- end -------------------------------------------------------------------------------------

    def outcome(self) -> str:
        """Undone, PartlyUndone, or in plan mode AwaitingApproval; NothingToUndo when nothing is in effect."""
        if not self._steps:
            return "NothingToUndo"
        if self.run.mode == "plan":
            return "AwaitingApproval" if any(step.open for step in self.steps) else "NothingToUndo"
        return "Undone" if all(step.status in SETTLED for step in self.steps) else "PartlyUndone"

    def end(self, outcome: str) -> None:
        """Write the end and give the lease back. All else was written while the lease was held."""
        run = self.run
        if run.mode == "plan":
            return
        try:
            body = {"undoes": self.of, "left": self._left()}
            run.ledger.end_run(run.account.id, run.id, outcome, body, run.now())
        finally:
            self.performer.release_lease()

    def _left(self) -> dict[str, Json]:
        """Change id → why it was left, which the next may find otherwise; "" where it was not, so that no
        older reason stands."""
        return {
            step.change.id: _why_left(step) for step in self.steps if step.inverse is not None and step.status
        }

    def _unprove(self, change: Change, concerned: Iterable[str]) -> None:
        """What was proven and judged of its hosts holds no more. Written before the change is taken back:
        whenever the undo is killed, no host counts as passed of which something went back."""
        run, stage = self.run, change.stage
        own = set(change.hosts or self.hosts)  # a change that names no host concerns all
        self._withdraw(stage, own, f"Run {run.id} takes back what was changed here.")
        others = {host for host in concerned if host in self.hosts and (stage, host) not in self._unproven}
        if others:
            status = run.ledger.status(run.account.id)
            good = {
                h for h in others if (one := status.get(h, {}).get(stage)) and one.verdict is Verdict.passed
            }
            self._withdraw(stage, good, f"Run {run.id} takes back what this host may use, too.")

    def _withdraw(self, stage: StageName, of: Iterable[str], said: str) -> None:
        run, hosts = self.run, sorted(host for host in of if (stage, host) not in self._unproven)
        if not hosts:
            return
        now = run.now()
        status = HostStatus(
            verdict=Verdict.pending,
            reason="UNDONE",
            message=said,
            remedy="Take it over again when it shall be in custody.",
            since=now,
        )
        run.ledger.judged(run.account.id, run.id, stage, dict.fromkeys(hosts, status), now)
        run.ledger.withdraw_proofs(run.account.id, run.id, stage, hosts, said, now)
        self._unproven.update((stage, host) for host in hosts)


_DRIFTED = "It has been changed since; it is left as it is."
_GONE = "It is not there any more."


def _message(outcome: Outcome) -> str:
    return {"stale": _DRIFTED, "already": _GONE}.get(outcome.status, outcome.message)


def open_undo(
    config: Config, run_id: str, *, approved: bool, stages: Sequence[Stage], opener: Opener, ledger: Ledger
) -> Undoing:
    """Raises ConfigError: no such run."""
    account, _ = find_run(config, ledger, run_id)
    run = open_run(config, account, "apply" if approved else "plan", opener, ledger=ledger)
    return Undoing(run, run_id, stages, ledger.hosts(account))


_SESSIONS: dict[str, Undoing] = {}


def keep(undoing: Undoing) -> None:
    """Make it findable by its run id: tasks are given ids, never objects."""
    _SESSIONS[undoing.run.id] = undoing


def session(run_id: str) -> Undoing:
    return _SESSIONS[run_id]


def drop(run_id: str) -> None:
    _SESSIONS.pop(run_id, None)
