"""amazon-ssm-agent.log → what the last start did. Pure.

Sources of the lines: amazon-ssm-agent from 2.0 on (one process; since 3.0 a core and its worker).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import pairwise

from haltuun.model import Frozen, Unknown, is_true
from haltuun.stages.repair.entries import Entry, read_entries
from haltuun.stages.repair.facts import Identity, LogLine

FILE = "/var/log/amazon/ssm/amazon-ssm-agent.log"
METADATA_ADDRESS = "169.254.169.254"
LAST_DAY, LAST_HOUR = timedelta(days=1), timedelta(hours=1)

# Agents 2.3 log the second before they first call, earlier ones the third; none of them has a worker.
_STARTS = re.compile(
    r"^(?:\[instanceID=\S+\] )?"
    r"(Proxy environment variables:|Create new startup processor|Starting Agent: amazon-ssm-agent)"
)
_CHECKS = re.compile(r"^Checking if agent identity type (\w+) can be assumed")
_CUT_STARTS = re.compile(r"^Checking if agent identity|^\[amazon-ssm-agent\] Starting Core Agent")
_TAKES = re.compile(r"^Agent will take identity from (\w+)")
_NO_IDENTITY = re.compile(
    r"[Ee]rror occurr?ed when starting (?:amazon-ssm-agent|core manager)|Failed to start agent"
    r"|Agent failed to assume any identity|failed to find agent identity"
)
_GOES_ON = re.compile(r"Starting Core Agent|Create new startup processor|Starting Agent:")
# Agents before 3.0 name the identity nowhere, and what is left of a log may have lost it: the id in
# other lines tells, or whose credentials are spoken of.
_ID = r"(?:mi|i)-[0-9a-f]{8,17}"
_TELLS_ID = re.compile(
    rf"\[instanceID=({_ID})\]|controlchannel for instance: ({_ID})|wss://\S+/control-channel/({_ID})"
    rf"|assumed-role/[^/\s]+/({_ID})\b|Not existing InstanceId ({_ID})"
)
_TELLS_IDENTITY = (
    # The others' credentials come otherwise, and only an EC2 instance registers itself.
    (
        "EC2",
        re.compile(
            r"instance profile role cred|EC2RoleRequestError|ec2 identity|\[Registrar\]|identity from EC2$"
        ),
    ),
    (
        "OnPrem",
        # The second is how agents before 3.1 say it (rolecreds/role_provider.go); an EC2 instance that asks
        # for such a token is "calling" it.
        re.compile(
            r"\[OnPremCredsProvider\]|error occurred in RequestManagedInstanceRoleToken"
            r"|MachineFingerprintDoesNotMatch|identity from OnPrem$"
        ),
    ),
)
_STOPPING = re.compile(r"core manager stop|[Cc]losing |[Cc]losed ")
_CHANNEL = (
    "Set up control channel successfully",
    "SSM Connection channel status is set to ssmmessages",
    # A channel that broke and was opened again says only this (websocketutil: OpenConnection).
    "Successfully opened websocket connection to",
)
# Online without Session Manager: what ssmmessages refused still holds (controlchannel.go:267-281).
_FALLBACK = "SSM Connection channel status is set to ec2messages"
# Polled until the channel is up (ssmconnectionchannel.go:62-74), before 3.3.40 then, too; but from 3.1.821 on
# commands come by the channel while there is one (RELEASENOTES). Agents before that try a failed poll again
# at once: one is nothing, what holds is soon said so many times.
_POLLING = ("ec2messages.", "[MDSInteractor]")
POLLED_UNTIL, FAILING_POLLS = (3, 1, 821), 3
_VERSION = re.compile(r"(?:amazon-ssm-agent - |Amazon SSM Agent )v?(\d+(?:\.\d+)+)")
# A registration that Systems Manager refuses (an expired activation) has emptied the vault before it asked:
# core/agent_parser.go, registerManagedInstance.
_CLEARED = re.compile(
    r"Registration information has been removed from the instance\."
    r"|^Registration failed due to error registering the instance with AWS SSM"
)
_REGISTERED = "Successfully registered the instance with AWS SSM using Managed instance-id"
_NO_METADATA = "[EC2Identity] Failed to get instance info from IMDS"
# Systems Manager took a call with the agent's own credentials (EC2RoleProvider.RemoteRetrieve).
_ACCEPTED = re.compile(r"Successfully connected with (?:instance profile|Systems Manager) role credentials")
_READY, _NOT_READY = "[CredentialRefresher] Credentials ready", "before retrying retrieve credentials"
_NO_CREDENTIALS = "[CredentialRefresher] Retrieve credentials produced"
_REPORTS, _REPORT_FAILS = "HealthCheck reporting agent health", "[HealthCheck] error"
# Who in the core asks for credentials.
_CORE = (
    "[CredentialRefresher]",
    "EC2RoleProvider",
    "[OnPremCredsProvider]",
    "[TokenRequestService]",
    "[EC2Identity]",
    "[Registrar]",
)
_WORKER = "[ssm-agent-worker]"
_WORKER_BEGINS = re.compile(
    r"ssm-agent-worker - v"
    r"|^\[ssm-agent-worker\] (?:Create new startup processor|(?:\[\S+\] )?Starting Agent:)"
)
_TELLS_PROXIES = re.compile(r"^(Proxy environment variables|(https?|no)_proxy):", re.IGNORECASE)
_PROXY = re.compile(r"^(https?_proxy|no_proxy): ?(.*)$", re.M | re.IGNORECASE)
# The agent's end that nobody asked for: the runtime's words, its own (it recovers in main() and exits), and
# systemd's (before 220, as on Amazon Linux 2 and CentOS 7, in other words). A credentials refresher that
# panics sleeps, and begins again without credentials.
_CRASHED = re.compile(
    r"^(?:panic|fatal error): |^(?:\[amazon-ssm-agent\] )?(?:[Cc]ore )?Agent crashed with message"
    r"|^\[CredentialRefresher\] credentials refresher panic"
    r"|^amazon-ssm-agent\.service: (?:Start request repeated too quickly|Failed with result 'oom-kill'"
    r"|[Mm]ain process exited, code=(?:dumped|killed, status=(?:4|6|7|9|11)/|exited, status=2/))"
    r"|^start request repeated too quickly for "
)
_REPEATED = re.compile(r"^(?:amazon-ssm-agent\.service: S|s)tart request repeated too quickly")
_RESTARTED = re.compile(r"^amazon-ssm-agent\.service:? .*(?:Scheduled restart job|hold-?off time over)")
# A stop that somebody asked for, and that took too long.
_STOP_TIMED_OUT = re.compile(r"^amazon-ssm-agent\.service:? (?:State ')?stop-\S+ timed out")
_TIMED_OUT = "amazon-ssm-agent.service: Failed with result 'timeout'"
_KILLED = re.compile(r"^amazon-ssm-agent\.service: [Mm]ain process exited, code=(?:killed|dumped)")
# Once in a start, and again for each worker that has ended.
_STARTS_WORKER, WORKERS = "Worker ssm-agent-worker is not running, starting worker process", 3
_STARTS_NONE = "[WorkerProvider] failed to start worker "
_ENDED = re.compile(r"^(?:\[amazon-ssm-agent\] )?(?:Bye\.|(?:amazon-ssm-agent g|G)ot signal:)")


class Start(Frozen):
    """One start of the core process and all that was logged until the next."""

    entries: tuple[Entry, ...]

    @property
    def took(self) -> Entry | None:
        return next((entry for entry in self.entries if _TAKES.match(entry.text)), None)

    @property
    def gave_up(self) -> bool:
        """The core did: its worker may fail and be started again, and what opens a channel is somebody, but
        for the worker of a core before it, which goes on."""
        if self.took is not None:
            return False
        worker_opens = False
        for entry in reversed(self.entries):
            by_worker = entry.text.startswith(_WORKER)
            opens = any(text in entry.text for text in _CHANNEL)
            if (opens and not by_worker) or (worker_opens and _WORKER_BEGINS.search(entry.text)):
                return False
            worker_opens = worker_opens or opens
            if not by_worker and _NO_IDENTITY.search(entry.text):
                return True
        return False

    @property
    def went_on(self) -> bool:
        return any(_GOES_ON.search(entry.text) for entry in self.entries)

    @property
    def checked(self) -> tuple[str, ...]:
        """The identities that it tried, in order, the first time round."""
        tried: list[str] = []
        for entry in self.entries:
            if match := _CHECKS.match(entry.text):
                tried.append(match.group(1))
            elif tried and (_TAKES.match(entry.text) or _NO_IDENTITY.search(entry.text)):
                break
        return tuple(tried)


class AgentLog(Frozen):
    """The log from its last start on.

    `entries` are the last start's; where that took no identity, those of the failed starts just
    before it too (a restart loop is one story). Without a start they are all that the log holds.
    """

    has_start: bool
    identity: Identity | None  # None: took none, or the log does not tell
    instance_id: str | None  # under which it ran, as far as the log tells
    took: Entry | None
    checked: tuple[str, ...]  # the identities that the last start tried, in order; (): not told whole
    version: tuple[str, Entry] | None  # of the last start, as far as it says so
    gave_up: bool  # the last start took none
    unsaid: bool  # it went on as somebody whom it does not name (agents before 3.0.732)
    entries: tuple[Entry, ...]
    channel: Entry | None  # the newest word of an open control channel (ssmmessages)
    connected: Entry | None  # of that, or of messages polled in its place (ec2messages)
    # The words of a worker that outlives its core: one before, while this start's had not begun, or this one.
    left_behind: tuple[Entry, ...]
    credentialed: Entry | None  # the newest sign that the core got its credentials
    reported: Entry | None  # the newest report of the agent's health that was taken
    cleared_after_start: Entry | None
    registered_after_start: Entry | None
    meant: (
        bool  # registered as hybrid after it had been seen to have no metadata: no EC2 instance, or a choice
    )
    ended: Entry | None  # the core said goodbye: it was stopped
    crashes: tuple[Entry, ...]  # what ended the last start, or goes on ending each

    def since_connected(self) -> tuple[Entry, ...]:
        """What was logged after it came online: faults before that are over."""
        after = _after(self.entries, self.connected)
        if self.channel is None or self.channel is not self.connected:
            return after
        polls = [entry for entry in after if any(word in entry.text for word in _POLLING)]
        by_polls = self.version is not None and is_true(is_older(self.version[0], POLLED_UNTIL))
        if by_polls and _fail_on(polls):
            return after
        of_polls = {entry.place for entry in polls}
        return tuple(entry for entry in after if entry.place not in of_polls)

    def since_accepted(self) -> tuple[Entry, ...]:
        """What was logged after Systems Manager last took such a call: what it refused before is over. The
        worker reports with the credentials that it has; that says nothing of those that the core asks for."""
        marks = [mark.place for mark in (self.credentialed, self.reported) if mark]
        core = self.credentialed.place if self.credentialed else -1
        worker = max(marks, default=-1)
        return tuple(
            entry
            for entry in self.since_connected()
            if entry.place > (core if entry.text.startswith(_CORE) else worker)
        )

    def since_channel(self) -> tuple[Entry, ...]:
        """What was logged after the control channel came up."""
        return _after(self.entries, self.channel)

    @property
    def newest(self) -> datetime | None:
        """When the last entry was written."""
        return next((entry.at for entry in reversed(self.entries) if entry.at), None)

    @property
    def proxies(self) -> dict[str, tuple[str, Entry]] | None:
        """The proxy variables that the last start had, by name; empty ones left out. None: nothing tells."""
        if not any(_TELLS_PROXIES.match(entry.text) for entry in self.entries):
            return None
        found: dict[str, tuple[str, Entry]] = {}
        for entry in self.entries:
            match = _PROXY.match(entry.text)
            if match:
                name, value = match.group(1).lower(), match.group(2).strip()
                if value:
                    found[name] = (value, entry)
                else:
                    found.pop(name, None)
        return found


def _after(entries: tuple[Entry, ...], mark: Entry | None) -> tuple[Entry, ...]:
    return entries if mark is None else tuple(entry for entry in entries if entry.place > mark.place)


def _fail_on(polls: Sequence[Entry]) -> bool:
    """Whether so many failed within the last hour of them that it goes on."""
    failed = [entry for entry in polls if entry.level != "INFO"]
    newest = failed[-1].at if failed else None
    recent = [e for e in failed if e.at is None or newest is None or abs(newest - e.at) <= LAST_HOUR]
    return len(recent) >= FAILING_POLLS


def covers(no_proxy: str, host: str, port: int) -> bool:
    """Whether Go's reading of `no_proxy` (golang.org/x/net/http/httpproxy) spares `host`."""
    host = host.lower()
    address = _address(host)
    for part in no_proxy.lower().split(","):
        part = part.strip().removesuffix(f":{port}")
        if part in ("*", host):
            return True
        if address is None:
            domain = part.removeprefix("*")
            if domain and host.endswith(domain if domain.startswith(".") else f".{domain}"):
                return True
        elif "/" in part:
            try:
                if address in ip_network(part, strict=False):
                    return True
            except ValueError:
                continue
    return False


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def read_log(lines: Sequence[LogLine]) -> AgentLog:
    """The last start, and what of it still holds."""
    entries = read_entries(lines)
    starts = _starts(entries)
    meant = _meant(entries)
    if not starts:
        crashes = _crashes([Start(entries=tuple(entries))])
        return _summary(None, _of_last_day(entries), meant=meant, crashes=crashes, others=True)
    last = starts[-1]
    story = list(last.entries)
    if last.gave_up:
        for start in reversed(starts[:-1]):
            if not start.gave_up:
                break
            story = [*start.entries, *story]
    others = _runs([entry for entry in entries if entry.place < last.entries[0].place])
    return _summary(last, tuple(story), meant=meant, crashes=_crashes(starts), others=others)


