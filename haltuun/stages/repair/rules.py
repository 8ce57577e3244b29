"""The rules, as data: which fault each names, and how it finds its evidence. Pure.

No evidence, no cause. Only what still holds counts: faults that the log shows before the control
channel came up are over, and refusals before Systems Manager took a call of the agent's.

They stand in the order in which they are told: what decides who the agent is and where it calls comes
before what the calls then meet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from haltuun.model import Unknown, is_false, is_true
from haltuun.stages.repair.agentlog import METADATA_ADDRESS, covers, is_older
from haltuun.stages.repair.entries import Entry
from haltuun.stages.repair.facts import CORE, LogLine
from haltuun.stages.repair.leftovers import CONFIG_FILE, CREDENTIALS_FILE
from haltuun.stages.repair.situation import (
    DEFAULT_ORDER,
    ORDERS_SINCE,
    Situation,
    identity_taken,
    will_take_onprem,
)

SSM = "/var/lib/amazon/ssm"
EVIDENCE_LINES = 3  # of one fault that repeats every few minutes, the newest

# Below it there is no Session Manager (AWS: agent version history).
OLDEST_VERSION = (2, 3, 68, 0)
# Agents ask for metadata with a session token, too, from the first on (amazon-ssm-agent issue 277), and with
# one first from the second on (RELEASENOTES).
TOKENS_SINCE, TOKENS_FIRST_SINCE = (2, 3, 814, 0), (3, 0, 413, 0)
# Saving the state and writing logs needs some room, and a file each.
DISK_LOW_KB = 20_000
INODES_LOW = 200
# A call into a closed network is silent for about 128 s (TCP's SYN retries).
SILENCE = timedelta(seconds=20)
# An agent with an open channel reports every 5 minutes: what failed and was not said again is over.
OVER = timedelta(hours=1)

# How a service is: now, and at the next boot.
ON, OFF = "running, enabled", "stopped, disabled"

Find = Callable[[Situation], Sequence[LogLine]]


@dataclass(frozen=True)
class Versions:
    """The agents whose behaviour a rule rests on, in words; of those before `since` it says nothing."""

    said: str
    since: tuple[int, ...] = ()


# What the rules rest on: the agent's source at 2.0.633, 2.2.24 and 3.3.1142, and what the source of 2026
# (built on aws-sdk-go-v2, whose errors are worded otherwise) changes.
_SEEN = "agents 2.0 to 3.3.1142 as seen; later ones by their source"
EVERY = Versions(_SEEN, (2, 0))
OF_HOST = Versions("agents of every version: it is the host's, whatever the agent does")
OF_3 = Versions(
    "agents 3.0 to 3.3.1142 as seen, whose core and worker are two processes; later ones by their source",
    (3, 0),
)
# What changed with a version (amazon-ssm-agent RELEASENOTES; of tokens, issue 277, too).
OF_CONFIG = Versions(
    "agents 3.0.1295 to 3.3.1142 as seen, none older has the setting; later ones by their source",
    ORDERS_SINCE,
)
OF_METADATA = Versions(f"{_SEEN}; from 3.2.1041 on they ask with a session token alone", (2, 0))
OF_TOKENS = Versions(
    "agents of every version, by their release notes: they can use session tokens from 2.3.814 on, ask with"
    " one first from 3.0.413 on, and with nothing else from 3.2.1041 on"
)
OF_TLS = Versions(f"{_SEEN}; from 3.3.987 on they want TLS 1.2", (2, 0))
OF_CHANNEL = Versions(
    f"{_SEEN}; before 3.3.40 they poll ec2messages always, later only while they have no channel; from"
    " 3.1.821 on their commands come by the channel while there is one",
    (2, 0),
)


@dataclass(frozen=True)
class Rule:
    """`versions`: the agents that it holds for."""

    code: str
    find: Find
    versions: Versions = EVERY

    def holds_for(self, versions: Sequence[str]) -> bool:
        """Unless each of these (installed, and of the last start) is known to be older."""
        return not versions or not all(is_true(is_older(one, self.versions.since)) for one in versions)


# -- evidence -------------------------------------------------------------------------------------


def _file(path: str, text: str) -> LogLine:
    return LogLine(file=path, line=1, text=text)


def _entries(entries: Sequence[Entry], pattern: str, without: str = "") -> list[Entry]:
    """Those (continuation lines included) that match, the newest few."""
    wanted, unwanted = re.compile(pattern), re.compile(without) if without else None
    hits: list[Entry] = []
    misses: set[str] = set()  # most entries say what others say
    for entry in reversed(entries):
        if entry.text in misses:
            continue
        if not wanted.search(entry.text) or (unwanted and unwanted.search(entry.text)):
            misses.add(entry.text)
            continue
        hits.append(entry)
        if len(hits) == EVIDENCE_LINES:
            break
    return hits[::-1]


def _still(s: Situation, hits: Sequence[Entry]) -> Sequence[LogLine]:
    """Nothing where the agent is online and has not said it again for long: it reports every 5 minutes."""
    online = s.log is not None and s.log.connected is not None
    at = _said_at(s, hits[-1]) if hits else None
    old = at is not None and s.now is not None and s.now - at > OVER
    return () if online and old else [entry.evidence() for entry in hits]


def _said_at(s: Situation, entry: Entry) -> datetime | None:
    """What bears a time to come was written before the clock was set back: not after all that follows it."""
    if s.log is None or entry.at is None or s.now is None or entry.at <= s.now:
        return entry.at
    return min(later.at for later in s.log.entries if later.place >= entry.place and later.at)


def _lines(pattern: str, *, without: str = "") -> Find:
    """What the log says since the agent came online."""
    return lambda s: _still(s, _entries(s.open_entries, pattern, without))


def _refused(pattern: str, *, without: str = "") -> Find:
    """What it says since Systems Manager last took a call."""
    return lambda s: _still(s, _entries(s.refused_entries, pattern, without))


def _channel_lines(pattern: str, *, without: str = "") -> Find:
    """What it says since the control channel came up: polling in its place is no remedy."""
    return lambda s: _still(s, _entries(s.log.since_channel() if s.log else (), pattern, without))


def _stale_hybrid(s: Situation) -> Sequence[LogLine]:
    vault = s.agent.vault
    will = will_take_onprem(s.agent)
    # On a host at hand it is the account that tells whether that is an EC2 instance.
    if s.log is not None and s.log.meant and isinstance(s.agent.processes, Unknown):
        return ()
    tried = s.log.checked if s.log is not None else ()
    if isinstance(s.agent.config, Unknown) and tried and "OnPrem" not in tried:  # by an order of its own
        return ()
    found: list[LogLine] = []
    if is_true(will) and not isinstance(vault, Unknown):
        found.append(
            _file(
                f"{SSM}/Vault/Store/RegistrationKey",
                f"instanceID={vault.instance_id} region={vault.region}, private key present",
            )
        )
    elif isinstance(will, Unknown) and s.log is not None:
        if s.log.cleared_after_start is not None:
            return ()
        if s.log.registered_after_start is not None:
            found.append(s.log.registered_after_start.evidence())
    if identity_taken(s) == "OnPrem" and not _cleared_not_restarted(s) and not is_false(will):
        found.extend(_taken(s))
    if found and not isinstance(vault, Unknown) and vault.similarity_threshold == -1:
        found.append(
            _file(f"{SSM}/Vault/Store/InstanceFingerprint", "similarityThreshold=-1: it may well be wanted")
        )
    return found


def _taken(s: Situation) -> list[LogLine]:
    if s.log is not None and s.log.took is not None:
        return [s.log.took.evidence()]
    config = s.agent.identity_config
    if not isinstance(config, Unknown) and config is not None:
        return [_identity_config_line(config.identity_type, config.instance_id)]
    return []


def _identity_config_line(identity_type: str, instance_id: str) -> LogLine:
    text = f"IdentityType={identity_type} InstanceId={instance_id}"
    return _file(f"{SSM}/runtimeconfig/identity_config.json", text)


def _cleared_not_restarted(s: Situation) -> Sequence[LogLine]:
    """Runs as mi-, and the registration that it started from is gone from the vault."""
    if identity_taken(s) != "OnPrem" or is_false(s.agent.running):
        return ()
    if s.log is not None and s.log.ended:
        return ()
    will = will_take_onprem(s.agent)
    if is_true(will):
        return ()
    if s.log is not None and s.log.cleared_after_start is not None:
        return (s.log.cleared_after_start.evidence(),)
    if is_false(will):
        return (_file(f"{SSM}/Vault/Store/RegistrationKey", "no registration, while the agent runs as mi-"),)
    return ()


def _half_repaired(s: Situation) -> Sequence[LogLine]:
    """`registration` is written at registration only and by nothing read: where it is gone and the
    identity is not, somebody deleted it."""
    if not is_false(s.agent.registration_file) or not _stale_hybrid(s):
        return ()
    dirs = s.agent.hybrid_dirs
    vault_known = not isinstance(s.agent.vault, Unknown)
    if isinstance(dirs, Unknown) or (not dirs and not vault_known):
        return ()
    beside = f"beside {dirs[0]}/" if dirs else "while the vault holds one"
    return (_file(f"{SSM}/registration", f"absent, {beside}"),)


def _orphan_worker(s: Situation) -> Sequence[LogLine]:
    processes = s.agent.processes
    if not isinstance(processes, Unknown):
        cores = [p for p in processes if p.comm == CORE]
        workers = [p for p in processes if p.comm == "ssm-agent-worke"]
        oldest = min((p.started for p in cores), default=None)
        orphans = [p for p in workers if oldest is None or (p.started and p.started < oldest)]
        if orphans:
            return [_file(f"/proc/{p.pid}/comm", f"{p.comm}, without its core") for p in orphans]
    return _lines("Found orphan ssm-agent-worker process")(s) or _speaks_before_its_start(s)


def _speaks_before_its_start(s: Situation) -> Sequence[LogLine]:
    """Until the new core has begun one of its own, the old worker goes on under the old identity; so does the
    worker of one that is gone, as far as files tell."""
    if s.log is None or not s.log.left_behind:
        return ()
    gone = s.log.gave_up or s.log.ended is not None
    if gone and not isinstance(s.agent.processes, Unknown):
        return ()
    spoken = s.log.left_behind[-EVIDENCE_LINES:]
    if s.log.connected is not None or any(
        "ssm-agent-worker - v" in entry.text for entry in s.log.entries if entry.place > spoken[-1].place
    ):
        return ()
    return [entry.evidence() for entry in spoken]


def _credentials_shadowed(s: Situation) -> Sequence[LogLine]:
    """A temporary key as root's [default] beside traces of a hybrid registration (the agent shares
    its token so: shared_Credentials.go:38-53); without those traces it may be a person's."""
    credentials = s.agent.credentials
    if isinstance(credentials, Unknown) or not credentials.present or credentials.default_kind != "temporary":
        return ()
    config, vault = s.agent.identity_config, s.agent.vault
    shared = not isinstance(config, Unknown) and config is not None and config.share_file == CREDENTIALS_FILE
    dirs = not isinstance(s.agent.hybrid_dirs, Unknown) and bool(s.agent.hybrid_dirs)
    registered = not isinstance(vault, Unknown) and bool(vault.instance_id)
    if not (shared or dirs or registered or identity_taken(s) == "OnPrem"):
        return ()
    whose = "as the agent writes it" if credentials.of_agent else "which may be a person's"
    return (_file(CREDENTIALS_FILE, f"[default] holds a temporary key, {whose}"),)


