"""Run Command: takes a message, runs its document, sends the reply."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..netkit import clock
from ..netkit.aws import RequestError, ServiceError
from ..netkit.hostfs import at
from ..netkit.imds import ImdsError
from ..netkit.pace import pause
from .documents import Result, run_document
from .layout import STATE
from .messages import Command
from .session import Session

# GetCommandInvocation returns at most this much (API reference, StandardOutputContent).
OUTPUT_LIMIT = 24000
ERROR_LIMIT = 8000
REPLY_ATTEMPTS = 10
REPLY_RETRY_S = 15.0

Report = dict[str, Any]


class Executor:
    """Runs every command once, each in a thread of its own."""

    def __init__(self, session: Session, stop: threading.Event) -> None:
        self._session = session
        self._stop = stop
        self._send: Callable[[Report], None] | None = None
        self._running: set[threading.Thread] = set()

    def reply_with(self, send: Callable[[Report], None]) -> None:
        """How replies go out."""
        self._send = send

    def accept(self, command: Command) -> None:
        """Begin a command unless it was begun before."""
        seen = at(f"{STATE}/{self._session.identity.instance_id}/idempotency/{command.id}")
        try:
            seen.mkdir(mode=0o700)
        except OSError:
            if seen.exists():
                return
        thread = threading.Thread(target=self._run, args=(command,), daemon=True)
        self._running.add(thread)
        thread.start()

    def drain(self, grace_s: float) -> None:
        """Give what runs a moment to end."""
        deadline = time.monotonic() + grace_s
        for thread in list(self._running):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, command: Command) -> None:
        started = _now()
        try:
            self._reply(command, Result("InProgress", -1), started, attempts=1)
            result = run_document(command, self._session)
            self._reply(command, result, started, attempts=REPLY_ATTEMPTS)
        finally:
            self._running.discard(threading.current_thread())

    def _reply(self, command: Command, result: Result, started: str, attempts: int) -> None:
        report = {
            "MessageId": command.message_id,
            "DocumentName": command.document,
            **_ending(result),
            "StartedAt": started,
            "EndedAt": _now(),
            "Steps": [(name, _ending(step)) for name, step in result.steps],
        }
        for attempt in range(1, attempts + 1):
            try:
                if self._send is not None:
                    self._send(report)
                return
            except (ServiceError, RequestError, ImdsError):
                if attempt == attempts or pause(self._stop, REPLY_RETRY_S, at_least_s=1.0):
                    return


def _ending(result: Result) -> Report:
    return {
        "Status": result.status,
        "ResponseCode": result.response_code,
        "StandardOutput": result.output[:OUTPUT_LIMIT],
        "StandardError": result.error[:ERROR_LIMIT],
    }


def _now() -> str:
    return f"{clock.now():%Y-%m-%dT%H:%M:%SZ}"