def deaths(own: Sequence[LogLine], story: Sequence[LogLine]) -> tuple[LogLine, ...] | Unknown:
    """How the agent ended by the journal (`story`), which alone has the runtime's last words; nothing where
    its own log shows that it was started after that."""
    crashes = read_log(story).crashes
    if not crashes:
        return ()
    if own:
        began, then = last_start(own), last_start(story)
        if began is None or then is None:
            return Unknown(unknown="NOT_SHOWN: whether the agent was started after it died")
        if then < began:
            return ()
    of_crash = {(entry.file, entry.line) for entry in crashes}
    return tuple(line for line in story if (line.file, line.line) in of_crash)


def last_start(lines: Sequence[LogLine]) -> datetime | None:
    """When the last start began, as the agent itself writes it into both."""
    took = (entry.at for entry in reversed(read_entries(lines)) if _STARTS.match(entry.text))
    return next(filter(None, took), None)


def _crashes(starts: Sequence[Start]) -> tuple[Entry, ...]:
    """What ended the last start; where that has but begun, what ended the two before it: a loop."""
    last = starts[-1].entries
    ended = _crash(starts[-1])
    if ended and not _restarted(last, ended):
        return ended
    before = [_crash(start) for start in starts[-3:-1]]
    lives = (*_CHANNEL, _READY, _NOT_READY, _REPORTS)
    up = any(word in entry.text for entry in last for word in lives)
    return (*before[0], *before[1]) if len(before) == 2 and all(before) and not up else ()


