"""On real hosts, for minutes: cause × init × first state, and runs that are killed in the middle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stages.repair import interrupted
from tests.stages.repair.host_kit import Hosts, lab_of
from tests.stages.repair.pairs import ROWS, Case, all_cases, pairs, walk

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.timeout(600)]

SCENARIO = """\
name: pairs
account_id: "333344445555"
region: eu-west-1
hosts:
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with lab_of(SCENARIO + ROWS, tmp_path_factory.mktemp("pairs"), f"pairs-{os.getpid()}") as lab:
        yield lab


@pytest.mark.parametrize("case", pairs(list(all_cases())), ids=str)
def test_repaired_twice_and_taken_back(hosts: Hosts, case: Case) -> None:
    """As few cases as let any two of their values meet."""
    walk(hosts, case)


@pytest.mark.parametrize("run_dies", [True, False], ids=["with the run", "alone"])
@pytest.mark.parametrize("way", interrupted.WAYS)
def test_killed_in_the_middle(hosts: Hosts, tmp_path: Path, way: str, run_dies: bool) -> None:
    interrupted.walk(hosts, "paired-systemd", tmp_path, way, run_dies=run_dies)
