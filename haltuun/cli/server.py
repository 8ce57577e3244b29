"""The embedded Prefect server: one process on SQLite, kept in the state folder until it is stopped.

Never Prefect's ephemeral in-process server: it loses task runs at exit. Without `--background`, whose
log pipe dies with the command that started it and takes the server along at its first logged error.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from haltuun.errors import HaltuunError, ServerUnreachable

HOST = "127.0.0.1"
START_DEADLINE_S = 240.0
STOP_DEADLINE_S = 20.0
POLL_S = 0.1


class ServerFailed(HaltuunError):
    """The embedded Prefect server does not come up or does not go down."""

    code = "PREFECT_SERVER"


@dataclass(frozen=True)
class _Server:
    """A started server as written down; pid and start time together name one process for good."""

    pid: int
    started_ticks: int
    port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/api"


def start(state_dir: Path, *, deadline_s: float = START_DEADLINE_S) -> str:
    """The API URL of the server of this state folder, started when it is not running.

    It outlives this process. Two callers at the same time get the same server.

    Raises:
        ServerFailed: it did not answer before the deadline; its log is named.
    """
    home = _home(state_dir)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServerFailed(
            f"the folder for the Prefect server cannot be made ({error.strerror}).",
            subject=str(home),
            remedy="Correct 'state_dir' in haltuun.yaml, or set PREFECT_API_URL to a server of your own.",
        ) from error
    with _locked(home):
        server = _running(home)
        if server is None:
            server = _launch(home, _choose_port(home))
            try:
                _await_health(home, server, deadline_s)
            except BaseException:
                _end(server)
                raise
        return server.url


def stop(state_dir: Path) -> bool:
    """End the server of this state folder; False when none was running. Its history stays.

    Raises:
        ServerFailed: the process does not end.
    """
    home = _home(state_dir)
    if not home.is_dir():
        return False
    with _locked(home):
        server = _running(home)
        if server is not None:
            _end(server)
        _record(home).unlink(missing_ok=True)
        return server is not None


def running(state_dir: Path) -> str | None:
    """The API URL of the server of this state folder when its process is alive."""
    server = _running(_home(state_dir))
    return server.url if server else None


def process_of(state_dir: Path) -> int:
    """The pid of the server of this state folder; it runs."""
    server = _running(_home(state_dir))
    if server is None:
        raise ServerFailed("no Prefect server runs here.", subject=str(state_dir), remedy="Start it.")
    return server.pid


def connect(state_dir: Path) -> str:
    """The API URL to run against: PREFECT_API_URL where it is set, else the embedded server, started.

    Sets this process's environment for it; call it before anything imports prefect.

    Raises:
        ServerUnreachable: PREFECT_API_URL does not answer.
        ServerFailed: the embedded server did not start.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        if not answers(given):
            raise ServerUnreachable(
                "the Prefect server does not answer.",
                subject=given,
                remedy="Start it or correct PREFECT_API_URL; without it, an embedded server is used.",
            )
        url = given
    else:
        url = start(state_dir)
    for name, value in client_environment(state_dir, url, own_server=not given).items():
        os.environ.setdefault(name, value)
    return url


def client_environment(state_dir: Path, url: str, *, own_server: bool = True) -> dict[str, str]:
    """What a process that runs flows against `url` needs in its environment before it imports prefect.

    With an own server also PREFECT_HOME, so that no profile of the user's home decides anything.
    """
    environment = {
        "PREFECT_API_URL": url,
        # A missing server must be an error, never a silent in-process one.
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        # Logs go to the run history; the terminal belongs to Haltuun's own output.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # So do the complaints of Prefect's own threads about a server that is gone.
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
    }
    if own_server:
        environment["PREFECT_HOME"] = str(_home(state_dir))
    return environment


def opener(url: str) -> urllib.request.OpenerDirector:
    """An HTTP client for this API URL; past any proxy to the embedded server, which is on this machine."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({} if HOST in url else None))


def answers(url: str, *, timeout_s: float = 5.0) -> bool:
    """Whether an HTTP server that is well answers at this API URL; a refusal of credentials is an answer."""
    try:
        with opener(url).open(f"{url.rstrip('/')}/health", timeout=timeout_s):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError):
        return False


def ui_address(url: str) -> str:
    """Where a browser finds what this API URL serves."""
    return url.rstrip("/").removesuffix("/api")


def _home(state_dir: Path) -> Path:
    return state_dir.expanduser().resolve() / "prefect"


def _record(home: Path) -> Path:
    return home / "server.json"


def _log(home: Path) -> Path:
    return home / "server.log"


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    with (home / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _running(home: Path) -> _Server | None:
    try:
        server = _Server(**json.loads(_record(home).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return server if _started_ticks(server.pid) == server.started_ticks else None


def _started_ticks(pid: int) -> int | None:
    """When the process started, in ticks since boot; None when it is gone or a zombie. proc(5), stat."""
    try:
        # The command name, in parentheses, may hold spaces: fields count from behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else int(started)


def _choose_port(home: Path) -> int:
    """The port of last time, so that a kept address stays good, or a free one."""
    kept = home / "port"
    try:
        port = int(kept.read_text())
    except (OSError, ValueError):
        port = 0
    for wanted in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, wanted))
            except (OSError, OverflowError):
                continue
            port = probe.getsockname()[1]
            break
    kept.write_text(f"{port}\n")
    return port


def _launch(home: Path, port: int) -> _Server:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    with _log(home).open("ab") as log:
        log.truncate(0)
        process = subprocess.Popen(
            command,
            env=_server_environment(home, port),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = _Server(pid=process.pid, started_ticks=_started_ticks(process.pid) or 0, port=port)
    _record(home).write_text(json.dumps(asdict(server)))
    # The server is to outlive this object, which would warn about that at exit.
    process.returncode = 0
    return server


def _server_environment(home: Path, port: int) -> dict[str, str]:
    """This process's, less other Prefect settings and less credentials, which a server has no use for."""
    inherited: Mapping[str, str] = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_"))
    }
    return {
        **inherited,
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home),
        # The UI asks the API at this address, and at 4200 without it.
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        # By default any web page that is open in a browser here may use the API.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLI_PROMPT": "false",
    }


def _await_health(home: Path, server: _Server, deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if answers(server.url):
            return
        _reap(server.pid)
        if _started_ticks(server.pid) != server.started_ticks:
            raise ServerFailed(
                f"the Prefect server ended while it started: {_last_words(home)}",
                subject=str(_log(home)),
                remedy="Read that log; a damaged history can be moved aside with its folder.",
            )
        time.sleep(POLL_S)
    raise ServerFailed(
        f"the Prefect server did not answer within {deadline_s:.0f} s.",
        subject=str(_log(home)),
        remedy="Read that log, then try again; a busy machine may need more time.",
    )


def _last_words(home: Path) -> str:
    lines = [line.strip() for line in _log(home).read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if "Server stopped" not in line]
    return told[-1][:300] if told else "it said nothing."


def _end(server: _Server) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if _started_ticks(server.pid) == server.started_ticks:
            os.kill(server.pid, sign)
        deadline = time.monotonic() + STOP_DEADLINE_S
        while time.monotonic() < deadline:
            _reap(server.pid)
            if _started_ticks(server.pid) != server.started_ticks:
                return
            time.sleep(POLL_S)
    raise ServerFailed(
        "the Prefect server does not end.",
        subject=f"process {server.pid}",
        remedy=f"End it with: kill -9 {server.pid}",
    )


def _reap(pid: int) -> None:
    """Take the exit status where the server is this process's own child, so that it is no zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