_METADATA = re.escape(METADATA_ADDRESS)
_NO_ANSWER = (
    r"(send request failed|request send failed|StatusCode: 0|dial tcp|Client\.Timeout|deadline exceeded"
    r"|status code: (0|40[13])|40[13] - [A-Z])"
)
# The SDK says of whatever keeps it from the metadata that there is no role; the line below tells.
# The first agents (2.0 to 2.2) name no more than the SDK's whole chain.
_NO_ROLE = (
    r"(no EC2 (instance|IMDS) role found"
    r"|(error details|hibernate|failed with error) - ([A-Za-z]+ Error: )?NoCredentialProviders:)"
)
# From the entry's beginning, the first such words taken for good: a hostile log repeats them.
_NO_ROLE_FOR_IMDS = rf"^(?>[\s\S]*?{_NO_ROLE})[\s\S]*?{_NO_ANSWER}"
_NO_INSTANCE_ROLE = rf"^(?>[\s\S]*?failed to retrieve instance identity role\. Error)[\s\S]*?{_NO_ANSWER}"


_NO_METADATA = (
    r"Failed to get instance info from IMDS|failed to get identity (instance id|region)\. Error"
    rf"|failed to get (IMDSv2|API) token|{_NO_INSTANCE_ROLE}|{_NO_ROLE_FOR_IMDS}"
    r"|Data from vault is empty"  # agents 2.x
)


