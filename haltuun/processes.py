"""Which process works on something, so that a later one can tell whether it is there still."""

from __future__ import annotations

import os
import socket
import uuid
from functools import cache
from pathlib import Path

UNREAD = "0"  # a start time that could not be read


@cache
def machine() -> str:
    """Where a pid means something: host name, boot and pid namespace (containers share the first two).

    One name as long as the process lives: it has to know its own again where it has run out of files.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.uuid4().hex}"  # equal to no other: nothing is known dead


def process(pid: int) -> str:
    """`pid starttime`: a pid alone can be another process by now (proc(5), field 22 of stat)."""
    return f"{pid} {_started(pid) or UNREAD}"


def is_gone(where: str, which: str) -> bool:
    """True only when the process ran on this machine and is known to be there no more."""
    if where != machine():
        return False
    pid, started = _parts(which)
    now = _started(pid)
    if now and started != UNREAD:
        return now != started
    # Its entry can be hidden (hidepid on a bastion) or not be opened for now: that it is there is enough.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def is_here(where: str, which: str) -> bool:
    """Whether the process ran on this machine and is not known to be gone."""
    return where == machine() and not is_gone(where, which)


def _parts(which: str) -> tuple[int, str]:
    pid, _, started = which.partition(" ")
    return int(pid or 0), started or UNREAD


def _started(pid: int) -> str:
    """ "" when it cannot be read: the process is gone, or hidden."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
