"""The files of one host that bear on the agent, from a folder or an archive. Reads, never unpacks.

An archive comes from a machine that nobody trusts: one with a name that leads out of it, a link, a
device or more data than an agent's files can be is refused as a whole.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from haltuun.errors import ConfigError
from haltuun.stages.repair.layout import (
    AGENT_LOG,
    CONFIG,
    CREDENTIALS,
    DPKG_STATUS,
    FINGERPRINT,
    IDENTITY_CONFIG,
    LOGS,
    MANIFEST,
    REGISTRATION_KEY,
    ROOTS,
    STATE,
    SYSTEM_LOGS,
    Place,
    is_renamed,
    log_kind,
    place,
)
from haltuun.stages.repair.logtail import LogTail
from haltuun.stages.repair.plaintext import as_utf8, packed_otherwise, peek, unpacked

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
# How far below PATH a host's root is looked for: bundles have the host's name around it.
DEPTH = 5
# Single files in folders of another layout are looked for so far, and among so many.
LOOSE_DEPTH = 10

# An agent keeps some 150 MB of logs.
MOST_BYTES = 4 << 30
MOST_FILES = 50_000
PATH_MAX, NAME_MAX = 4096, 255  # of Linux
# Text that repeats packs to a hundredth; zeros to a thousandth.
MOST_RATIO, RATIO_FROM = 400, 256 << 20
_READ = 1 << 20

OUTSIDE = "a link that leads out of the folder"


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

    def take(self, name: str, stream: BinaryIO | None, copied: str = "", size: int = 0) -> None:
        """One file; None: it is no plain file. `copied`: its name where it is now, if that is another;
        `size`: its bytes, as packed."""
        self.names.add(name)
        if stream is None:
            self.unread[name] = "not a plain file"
        elif name in SMALL:
            self._take_small(name, stream)
        elif log_kind(name):
            self._take_log(name, stream, copied or f"/{name}", size)

    def add(self, other: Bundle) -> None:
        """What `other` has and this has not."""
        mine = {log.kind for log in self.logs}
        self.logs += [log for log in other.logs if log.kind not in mine]
        self.small = other.small | self.small
        self.unread = other.unread | self.unread
        self.names |= other.names

    def _take_small(self, name: str, stream: BinaryIO) -> None:
        content = stream.read(SMALL[name] + 1)
        if len(content) > SMALL[name]:
            self.unread[name] = f"larger than {SMALL[name] >> 20} MiB"
        else:
            self.small[name] = content

    def _take_log(self, name: str, stream: BinaryIO, label: str, size: int) -> None:
        import lzma

        head, stream = peek(stream)
        if why := packed_otherwise(head):
            self.unread[name] = why
            return
        tail = LogTail(label, log_kind(name) or "agent")
        plain, packed = unpacked(stream)
        try:
            tail.feed(as_utf8(cast(BinaryIO, Measured(plain, name, size)) if packed else plain))
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if not _is_unpackers(error):
                raise
            self.unread[name] = f"broken off or not whole ({error}); read as far as it goes"
        if tail.kind == "system" and tail.is_empty():
            self.names.discard(name)
        else:
            self.logs.append(tail)


def _is_unpackers(error: Exception) -> bool:
    """gzip and bz2 raise OSErrors of what is in a file, too; those are of no system call."""
    return not isinstance(error, OSError) or error.errno is None


def wanted(name: str) -> bool:
    return name in SMALL or log_kind(name) is not None


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
    root = _root_of(path)
    if root is None:
        return _read_loose(path, path, LOOSE_DEPTH, alone=True)
    bundle = Bundle()
    for name in ROOTS:
        _walk(bundle, root, root / name, name)
    # How an agent died stands in the system's logs alone, its own log or not.
    folders = {path: "", root: "", **{root / name: name for name in (SYSTEM_LOGS, f"{SYSTEM_LOGS}/upstart")}}
    for folder, name in folders.items():
        if not os.path.isdir(folder):  # nor where that cannot be told
            continue
        if not name or folder.resolve().is_relative_to(root.resolve()):
            bundle.add(_read_loose(path, folder, 1, alone=False))
        else:
            bundle.unread[name] = OUTSIDE
    return bundle


class _Loose:
    """Files that their names tell, wherever they lie. Two of one name are of two hosts; of others that may
    be the same file of the host's, the one that still has its name counts, else the first."""

    def __init__(self) -> None:
        self.bundle = Bundle()
        self.twice: list[str] = []
        self._left_out: dict[str, str] = {}
        self._taken: dict[str, str] = {}

    def takes(self, name: str, copied: str) -> bool:
        """Whether `copied` is to be read as `name`."""
        other = self._taken.setdefault(name, copied)
        if other == copied:
            return True
        if not is_renamed(copied, other):
            self.twice = self.twice or [other, copied]
            return False
        if is_renamed(copied, name):
            self._left_out[copied] = f"left out, as {other} is taken for the same file"
            return False
        self.bundle.logs = [log for log in self.bundle.logs if log.file != other]
        self._left_out[other] = f"left out, as {copied} is taken for the same file"
        self._taken[name] = copied
        return True

    def alone(self, path: Path) -> Bundle:
        """Where there is no host's root besides."""
        if self.twice:
            raise _several(path, self.twice)
        self.bundle.unread |= self._left_out
        return self.bundle


