"""The ledger of two runs, for the tests of what is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from haltuun.ledger import Ledger
from tests.report import kit


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(kit.config(tmp_path).ledger_url)
    kit.write_first_run(made)
    kit.write_last_run(made)
    yield made
    made.close()
