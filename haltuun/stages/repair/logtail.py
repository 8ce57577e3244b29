"""The part of a log of any size that can still matter: its newest starts, in bounded memory.

What an agent's log says before its last start is over. So a log is read in blocks, and each start
that comes up lets go of what is before the few last ones; where one start alone goes on for
hundreds of megabytes, lines that no rule asks about are let go of, and of those that repeat all but
the newest. Of a journal or a syslog, only the agent's own lines are looked at.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from haltuun.stages.repair.entries import ENTRY_LINES, TAGS, newest_first, own_words
from haltuun.stages.repair.facts import LogLine
from haltuun.stages.repair.layout import Kind

BLOCK = 1 << 20
# A restart loop is one story, told by its last few starts.
STARTS = 8
# What is kept of a log as it stands, before lines are let go of: of the last start, and of each before it.
RAW_BYTES, OLDER_BYTES = 512 << 10, 128 << 10
# A line that is kept costs some hundred bytes, however short.
RAW_LINES, ROW_BYTES = 10_000, 100
# Of entries that say the same but for numbers, the newest are kept; and so many that differ, in so much.
ALIKE, SHAPES, KEPT_BYTES = 4, 4000, 8 << 20
# The beginning of a start (proxies, identity) and the end of a log are kept whole.
HEAD_LINES = 300
TAIL_LINES = 200
# A line without an end is cut here, and no longer than this one looks at it.
LINE_BYTES = 64 << 10
TEXT_BYTES = 4 << 10
# By these, behind the time, entries are alike or not.
TIME_BYTES, SHAPE_BYTES = 25, 200

_START_WORDS = (
    b"Proxy environment variables:",
    b"Starting Agent: amazon-ssm-agent",
    b"Create new startup processor",
)
_WORKER = b"[ssm-agent-worker]"  # it has such a processor, too, since 3.0
_FIRST_TIME = re.compile(
    rb"^(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\d{19} \[|[ \t]*(?:INFO|WARN|ERROR) [\[A-Z])", re.M
)
# These lines tell whether all programs' words are in there.
_OWN_LINE = re.compile(rb"^(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [A-Z]+ |\d{19} \[)", re.M)
_MIXED_LINE = re.compile(
    rb"^[ \t]*(?:(?:[A-Z][a-z]{2} )?[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d |[A-Z][a-z]{2} \d{4}-\d\d-\d\d "
    rb"|\d{4}-\d\d-\d\dT\d\d:\d\d|\[ *\d+\.\d+\] |amazon-ssm-agent\S*: )",
    re.M,
)
# The agent's own lines behind what an export, grep or a paste puts before each; by so much they are told.
_CARRIED_LINE = re.compile(
    rb"^[^\n]{0,160}?(?:[ \t:,\"]|\x1b\[[0-9;]*m)"
    rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? (?:INFO|WARN|ERROR) ",
    re.M,
)
CARRIED_BYTES = 64 << 10
# Of an export that has the newest first, so much is looked at.
NEWEST_BYTES = 4 << 20
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TAGS = tuple(tag.encode() for tag in TAGS)
MIXED_LINES = 10_000  # an agent that only ever retries writes so many in weeks
_WORDS = (
    b"identity",
    b"ontrol",  # channel, controlchannel
    b"onnection channel",
    b"websocket connection",
    b"egist",
    b"roxy",
    b"Bye.",
    b"ot signal:",
    b"crashed with",
    b"hibernate",
    b"Backing off",
    b"HealthCheck reporting",
    b"-worker - v",
    b"startup processor",
    b"orphan",
    b"Successfully connected",
    b"enied",
    b"hrottl",
    b"xpired",
    b"ailed",
    b"rror",
    b"imeout",
    b"refused",
    b"no such host",
    b"x509",
    b"no space left",
    b"Mismatch",
    b"DoesNotMatch",
    b"Starting",
    b"redentials",
    b"starting worker",
    b"panic: ",
)
_LEVELS = (b" WARN ", b" ERROR ", b" CRITICAL ", b" FATAL ")
_BLUR = bytes.maketrans(b"123456789", b"0" * 9)
_BLURRED_WORDS = tuple(word.translate(_BLUR) for word in (*_WORDS, *_LEVELS))
# Of so much at a time, its lines are told apart.
PIECE = 256 << 10
_ENTRY = re.compile(rb"[^\n]*(?:\n(?!\d)[^\n]*){0,%d}" % (ENTRY_LINES - 1))
_Rows = list[tuple[int, bytes]]  # number in the file, text


@dataclass
class _Start:
    """`head`: its first lines; `kept`: entries after it, by what they say; `raw`: the rest as it stands,
    from line `raw_line` on."""

    raw_line: int
    raw: list[bytes] = field(default_factory=list)
    raw_size: int = 0
    head: _Rows = field(default_factory=list)
    kept: dict[bytes, deque[_Rows]] = field(default_factory=dict)
    kept_size: int = 0

    def keep(self, entry: _Rows) -> None:
        """One entry, its continuation lines included."""
        shape = _shape_at(entry[0][1], 0)
        alike = self.kept.pop(shape, None) or deque()
        alike.append(entry)
        self.kept_size += _size(entry)
        if len(alike) > ALIKE:
            self.kept_size -= _size(alike.popleft())
        self.kept[shape] = alike  # as the newest
        while len(self.kept) > SHAPES or (self.kept_size > KEPT_BYTES and len(self.kept) > 1):
            self.drop_oldest()

    def drop_oldest(self) -> None:
        oldest = self.kept.pop(next(iter(self.kept)))
        self.kept_size -= sum(map(_size, oldest))

    def rows(self) -> _Rows:
        kept = sorted(row for alike in self.kept.values() for entry in alike for row in entry)
        return [*self.head, *kept, *_rows(self.raw_line, b"".join(self.raw))]


class LogTail:
    """Fed with one log, oldest first; then `lines` are what to judge by."""

    def __init__(self, file: str, kind: Kind = "agent") -> None:
        self.file = file
        self.kind = kind
        self.began_at = b""  # the first line's time, by which rotated files are put in order
        self.has_start = False
        self._line = 1
        self._starts: deque[_Start] = deque([_Start(1)], maxlen=STARTS)
        # Whether every program's lines are in there; None: no line has told yet.
        self._mixed: bool | None = None
        self._newest_first = False
        self._agents: deque[tuple[int, bytes]] = deque(maxlen=MIXED_LINES)
        self._agents_size = 0

    def feed(self, stream: BinaryIO) -> None:
        """Raises OSError, EOFError or zlib.error where the stream breaks off; what was read counts."""
        carry, cutting = b"", False
        try:
            while block := stream.read(BLOCK):
                if cutting:
                    end = block.find(b"\n")
                    if end < 0:
                        continue
                    block, cutting = block[end:], False
                block = carry + block if carry else block
                end = block.rfind(b"\n") + 1
                carry = block[end:]
                if len(carry) > LINE_BYTES:
                    carry, cutting = carry[:LINE_BYTES], True
                if end:
                    self._add(block[:end])
        finally:
            if carry:
                self._add(carry)
            self._settle()

    def _settle(self) -> None:
        """Of each start no more than is looked at."""
        if self._newest_first:
            return
        for start in self._starts:
            most_bytes, most_lines = OLDER_BYTES, RAW_LINES // STARTS
            if start is self._starts[-1]:
                most_bytes, most_lines = RAW_BYTES, RAW_LINES
            if start.raw_size > most_bytes or sum(text.count(b"\n") for text in start.raw) > most_lines:
                self._thin(start)

    def _add(self, text: bytes) -> None:
        """Whole lines (the last may lack its newline)."""
        if self._mixed is None:
            self._tell(text)
        if self._mixed:
            self._add_mixed(text)
            return
        if self._newest_first:
            self._add_newest(text)
            return
        if not self.began_at and (found := _FIRST_TIME.search(text)):
            self.began_at = found.group()
        begin = 0
        for cut in self._cuts(text):
            self._append(text[begin:cut])
            self._starts.append(_Start(self._line))
            self.has_start = True
            begin = cut
        self._append(text[begin:])

    def _tell(self, text: bytes) -> None:
        """A foreign line may have got into the agent's own log; a journal puts its words before each."""
        own, mixed = _OWN_LINE.search(text), _MIXED_LINE.search(text)
        carried = None if own or self.kind == "system" else _CARRIED_LINE.search(text[:CARRIED_BYTES])
        if carried and not any(map(_is_tagged, text[:CARRIED_BYTES].split(b"\n"))):
            self._mixed, self.began_at = False, carried.group(1)
            self._newest_first = newest_first(_CARRIED_LINE.findall(text[:CARRIED_BYTES]))
            return
        if own and mixed and self.kind == "system":
            self._mixed = mixed.start() < own.start()
        elif own or mixed:
            self._mixed = own is None
        if self._mixed:
            self._starts.clear()

    def _add_newest(self, text: bytes) -> None:
        """What counts comes first, however many starts follow."""
        start, room = self._starts[-1], RAW_LINES - self._line + 1
        if room <= 0 or start.raw_size > NEWEST_BYTES:
            return
        text = b"".join(text.splitlines(keepends=True)[:room])
        start.raw.append(text)
        start.raw_size += len(text)
        self._line += text.count(b"\n")
        self.has_start = self.has_start or any(word in text for word in _START_WORDS)

    def _add_mixed(self, text: bytes) -> None:
        line, counted = self._line, 0
        for begin in _lines_with(_TAGS, text):
            line += text.count(b"\n", counted, begin)
            counted = begin
            end = text.find(b"\n", begin)
            end = len(text) if end < 0 else end
            self._add_mixed_line(line, text[begin : min(end, begin + TEXT_BYTES)])
        self._line += text.count(b"\n")

    def _add_mixed_line(self, line: int, row: bytes) -> None:
        whole = _text(row)
        own = own_words(whole)
        if own == whole:  # another program's
            return
        if len(self._agents) == MIXED_LINES:
            self._agents_size -= len(self._agents[0][1])
        self._agents.append((line, row))
        self._agents_size += len(row)
        while self._agents_size > KEPT_BYTES:
            self._agents_size -= len(self._agents.popleft()[1])
        if not self.began_at and (found := _FIRST_TIME.search(own.encode())):
            self.began_at = found.group()
        self.has_start = self.has_start or any(word.decode() in own for word in _START_WORDS)

    def _cuts(self, text: bytes) -> list[int]:
        """Where lines begin that begin a start; only the last few can matter."""
        found: list[int] = []
        for word in _START_WORDS:
            at = len(text)
            for _ in range(STARTS):
                at = text.rfind(word, 0, at)
                if at < 0:
                    break
                begin = text.rfind(b"\n", 0, at) + 1
                if _WORKER not in text[begin:at]:
                    found.append(begin)
        return sorted(set(found))[-STARTS:]

    def _append(self, text: bytes) -> None:
        if not text:
            return
        start = self._starts[-1]
        start.raw.append(text)
        start.raw_size += len(text)
        self._line += text.count(b"\n")
        if start.raw_size > RAW_BYTES:
            self._thin(start)

    def _thin(self, start: _Start) -> None:
        """Of the raw text only its end stays raw; the entries before it are kept if they may matter."""
        text = b"".join(start.raw)
        end = len(text)
        for _ in range(TAIL_LINES + 1):
            end = max(0, text.rfind(b"\n", 0, end))
        # 0: its lines are so long that there are fewer. What continues an entry stays with it.
        cut = _first_line(text, end + 1, 0) if end else 0
        old, tail = text[:cut], text[cut:]
        if len(tail) > RAW_BYTES // 2:
            tail = b"\n".join(row[:TEXT_BYTES] for row in tail.split(b"\n"))
        line = start.raw_line
        if len(start.head) < HEAD_LINES:
            room = HEAD_LINES - len(start.head)
            *head, old = old.split(b"\n", room)
            start.head += [(number, row[:TEXT_BYTES]) for number, row in enumerate(head, line)]
            line += len(head)
        at = 0
        for begin in _newest_alike(old, _entries_that_matter(old)):
            line += old.count(b"\n", at, begin)
            at = begin
            start.keep(_entry(line, old, begin))
        start.raw_line = line + old.count(b"\n", at)
        start.raw, start.raw_size = [tail], len(tail)
        self._share()

    def _share(self) -> None:
        """One start may keep KEPT_BYTES, and all of them together: the older ones make room."""
        over = sum(start.kept_size for start in self._starts) - KEPT_BYTES
        for start in list(self._starts)[:-1]:
            while over > 0 and start.kept:
                before = start.kept_size
                start.drop_oldest()
                over -= before - start.kept_size

    @property
    def speaks(self) -> bool:
        """Whether a line of it is an agent's, or of one."""
        return bool(self.began_at or self._agents)

    def is_empty(self) -> bool:
        """Whether nothing of an agent was found in it."""
        return not self.speaks and not any(map(_Start.rows, self._starts))

    @property
    def ended_at(self) -> bytes:
        """The last line's time, as `began_at`; that, where the last start's lines have none."""
        rows = self._agents if self._mixed else self._starts[-1].rows()
        times = (_FIRST_TIME.match(own_words(_text(row)).encode()) for _, row in reversed(rows))
        return next((found.group() for found in times if found), self.began_at)

    def lines(self) -> tuple[LogLine, ...]:
        """Those of the last starts, with their numbers in the file."""
        kept = self._agents if self._mixed else (row for start in self._starts for row in start.rows())
        return tuple(LogLine(file=self.file, line=number, text=_text(row)) for number, row in kept)