def _imds(s: Situation) -> Sequence[LogLine]:
    return _still(s, _imds_entries(s)) or _no_identity_unexplained(s)


def _imds_entries(s: Situation) -> list[Entry]:
    """What kept it from the metadata before it took the instance's identity from there is over."""
    took = s.log.took if s.log is not None and s.log.has_start and s.log.identity == "EC2" else None
    told = took is not None and took.text.startswith("Agent will take identity")
    since = [entry for entry in s.refused_entries if not (told and took and entry.place < took.place)]
    return _entries(since, _NO_METADATA)


def _no_identity_unexplained(s: Situation) -> Sequence[LogLine]:
    """Agents before 3.2 do not say why they are not the EC2 instance; nothing else keeps them from it."""
    if s.log is None or not s.log.gave_up or (s.log.checked and "EC2" not in s.log.checked):
        return ()
    return [entry.evidence() for entry in _entries(s.log.entries, "failed to find agent identity")]


def _imds_unreachable(s: Situation) -> Sequence[LogLine]:
    return () if _metadata_proxy(s) is not None or _imds_wants_token(s) else _imds(s)


_UNAUTHORIZED = re.compile(r"401 - Unauthorized|[Ss]tatus ?[Cc]ode: 401")


def _imds_wants_token(s: Situation) -> Sequence[LogLine]:
    """The metadata answers, with 401: it does so to nothing but a call without a (valid) session token."""
    entries = _imds_entries(s)
    if not entries or not _UNAUTHORIZED.search(entries[-1].text) or _metadata_proxy(s) is not None:
        return ()
    return _still(s, [entry for entry in entries if _UNAUTHORIZED.search(entry.text)])


