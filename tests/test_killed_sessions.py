"""What a test session that is killed with -9 leaves behind: nothing that runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.places import OWNER, Owner, Places
from tests.lab.waiting import wait_until
from tests.prefect_fixtures import PROJECT

DATABASE = """
import sys, time
from tests.postgres_fixtures import running_postgres
with running_postgres() as folder:
    print(folder, flush=True)
    time.sleep(300)
"""
# No host runs: boxes end with their lab, whatever ends it.
SCENARIO = "name: left\nhosts: [{name: asleep, state: stopped}]\n"
LAB = """
import os, sys, time
from pathlib import Path
from lab import api
name, folder = sys.argv[1], Path(sys.argv[2])
os.environ["%s"] = str(os.getpid())
api.up(folder / "left.yaml", out=folder / "out", name=name)
print(name, flush=True)
time.sleep(300)
"""


def killed_when_up(script: str, *arguments: str, then: Callable[[str], None]) -> None:
    """`then` is given what the script prints when all is up, and is called just before it is killed."""
    session = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert session.stdout is not None
        then(session.stdout.readline().strip())
    finally:
        session.send_signal(signal.SIGKILL)
        session.communicate()


@pytest.mark.postgres
def test_its_database_ends() -> None:
    folders: list[Path] = []

    def note(said: str) -> None:
        folders.append(Path(said))
        assert (folders[0] / "data/postmaster.pid").exists()

    killed_when_up(DATABASE, then=note)
    # The server takes it away when it ends in its own order.
    wait_until(lambda: not (folders[0] / "data/postmaster.pid").exists())
    shutil.rmtree(folders[0])


def test_a_lab_knows_when_the_process_that_it_belongs_to_has_ended() -> None:
    process = subprocess.Popen(["sleep", "300"])
    owner = Owner(str(process.pid))
    assert not owner.has_ended and not Owner(None).has_ended
    process.kill()
    wait_until(lambda: owner.has_ended)  # nobody has waited for it yet
    process.wait()
    assert owner.has_ended and Owner(str(process.pid)).has_ended


@pytest.mark.lab
@pytest.mark.soak
def test_its_lab_ends(tmp_path: Path) -> None:
    (tmp_path / "left.yaml").write_text(SCENARIO)
    name = f"left-{os.getpid()}"
    living: list[int] = []

    def note(said: str) -> None:
        assert said == name
        living.extend(Places.of(name).living())

    killed_when_up(LAB % OWNER, name, str(tmp_path), then=note)
    assert living
    wait_until(lambda: not [pid for pid in living if Path(f"/proc/{pid}").exists()])
    assert not Places.of(name).folder.exists()
