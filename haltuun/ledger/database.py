"""The database behind the ledger: opened privately, written all or none, its faults said plainly."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from haltuun.errors import HaltuunError
from haltuun.ledger.tables import (
    META,
    SCHEMA,
    SCHEMA_TABLE,
)

log = logging.getLogger("haltuun")

AT_ONCE = 200  # rows
BUSY_S = 30  # as long another one may keep SQLite's file to itself
# Lets one client at a time make tables, until the end of its transaction.
_ALONE = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(hashtext('haltuun'))",
}


class Database:
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
            self.id = self._opened()
        except (SQLAlchemyError, OSError, ImportError) as error:
            raise HaltuunError(
                f"the ledger cannot be opened: {_first_line(error)}.",
                subject=_without_password(url),
                remedy="Check 'state_dir' or 'database_url' in haltuun.yaml and who may write there.",
                code="LEDGER",
            ) from error

    def close(self) -> None:
        self._engine.dispose()

    def _opened(self) -> str:
        """The id of this ledger for good: fence numbers of two ledgers do not compare.

        Several may open one that is not there yet: the first makes it whole, the others wait for that.
        """
        with self._engine.begin() as connection:
            there = set(sa.inspect(connection).get_table_names())
            found = self._identity(connection) if SCHEMA_TABLE.name in there else None
            if found is None or META.tables.keys() - there:
                connection.execute(sa.text(_ALONE[connection.dialect.name]))
                META.create_all(connection)
                found = self._identity(connection)
            if found is None:
                found = uuid.uuid4().hex
                connection.execute(SCHEMA_TABLE.insert().values(version=SCHEMA, id=found))
            return found

    def _identity(self, connection: sa.Connection) -> str | None:
        """Of a ledger that this version may write to; None where it is not made yet."""
        found = connection.execute(sa.select(SCHEMA_TABLE)).first()
        if found is not None and found.version != SCHEMA:
            raise HaltuunError(
                f"it was written by another version of Haltuun (schema {found.version}, here {SCHEMA}).",
                subject=_without_password(self.url),
                remedy="Use the Haltuun that wrote it; or move it aside, or name another 'database_url'.",
                code="LEDGER",
            )
        return None if found is None else str(found.id)

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
        # Who lets a group write wants it to work with it: a colleague's run has no journal without it.
        shared = stat.S_IRWXG if found.st_mode & stat.S_IWGRP else 0
        kept = stat.S_IMODE(found.st_mode) & (stat.S_IRWXU | shared)
        if kept == stat.S_IMODE(found.st_mode):
            return ""
        if found.st_uid != os.geteuid():
            return (
                f"the ledger {path} is open to others (mode {mode}) and belongs to another user: let that"
                f" user run 'chmod {kept:o}' on it."
            )
        path.chmod(kept)
    except FileNotFoundError:
        return ""  # only the database itself is always there
    except OSError as error:
        return (
            f"the ledger {path} may be open to others, and its mode cannot be changed ({error.strerror}):"
            " move it to where only you can look."
        )
    return f"the ledger {path} was open to others (mode {mode}); now it is not any more ({kept:04o})."


def _sqlite_settings(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_S * 1000}")
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # what was intended must survive a power cut
    cursor.close()


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """SQLite does not wait by itself while another one that opens the same new ledger writes to it."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def _without_password(url: str) -> str:
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "database_url"
