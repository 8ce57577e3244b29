"""The worker as a process: started, found again, told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from ..netkit.hostfs import at, is_of_this_host
from .layout import WORKER_BINARY, WORKER_NAME

# A termination message from the core; a plain SIGTERM comes from a person.
STOP_MESSAGE = signal.SIGUSR1


def start_worker() -> subprocess.Popen[bytes]:
    """Start the worker in a process group of its own, so that a killed core leaves it."""
    return subprocess.Popen([str(at(WORKER_BINARY))], stdin=subprocess.DEVNULL, process_group=0)


def _is_worker(pid: int) -> bool:
    try:
        process = Path(f"/proc/{pid}")
        comm = (process / "comm").read_text().strip()
        return comm == WORKER_NAME[:15] and is_of_this_host(process)
    except OSError:
        return False


def find_workers() -> list[int]:
    """Process ids of all workers of this host."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _is_worker(int(entry.name))
    ]


def kill_orphan(pid: int) -> None:
    """End a worker whose core is gone, and wait until it is."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + 5
    while _is_worker(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
