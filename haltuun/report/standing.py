"""Where an account stands: the one source of the numbers that status, artifact and report tell. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from haltuun.config import AccountConfig, PolicyConfig
from haltuun.effects import effects
from haltuun.ledger import ChangeEvent, Ledger
from haltuun.model import (
    Frozen,
    Host,
    HostStatus,
    Reach,
    Severity,
    StageName,
    Verdict,
    approval_command,
    held_back,
)
from haltuun.report.causes import Trouble, grouped, without_host
from haltuun.report.changes import FINE, UNRESOLVED, Like, in_effect, like
from haltuun.report.render import plain
from haltuun.report.rows import Rows, read

# Codes of hosts that only a person's approval keeps from going on.
AWAITING = ("AWAITS_APPROVAL", "PLAN_STALE")
# Holds that no repair ends: somebody must say what is wanted.
DECISIONS = frozenset(
    {
        "CUSTOM_IDENTITY",
        "DELIBERATE_HYBRID",
        "EOL",
        "HOST_KEY_CHANGED",
        "HOST_KEY_UNKNOWN",
        "HYBRID_FOREIGN",
        "HYBRID_IN_USE",
        "IDENTITY_ORDER_OVERRIDE",
        "NAME_TAKEN",
        "SUSPECT",
        "WAITING_LIMIT",
        "WINDOWS_BY_HAND",
        "WRONG_BOX",
    }
)
NODE = re.compile(r"mi-[0-9a-f]{8,17}")


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


class Worse(Frozen):
    """A stage that a host had passed and passes no more."""

    host: str
    stage: StageName
    was: Verdict
    now: Verdict
    code: str
    message: str
    remedy: str


class Appeared(Frozen):
    """What the last run saw first: a host, or a critical finding ("" for the account's)."""

    host: str
    code: str  # "" for a new host
    message: str
    remedy: str = ""


class Age(Frozen):
    """The oldest of the newest observations: nothing that is told is older."""

    oldest_at: datetime
    newest_at: datetime
    host: str
    stage: StageName


class Suspect(Frozen):
    host: str
    signs: tuple[str, ...]
    since: datetime | None
    remedy: str


class ForeignNode(Frozen):
    """A hybrid registration (mi-…): `host` is the instance that bears it, "" when none is known."""

    node_id: str
    region: str
    ping_status: str
    computer_name: str
    host: str
    settled: bool  # its host is managed under its own id
    message: str


class Said(Frozen):
    message: str
    hosts: tuple[str, ...]


class Cause(Frozen):
    """Hosts with the same verdict, stage, code and remedy."""

    verdict: Verdict
    stage: StageName
    code: str
    hosts: tuple[str, ...]
    said: tuple[Said, ...]
    remedy: str


class Approval(Frozen):
    """What waits for a person's approval."""

    plan_hash: str
    command: str
    narrowed: dict[Literal["stages", "hosts"], tuple[str, ...]]  # as the plan was; empty: all
    made_at: datetime | None
    changes: tuple[Like, ...]
    hosts: tuple[str, ...]  # whose verdict waits for it

    @property
    def count(self) -> int:
        return sum(len(like.ids) for like in self.changes)


class Work(Frozen):
    """What one run changed and nobody has undone."""

    run: str
    at: datetime
    who: str
    how: str
    changes: tuple[Like, ...]
    undo: str  # the command, "" when nothing of it can be undone

    @property
    def count(self) -> int:
        return sum(len(like.ids) for like in self.changes)


class Waiting(Frozen):
    host: str
    stage: StageName
    code: str
    message: str
    since: datetime | None
    next_check: datetime | None


class Unresolved(Frozen):
    """A change that was begun, and whose answer never came."""

    run: str
    change_id: str
    at: datetime
    summary: str


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
    undone: dict[str, int]  # run → how many changes it took back
    holds: tuple[Cause, ...]
    waiting: tuple[Waiting, ...]
    unknown: tuple[Cause, ...]
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
    suspects, worse = _suspects(rows), _worse(rows)
    troubles = _troubles(rows)
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
        appeared=_appeared(rows),
        age=_age(rows),
        suspects=suspects,
        foreign=_foreign(rows),
        approval=_approval(rows, label, approve, now),
        decisions=_causes((one for one in held if one.code in DECISIONS), rows.hosts),
        work=_work(rows, now),
        undone=dict(Counter(by for _, by in effects(rows.events)[1])),
        holds=_causes((one for one in held if one.code not in DECISIONS), rows.hosts),
        waiting=_waiting(rows),
        unknown=_causes((one for one in troubles if one.verdict is Verdict.unknown), rows.hosts),
        unresolved=_unresolved(rows.events),
        left_alone=_causes((one for one in troubles if one.verdict is Verdict.excluded), rows.hosts),
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
    if failed or standing.unresolved or any(numbers[n] for n in ("held", "unknown", "suspect", "worse")):
        return "bad"
    if (
        not numbers["hosts"]
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
    if standing.approval:
        told += f" {_changes(standing.approval.count)} waiting for approval."
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


# -- what is new ---------------------------------------------------------------------------------


def _worse(rows: Rows) -> tuple[Worse, ...]:
    return tuple(
        Worse(
            host=host,
            stage=stage,
            was=before.verdict,
            now=now.verdict,
            code=now.reason,
            message=plain(now.message),
            remedy=plain(now.remedy),
        )
        for host, stages in rows.status.items()
        for stage in StageName
        if (now := stages.get(stage)) is not None
        and now.verdict in (Verdict.held, Verdict.unknown, Verdict.waiting)
        and (before := rows.status_before.get(host, {}).get(stage)) is not None
        and before.verdict in FINE
    )


def _appeared(rows: Rows) -> tuple[Appeared, ...]:
    if rows.before is None:
        return ()
    new = [
        Appeared(host=host, code="", message="Seen for the first time.")
        for host in rows.hosts
        if host not in rows.hosts_before
    ]
    known = {(finding.host, finding.code) for _, finding in rows.findings_before}
    told = {
        (finding.host, finding.code): Appeared(
            host=finding.host or "",
            code=finding.code,
            message=plain(finding.message),
            remedy=plain(finding.remedy),
        )
        for _, finding in rows.findings
        if finding.severity is Severity.critical and (finding.host, finding.code) not in known
    }
    return (*new, *told.values())


def _age(rows: Rows) -> Age | None:
    looks = {key: at for key, at in rows.looked_at.items() if key[0] in rows.hosts}
    if not looks:
        return None
    host, stage = min(looks, key=lambda key: looks[key])
    return Age(oldest_at=looks[host, stage], newest_at=max(looks.values()), host=host, stage=stage)


# -- compromise and foreign registrations ----------------------------------------------------------


def _suspects(rows: Rows) -> tuple[Suspect, ...]:
    found: dict[str, Suspect] = {}
    for _, finding in rows.findings:
        if finding.code == "SUSPECT" and finding.host:
            found[finding.host] = Suspect(
                host=finding.host,
                signs=tuple(plain(sign) for sign in finding.evidence),
                since=_since(rows, finding.host),
                remedy=plain(finding.remedy),
            )
    for host, stages in rows.status.items():
        held = next((s for s in stages.values() if s.reason == "SUSPECT" and s.verdict is Verdict.held), None)
        if held and host not in found:
            found[host] = Suspect(host=host, signs=(), since=held.since, remedy=plain(held.remedy))
    return tuple(found.values())


def _since(rows: Rows, host: str) -> datetime | None:
    times = [s.since for s in rows.status.get(host, {}).values() if s.reason == "SUSPECT" and s.since]
    return min(times, default=None)


def _foreign(rows: Rows) -> tuple[ForeignNode, ...]:
    """Registrations of other accounts on hosts here, then the hybrid nodes of this account."""
    found: dict[tuple[str, str], ForeignNode] = {}
    for _, finding in rows.findings:
        if finding.code != "HYBRID_FOREIGN" or not finding.host:
            continue
        named = NODE.search(" ".join(finding.evidence))
        node_id = named[0] if named else "mi-…"
        host = rows.hosts.get(finding.host)
        found[node_id, finding.host] = ForeignNode(
            node_id=node_id,
            region=host.region if host else "",
            ping_status="",
            computer_name="",
            host=finding.host,
            settled=False,
            message=plain(finding.message),
        )
    _, facts = rows.account_facts.get(StageName.discover, (None, {}))
    bearer = {
        standing.get("private_ip"): host
        for host, standing in (facts.get("standing") or {}).items()
        if host in rows.hosts and standing.get("private_ip")
    }
    for region, seen in (facts.get("regions") or {}).items():
        for node in _rows(seen.get("hybrid_nodes")):
            host_id = bearer.get(node.get("ip_address"), "")
            key = (node["node_id"], host_id)
            if key not in found:
                found[key] = ForeignNode(
                    node_id=node["node_id"],
                    region=region,
                    ping_status=plain(node.get("ping_status", "")),
                    computer_name=plain(node.get("computer_name", "")),
                    host=host_id,
                    settled=_repaired(rows, host_id),
                    message=_of_node(host_id, _repaired(rows, host_id)),
                )
    return tuple(sorted(found.values(), key=lambda node: node.settled))


def _repaired(rows: Rows, host: str) -> bool:
    status = rows.status.get(host, {}).get(StageName.repair)
    return status is not None and status.verdict in FINE


def _of_node(host: str, settled: bool) -> str:
    if not host:
        return "No instance of this account has its address: a machine elsewhere, or one that is gone."
    if settled:
        return "It was baked into this host's image; the host is now managed under its own id."
    return "It has this host's address, and the host is not managed under its own id."


def _rows(value: Any) -> list[Mapping[str, Any]]:
    """A list of facts; what could not be asked is no list."""
    return list(value) if isinstance(value, list) else []


# -- troubles ----------------------------------------------------------------------------------------


def _troubles(rows: Rows) -> list[Trouble]:
    """Each host's verdicts that are not fine, by cause; what a later stage only repeats is left out."""
    found: dict[tuple[str, Verdict, str], Trouble] = {}
    for host in rows.hosts:
        stages = rows.status.get(host, {})
        for stage in StageName:
            status = stages.get(stage)
            if status is None or status.verdict in (*FINE, Verdict.pending):
                continue
            found.setdefault(
                (host, status.verdict, status.reason),
                Trouble(
                    host,
                    stage,
                    status.verdict,
                    status.reason,
                    status.message,
                    status.remedy,
                ),
            )
    return list(found.values())


def _causes(troubles: Iterable[Trouble], hosts: Mapping[str, Host]) -> tuple[Cause, ...]:
    """The largest first. A text that differs in the host's name alone is the same text."""
    by_host = {(one.host, one.stage, one.code): one for one in troubles}
    alike = [
        replace(
            one,
            message=without_host(plain(one.message), hosts[one.host]),
            remedy=without_host(plain(one.remedy), hosts[one.host]),
        )
        for one in by_host.values()
    ]
    causes = []
    for group in grouped(alike):
        first = group.first
        mine = by_host[first.host, first.stage, first.code]
        causes.append(
            Cause(
                verdict=first.verdict,
                stage=first.stage,
                code=first.code,
                hosts=tuple(group.hosts),
                said=tuple(
                    Said(
                        message=text
                        if len(members) > 1
                        else plain(by_host[members[0], first.stage, first.code].message),
                        hosts=tuple(members),
                    )
                    for text, members in group.said.items()
                ),
                remedy=first.remedy if len(group.hosts) > 1 else plain(mine.remedy),
            )
        )
    return tuple(sorted(causes, key=lambda cause: -len(cause.hosts)))


def _waiting(rows: Rows) -> tuple[Waiting, ...]:
    """By date; those without one last."""
    found = [
        Waiting(
            host=host,
            stage=stage,
            code=status.reason,
            message=plain(status.message),
            since=status.since,
            next_check=status.next_check,
        )
        for host in rows.hosts
        for stage, status in rows.status.get(host, {}).items()
        if status.verdict is Verdict.waiting
    ]
    dated = sorted((one for one in found if one.next_check), key=lambda one: str(one.next_check))
    return (*dated, *(one for one in found if not one.next_check))


# -- changes -----------------------------------------------------------------------------------------


def _approval(rows: Rows, label: str, approve: Sequence[Reach], now: datetime) -> Approval | None:
    """What of the newest plan nobody has approved and nothing has brought into effect."""
    given = [one for one in rows.approvals if one.run == rows.planned_in]
    if any(one.plan_hash == rows.plan_hash for one in given):
        return None
    there = in_effect(rows.events)
    still = [change for change in rows.planned if change.id not in there]
    waiting = held_back(still, {change.id for change in still if change.reach in approve})
    if not waiting:
        return None
    planned = next((run for run in rows.runs if run.run == rows.planned_in), None)
    stages, hosts = ((planned.body.get(what) or ()) if planned else () for what in ("stages", "hosts"))
    return Approval(
        plan_hash=rows.plan_hash,
        command=approval_command(label, rows.plan_hash, stages, hosts),
        narrowed={"stages": tuple(stages), "hosts": tuple(hosts)},
        made_at=planned.started_at if planned else None,
        changes=like(waiting, rows, {}, now),
        hosts=tuple(
            host
            for host, stages in rows.status.items()
            if any(status.reason in AWAITING for status in stages.values())
        ),
    )


def _work(rows: Rows, now: datetime) -> tuple[Work, ...]:
    """The newest run first."""
    there = in_effect(rows.events)
    by_run: dict[str, list[ChangeEvent]] = {}
    for event in there.values():
        by_run.setdefault(event.run, []).append(event)
    who = {one.run: one for one in rows.approvals}
    done_at = {change_id: event.at for change_id, event in there.items()}
    return tuple(
        Work(
            run=run,
            at=max(event.at for event in events),
            who=plain(who[run].who) if run in who else "",
            how=who[run].how if run in who else "",
            changes=like([event.change for event in events], rows, done_at, now),
            undo=f"haltuun undo {run}" if any(event.change.undo for event in events) else "",
        )
        for run, events in sorted(by_run.items(), key=lambda item: max(e.at for e in item[1]), reverse=True)
    )


def _unresolved(events: Sequence[ChangeEvent]) -> tuple[Unresolved, ...]:
    last = {event.change_id: event for event in events}
    return tuple(
        Unresolved(run=event.run, change_id=event.change_id, at=event.at, summary=plain(event.change.summary))
        for event in last.values()
        if event.event in UNRESOLVED
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
