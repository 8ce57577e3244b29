"""SSH from outside: listeners at loopback addresses whose connections `sshd -i` serves inside a box.

One thread serves the doors of all boxes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import threading
from dataclasses import dataclass, field

from lab.box.box import Box
from lab.box.layers import OLD_SSHD

SSHD = {"modern": "/usr/sbin/sshd", "6.6": f"/{OLD_SSHD}"}
LISTEN_STATE = "0A"  # TCP_LISTEN in /proc/net/tcp
SSH_PORT_HEX = "0016"


@dataclass
class Door:
    """Where a host's SSH is reached. `box` is who answers there: a twin's, when addresses were mixed up."""

    address: str
    port: int
    box: Box
    hangs: bool = False
    listener: socket.socket | None = None
    held: list[socket.socket] = field(default_factory=list)


def sshd_listens(pid: int) -> bool:
    """Whether the box's own sshd is up; its death must shut the door as well."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}", encoding="ascii") as rows:
            for row in rows:
                fields = row.split()
                if fields[1].endswith(f":{SSH_PORT_HEX}") and fields[3] == LISTEN_STATE:
                    return True
    return False


class Doorkeeper:
    """Accepts for every open door; doors may be opened, shut and made to hang at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._sessions: list[subprocess.Popen[bytes]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="doors", daemon=True)
        self._thread.start()

    def open(self, door: Door) -> None:
        if door.listener is not None:
            return
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((door.address, door.port))
        listener.listen(64)
        listener.setblocking(False)
        with self._lock:
            door.listener = listener
            self._selector.register(listener, selectors.EVENT_READ, door)
        self._wake()

    def shut(self, door: Door) -> None:
        """Connections are refused from now on; running sessions go on."""
        with self._lock:
            if door.listener is not None:
                self._selector.unregister(door.listener)
                door.listener.close()
                door.listener = None
        self.release(door)

    def release(self, door: Door) -> None:
        """Drop the connections that were accepted and never answered."""
        while door.held:
            door.held.pop().close()

    def stop(self) -> None:
        self._stopped.set()
        self._wake()
        self._thread.join(timeout=5)
        doors = [key.data for key in list(self._selector.get_map().values()) if key.data is not None]
        for door in doors:
            self.shut(door)

    def _wake(self) -> None:
        os.write(self._wake_writer, b"x")

    def _serve(self) -> None:
        while not self._stopped.is_set():
            for key, _ in self._selector.select(timeout=1.0):
                if key.data is None:
                    os.read(self._wake_reader, 4096)
                else:
                    self._accept(key.data)
            self._sessions = [session for session in self._sessions if session.poll() is None]

    def _accept(self, door: Door) -> None:
        with self._lock:
            if door.listener is None:
                return
            try:
                connection, _ = door.listener.accept()
            except OSError:
                return
        connection.setblocking(True)
        if door.hangs:
            door.held.append(connection)
            return
        with connection:
            if door.box.is_running and sshd_listens(door.box.pid):
                self._sessions.append(_start_session(door.box, connection))


def _start_session(box: Box, connection: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        box.enter(SSHD[box.machine.openssh], "-i"),
        stdin=connection.fileno(),
        stdout=connection.fileno(),
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        start_new_session=True,
    )