def _is_tagged(row: bytes) -> bool:
    text = _text(row)
    return own_words(text) != text


def _size(entry: _Rows) -> int:
    return sum(len(row) + ROW_BYTES for _, row in entry)


def _rows(first: int, text: bytes) -> _Rows:
    rows = text.split(b"\n")
    if not rows[-1]:
        rows.pop()
    return list(enumerate(rows, first))


def _shape_at(text: bytes, begin: int) -> bytes:
    """Of the entry that begins there, by its first line: what it says without numbers and ids."""
    end = text.find(b"\n", begin, begin + TIME_BYTES + SHAPE_BYTES)
    said = text[begin + TIME_BYTES : begin + TIME_BYTES + SHAPE_BYTES if end < 0 else end]
    return said.translate(None, b"0123456789abcdef")


def _newest_alike(text: bytes, begins: Sequence[int]) -> list[int]:
    """Without those that the ones after them would push out."""
    seen: Counter[bytes] = Counter()
    newest = []
    for begin in reversed(begins):
        shape = _shape_at(text, begin)
        seen[shape] += 1
        if seen[shape] <= ALIKE:
            newest.append(begin)
    return newest[::-1]


def _lines_with(words: Sequence[bytes], text: bytes) -> list[int]:
    """Where they begin."""
    found: set[int] = set()
    for word in words:
        at = text.find(word)
        while at >= 0:
            found.add(text.rfind(b"\n", 0, at) + 1)
            end = text.find(b"\n", at)
            at = text.find(word, end) if end >= 0 else -1
    return sorted(found)


