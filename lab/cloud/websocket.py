"""The account's side of a web socket, on a connection whose request another server has read already."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping

from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

CHUNK = 65536
# Beyond this much, nobody who reads a control channel has fallen asleep for a good reason.
SEND_S = 30.0
HANDSHAKE = ("connection", "upgrade", "sec-websocket-key", "sec-websocket-version", "host")


class Closed(OSError):
    """The web socket has ended, from either side."""


class ServerSocket:
    """Upgrades at once; one thread receives, and any thread may send."""

    def __init__(self, connection: socket.socket, target: str, headers: Mapping[str, str]) -> None:
        self._connection = connection
        self._protocol = ServerProtocol()
        self._parts: list[bytes] = []
        self._frames: list[Frame] = []
        # Neither the protocol nor OpenSSL is made for two threads at a time.
        self._lock = threading.Lock()
        connection.settimeout(SEND_S)
        lines = [f"GET {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() in HANDSHAKE]
        self._protocol.receive_data("\r\n".join([*lines, "", ""]).encode("latin-1"))
        requests = self._protocol.events_received()
        if not requests:
            raise Closed(f"no request for a web socket: {self._protocol.close_exc}")
        response = self._protocol.accept(requests[0])  # type: ignore[arg-type]
        self._protocol.send_response(response)
        self._flush()
        if response.status_code != 101:
            raise Closed(f"no request for a web socket: {response.reason_phrase}")

    def send(self, data: bytes) -> None:
        """One binary message."""
        with self._lock:
            try:
                self._protocol.send_binary(data)
            except WebSocketException as error:
                raise Closed(str(error)) from error
            self._flush()

    def receive(self, timeout_s: float) -> bytes | None:
        """The next text or binary message, or None after `timeout_s`; pings are answered meanwhile."""
        deadline = time.monotonic() + timeout_s
        while True:
            while self._frames:
                message = self._taken(self._frames.pop(0))
                if message is not None:
                    return message
            if not self._read(deadline - time.monotonic()):
                return None

    def _taken(self, frame: Frame) -> bytes | None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._parts.append(bytes(frame.data))
            if frame.fin:
                message, self._parts = b"".join(self._parts), []
                return message
        return None

    def _read(self, timeout_s: float) -> bool:
        """Take what is there; False when nothing came in time."""
        try:
            waiting = isinstance(self._connection, ssl.SSLSocket) and self._connection.pending()
            if not waiting and not select.select([self._connection], [], [], max(0.0, timeout_s))[0]:
                return False
            with self._lock:
                data = self._connection.recv(CHUNK)
                if data:
                    self._protocol.receive_data(data)
                else:
                    self._protocol.receive_eof()
                self._frames += self._protocol.events_received()  # type: ignore[arg-type]
                self._flush()
        except (OSError, ValueError) as error:
            raise Closed(str(error)) from error
        if not data:
            raise Closed("the other side has gone")
        return True

    def _flush(self) -> None:
        """What the protocol has to say; an empty piece is its wish to end the sending side."""
        for piece in self._protocol.data_to_send():
            try:
                if piece:
                    self._connection.sendall(piece)
                else:
                    self._connection.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise Closed(str(error)) from error

    def close(self) -> None:
        """Tell the other side and drop the connection."""
        with contextlib.suppress(OSError, WebSocketException), self._lock:
            self._protocol.send_close(1000)
            self._flush()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
