"""Where an account stands: the one source of the numbers that status, artifact and report tell. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from haltuun.config import AccountConfig, PolicyConfig
from haltuun.ledger import Ledger
from haltuun.model import Frozen, Host, HostStatus, Reach, StageName, Verdict
from haltuun.report import changes, news, waits
from haltuun.report.changes import FINE, TakenBack, Unresolved, Work
from haltuun.report.news import Age, Appeared, ForeignNode, Suspect, Worse
from haltuun.report.render import plain
from haltuun.report.rows import Rows, read
from haltuun.report.waits import AWAITING, DECISIONS, Approval, Cause, Waiting


class Place(StrEnum):
    """Where one host stands; each is in exactly one, the worst first."""

    held = "held"
    unknown = "unknown"
    waiting = "waiting"
    approval = "approval"
    excluded = "excluded"
    open = "open"  # not all stages have judged it yet
    custody = "custody"  # every stage passed


WORDS = {
    Place.held: "held",
    Place.unknown: "unknown",
    Place.waiting: "waiting for a date",
    Place.approval: "waiting for approval",
    Place.excluded: "left alone",
    Place.open: "not through yet",
}


class LastRun(Frozen):
    run: str
    mode: str
    outcome: str
    started_at: datetime
    ended_at: datetime | None


class Standing(Frozen):
    """Fields in the order in which a person wants them."""

    account: str
    label: str
    level: Literal["good", "open", "bad"]
    sentence: str
    numbers: dict[str, int]
    places: dict[str, Place]
    run: LastRun | None
    compared_with: str | None
    worse: tuple[Worse, ...]
    appeared: tuple[Appeared, ...]
    age: Age | None
    suspects: tuple[Suspect, ...]
    foreign: tuple[ForeignNode, ...]
    approval: Approval | None
    decisions: tuple[Cause, ...]
    work: tuple[Work, ...]
    undone: tuple[TakenBack, ...]
    holds: tuple[Cause, ...]
    waiting: tuple[Waiting, ...]
    unknown: tuple[Cause, ...]
    not_judged_together: tuple[str, ...]  # stages that could not judge their hosts together
    unresolved: tuple[Unresolved, ...]
    left_alone: tuple[Cause, ...]


def judge(rows: Rows, label: str, approve: Sequence[Reach], now: datetime) -> Standing:
    """All that is told of an account.

    Args:
        label: how the account is called in commands.
        approve: the reaches that wait for a person (`policy.approve`).
        now: what proofs must be valid at.
    """
    places = {host: place(rows.status.get(host, {})) for host in rows.hosts}
    counts = Counter(places.values())
    suspects, worse = news.suspects(rows), news.worse(rows)
    troubles = waits.troubles(rows)
    held = [one for one in troubles if one.verdict is Verdict.held]
    run = _last_run(rows)
    standing = Standing(
        account=rows.account,
        label=label,
        level="good",
        sentence="",
        numbers={
            "hosts": len(rows.hosts),
            **{one.value: counts[one] for one in Place},
            "suspect": len(suspects),
            "worse": len({one.host for one in worse}),
        },
        places=places,
        run=run,
        compared_with=rows.before.run if rows.before else None,
        worse=worse,
        appeared=news.appeared(rows),
        age=news.age(rows),
        suspects=suspects,
        foreign=news.foreign(rows),
        approval=waits.approval(rows, label, approve, now),
        decisions=waits.causes((one for one in held if one.code in DECISIONS), rows.hosts),
        work=changes.work(rows, now),
        undone=changes.taken_back(rows),
        holds=waits.causes((one for one in held if one.code not in DECISIONS), rows.hosts),
        waiting=waits.waiting(rows),
        unknown=waits.causes((one for one in troubles if one.verdict is Verdict.unknown), rows.hosts),
        not_judged_together=tuple(
            plain(f"{finding.message} {finding.remedy}")
            for _, finding in rows.findings
            if finding.not_judged_together
        ),
        unresolved=changes.unresolved(rows.events),
        left_alone=waits.causes(
            (one for one in troubles if one.verdict in (Verdict.excluded, Verdict.waived)), rows.hosts
        ),
    )
    return standing.model_copy(update={"level": _level(standing), "sentence": _sentence(standing)})


def standing_of(ledger: Ledger, account: AccountConfig, policy: PolicyConfig) -> Standing:
    """The standing by the ledger, now."""
    return judge(read(ledger, account.id), account.label, policy.approve, datetime.now(UTC))


def place(stages: Mapping[StageName, HostStatus]) -> Place:
    verdicts = {status.verdict for status in stages.values()}
    for verdict in (Verdict.held, Verdict.unknown, Verdict.waiting):
        if verdict in verdicts:
            return Place(verdict.value)
    if any(status.reason in AWAITING for status in stages.values()):
        return Place.approval
    if Verdict.excluded in verdicts:
        return Place.excluded
    if all(stage in stages and stages[stage].verdict in FINE for stage in StageName):
        return Place.custody
    return Place.open


def _level(standing: Standing) -> Literal["good", "open", "bad"]:
    numbers = standing.numbers
    failed = standing.run is not None and standing.run.outcome in ("Failed", "GateBlocked")
    # Cut off, or still at work: what it came to nobody has looked at.
    cut_off = standing.run is not None and (
        standing.run.ended_at is None or standing.run.outcome == "Stopped"
    )
    unsure = standing.unresolved or standing.not_judged_together
    if failed or unsure or any(numbers[n] for n in ("held", "unknown", "suspect", "worse")):
        return "bad"
    if (
        not numbers["hosts"]
        or cut_off
        or standing.approval
        or numbers["hosts"] > numbers["custody"] + numbers["excluded"]
    ):
        return "open"
    return "good"


def _sentence(standing: Standing) -> str:
    numbers = standing.numbers
    if not numbers["hosts"]:
        return "No host is known yet."
    rest = [f"{numbers[one.value]} {words}" for one, words in WORDS.items() if numbers[one.value]]
    told = f"{numbers['custody']} of {numbers['hosts']} hosts are in custody"
    told += f"; {', '.join(rest)}." if rest else "."
    if numbers["suspect"]:
        told += f" {_hosts(numbers['suspect'])} with signs of a compromise."
    if numbers["worse"]:
        told += f" {_hosts(numbers['worse'])} worse than before."
    if standing.not_judged_together:
        told += " What holds for several hosts could not be judged."
    if standing.approval:
        told += f" {_changes(standing.approval.count + standing.approval.elsewhere)} waiting for approval."
    if standing.run:
        how = f"ended as {standing.run.outcome}" if standing.run.ended_at else "has not ended"
        told += f" Run {standing.run.run} {how}."
    return told


def _hosts(count: int) -> str:
    return "1 host is" if count == 1 else f"{count} hosts are"


def _changes(count: int) -> str:
    return "1 change is" if count == 1 else f"{count} changes are"


def _last_run(rows: Rows) -> LastRun | None:
    if not rows.runs:
        return None
    run = next((run for run in reversed(rows.runs) if run.mode != "plan"), rows.runs[-1])
    return LastRun(
        run=run.run, mode=run.mode, outcome=run.outcome, started_at=run.started_at, ended_at=run.ended_at
    )


def host_label(hosts: Mapping[str, Host], instance_id: str) -> str:
    """`web-01 (i-0abc…)`, harmless."""
    host = hosts.get(instance_id)
    name = plain(host.name) if host else ""
    return f"{name} ({instance_id})" if name else instance_id


def host_name(hosts: Mapping[str, Host], instance_id: str) -> str:
    """Its name, harmless; its id when it has none."""
    host = hosts.get(instance_id)
    return (plain(host.name) if host else "") or instance_id
