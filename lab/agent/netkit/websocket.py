"""The client's side of a web socket (RFC 6455), as far as the control channel needs it.

The agent runs on the interpreter of a lab host, which has the standard library and nothing else; that is why
no library does this. The account's side is the library's, so the two check each other.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from urllib.parse import urlsplit

from .pace import scaled_s
from .web import SendFailed, Timeouts, connect

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_CONTINUATION = 0
_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CHUNK = 65536
MAX_HEAD = 65536
# How long a sent ping may stay unacknowledged before the connection counts as broken. The real agent leaves
# that to the kernel, which takes a quarter of an hour.
UNACKED_S = 160.0


class Closed(OSError):
    """The web socket has ended, from either side."""


def masked(data: bytes, mask: bytes) -> bytes:
    """Data as a client must send it, and back."""
    size = len(data)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")


def frame(opcode: int, data: bytes, mask: bytes) -> bytes:
    """One whole client frame."""
    size = len(data)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + mask + masked(data, mask)


def take_frame(buffer: bytearray) -> tuple[bool, int, bytes] | None:
    """(last of its message, opcode, data) off the front of `buffer`; None until all of it is there."""
    if len(buffer) < 2:
        return None
    size, offset = buffer[1] & 0x7F, 2
    for mark, form in ((126, ">H"), (127, ">Q")):
        if size == mark:
            offset += struct.calcsize(form)
            if len(buffer) < offset:
                return None
            (size,) = struct.unpack_from(form, buffer, 2)
            break
    if buffer[1] & 0x80:
        raise Closed("a server must not mask")
    if len(buffer) < offset + size:
        return None
    found = bool(buffer[0] & 0x80), buffer[0] & 0x0F, bytes(buffer[offset : offset + size])
    del buffer[: offset + size]
    return found


class WebSocket:
    """An open web socket; one thread receives, any thread sends."""

    def __init__(self, sock: socket.socket, received: bytes = b"") -> None:
        self._sock = sock
        self._buffer = bytearray(received)
        self._parts: list[bytes] = []
        # OpenSSL allows one thread at a time in a connection, also when one reads and the other writes.
        self._lock = threading.Lock()

    def send(self, opcode: int, data: bytes) -> None:
        """One message; Closed when it cannot leave."""
        try:
            with self._lock:
                self._sock.sendall(frame(opcode, data, os.urandom(4)))
        except (OSError, ValueError) as error:
            raise Closed(str(error)) from error

    def receive(self, timeout_s: float) -> bytes | None:
        """The next text or binary message, or None after `timeout_s`; pings are answered meanwhile."""
        deadline = time.monotonic() + timeout_s
        while True:
            while (found := take_frame(self._buffer)) is not None:
                message = self._taken(*found)
                if message is not None:
                    return message
            if not self._fill(deadline - time.monotonic()):
                return None

    def _taken(self, last: bool, opcode: int, data: bytes) -> bytes | None:
        if opcode == CLOSE:
            code = struct.unpack(">H", data[:2])[0] if len(data) >= 2 else 1005
            raise Closed(f"websocket: close {code} {data[2:].decode(errors='replace')}".rstrip())
        if opcode == PING:
            self.send(PONG, data)
        elif opcode in (TEXT, BINARY, _CONTINUATION):
            self._parts.append(data)
            if last:
                message, self._parts = b"".join(self._parts), []
                return message
        return None

    def _fill(self, timeout_s: float) -> bool:
        """Read what is there; False when nothing came in time."""
        try:
            waiting = isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()
            if not waiting and not select.select([self._sock], [], [], max(0.0, timeout_s))[0]:
                return False
            with self._lock:
                data = self._sock.recv(_CHUNK)
        except (OSError, ValueError) as error:
            raise Closed(str(error)) from error
        if not data:
            raise Closed("websocket: close 1006 (abnormal closure): unexpected EOF")
        self._buffer += data
        return True

    def close(self) -> None:
        """Drop the connection, as the agent does."""
        with contextlib.suppress(OSError):
            self._sock.close()


def open_websocket(url: str, headers: dict[str, str], timeouts: Timeouts) -> WebSocket:
    """Connect and upgrade; `url` is https://…, SendFailed where there is no web socket."""
    sock, target = connect(url, timeouts)
    unacked_ms = int(scaled_s(UNACKED_S, at_least_s=10.0) * 1000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unacked_ms)
    key = base64.b64encode(os.urandom(16))
    wanted = {
        "Host": urlsplit(url).netloc,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key.decode(),
        **headers,
    }
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in wanted.items())]
    head = bytearray()
    try:
        sock.settimeout(timeouts.read_s)
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in head and len(head) < MAX_HEAD:
            data = sock.recv(_CHUNK)
            if not data:
                raise SendFailed("unexpected EOF")
            head += data
    except OSError as error:
        sock.close()
        raise error if isinstance(error, SendFailed) else SendFailed("EOF") from error
    answer, _, rest = bytes(head).partition(b"\r\n\r\n")
    proof = base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest())
    if b" 101 " not in answer.split(b"\r\n", 1)[0] + b" " or proof not in answer:
        sock.close()
        raise SendFailed("websocket: bad handshake")
    return WebSocket(sock, rest)
