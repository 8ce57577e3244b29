"""Where a copied file stood on its host. Pure.

People copy a whole root, a folder of it, single files into one folder, or what Windows has in their place.
"""

from __future__ import annotations

import re
from typing import Literal

from haltuun.model import Frozen

LOGS = "var/log/amazon/ssm"
STATE = "var/lib/amazon/ssm"
CONFIG = "etc/amazon/ssm/amazon-ssm-agent.json"
CREDENTIALS = "root/.aws/credentials"
DPKG_STATUS = "var/lib/dpkg/status"
IDENTITY_CONFIG = f"{STATE}/runtimeconfig/identity_config.json"
MANIFEST = f"{STATE}/Vault/Manifest"
REGISTRATION_KEY = f"{STATE}/Vault/Store/RegistrationKey"
FINGERPRINT = f"{STATE}/Vault/Store/InstanceFingerprint"
REGISTRATION = f"{STATE}/registration"
# Either is there while the agent is installed as a snap.
SNAP = ("snap/amazon-ssm-agent", "etc/systemd/system/snap.amazon-ssm-agent.amazon-ssm-agent.service")

# What makes a folder the root of a host.
ROOTS = (LOGS, STATE, "etc/amazon/ssm", "root/.aws", DPKG_STATUS, *SNAP)
# Where the journal or syslog may stand in a root; the agent's own words are in there, too.
SYSTEM_LOGS = "var/log"

AGENT_LOG = "amazon-ssm-agent.log"
# The same entries, those of ERROR and up; and what a hibernating agent says.
ERROR_LOGS = ("errors.log", "hibernate.log")
_SYSTEM_LOG = re.compile(
    r"(syslog|messages|daemon\.log|journalctl)(([-._].*)?\.(log|txt))?([-.]\d[\d.-]*)?(\.(gz|bz2|xz|old))?$"
    r"|.*journal.*\.(log|txt)(\.\w+)?$"
)
# With a host's name or a number put to it; what follows ".log" is a rotation's.
_RENAMED_LOG = re.compile(r".*ssm-agent.*?\.(?:log|txt)((?:[.-].*)?)$")
_BY_NAME = {
    "identity_config.json": IDENTITY_CONFIG,
    "amazon-ssm-agent.json": CONFIG,
    "RegistrationKey": REGISTRATION_KEY,
    "InstanceFingerprint": FINGERPRINT,
    "registration": REGISTRATION,
}
_OF_STATE = re.compile(r"(?:Vault|runtimeconfig|mi-[0-9a-f]{8,}|i-[0-9a-f]{8,})$")

Kind = Literal["agent", "system", "errors"]


def is_renamed(copied: str, name: str) -> bool:
    """Whether the two differ in more than their folders."""
    return copied.rpartition("/")[2] != name.rpartition("/")[2]


class Place(Frozen):
    """`root`: of the host, within what was copied; None: the name alone tells, not where it stands."""

    root: str | None
    name: str  # as on the host, without the leading slash


def place(copied: str) -> Place | None:
    """`copied`: relative, with slashes. None: no file of an agent."""
    framed = f"/{copied}/"
    roots = [at for root in ROOTS if (at := framed.find(f"/{root}/")) >= 0]
    if roots:
        at = min(roots)
        return Place(root=copied[: max(0, at - 1)], name=copied[at:])
    name = _by_name(copied.split("/"))
    return Place(root=None, name=name) if name else None


def _by_name(parts: list[str]) -> str | None:
    base = parts[-1]
    if base.startswith(AGENT_LOG) and "upstart" in parts[:-1]:  # what it printed, as init kept it
        return f"{SYSTEM_LOGS}/upstart/{base}"
    if base.startswith((AGENT_LOG, *ERROR_LOGS)):
        return f"{LOGS}/{base}"
    if _SYSTEM_LOG.match(base):
        return f"{SYSTEM_LOGS}/{base}"
    if renamed := _RENAMED_LOG.match(base):
        return f"{LOGS}/{AGENT_LOG}{renamed.group(1)}"
    if base in _BY_NAME:
        return _BY_NAME[base]
    for depth, part in enumerate(parts):
        if _OF_STATE.match(part):
            return "/".join((STATE, *parts[depth:]))
    return None


def log_kind(name: str) -> Kind | None:
    """Of a name on the host; None: it is no log that is read."""
    folder, _, base = name.rpartition("/")
    if folder == LOGS:
        if base.startswith(AGENT_LOG):
            return "agent"
        return "errors" if base.startswith(ERROR_LOGS) else None
    if folder == f"{SYSTEM_LOGS}/upstart" or (folder == SYSTEM_LOGS and _SYSTEM_LOG.match(base)):
        return "system"
    return None
