"""The ledger: what was seen, judged, planned, approved, done and proven. The truth of Haltuun.

Append-only, leases aside: status is a view over the newest rows. SQLite by default, Postgres for
teams. The only package that imports sqlalchemy.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from haltuun.ledger.changes import Changes
from haltuun.ledger.leases import Leases
from haltuun.ledger.rows import Approval, ChangeEvent, HostEvent, Judgement, Lease, RunRow, Shown
from haltuun.ledger.seen import Seen
from haltuun.ledger.tables import MEMORY

__all__ = ["Approval", "ChangeEvent", "HostEvent", "Judgement", "Lease", "Ledger", "RunRow", "Shown"]


class Ledger(Seen, Changes, Leases):
    """All of it, in one database. Thread-safe.

    Raises:
        HaltuunError: LEDGER when the database cannot be opened, read or written.
    """

    def remember(self, account: str, name: str, value: str) -> None:
        """Keep a small thing for later runs: a host key, the login that worked."""
        row = {"account": account, "name": name, "value": value, "at": datetime.now(UTC)}
        self._insert(MEMORY, [row])

    def recall(self, account: str, name: str) -> str | None:
        rows = self._select(
            sa.select(MEMORY.c.value)
            .where(MEMORY.c.account == account, MEMORY.c.name == name)
            .order_by(MEMORY.c.seq.desc())
            .limit(1)
        )
        return str(rows[0][0]) if rows else None
