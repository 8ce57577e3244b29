"""`haltuun` as a real process against an emulated account, with a configuration of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import yaml

from haltuun.ledger import Ledger, RunRow
from lab.cloud.seeding import steer
from tests import inside

HALTUUN = str(Path(sys.executable).with_name("haltuun"))
ACCOUNT, ALIAS, REGION = "555566667777", "acme-cli", "eu-west-1"
# Nothing listens there: every host refuses SSH at once.
CLOSED = {"address": "127.0.0.9", "port": 9}
# Left in the environment, these would decide instead of the configuration.
FOREIGN = ("AWS_", "PREFECT_", "HALTUUN_", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR")


@dataclass(frozen=True)
class Done:
    """How a process ended, and what it said."""

    code: int
    out: str
    err: str

    def sentence(self, code: str, *words: str) -> str:
        """The one line of an error: with its code and these words, no traceback, nothing on stdout."""
        assert self.out == "", self.out
        lines = [line for line in self.err.splitlines() if line.startswith("haltuun: ")]
        assert len(lines) == 1, self.err
        assert lines[0].endswith(f"[{code}]"), lines[0]
        for word in words:
            assert word in lines[0], (word, lines[0])
        assert "Traceback" not in self.err and "Error(" not in self.err, self.err
        return lines[0]


@dataclass
class Cli:
    """A folder with haltuun.yaml, and an environment that knows nothing else."""

    folder: Path
    endpoint_url: str
    instances: Mapping[str, str]
    prefect: Mapping[str, str] = field(default_factory=dict)

    def write(self, change: Callable[[dict[str, Any]], None] = lambda config: None) -> Path:
        """haltuun.yaml as it works, then changed."""
        account = {
            "id": ACCOUNT,
            "alias": ALIAS,
            "regions": [REGION],
            "ssh": {"key_files": ["key.pem"], "known_hosts": "known_hosts", "connect_timeout_s": 2},
            "hosts": {instance_id: dict(CLOSED) for instance_id in self.instances.values()},
        }
        config: dict[str, Any] = {
            "state_dir": "state",
            "accounts": [account],
            "policy": {"max_held_percent": 100},
        }
        change(config)
        path = self.folder / "haltuun.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    def environment(self, **extra: str | None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        given: dict[str, str | None] = {
            **kept,
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "AKIAOPERATOR00000000",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_EC2_METADATA_DISABLED": "true",
            "HALTUUN_CONFIG": str(self.folder / "haltuun.yaml"),
            # An early end must not depend on a server; a run that needs one brings its own.
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
            **self.prefect,
            **extra,
        }
        return {name: value for name, value in given.items() if value is not None}

    def run(self, *arguments: str, timeout_s: float = 400.0, **extra: str | None) -> Done:
        done = subprocess.run(
            [HALTUUN, *arguments],
            cwd=self.folder,
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def call(self, *arguments: str, **extra: str | None) -> Done:
        """`run` without a process of its own: for what is not about processes."""
        done = inside.call(self.environment(**extra), self.folder, *arguments)
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [HALTUUN, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Where the tests run in a shell's background, it is ignored there and would be here.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def document(self, *arguments: str, code: int = 0) -> Any:
        """The one JSON document on stdout."""
        done = self.call(*arguments, "--json")
        assert done.code == code, done
        assert "Traceback" not in done.err, done.err
        return json.loads(done.out)

    def runs(self) -> list[RunRow]:
        return self.ledger.runs(ACCOUNT)

    def fault(self, operation: str, error: str | None) -> None:
        steer(self.endpoint_url, "fault", operation=operation, error=error)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.folder / 'state' / 'ledger.db'}")


def until(what: Callable[[], Any], timeout_s: float = 300.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


class Front:
    """Stands before the account and answers some operations as an endpoint does that lacks them."""

    def __init__(self, behind: str, lacking: Mapping[str, tuple[int, str, bytes]]) -> None:
        self._behind, self._lacking = behind, lacking
        self.asked: list[str] = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                front.answer(self)

            do_GET = do_PUT = do_DELETE = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                """A test's output is its own."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Front:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        operation = _operation(request, body)
        found = self._lacking.get(operation)
        if found is None:
            status, kind, text = self._passed_on(request, body)
        else:
            self.asked.append(operation)
            status, kind, text = found
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)

    def _passed_on(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str, bytes]:
        headers = {
            k: v for k, v in request.headers.items() if k.lower() not in ("connection", "content-length")
        }
        wanted = urllib.request.Request(
            self._behind + request.path, body or None, headers, method=request.command
        )
        try:
            with urllib.request.urlopen(wanted, timeout=30) as answer:
                return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("Content-Type", ""), error.read()


def _operation(request: BaseHTTPRequestHandler, body: bytes) -> str:
    """The operation's name as JSON and query services give it; of REST services the path."""
    target = request.headers.get("X-Amz-Target", "")
    if target:
        return target.rpartition(".")[2]
    form = parse_qs(body.decode("utf-8", "replace"))
    return form["Action"][0] if "Action" in form else request.path
