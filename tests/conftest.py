"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import botocore.loaders
import pytest
from hypothesis import settings

from tests.lab.agent_package import WrongPackage, check_package

pytest_plugins = ["tests.prefect_fixtures"]

# Files whose one long set-up would otherwise be the last thing that a single worker is busy with.
LONGEST_FIRST = (
    "tests/e2e/test_takeover_story.py",
    "tests/test_prefect_takeover.py",
    "tests/stages/repair/test_on_hosts.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--agent-deb",
        type=Path,
        metavar="FILE",
        help="run the table of experiments (tests/lab/test_agent_table.py) on this amazon-ssm-agent package",
    )


# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("haltuun", deadline=None)
settings.load_profile("haltuun")


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--agent-deb")
    if given is not None:
        try:
            check_package(given)
        except WrongPackage as error:
            raise pytest.UsageError(str(error)) from error


@pytest.fixture(autouse=True, scope="session")
def nobodys_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests may have jumps and users for any host in ~/.ssh/config."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True, scope="session")
def models_read_once() -> Iterator[None]:
    """botocore reads AWS's service models for each session anew, and a test's account has one of its own."""
    read = cache(botocore.loaders.JSONFileLoader().load_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.loaders.JSONFileLoader, "load_file", lambda _, path: read(path))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return LONGEST_FIRST.index(file) if file in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)
