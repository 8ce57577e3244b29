"""A host's file tree and metadata service, and the shells in which its scripts are tried.

The scripts look at HALTUUN_ROOT instead of / and ask HALTUUN_METADATA instead of 169.254.169.254; the
tools that they find are those of the folder `bin`, so a test decides what the host has.
"""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SHELLS = ("dash", "busybox sh", "mksh", "bash")
# What POSIX and coreutils give; everything else a test adds by name.
BASE = (
    "awk cat cut date df env find grep head id ls md5sum printf readlink sed"
    " sleep sort tail timeout tr true uname wc"
)


@dataclass
class FakeHost:
    root: Path
    bin: Path
    metadata: str = "127.0.0.1:9"  # the discard port: nobody answers
    env: dict[str, str] = field(default_factory=dict)

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def process(
        self,
        pid: int,
        comm: str,
        exe: str = "",
        *,
        cgroup: str = "",
        parent: int = 1,
        environ: str = "",
        cmdline: str = "",
    ) -> None:
        folder = self.root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        (folder / "comm").write_text(f"{comm}\n")
        (folder / "status").write_text(f"Name:\t{comm}\nPPid:\t{parent}\n")
        (folder / "environ").write_text(environ)
        (folder / "cmdline").write_text(cmdline)
        if exe:
            (folder / "exe").symlink_to(exe)
        if cgroup:
            (folder / "cgroup").write_text(f"0::{cgroup}\n")

    def tool(self, name: str, script: str = "") -> None:
        """A tool of this machine, or a script in its place."""
        path = self.bin / name
        if script:
            path.unlink(missing_ok=True)  # a link: writing would go through it, into this machine's own tool
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
            return
        real = shutil.which(name)
        assert real is not None, f"this machine has no {name}"
        if not path.exists():
            path.symlink_to(real)

    def run(self, shell: str, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        first, *rest = shell.split()
        shell_path = shutil.which(first)
        assert shell_path is not None, f"this machine has no {first}"
        given = {
            "PATH": str(self.bin),
            "HALTUUN_ROOT": str(self.root),
            "HALTUUN_METADATA": self.metadata,
            "LC_ALL": "C",
            **self.env,
            **env,
        }
        return subprocess.run(
            [shell_path, *rest, "-c", script],
            env=given,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def fake_host(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path / "root", tmp_path / "bin")
    host.root.mkdir()
    host.bin.mkdir()
    for name in BASE.split():
        host.tool(name)
    host.write({"proc/1/comm": "systemd\n", "proc/sys/kernel/hostname": "web-01\n", "var/log/syslog": ""})
    return host


@contextmanager
def metadata_service(
    instance_id: str,
    *,
    account: str = "111122223333",
    region: str = "eu-central-1",
    role: str = "",
    tokens: str = "optional",
    role_after: int = 0,
) -> Iterator[str]:
    """Instance metadata with session tokens at 127.0.0.1; `tokens` is off, optional or required."""
    document = f'{{\n  "accountId" : "{account}",\n  "region" : "{region}"\n}}'
    asked_role = [0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer("a-token" if tokens != "off" and self.path == "/latest/api/token" else None, 403)

        def do_GET(self) -> None:
            if tokens == "required" and self.headers.get("X-aws-ec2-metadata-token") != "a-token":
                self._answer(None, 401)
                return
            known = {
                "/latest/meta-data/instance-id": instance_id,
                "/latest/dynamic/instance-identity/document": document,
            }
            if self.path == "/latest/meta-data/iam/security-credentials/":
                asked_role[0] += 1
                self._answer(role if role and asked_role[0] > role_after else None)
                return
            self._answer(known.get(self.path))

        def _answer(self, text: str | None, otherwise: int = 404) -> None:
            body = (text or "").encode()
            self.send_response(200 if text else otherwise)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below with size and time of change: equal before and after means nothing was written."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if os.path.lexists(path)
    }
