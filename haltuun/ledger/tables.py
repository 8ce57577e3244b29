"""The ledger's tables. Append-only, leases aside."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

SCHEMA = 2

META = sa.MetaData()


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
        META,
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String(12), nullable=False, index=True),
        *columns,
    )


SCHEMA_TABLE = sa.Table(
    "ledger",
    META,
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("id", sa.String(32), nullable=False),
)
RUNS = _table(
    "runs",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("event", sa.String(20), nullable=False),  # started, ended
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
HOSTS = _table(
    "hosts",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("region", sa.String(32), nullable=False),
    sa.Column("host", sa.String(24), nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("there", sa.Boolean, nullable=False),
)
OBSERVATIONS = _table(
    "observations",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("host", sa.String(24), nullable=False, index=True),  # "" for the account's
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("phase", sa.String(8), nullable=False),  # plan, result
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
FINDINGS = _table(
    "findings",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("phase", sa.String(8), nullable=False),  # as of the observations they were judged on
    sa.Column("host", sa.String(24), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
VERDICTS = _table(
    "verdicts",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("host", sa.String(24), nullable=False, index=True),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
PLANS = _table(
    "plans",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("hash", sa.String(16), nullable=False, index=True),
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
APPROVALS = _table(
    "approvals",
    sa.Column("run", sa.String(40), nullable=False),
    sa.Column("hash", sa.String(16), nullable=False),
    sa.Column("at", _Utc, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("how", sa.Text, nullable=False),
)
# What stood before the approver's eyes. A table of its own, so that earlier ledgers open as they are.
SHOWN = _table(
    "shown",
    sa.Column("run", sa.String(40), nullable=False, index=True),  # the run that was approved
    sa.Column("plan_run", sa.String(40), nullable=False),  # the run that made the plan; "" when unseen
    sa.Column("body", sa.Text, nullable=False),
)
CHANGES = _table(
    "changes",
    sa.Column("run", sa.String(40), nullable=False, index=True),
    sa.Column("change", sa.String(12), nullable=False, index=True),
    sa.Column("event", sa.String(16), nullable=False),
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
PROOFS = _table(
    "proofs",
    sa.Column("run", sa.String(40), nullable=False),
    sa.Column("host", sa.String(24), nullable=False, index=True),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("observed_at", _Utc, nullable=False),
    sa.Column("valid_until", _Utc, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
)
HOST_EVENTS = _table(
    "host_events",
    sa.Column("run", sa.String(40), nullable=False),
    sa.Column("host", sa.String(24), nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("event", sa.String(8), nullable=False),  # worse, tried
    sa.Column("at", _Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
LEASES = _table(
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
MEMORY = _table(
    "memory",
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("at", _Utc, nullable=False),
)
