"""What an account waits for: causes with one remedy, approvals, dates. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from haltuun.ledger import ChangeEvent
from haltuun.model import (
    Frozen,
    Host,
    Reach,
    StageName,
    Verdict,
    approval_command,
    held_back,
)
from haltuun.report.causes import Trouble, grouped, without_host
from haltuun.report.changes import Like, in_effect, like
from haltuun.report.render import plain
from haltuun.report.rows import Planned, PlanRow, Rows

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
        "HYBRID_SOURCE",
        "IDENTITY_ORDER_OVERRIDE",
        "NAME_TAKEN",
        "SUSPECT",
        "WAITING_LIMIT",
        "WINDOWS_BY_HAND",
        "WRONG_BOX",
    }
)


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
    run: str  # that made the plan
    command: str
    narrowed: dict[Literal["stages", "hosts"], tuple[str, ...]]  # as the plan was; empty: all
    made_at: datetime | None
    changes: tuple[Like, ...]
    hosts: tuple[str, ...]  # whose verdict waits for it
    elsewhere: int  # changes that wait in other plans alone

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


def troubles(rows: Rows) -> list[Trouble]:
    """Each host's verdicts that are not passed, by cause; what a later stage only repeats is left out."""
    found: dict[tuple[str, Verdict, str], Trouble] = {}
    for host in rows.hosts:
        stages = rows.status.get(host, {})
        for stage in StageName:
            status = stages.get(stage)
            if status is None or status.verdict in (Verdict.passed, Verdict.pending):
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


def causes(troubles: Iterable[Trouble], hosts: Mapping[str, Host]) -> tuple[Cause, ...]:
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


def waiting(rows: Rows) -> tuple[Waiting, ...]:
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


def approval(rows: Rows, label: str, approve: Sequence[Reach], now: datetime) -> Approval | None:
    """The newest plan with changes that nobody has approved and nothing has brought into effect.

    A plan of some stages or hosts says nothing of the others: what an earlier one has of them waits still.
    Of the plan all is told that its hash approves, what a later plan has no more included.
    """
    there = in_effect(rows.events)
    shown: tuple[PlanRow, Sequence[Planned]] | None = None
    wanted: set[str] = set()
    for number, plan in enumerate(rows.plans):
        if any((one.run, one.plan_hash) == (plan.run, plan.hash) for one in rows.approvals):
            continue
        lasting = _lasting(plan, there, rows.events)
        left = [change for change in plan.changes if change.id not in lasting]
        waiting = held_back(left, {change.id for change in left if change.reach in approve})
        later = rows.plans[:number]
        # Of what a later plan looked at again, that plan knows: it is told there, where it is needed still.
        open_still = {change.id for change in waiting if not any(one.covers(change) for one in later)}
        wanted |= open_still
        if shown is None and open_still:
            shown = plan, waiting
    if shown is None:
        return None
    elsewhere = wanted - {change.id for change in shown[1]}
    return _approval(rows, label, *shown, len(elsewhere), now)


def _lasting(plan: PlanRow, there: Collection[str], events: Sequence[ChangeEvent]) -> set[str]:
    """Ids of what is in effect (`there`), less what the plan has anew.

    What was in effect before its run, by the journal, and is planned all the same did not last: a backup's
    job failed, somebody took a policy off.
    """
    since = {event.change_id for event in events if event.event == "confirmed" and event.at >= plan.made_at}
    doubtful = {change.id for change in plan.changes if change.id in there} - since
    before = in_effect([event for event in events if event.at < plan.made_at]) if doubtful else {}
    return {key for key in there if key not in doubtful or key not in before}


def _approval(
    rows: Rows, label: str, plan: PlanRow, waiting: Sequence[Planned], elsewhere: int, now: datetime
) -> Approval:
    return Approval(
        plan_hash=plan.hash,
        run=plan.run,
        command=approval_command(label, plan.hash, plan.stages, plan.hosts),
        narrowed={"stages": plan.stages, "hosts": plan.hosts},
        made_at=plan.made_at,
        changes=like(waiting, rows, {}, now),
        hosts=tuple(
            host
            for host, stages in rows.status.items()
            if not plan.hosts or host in plan.hosts
            if any(
                status.reason in AWAITING
                for stage, status in stages.items()
                if not plan.stages or stage.value in plan.stages
            )
        ),
        elsewhere=elsewhere,
    )
