"""What all tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.client
import botocore.hooks
import botocore.loaders
import botocore.session
import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from lab.places import OWNER
from tests.lab.agent_package import WrongPackage, check_package

# What is imported and collected stays to the end; looking for garbage among it is a third of a collection.
gc.disable()

pytest_plugins = ["tests.prefect_fixtures", "tests.postgres_fixtures"]

# Each line is one worker's: its files share what is dear to start, a Prefect server and the command line's
# account. They come before all others, as they take longest.
TOGETHER = (
    ("tests/e2e/test_takeover_story.py", "tests/test_hanging_hosts.py"),
    ("tests/test_prefect_takeover.py", "tests/test_prefect_server.py", "tests/cli/"),
    ("tests/stages/repair/test_on_hosts.py",),
)
# No file of these takes long, so that at the end no worker has much left while the others have nothing.
LAST = ("tests/core/", "tests/report/")


def _line(nodeid: str) -> int:
    return next((i for i, files in enumerate(TOGETHER) if nodeid.startswith(files)), len(TOGETHER))


class Together(LoadFileScheduling):
    """A file to a worker, and all files of a line of TOGETHER to the same."""

    def _split_scope(self, nodeid: str) -> str:
        line = _line(nodeid)
        return TOGETHER[line][0] if line < len(TOGETHER) else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together | None:
    return Together(config, log) if config.getoption("dist") == "loadfile" else None


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
def labs_end_with_the_session() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OWNER, str(os.getpid()))
        yield


@pytest.fixture(autouse=True, scope="session")
def bare_accounts() -> Iterator[None]:
    """moto fills each account with 1300 images' snapshots, and 1500 policies where it may: at each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "false")
        yield


class _Paths(list[str]):
    """Each session of boto3 adds its own folder to those of the loader, which here is one for all."""

    def append(self, path: str) -> None:
        if path not in self:
            super().append(path)


@pytest.fixture(autouse=True, scope="session")
def models_read_once() -> Iterator[None]:
    """botocore looks for AWS's service models, reads them and makes the names of its events for each session
    anew, and the methods of each client; a test's account has sessions and clients of its own."""
    loader = botocore.loaders.create_loader()
    loader._search_paths = _Paths(loader.search_paths)
    alias = cache(botocore.hooks.EventAliaser(None)._alias_event_name)
    make, made = botocore.client.ClientCreator._create_methods, dict[str, dict[str, Any]]()

    def methods(creator: Any, model: Any) -> dict[str, Any]:
        if model.service_name not in made:
            made[model.service_name] = make(creator, model)
        return dict(made[model.service_name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", lambda _: loader)
        patch.setattr(botocore.client.ClientCreator, "_create_methods", methods)
        patch.setattr(botocore.hooks.EventAliaser, "_alias_event_name", lambda _, name: alias(name))
        yield


def pytest_collection_finish() -> None:
    """What was imported and collected is half a million objects: to go through them again and again for
    garbage is a seventh of a worker's time."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(2000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (_line(item.nodeid), item.nodeid.startswith(LAST)))


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """A Prefect server that nobody asks takes a thirtieth of a processor, which the others can use."""
    rest = len(TOGETHER)
    if nextitem is None or not _line(item.nodeid) < rest == _line(nextitem.nodeid):
        return
    from tests.prefect_fixtures import end_servers  # a plugin, whose assertions pytest writes anew

    others = (other for other in item.session.items if _line(other.nodeid) == rest)
    if not any("prefect_server" in getattr(other, "fixturenames", ()) for other in others):
        end_servers()
