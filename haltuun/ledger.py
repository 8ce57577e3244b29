"""The ledger: what was seen, judged, planned, approved, done and proven. The truth of Haltuun.

Append-only, leases aside: status is a view over the newest rows. SQLite by default, Postgres for
teams. The only module that imports sqlalchemy.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.exc import SQLAlchemyError

from haltuun.errors import HaltuunError, LeaseHeld, LeaseLost
from haltuun.model import (
    Change,
    Facts,
    Finding,
    Frozen,
    Host,
    HostStatus,
    Json,
    Plan,
    Proof,
    StageName,
    Verdict,
    canonical,
)
from haltuun.processes import is_gone, machine, process

log = logging.getLogger("haltuun")

# A killed process stops renewing: after this its lease can be taken by the next run.
LEASE_S = 90
SCHEMA = 2
AT_ONCE = 200  # rows
_CHANGES = TypeAdapter(tuple[Change, ...])

_meta = sa.MetaData()


class _Utc(sa.TypeDecorator[datetime]):
    """Aware UTC in, aware UTC out, on a database that forgets the zone."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def _table(name: str, *columns: sa.Column[Any] | sa.UniqueConstraint) -> sa.Table:
    return sa.Table(
        name,
        _meta,
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String(12), nullable=False, index=True),
        *columns,
    )


