"""amazon-ssm-agent.log → what the last start did. Pure.

Sources of the lines: amazon-ssm-agent 3.3.1142.0; an entry may span lines ("caused by: …").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_address, ip_network
from itertools import pairwise

from haltuun.model import Frozen
from haltuun.stages.repair.facts import Identity, LogLine

FILE = "/var/log/amazon/ssm/amazon-ssm-agent.log"
METADATA_ADDRESS = "169.254.169.254"

# The journal puts its own words before those of the agent.
_HEAD = re.compile(
    r"^(?:\S.{0,80}\bamazon-ssm-agent[\w.-]*\[\d+\]: )?"
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? ([A-Z]+) (.*)",
    re.S,
)
_STARTS = re.compile(r"^Proxy environment variables:|^(\[instanceID=\S+\] )?Starting Agent: amazon-ssm-agent")
_CHECKS = "Checking if agent identity"
_TAKES = re.compile(r"^Agent will take identity from (\w+)")
# Agents before 3.0 name the instance in every line and the identity nowhere.
_OLD_IDENTITY = re.compile(r"\[instanceID=((mi|i)-[0-9a-f]+)\]")
_CHANNEL = (
    "Set up control channel successfully",
    "SSM Connection channel status is set to ssmmessages",
    # A channel that broke and was opened again says only this (websocketutil: OpenConnection).
    "Successfully opened websocket connection to",
)
# Online without Session Manager: what ssmmessages refused still holds (controlchannel.go:267-281).
_FALLBACK = "SSM Connection channel status is set to ec2messages"
# Polled until the channel is up; from then on it does not matter (ssmconnectionchannel.go:62-74).
_POLLING = ("ec2messages.", "[MDSInteractor]")
_CLEARED = "Registration information has been removed from the instance."
_PROXY = re.compile(r"^(https?_proxy|no_proxy): ?(.*)$", re.M)
_ENDED = re.compile(r"^\[amazon-ssm-agent\] Bye\.")
# What people send through sessions and commands: at debug level everywhere, as a "payload" above it too.
_RELAYED = re.compile(r"\[ssm-(session|document)-worker\]|payload", re.IGNORECASE)
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


class Start(Frozen):
    """One start of the core process and all that was logged until the next."""

    entries: tuple[Entry, ...]

    @property
    def took(self) -> Entry | None:
        return next((entry for entry in self.entries if _TAKES.match(entry.text)), None)

    @property
    def gave_up(self) -> bool:
        return any("Error occurred when starting amazon-ssm-agent" in entry.text for entry in self.entries)


class AgentLog(Frozen):
    """The log from its last start on.

    `entries` are the last start's; where that took no identity, those of the failed starts just
    before it too (a restart loop is one story). Without a start they are all that the log holds.
    """

    has_start: bool
    identity: Identity | None  # None: took none, or the log holds no start
    took: Entry | None
    entries: tuple[Entry, ...]
    channel: Entry | None  # the newest word of an open control channel (ssmmessages)
    connected: Entry | None  # of that, or of messages polled in its place (ec2messages)
    cleared_after_start: Entry | None
    ended: bool  # the core said goodbye: it was stopped

    def since_connected(self) -> tuple[Entry, ...]:
        """What was logged after it came online: faults before that are over."""
        after = _after(self.entries, self.connected)
        if self.channel is None or self.channel is not self.connected:
            return after
        return tuple(entry for entry in after if not any(word in entry.text for word in _POLLING))

    def since_channel(self) -> tuple[Entry, ...]:
        """What was logged after the control channel came up."""
        return _after(self.entries, self.channel)

    @property
    def newest(self) -> datetime | None:
        """When the last entry was written."""
        return next((entry.at for entry in reversed(self.entries) if entry.at), None)

    @property
    def proxies(self) -> dict[str, tuple[str, Entry]]:
        """The proxy variables that the last start had, by name; empty ones left out."""
        found: dict[str, tuple[str, Entry]] = {}
        for entry in self.entries:
            match = _PROXY.match(entry.text)
            if match:
                if match.group(2).strip():
                    found[match.group(1)] = (match.group(2).strip(), entry)
                else:
                    found.pop(match.group(1), None)
        return found

    def metadata_is_proxied(self) -> Entry | None:
        """IMDS is plain http, so http_proxy alone takes it, unless no_proxy names the address."""
        proxies = self.proxies
        if "http_proxy" not in proxies:
            return None
        spared, _ = proxies.get("no_proxy", ("", None))
        return None if covers_metadata(spared) else proxies["http_proxy"][1]


def _after(entries: tuple[Entry, ...], mark: Entry | None) -> tuple[Entry, ...]:
    return entries if mark is None else tuple(entry for entry in entries if entry.place > mark.place)


def covers_metadata(no_proxy: str) -> bool:
    """Whether Go's reading of `no_proxy` (golang.org/x/net/http/httpproxy) spares IMDS."""
    for part in (piece.strip() for piece in no_proxy.split(",")):
        if part == "*" or part.removesuffix(":80") == METADATA_ADDRESS:
            return True
        if "/" in part:
            try:
                if ip_address(METADATA_ADDRESS) in ip_network(part, strict=False):
                    return True
            except ValueError:
                continue
    return False


