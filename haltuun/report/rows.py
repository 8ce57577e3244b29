"""What the ledger holds of one account, read once for all that is told of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from haltuun.ledger import Approval, ChangeEvent, Ledger, RunRow
from haltuun.model import Change, Finding, Host, HostStatus, Proof, Reach, StageName

Status = Mapping[str, Mapping[StageName, HostStatus]]
Findings = Sequence[tuple[StageName, Finding]]


@dataclass(frozen=True, slots=True)
class Planned:
    """What is told of a planned change."""

    id: str
    stage: StageName
    reach: Reach
    region: str
    hosts: tuple[str, ...]
    summary: str
    undo: bool
    no_undo: str
    depends_on: tuple[str, ...]
    only_if_failed: str | None


@dataclass(frozen=True)
class PlanRow:
    """A plan that a run made; `stages` and `hosts` are what it was narrowed to, empty: all."""

    run: str
    hash: str
    made_at: datetime
    stages: tuple[str, ...]
    hosts: tuple[str, ...]
    changes: Sequence[Planned]

    def covers(self, change: Planned) -> bool:
        """Whether it would have planned the change if it were needed still."""
        of_its_hosts = not self.hosts or (bool(change.hosts) and self._among.issuperset(change.hosts))
        return of_its_hosts and (not self.stages or change.stage.value in self.stages)

    @cached_property
    def _among(self) -> frozenset[str]:
        return frozenset(self.hosts)


@dataclass(frozen=True)
class Rows:
    """The ledger's rows; `*_before` are as they were before the last run that applied, `status_before`
    before the last run that judged the host."""

    account: str
    hosts: Mapping[str, Host]
    hosts_before: Mapping[str, Host]
    status: Status
    status_before: Status
    findings: Findings
    findings_before: Findings
    runs: Sequence[RunRow]
    before: RunRow | None  # the run that the last one is compared with
    plans: Sequence[PlanRow]  # the newest first, down to the first of the whole account
    approvals: Sequence[Approval]
    events: Sequence[ChangeEvent]
    proofs: Sequence[Proof]
    looked_at: Mapping[tuple[str, StageName], datetime]
    account_facts: Mapping[StageName, tuple[datetime, Mapping[str, Any]]]


def read(ledger: Ledger, account: str) -> Rows:
    runs = ledger.runs(account)
    applied = [number for number, run in enumerate(runs) if run.mode == "apply"]
    last = applied[-1] if applied else len(runs) - 1
    # A plan that was made since belongs to what is new.
    recent = [run.run for run in runs[max(last, 0) :]]
    return Rows(
        account=account,
        hosts=ledger.hosts(account),
        hosts_before=ledger.hosts(account, recent),
        status=ledger.status(account),
        status_before=ledger.status_before(account),
        findings=ledger.findings(account),
        findings_before=ledger.findings(account, recent),
        runs=runs,
        before=runs[last - 1] if last > 0 else None,
        plans=list(_plans(ledger, account, runs)),
        approvals=ledger.approvals(account),
        events=ledger.change_events(account),
        proofs=ledger.proofs(account),
        looked_at=ledger.looked_at(account),
        account_facts=ledger.observations(account, ""),
    )


def _plans(ledger: Ledger, account: str, runs: Sequence[RunRow]) -> Iterator[PlanRow]:
    for run in reversed(runs):
        if plan_hash := run.body.get("plan_hash"):
            made = PlanRow(
                run=run.run,
                hash=plan_hash,
                made_at=run.started_at,
                stages=tuple(run.body.get("stages") or ()),
                hosts=tuple(run.body.get("hosts") or ()),
                changes=[_briefly(change) for change in ledger.planned_changes(account, plan_hash)],
            )
            yield made
            if not made.stages and not made.hosts:
                return


def _briefly(change: Change) -> Planned:
    return Planned(
        id=change.id,
        stage=change.stage,
        reach=change.reach,
        region=change.region,
        hosts=change.hosts,
        summary=change.summary,
        undo=change.undo is not None,
        no_undo=change.no_undo,
        depends_on=change.depends_on,
        only_if_failed=change.only_if_failed,
    )
