"""The layer that all boxes of a lab share: the stand-ins' sources, and the lab's certificate authority."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from lab.box.machine import put

GUEST = Path(__file__).with_name("guest")
OLD_SSHD = "opt/lab/openssh-6.6/sshd"
# RFC 8308 came after OpenSSH 6.6, which answers no client with server-sig-algs; sshd has no option for that.
EXT_INFO, NO_EXT_INFO = b"\0ext-info-c\0", b"\0Xxt-info-c\0"
BANNER = re.compile(rb"OpenSSH_[0-9][0-9.]*p[0-9][^\0\n%]*\0")
OLD_BANNER = b"OpenSSH_6.6.1p1 Ubuntu-2ubuntu2"


def build_common_layer(layer: Path, base: Path, ca_certificate: str = "") -> Path:
    """Fill `layer`, which lies above the base image and below what is a box's own."""
    target = layer / "opt/lab/lib/init"
    target.mkdir(parents=True, exist_ok=True)
    for source in sorted(GUEST.glob("*.py")):
        shutil.copyfile(source, target / source.name)
    _write_old_sshd(layer / OLD_SSHD, base / "usr/sbin/sshd")
    if ca_certificate:
        bundle = "etc/ssl/certs/ca-certificates.crt"
        put(layer / bundle, (base / bundle).read_text(encoding="utf-8") + ca_certificate)
        put(layer / "usr/local/share/ca-certificates/lab.crt", ca_certificate)
    return layer


def _write_old_sshd(path: Path, source: Path) -> None:
    """A copy of sshd that greets as Ubuntu 14.04's and offers no extensions; the package's stays whole."""
    program = source.read_bytes().replace(EXT_INFO, NO_EXT_INFO)

    def old(match: re.Match[bytes]) -> bytes:
        room = len(match[0])
        return OLD_BANNER.ljust(room, b"\0") if len(OLD_BANNER) < room else match[0]

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BANNER.sub(old, program))
    path.chmod(0o755)
