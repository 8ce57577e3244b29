"""A script on its way to a host, and its output on the way back. Pure.

Login shells, message-of-the-day scripts and sudo print what they like around a script's own output.
So the script is sent inside host/envelope.sh, which sets a mark with a nonce before and after it on
both streams; what is outside the marks is noise.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib import resources

from haltuun.transport import MAX_OUTPUT_BYTES

_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
# What is kept of the noise: sudo's and nologin's reasons stand there.
_NOISE_BYTES = 4_000
# Of what follows a mark in its line; a host knows the mark, and may go on without ending the line.
_MARK_BYTES = 200
_DIGITS = re.compile(r"\d{1,10}")


@cache
def host_script(name: str) -> str:
    """A *.sh file of haltuun/host."""
    return resources.files("haltuun").joinpath("host", name).read_text(encoding="utf-8")


def assignments(values: Mapping[str, str]) -> str:
    """`NAME='value'` lines."""
    for name in values:
        if not _NAME.match(name):
            raise ValueError(f"not a name of a shell variable: {name!r}")
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def exports(env: Mapping[str, str] | None) -> str:
    """Lines that set and export `env`."""
    env = env or {}
    return assignments(env) + "".join(f"export {name}\n" for name in env)


def new_nonce() -> str:
    return secrets.token_hex(16)


class Mode(StrEnum):
    """How the two streams come back."""

    plain = "plain"
    packed = "packed"  # stdout compressed, where the host has the tools: for ways that carry little
    merged = "merged"  # both over one stream (a terminal), stderr framed with `errors_nonce` after stdout


def errors_nonce(nonce: str) -> str:
    return f"{nonce}-errors"


def wrap(script: str, nonce: str, env: Mapping[str, str] | None = None, mode: Mode = Mode.plain) -> str:
    """The text for a shell that runs `script` between the marks."""
    inside = {
        "haltuun_nonce": nonce,
        "haltuun_script": exports(env) + script,
        "haltuun_mode": mode.value,
    }
    return assignments(inside) + host_script("envelope.sh")


class Frame:
    """Reads one stream piece by piece and keeps what stands between the marks."""

    def __init__(self, nonce: str, limit: int = MAX_OUTPUT_BYTES) -> None:
        self._begin = f"--haltuun-{nonce} begin ".encode()
        self._end = f"\n--haltuun-{nonce} end ".encode()
        self._limit = limit
        self._buffer = b""
        self._body = bytearray()
        self._words: list[str] = []
        self.noise = b""
        self.begun = False
        self.exit_code: int | None = None
        self.cut = False

    @property
    def ended(self) -> bool:
        return self.exit_code is not None

    @property
    def pid(self) -> int | None:
        """Of the shell that runs the script."""
        return int(self._words[0]) if self._words and _DIGITS.fullmatch(self._words[0]) else None

    @property
    def packed(self) -> bool:
        return "packed" in self._words

    @property
    def body(self) -> bytes:
        """So far; what may be the beginning of the end mark is not in it yet."""
        return bytes(self._body)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def feed(self, data: bytes) -> None:
        if self.ended:
            return
        self._buffer += data
        if not self.begun:
            self._find_begin()
        if self.begun:
            self._find_end()

    def finish(self) -> None:
        """The stream ended: what is held back belongs to the body too."""
        if self.begun and not self.ended:
            self._keep(self._buffer)
        elif not self.begun:
            self._hear(self._buffer)
        self._buffer = b""

    def _find_begin(self) -> None:
        at = self._buffer.find(self._begin)
        if at < 0:
            keep = len(self._begin) - 1
            self._hear(self._buffer[:-keep])
            self._buffer = self._buffer[-keep:]
            return
        line_end = self._buffer.find(b"\n", at)
        if line_end < 0:
            if len(self._buffer) - at > len(self._begin) + _MARK_BYTES:
                self._hear(self._buffer)
                self._buffer = b""
            return
        self._hear(self._buffer[:at])
        self._words = self._buffer[at + len(self._begin) : line_end].decode("ascii", "replace").split()
        # The newline stays: an empty body has the end mark follow it at once.
        self._buffer = self._buffer[line_end + 1 :]
        self.begun = True

    def _find_end(self) -> None:
        at = self._buffer.find(self._end)
        if at < 0:
            keep = len(self._end) - 1
            self._keep(self._buffer[:-keep])
            self._buffer = self._buffer[-keep:]
            return
        self._keep(self._buffer[:at])
        self._buffer = self._buffer[at:]
        line_end = self._buffer.find(b"\n", len(self._end))
        if line_end < 0 and len(self._buffer) <= len(self._end) + _MARK_BYTES:
            return
        code = self._buffer[len(self._end) : line_end].decode("ascii", "replace")
        self.exit_code = int(code) if _DIGITS.fullmatch(code) else -1
        self._buffer = b""

    def _keep(self, data: bytes) -> None:
        room = self._limit - len(self._body)
        self._body += data[:room]
        self.cut = self.cut or len(data) > room

    def _hear(self, data: bytes) -> None:
        self.noise = (self.noise + data)[-_NOISE_BYTES:]
