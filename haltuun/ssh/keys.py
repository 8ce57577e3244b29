"""Private keys: loaded by their type, and put in the order in which they are offered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import paramiko

from haltuun.config import SshConfig
from haltuun.errors import ConfigError
from haltuun.hostkeys import HostKey


def public_part(key: paramiko.PKey) -> HostKey:
    return HostKey(algorithm=key.get_name(), blob=key.asbytes())


@dataclass(frozen=True)
class Login:
    user: str
    key: paramiko.PKey
    name: str  # of the key file, or the agent's comment

    @property
    def id(self) -> str:
        return json.dumps({"user": self.user, "key": public_part(self.key).fingerprint})


def load_keys(ssh: SshConfig, more: Sequence[Path] = ()) -> list[tuple[str, paramiko.PKey]]:
    """(name, key) of each configured key file; when none is configured, of `more` and the ssh-agent's keys.

    Raises:
        ConfigError: naming the file that is missing, unreadable, encrypted or no private key.
    """
    if ssh.key_files is None:
        of_agent = [(key.comment or "ssh-agent", key) for key in paramiko.Agent().get_keys()]
        return [*((path.name, load_key(path)) for path in more), *of_agent]
    return [(path.name, load_key(path)) for path in ssh.key_files]


def load_key(path: Path) -> paramiko.PKey:
    """Raises ConfigError."""
    try:
        stat = path.stat()
        return _load_key(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise ConfigError(
            "there is no such key file." if isinstance(error, FileNotFoundError) else f"{error.strerror}.",
            subject=str(path),
            remedy="Correct 'ssh.key_files' in haltuun.yaml, or leave it out to use ssh-agent.",
        ) from error
    except TypeError as error:  # cryptography's word for a missing passphrase
        raise ConfigError(
            "the key is encrypted with a passphrase.",
            subject=str(path),
            remedy="Add it to ssh-agent (ssh-add) and leave 'ssh.key_files' out.",
        ) from error
    except Exception as error:
        raise ConfigError(
            "is not a private key that can be used (RSA, ECDSA or Ed25519; PEM or OpenSSH format).",
            subject=str(path),
            remedy="Name the private key file, as EC2 gave it.",
        ) from error


@lru_cache(maxsize=64)
def _load_key(path: Path, mtime_ns: int, size: int) -> paramiko.PKey:
    key: paramiko.PKey = paramiko.PKey.from_path(path)
    return key


def likeliest_first(
    users: Sequence[str], keys: Sequence[tuple[str, paramiko.PKey]], *, last: str | None, hint: str | None
) -> list[Login]:
    """All of users × keys: what worked last, then the key named like EC2's KeyName, then the others."""
    wanted = (hint or "").lower()

    def unlikely(login: Login) -> tuple[bool, bool]:
        return (login.id != last, not wanted or wanted not in login.name.lower())

    return sorted((Login(user, key, name) for user in users for name, key in keys), key=unlikely)
