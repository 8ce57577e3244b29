"""Real sshd on loopback, in a mount namespace of its own: its users, sudoers and /var/lib/haltuun are not
this machine's, and nothing can be executed from /tmp and /var/lib/haltuun, as on hardened hosts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from haltuun.config import SshConfig
from haltuun.ssh import Endpoint, SshTransport, open_ssh

# name → (login shell, line for sudoers)
USERS = {
    "ubuntu": ("/bin/bash", "ubuntu ALL=(ALL) NOPASSWD: ALL"),
    "admin": ("/bin/sh", "admin ALL=(ALL) NOPASSWD: ALL"),
    "nosudo": ("/bin/sh", ""),
    "asked": ("/bin/sh", "asked ALL=(ALL) ALL"),
    "ttyonly": ("/bin/bash", "ttyonly ALL=(ALL) NOPASSWD: ALL\nDefaults:ttyonly requiretty"),
    "noshell": ("/usr/sbin/nologin", ""),
    "seashell": ("/usr/bin/tcsh", "seashell ALL=(ALL) NOPASSWD: ALL"),
    "caged": ("/bin/rbash", "caged ALL=(ALL) NOPASSWD: ALL"),
    "busy": ("/usr/bin/mksh", "busy ALL=(ALL) NOPASSWD: ALL"),
}

_ENTER = """set -e
mount --make-rprivate /
for file in passwd group shadow sudoers; do mount --bind "$1/etc/$file" "/etc/$file"; done
mkdir -p /run/sshd /var/lib/haltuun
mount -t tmpfs tmpfs /run/sshd
chmod 755 /run/sshd
mount --bind "$1/haltuun" /var/lib/haltuun
mount -o remount,bind,noexec /var/lib/haltuun
mount --bind /tmp /tmp
mount -o remount,bind,noexec /tmp
shift
exec "$@"
"""
_IN_ITS_OWN_MOUNTS = ("unshare", "--mount", "sh", "-c", _ENTER, "sh")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def keygen(path: Path, kind: str = "ed25519", *options: str) -> Path:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", path.name, "-f", str(path), *options]
    subprocess.run(command, check=True)
    return path


class Book:
    """A memory in the shape of ssh.Memory."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def recall(self, key: str) -> str | None:
        return self.entries.get(key)

    def remember(self, key: str, value: str) -> None:
        self.entries[key] = value


@dataclass
class Sshd:
    """One server; `options` are lines of its sshd_config."""

    folder: Path
    options: Sequence[str] = ()
    host_key: str = "ed25519"
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        etc = self.folder / "etc"
        etc.mkdir(parents=True)
        (self.folder / "haltuun").mkdir(mode=0o700)
        # mkdtemp's folders are closed to others, and sshd wants every folder above authorized_keys its own.
        self._write_users(etc)
        keygen(self.folder / "host_key", self.host_key)

    def _write_users(self, etc: Path) -> None:
        passwd = ["root:x:0:0:root:/root:/bin/sh", "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin"]
        shadow, group = ["root:*:19000::::::"], ["root:x:0:", "nogroup:x:65534:"]
        sudoers = ["root ALL=(ALL) ALL"]
        passwd.append("nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin")
        for uid, (name, (shell, rule)) in enumerate(USERS.items(), start=2001):
            home = self.home(name)
            home.mkdir(parents=True)
            os.chown(home, uid, uid)
            passwd.append(f"{name}:x:{uid}:{uid}::{home}:{shell}")
            shadow.append(f"{name}:*:19000::::::")
            group.append(f"{name}:x:{uid}:")
            sudoers.append(rule)
        for file, lines in (("passwd", passwd), ("shadow", shadow), ("group", group), ("sudoers", sudoers)):
            (etc / file).write_text("\n".join(lines) + "\n")
        (etc / "sudoers").chmod(0o440)
        (etc / "shadow").chmod(0o640)
        for path in (self.folder, *self.folder.parents):
            if path.stat().st_uid == 0 and path != Path("/tmp"):
                path.chmod(path.stat().st_mode | 0o011)

    def home(self, user: str) -> Path:
        return self.folder / "home" / user

    @property
    def root(self) -> Path:
        """What the host sees as /var/lib/haltuun."""
        return self.folder / "haltuun"

    def allow(self, public_key: Path, *users: str, prefix: str = "") -> None:
        for user in users:
            with (self.folder / f"keys-{user}").open("a") as file:
                file.write(prefix + public_key.with_suffix(".pub").read_text())

    def start(self) -> Sshd:
        config = self.folder / "sshd_config"
        lines = [
            *self.options,
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host_key",
            f"AuthorizedKeysFile {self.folder}/keys-%u",
            f"PidFile {self.folder}/pid",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin yes",
            "LogLevel VERBOSE",
        ]
        config.write_text("\n".join(lines) + "\n")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_IN_ITS_OWN_MOUNTS, str(self.folder), "/usr/sbin/sshd", "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 10
        while "Server listening" not in self.log.read_text():
            assert self._process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return self

    @property
    def log(self) -> Path:
        return self.folder / "sshd.log"

    def sessions(self) -> list[int]:
        """The processes of sshd that serve connections."""
        assert self._process is not None
        return [pid for pid in _descendants(self._process.pid) if _comm(pid) == "sshd"]

    def cut(self) -> None:
        """Every connection breaks; what was started stays."""
        for pid in self.sessions():
            _kill(pid)

    def stop(self) -> None:
        if self._process is None:
            return
        jobs = [pid for pid in _everyone() if _root_is(pid, self.root)]
        for pid in (*_descendants(self._process.pid), *jobs, self._process.pid):
            _kill(pid)
        self._process.wait(10)
        self._process = None
        self.log.write_text("")

    def known_hosts(self, path: Path) -> Path:
        fields = (self.folder / "host_key.pub").read_text().split()
        path.write_text(f"[127.0.0.1]:{self.port} {fields[0]} {fields[1]}\n")
        return path

    def connect(self, ssh: SshConfig, *users: str, book: Book | None = None) -> SshTransport:
        return open_ssh(self.endpoint(*users), ssh, book or Book(), "run-1")

    def endpoint(self, *users: str, hint: str | None = None, port: int | None = None) -> Endpoint:
        return Endpoint(
            id="i-0123456789abcdef0",
            label="i-0123456789abcdef0 web-01",
            address="127.0.0.1",
            port=port or self.port,
            users=users or ("ubuntu",),
            key_hint=hint,
        )


def kill_tree(pid: int) -> None:
    for child in (*_descendants(pid), pid):
        _kill(child)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _everyone() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _descendants(pid: int) -> list[int]:
    parents = {child: int(stat[1]) for child in _everyone() if (stat := _stat(child))}
    found: list[int] = []
    for child, parent in parents.items():
        if parent == pid:
            found += [child, *_descendants(child)]
    return found


def _root_is(pid: int, haltuun: Path) -> bool:
    """Whether the process has `haltuun` as its /var/lib/haltuun."""
    try:
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return False
    return any(
        line.split()[4] == "/var/lib/haltuun" and str(haltuun).endswith(line.split()[3])
        for line in mounts.splitlines()
    )


@contextmanager
def ssh_agent(key: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent that holds the key, and is asked by this process."""
    place = key.with_suffix(".agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        deadline = time.monotonic() + 5
        while not place.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        subprocess.run(["ssh-add", "-q", str(key)], check=True, env=dict(os.environ))
        yield
    finally:
        agent.kill()
        agent.wait()
