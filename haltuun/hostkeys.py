"""Host keys as OpenSSH's known_hosts(5) knows them. Pure, apart from reading the file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path

from haltuun.errors import ConfigError
from haltuun.model import Frozen

DEFAULT_PORT = 22


class HostKey(Frozen):
    algorithm: str  # of the key, not of the signature: "ssh-rsa" also where rsa-sha2-512 signs
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as ssh-keygen -l and the EC2 console output print it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return "SHA256:" + digest.rstrip("=")

    @property
    def line(self) -> str:
        return f"{self.algorithm} {base64.b64encode(self.blob).decode()}"

    @classmethod
    def from_line(cls, line: str) -> HostKey | None:
        """The key of "algorithm base64 …", or None where that is not one."""
        fields = line.split()
        try:
            return cls(algorithm=fields[0], blob=base64.b64decode(fields[1], validate=True))
        except (IndexError, ValueError):  # binascii.Error is one; text beyond ASCII raises it bare
            return None


class Trust(Enum):
    known = "known"
    unknown = "unknown"
    changed = "changed"
    revoked = "revoked"


class KnownHosts:
    """The entries of one file; a file that is not there has none."""

    def __init__(self, text: str) -> None:
        self._entries: list[tuple[str, HostKey]] = []
        self._revoked: list[tuple[str, HostKey]] = []
        for line in text.splitlines():
            self._add(line.strip())

    @classmethod
    def read(cls, path: Path) -> KnownHosts:
        """Raises ConfigError when the file is there and cannot be read."""
        try:
            return cls(path.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            return cls("")
        except OSError as error:
            raise ConfigError(
                f"cannot be read ({error.strerror}).",
                subject=str(path),
                remedy="Make it readable, or correct 'known_hosts' in haltuun.yaml.",
            ) from error

    def _add(self, line: str) -> None:
        if not line or line.startswith("#"):
            return
        into = self._entries
        if line.startswith("@"):
            marker, _, line = line.partition(" ")
            if marker != "@revoked":  # @cert-authority: host certificates are not used here
                return
            into = self._revoked
        patterns, _, rest = line.lstrip().partition(" ")
        key = HostKey.from_line(rest)
        if key is not None:
            into.append((patterns, key))

    def keys(self, address: str, port: int) -> tuple[HostKey, ...]:
        """The keys known for this very address and port."""
        return tuple(key for patterns, key in self._entries if _matches(patterns, _name(address, port)))

    def judge(self, address: str, port: int, offered: HostKey) -> Trust:
        """What the file says of a key that `address` offers.

        Like ssh(1), an entry without a port vouches for a key on another port, but does not
        contradict one.
        """
        name = _name(address, port)
        if any(key == offered and _matches(patterns, name) for patterns, key in self._revoked):
            return Trust.revoked
        known = self.keys(address, port)
        if known:
            return Trust.known if offered in known else Trust.changed
        return Trust.known if offered in self.keys(address, DEFAULT_PORT) else Trust.unknown

    def algorithms(self, address: str, port: int) -> tuple[str, ...]:
        """Algorithms of the known keys: asked for first, lest another key of the same server comes."""
        keys = self.keys(address, port) or self.keys(address, DEFAULT_PORT)
        return tuple(dict.fromkeys(key.algorithm for key in keys))


def prefer(algorithms: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """`algorithms` (of signatures) with those first that a known key can make."""

    def makes(algorithm: str) -> str:
        return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm

    first = [algorithm for algorithm in algorithms if makes(algorithm) in known]
    return (*first, *(algorithm for algorithm in algorithms if algorithm not in first))


def known_name(address: str, port: int) -> str:
    """The host's name as it stands in known_hosts."""
    return _name(address, port)


def _name(address: str, port: int) -> str:
    return address.lower() if port == DEFAULT_PORT else f"[{address.lower()}]:{port}"


def _matches(patterns: str, name: str) -> bool:
    if patterns.startswith("|1|"):
        return _hash_matches(patterns, name)
    found = False
    for pattern in patterns.lower().split(","):
        negated = pattern.startswith("!")
        # Brackets are part of "[address]:port" here, not a set of characters.
        shell = pattern.removeprefix("!").replace("[", "[[]")
        if fnmatchcase(name, shell):
            if negated:
                return False
            found = True
    return found


def _hash_matches(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in hashed.split("|")[2:4])
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
