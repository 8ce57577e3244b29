"""What was changed, what of it is in effect, what shows that it works, and what of it goes back. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from haltuun.effects import effects, left, staying, still_open
from haltuun.ledger import ChangeEvent, RunRow
from haltuun.model import Change, Frozen, Proof, Reach, StageName, Verdict
from haltuun.report.causes import without_host
from haltuun.report.render import plain
from haltuun.report.rows import Planned, Rows

FINE = (Verdict.passed, Verdict.waived)
# These stages look, and have no proof of their own.
GATE_PROVES = (StageName.discover, StageName.verify)

Reasons = Mapping[tuple[str, str], str]  # by run and change id


STATE_WORDS = {
    "confirmed": "done",
    "intended": "begun, and nobody knows how it ended",
    "sent": "begun, and nobody knows how it ended",
    "unknown": "begun, and nobody knows how it ended",
    "not_done": "begun, and found not done",
    "not_taken": "without effect",
    "failed": "failed",
    "stale": "not done: what it was planned on had moved",
}


class Like(Frozen):
    """Changes that differ in their host alone."""

    stage: StageName
    reach: Reach
    text: str
    ids: tuple[str, ...]
    hosts: tuple[str, ...]
    no_undo: str  # why it cannot be undone, "" when it can
    in_part: str  # what of it an undo leaves there, "" when nothing
    of: int  # hosts that it concerns
    proven: int  # those of them on which its effect was seen
    expired: int  # those of them whose proof is too old by now
    proof: str  # "echo", "verify passed"


class Made(Frozen):
    """A change and how it ended in one run."""

    id: str
    run: str
    at: datetime
    stage: StageName
    reach: Reach
    target: str
    hosts: tuple[str, ...]
    summary: str
    event: str  # the last one of the journal, or "undone"
    state: str  # the same for people
    undo: str  # the command; "" when there is none
    no_undo: str  # why an undo of the run would leave it
    in_part: str  # what of it stays though it goes back, or went
    left: str  # why the last undo of the run left it
    note: str


class Stays(Frozen):
    """Changes that an undo of their run leaves, for one and the same reason."""

    why: str
    changes: tuple[str, ...]  # what they are, a sentence each


class Work(Frozen):
    """What one run changed and nobody has undone."""

    run: str
    at: datetime
    who: str
    how: str
    changes: tuple[Like, ...]
    undo: str  # the command, "" when it would take nothing back
    stays: tuple[Stays, ...]
    left: tuple[Stays, ...]  # what the last undo of the run looked at and left

    @property
    def count(self) -> int:
        return sum(len(like.ids) for like in self.changes)


class TakenBack(Frozen):
    """What an undo took back, and whether it goes back in turn."""

    run: str  # the undo
    who: str  # who approved it; "" where that is not known
    count: int
    undo: str  # the command, "" when it would take nothing back
    in_part: tuple[Stays, ...]  # of what it took back: what stays there all the same
    stays: tuple[Stays, ...]
    left: tuple[Stays, ...]  # what an undo of it looked at and left


class Unresolved(Frozen):
    """A change that was begun, and whose answer never came."""

    run: str
    change_id: str
    at: datetime
    summary: str


def in_effect(events: Sequence[ChangeEvent]) -> dict[str, ChangeEvent]:
    """By change id; without what was done only to take another change back."""
    return {key: event for key, event in effects(events)[0].items() if not event.change.undoes}


def remaining(there: Iterable[ChangeEvent]) -> Reasons:
    """Why an undo of the run would leave the change, of all that is in effect (`effects`).

    By the journal alone: what an undo found when it looked can be otherwise by now (see `left_last`).
    """
    ordered = list(there)
    stay = staying(ordered)
    return {(e.run, e.change_id): plain(stay[e.change_id][1]) for e in ordered if e.change_id in stay}


def left_last(there: Iterable[ChangeEvent], stay: Reasons, runs: Iterable[RunRow]) -> Reasons:
    """Why the last undo of the run left the change, of what is in effect and another undo would look at."""
    were_left = left(runs)
    keys = [(event.run, event.change_id) for event in there]
    return {key: plain(were_left[key]) for key in keys if key in were_left and key not in stay}


def made(events: Sequence[ChangeEvent], runs: Iterable[RunRow]) -> tuple[Made, ...]:
    """Every change that was begun, once a run, with how it ended; oldest first."""
    there, undone = effects(events)
    taken_back = {(event.run, event.change_id) for event, _ in undone}
    stay = remaining(there.values())
    were_left = left_last(there.values(), stay, runs)
    last = {(event.run, event.change_id): event for event in events}
    return tuple(
        _made(event, key in taken_back, stay.get(key, ""), were_left.get(key, ""))
        for key, event in last.items()
    )


def _made(event: ChangeEvent, undone: bool, stays: str, left: str) -> Made:
    change: Change = event.change
    name = "undone" if undone else event.event
    stands = name == "confirmed"
    return Made(
        id=change.id,
        run=event.run,
        at=event.at,
        stage=change.stage,
        reach=change.reach,
        target=plain(change.target),
        hosts=change.hosts,
        summary=plain(change.summary),
        event=name,
        state="done, and taken back since" if undone else STATE_WORDS.get(name, name.replace("_", " ")),
        undo=f"haltuun undo {event.run}" if stands and not stays else "",
        no_undo=stays if stands else "",
        in_part=in_part(change) if undone or (stands and not stays) else "",
        left=left if stands else "",
        note=plain(event.note) if isinstance(event.note, str) else "",
    )


def in_part(change: Change | Planned) -> str:
    """What of the change an undo leaves there; "" when nothing, or when there is no undo."""
    return plain(change.no_undo) if change.undo else ""


def like(
    changes: Sequence[Change | Planned], rows: Rows, done_at: Mapping[str, datetime], now: datetime
) -> tuple[Like, ...]:
    """In the order of the stages; those of single hosts that differ in nothing else stand together."""
    groups: dict[tuple[str, ...], list[Change | Planned]] = {}
    for change in changes:
        text = plain(change.summary)
        if len(change.hosts) == 1 and change.hosts[0] in rows.hosts:
            text = without_host(text, rows.hosts[change.hosts[0]])
        groups.setdefault((change.stage.value, change.reach.value, change.region, text), []).append(change)
    order = list(StageName)
    proofs = _newest_proofs(rows)
    found = []
    for (_, _, _, text), members in groups.items():
        first = members[0]
        hosts = tuple(dict.fromkeys(host for change in members for host in change.hosts))
        since = min((done_at[c.id] for c in members if c.id in done_at), default=None)
        shown = [] if since is None else _shown(hosts or tuple(rows.hosts), first.stage, since, proofs, rows)
        found.append(
            Like(
                stage=first.stage,
                reach=first.reach,
                text=text if len(members) > 1 else plain(first.summary),
                ids=tuple(change.id for change in members),
                hosts=hosts,
                no_undo="" if first.undo else plain(first.no_undo) or "there is none",
                in_part=in_part(first),
                of=len(hosts or rows.hosts),
                proven=len(shown),
                expired=sum(1 for _, until in shown if until is not None and until <= now),
                proof=", ".join(sorted({kind for kind, _ in shown})),
            )
        )
    return tuple(sorted(found, key=lambda like: order.index(like.stage)))


def _newest_proofs(rows: Rows) -> dict[tuple[str, StageName], Proof]:
    return {(proof.host, proof.stage): proof for proof in rows.proofs}


def _shown(
    hosts: Sequence[str],
    stage: StageName,
    since: datetime,
    proofs: Mapping[tuple[str, StageName], Proof],
    rows: Rows,
) -> list[tuple[str, datetime | None]]:
    """(What shows it, until when) for each host on which a change made `since` was seen to work.

    A stage that journals no proof shows it by its gate: the host was looked at since and passed.
    """
    found: list[tuple[str, datetime | None]] = []
    for host in hosts:
        proof, status = proofs.get((host, stage)), rows.status.get(host, {}).get(stage)
        if proof is not None and proof.observed_at >= since:
            found.append((proof.kind.replace("_", " "), proof.valid_until))
        elif (
            stage in GATE_PROVES
            and status is not None
            and status.verdict in FINE
            and rows.looked_at.get((host, stage), since) > since
        ):
            found.append((f"{stage.value} passed", None))
    return found


# -- what goes back ----------------------------------------------------------------------------------


def work(rows: Rows, now: datetime) -> tuple[Work, ...]:
    """The newest run first."""
    all_there = effects(rows.events)[0].values()
    there = {event.change_id: event for event in all_there if not event.change.undoes}
    by_run: dict[str, list[ChangeEvent]] = {}
    for event in there.values():
        by_run.setdefault(event.run, []).append(event)
    who = {one.run: one for one in rows.approvals}
    done_at = {change_id: event.at for change_id, event in there.items()}
    stay = remaining(all_there)
    were_left = left_last(all_there, stay, rows.runs)
    return tuple(
        Work(
            run=run,
            at=max(event.at for event in events),
            who=plain(who[run].who) if run in who else "",
            how=who[run].how if run in who else "",
            changes=like([event.change for event in events], rows, done_at, now),
            undo=_undo(run, events, stay),
            stays=_stays(events, stay),
            left=_stays(events, were_left),
        )
        for run, events in sorted(by_run.items(), key=lambda item: max(e.at for e in item[1]), reverse=True)
    )


def taken_back(rows: Rows) -> tuple[TakenBack, ...]:
    """By the undo that did it, in the order of what they took back."""
    there, undone = effects(rows.events)
    stay = remaining(there.values())
    were_left = left_last(there.values(), stay, rows.runs)
    partly = {(event.run, event.change_id): in_part(event.change) for event, _ in undone}
    who = {row.run: plain(str(row.body.get("approved_by", ""))) for row in rows.runs}
    went: dict[str, list[ChangeEvent]] = {by: [] for _, by in undone}
    for event, by in undone:
        went[by].append(event)
    inverses: dict[str, list[ChangeEvent]] = {by: [] for by in went}
    for event in there.values():
        if event.change.undoes:
            inverses.setdefault(event.run, []).append(event)
    return tuple(
        TakenBack(
            run=run,
            who=who.get(run, ""),
            count=len(went[run]),
            undo=_undo(run, events, stay),
            in_part=_stays(went[run], partly),
            stays=_stays(events, stay),
            left=_stays(events, were_left),
        )
        for run, events in inverses.items()
        if went.get(run)
    )


def _undo(run: str, events: Iterable[ChangeEvent], stay: Reasons) -> str:
    goes_back = any((event.run, event.change_id) not in stay for event in events)
    return f"haltuun undo {run}" if goes_back else ""


def _stays(events: Iterable[ChangeEvent], stay: Reasons) -> tuple[Stays, ...]:
    found: dict[str, list[str]] = {}
    for event in events:
        if why := stay.get((event.run, event.change_id)):
            found.setdefault(why, []).append(plain(event.change.summary))
    return tuple(Stays(why=why, changes=tuple(changes)) for why, changes in found.items())


def unresolved(events: Sequence[ChangeEvent]) -> tuple[Unresolved, ...]:
    return tuple(
        Unresolved(run=event.run, change_id=event.change_id, at=event.at, summary=plain(event.change.summary))
        for event in still_open(events)
    )
