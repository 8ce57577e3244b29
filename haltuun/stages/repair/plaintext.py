"""A log in the forms in which it is copied (packed, as Windows writes text) → UTF-8 bytes, forward only."""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast

_READ = 1 << 20
# What an .xz may ask for to be unpacked; `xz -9` asks for 65 MiB.
XZ_MEMORY = 80 << 20
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def _bz2(stream: BinaryIO) -> Any:
    import bz2

    return bz2.BZ2File(stream)


def _xz(stream: BinaryIO) -> Any:
    return io.BufferedReader(_Xz(stream), _READ)


_PACKERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": _bz2,
    b"\xfd7zXZ": _xz,
}


# What is not read, by its first bytes.
_OTHER_PACKERS = {b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z", b"\x28\xb5\x2f\xfd": "zstd"}


def packed_otherwise(head: bytes) -> str | None:
    """Why a file that begins so is not read; None: it is."""
    kind = next((kind for magic, kind in _OTHER_PACKERS.items() if head.startswith(magic)), None)
    return f"packed with {kind}, which is not read" if kind else None


def unpacked(stream: BinaryIO) -> tuple[BinaryIO, bool]:
    """By its first bytes, whatever its name; and whether it was packed."""
    head, whole = peek(stream)
    for magic, opened in _PACKERS.items():
        if head.startswith(magic):
            return cast(BinaryIO, opened(whole)), True
    return whole, False


def as_utf8(stream: BinaryIO) -> BinaryIO:
    """Without the mark that Windows puts before text; what cannot be decoded is replaced."""
    head, whole = peek(stream)
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            whole.read(len(mark))
            return whole if encoding == "utf-8" else cast(BinaryIO, _Recoded(whole, encoding))
    return whole


def decode(content: bytes) -> str:
    """A small file, whole."""
    for mark, encoding in _BOMS.items():
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    return content.decode("utf-8", "replace")


def peek(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """Its first bytes, and the whole of it."""
    head = stream.read(6)
    return head, cast(BinaryIO, _Rest(head, stream))


class _Xz(io.RawIOBase):
    """As lzma.LZMAFile, which allots whatever memory the file claims. Raises LZMAError, EOFError."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._at = stream, 0
        self._decoder = self._new()

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        while True:
            packed = b""
            if self._decoder.eof:  # another may follow it, with zeros between
                packed = self._decoder.unused_data.lstrip(b"\0")
                while not packed and (more := self._stream.read(_READ)):
                    packed = more.lstrip(b"\0")
                if not packed:
                    return 0
                self._decoder = self._new()
            elif self._decoder.needs_input and not (packed := self._stream.read(_READ)):
                raise EOFError("the file ends before its stream does")
            if text := self._decoder.decompress(packed, len(buffer)):
                buffer[: len(text)] = text
                self._at += len(text)
                return len(text)

    @staticmethod
    def _new() -> Any:
        import lzma

        return lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)


class _Rest:
    """What was read ahead, and then the rest."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._stream.read(size)
        if 0 <= size <= len(self._head):
            ahead, self._head = self._head[:size], self._head[size:]
            return ahead
        ahead, self._head = self._head, b""
        return ahead + self._stream.read(size if size < 0 else size - len(ahead))


class _Recoded:
    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def read(self, size: int = -1) -> bytes:
        """At least one character, however few bytes come at a time; b"" at the end."""
        while data := self._stream.read(size if size > 0 else _READ):
            if text := self._decoder.decode(data):
                return text.encode("utf-8", "replace")
        return self._decoder.decode(b"", True).encode("utf-8", "replace")
