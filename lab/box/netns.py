"""Network namespaces that this process holds, and sockets inside them.

A namespace lives as long as something holds it: a descriptor, a socket or a process. Nothing is mounted, so
nothing stays when the holder is killed.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

CLONE_NEWNET = 0x40000000
Made = TypeVar("Made")
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _elsewhere(work: Callable[[], Made]) -> Made:
    """Run `work` in a thread of its own, since setns(2) and unshare(2) move only the calling thread."""
    made: list[Made] = []
    failure: list[OSError] = []

    def enter() -> None:
        try:
            made.append(work())
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return made[0]


def new_namespace() -> int:
    """A descriptor of a network namespace without anything in it; closing it ends the namespace."""

    def work() -> int:
        _check(_libc.unshare(CLONE_NEWNET))
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return _elsewhere(work)


def open_socket(
    namespace: int, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM
) -> socket.socket:
    """A new socket in the namespace of a descriptor; it stays there wherever it is used."""

    def work() -> socket.socket:
        _check(_libc.setns(namespace, CLONE_NEWNET))
        return socket.socket(family, kind)

    return _elsewhere(work)


def run_inside(namespace: int, *command: str, input_text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program of this machine with the network of a namespace."""
    return subprocess.run(
        ["nsenter", f"--net=/proc/self/fd/{namespace}", "--", *command],
        input=input_text,
        capture_output=True,
        text=True,
        pass_fds=[namespace],
    )
