"""The look for planted words sees what is in the bytes of a database, or its silence would say nothing."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from haltuun.ledger import Ledger
from haltuun.model import Host
from tests.e2e.canaries import Canaries

HOST = Host(account="111122223333", region="eu-central-1", instance_id="i-0abc1234def567890", name="web-01")


@pytest.mark.parametrize("closed", [True, False])
def test_a_word_is_found_in_the_ledger_and_in_a_database_like_prefects(tmp_path: Path, closed: bool) -> None:
    """Prefect keeps what it is given as JSON in SQLite with a log beside it, which may hold all there is."""
    words = Canaries({"instance id": HOST.instance_id, "absent": "i-0ffffffffffffffff"})
    assert words.in_files([]) == []
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.start_run(HOST.account, "r", {"mode": "plan"}, datetime.now(UTC))
    ledger.saw_hosts("r", [HOST])
    server = sqlite3.connect(tmp_path / "prefect.db")
    server.execute("PRAGMA journal_mode=WAL")
    server.execute("CREATE TABLE artifact (data JSON)")
    server.execute("INSERT INTO artifact VALUES (?)", [json.dumps([{"host": HOST.instance_id}])])
    server.commit()
    if closed:
        ledger.close()
        server.close()
    found = words.in_files(path for path in tmp_path.iterdir() if path.is_file())
    assert {place for place, _ in found} == {"instance id"}
    assert {path.name.removesuffix("-wal") for _, path in found} == {"ledger.db", "prefect.db"}
    if not closed:
        ledger.close()
        server.close()
