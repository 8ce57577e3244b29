"""Lines → log entries, in every form in which an agent's lines come. Pure.

An entry may span lines ("caused by: …").
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeVar

from haltuun.model import Frozen
from haltuun.stages.repair.facts import LogLine

_HEAD = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? ([A-Z]+) (.*)", re.S)
# seelog's own format, of an agent whose logger has no configuration: nanoseconds since 1970.
_BARE_HEAD = re.compile(r"^(\d{10})\d{9} \[([A-Z][a-z]+)\] (.*)", re.S)
_OWN_HEAD = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? (?:DEBUG|INFO|WARN|ERROR|CRITICAL) "
# What an export of logs (as text, CSV, JSON), grep or a paste puts before the agent's own line.
_CARRIED = re.compile(rf"^.{{0,160}}?[ \t:,\"](?={_OWN_HEAD})", re.S)
_QUOTED = re.compile(r'(?:[^"\\]|\\.|"")*+', re.S)
# Of lines that somebody has taken the times off.
_UNTIMED_HEAD = re.compile(r"^\s*()(DEBUG|INFO|WARN|ERROR|CRITICAL) (.*)", re.S)
# Whose lines they are by the journal and syslog; Bottlerocket runs the agent in its control container.
TAGS = ("amazon-ssm-agent", "host-containers@control", "host-ctr")
# What these put before each line of the agent, those that continue an entry included.
_PREFIX = re.compile(
    r"^(?!\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [A-Z]+ )"
    rf"(?:(?:(?!{_OWN_HEAD}).){{0,120}}?\s)?(?:{'|'.join(TAGS)})(?:\.amazon-ssm-agent)?(?:\[\d+\])?: (.*)",
    re.S,
)
# What systemd says of the agent's process.
_OF_UNIT = re.compile(
    r"^(?:.{0,120}?\s)?systemd(?:\[\d+\])?: (?:snap\.amazon-ssm-agent\.)?"
    r"(amazon-ssm-agent\.service:? .*|start request repeated too quickly for .*amazon-ssm-agent\.service.*)",
    re.S,
)
# What Go's runtime prints as a process of it dies, and systemd of its end: neither has a time of its own.
_DYING_HEAD = re.compile(
    r"^()()((?:panic|fatal error): .*|amazon-ssm-agent\.service:? .*|start request repeated too quickly .*)",
    re.S,
)
_OF_DYING = ("goroutine ", "[signal ", "runtime stack:", "amazon-ssm-agent.service", "start request repeated")
DYING_LINES = 12
# errors.log (and debug lines) name the place in the source first.
_PLACE = re.compile(r"^\[\w+ @ [\w.-]+\.go\.\d+\] ")
# What people send through sessions and commands, and what these answer: at debug level everywhere, as a
# "payload" above it too, and the replies at info (the whole document's output, agents to 3.1 at least).
_RELAYED = re.compile(
    r"\[ssm-(session|document)-worker\]|payload|^(?:\[[^\]]*\] )*Sending reply"
    r"|\"(?:runtime|document)Status\"",
    re.IGNORECASE,
)
_DETAILED = ("DEBUG", "TRACE")
# An error of the agent spans three or four lines, a stack trace some dozens.
ENTRY_LINES = 100
# A failure that repeats drops to debug from the fourth time on (credentialrefresher.go:270-276).
_OWN = ("[CredentialRefresher]", "EC2RoleProvider")


class Entry(Frozen):
    """One log entry; `text` is without time and level, continuation lines joined by newlines.

    `place`: where it stands among all that were read, as a log may go on in a second file.
    """

    place: int
    file: str
    line: int
    level: str
    text: str
    at: datetime | None
    raw: str

    def evidence(self) -> LogLine:
        return LogLine(file=self.file, line=self.line, text=self.raw.replace("\n", " | "))


_Time = TypeVar("_Time", datetime, bytes)
_Block = tuple[int, re.Match[str], list[LogLine]]


def read_entries(lines: Sequence[LogLine]) -> list[Entry]:
    """Lines → entries; a line without a time continues the entry above it. Evidence is recorded, so what may
    hold people's words is left out, whole."""
    texts = [own_words(line.text) for line in lines]
    heads = [_HEAD.match(text) or _BARE_HEAD.match(text) for text in texts]
    carried = not any(heads)
    if carried:
        heads = [_HEAD.match(_carried(text)) for text in texts]
    if not any(heads):
        heads = [_UNTIMED_HEAD.match(text) for text in texts]
    # Of the agent's own log, not of a journal.
    bare = {
        line.file for line, text, head in zip(lines, texts, heads, strict=True) if head and line.text == text
    }
    blocks: list[_Block] = []
    whole = False  # nothing is missing between the last entry's first line and this one
    for place, (line, head) in enumerate(zip(lines, heads, strict=True)):
        whole = whole and (lines[place - 1].file, lines[place - 1].line + 1) == (line.file, line.line)
        if head is None and (whole or line.file not in bare) and not (blocks and _goes_on(blocks[-1], line)):
            head = _dies(texts, place)
        whole = whole or head is not None
        if head:
            blocks.append((place, head, [line]))
        elif blocks and len(blocks[-1][2]) < ENTRY_LINES:
            blocks[-1][2].append(line)
    entries = [entry for entry in (_entry(*block) for block in blocks) if not _relays(entry)]
    return _forwards(entries) if carried else entries