def _restarted(entries: Sequence[Entry], ended: Sequence[Entry]) -> bool:
    """Whether systemd began it anew after that, and that was all."""
    restarts = [e for e in entries if _RESTARTED.match(e.text) and e.place > ended[0].place]
    return len(restarts) == 1 and restarts[0].place > ended[-1].place


def _crash(start: Start) -> tuple[Entry, ...]:
    """What ended it, after all that shows that it was well."""
    entries = start.entries
    lives = (*_CHANNEL, _READY)
    well = max((entry.place for entry in entries if any(word in entry.text for word in lives)), default=-1)
    since = [entry for entry in entries if entry.place > well]
    crashed = _unasked(since)
    if start.gave_up:  # that is why it ends again and again
        crashed = [entry for entry in crashed if not _REPEATED.match(entry.text)]
    workers = [entry for entry in since if _STARTS_WORKER in entry.text or _STARTS_NONE in entry.text]
    tried = sum(_STARTS_WORKER in entry.text for entry in workers)
    return tuple(crashed) or (tuple(workers) if tried >= WORKERS else ())


def _unasked(entries: Sequence[Entry]) -> list[Entry]:
    """The ends that nobody asked for."""
    crashed: list[Entry] = []
    stopping = False
    for entry in entries:
        if _STOP_TIMED_OUT.match(entry.text):
            stopping = True
        elif entry.text.startswith(_TIMED_OUT) and crashed and _KILLED.match(crashed[-1].text):
            crashed.pop()
        elif stopping and _KILLED.match(entry.text):
            stopping = False
        elif _CRASHED.match(entry.text):
            crashed.append(entry)
    return crashed