def _proxy_intercepts_imds(s: Situation) -> Sequence[LogLine]:
    proxied, lines = _metadata_proxy(s), _imds(s)
    return (*proxied, *lines) if proxied is not None and lines else ()


def _metadata_proxy(s: Situation) -> Sequence[LogLine] | None:
    """What shows that a proxy takes the metadata calls: it is set, or (where the log's beginning is lost) the
    failed call says so itself, and that is shown anyway."""
    proxied = _proxy_to(s, "http_proxy", METADATA_ADDRESS, 80)  # it is plain http
    if proxied is not None:
        return (proxied,)
    failed = rf"http://{_METADATA}\S* proxyconnect "
    return () if any(re.search(failed, entry.text) for entry in _imds_entries(s)) else None


_CALLS = r"send request failed|request send failed|dial tcp|proxyconnect|Client\.Timeout exceeded|x509:"
_MESSAGES = r"ssmmessages|[Cc]ontrol ?channel|MGSInteractor|MessageGatewayService"
# These call nothing but Systems Manager, wherever they are sent.
_CALLS_SSM_ALONE = (
    r"^(\[Registrar\]|\[CredentialRefresher\]|EC2RoleProvider|\[TokenRequestService\]|\[OnPremCredsProvider\]"
    r"|(\[ssm-agent-worker\] )?(\[HealthCheck\]|Entering SSM Agent hibernate|Health ping failed))"
)
_NAMED_HOST = re.compile(r"(?:(?:https?|wss)://|\blookup )([^/\s\":]+)")
_OWN_HOST = re.compile(
    r"(ssm|ssmmessages|ec2messages)(-fips)?\.|vpce-[0-9a-z-]+\.(ssm|ssmmessages|ec2messages)\."
)


def _is_of_others(entry: Entry) -> bool:
    """Logs, metrics, updates, keys, and what documents fetch: a host may well do without them."""
    hosts = _NAMED_HOST.findall(entry.text)
    if not hosts or any(map(_OWN_HOST.match, hosts)):
        return False
    return re.match(_CALLS_SSM_ALONE, entry.text) is None


# A service that grants or refuses was reached.
_ANSWERED = re.compile(
    "EC2 registration was successful|Successfully connected with instance profile role credentials"
    "|AccessDenied|Throttling|ExpiredToken|Signature expired|MachineFingerprintDoesNotMatch|InvalidInstanceId"
)


def _failing_calls(pattern: str, *, without: str = "") -> Find:
    """Calls that failed, unless the log shows that they get through again."""

    def find(s: Situation) -> Sequence[LogLine]:
        return _still(s, _failing_entries(s, pattern, without))

    return find


def _failing_entries(s: Situation, pattern: str, without: str = "") -> list[Entry]:
    failed = _entries([e for e in s.refused_entries if not _is_of_others(e)], pattern, without)
    answered = failed and any(
        _ANSWERED.search(entry.text) for entry in s.refused_entries if entry.place > failed[-1].place
    )
    return [] if answered else failed


# What a proxy answers in a service's place, and what only a call through one can meet.
_BY_PROXY = (
    r"proxyconnect|Proxy Authentication Required"
    r"|https://\S+ \S*(Forbidden|Bad Gateway|Service Unavailable|Gateway Time-?out)\s*$"
)
# A call that goes through a proxy looks up and dials no one else.
_DIRECT = r"dial tcp"


# Where a call that failed does not say whom it was for.
_SOME_SERVICE = "ssm.amazonaws.com"
_HOST = re.compile(r"https://([^/\s\":]+)")


def _proxy_of(s: Situation, entry: Entry | None = None) -> LogLine | None:
    """What sets the proxy that takes such a call."""
    named = _HOST.search(entry.text) if entry is not None else None
    return _proxy_to(s, "https_proxy", named.group(1) if named else _SOME_SERVICE, 443)


