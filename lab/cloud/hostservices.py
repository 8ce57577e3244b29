"""What one host finds around it: metadata, name resolution and AWS's endpoints.

All sockets are made in the network namespace of the host's gateway, so the listener tells which host is
calling. What the emulated network lets through is decided by the account; a service that cannot be reached
loses its address.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lab.cloud.accountview import AccountView
from lab.cloud.addresses import DNS, IMDS, SERVICE_ADDRESSES, TLS_SERVICES
from lab.cloud.ca import ensure_ca
from lab.cloud.dns import answer_to
from lab.cloud.imds import Metadata, handler_for
from lab.cloud.tlsfront import TlsFront, server_context

# Linux's IP_FREEBIND: bind to an address before the gateway has it; the socket module does not name it.
IP_FREEBIND = 15
FAULTS = ("imds_off", "dns_off", "tls_untrusted", "egress_closed")
BACKLOG = 16


class SocketFactory(Protocol):
    def __call__(self, family: int = ..., kind: int = ..., /) -> socket.socket: ...


class HostServices:
    """IMDS, DNS and TLS front of one host.

    `netns_socket(family, type)` makes a socket in the gateway's namespace. `on_reach_change(name, open)` is
    called for "imds", "dns" and every service: once in start(), then whenever it changes. `addresses` moves
    the listeners elsewhere (tests: loopback, port 0); `bound` says where they are.
    """

    def __init__(
        self,
        netns_socket: SocketFactory,
        instance_id: str,
        region: str,
        endpoint_url: str,
        ca_dir: Path,
        on_reach_change: Callable[[str, bool], None],
        *,
        addresses: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        self._netns_socket = netns_socket
        self._instance_id = instance_id
        self._on_reach_change = on_reach_change
        self._addresses = dict(addresses or SERVICE_ADDRESSES)
        self._view = AccountView.shared(endpoint_url, region)
        self._handler = handler_for(Metadata(self._view, instance_id))
        self._front = TlsFront(endpoint_url)
        files = ensure_ca(Path(ca_dir))
        self._trusted = server_context(files.certificate, files.key)
        self._untrusted = server_context(files.untrusted_certificate, files.untrusted_key)
        self._faults: set[str] = set()
        self._open: dict[str, bool] = {}
        self._listeners: dict[str, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def bound(self) -> dict[str, tuple[str, int]]:
        return {name: found.getsockname()[:2] for name, found in self._listeners.items()}

    def start(self) -> None:
        """Open the listeners, tell what is reachable, and serve in one thread."""
        for name, address in self._addresses.items():
            kind = socket.SOCK_DGRAM if name == DNS else socket.SOCK_STREAM
            listener = self._netns_socket(socket.AF_INET, kind)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen(BACKLOG)
            listener.setblocking(False)
            self._listeners[name] = listener
            self._selector.register(listener, selectors.EVENT_READ, name)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self.tick()
        self._thread = threading.Thread(target=self._serve, name=f"services-{self._instance_id}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_write.send(b"x")
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._front.cut()
        for listener in self._listeners.values():
            listener.close()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def set_fault(self, name: str, on: bool) -> None:
        """imds_off, dns_off, egress_closed: as if blocked; tls_untrusted: signed by an unknown authority."""
        if name not in FAULTS:
            raise ValueError(f"no fault {name!r}; there are {', '.join(FAULTS)}")
        with self._lock:
            (self._faults.add if on else self._faults.discard)(name)
        if name == "tls_untrusted":
            self._front.cut()
        self.tick()

    def tick(self) -> None:
        """Look at the account again; tell what opened and what closed."""
        facts = self._view.facts(self._instance_id)
        with self._lock:
            now = self._reach(facts)
            changed = {name: state for name, state in now.items() if self._open.get(name) is not state}
            self._open.update(changed)
        for name, state in changed.items():
            if not state:
                self._front.cut(name)
            self._on_reach_change(name, state)

    def _reach(self, facts: dict[str, Any] | None) -> dict[str, bool]:
        reach = facts["reach"] if facts else {}
        closed = "egress_closed" in self._faults
        found = {
            name: bool(reach.get(name)) and not closed for name in self._addresses if name in TLS_SERVICES
        }
        found[IMDS] = "imds_off" not in self._faults
        found[DNS] = bool(facts and facts["dns"]) and "dns_off" not in self._faults
        return {name: state for name, state in found.items() if name in self._addresses}

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with contextlib.suppress(OSError):
                    self._take(str(key.data))

    def _take(self, name: str) -> None:
        listener = self._listeners[name]
        if name == DNS:
            message, peer = listener.recvfrom(4096)
            answer = answer_to(
                message,
                {known: self._addresses[known][0] for known in TLS_SERVICES if known in self._addresses},
            )
            if answer and self._open.get(DNS):
                listener.sendto(answer, peer)
            return
        connection, peer = listener.accept()
        if not self._open.get(name):
            connection.close()
            return
        work = self._imds if name == IMDS else self._tls
        threading.Thread(target=work, args=(name, connection, peer), daemon=True).start()

    def _imds(self, _: str, connection: socket.socket, peer: Any) -> None:
        with contextlib.suppress(OSError), connection:
            connection.setblocking(True)
            self._handler(connection, peer, None)

    def _tls(self, name: str, connection: socket.socket, _: Any) -> None:
        context: ssl.SSLContext = self._untrusted if "tls_untrusted" in self._faults else self._trusted
        self._front.serve(name, connection, context)