def _forwards(entries: list[Entry]) -> list[Entry]:
    """An export may have the newest first, as CloudWatch Logs Insights does unasked."""
    if not newest_first([entry.at for entry in entries if entry.at]):
        return entries
    return [entry.model_copy(update={"place": n}) for n, entry in enumerate(reversed(entries))]


def newest_first(times: Sequence[_Time]) -> bool:
    """By most of them: core and worker write one log, and a clock may be set."""
    pairs = list(pairwise(times))
    return sum(one > other for one, other in pairs) > sum(one < other for one, other in pairs)


def _goes_on(block: _Block, line: LogLine) -> bool:
    """Whether it may be people's words, as those that the entry above relays: their programs die, too.
    In a journal, what systemd says is no line of the agent's."""
    first = block[2][0]
    if line.file != first.file or (_OF_UNIT.match(line.text) and own_words(first.text) != first.text):
        return False
    return _DYING_HEAD.match(own_words(line.text)) is not None and _relays(_entry(*block))


def _dies(texts: Sequence[str], place: int) -> re.Match[str] | None:
    """A trace follows what the runtime prints, unless the file ends there: others say "panic: ", too."""
    head = _DYING_HEAD.match(texts[place])
    if head is None or texts[place].startswith(_OF_DYING):
        return head
    after = texts[place + 1 : place + 1 + DYING_LINES]
    return head if not after or any(text.startswith(_OF_DYING) for text in after) else None


def own_words(text: str) -> str:
    """A line without what the journal or syslog put before it (rsyslog writes a tab as #011)."""
    prefixed = _PREFIX.match(text) or _OF_UNIT.match(text)
    return prefixed.group(1).replace("#011", "\t") if prefixed else text


def _carried(text: str) -> str:
    """The agent's own line out of what carries it; in JSON and CSV it ends with its quotes."""
    before = _CARRIED.match(text)
    if before is None:
        return text
    own, quoted = text[before.end() :], None
    if before.group().endswith('"'):
        quoted = _QUOTED.match(own)
    if quoted is None:
        return own
    if not text.startswith("{"):
        return quoted.group().replace('""', '"')
    try:
        return str(json.loads(f'"{quoted.group()}"')).rstrip("\n")
    except ValueError:  # cut, or no JSON
        return quoted.group()


def _entry(place: int, head: re.Match[str], block: Sequence[LogLine]) -> Entry:
    first = block[0]
    text = _PLACE.sub("", head.group(3).strip())
    words = [own_words(line.text) for line in block]
    return Entry(
        place=place,
        file=first.file,
        line=first.line,
        level=head.group(2).upper(),
        text="\n".join((text, *words[1:])),
        at=_time(head.group(1)),
        raw="\n".join(words),
    )


def _time(text: str) -> datetime | None:
    if text.isdigit():
        return datetime.fromtimestamp(int(text), UTC).replace(tzinfo=None)
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # none, or the 31st of a month that has none
        return None


def _relays(entry: Entry) -> bool:
    detailed = entry.level in _DETAILED and not entry.text.startswith(_OWN)
    return detailed or _RELAYED.search(entry.text) is not None
