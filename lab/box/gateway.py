"""The far end of a box's network: a namespace that answers for the addresses the emulated network allows.

It forwards nothing: what is sent to any other address vanishes without a word, and a connection times out, as
behind a security group.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

from lab.box import netns
from lab.errors import LabError

LINK = "gate0"


class Gateway:
    """One per box, so that the listener tells which box is calling."""

    def __init__(self, address: str) -> None:
        self.address = address  # as the box knows its default route, with the prefix length
        self._namespace = -1
        self._lock = threading.Lock()

    def open(self) -> int:
        """The namespace, made where there is none; the box puts its link's far end (LINK) there."""
        with self._lock:
            if self._namespace >= 0:
                return self._namespace
            self._namespace = netns.new_namespace()
            # A new namespace takes net.ipv4.conf from the machine, which may be a router.
            self._run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward && ip link set lo up")
            return self._namespace

    def connect(self) -> None:
        """Once LINK is here."""
        with self._lock:
            self._run(
                "ip", "-batch", "-", text=f"address add {self.address} dev {LINK}\nlink set {LINK} up\n"
            )

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        with self._held() as namespace:
            return netns.open_socket(namespace, family, kind)

    def answer_for(self, address: str, reachable: bool) -> None:
        """Let an address answer, or vanish."""
        with self._held() as namespace:
            verb = "replace" if reachable else "del"
            netns.run_inside(namespace, "ip", "address", verb, f"{address}/32", "dev", "lo")

    def disconnect(self) -> None:
        """Take LINK away, and with it the box's end."""
        with self._lock:
            self._run("ip", "link", "delete", LINK)

    def close(self) -> None:
        with self._lock:
            if self._namespace >= 0:
                os.close(self._namespace)
            self._namespace = -1

    @contextlib.contextmanager
    def _held(self) -> Iterator[int]:
        with self._lock:
            if self._namespace < 0:
                raise LabError("The network of a host that has ended cannot be changed.")
            yield self._namespace

    def _run(self, *command: str, text: str = "") -> None:
        done = netns.run_inside(self._namespace, *command, input_text=text)
        if done.returncode != 0:
            why = done.stderr.strip()
            raise LabError(f"The network of a host could not be made: {why}", "The lab needs a full root.")