def _of_last_day(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """errors.log goes back for months and never says that anything went well again. Its last entry is the
    newest: what bears a later time was written before the clock was set back."""
    last = {entry.file: entry.at for entry in entries if entry.at}
    newest = max(last.values(), default=None)
    if newest is None:
        return tuple(entries)
    tell = {entry.file for entry in entries if entry.level == "INFO"}
    return tuple(
        entry
        for entry in entries
        if entry.file in tell or entry.at is None or abs(newest - entry.at) <= LAST_DAY
    )


def _summary(
    last: Start | None, entries: tuple[Entry, ...], *, meant: bool, crashes: tuple[Entry, ...], others: bool
) -> AgentLog:
    """`others`: an agent besides may write this log."""
    own = entries if last is None else last.entries
    told, instance_id, identity = _told(own)
    took = last.took if last is not None else None
    if took is not None:
        identity = _identity_of(took)
    elif last is not None and (last.gave_up or last.checked):
        told, instance_id, identity = None, None, None
    ended = _ended(entries, others=others)
    gave_up = last is not None and last.gave_up
    left_behind = _left_behind(entries, took) or _outlives(entries, ended if not gave_up else entries[0])
    old = {entry.place for entry in left_behind}
    own_words = [entry for entry in entries if entry.place not in old]
    channel = [entry for entry in own_words if any(text in entry.text for text in _CHANNEL)]
    fallback = [entry for entry in own_words if _FALLBACK in entry.text]
    connected = max((*channel[-1:], *fallback[-1:]), key=lambda entry: entry.place, default=None)
    changed = [entry for entry in entries if _CLEARED.search(entry.text) or _REGISTERED in entry.text][-1:]
    return AgentLog(
        has_start=last is not None,
        identity=identity,
        instance_id=instance_id if _kind(instance_id) == identity else None,
        took=took or told,
        checked=last.checked if last is not None and _STARTS.match(last.entries[0].text) else (),
        version=_version(own),
        gave_up=gave_up,
        unsaid=last is not None and identity is None and last.took is None and last.went_on,
        entries=entries,
        channel=channel[-1] if channel and not ended else None,
        connected=None if ended else connected,
        credentialed=_credentialed(entries),
        reported=_reported(entries, worker=last is None),
        cleared_after_start=next((entry for entry in changed if _CLEARED.search(entry.text)), None),
        registered_after_start=next((entry for entry in changed if _REGISTERED in entry.text), None),
        meant=meant,
        left_behind=left_behind,
        ended=ended,
        crashes=crashes,
    )


def is_older(version: str, than: tuple[int, ...]) -> bool | Unknown:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})+", version):
        return Unknown(unknown=f"NOT_SHOWN: '{version}' is no version")
    return tuple(int(part) for part in version.split(".")) < than


