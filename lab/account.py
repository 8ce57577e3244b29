"""The process that is the emulated account, as its supervisor handles it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

from lab.errors import LabError
from lab.places import Places

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0


class AccountProcess:
    """Started once, asked over HTTP, ended by pid."""

    def __init__(self, places: Places, account_id: str, stopping: threading.Event) -> None:
        self.endpoint_url = ""
        self._places = places
        self._log = places.folder / "cloud.log"
        command = [sys.executable, "-m", "lab.cloud.server", "--port", "0", "--run-dir", str(places.folder)]
        with self._log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*command, "--account-id", account_id],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        places.record(self._process.pid)
        self._stopping = stopping

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        announced = self._places.folder / "cloud.json"
        while time.monotonic() < deadline and self.is_running and not self._stopping.is_set():
            if announced.exists() and announced.stat().st_size:
                self.endpoint_url = json.loads(announced.read_text(encoding="utf-8"))["endpoint_url"]
                self.ask("health")
                return
            self._stopping.wait(0.1)
        raise LabError("The emulated account did not start.", f"See {self._log}.")

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def ask(self, path: str, **given: Any) -> dict[str, Any]:
        """GET /lab/PATH, or POST where something is given."""
        data = json.dumps(given).encode() if given else None
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/lab/{path}", data=data, timeout=30) as answer:
                found: dict[str, Any] = json.loads(answer.read())
        except (OSError, ValueError) as error:
            raise LabError(f"The emulated account does not answer /lab/{path}: {error}.") from error
        return found

    def stop(self) -> None:
        if not self.is_running:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
