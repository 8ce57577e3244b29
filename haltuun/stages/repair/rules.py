"""The rules, as data: which fault each names, and how it finds its evidence. Pure.

No evidence, no cause. Only what still holds counts: faults that the log shows before the control
channel came up are over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from haltuun.model import Unknown, is_false, is_true
from haltuun.stages.repair.agentlog import METADATA_ADDRESS, Entry
from haltuun.stages.repair.facts import LogLine
from haltuun.stages.repair.leftovers import CONFIG_FILE
from haltuun.stages.repair.situation import DEFAULT_ORDER, Situation, identity_taken, will_take_onprem

SSM = "/var/lib/amazon/ssm"
CREDENTIALS_FILE = "/root/.aws/credentials"
EVIDENCE_LINES = 3  # of one fault that repeats every few minutes, the newest

# Below it there is no Session Manager (AWS: agent version history).
OLDEST_VERSION = (2, 3, 68, 0)
# Saving the state and writing logs needs some room, and a file each.
DISK_LOW_KB = 20_000
INODES_LOW = 200
# A call into a closed network is silent for about 128 s (TCP's SYN retries).
SILENCE = timedelta(seconds=20)
# An agent with an open channel reports every 5 minutes: what failed and was not said again is over.
OVER = timedelta(hours=1)


Find = Callable[[Situation], Sequence[LogLine]]


# What the rules rest on: the agent's source at 2.0.633, 2.2.24 and 3.3.1142.
EVERY = "agents 2.0 to 3.3.1142; later ones were not checked"
OF_3 = "agents 3.0 to 3.3.1142, whose core and worker are two processes; later ones were not checked"


@dataclass(frozen=True)
class Rule:
    """`versions`: the agents whose behaviour it rests on."""

    code: str
    find: Find
    versions: str = EVERY


# -- evidence -------------------------------------------------------------------------------------


def _file(path: str, text: str) -> LogLine:
    return LogLine(file=path, line=1, text=text)


def _entries(entries: Sequence[Entry], pattern: str, without: str = "") -> list[Entry]:
    """Those (continuation lines included) that match, the newest few."""
    wanted, unwanted = re.compile(pattern), re.compile(without) if without else None
    hits = [
        entry
        for entry in entries
        if wanted.search(entry.text) and not (unwanted and unwanted.search(entry.text))
    ]
    return hits[-EVIDENCE_LINES:]


def _still(s: Situation, hits: Sequence[Entry]) -> Sequence[LogLine]:
    """Nothing where the agent is online and has not said it again for long: it reports every 5 minutes."""
    online = s.log is not None and s.log.connected is not None
    at = hits[-1].at if hits else None
    old = at is not None and s.now is not None and s.now - at > OVER
    return () if online and old else [entry.evidence() for entry in hits]


def _lines(pattern: str, *, without: str = "") -> Find:
    """What the log says since the agent came online."""
    return lambda s: _still(s, _entries(s.open_entries, pattern, without))


def _channel_lines(pattern: str, *, without: str = "") -> Find:
    """What it says since the control channel came up: polling in its place is no remedy."""
    return lambda s: _still(s, _entries(s.log.since_channel() if s.log else (), pattern, without))


def _stale_hybrid(s: Situation) -> Sequence[LogLine]:
    vault = s.agent.vault
    will = will_take_onprem(s.agent)
    found: list[LogLine] = []
    if is_true(will) and not isinstance(vault, Unknown):
        found.append(
            _file(
                f"{SSM}/Vault/Store/RegistrationKey",
                f"instanceID={vault.instance_id} region={vault.region}, private key present",
            )
        )
    if identity_taken(s) == "OnPrem" and not _cleared_not_restarted(s) and not is_false(will):
        found.extend(_taken(s))
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
        cores = [p for p in processes if p.comm == "amazon-ssm-agen"]
        workers = [p for p in processes if p.comm == "ssm-agent-worke"]
        oldest = min((p.started for p in cores), default=None)
        orphans = [p for p in workers if oldest is None or (p.started and p.started < oldest)]
        if orphans:
            return [_file(f"/proc/{p.pid}/comm", f"{p.comm}, without its core") for p in orphans]
    return _lines("Found orphan ssm-agent-worker process")(s) or _speaks_before_its_start(s)


_NO_CREDENTIALS = "[CredentialRefresher] Retrieve credentials produced error"


def _speaks_before_its_start(s: Situation) -> Sequence[LogLine]:
    """A new core ends what a killed one left only once it has credentials (core/app/agent.go:91-97); until
    then the old worker goes on under the old identity."""
    if s.log is None or not s.log.has_start or s.log.took is None or s.log.connected is not None:
        return ()
    since = [entry for entry in s.log.entries if entry.place > s.log.took.place]
    waits = any(_NO_CREDENTIALS in entry.text for entry in since)
    if not waits or any("ssm-agent-worker - v" in entry.text for entry in since):
        return ()
    spoken = [entry for entry in since if entry.text.startswith("[ssm-agent-worker]")]
    return [entry.evidence() for entry in spoken[-EVIDENCE_LINES:]]


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
    return (_file(CREDENTIALS_FILE, "[default] holds a temporary key"),)


def _imds(s: Situation) -> Sequence[LogLine]:
    return _lines(
        r"Failed to get instance info from IMDS|failed to get IMDSv2 token"
        r"|Data from vault is empty.*\n?.*169\.254"  # agents 2.x
    )(s)


def _imds_unreachable(s: Situation) -> Sequence[LogLine]:
    if s.log is not None and s.log.metadata_is_proxied():
        return ()
    return _imds(s)


def _proxy_intercepts_imds(s: Situation) -> Sequence[LogLine]:
    proxied = s.log.metadata_is_proxied() if s.log is not None else None
    lines = _imds(s)
    return (proxied.evidence(), *lines) if proxied is not None and lines else ()


_METADATA = re.escape(METADATA_ADDRESS)
_CALLS = r"send request failed|dial tcp|proxyconnect|Client\.Timeout exceeded|x509:"
_MESSAGES = r"ssmmessages|[Cc]ontrol ?channel|MGSInteractor"


# A service that grants or refuses was reached.
_ANSWERED = re.compile(
    "EC2 registration was successful|Successfully connected with instance profile role credentials"
    "|AccessDenied|Throttling|ExpiredToken|Signature expired|MachineFingerprintDoesNotMatch|InvalidInstanceId"
)


def _failing_calls(pattern: str, *, without: str = "") -> Find:
    """Calls that failed, unless the log shows that they get through again."""

    def find(s: Situation) -> Sequence[LogLine]:
        failed = _entries(s.open_entries, pattern, without)
        if failed and any(
            _ANSWERED.search(entry.text) for entry in s.open_entries if entry.place > failed[-1].place
        ):
            return ()
        return _still(s, failed)

    return find


def _proxy_configured(s: Situation) -> Sequence[LogLine]:
    direct = _failing_calls("proxyconnect")(s)
    if direct:
        return direct
    proxies = s.log.proxies if s.log is not None else {}
    if "https_proxy" not in proxies:
        return ()
    failing = _failing_calls(_CALLS, without=_METADATA)(s)
    return (proxies["https_proxy"][1].evidence(), *failing) if failing else ()


def _egress_blocked(s: Situation) -> Sequence[LogLine]:
    timeouts = _failing_calls(
        r"dial tcp [0-9a-f.:\[\]]+: i/o timeout|https://\S+ .*(Client\.Timeout exceeded|deadline exceeded)",
        without=rf"proxyconnect|dial tcp: lookup|{_METADATA}|{_MESSAGES}",
    )(s)
    return timeouts or _silent_registration(s)


def _silent_registration(s: Situation) -> Sequence[LogLine]:
    """The log ends at the first call, and the clock has gone on."""
    if s.log is None or not s.log.entries or isinstance(s.agent.clock, Unknown) or is_false(s.agent.running):
        return ()
    last = s.log.entries[-1]
    calling = "Registering EC2 instance with Systems Manager" in last.text
    silent = last.at is not None and s.agent.clock - last.at > SILENCE
    return (last.evidence(),) if calling and silent else ()


def _role_denied(s: Situation) -> Sequence[LogLine]:
    return _lines(
        r"AccessDenied(Exception)?: User: \S+ is not authorized to perform: (ssm|ec2messages):"
        r"|AssumeRoleUnauthorizedAccess"  # the role does not trust EC2
    )(s)


def _agent_stopped(s: Situation) -> Sequence[LogLine]:
    if is_true(s.agent.running):
        return ()
    if is_false(s.agent.running) and s.agent.package not in ("none",):
        return (_file("/proc", "no process amazon-ssm-agent"),)
    if s.log is not None and s.log.ended and isinstance(s.agent.processes, Unknown):
        return [e.evidence() for e in s.log.entries if e.text.startswith("[amazon-ssm-agent] Bye.")][-1:]
    return ()


def _agent_missing(s: Situation) -> Sequence[LogLine]:
    if s.agent.package == "none" and s.agent.binary == "":
        return (_file("/usr/bin/amazon-ssm-agent", "not installed, in no package"),)
    return ()


def _agent_old(s: Situation) -> Sequence[LogLine]:
    version = s.agent.version
    if not isinstance(version, Unknown):
        return (_file("/usr/bin/amazon-ssm-agent", f"version {version}"),) if _is_old(version) else ()
    said = (
        [(entry, match) for entry in s.log.entries if (match := _VERSION.search(entry.text))] if s.log else []
    )
    return (said[-1][0].evidence(),) if said and _is_old(said[-1][1].group(1)) else ()


_VERSION = re.compile(r"amazon-ssm-agent - v?(\d+(?:\.\d+)+)")


def _is_old(version: str) -> bool:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})+", version):
        return False
    return tuple(int(part) for part in version.split(".")) < OLDEST_VERSION


def _snap_and_deb(s: Situation) -> Sequence[LogLine]:
    packages = s.agent.packages
    if isinstance(packages, Unknown) or not {"snap", "deb"} <= set(packages):
        return ()
    return (_file("/var/lib/dpkg/status", f"deb {packages['deb']} and snap {packages['snap']}"),)


def _disk_full(s: Situation) -> Sequence[LogLine]:
    free, inodes = s.agent.disk_free_kb, s.agent.inodes_free
    if not isinstance(inodes, Unknown) and inodes < INODES_LOW:
        return (_file("/var", f"{inodes} inodes free: no file can be made, whatever room there is"),)
    if not isinstance(free, Unknown):
        return (_file("/var", f"{free} KiB free"),) if free < DISK_LOW_KB else ()
    return _lines("no space left on device")(s)


def _config_broken(s: Situation) -> Sequence[LogLine]:
    config = s.agent.config
    if not isinstance(config, Unknown):
        return (_file(CONFIG_FILE, config.problem),) if config.state == "broken" else ()
    return _lines("app config could not be loaded")(s)


def _endpoint_override(s: Situation) -> Sequence[LogLine]:
    config = s.agent.config
    if isinstance(config, Unknown):
        return ()
    return tuple(_file(CONFIG_FILE, endpoint) for endpoint in config.endpoints)


def _region_pinned(s: Situation) -> Sequence[LogLine]:
    config = s.agent.config
    if isinstance(config, Unknown) or not config.region:
        return ()
    return (_file(CONFIG_FILE, f"Agent.Region={config.region}"),)


def _order_override(s: Situation) -> Sequence[LogLine]:
    config = s.agent.config
    if isinstance(config, Unknown) or config.consumption_order in ((), DEFAULT_ORDER):
        return ()
    return (_file(CONFIG_FILE, f"Identity.ConsumptionOrder={list(config.consumption_order)}"),)


def _custom_identity(s: Situation) -> Sequence[LogLine]:
    config = s.agent.config
    if not isinstance(config, Unknown) and config.custom_identities:
        return (_file(CONFIG_FILE, f"Identity.CustomIdentities={list(config.custom_identities)}"),)
    return _taken(s) if identity_taken(s) == "CustomIdentity" else ()


def _hibernating(s: Situation) -> Sequence[LogLine]:
    return _lines(r"Entering SSM Agent hibernate")(s)


_NOT_THESE = rf"proxyconnect|{_METADATA}|{_MESSAGES}"
# The agent names the channel before the error as well as after it.
_MESSAGES_FAIL = (
    rf"^(?=[\s\S]*({_MESSAGES}))[\s\S]*"
    r"(dial tcp|no such host|x509:|Client\.Timeout exceeded|deadline exceeded|TLS handshake timeout)"
)

RULES: tuple[Rule, ...] = (
    Rule("STALE_HYBRID", _stale_hybrid),
    Rule("CLEARED_NOT_RESTARTED", _cleared_not_restarted),
    Rule(
        "FINGERPRINT_MISMATCH",
        _lines(r"MachineFingerprintDoesNotMatch|Machine configuration has changed more than the allowed"),
    ),
    Rule("HYBRID_GONE", _lines(r"InvalidInstanceId: Not existing InstanceId mi-")),
    Rule("HALF_REPAIRED", _half_repaired),
    Rule("ORPHAN_WORKER", _orphan_worker, OF_3),
    Rule("CREDENTIALS_SHADOWED", _credentials_shadowed),
    Rule("ROLE_MISSING", _lines(r"EC2RoleRequestError: no EC2 instance role found")),
    Rule("ROLE_DENIED", _role_denied),
    Rule("THROTTLED", _lines(r"ThrottlingException|Rate exceeded|due to throttling")),
    Rule("TOKEN_EXPIRED", _lines(r"ExpiredToken(Exception)?\b|security token included in .* is expired")),
    Rule("CLOCK_SKEW", _lines(r"Signature expired:|Signature not yet current|RequestTimeTooSkewed")),
    Rule(
        "MESSAGES_DENIED",
        _channel_lines(
            r"hannel request failed: unexpected response from the service"
            r" <(AccessDenied|.*Unauthorized request)"
            r"|is not authorized to perform: ssmmessages:"
        ),
    ),
    Rule(
        "MESSAGES_UNREACHABLE",
        _channel_lines(_MESSAGES_FAIL, without=f"proxyconnect|<AccessDenied|{_METADATA}"),
    ),
    Rule("IMDS_UNREACHABLE", _imds_unreachable),
    Rule("PROXY_INTERCEPTS_IMDS", _proxy_intercepts_imds),
    Rule("PROXY_CONFIGURED", _proxy_configured),
    Rule(
        "DNS_FAILS", _failing_calls(r"dial tcp: lookup |no such host", without=rf"proxyconnect|{_METADATA}")
    ),
    Rule("EGRESS_BLOCKED", _egress_blocked),
    Rule(
        "ENDPOINT_REFUSED",
        _failing_calls(r"dial tcp [0-9a-f.:\[\]]+: connect: connection refused", without=_NOT_THESE),
    ),
    Rule(
        "TLS_UNTRUSTED", _failing_calls(r"x509: |tls: failed to verify certificate", without="proxyconnect")
    ),
    Rule("ENDPOINT_OVERRIDE", _endpoint_override),
    Rule("REGION_PINNED", _region_pinned),
    Rule("IDENTITY_ORDER_OVERRIDE", _order_override, OF_3),
    Rule("CUSTOM_IDENTITY", _custom_identity, OF_3),
    Rule("CONFIG_BROKEN", _config_broken),
    Rule("HIBERNATING", _hibernating),
    Rule("AGENT_MISSING", _agent_missing),
    Rule("AGENT_STOPPED", _agent_stopped),
    Rule("AGENT_OLD", _agent_old),
    Rule("SNAP_AND_DEB", _snap_and_deb),
    Rule("DISK_FULL", _disk_full),
)

VERSIONS = {rule.code: rule.versions for rule in RULES}
