"""Processes as PID 1 sees them: it starts them, and it reaps everybody's.

One condition variable guards all state of PID 1. Commands of clients run in threads and wait on it; the main
thread reaps and wakes them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

world = threading.Condition(threading.RLock())
_exits: dict[int, int] = {}
_watchers: dict[int, Callable[[int], None]] = {}
_timers: list[tuple[float, Callable[[], None]]] = []


def spawn(
    argv: list[str], env: dict[str, str], *, cwd: str = "/", user: str = "", log: str = "/dev/null"
) -> int:
    """Start a process in a session of its own; OSError when it cannot be executed."""
    with world, open("/dev/null", "rb") as nothing, _open_log(log) as output:
        identity = user if user and user != "root" else None
        process = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            user=identity,
            stdin=nothing,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o022,
        )
        # Reaping is the main thread's; without this, subprocess would wait for the pid as well.
        process.returncode = 0
        return process.pid


def _open_log(path: str):
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "ab")
    return open("/dev/null", "ab")


def watch(pid: int, on_exit: Callable[[int], None]) -> None:
    """Call back with the wait status once the process ends, also when it already has."""
    with world:
        if pid in _exits:
            on_exit(_exits.pop(pid))
        else:
            _watchers[pid] = on_exit


def wait(pid: int, timeout_s: float) -> int | None:
    """The wait status of a process, or None when it is still running after the time."""
    with world:
        world.wait_for(lambda: pid in _exits, timeout_s)
        return _exits.pop(pid, None)


def reap() -> None:
    with world:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            watcher = _watchers.pop(pid, None)
            if watcher:
                watcher(status)
            else:
                _exits[pid] = status
        while len(_exits) > 500:
            _exits.pop(next(iter(_exits)))
        world.notify_all()


def after(delay_s: float, action: Callable[[], None]) -> None:
    with world:
        _timers.append((time.monotonic() + delay_s, action))


def run_timers() -> None:
    with world:
        now = time.monotonic()
        due = [timer for timer in _timers if timer[0] <= now]
        for timer in due:
            _timers.remove(timer)
            # An action waits for processes, which only the main thread reaps.
            threading.Thread(target=timer[1], daemon=True).start()


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def members(invocation: str) -> list[int]:
    """Every living process that a service has started, however deep; systemd would ask the cgroup."""
    mark = f"INVOCATION_ID={invocation}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and entry != "1":
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as stream:
                if mark in stream.read().split(b"\0") and alive(int(entry)):
                    found.append(int(entry))
    return found


def group(leader: int) -> list[int]:
    """The living processes of a process group; upstart ends only these."""
    found = []
    for entry in os.listdir("/proc"):
        if leader and entry.isdigit():
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry)) == leader and alive(int(entry)):
                    found.append(int(entry))
    return found


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end(pids: Callable[[], list[int]], *, first: int = signal.SIGTERM, timeout_s: float) -> None:
    """Ask, wait, then kill."""
    with world:
        send(pids(), first)
        deadline = time.monotonic() + timeout_s
        while pids() and time.monotonic() < deadline:
            world.wait(0.05)
        left = pids()
        send(left, signal.SIGKILL)
        while any(alive(pid) for pid in left):
            world.wait(0.05)
