"""What was changed, what of it is in effect, what shows that it works. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from haltuun.effects import effects
from haltuun.ledger import ChangeEvent
from haltuun.model import Change, Frozen, Proof, Reach, StageName, Verdict
from haltuun.report.causes import without_host
from haltuun.report.render import plain
from haltuun.report.rows import Planned, Rows

FINE = (Verdict.passed, Verdict.waived)
# These stages look, and have no proof of their own.
GATE_PROVES = (StageName.discover, StageName.verify)
UNRESOLVED = ("intended", "sent", "unknown")


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
    no_undo: str
    note: str


def in_effect(events: Sequence[ChangeEvent]) -> dict[str, ChangeEvent]:
    """By change id; without what was done only to take another change back."""
    return {key: event for key, event in effects(events)[0].items() if not event.change.undoes}


def made(events: Sequence[ChangeEvent]) -> tuple[Made, ...]:
    """Every change that was begun, once a run, with how it ended; oldest first."""
    _, undone = effects(events)
    taken_back = {(event.run, event.change_id) for event, _ in undone}
    last = {(event.run, event.change_id): event for event in events}
    return tuple(_made(event, key in taken_back) for key, event in last.items())


def _made(event: ChangeEvent, undone: bool) -> Made:
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
        undo=f"haltuun undo {event.run}" if stands and change.undo else "",
        no_undo=plain(change.no_undo) if stands and not change.undo else "",
        note=plain(event.note) if isinstance(event.note, str) else "",
    )


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