def _proxy_to(s: Situation, name: str, host: str, port: int) -> LogLine | None:
    """`name`: the variable that calls of that kind go by."""
    proxies = _proxies(s)
    spared, _ = proxies.get("no_proxy", ("", None))
    return proxies[name][1] if name in proxies and not covers(spared, host, port) else None


def _proxies(s: Situation) -> dict[str, tuple[str, LogLine]]:
    """By what the log says of its last start; else by what the running agent has."""
    told = s.log.proxies if s.log is not None else None
    if told is not None:
        return {name: (value, entry.evidence()) for name, (value, entry) in told.items()}
    running = () if isinstance(s.agent.proxy, Unknown) else s.agent.proxy
    set_to = {name.lower(): value for name, _, value in (text.partition("=") for text in running)}
    return {name: (value, _file("/proc", f"{name}={value}")) for name, value in set_to.items()}


def _proxy_configured(s: Situation) -> Sequence[LogLine]:
    by_proxy = _failing_entries(s, _BY_PROXY, _METADATA)
    if lines := _still(s, by_proxy):
        proxy = _proxy_of(s, by_proxy[-1])
        return (proxy, *lines) if proxy is not None else lines
    if _failing_entries(s, _DIRECT, _METADATA):
        return ()
    failing = [entry for entry in _failing_entries(s, _CALLS, _METADATA) if _proxy_of(s, entry)]
    proxy = _proxy_of(s, failing[-1]) if failing else _proxy_of(s)
    lines = _still(s, failing) or _silent_registration(s)
    return (proxy, *lines) if proxy is not None and lines else ()


_ADDRESS = r"dial tcp [0-9a-f.:\[\]]+:"
# Windows tells both in its own language: English, German, French, Spanish, Portuguese, Italian, Japanese.
_WINDOWS_TIMES_OUT = (
    r"A (connection attempt failed|socket operation was attempted to an unreachable)"
    r"|Ein Verbindungsversuch ist fehlgeschlagen|Une tentative de connexion a échoué"
    r"|[^\n]*(intento de conexión|tentativa de conexão falhou|Risposta non corretta|正しく応答しな)"
)
_WINDOWS_REFUSED = (
    r"No connection could be made"
    r"|[^\n]*(die Verbindung verweigert|expressément refus|denegó expresamente|recusou ativamente"
    r"|Rifiuto persistente|拒否された)"
)
_TIMES_OUT = (
    rf"{_ADDRESS} (i/o timeout|connect: (network is unreachable|no route to host|connection timed out)"
    rf"|connectex: ({_WINDOWS_TIMES_OUT}))"
    r"|https://\S+ .*(Client\.Timeout exceeded|deadline exceeded|TLS handshake timeout)"
)


_REFUSES = (
    rf"{_ADDRESS} (connect: connection refused|connectex: ({_WINDOWS_REFUSED}))"
    r"|https://\S+ ((read|write) tcp \S+ (read|write): connection reset by peer|(unexpected )?EOF\s*$)"
)
_NOT_THESE = rf"{_BY_PROXY}|{_METADATA}|{_MESSAGES}"


def _egress_blocked(s: Situation) -> Sequence[LogLine]:
    """What a proxy has taken and not answered is the proxy's matter."""
    others = rf"{_BY_PROXY}|dial tcp: lookup|{_METADATA}|{_MESSAGES}"
    timeouts = _unproxied(s, _failing_entries(s, _TIMES_OUT, others))
    return _still(s, timeouts) or (_silent_registration(s) if _proxy_of(s) is None else ())


def _unproxied(s: Situation, entries: Sequence[Entry]) -> list[Entry]:
    """Those that no proxy took."""
    return [e for e in entries if re.search(_DIRECT, e.text) or _proxy_of(s, e) is None]


def _endpoint_refused(s: Situation) -> Sequence[LogLine]:
    return _still(s, _unproxied(s, _failing_entries(s, _REFUSES, _NOT_THESE)))


def _silent_registration(s: Situation) -> Sequence[LogLine]:
    """The log ends at the first call, and the clock has gone on; of files alone it has, too, for a call
    that gets through takes no second."""
    if s.log is None or not s.log.entries or is_false(s.agent.running):
        return ()
    last = s.log.entries[-1]
    if "Registering EC2 instance with Systems Manager" not in last.text:
        return ()
    if not isinstance(s.agent.clock, Unknown) and (last.at is None or s.agent.clock - last.at <= SILENCE):
        return ()
    return (last.evidence(),)


# With it, and it alone, Systems Manager is asked for everything (ec2_role_provider.go:126-152).
_FIRST_CALL = "ssm:UpdateInstanceInformation"
# Said of that call alone, in whatever words the refusal comes.
_PROFILE_DENIED = r"with instance profile role credentials\. Err: [^\n]*AccessDenied"
_MAY_NOT = r"AccessDenied(Exception)?: User: \S+ is not authorized to perform: "


