"""A real PostgreSQL, for what must hold on both databases that the ledger may be on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# It refuses to run as root. Debian's package makes this user.
USER = "postgres"
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """The folder of its socket: it listens at no address."""
    with running_postgres() as folder:
        yield folder


@contextmanager
def running_postgres() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="haltuun-pg-"))
    shutil.chown(folder, USER, USER)
    programs = max(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")).parent
    # What is lost with this machine is of no use without it.
    options = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off"]
    server = [programs / "postgres", "-D", folder / "data", *(word for o in options for word in ("-c", o))]
    # The kernel ends it (SIGQUIT: an immediate shutdown) with the thread that started it, killed or not.
    tied = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "--pdeathsig=QUIT", "--"]
    try:
        initdb = (programs / "pg_ctl", "-D", folder / "data", "initdb")
        _run(*initdb, "-o", "--auth=trust --no-sync --encoding=UTF8", cwd=folder)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*tied, *server],
                cwd=folder,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            deadline = time.monotonic() + 60
            while subprocess.run([programs / "pg_isready", "-q", "-h", folder]).returncode != 0:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield folder
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(60)
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
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