def _read_loose(path: Path, folder: Path, depth: int, *, alone: bool) -> Bundle:
    """Files that their names tell, wherever they lie in `folder`; links are not followed.

    `alone`: there is no host's root besides, so that two of a name are of two hosts.
    """
    loose = _Loose()
    bundle = loose.bundle
    seen = 0
    level = [folder]
    for _ in range(depth):
        children = [child for parent in level for child in _children(path, parent, bundle.unread)]
        seen += len(children)
        if seen > MOST_FILES:
            raise refused(path, f"it holds more than {MOST_FILES} files and no host's root")
        for child in children:
            copied = child.relative_to(path).as_posix()
            if found := place(copied):
                if not wanted(found.name) or _is_folder(child):
                    bundle.names.add(found.name)
                elif loose.takes(found.name, copied):
                    _take_loose(bundle, found.name, child, copied)
        level = [child for child in children if _is_folder(child)]
    return loose.alone(path) if alone else bundle


def _take_loose(bundle: Bundle, name: str, file: Path, copied: str) -> None:
    try:
        info = file.lstat()
        if not stat.S_ISREG(info.st_mode):
            bundle.take(name, None)
            return
        with file.open("rb") as stream:
            bundle.take(name, stream, copied, info.st_size)
    except OSError as error:
        bundle.unread[name] = f"cannot be read: {error.strerror or error}"


def _children(top: Path, folder: Path, unread: dict[str, str]) -> list[Path]:
    """A folder below `top` that cannot be read is noted in `unread`."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        if folder == top:
            raise
        unread[folder.relative_to(top).as_posix()] = f"cannot be read: {error.strerror or error}"
        return []


def _is_folder(path: Path) -> bool:
    """And no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:  # what is in a folder that only its owner may enter
        return False


def _is_root(folder: Path) -> bool:
    try:
        return any((folder / name).exists() for name in ROOTS)
    except OSError:
        return False


def _root_of(path: Path) -> Path | None:
    """The folder that is laid out as a host's root: `path`, or the only one below it."""
    level = [path]
    for _ in range(DEPTH + 1):
        if len(level) > MOST_FILES:
            break
        found = [folder for folder in level if _is_root(folder)]
        if len(found) > 1:
            raise _several(path, [str(folder.relative_to(path)) for folder in found])
        if found:
            return found[0]
        level = [child for folder in level for child in _children(path, folder, {}) if _is_folder(child)]
    return None


def _several(path: Path, names: list[str]) -> ConfigError:
    shown = ", ".join(sorted(names)[:5])
    return ConfigError(
        f"holds the files of {len(names)} hosts ({shown}).", subject=str(path), remedy="Name one of them."
    )