def _role_denied(s: Situation) -> Sequence[LogLine]:
    """Which parameters a document may read is no matter of the agent's."""
    if identity_taken(s) == "OnPrem":  # its role belongs to the registration, not to the instance
        return ()
    return _refused(
        rf"{_MAY_NOT}{_FIRST_CALL}|{_PROFILE_DENIED}|AssumeRoleUnauthorizedAccess"  # it does not trust EC2
    )(s) or _lines(rf"{_MAY_NOT}(ssm|ec2messages):", without=rf"{_FIRST_CALL}|ssm:GetParameter")(s)


def _role_missing(s: Situation) -> Sequence[LogLine]:
    """By the warnings: errors.log has only the fallback's refusal, the same where the role is denied.

    Agents of 3.3 leave out why they found none: where the metadata fails them otherwise, that is why.
    """
    reason = "" if not _imds_entries(s) else r"[\s\S]*?status ?code: 404"
    return _refused(rf"^(?>[\s\S]*?{_NO_ROLE}){reason}", without=_NO_ROLE_FOR_IMDS)(s)


def _hybrid_gone(s: Situation) -> Sequence[LogLine]:
    """The service is asked for the registration's token by nothing but the registration: agents tell an
    unknown id, or that it is not authenticated, by version."""
    unknown = _refused(r"Not existing InstanceId mi-")(s)
    if unknown or identity_taken(s) != "OnPrem":
        return unknown
    return _refused(
        r"(RequestManagedInstanceRoleToken|Retrieve credentials produced)\b.*"
        r"(InvalidInstanceId|AccessDeniedException: *($|\n|Authentication failed))",
        without="Systems Manager's instance management role|MachineFingerprintDoesNotMatch",
    )(s)


def _agent_stopped(s: Situation) -> Sequence[LogLine]:
    if is_true(s.agent.running) or s.agent.package == "none":
        return ()
    if is_false(s.agent.running):
        return (_file("/proc", "no process amazon-ssm-agent"),)
    if s.log is not None and s.log.ended and isinstance(s.agent.processes, Unknown):
        return (s.log.ended.evidence(),)
    return ()


def _agent_crashes(s: Situation) -> Sequence[LogLine]:
    if s.log is None or s.agent.binary == "":  # what is not there does not die
        return ()
    return [entry.evidence() for entry in s.log.crashes[-EVIDENCE_LINES:]]


def _agent_missing(s: Situation) -> Sequence[LogLine]:
    if isinstance(s.agent.packages, Unknown) or (s.agent.binary != "" and not s.agent.deb_is_begun):
        return ()
    if not s.agent.packages:
        half = "dpkg left half of it" if s.agent.deb_is_half else "not installed, in no package"
        return (_file("/usr/bin/amazon-ssm-agent", half),)
    if not is_false(s.agent.running):
        return ()
    there = ", ".join(f"{kind} {version}" for kind, version in s.agent.packages.items())
    return (_file("/usr/bin/amazon-ssm-agent", f"gone, while it counts as installed ({there})"),)


def _agent_old(s: Situation) -> Sequence[LogLine]:
    version = s.agent.version
    if not isinstance(version, Unknown):
        return (_file("/usr/bin/amazon-ssm-agent", f"version {version}"),) if is_old(version) else ()
    if s.log is None or s.log.version is None:
        return ()
    said, by = s.log.version
    return (by.evidence(),) if is_old(said) else ()


def versions_of(s: Situation) -> list[str]:
    """Of the agent that is installed, and of the one that the last start was of, as far as they are told."""
    said = s.log.version[0] if s.log and s.log.version else ""
    return [one for one in (s.agent.version, said) if isinstance(one, str) and one]


def is_old(version: str) -> bool:
    return is_true(is_older(version, OLDEST_VERSION))


def _snap_and_deb(s: Situation) -> Sequence[LogLine]:
    packages = s.agent.packages
    if isinstance(packages, Unknown) or not {"snap", "deb"} <= set(packages):
        return ()
    if OFF in s.agent.services.values():
        return ()
    said = [
        f"{kind} {packages[kind]}{f' ({s.agent.services[kind]})' if kind in s.agent.services else ''}"
        for kind in ("deb", "snap")
    ]
    return (_file("/var/lib/dpkg/status", " and ".join(said)),)


def _disk_full(s: Situation) -> Sequence[LogLine]:
    free, inodes = s.agent.disk_free_kb, s.agent.inodes_free
    if not isinstance(inodes, Unknown) and inodes < INODES_LOW:
        return (_file("/var", f"{inodes} inodes free: no file can be made, whatever room there is"),)
    if not isinstance(free, Unknown):
        return (_file("/var", f"{free} KiB free"),) if free < DISK_LOW_KB else ()
    return _lines(_NO_ROOM, without=_NO_WATCHES)(s)


