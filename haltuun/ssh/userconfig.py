"""What the person's own ~/.ssh/config says of a host: name, port, user, keys and the host to go through.

Followed are HostName, Port, User, IdentityFile and ProxyJump, as ssh_config(5) has them. ProxyCommand is not,
and neither are the parts under a Match exec: looking at hosts runs no command of a person's on this machine.
Other files (Include) and the resolver (Canonical…) are left alone, and the log says so.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import paramiko

from haltuun.errors import ConfigError
from haltuun.ssh.keys import load_key

log = logging.getLogger("haltuun")

_SECTION = re.compile(r"\s*(host|match)\b", re.IGNORECASE)
_HOST = re.compile(r"\s*host[\s=]\s*(.*)", re.IGNORECASE)
_MATCH_EXEC = re.compile(r"\s*match\s(.*\s)?!?exec[\s=]", re.IGNORECASE)
_PASSED_OVER = re.compile(r"\s*(include|canonical\w+)\b", re.IGNORECASE)
REMEDY = "Correct it there, or set 'ssh.config: null' in haltuun.yaml to leave the file unread."


@dataclass(frozen=True)
class Said:
    """None or empty: nothing is said of it."""

    address: str | None = None
    port: int | None = None
    user: str | None = None
    key_files: tuple[Path, ...] = ()
    jump: Said | None = None  # the host to go through


def ask(path: Path | None, names: Sequence[str], *, jumping: bool = True) -> Said:
    """By the first of `names` that a Host line of the file names (other than "*"), else by the last.

    Raises:
        ConfigError: the file cannot be read or followed.
    """
    if path is None:
        return Said()
    try:
        if not path.exists():
            return Said()
        config, patterns = _read(path, path.stat().st_mtime_ns)
        named = (name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
        name = next(named, names[-1])
        said = _said(config, name)
        hop = config.lookup(name).get("proxyjump")
        return replace(said, jump=_jump(config, hop, name) if jumping and hop else None)
    except ConfigError:
        raise
    except (paramiko.SSHException, OSError, ValueError, LookupError) as error:
        raise ConfigError(
            f"cannot be followed as a configuration of ssh ({error}).", subject=str(path), remedy=REMEDY
        ) from error


@lru_cache(maxsize=8)
def _read(path: Path, mtime_ns: int) -> tuple[paramiko.SSHConfig, frozenset[str]]:
    """Without what stands under a Match exec, which paramiko would run; and what its Host lines name but "*"
    (paramiko's own list of these fails where there is a Match).
    """
    kept, skipping = [], False
    patterns: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if _SECTION.match(line):
            skipping = bool(_MATCH_EXEC.match(line))
        left_out = _PASSED_OVER.match(line) or (skipping and _SECTION.match(line))
        if left_out:
            log.warning("%s: '%s' is not followed by Haltuun", path, line.strip())
        if not skipping and not left_out:
            kept.append(line)
        if host := _HOST.match(line):
            patterns.update(host[1].split())
    return paramiko.SSHConfig.from_text("\n".join(kept)), frozenset(patterns - {"*"})


def _said(config: paramiko.SSHConfig, name: str) -> Said:
    found = config.lookup(name)
    return Said(
        address=found["hostname"] if found["hostname"] != name else None,
        port=int(found["port"]) if "port" in found else None,
        user=found.get("user"),
        key_files=_usable(found.get("identityfile") or ()),
    )


def _usable(files: Sequence[str]) -> tuple[Path, ...]:
    """Like ssh itself, what is not there is passed over; what has a passphrase is the ssh-agent's matter."""
    usable = []
    for file in files:
        path = Path(file).expanduser()
        try:
            load_key(path)
        except ConfigError:
            continue
        usable.append(path)
    return tuple(usable)


def _jump(config: paramiko.SSHConfig, named: str, name: str) -> Said | None:
    """The one host to go through; it may have a Host line of its own."""
    if named.lower() == "none":
        return None
    if "," in named:
        raise ConfigError(
            f"'ProxyJump {named}' goes through more than one host.",
            subject="~/.ssh/config",
            remedy="Name one that reaches the hosts, there or as ssh.bastion in haltuun.yaml.",
        )
    parts = urlsplit(named if "://" in named else f"ssh://{named}")
    alias = parts.hostname or ""
    own = _said(config, alias)
    if alias == name:
        return None  # "Host *" means the hop itself, too
    return replace(
        own, address=own.address or alias, port=parts.port or own.port, user=parts.username or own.user
    )
