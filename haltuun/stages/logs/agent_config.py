"""From what runs on a host to the CloudWatch agent's configuration. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence

from haltuun.model import Frozen, Json, Unknown, is_false
from haltuun.stages.discover.facts import DiscoverFacts, LogFile
from haltuun.stages.logs.names import (
    ADDED,
    MARKER_FILE,
    MARKER_KIND,
    Mode,
    group_name,
    parameter_name,
    tag_value,
)

# What a parameter holds at most (Systems Manager quotas, advanced parameters).
MAX_BYTES = 8192

_DEBIAN = (
    LogFile(path="/var/log/syslog", service="system"),
    LogFile(path="/var/log/auth.log", service="auth"),
)
_RED_HAT = (
    LogFile(path="/var/log/messages", service="system"),
    LogFile(path="/var/log/secure", service="auth"),
)
_BY_OS_ID = {
    "ubuntu": _DEBIAN,
    "debian": _DEBIAN,
    "raspbian": _DEBIAN,
    "sles": (LogFile(path="/var/log/messages", service="system"),),
    "rhel": _RED_HAT,
    "centos": _RED_HAT,
    "rocky": _RED_HAT,
    "almalinux": _RED_HAT,
    "ol": _RED_HAT,
    "amzn": _RED_HAT,
    "fedora": _RED_HAT,
}
# Not shipped: the agents' own files come and go with this very takeover, cloud-init writes at boot only.
_NOT_SHIPPED = frozenset({"amazon-ssm-agent", "amazon-cloudwatch-agent", "haltuun", "cloud-init"})
_KINDS = {"syslog": "system"}
# A date or weekday in a name: the file is another one tomorrow. The agent follows the newest match.
_DATED = re.compile(r"\d{4}-?\d{2}-?\d{2}([_T-]\d{4,6})?|(?<=[-_.])(Mon|Tue|Wed|Thu|Fri|Sat|Sun)(?=[-_.])")


class Wanted(Frozen):
    """The configuration that a host is to have."""

    mode: Mode
    files: tuple[LogFile, ...]
    left_out: int = 0
    text: str
    hash: str

    @property
    def tag(self) -> str:
        return tag_value(self.hash, self.mode)

    @property
    def parameter(self) -> str:
        return parameter_name(self.hash)

    @property
    def kinds(self) -> tuple[str, ...]:
        return (*sorted({file.service for file in self.files}), MARKER_KIND)


def wanted_config(label: str, discover: DiscoverFacts | None, tag: str | None) -> Wanted:
    """What the host is to ship, by what was seen on it; `tag` is its present haltuun:logs."""
    mode = _mode(discover, tag)
    files = log_files(discover)
    kept = files
    text = _text(label, kept, mode)
    while len(text.encode()) > MAX_BYTES:
        kept = kept[:-1]
        text = _text(label, kept, mode)
    return Wanted(
        mode=mode,
        files=kept,
        left_out=len(files) - len(kept),
        text=text,
        hash=short(hashlib.sha256(text.encode()).hexdigest()),
    )


def short(digest: str) -> str:
    """As it stands in names and tags."""
    return digest[:8]


def _text(label: str, files: Sequence[LogFile], mode: Mode) -> str:
    return json.dumps(agent_config(label, files, mode), sort_keys=True, separators=(",", ":"))


def log_files(discover: DiscoverFacts | None) -> tuple[LogFile, ...]:
    """The distribution's own logs whether they exist yet or not, then those of services that do."""
    os_id = discover.os_id if discover else Unknown(unknown="nothing was discovered")
    own: Sequence[LogFile] = (*_DEBIAN, *_RED_HAT)
    if not isinstance(os_id, Unknown):
        own = _BY_OS_ID.get(os_id, own)
    seen: Iterable[LogFile] = ()
    if discover and not isinstance(discover.log_files, Unknown):
        seen = discover.log_files
    found: dict[str, LogFile] = {file.path: file for file in own}
    for file in sorted(seen, key=lambda file: (file.service, file.path)):
        if file.service not in _NOT_SHIPPED:
            path = _DATED.sub("*", file.path)
            found.setdefault(path, LogFile(path=path, service=_kind_of(file.service)))
    return tuple(found.values())


def files_seen(discover: DiscoverFacts | None) -> int | Unknown:
    """How many log files that are to be shipped exist on the host."""
    if discover is None:
        return Unknown(unknown="nothing was discovered of the host")
    if isinstance(discover.log_files, Unknown):
        return discover.log_files
    return sum(file.service not in _NOT_SHIPPED for file in discover.log_files)


def _kind_of(service: str) -> str:
    """The service as a part of a log group's name (a-z, 0-9, and . _ - /)."""
    return _KINDS.get(service) or re.sub(r"[^a-z0-9._-]+", "-", service.lower()).strip("-") or "other"


def agent_config(label: str, files: Sequence[LogFile], mode: Mode) -> Json:
    """The agent's JSON: logs only. Retention is the log group's, set by Haltuun and not by hosts.

    One that is added names no user: the agent takes no two configurations that name different ones, and
    without any it runs as root.
    """
    entries = [
        {
            "file_path": file.path,
            "log_group_name": group_name(label, file.service),
            # A stream's name takes no * and no colon (CloudWatch Logs API, CreateLogStream).
            "log_stream_name": "{instance_id}" + file.path.replace("*", "_").replace(":", "_"),
        }
        for file in files
    ]
    entries.append(
        {
            "file_path": MARKER_FILE,
            "log_group_name": group_name(label, MARKER_KIND),
            "log_stream_name": "{instance_id}",
        }
    )
    logs = {"logs": {"logs_collected": {"files": {"collect_list": entries}}}}
    if mode == "add":
        return logs
    # The system's and the databases' logs are readable for root alone.
    return {"agent": {"run_as_user": "root"}, **logs}


def _mode(discover: DiscoverFacts | None, tag: str | None) -> Mode:
    """A predecessor's configuration stays: ours replaces only where it was seen that there is none.
    Adding is right on a fresh agent too.
    """
    if tag is not None:
        return "add" if tag.endswith(ADDED) else "replace"
    return "replace" if discover is not None and is_false(discover.cloudwatch_config) else "add"