_NO_ROOM = r"no space left on device|disk quota exceeded|There is not enough space on the disk"
# The kernel says the same of its inotify watches, which are no room on a disk (issue 262).
_NO_WATCHES = r"[Ww]atch|inotify|failed to create channel"


def _config_broken(s: Situation) -> Sequence[LogLine]:
    config = s.agent.config
    if not isinstance(config, Unknown) and config.state == "broken":
        return (_file(CONFIG_FILE, config.problem),)
    unloaded = _lines(r"app ?config could not be loaded|Failed to load app config")(s)
    if isinstance(config, Unknown):
        return unloaded
    if config.state == "absent" or is_false(s.agent.running):  # mended since, it may be, by deleting it
        return ()
    # It is JSON, and still not to the agent: a mark of Windows before it, a word where a number belongs.
    return [line for line in unloaded if re.search(r"cannot unmarshal|invalid character 'ï'", line.text)]


# The agent itself calls its region's own names: an interface endpoint's must have been given to it, and so
# must any other that the core or a health ping calls, for these call nothing but Systems Manager.
_OTHER_ENDPOINT = (
    r"(https|wss)://vpce-[0-9a-z-]+\."
    rf"|{_CALLS_SSM_ALONE}"
    r"[\s\S]*?\bPost \"?https://(?!ssm(-fips)?\.)"
)


def _endpoint_override(s: Situation) -> Sequence[LogLine]:
    config = s.agent.config
    if isinstance(config, Unknown):
        return _lines(_OTHER_ENDPOINT)(s)
    return tuple(_file(CONFIG_FILE, endpoint) for endpoint in config.endpoints)


def _region_pinned(s: Situation) -> Sequence[LogLine]:
    config = s.agent.config
    if isinstance(config, Unknown) or not config.region:
        return ()
    return (_file(CONFIG_FILE, f"Agent.Region={config.region}"),)


def _order_override(s: Situation) -> Sequence[LogLine]:
    config = s.agent.config
    if isinstance(config, Unknown):
        return _other_order(s)
    order = config.consumption_order
    # Without a custom identity there is nothing to choose after EC2.
    if order in ((), DEFAULT_ORDER) or (order == DEFAULT_ORDER[:2] and not config.custom_identities):
        return ()
    return (_file(CONFIG_FILE, f"Identity.ConsumptionOrder={list(order)}"),)


def _other_order(s: Situation) -> Sequence[LogLine]:
    """The last start tried other identities than by default, or not the instance's own."""
    if s.log is None or not s.log.checked:
        return ()
    tried = s.log.checked
    if tried == DEFAULT_ORDER[: len(tried)] and not (s.log.gave_up and "EC2" not in tried):
        return ()
    return [e.evidence() for e in _entries(s.log.entries, r"^Checking if agent identity type")][-len(tried) :]


def _custom_identity(s: Situation) -> Sequence[LogLine]:
    config = s.agent.config
    if not isinstance(config, Unknown) and config.custom_identities:
        return (_file(CONFIG_FILE, f"Identity.CustomIdentities={list(config.custom_identities)}"),)
    return _taken(s) if identity_taken(s) == "CustomIdentity" else ()


def _hibernating(s: Situation) -> Sequence[LogLine]:
    """All but the first are hibernate.log's own."""
    return _lines(
        r"Entering SSM Agent hibernate|Agent is in hibernate mode|Backing off health check"
        r"|^Health ping failed with error"
    )(s)


# The agent names the channel before the error as well as after it.
_MESSAGES_FAIL = (
    rf"^(?=[\s\S]*({_MESSAGES}))[\s\S]*"
    r"(dial tcp|no such host|x509:|Client\.Timeout exceeded|deadline exceeded|TLS handshake timeout"
    r"|connection reset by peer|: EOF|status: 5\d\d)"
)
# A channel that breaks is opened again at once; what matters is whether that succeeds.
_CLOSES = r"websocket: close|Reach the retry limit|Failed to close|websocket ping"
# A certificate that is not valid yet is valid: the host's clock is behind.
_NOT_YET = r"x509: certificate has expired or is not yet valid: current time \S+ is before"
# What is between answers with an alert, an old version (agents from 3.3.987 want TLS 1.2), or no TLS.
_NO_TLS = (
    r"remote error: tls: |tls: (server selected unsupported protocol version"
    r"|first record does not look like a TLS handshake|no supported versions)"
)
_OF_CLOUDWATCH = r"[Cc]loud[Ww]atch|LogEvents|[Ll]og ?(Stream|Group)"

