"""What the person's own ~/.ssh/config says of a host: name, port, user, keys and the host to go through.

Followed are HostName, Port, User, IdentityFile and ProxyJump, as ssh_config(5) has them. ProxyCommand is not,
and neither are the parts under a Match exec: looking at hosts runs no command of a person's on this machine.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import paramiko

from haltuun.errors import ConfigError
from haltuun.ssh.keys import load_key

log = logging.getLogger("haltuun")

_SECTION = re.compile(r"\s*(host|match)\b", re.IGNORECASE)
_MATCH_EXEC = re.compile(r"\s*match\b.*\bexec\b", re.IGNORECASE)
NOBODY = "a-name-that-nobody-has.invalid"
REMEDY = "Correct it there, or set 'ssh.config: null' in haltuun.yaml to leave the file unread."


@dataclass(frozen=True)
class Said:
    """None or empty: nothing is said of it. `jump` is as ssh.bastion in haltuun.yaml."""

    address: str | None = None
    port: int | None = None
    user: str | None = None
    key_files: tuple[Path, ...] = ()
    jump: str | None = None


def ask(path: Path | None, names: Sequence[str]) -> Said:
    """By the first of `names` that a Host line of the file means (other than "*"), else by the last.

    Raises:
        ConfigError: the file cannot be read or followed.
    """
    if path is None or not path.exists():
        return Said()
    try:
        config = _read(path, path.stat().st_mtime_ns)
        name = next((name for name in names if _is_meant(config, name)), names[-1])
        found = config.lookup(name)
        return Said(
            address=found["hostname"] if found["hostname"] != name else None,
            port=int(found["port"]) if "port" in found else None,
            user=found.get("user"),
            key_files=_usable(found.get("identityfile") or ()),
            jump=_jump(config, found),
        )
    except ConfigError:
        raise
    except (paramiko.SSHException, OSError, ValueError, LookupError) as error:
        raise ConfigError(
            f"cannot be followed as a configuration of ssh ({error}).", subject=str(path), remedy=REMEDY
        ) from error


@lru_cache(maxsize=8)
def _read(path: Path, mtime_ns: int) -> paramiko.SSHConfig:
    """Without what stands under a Match exec, which paramiko would run."""
    kept, skipping = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        if _SECTION.match(line):
            skipping = bool(_MATCH_EXEC.match(line))
            if skipping:
                log.warning("%s: '%s' is not followed: it runs a command", path, line.strip())
        if not skipping:
            kept.append(line)
    return paramiko.SSHConfig.from_text("\n".join(kept))


def _is_meant(config: paramiko.SSHConfig, name: str) -> bool:
    """It says something of this name that it does not say of a name that nobody has."""
    return _options(config, name) != _options(config, NOBODY)


def _options(config: paramiko.SSHConfig, name: str) -> dict[str, Any]:
    return {key: value for key, value in config.lookup(name).items() if value != name}


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


def _jump(config: paramiko.SSHConfig, found: Mapping[str, Any]) -> str | None:
    """user@address:port of the one host to go through; it may have a Host line of its own."""
    named = found.get("proxyjump")
    if not named or named.lower() == "none":
        return None
    if "," in named:
        raise ConfigError(
            f"'ProxyJump {named}' goes through more than one host.",
            subject="~/.ssh/config",
            remedy="Name one that reaches the hosts, there or as ssh.bastion in haltuun.yaml.",
        )
    user, _, rest = named.rpartition("@")
    alias, colon, port = rest.partition(":")
    own = config.lookup(alias)
    user = user or own.get("user") or ""
    port = port if colon else own.get("port", "22")
    return f"{user}@{own['hostname']}:{port}" if user else f"{own['hostname']}:{port}"
