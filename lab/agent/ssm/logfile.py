"""The agent's log files, line for line in the form of release 3.3.1142.0."""

from __future__ import annotations

import os
import sys
import threading

from ..netkit import clock
from ..netkit.hostfs import at
from .layout import LOGS


def _stamp() -> str:
    now = clock.now()
    return f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 100:04d}"


def _append(name: str, line: str) -> None:
    folder = at(LOGS)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return
    try:
        os.write(fd, line.encode())
    except OSError:
        return  # a full disk silences the real agent's log too
    finally:
        os.close(fd)


class Log:
    """INFO and above go to amazon-ssm-agent.log, ERROR also to errors.log with its place in the source."""

    def __init__(self, context: str = "", *, echo: bool = False) -> None:
        self._context = context
        self._echo = echo
        self._lock = threading.Lock()

    def within(self, part: str) -> Log:
        """The same log with one more bracketed context."""
        return Log(f"{self._context}{part} ", echo=self._echo)

    def at_root(self, part: str = "") -> Log:
        """A log without this process's name: some of Go's loggers have none."""
        return Log(f"{part} " if part else "", echo=self._echo)

    def info(self, text: str) -> None:
        """One INFO line."""
        self._write("INFO", text)

    def warn(self, text: str) -> None:
        """One WARN line."""
        self._write("WARN", text)

    def error(self, text: str, source: str) -> None:
        """One ERROR line; `source` is `function @ file.go.line` as errors.log shows it."""
        self._write("ERROR", text)
        _append("errors.log", f"{_stamp()} ERROR [{source}] {self._context}{text}\n")

    def _write(self, level: str, text: str) -> None:
        with self._lock:
            line = f"{_stamp()} {level} {self._context}{text}\n"
            _append("amazon-ssm-agent.log", line)
            if self._echo:
                sys.stdout.write(line)
                sys.stdout.flush()


def log_hibernation(text: str, level: str = "INFO") -> None:
    """One line of hibernate.log, whose time has no fraction."""
    now = clock.now()
    _append("hibernate.log", f"{now:%Y-%m-%d %H:%M:%S} {level} {text}\n")


def audit_start(process: str, version: str) -> None:
    """The telemetry line that each process leaves in the day's audit file."""
    now = clock.now()
    name = f"audits/amazon-ssm-agent-audit-{now:%Y-%m-%d}"
    try:
        at(f"{LOGS}/audits").mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return
    if not at(f"{LOGS}/{name}").exists():
        _append(name, "SchemaVersion=1\n")
    _append(name, f"agent_telemetry {process}.start {version} {now:%H:%M:%S}\n")