RULES: tuple[Rule, ...] = (
    Rule("CONFIG_BROKEN", _config_broken),
    Rule("STALE_HYBRID", _stale_hybrid),
    Rule("CLEARED_NOT_RESTARTED", _cleared_not_restarted),
    Rule(
        "FINGERPRINT_MISMATCH",
        _refused(r"MachineFingerprintDoesNotMatch|Machine configuration has changed more than the allowed"),
    ),
    Rule("HYBRID_GONE", _hybrid_gone),
    Rule("HALF_REPAIRED", _half_repaired),
    Rule("IDENTITY_ORDER_OVERRIDE", _order_override, OF_CONFIG),
    Rule("CUSTOM_IDENTITY", _custom_identity, OF_CONFIG),
    Rule("IMDS_UNREACHABLE", _imds_unreachable, OF_METADATA),
    Rule("IMDS_TOKENS_REQUIRED", _imds_wants_token, OF_TOKENS),
    Rule("PROXY_INTERCEPTS_IMDS", _proxy_intercepts_imds),
    Rule("ENDPOINT_OVERRIDE", _endpoint_override),
    Rule("REGION_PINNED", _region_pinned),
    Rule("PROXY_CONFIGURED", _proxy_configured),
    Rule(
        "CLOCK_SKEW",
        _refused(
            rf"Signature expired:|Signature not yet current|RequestTimeTooSkewed|RequestExpired\b|{_NOT_YET}"
        ),
    ),
    Rule("DNS_FAILS", _failing_calls(r"dial tcp: lookup |no such host", without=rf"{_BY_PROXY}|{_METADATA}")),
    Rule("EGRESS_BLOCKED", _egress_blocked),
    Rule("ENDPOINT_REFUSED", _endpoint_refused),
    Rule(
        "TLS_UNTRUSTED",
        _failing_calls(r"x509: |tls: failed to verify certificate", without=rf"proxyconnect|{_NOT_YET}"),
    ),
    Rule("TLS_FAILS", _failing_calls(_NO_TLS, without="proxyconnect"), OF_TLS),
    Rule("ROLE_MISSING", _role_missing),
    Rule("ROLE_DENIED", _role_denied),
    Rule(
        "THROTTLED", _refused(r"ThrottlingException|Rate exceeded|due to throttling", without=_OF_CLOUDWATCH)
    ),
    Rule(
        "TOKEN_EXPIRED",
        _refused(
            r"ExpiredToken(Exception)?\b|security token included in .* is expired"
            r"|shared credentials are already expired"
        ),
    ),
    Rule(
        "MESSAGES_DENIED",
        _channel_lines(
            r"hannel request failed: unexpected response from the service"
            r" <(AccessDenied|.*Unauthorized request)"
            r"|is not authorized to perform: ssmmessages:"
            r"|Failed to dial websocket, status: 403"
        ),
        OF_CHANNEL,
    ),
    Rule(
        "MESSAGES_UNREACHABLE",
        _channel_lines(_MESSAGES_FAIL, without=f"proxyconnect|<AccessDenied|{_METADATA}|{_CLOSES}"),
        OF_CHANNEL,
    ),
    Rule("HIBERNATING", _hibernating),
    Rule("ORPHAN_WORKER", _orphan_worker, OF_3),
    Rule("CREDENTIALS_SHADOWED", _credentials_shadowed),
    Rule("AGENT_MISSING", _agent_missing, OF_HOST),
    Rule("AGENT_CRASHES", _agent_crashes, OF_HOST),
    Rule("AGENT_STOPPED", _agent_stopped, OF_HOST),
    Rule("AGENT_OLD", _agent_old, OF_HOST),
    Rule("SNAP_AND_DEB", _snap_and_deb, OF_HOST),
    Rule("DISK_FULL", _disk_full, OF_HOST),
)

# How the agent says that it gets no further, whatever the reason.
_NO_FURTHER = (
    r"\[CredentialRefresher\] Retrieve credentials produced|\[Registrar\] failed to register identity"
    r"|Entering SSM Agent hibernate|Health ping failed with error|Failed to get controlchannel token"
    r"|error when calling AWS APIs\. error details|[Ee]rror occurr?ed when starting amazon-ssm-agent"
    r"|EC2RoleProvider Failed to connect to Systems Manager|\[WorkerProvider\] failed to start worker"
)


def unexplained(s: Situation) -> LogLine | None:
    """The newest line of a fault that still holds: all there is to tell where no rule knows its cause."""
    said = _refused(_NO_FURTHER)(s)
    return said[-1] if said else None


VERSIONS = {rule.code: rule.versions.said for rule in RULES}
