"""What the agent reads about the machine."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import platform
import socket
import struct
import subprocess

from ..netkit.hostfs import at, read_text

_SIOCGIFADDR = 0x8915
_SIOCGIFHWADDR = 0x8927
_DMI_PARTS = {
    "processor-hash": "processor",
    "memory-hash": "memory",
    "bios-hash": "bios",
    "system-hash": "system",
}


def _ioctl(name: str, request: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock.fileno(), request, struct.pack("256s", name.encode()[:15]))


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex() if name != "lo"]


def primary_address() -> str:
    """First IPv4 address that is not on the loopback interface, or an empty string."""
    for name in _interfaces():
        try:
            return socket.inet_ntoa(_ioctl(name, _SIOCGIFADDR)[20:24])
        except OSError:
            continue
    return ""


def mac_address() -> str:
    """Hardware address of the first interface that has one."""
    for name in _interfaces():
        try:
            address = _ioctl(name, _SIOCGIFHWADDR)[18:24]
        except OSError:
            continue
        if any(address):
            return ":".join(f"{byte:02x}" for byte in address)
    return ""


def hostname() -> str:
    """The host's name."""
    return socket.gethostname()


def os_release() -> tuple[str, str]:
    """Name and version as os-release gives them, e.g. ("Ubuntu", "14.04")."""
    values = {}
    for line in (read_text("/etc/os-release") or "").splitlines():
        key, _, value = line.partition("=")
        values[key.strip()] = value.strip().strip("\"'")
    return values.get("NAME", "Linux"), values.get("VERSION_ID", "")


def go_arch() -> str:
    """The processor architecture by Go's name."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _output_hash(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return base64.b64encode(hashlib.md5(done.stdout, usedforsecurity=False).digest()).decode()


def _dmi_hashes() -> dict[str, str]:
    tool = at("/usr/sbin/dmidecode")
    return {key: _output_hash([str(tool), "-t", part]) for key, part in _DMI_PARTS.items()}


def _disk_info() -> str:
    folder = at("/dev/disk/by-uuid")
    return _output_hash(["ls", "-l", str(folder)]) if folder.is_dir() else ""


def hardware_hash() -> dict[str, str]:
    """The nine values that the fingerprint compares (hardwareInfo_unix.go:60-90)."""
    machine_id = read_text("/etc/machine-id") or read_text("/var/lib/dbus/machine-id") or ""
    return {
        **_dmi_hashes(),
        "disk-info": _disk_info(),
        "hostname-info": hostname(),
        "ipaddress-info": primary_address(),
        "macaddr-info": mac_address(),
        "machine-id": machine_id,
    }