def read_entries(lines: Sequence[LogLine]) -> list[Entry]:
    """Lines → entries; a line without a time continues the entry above it. Evidence is recorded, so what may
    hold people's words is left out, whole."""
    blocks: list[tuple[int, re.Match[str], list[LogLine]]] = []
    for place, line in enumerate(lines):
        if head := _HEAD.match(line.text):
            blocks.append((place, head, [line]))
        elif blocks and len(blocks[-1][2]) < ENTRY_LINES:
            blocks[-1][2].append(line)
    entries = [_entry(*block) for block in blocks]
    return [entry for entry in entries if not _relays(entry)]


def _entry(place: int, head: re.Match[str], block: Sequence[LogLine]) -> Entry:
    first, *more = block
    return Entry(
        place=place,
        file=first.file,
        line=first.line,
        level=head.group(2),
        text="\n".join((head.group(3).strip(), *(line.text for line in more))),
        at=_time(head.group(1)),
        raw="\n".join(line.text for line in block),
    )


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # the 31st of a month that has none
        return None


def _relays(entry: Entry) -> bool:
    detailed = entry.level in _DETAILED and not entry.text.startswith(_OWN)
    return detailed or _RELAYED.search(entry.text) is not None


def read_log(lines: Sequence[LogLine]) -> AgentLog:
    """The last start, and what of it still holds."""
    entries = read_entries(lines)
    starts = _starts(entries)
    if not starts:
        old = _old_entry(entries)
        return _summary(has_start=False, identity=_old_identity(entries), entries=tuple(entries), took=old)
    last = starts[-1]
    story = list(last.entries)
    if last.took is None and not _old_identity(last.entries):
        for start in reversed(starts[:-1]):
            if not start.gave_up:
                break
            story = [*start.entries, *story]
    identity = _identity_of(last)
    took = last.took or _old_entry(last.entries)
    return _summary(has_start=True, identity=identity, entries=tuple(story), took=took)


def _summary(
    *, has_start: bool, identity: Identity | None, entries: tuple[Entry, ...], took: Entry | None
) -> AgentLog:
    channel = [entry for entry in entries if any(text in entry.text for text in _CHANNEL)]
    fallback = [entry for entry in entries if _FALLBACK in entry.text]
    connected = max((*channel[-1:], *fallback[-1:]), key=lambda entry: entry.place, default=None)
    ended = [entry for entry in entries if _ENDED.match(entry.text)]
    cleared = [entry for entry in entries if _CLEARED in entry.text]
    return AgentLog(
        has_start=has_start,
        identity=identity,
        took=took,
        entries=entries,
        channel=channel[-1] if channel and not ended else None,
        connected=None if ended else connected,
        cleared_after_start=cleared[-1] if cleared else None,
        ended=bool(ended),
    )


def _starts(entries: Sequence[Entry]) -> list[Start]:
    heads = [i for i, entry in enumerate(entries) if _STARTS.match(entry.text)]
    if not heads:
        # A log cut in the middle of a start still shows what that start took.
        heads = [i for i, entry in enumerate(entries) if entry.text.startswith(_CHECKS)][:1]
    bounds = [*heads, len(entries)]
    return [Start(entries=tuple(entries[begin:end])) for begin, end in pairwise(bounds)]


def _identity_of(start: Start) -> Identity | None:
    took = start.took
    if took is None:
        return _old_identity(start.entries)
    match = _TAKES.match(took.text)
    name = match.group(1) if match else ""
    if name in ("EC2", "OnPrem", "CustomIdentity"):
        return name  # type: ignore[return-value]
    return None


def _old_identity(entries: Sequence[Entry]) -> Identity | None:
    entry = _old_entry(entries)
    match = _OLD_IDENTITY.search(entry.text) if entry else None
    if match is None:
        return None
    return "OnPrem" if match.group(2) == "mi" else "EC2"


def _old_entry(entries: Sequence[Entry]) -> Entry | None:
    """The newest that names the instance as agents before 3.0 do in every line."""
    for entry in reversed(entries):
        if _OLD_IDENTITY.search(entry.text) and "core manager stop" not in entry.text:
            return entry
    return None