_schema = sa.Table(
    "ledger",
    _meta,
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("id", sa.String(32), nullable=False),
)
_runs = _table(
    "runs",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("event", sa.String(20), nullable=False),  # started, ended
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
_hosts = _table(
    "hosts",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("region", sa.String(32), nullable=False),
    sa.Column("host", sa.String(24), nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("there", sa.Boolean, nullable=False),
)
_observations = _table(
    "observations",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("host", sa.String(24), nullable=False, index=True),  # "" for the account's
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("phase", sa.String(8), nullable=False),  # plan, result
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
_findings = _table(
    "findings",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("phase", sa.String(8), nullable=False),  # as of the observations they were judged on
    sa.Column("host", sa.String(24), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
_verdicts = _table(
    "verdicts",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("host", sa.String(24), nullable=False, index=True),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
_plans = _table(
    "plans",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("hash", sa.String(16), nullable=False, index=True),
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
_approvals = _table(
    "approvals",
    sa.Column("run", sa.String(40), nullable=False),
    sa.Column("hash", sa.String(16), nullable=False),
    sa.Column("at", _Utc, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("how", sa.Text, nullable=False),
)
# What stood before the approver's eyes. A table of its own, so that earlier ledgers open as they are.
_shown = _table(
    "shown",
    sa.Column("run", sa.String(40), nullable=False, index=True),  # the run that was approved
    sa.Column("plan_run", sa.String(40), nullable=False),  # the run that made the plan; "" when unseen
    sa.Column("body", sa.Text, nullable=False),
)
_changes = _table(
    "changes",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("change", sa.String(12), nullable=False, index=True),
    sa.Column("event", sa.String(16), nullable=False),
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
_proofs = _table(
    "proofs",
    sa.Column("run", sa.String(40), nullable=False),
    sa.Column("host", sa.String(24), nullable=False, index=True),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("observed_at", _Utc, nullable=False),
    sa.Column("valid_until", _Utc, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
)
_host_events = _table(
    "host_events",
    sa.Column("run", sa.String(40), nullable=False),
    sa.Column("host", sa.String(24), nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("event", sa.String(8), nullable=False),  # worse, tried
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
_leases = _table(
    "leases",
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("run", sa.String(40), nullable=False),
    sa.Column("taken_at", _Utc, nullable=False),
    sa.Column("expires_at", _Utc, nullable=False),
    sa.Column("released_at", _Utc),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.UniqueConstraint("account", "fence"),
)
_memory = _table(
    "memory",
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("at", _Utc, nullable=False),
)


class ChangeEvent(Frozen):
    """One step in the life of a change: intended, sent, confirmed, failed, unknown, stale."""

    run: str
    change_id: str
    event: str
    at: datetime
    change: Change
    note: Json = None


class Approval(Frozen):
    """Who approved what."""

    run: str
    plan_hash: str
    at: datetime
    who: str
    how: str


class Shown(Frozen):
    """What stood before the approver's eyes: the changes as they were in the plan of run `plan_run`.

    With `plan_run` "" nobody was shown a plan: `changes` are then what the run went on to plan.
    """

    plan_run: str
    changes: tuple[Change, ...]


class HostEvent(Frozen):
    """What happened to one host in one stage: it was worse after a change, or tried again."""

    run: str
    host: str
    stage: StageName
    event: str
    at: datetime
    body: Mapping[str, Any]


class Judgement(Frozen):
    """The newest verdict on one host in one stage, and the run that gave it."""

    run: str
    at: datetime
    status: HostStatus


class RunRow(Frozen):
    run: str
    account: str
    started_at: datetime
    ended_at: datetime | None
    mode: str
    outcome: str
    body: Mapping[str, Any]


class Lease(Frozen):
    account: str
    run: str
    fence: int


class Ledger:
    """Thread-safe. Opens (and on first use makes) the database behind `url`.

    Raises:
        HaltuunError: LEDGER when the database cannot be opened or written.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            if url.startswith("sqlite:///"):
                _make_private(Path(url.removeprefix("sqlite:///")))
            self._engine = sa.create_engine(url, pool_pre_ping=True)
            if url.startswith("sqlite:"):
                sa.event.listen(self._engine, "connect", _sqlite_settings)
            _schema.create(self._engine, checkfirst=True)
            self.id = self._identity()
            _meta.create_all(self._engine)
        except (SQLAlchemyError, OSError, ImportError) as error:
            raise HaltuunError(
                f"the ledger cannot be opened: {_first_line(error)}.",
                subject=_without_password(url),
                remedy="Check 'state_dir' or 'database_url' in haltuun.yaml and who may write there.",
                code="LEDGER",
            ) from error

    def close(self) -> None:
        self._engine.dispose()

    def _identity(self) -> str:
        """The id of this ledger for good: fence numbers of two ledgers do not compare."""
        with self._engine.begin() as connection:
            found = connection.execute(sa.select(_schema)).first()
            if found is None:
                made = uuid.uuid4().hex
                connection.execute(_schema.insert().values(version=SCHEMA, id=made))
                return made
        if found.version != SCHEMA:
            raise HaltuunError(
                f"it was written by another version of Haltuun (schema {found.version}, here {SCHEMA}).",
                subject=_without_password(self.url),
                remedy="Use the Haltuun that wrote it; or move it aside, or name another 'database_url'.",
                code="LEDGER",
            )
        return str(found.id)

    def _insert(self, table: sa.Table, rows: Iterable[Mapping[str, Any]]) -> None:
        """All or none. `rows` may be made on the way: of many hosts there is never all the text at once."""
        left = iter(rows)
        if some := list(islice(left, AT_ONCE)):
            with self._writing() as connection:
                while some:
                    connection.execute(table.insert(), some)
                    some = list(islice(left, AT_ONCE))

    def _select(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with self._said_plainly("read"), self._engine.connect() as connection:
            return connection.execute(query).fetchall()

    def _each(self, query: sa.Select[Any]) -> Iterator[sa.Row[Any]]:
        """As `_select`, for what grows with hosts and runs: row by row."""
        with self._said_plainly("read"), self._engine.connect() as connection:
            yield from connection.execution_options(yield_per=AT_ONCE).execute(query)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._said_plainly("written"), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _said_plainly(self, what: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise HaltuunError(
                f"the ledger cannot be {what}: {_first_line(error)}.",
                subject=_without_password(self.url),
                remedy="Free space or repair the database; nothing is changed without the ledger.",
                code="LEDGER",
            ) from error

    # -- runs --------------------------------------------------------------------------------

    def start_run(self, account: str, run: str, body: Mapping[str, Json], at: datetime) -> None:
        self._insert(
            _runs, [{"account": account, "run": run, "event": "started", "at": at, "body": canonical(body)}]
        )

    def end_run(self, account: str, run: str, outcome: str, body: Mapping[str, Json], at: datetime) -> None:
        full = {**body, "outcome": outcome}
        self._insert(
            _runs, [{"account": account, "run": run, "event": "ended", "at": at, "body": canonical(full)}]
        )

    def runs(self, account: str) -> list[RunRow]:
        """Oldest first."""
        rows = self._select(sa.select(_runs).where(_runs.c.account == account).order_by(_runs.c.seq))
        ended = {row.run: row for row in rows if row.event == "ended"}
        result = []
        for row in rows:
            if row.event != "started":
                continue
            body, end = json.loads(row.body), ended.get(row.run)
            end_body = json.loads(end.body) if end else {}
            result.append(
                RunRow(
                    run=row.run,
                    account=account,
                    started_at=row.at,
                    ended_at=end.at if end else None,
                    mode=body.get("mode", ""),
                    outcome=end_body.get("outcome", "not ended"),
                    body={**body, **end_body},
                )
            )
        return result

    def was_begun(self, account: str) -> bool:
        """Whether a takeover came to an end of its own: one that failed or was killed is no beginning."""
        runs = [run for run in self.runs(account) if run.mode == "apply"]
        return any(run.outcome not in ("Failed", "not ended") for run in runs)

    # -- what was seen and judged ----------------------------------------------------------------

    def saw_hosts(self, run: str, hosts: Iterable[Host], gone: Iterable[Host] = ()) -> None:
        """`gone`: known from before, and no longer in the account."""
        self._insert(
            _hosts,
            (
                {
                    "account": h.account,
                    "run": run,
                    "region": h.region,
                    "host": h.instance_id,
                    "name": h.name,
                    "there": there,
                }
                for some, there in ((hosts, True), (gone, False))
                for h in some
            ),
        )

    def hosts(self, account: str, without: Collection[str] = ()) -> dict[str, Host]:
        """Every host that was seen and is not known to be gone; `without` what these runs saw."""
        rows = self._newest_hosts(account, without)
        return {
            row.host: Host(account=account, region=row.region, instance_id=row.host, name=row.name)
            for row in rows.values()
            if row.there
        }

    def _newest_hosts(self, account: str, without: Collection[str] = ()) -> dict[str, sa.Row[Any]]:
        rows = self._each(
            sa.select(_hosts)
            .where(_hosts.c.account == account, _hosts.c.run.notin_(without))
            .order_by(_hosts.c.seq)
        )
        return {row.host: row for row in rows}

    def observed(
        self, account: str, run: str, stage: StageName, phase: str, facts: Mapping[str, Frozen], at: datetime
    ) -> None:
        """`facts` by instance id, "" for the account's own."""
        self._insert(
            _observations,
            (
                {
                    "account": account,
                    "run": run,
                    "host": host,
                    "stage": stage.value,
                    "phase": phase,
                    "at": (value.observed_at if isinstance(value, Facts) else None) or at,
                    "body": value.model_dump_json(),
                }
                for host, value in facts.items()
            ),
        )

    def observations(self, account: str, host: str) -> dict[StageName, tuple[datetime, Mapping[str, Any]]]:
        """The newest facts of each stage of one host, as data."""
        rows = self._each(
            sa.select(_observations)
            .where(_observations.c.account == account, _observations.c.host == host)
            .order_by(_observations.c.seq)
        )
        return {StageName(row.stage): (row.at, json.loads(row.body)) for row in rows}

    def looked_at(self, account: str) -> dict[tuple[str, StageName], datetime]:
        """(Instance id or "", stage) → when it was last looked at."""
        rows = self._each(
            sa.select(
                _observations.c.host, _observations.c.stage, sa.func.max(_observations.c.at).label("at")
            )
            .where(_observations.c.account == account)
            .group_by(_observations.c.host, _observations.c.stage)
        )
        return {(row.host, StageName(row.stage)): row.at for row in rows}

    def first_seen(self, account: str, stage: StageName) -> dict[str, Mapping[str, Any]]:
        """Instance id → the oldest facts of this stage: how Haltuun found the host."""
        rows = self._each(
            sa.select(_observations)
            .where(
                _observations.c.account == account,
                _observations.c.stage == stage.value,
                _observations.c.phase == "plan",
                _observations.c.host != "",
            )
            .order_by(_observations.c.seq.desc())
        )
        return {row.host: json.loads(row.body) for row in rows}

    def found(
        self, account: str, run: str, stage: StageName, phase: str, findings: Sequence[Finding]
    ) -> None:
        self._insert(
            _findings,
            (
                {
                    "account": account,
                    "run": run,
                    "stage": stage.value,
                    "phase": phase,
                    "host": finding.host or "",
                    "body": finding.model_dump_json(),
                }
                for finding in findings
            ),
        )

    def findings(self, account: str, without: Collection[str] = ()) -> list[tuple[StageName, Finding]]:
        """What was found when each host, and the account itself, was last looked at in each stage.

        `without` these runs: as it was before them.
        """
        newest = (
            sa.select(sa.func.max(_observations.c.seq))
            .where(_observations.c.account == account, _observations.c.run.notin_(without))
            .group_by(_observations.c.host, _observations.c.stage)
        )
        o = _observations.c
        looks = {
            (row.run, row.stage, row.phase, row.host)
            for row in self._each(sa.select(o.run, o.stage, o.phase, o.host).where(o.seq.in_(newest)))
        }
        # Matched here: as a join it took minutes for two thousand hosts (measured with SQLite).
        rows = self._each(
            sa.select(_findings)
            .where(_findings.c.account == account, _findings.c.run.in_({run for run, *_ in looks}))
            .order_by(_findings.c.seq)
        )
        return [
            (StageName(row.stage), Finding.model_validate_json(row.body))
            for row in rows
            if (row.run, row.stage, row.phase, row.host) in looks
        ]

    def judged(
        self, account: str, run: str, stage: StageName, verdicts: Mapping[str, HostStatus], at: datetime
    ) -> None:
        self._insert(
            _verdicts,
            (
                {
                    "account": account,
                    "run": run,
                    "host": host,
                    "stage": stage.value,
                    "at": at,
                    "body": status.model_dump_json(),
                }
                for host, status in verdicts.items()
            ),
        )

    def status(self, account: str) -> dict[str, dict[StageName, HostStatus]]:
        """Instance id → stage → the newest verdict; `since` is when it became what it is."""
        rows = self._each(
            sa.select(_verdicts).where(_verdicts.c.account == account).order_by(_verdicts.c.seq)
        )
        table: dict[str, dict[StageName, HostStatus]] = {}
        for row in rows:
            stage, new = StageName(row.stage), HostStatus.model_validate_json(row.body)
            old = table.setdefault(row.host, {}).get(stage)
            same = old is not None and (old.verdict, old.reason) == (new.verdict, new.reason)
            since = old.since if old is not None and same else row.at
            table[row.host][stage] = new.model_copy(update={"since": since})
        gone = {host for host, row in self._newest_hosts(account).items() if not row.there}
        return {host: stages for host, stages in table.items() if host not in gone}

    def status_before(self, account: str) -> dict[str, dict[StageName, HostStatus]]:
        """Instance id → stage → the verdict of the run before the one that judged this host last."""
        rows = self._each(
            sa.select(_verdicts).where(_verdicts.c.account == account).order_by(_verdicts.c.seq)
        )
        newest: dict[tuple[str, str], sa.Row[Any]] = {}
        before: dict[tuple[str, str], sa.Row[Any]] = {}
        for row in rows:
            last = newest.get((row.host, row.stage))
            if last is not None and last.run != row.run:
                before[row.host, row.stage] = last
            newest[row.host, row.stage] = row
        table: dict[str, dict[StageName, HostStatus]] = {}
        for (host, stage), row in before.items():
            table.setdefault(host, {})[StageName(stage)] = HostStatus.model_validate_json(row.body)
        return table

    def judgements(self, account: str) -> dict[tuple[str, StageName], Judgement]:
        """(instance id, stage) → the newest verdict and its run."""
        rows = self._each(
            sa.select(_verdicts).where(_verdicts.c.account == account).order_by(_verdicts.c.seq)
        )
        newest = {(row.host, StageName(row.stage)): row for row in rows}
        return {
            key: Judgement(run=row.run, at=row.at, status=HostStatus.model_validate_json(row.body))
            for key, row in newest.items()
        }

    def observed_in(self, account: str, run: str) -> dict[tuple[str, StageName, str], Mapping[str, Any]]:
        """(instance id, stage, phase) → the facts that this run saw, as data."""
        rows = self._each(
            sa.select(_observations)
            .where(_observations.c.account == account, _observations.c.run == run, _observations.c.host != "")
            .order_by(_observations.c.seq)
        )
        return {(row.host, StageName(row.stage), row.phase): json.loads(row.body) for row in rows}

    def found_in(self, account: str, run: str) -> list[tuple[StageName, str, Finding]]:
        """(stage, phase, finding) of this run, the account's own left out."""
        rows = self._each(
            sa.select(_findings)
            .where(_findings.c.account == account, _findings.c.run == run, _findings.c.host != "")
            .order_by(_findings.c.seq)
        )
        return [(StageName(r.stage), r.phase, Finding.model_validate_json(r.body)) for r in rows]

    # -- worse, and tried again ------------------------------------------------------------------

    def went_worse(
        self, account: str, run: str, host: str, stage: StageName, body: Mapping[str, Json], at: datetime
    ) -> None:
        """A change that was made on the host did not come right."""
        self._host_event(account, run, host, stage, "worse", body, at)

    def tried(self, account: str, run: str, host: str, stage: StageName, cause: str, at: datetime) -> None:
        """The host was worked on again although it was held; `cause` tells one reason from another."""
        self._host_event(account, run, host, stage, "tried", {"cause": cause}, at)

    def _host_event(
        self,
        account: str,
        run: str,
        host: str,
        stage: StageName,
        event: str,
        body: Mapping[str, Json],
        at: datetime,
    ) -> None:
        row = {"account": account, "run": run, "host": host, "stage": stage.value, "event": event, "at": at}
        self._insert(_host_events, [{**row, "body": canonical(body)}])

    def host_events(self, account: str, event: str) -> list[HostEvent]:
        """Oldest first."""
        rows = self._each(
            sa.select(_host_events)
            .where(_host_events.c.account == account, _host_events.c.event == event)
            .order_by(_host_events.c.seq)
        )
        return [
            HostEvent(
                run=row.run,
                host=row.host,
                stage=StageName(row.stage),
                event=row.event,
                at=row.at,
                body=json.loads(row.body),
            )
            for row in rows
        ]

    def worse(self, account: str) -> dict[tuple[str, StageName], HostEvent]:
        """(instance id, stage) → the last time it was worse after a change, unless it passed since.

        "Since" goes by the order of the runs, not by their clocks: a stage's gate comes after its changes.
        """
        newest = {(event.host, event.stage): event for event in self.host_events(account, "worse")}
        if not newest:
            return {}  # the common case, and all verdicts ever given need not be read
        order = {row.run: n for n, row in enumerate(self.runs(account))}
        passed = {
            (row.host, row.stage): order[row.run]
            for row in self._each(
                sa.select(_verdicts).where(_verdicts.c.account == account).order_by(_verdicts.c.seq)
            )
            if HostStatus.model_validate_json(row.body).verdict is Verdict.passed
        }
        return {
            key: event for key, event in newest.items() if key not in passed or passed[key] < order[event.run]
        }

    # -- plans and approval ----------------------------------------------------------------------

    def planned(self, run: str, plan: Plan, at: datetime) -> None:
        self._insert(
            _plans,
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
            sa.select(_plans)
            .where(_plans.c.account == account, _plans.c.hash == plan_hash)
            .order_by(_plans.c.seq.desc())
            .limit(1)
        )
        return Plan.model_validate_json(rows[0].body) if rows else None

    def planned_changes(self, account: str, plan_hash: str) -> Iterator[Change]:
        """As `plan`, one by one: all changes of ten thousand hosts are hundreds of megabytes."""
        query = (
            sa.select(_plans.c.body)
            .where(_plans.c.account == account, _plans.c.hash == plan_hash)
            .order_by(_plans.c.seq.desc())
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
        rows = self._select(sa.select(_plans).where(_plans.c.account == account, _plans.c.run == run))
        return Plan.model_validate_json(rows[-1].body) if rows else None

    def shown_plan(self, account: str, plan_hash: str, run: str) -> tuple[str, Plan] | None:
        """The run that last made this plan, beside `run` itself, and the plan as it was shown then."""
        rows = self._select(
            sa.select(_plans)
            .where(_plans.c.account == account, _plans.c.hash == plan_hash, _plans.c.run != run)
            .order_by(_plans.c.seq.desc())
            .limit(1)
        )
        return (rows[0].run, Plan.model_validate_json(rows[0].body)) if rows else None

    def approved(self, run: str, plan: Plan, who: str, how: str, at: datetime, *, plan_run: str = "") -> None:
        """`plan` as it was shown, made by `plan_run`; with "" it was approved unseen."""
        of = {"account": plan.account, "run": run}
        # One by one: of ten thousand hosts the whole as plain data takes hundreds of megabytes.
        body = f"[{','.join(canonical(change.model_dump(mode='json')) for change in plan.changes)}]"
        with self._writing() as connection:
            connection.execute(_approvals.insert().values(**of, hash=plan.hash, at=at, who=who, how=how))
            connection.execute(_shown.insert().values(**of, plan_run=plan_run, body=body))

    def approvals(self, account: str) -> list[Approval]:
        """Oldest first, without what was shown: that is as large as the plans."""
        query = sa.select(_approvals).where(_approvals.c.account == account).order_by(_approvals.c.seq)
        return [
            Approval(run=row.run, plan_hash=row.hash, at=row.at, who=row.who, how=row.how)
            for row in self._each(query)
        ]

    def shown(self, account: str, run: str) -> Shown | None:
        """What was shown when this run was approved; None when nothing was approved in it."""
        rows = self._select(sa.select(_shown).where(_shown.c.account == account, _shown.c.run == run))
        if not rows:
            return None
        return Shown(plan_run=rows[-1].plan_run, changes=_CHANGES.validate_json(rows[-1].body))

    # -- changes -----------------------------------------------------------------------------------

    def journal(
        self, run: str, account: str, change: Change, event: str, at: datetime, note: Json = None
    ) -> None:
        body = canonical({"change": change.model_dump(mode="json"), "note": note})
        self._insert(
            _changes,
            [{"account": account, "run": run, "change": change.id, "event": event, "at": at, "body": body}],
        )

    def change_events(
        self, account: str, run: str | None = None, kinds: Collection[str] = ()
    ) -> list[ChangeEvent]:
        """Oldest first; of one run, or of changes of these kinds."""
        query = sa.select(_changes).where(_changes.c.account == account).order_by(_changes.c.seq)
        if run is not None:
            query = query.where(_changes.c.run == run)
        if kinds:
            # As `journal` writes it; canonical JSON has one spelling.
            named = [_changes.c.body.contains(f'"kind":{canonical(kind)}', autoescape=True) for kind in kinds]
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
            _proofs,
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
        query = sa.select(_proofs).where(_proofs.c.account == account).order_by(_proofs.c.seq)
        if host is not None:
            query = query.where(_proofs.c.host == host)
        return [_proof(row) for row in self._select(query)]

    def valid_proof(
        self, account: str, stage: StageName, kind: str, host: str, now: datetime
    ) -> Proof | None:
        """The newest of its kind, if it still holds."""
        rows = self._select(
            sa.select(_proofs)
            .where(
                _proofs.c.account == account,
                _proofs.c.host == host,
                _proofs.c.stage == stage.value,
                _proofs.c.kind == kind,
            )
            .order_by(_proofs.c.seq.desc())
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

    # -- lease -----------------------------------------------------------------------------------------

    def take_lease(self, account: str, run: str) -> Lease:
        """One run at a time an account. The fence grows with each lease.

        Raises:
            LeaseHeld: another run holds it and is not known to be dead.
        """
        now = datetime.now(UTC)  # leases compare this database's clients, not the account
        with self._writing() as connection:
            _serialize(connection)
            last = connection.execute(
                sa.select(_leases)
                .where(_leases.c.account == account)
                .order_by(_leases.c.fence.desc())
                .limit(1)
            ).first()
            if (
                last
                and last.released_at is None
                and last.expires_at > now
                and not is_gone(last.machine, last.process)
            ):
                raise LeaseHeld(
                    f"run {last.run} works on this account since {last.taken_at:%Y-%m-%d %H:%M} UTC"
                    f" (process {last.process.split()[0]} on {last.machine.split()[0]}).",
                    subject=account,
                    remedy=f"Wait for it to end; if it is dead, its lease ends by itself within {LEASE_S} s.",
                )
            fence = (last.fence if last else 0) + 1
            connection.execute(
                _leases.insert().values(
                    account=account,
                    fence=fence,
                    run=run,
                    taken_at=now,
                    expires_at=now + timedelta(seconds=LEASE_S),
                    machine=machine(),
                    process=process(os.getpid()),
                )
            )
        return Lease(account=account, run=run, fence=fence)

    def renew_lease(self, lease: Lease) -> None:
        """Raises LeaseLost when a later run has taken the account."""
        self.check_lease(lease)
        with self._writing() as connection:
            connection.execute(
                _leases.update()
                .where(_leases.c.account == lease.account, _leases.c.fence == lease.fence)
                .values(expires_at=datetime.now(UTC) + timedelta(seconds=LEASE_S))
            )

    def check_lease(self, lease: Lease) -> None:
        """To be called before every mutation.

        Raises:
            LeaseLost: a later run has the account, or this lease has run out unrenewed.
        """
        rows = self._select(
            sa.select(_leases)
            .where(_leases.c.account == lease.account)
            .order_by(_leases.c.fence.desc())
            .limit(1)
        )
        last = rows[0] if rows else None
        if last is None or last.fence != lease.fence or last.released_at is not None:
            raise LeaseLost(
                "a later run has taken the account over; this one changes nothing more.",
                subject=lease.account,
                remedy="Look at the later run.",
            )
        if last.expires_at <= datetime.now(UTC):
            raise LeaseLost(
                "this run was asleep for longer than its lease; it changes nothing more.",
                subject=lease.account,
                remedy="Start it again: it goes on where this one stopped.",
            )

    def release_lease(self, lease: Lease) -> None:
        with self._writing() as connection:
            connection.execute(
                _leases.update()
                .where(
                    _leases.c.account == lease.account,
                    _leases.c.fence == lease.fence,
                    _leases.c.released_at.is_(None),
                )
                .values(released_at=datetime.now(UTC))
            )

    # -- memory ------------------------------------------------------------------------------------------

    def remember(self, account: str, name: str, value: str) -> None:
        """Keep a small thing for later runs: a host key, the login that worked."""
        row = {"account": account, "name": name, "value": value, "at": datetime.now(UTC)}
        self._insert(_memory, [row])

    def recall(self, account: str, name: str) -> str | None:
        rows = self._select(
            sa.select(_memory.c.value)
            .where(_memory.c.account == account, _memory.c.name == name)
            .order_by(_memory.c.seq.desc())
            .limit(1)
        )
        return str(rows[0][0]) if rows else None


def _proof(row: sa.Row[Any]) -> Proof:
    return Proof(
        host=row.host,
        stage=StageName(row.stage),
        kind=row.kind,
        evidence=row.evidence,
        observed_at=row.observed_at,
        valid_until=row.valid_until,
    )


def _make_private(path: Path) -> None:
    """It tells where an account is weak. SQLite gives the files beside it the mode that it has."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if said := _tighten(file):
            log.warning("%s", said)


def _tighten(path: Path) -> str:
    """Earlier versions left it open to others. What was done about it, or why nothing; "" when it is private.

    Never by opening it: SQLite's locks of this process end with any descriptor of the file that is closed.
    """
    try:
        found = path.stat()
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        if not found.st_mode & 0o077:
            return ""
        if found.st_uid != os.geteuid():
            return (
                f"the ledger {path} is open to others (mode {mode}) and belongs to another user: let that"
                " user run 'chmod 600' on it."
            )
        path.chmod(0o600)
    except FileNotFoundError:
        return ""  # only the database itself is always there
    except OSError as error:
        return (
            f"the ledger {path} may be open to others, and its mode cannot be changed ({error.strerror}):"
            " move it to where only you can look."
        )
    return f"the ledger {path} was open to others (mode {mode}); now it is its owner's alone (0600)."


def _sqlite_settings(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # what was intended must survive a power cut
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _serialize(connection: sa.Connection) -> None:
    """Let one client at a time decide over leases."""
    if connection.dialect.name == "sqlite":
        # The first statement that writes takes SQLite's only write lock.
        connection.execute(_schema.update().values(version=SCHEMA))
    else:
        connection.execute(sa.text("LOCK TABLE leases IN EXCLUSIVE MODE"))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def _without_password(url: str) -> str:
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "database_url"