def _walk(bundle: Bundle, root: Path, path: Path, name: str) -> None:
    """`path` and all below it, as `name`; links are not followed, for they may lead out of `root`."""
    try:
        info = path.lstat()
        mode = info.st_mode
        if not path.resolve().is_relative_to(root.resolve()):
            bundle.unread[name] = OUTSIDE
        elif stat.S_ISDIR(mode):
            bundle.names.add(name)
            for child in sorted(path.iterdir()):
                _walk(bundle, root, child, f"{name}/{child.name}")
        elif not wanted(name):
            bundle.names.add(name)
        elif stat.S_ISREG(mode):
            with path.open("rb") as stream:
                bundle.take(name, stream, size=info.st_size)
        else:
            bundle.take(name, None)
    except FileNotFoundError:
        return
    except OSError as error:
        bundle.unread[name] = f"cannot be read: {error.strerror or error}"


# -- a file ----------------------------------------------------------------------------------------


@contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        plain, packed = unpacked(raw)
        if packed:
            yield cast(BinaryIO, Measured(plain, str(path), path.stat().st_size))
        else:
            raw.seek(0)
            yield raw


def _read_file(path: Path) -> Bundle:
    import lzma

    try:
        with _unpacked(path) as stream:
            head = stream.read(512)
        if why := packed_otherwise(head):
            raise ConfigError(
                f"is {why}.",
                subject=str(path),
                remedy="Unpack it and name the folder, or pack it as .tgz.",
            )
        if not _is_tar(head):
            return _read_log(path)
        with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            return _read_archive(path, archive)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if not _is_unpackers(error):
            raise
        raise ConfigError(
            f"is no whole archive ({error}).", subject=str(path), remedy="Copy it again and compare sums."
        ) from error


def _read_log(path: Path) -> Bundle:
    """One file that is no archive: a log, whatever its name."""
    found = place(path.name)
    name = found.name if found is not None and log_kind(found.name) else f"{LOGS}/{AGENT_LOG}"
    bundle = Bundle()
    with path.open("rb") as raw:
        bundle.take(name, raw, path.name, path.stat().st_size)
    return bundle if any(log.speaks for log in bundle.logs) else Bundle()


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _read_archive(path: Path, archive: tarfile.TarFile) -> Bundle:
    """In one pass, because a packed archive can be read forwards only. Each host has a bundle."""
    hosts: dict[str, Bundle] = {}
    loose = _Loose()
    total = 0
    for count, member in enumerate(archive, 1):
        copied = _safe_name(path, member)
        total += member.size
        if count > MOST_FILES or total > MOST_BYTES:
            raise refused(path, f"it holds more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB")
        found = place(copied)
        if found is None:
            continue
        bundle = loose.bundle if found.root is None else hosts.setdefault(found.root, Bundle())
        if not (member.isreg() and wanted(found.name)):
            bundle.names.add(found.name)
            continue
        if found.root is None and not loose.takes(found.name, copied):
            continue
        stream = cast(BinaryIO, archive.extractfile(member))
        bundle.take(found.name, stream, _label(copied, found), member.size)
    if len(hosts) > 1:
        raise _several(path, list(hosts))
    host = next(iter(hosts.values()), None)
    if host is None:
        return loose.alone(path)
    host.add(loose.bundle)
    return host


def _label(copied: str, found: Place) -> str:
    return copied if found.root is None else f"/{found.name}"


def _safe_name(path: Path, member: tarfile.TarInfo) -> str:
    shown = ascii(member.name[:200])
    if len(member.name) > PATH_MAX or max(map(len, member.name.split("/"))) > NAME_MAX:
        raise refused(path, f"{shown}… is longer than a host's names can be")
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise refused(path, f"{shown} leads out of the archive")
    if member.issym() or member.islnk():
        raise refused(path, f"{shown} is a link")
    if not (member.isreg() or member.isdir()):
        raise refused(path, f"{shown} is a device or a pipe")
    return str(PurePosixPath(member.name))
