"""The base image of all boxes: a small Debian with OpenSSH, made once by debootstrap and then cached.

The image has no Python on PATH. The interpreter that the stand-ins run on is unpacked under /opt/lab/py, as
dpkg never installed it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

CACHE = Path("/var/cache/haltuun-lab")
# command -> Debian package
TOOLS = {
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "dpkg-deb": "dpkg",
    "tar": "tar",
}
INCLUDE = (
    "openssh-server",
    "ca-certificates",
    "curl",
    "wget",
    "procps",
    "iproute2",
    "openssl",
    "sudo",
)
# Raised when what is put into the image changes, so that an old cache is not taken.
RECIPE = "1"
Progress = Callable[[str], None]

LABPY = """#!/bin/sh
# The interpreter of the lab's stand-ins; it finds its library beside itself, so nothing is exported.
exec /opt/lab/py/usr/bin/python3 -s -S "$@"
"""


@dataclass(frozen=True)
class Mirror:
    """Where this machine gets its Debian packages from, as apt is configured."""

    uri: str
    suite: str
    proxy: str = ""


def missing_tools() -> list[str]:
    """Debian packages that the lab needs and this machine lacks."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None})


def install_tools(progress: Progress) -> None:
    """Install what is missing with apt; the lab runs as root on Debian, so this is allowed."""
    missing = missing_tools()
    if not missing:
        return
    remedy = f"Run: apt-get install -y --no-install-recommends {' '.join(missing)}"
    if shutil.which("apt-get") is None:
        what = ", ".join(missing)
        raise LabError(f"The lab needs {what}, and there is no apt-get here.", "Use a Debian machine.")
    progress(f"installing {' '.join(missing)}")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if subprocess.run(command, env=env, capture_output=True).returncode != 0:
        subprocess.run(["apt-get", "update"], env=env, capture_output=True)
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise LabError(f"apt could not install {', '.join(missing)}: {_last_line(done.stderr)}", remedy)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


def _apt(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def _codename() -> str:
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    return ""


def _main_archive(suite: str) -> str:
    columns = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    for row in _apt("apt-get", "indextargets", "--format", columns, "Created-By: Packages").splitlines():
        release, component, uri = row.split(" ", 2)
        if release == suite and component == "main":
            return uri
    return ""


def find_mirror() -> Mirror:
    """The mirror of this machine's own release, read from apt's configuration."""
    suite = _codename()
    # apt lists only the indexes that it has downloaded, and a fresh machine has none yet
    uri = _main_archive(suite) or (_apt("apt-get", "update") and _main_archive(suite))
    if uri:
        proxy = _apt("apt-config", "shell", "PROXY", "Acquire::http::Proxy")
        return Mirror(uri.rstrip("/"), suite, proxy.partition("=")[2].strip().strip("'"))
    raise LabError(
        f"apt on this machine has no source for the main archive of {suite or 'its release'}.",
        "Configure apt with a Debian mirror and run apt-get update.",
    )


def base_key(suite: str) -> str:
    recipe = "\n".join((RECIPE, suite, platform.machine(), LABPY, *INCLUDE))
    return f"{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def ensure_base(progress: Progress, cache: Path = CACHE) -> Path:
    """The folder of the base image; made when it is not cached yet (about 40 s)."""
    suite = _codename()
    target = cache / base_key(suite)
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            install_tools(progress)
            progress("building the base image of the hosts (once, about 40 s)")
            _build(find_mirror(), target)
    return target


def _build(mirror: Mirror, target: Path) -> None:
    """Build on a tmpfs, where dpkg's many fsyncs cost nothing, then copy beside the target and rename."""
    work = target.with_suffix(".work")
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("build-base.sh")
    env = os.environ | {"LABPY": LABPY, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    if mirror.proxy:
        env["http_proxy"] = mirror.proxy
    log = target.with_suffix(".log")
    # A mount namespace of its own: the tmpfs is gone when the script ends, however it ends.
    command = ["unshare", "--mount", "--propagation", "private", "sh", str(script)]
    arguments = [str(work), str(part), mirror.suite, mirror.uri, ",".join(INCLUDE)]
    with log.open("w") as stream:
        done = subprocess.run([*command, *arguments], env=env, stdout=stream, stderr=subprocess.STDOUT)
    work.rmdir()
    if done.returncode != 0:
        shutil.rmtree(part, ignore_errors=True)
        raise LabError(
            f"The base image could not be built: {_last_line(log.read_text(errors='replace'))}",
            f"See {log}; check that apt-get update works here.",
        )
    part.rename(target)
    log.unlink()