def _version(entries: Sequence[Entry]) -> tuple[str, Entry] | None:
    for entry in reversed(entries):
        if match := _VERSION.search(entry.text):
            return match.group(1), entry
    return None


def _runs(entries: Sequence[Entry]) -> bool:
    """Whether the agent that wrote them last was still at work with their last."""
    lives = (*_CHANNEL, _REPORTS, _READY)
    for entry in reversed(entries):
        if _ENDED.match(entry.text) or _CRASHED.match(entry.text) or _NO_IDENTITY.search(entry.text):
            return False
        if _STARTS.match(entry.text) or any(word in entry.text for word in lives):
            return True
    return False


def _left_behind(entries: tuple[Entry, ...], took: Entry | None) -> tuple[Entry, ...]:
    """A new core ends a killed one's worker only once it has credentials (core/app/agent.go:91-97): while it
    has failed to get them, and no worker of its own has begun, the old one speaks."""
    begins = (_STARTS_WORKER, _READY)
    spoken: list[Entry] = []
    waits = False
    for entry in _after(entries, took) if took is not None else ():
        if _WORKER_BEGINS.search(entry.text) or any(word in entry.text for word in begins):
            break
        waits = waits or _NO_CREDENTIALS in entry.text
        if entry.text.startswith(_WORKER):
            spoken.append(entry)
    return tuple(spoken) if waits else ()


def _outlives(entries: tuple[Entry, ...], end: Entry | None) -> tuple[Entry, ...]:
    """A worker that goes on after its core's `end`, and until one begins anew (systemd leaves it alone:
    KillMode=process)."""
    spoken: list[Entry] = []
    for entry in _after(entries, end) if end is not None else ():
        if _WORKER_BEGINS.search(entry.text):
            break
        if entry.text.startswith(f"{_WORKER} Bye."):
            spoken = []
        elif entry.text.startswith(_WORKER) and any(word in entry.text for word in (*_CHANNEL, _REPORTS)):
            spoken.append(entry)
    return tuple(spoken)


