"""Which process works on something, so that a later one can tell whether it is there still."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path


def machine() -> str:
    """Where a pid means something: host name, boot and pid namespace (containers share the first two)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.uuid4().hex}"  # equal to no other: nothing is known dead


def process(pid: int) -> str:
    """`pid starttime`: a pid alone can be another process by now (proc(5), field 22 of stat)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return f"{pid} 0"
    return f"{pid} {stat.rpartition(')')[2].split()[19]}"


def is_gone(where: str, which: str) -> bool:
    """True only when the process ran on this machine and is there no more."""
    return where == machine() and process(int(which.split()[0])) != which


def is_here(where: str, which: str) -> bool:
    """True only when the process runs on this machine now."""
    return where == machine() and process(int(which.split()[0])) == which
