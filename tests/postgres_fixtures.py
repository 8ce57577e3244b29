"""A real PostgreSQL, for what must hold on both databases that the ledger may be on."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

# It refuses to run as root. Debian's package makes this user.
USER = "postgres"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """The folder of its socket: it listens at no address."""
    folder = Path(tempfile.mkdtemp(prefix="haltuun-pg-"))
    shutil.chown(folder, USER, USER)
    control = [max(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")), "-D", folder / "data", "-w"]
    # What is lost with this machine is of no use without it.
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    try:
        _run(*control, "initdb", "-o", "--auth=trust --no-sync --encoding=UTF8", cwd=folder)
        _run(*control, "start", "-l", folder / "log", "-o", options, cwd=folder)
        try:
            yield folder
        finally:
            _run(*control, "stop", "-m", "immediate", cwd=folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres: Path) -> str:
    """Of a database of the test's own, as `database_url` names it."""
    name = f"t{uuid.uuid4().hex}"
    createdb = max(Path("/usr/lib/postgresql").glob("*/bin/createdb"))
    _run(createdb, "--host", postgres, name, cwd=postgres)
    return f"postgresql+psycopg://{USER}@/{name}?host={postgres}"


def _run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        user=USER,
        group=USER,
        extra_groups=[],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # a server that is started keeps it
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
