"""The files of one host that bear on the agent, from a folder or an archive. Reads, never unpacks.

An archive comes from a machine that nobody trusts: one with a name that leads out of it, a link, a
device or more data than an agent's files can be is refused as a whole.
"""

from __future__ import annotations

import gzip
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from haltuun.errors import ConfigError
from haltuun.stages.repair.agentlog import FILE as AGENT_LOG
from haltuun.stages.repair.logtail import LogTail

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

# What is read whole, and how much of it at most: dpkg's list of all packages is some megabytes.
SMALL = {
    IDENTITY_CONFIG: 1 << 20,
    MANIFEST: 1 << 20,
    REGISTRATION_KEY: 1 << 20,
    FINGERPRINT: 1 << 20,
    CONFIG: 1 << 20,
    CREDENTIALS: 1 << 20,
    DPKG_STATUS: 32 << 20,
}
_ROOTS = (LOGS, STATE, "etc/amazon/ssm", "root/.aws", DPKG_STATUS)
_LOG_NAME = PurePosixPath(AGENT_LOG).name
ERRORS_LOG = "errors.log"  # the same entries, those from WARN or ERROR up
# How far below PATH a host's root is looked for: bundles have the host's name around it.
DEPTH = 2

# An agent keeps some 150 MB of logs.
MOST_BYTES = 4 << 30
MOST_FILES = 50_000
# Text that repeats packs to a hundredth; zeros to a thousandth.
MOST_RATIO, RATIO_FROM = 400, 256 << 20
_READ = 1 << 20


class Bundle:
    """What was there. Names are as on the host, without the leading slash.

    `small`: contents of the files of SMALL · `logs`: of the agent, each read to what can still matter ·
    `names`: every file and folder under the agent's own · `unread`: file → why not.
    """

    def __init__(self) -> None:
        self.small: dict[str, bytes] = {}
        self.logs: list[LogTail] = []
        self.names: set[str] = set()
        self.unread: dict[str, str] = {}

    def has(self, name: str) -> bool:
        """Whether the file, or the folder with something in it, is there."""
        return name in self.names or any(known.startswith(f"{name}/") for known in self.names)

    def take(self, name: str, stream: BinaryIO | None) -> None:
        """One file; None: it is no plain file."""
        self.names.add(name)
        if stream is None:
            self.unread[name] = "not a plain file"
        elif name in SMALL:
            self._take_small(name, stream)
        elif _is_log(name):
            self._take_log(name, stream)

    def _take_small(self, name: str, stream: BinaryIO) -> None:
        content = stream.read(SMALL[name] + 1)
        if len(content) > SMALL[name]:
            self.unread[name] = f"larger than {SMALL[name] >> 20} MiB"
        else:
            self.small[name] = content

    def _take_log(self, name: str, stream: BinaryIO) -> None:
        tail = LogTail(f"/{name}")
        packed = name.endswith(".gz")
        plain = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if packed else stream
        try:
            tail.feed(cast(BinaryIO, Measured(plain, name)) if packed else plain)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self.unread[name] = "broken off or not gzip; read as far as it goes"
        self.logs.append(tail)


def wanted(name: str) -> bool:
    return name in SMALL or _is_log(name)


def _is_log(name: str) -> bool:
    folder, _, base = name.rpartition("/")
    return folder == LOGS and base.startswith((_LOG_NAME, ERRORS_LOG))


class Measured:
    """A stream that ends in a ConfigError where it turns out to be a bomb."""

    def __init__(self, stream: BinaryIO, name: str, packed_size: int = 0) -> None:
        self._stream, self._name, self._packed, self._seen = stream, name, packed_size, 0

    def read(self, size: int = -1) -> bytes:
        if size > _READ * 64:
            raise refused(self._name, "one of its headers alone claims more than 64 MiB")
        data = self._stream.read(size)
        self._seen += len(data)
        if self._seen > MOST_BYTES:
            raise refused(self._name, f"it unpacks to more than {MOST_BYTES >> 30} GiB")
        if self._packed and self._seen > max(RATIO_FROM, self._packed * MOST_RATIO):
            raise refused(self._name, f"it unpacks to more than {MOST_RATIO} times its size")
        return data

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Forward only, by reading: what is skipped counts, too."""
        if whence or offset < self.tell():
            raise OSError("only forward")
        while (left := offset - self.tell()) > 0 and self.read(min(left, _READ)):
            pass
        return self.tell()


def refused(subject: str | Path, why: str) -> ConfigError:
    return ConfigError(
        f"refused: {why}.",
        subject=str(subject),
        remedy="Pack the host's own files anew, or name a folder that holds them.",
    )


def read_bundle(path: Path) -> Bundle:
    """The host's files in a folder, an archive (.tar, .tgz, .tar.bz2, .tar.xz) or one log file.

    Raises:
        ConfigError: nothing is there, it cannot be read, it is hostile, or it holds several hosts or none.
    """
    try:
        if path.is_dir():
            bundle = _read_folder(path)
        elif not path.exists():
            raise ConfigError("does not exist.", subject=str(path), remedy="Name a folder or an archive.")
        elif not path.is_file():
            raise refused(path, "it is neither a file nor a folder")
        else:
            bundle = _read_file(path)
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror or error}.", subject=str(path), remedy="Check its rights."
        ) from error
    if not bundle.names:
        raise ConfigError(
            "holds no file of an SSM agent.",
            subject=str(path),
            remedy=f"Lay it out as on the host: any of {LOGS}/, {STATE}/, etc/amazon/ssm/, root/.aws/.",
        )
    return bundle


# -- a folder --------------------------------------------------------------------------------------


def _read_folder(path: Path) -> Bundle:
    bundle = Bundle()
    root = _root_of(path)
    if root is None:
        marks = ((LOGS, _LOG_NAME), (LOGS, ERRORS_LOG), (STATE, "Vault"), (STATE, "runtimeconfig"))
        for folder, mark in marks:
            if (path / mark).exists():
                _walk(bundle, path, path, folder)
                break
        return bundle
    for name in _ROOTS:
        _walk(bundle, root, root / name, name)
    return bundle


def _root_of(path: Path) -> Path | None:
    """The folder that is laid out as a host's root: `path`, or the only one below it."""
    level = [path]
    for _ in range(DEPTH + 1):
        found = [folder for folder in level if any((folder / name).exists() for name in _ROOTS)]
        if len(found) > 1:
            raise _several(path, [str(folder.relative_to(path)) for folder in found])
        if found:
            return found[0]
        level = [
            child
            for folder in level
            for child in sorted(folder.iterdir())
            if child.is_dir() and not child.is_symlink()
        ]
    return None


