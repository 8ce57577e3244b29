"""Where a lab keeps what it needs while it runs, and how its processes are known again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError

RUN_ROOT = Path("/run/haltuun-lab")
# The process of tests: a lab ends with it, also where it was killed and has nobody else to end it.
OWNER = "HALTUUN_LAB_OWNER"
NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,30}$")


def start_time(pid: int) -> str:
    """When the kernel started a process, in ticks since boot; a pid alone may be somebody else's by now."""
    try:
        return (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()[19]
        )
    except (OSError, IndexError):
        return ""


@dataclass(frozen=True)
class Places:
    """The run directory of one lab."""

    folder: Path

    @classmethod
    def of(cls, name: str, root: Path | None = None) -> Places:
        if not NAME.match(name):
            raise LabError(f"'{name}' cannot name a lab.", "Use small letters, digits and dashes.")
        return cls((root or RUN_ROOT) / name)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state_file(self) -> Path:
        return self.folder / "lab.json"

    @property
    def control(self) -> Path:
        return self.folder / "control.sock"

    @property
    def supervisor_file(self) -> Path:
        return self.folder / "supervisor.pid"

    @property
    def is_supervised(self) -> bool:
        """Whether the lab's supervisor lives."""
        try:
            return int(self.supervisor_file.read_text(encoding="ascii")) in self.living()
        except (OSError, ValueError):
            return False

    @property
    def log(self) -> Path:
        return self.folder / "supervisor.log"

    @property
    def pids(self) -> Path:
        return self.folder / "pids"

    @property
    def boxes(self) -> Path:
        return self.folder / "boxes"

    def read_state(self) -> dict[str, Any]:
        try:
            found = json.loads(self.state_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_state(self, state: dict[str, Any]) -> None:
        staging = self.state_file.with_suffix(".new")
        staging.write_text(json.dumps(state, indent=1), encoding="utf-8")
        staging.replace(self.state_file)

    def record(self, pid: int) -> None:
        """Remember a process of this lab, before anything can go wrong with it."""
        self.pids.mkdir(parents=True, exist_ok=True)
        # Who looks meanwhile must not find it empty: the supervisor records itself once more.
        staging = self.pids / f"new-{pid}-{os.getpid()}"
        staging.write_text(start_time(pid), encoding="ascii")
        staging.replace(self.pids / str(pid))

    def living(self) -> list[int]:
        found = []
        for file in self.pids.glob("[0-9]*"):
            with contextlib.suppress(OSError):
                started = file.read_text(encoding="ascii")
                if started and start_time(int(file.name)) == started and not _is_zombie(int(file.name)):
                    found.append(int(file.name))
        return found

    def kill_all(self, timeout_s: float = 20.0) -> None:
        """End every recorded process; a box's PID 1 takes its whole pid namespace with it."""
        deadline = time.monotonic() + timeout_s
        while left := self.living():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LabError(
                    f"Processes {left} of lab {self.name} do not end.", "Look at them with ps, then retry."
                )
            time.sleep(0.02)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()


class Owner:
    """Whom the environment says that the lab belongs to; without one it stays until it is taken down."""

    def __init__(self, pid: str | None) -> None:
        self._descriptor: int | None = None
        self._gone = False
        if pid:
            try:
                self._descriptor = os.pidfd_open(int(pid))
            except ProcessLookupError:
                self._gone = True

    @property
    def has_ended(self) -> bool:
        """A zombie has, too."""
        if self._descriptor is None:
            return self._gone
        return bool(select.select([self._descriptor], [], [], 0)[0])


def _is_zombie(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] == "Z"
