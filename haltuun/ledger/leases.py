"""One run at a time an account."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from haltuun.errors import LeaseHeld, LeaseLost
from haltuun.ledger.database import Database
from haltuun.ledger.rows import Lease
from haltuun.ledger.tables import (
    LEASES,
    SCHEMA,
    SCHEMA_TABLE,
)
from haltuun.processes import is_gone, machine, process

# A killed process stops renewing: after this its lease can be taken by the next run.
LEASE_S = 90


class Leases(Database):
    """The only rows that are written over."""

    def take_lease(self, account: str, run: str) -> Lease:
        """One run at a time an account. The fence grows with each lease.

        Raises:
            LeaseHeld: another run holds it and is not known to be dead.
        """
        now = datetime.now(UTC)  # leases compare this database's clients, not the account
        with self._writing() as connection:
            _serialize(connection)
            last = connection.execute(_last(account)).first()
            if last and _is_held(last, now):
                raise LeaseHeld(
                    f"run {last.run} works on this account since {last.taken_at:%Y-%m-%d %H:%M} UTC"
                    f" (process {last.process.split()[0]} on {last.machine.split()[0]}).",
                    subject=account,
                    remedy=f"Wait for it to end; if it is dead, its lease ends by itself within {LEASE_S} s.",
                )
            fence = (last.fence if last else 0) + 1
            connection.execute(
                LEASES.insert().values(
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

    def at_work(self, account: str) -> str:
        """The run that holds the account's lease; "" where none does."""
        held = [row.run for row in self._select(_last(account)) if _is_held(row, datetime.now(UTC))]
        return held[0] if held else ""

    def renew_lease(self, lease: Lease) -> None:
        """Raises LeaseLost when a later run has taken the account."""
        self.check_lease(lease)
        with self._writing() as connection:
            connection.execute(
                LEASES.update()
                .where(LEASES.c.account == lease.account, LEASES.c.fence == lease.fence)
                .values(expires_at=datetime.now(UTC) + timedelta(seconds=LEASE_S))
            )

    def check_lease(self, lease: Lease) -> None:
        """To be called before every mutation.

        Raises:
            LeaseLost: a later run has the account, or this lease has run out unrenewed.
        """
        rows = self._select(_last(lease.account))
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
                LEASES.update()
                .where(
                    LEASES.c.account == lease.account,
                    LEASES.c.fence == lease.fence,
                    LEASES.c.released_at.is_(None),
                )
                .values(released_at=datetime.now(UTC))
            )


def _last(account: str) -> sa.Select[Any]:
    return sa.select(LEASES).where(LEASES.c.account == account).order_by(LEASES.c.fence.desc()).limit(1)


def _is_held(last: sa.Row[Any], now: datetime) -> bool:
    return last.released_at is None and last.expires_at > now and not is_gone(last.machine, last.process)


def _serialize(connection: sa.Connection) -> None:
    """Let one client at a time decide over leases."""
    if connection.dialect.name == "sqlite":
        # The first statement that writes takes SQLite's only write lock.
        connection.execute(SCHEMA_TABLE.update().values(version=SCHEMA))
    else:
        connection.execute(sa.text("LOCK TABLE leases IN EXCLUSIVE MODE"))