def _several(path: Path, names: list[str]) -> ConfigError:
    shown = ", ".join(sorted(names)[:5])
    return ConfigError(
        f"holds the files of {len(names)} hosts ({shown}).", subject=str(path), remedy="Name one of them."
    )


def _walk(bundle: Bundle, root: Path, path: Path, name: str) -> None:
    """`path` and all below it, as `name`; links are not followed, for they may lead out of `root`."""
    try:
        mode = path.lstat().st_mode
        if not path.resolve().is_relative_to(root.resolve()):
            bundle.unread[name] = "a link that leads out of the folder"
        elif stat.S_ISDIR(mode):
            bundle.names.add(name)
            for child in sorted(path.iterdir()):
                _walk(bundle, root, child, f"{name}/{child.name}")
        elif not wanted(name):
            bundle.names.add(name)
        elif stat.S_ISREG(mode):
            with path.open("rb") as stream:
                bundle.take(name, stream)
        else:
            bundle.take(name, None)
    except FileNotFoundError:
        return
    except OSError as error:
        bundle.unread[name] = f"cannot be read: {error.strerror or error}"


# -- a file ----------------------------------------------------------------------------------------

_MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ": "xz"}


@contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO]:
    import bz2
    import lzma

    opened: dict[str, Callable[[BinaryIO, str], Any]] = {
        "gz": gzip.open,
        "bz2": bz2.open,
        "xz": lzma.open,
    }
    with path.open("rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
        if kind is None:
            yield raw
            return
        with opened[kind](raw, "rb") as stream:
            yield cast(BinaryIO, Measured(stream, str(path), path.stat().st_size))


def _read_file(path: Path) -> Bundle:
    import lzma

    try:
        with _unpacked(path) as stream:
            head = stream.read(512)
        if not _is_tar(head):
            bundle = Bundle()
            with path.open("rb") as raw:
                bundle.take(f"{LOGS}/{_LOG_NAME}{'.gz' if head and _is_gzip(path) else ''}", raw)
            if not any(log.began_at for log in bundle.logs):
                return Bundle()
            return bundle
        with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            return _read_archive(path, archive)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise ConfigError(
            f"is no whole archive ({error}).", subject=str(path), remedy="Copy it again and compare sums."
        ) from error


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as raw:
        return raw.read(2) == b"\x1f\x8b"


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _read_archive(path: Path, archive: tarfile.TarFile) -> Bundle:
    """In one pass, because a packed archive can be read forwards only. Each host has a bundle."""
    hosts: dict[str, Bundle] = {}
    total = 0
    for count, member in enumerate(archive, 1):
        name = _safe_name(path, member)
        total += member.size
        if count > MOST_FILES or total > MOST_BYTES:
            raise refused(path, f"it holds more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB")
        root, inner = _split(name)
        if inner is None:
            continue
        bundle = hosts.setdefault(root, Bundle())
        if member.isreg() and wanted(inner):
            stream = archive.extractfile(member)
            bundle.take(inner, cast(BinaryIO, stream))
        else:
            bundle.names.add(inner)
    if len(hosts) > 1:
        raise _several(path, list(hosts))
    return next(iter(hosts.values()), Bundle())


def _safe_name(path: Path, member: tarfile.TarInfo) -> str:
    shown = ascii(member.name[:200])
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise refused(path, f"{shown} leads out of the archive")
    if member.issym() or member.islnk():
        raise refused(path, f"{shown} is a link")
    if not (member.isreg() or member.isdir()):
        raise refused(path, f"{shown} is a device or a pipe")
    return str(PurePosixPath(member.name))


def _split(name: str) -> tuple[str, str | None]:
    """The host's root in the archive, and the name on the host; None where it is no file of the agent."""
    parts = name.split("/")
    for depth in range(min(DEPTH, len(parts)) + 1):
        inner = "/".join(parts[depth:])
        if any(inner == root or inner.startswith(f"{root}/") for root in _ROOTS):
            return "/".join(parts[:depth]), inner
    # A log folder that was packed alone.
    alone = f"{LOGS}/{parts[-1]}"
    return ("/".join(parts[:-1]), alone) if _is_log(alone) else ("", None)
