"""Plans, approvals, the life of each change, and proofs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from haltuun.ledger.database import Database
from haltuun.ledger.rows import Approval, ChangeEvent, Shown
from haltuun.ledger.tables import (
    APPROVALS,
    CHANGES,
    PLANS,
    PROOFS,
    SHOWN,
)
from haltuun.model import (
    Change,
    Json,
    Plan,
    Proof,
    StageName,
    canonical,
)

_MANY = TypeAdapter(tuple[Change, ...])


class Changes(Database):
    """What was planned, who approved it, what became of it, and what proves it."""

    # -- plans and approval ----------------------------------------------------------------------

    def planned(self, run: str, plan: Plan, at: datetime) -> None:
        self._insert(
            PLANS,
            [
                {
                    "account": plan.account,
                    "run": run,
                    "hash": plan.hash,
                    "at": at,
                    "body": plan.model_dump_json(),
                }
            ],
        )

    def plan(self, account: str, plan_hash: str) -> Plan | None:
        rows = self._select(
            sa.select(PLANS)
            .where(PLANS.c.account == account, PLANS.c.hash == plan_hash)
            .order_by(PLANS.c.seq.desc())
            .limit(1)
        )
        return Plan.model_validate_json(rows[0].body) if rows else None

    def planned_changes(self, account: str, plan_hash: str) -> Iterator[Change]:
        """As `plan`, one by one: all changes of ten thousand hosts are hundreds of megabytes."""
        query = (
            sa.select(PLANS.c.body)
            .where(PLANS.c.account == account, PLANS.c.hash == plan_hash)
            .order_by(PLANS.c.seq.desc())
            .limit(1)
        )
        for row in self._select(query):
            start, decoder = '"changes":[', json.JSONDecoder()
            at = row.body.index(start) + len(start)
            while row.body[at] != "]":
                one, at = decoder.raw_decode(row.body, at)
                yield Change.model_validate(one)
                at += row.body[at] == ","

    def plan_of(self, account: str, run: str) -> Plan | None:
        """What this run planned, in the stages that were chosen for it."""
        rows = self._select(sa.select(PLANS).where(PLANS.c.account == account, PLANS.c.run == run))
        return Plan.model_validate_json(rows[-1].body) if rows else None

    def shown_plan(self, account: str, plan_hash: str, run: str) -> tuple[str, Plan] | None:
        """The run that last made this plan, beside `run` itself, and the plan as it was shown then."""
        rows = self._select(
            sa.select(PLANS)
            .where(PLANS.c.account == account, PLANS.c.hash == plan_hash, PLANS.c.run != run)
            .order_by(PLANS.c.seq.desc())
            .limit(1)
        )
        return (rows[0].run, Plan.model_validate_json(rows[0].body)) if rows else None

    def approved(self, run: str, plan: Plan, who: str, how: str, at: datetime, *, plan_run: str = "") -> None:
        """`plan` as it was shown, made by `plan_run`; with "" it was approved unseen."""
        of = {"account": plan.account, "run": run}
        # One by one: of ten thousand hosts the whole as plain data takes hundreds of megabytes.
        body = f"[{','.join(canonical(change.model_dump(mode='json')) for change in plan.changes)}]"
        with self._writing() as connection:
            connection.execute(APPROVALS.insert().values(**of, hash=plan.hash, at=at, who=who, how=how))
            connection.execute(SHOWN.insert().values(**of, plan_run=plan_run, body=body))

    def approvals(self, account: str) -> list[Approval]:
        """Oldest first, without what was shown: that is as large as the plans."""
        query = sa.select(APPROVALS).where(APPROVALS.c.account == account).order_by(APPROVALS.c.seq)
        return [
            Approval(run=row.run, plan_hash=row.hash, at=row.at, who=row.who, how=row.how)
            for row in self._each(query)
        ]

    def shown(self, account: str, run: str) -> Shown | None:
        """What was shown when this run was approved; None when nothing was approved in it."""
        rows = self._select(sa.select(SHOWN).where(SHOWN.c.account == account, SHOWN.c.run == run))
        if not rows:
            return None
        return Shown(plan_run=rows[-1].plan_run, changes=_MANY.validate_json(rows[-1].body))

    # -- changes -----------------------------------------------------------------------------------

    def journal(
        self, run: str, account: str, change: Change, event: str, at: datetime, note: Json = None
    ) -> None:
        body = canonical({"change": change.model_dump(mode="json"), "note": note})
        self._insert(
            CHANGES,
            [{"account": account, "run": run, "change": change.id, "event": event, "at": at, "body": body}],
        )

    def change_events(
        self, account: str, run: str | None = None, kinds: Collection[str] = ()
    ) -> list[ChangeEvent]:
        """Oldest first; of one run, or of changes of these kinds."""
        query = sa.select(CHANGES).where(CHANGES.c.account == account).order_by(CHANGES.c.seq)
        if run is not None:
            query = query.where(CHANGES.c.run == run)
        if kinds:
            # As `journal` writes it; canonical JSON has one spelling.
            named = [CHANGES.c.body.contains(f'"kind":{canonical(kind)}', autoescape=True) for kind in kinds]
            query = query.where(sa.or_(*named))
        events = []
        known: dict[str, tuple[Json, Change]] = {}  # the events of one change nearly always carry the same
        for row in self._each(query):
            body = json.loads(row.body)
            said, change = known.get(row.change, (None, None))
            if change is None or said != body["change"]:
                change = Change.model_validate(body["change"])
                known[row.change] = (body["change"], change)
            events.append(
                ChangeEvent(
                    run=row.run,
                    change_id=row.change,
                    event=row.event,
                    at=row.at,
                    change=change,
                    note=body["note"],
                )
            )
        return events

    # -- proofs --------------------------------------------------------------------------------------

    def proved(self, account: str, run: str, proofs: Sequence[Proof]) -> None:
        self._insert(
            PROOFS,
            (
                {
                    "account": account,
                    "run": run,
                    "host": proof.host,
                    "stage": proof.stage.value,
                    "kind": proof.kind,
                    "observed_at": proof.observed_at,
                    "valid_until": proof.valid_until,
                    "evidence": proof.evidence,
                }
                for proof in proofs
            ),
        )

    def proofs(self, account: str, host: str | None = None) -> list[Proof]:
        """Oldest first; of one host, or of all."""
        query = sa.select(PROOFS).where(PROOFS.c.account == account).order_by(PROOFS.c.seq)
        if host is not None:
            query = query.where(PROOFS.c.host == host)
        return [_proof(row) for row in self._select(query)]

    def valid_proof(
        self, account: str, stage: StageName, kind: str, host: str, now: datetime
    ) -> Proof | None:
        """The newest of its kind, if it still holds."""
        rows = self._select(
            sa.select(PROOFS)
            .where(
                PROOFS.c.account == account,
                PROOFS.c.host == host,
                PROOFS.c.stage == stage.value,
                PROOFS.c.kind == kind,
            )
            .order_by(PROOFS.c.seq.desc())
            .limit(1)
        )
        return _proof(rows[0]) if rows and rows[0].valid_until > now else None

    def withdraw_proofs(
        self, account: str, run: str, stage: StageName, hosts: Sequence[str], why: str, at: datetime
    ) -> None:
        """What was proven of these hosts in this stage holds no more: a proof that ends now says why."""
        void = []
        for host in hosts:
            newest = {proof.kind: proof for proof in self.proofs(account, host) if proof.stage is stage}
            void += [
                proof.model_copy(update={"evidence": why, "observed_at": at, "valid_until": at})
                for proof in newest.values()
                if proof.valid_until > at
            ]
        self.proved(account, run, void)


def _proof(row: sa.Row[Any]) -> Proof:
    return Proof(
        host=row.host,
        stage=StageName(row.stage),
        kind=row.kind,
        evidence=row.evidence,
        observed_at=row.observed_at,
        valid_until=row.valid_until,
    )
