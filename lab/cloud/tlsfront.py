"""Ends TLS for AWS's names and hands the bytes on to the emulated account, Host header and all."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from pathlib import Path
from urllib.parse import urlsplit

HANDSHAKE_S = 10.0
# An agent pings its control channel every five minutes (agent/session/config/config.go).
IDLE_S = 900.0
# A machine that loses its power ends no connection: what was sent into it is taken back once that is seen.
SILENT_S, PROBE_S, PROBES = 5, 2, 3
CHUNK = 65536


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


class TlsFront:
    """Connections of one host, by service, so that they can be cut when the way is closed."""

    def __init__(self, endpoint_url: str) -> None:
        parts = urlsplit(endpoint_url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._lock = threading.Lock()
        self._open: dict[str, set[socket.socket]] = {}

    def serve(self, service: str, connection: socket.socket, context: ssl.SSLContext) -> None:
        """One connection to its end; runs in a thread of its own."""
        with self._lock:
            self._open.setdefault(service, set()).add(connection)
        try:
            connection.settimeout(HANDSHAKE_S)
            _notice_a_dead_peer(connection)
            with context.wrap_socket(connection, server_side=True) as secure:
                with self._lock:
                    self._open[service].add(secure)
                with socket.create_connection(self._target, timeout=HANDSHAKE_S) as upstream:
                    _pump(secure, upstream)
        except (OSError, ValueError):
            # The host or the cloud went away, or the handshake failed: nothing that a lab has to report.
            pass
        finally:
            with self._lock:
                self._open[service] = {
                    s for s in self._open[service] if s.fileno() >= 0 and s is not connection
                }
            connection.close()

    def cut(self, service: str | None = None) -> None:
        """End the open connections of a service, or all."""
        with self._lock:
            names = [service] if service else list(self._open)
            sockets = [found for name in names for found in self._open.get(name, ())]
        for found in sockets:
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)


def _notice_a_dead_peer(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, (SILENT_S + PROBE_S * PROBES) * 1000)


def _pump(secure: ssl.SSLSocket, upstream: socket.socket) -> None:
    secure.settimeout(IDLE_S)
    upstream.settimeout(IDLE_S)
    while True:
        ready: list[socket.socket] = [secure] if secure.pending() else []
        if not ready:
            ready = select.select([secure, upstream], [], [], IDLE_S)[0]
        if not ready:
            return
        for source in ready:
            data = source.recv(CHUNK)
            if not data:
                return
            (upstream if source is secure else secure).sendall(data)
