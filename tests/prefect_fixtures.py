"""A real Prefect server, the deployments on it, and a worker, for tests marked `server`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from haltuun.cli import server
from haltuun.cli.recorded import await_recorded

PROJECT = Path(__file__).resolve().parent.parent
POOL = "haltuun"
MIGRATED = "prefect-migrated.db"
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class PrefectServer:
    url: str
    state_dir: Path

    @property
    def ui(self) -> str:
        return server.ui_address(self.url)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """For a process that works against this server, and no other."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return {**kept, **server.client_environment(self.state_dir, self.url), **(extra or {})}

    def get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(f"{self.url}/{path}"))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), headers))

    def _ask(self, request: urllib.request.Request) -> Any:
        for _ in range(20):
            try:
                with server.opener(self.url).open(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                # SQLite refuses a write beside another: Prefect's own client tries again, too.
                if error.code != 503:
                    raise
                time.sleep(0.5)
        raise AssertionError(f"the server stays busy: {request.full_url}")

    def deployment(self, name: str) -> dict[str, Any]:
        """By its name, which all deployments here share with their flow."""
        return dict(self.get(f"deployments/name/{name}/{name}"))

    def trigger(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        """The id of a new run of a deployment, as a click in the UI makes it."""
        made = self.post(
            f"deployments/{self.deployment(deployment)['id']}/create_flow_run",
            {"parameters": dict(parameters)},
        )
        return str(made["id"])

    def await_end(self, flow_run_id: str, deadline_s: float) -> dict[str, Any]:
        """The flow run when it is over and all of its task runs are written down."""
        deadline = time.monotonic() + deadline_s
        while (run := self.get(f"flow_runs/{flow_run_id}"))["state_type"] not in ENDED:
            assert time.monotonic() < deadline, f"still {run['state_name']} after {deadline_s} s"
            time.sleep(1.0)  # each question costs the server more than it looks
        assert await_recorded(self.url, flow_run_id), "task runs without an end state"
        return dict(run)

    def family(self, flow_run_id: str) -> list[dict[str, Any]]:
        """The flow run and all its subflows."""
        rows, fresh = [self.get(f"flow_runs/{flow_run_id}")], [flow_run_id]
        while fresh:
            found = self.post("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": fresh}}})
            fresh = [row["id"] for row in found]
            rows += found
        return rows

    def task_runs(self, flow_run_id: str) -> list[dict[str, Any]]:
        """Every task run of the flow run and its subflows."""
        ids = [row["id"] for row in self.family(flow_run_id)]
        rows: list[dict[str, Any]] = []
        while True:
            body = {"flow_runs": {"id": {"any_": ids}}, "limit": 200, "offset": len(rows)}
            page = self.post("task_runs/filter", {**body, "sort": "ID_DESC"})
            rows += page
            if len(page) < 200:
                return rows

    def artifacts(self, flow_run_id: str) -> list[dict[str, Any]]:
        ids = [row["id"] for row in self.family(flow_run_id)]
        return list(self.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": ids}}}))

    def run_prefect(self, *arguments: str, cwd: Path = PROJECT) -> str:
        """What `prefect ARGUMENTS` prints; it must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=cwd,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy_all(self) -> None:
        """What a team does once: a work pool, and the deployments of prefect.yaml."""
        if not self.post("work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}}):
            self.run_prefect("work-pool", "create", POOL, "--type", "process")
        self.run_prefect("deploy", "--all")

    @contextmanager
    def worker(self, folder: Path, extra: Mapping[str, str] | None = None) -> Iterator[Path]:
        """A worker of the pool started from `folder`; yields its log."""
        log = folder / "worker.log"
        command: Sequence[str] = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=self.environment({"PREFECT_WORKER_QUERY_SECONDS": "2", **(extra or {})}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield log
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


_state_dirs: list[Path] = []


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    state_dir = tmp_path_factory.mktemp("prefect-state")
    url = _start_migrated(state_dir, _shared(tmp_path_factory))
    _state_dirs.append(state_dir)
    try:
        yield PrefectServer(url, state_dir)
    finally:
        server.stop(state_dir)


def end_servers() -> None:
    """Before the session's end, where no test to come has a use for them."""
    for state_dir in _state_dirs:
        server.stop(state_dir)


@pytest.fixture(scope="session")
def deployed(prefect_server: PrefectServer) -> PrefectServer:
    prefect_server.deploy_all()
    return prefect_server


@pytest.fixture
def state_dir(
    prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> Path:
    """Of a server that was stopped: a database with Prefect's schema, and nothing in it."""
    _copy_migrated(_shared(tmp_path_factory), tmp_path)
    return tmp_path


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the whole session, which with xdist is several processes: each has one in it."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def _copy_migrated(shared: Path, state_dir: Path) -> None:
    (state_dir / "prefect").mkdir(mode=0o700)
    shutil.copyfile(shared / MIGRATED, state_dir / "prefect" / "prefect.db")


def _start_migrated(state_dir: Path, shared: Path) -> str:
    """Bringing an empty database to Prefect's schema is two thirds of a start; one does it for all."""
    database, migrated = state_dir / "prefect" / "prefect.db", shared / MIGRATED
    with (shared / "prefect.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not migrated.exists():
            url = server.start(state_dir)
            try:
                half = migrated.with_suffix(".half")
                with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(half)) as copy:
                    source.backup(copy)
                half.rename(migrated)
            except BaseException:
                server.stop(state_dir)
                raise
            return url
    _copy_migrated(shared, state_dir)
    return server.start(state_dir)


# -- killed in the middle ------------------------------------------------------------------------------


def kill_when(reached: Callable[[], bool], flow_run: str, log: Path) -> None:
    """Kill the flow run's processes with -9 as soon as that is reached; `log` is the worker's."""
    deadline = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.005)
    for pid in _processes(flow_run):
        os.kill(pid, signal.SIGKILL)


def _processes(flow_run: str) -> list[int]:
    """Those that the worker started for the flow run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"PREFECT__FLOW_RUN_ID={flow_run}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    assert found
    return found
