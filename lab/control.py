"""The supervisor's control socket: one JSON line in, one JSON line out."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.errors import LabError

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def ask(path: Path, request: dict[str, Any], timeout_s: float = 30.0) -> dict[str, Any]:
    """Ask a running supervisor; LabError when it does not answer or refuses."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(timeout_s)
            link.connect(str(path))
            link.sendall(json.dumps(request).encode() + b"\n")
            line = link.makefile("rb").readline()
    except OSError as error:
        raise LabError(f"The lab does not answer ({error}).", "See haltuun lab status.") from error
    if not line:
        raise LabError("The lab closed the connection without an answer.", "See the log of its supervisor.")
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        raise LabError(str(reply["error"]))
    return reply


class ControlSocket:
    """Serves `answer` in threads until closed."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._answer = answer
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(16)
        threading.Thread(target=self._serve, name="control", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(link,), daemon=True).start()

    def _one(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            link.settimeout(30)
            try:
                reply = self._answer(json.loads(link.makefile("rb").readline()))
            except (LabError, KeyError, ValueError, TypeError) as error:
                reply = {"error": str(error)}
            link.sendall(json.dumps(reply).encode() + b"\n")

    def close(self) -> None:
        self._listener.close()