def _line_at(text: bytes, begin: int) -> bytes:
    end = text.find(b"\n", begin)
    return text[begin:] if end < 0 else text[begin:end]


def _entries_that_matter(text: bytes) -> list[int]:
    """Where they begin; lines that continue one are gone through once, however many of them are hits."""
    found: list[int] = []
    least = 0
    for begin in _lines_that_matter(text):
        if begin < least:
            continue
        if text[begin : begin + 1].isdigit():  # as most do
            least = begin
        else:
            begin = _first_line(text, begin, least)
            whole = _ENTRY.match(text, begin)
            least = whole.end() + 1 if whole else len(text)
        if not found or begin > found[-1]:
            found.append(begin)
    return found


def _lines_that_matter(text: bytes) -> list[int]:
    """Where they begin. Most lines say what others say, but for numbers: of these one is looked at, and the
    newest are taken; all, where the entry that they continue tells what it is like."""
    blurred = text.translate(_BLUR)
    found: list[int] = []
    end = len(text)
    while end >= 0:
        begin = blurred.rfind(b"\n", 0, max(0, end - PIECE)) + 1
        rows = blurred[begin:end].split(b"\n")
        distinct = b"\n".join(set(rows))
        matter = (_line_at(distinct, at) for at in _lines_with(_BLURRED_WORDS, distinct))
        left = {row: ALIKE if row[:1].isdigit() else len(rows) for row in matter}
        at = end + 1
        for row in reversed(rows) if left else ():
            at -= len(row) + 1
            if left.get(row):
                left[row] -= 1
                found.append(at)
        end = begin - 1
    return found[::-1]


def _first_line(text: bytes, begin: int, least: int) -> int:
    """Of the entry that the line which begins there continues; not before `least`."""
    for _ in range(ENTRY_LINES - 1):
        if begin <= least or text[begin : begin + 1].isdigit():
            break
        begin = text.rfind(b"\n", 0, begin - 1) + 1
    return begin


def _entry(line: int, text: bytes, begin: int) -> _Rows:
    rows: _Rows = []
    for number in range(line, line + ENTRY_LINES):
        end = text.find(b"\n", begin)
        end = len(text) if end < 0 else end
        if rows and text[begin : begin + 1].isdigit():
            break
        rows.append((number, text[begin : min(end, begin + TEXT_BYTES)]))
        begin = end + 1
        if begin >= len(text):
            break
    return rows


def _text(row: bytes) -> str:
    text = row[:TEXT_BYTES].decode("utf-8", "replace").replace("\0", "").rstrip("\r")
    return _COLOUR.sub("", text) if "\x1b" in text else text