def _ended(entries: tuple[Entry, ...], *, others: bool) -> Entry | None:
    """Where two agents write one log, the goodbye of one is not the other's. Where nobody else does, a worker
    that speaks after it is no sign of its core."""
    lives = (*_CHANNEL, _REPORTS, _READY)
    worker_lives = False
    for entry in reversed(entries):
        if _ENDED.match(entry.text):
            return entry
        if worker_lives and _WORKER_BEGINS.search(entry.text):
            return None
        if any(word in entry.text for word in lives):
            if others or not entry.text.startswith(_WORKER):
                return None
            worker_lives = True
    return None


def _meant(entries: Sequence[Entry]) -> bool:
    """Up to the first start after the registration only: the next may be another machine's, of its image."""
    no_metadata = meant = started = False
    for entry in entries:
        if _NO_METADATA in entry.text:
            no_metadata = True
        elif _REGISTERED in entry.text:
            meant, started = no_metadata, False
        elif entry.text.startswith("Agent will take identity from OnPrem"):
            meant, started = meant and not started, True
        elif _CLEARED.search(entry.text) or entry.text.startswith("Agent will take identity from EC2"):
            no_metadata = meant = False
    return meant


def _credentialed(entries: tuple[Entry, ...]) -> Entry | None:
    """Credentials that were got after a failure were got from Systems Manager; others may be old ones."""
    newest: Entry | None = None
    failed = False
    for entry in entries:
        if _ACCEPTED.search(entry.text) or (failed and _READY in entry.text):
            newest, failed = entry, False
        elif _NOT_READY in entry.text:
            failed = True
    return newest


def _reported(entries: tuple[Entry, ...], *, worker: bool) -> Entry | None:
    """A report that the next one follows without an error between them was taken.

    `worker`: one of this start has begun; before that, an older start's may report as somebody else.
    """
    newest: Entry | None = None
    report: Entry | None = None
    for entry in entries:
        worker = worker or _WORKER_BEGINS.search(entry.text) is not None
        if not worker and entry.text.startswith(_WORKER):
            continue
        if _REPORT_FAILS in entry.text:
            report = None
        elif _REPORTS in entry.text:
            newest, report = report or newest, entry
    return newest


def _starts(entries: Sequence[Entry]) -> list[Start]:
    heads = _heads(entries)
    if not heads:
        # A log cut in the middle of a start still shows what that start took.
        heads = [i for i, entry in enumerate(entries) if _CUT_STARTS.match(entry.text)][:1]
    bounds = [*heads, len(entries)]
    return [Start(entries=tuple(entries[begin:end])) for begin, end in pairwise(bounds)]


def _heads(entries: Sequence[Entry]) -> list[int]:
    """Where the starts begin. Agents 2.x write more than one of these words for a start; one that hibernates
    writes the last of them when it comes up."""
    heads: list[int] = []
    words: set[str] = set()
    for i, entry in enumerate(entries):
        if head := _STARTS.match(entry.text):
            word = head.group(1)
            if not words or word in words or word.startswith("Proxy"):
                heads.append(i)
                words = set()
            words.add(word)
        elif "hibernate" in entry.text or _ENDED.match(entry.text):
            words = set()
    return heads


def _identity_of(took: Entry) -> Identity | None:
    match = _TAKES.match(took.text)
    name = match.group(1) if match else ""
    if name in ("EC2", "OnPrem", "CustomIdentity"):
        return name  # type: ignore[return-value]
    return None


def _kind(instance_id: str | None) -> Identity | None:
    if instance_id is None:
        return None
    return "OnPrem" if instance_id.startswith("mi-") else "EC2"


def _told(entries: Sequence[Entry]) -> tuple[Entry | None, str | None, Identity | None]:
    """The newest entry with the agent's id, and the id; else the newest that tells whose credentials it
    uses."""
    for entry in reversed(entries):
        if (match := _TELLS_ID.search(entry.text)) and not _STOPPING.search(entry.text):
            instance_id = next(filter(None, match.groups()))
            return entry, instance_id, _kind(instance_id)
    for entry in reversed(entries):
        for identity, words in _TELLS_IDENTITY:
            if words.search(entry.text):
                return entry, None, identity  # type: ignore[return-value]
    return None, None, None
