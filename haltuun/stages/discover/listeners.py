"""Listening ports joined with process, package and unit. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from haltuun.stages.discover.facts import Listener
from haltuun.stages.discover.lines import Lines

# A worker's unit is its ancestor's; more generations than this are not worth following.
GENERATIONS = 5


def parse_listeners(lines: Lines) -> tuple[Listener, ...]:
    processes = {row[0]: row[1:] for row in lines.rows("process", 5)}  # pid → comm, exe, unit, parent
    owners = _owners(lines)
    units = {pid: unit for unit, pid in lines.rows("unit.pid", 2) if pid not in ("", "0")}
    found: dict[tuple[int, str, str], Listener] = {}
    for protocol, address, port, pid in lines.rows("listener", 4):
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            continue
        comm, exe, _, _ = processes.get(pid, ("", "", "", ""))
        listener = Listener(
            port=int(port),
            protocol=protocol,
            address=readable(address),
            process=comm,
            package=owners.get(exe, ""),
            unit=_unit(pid, processes, units),
        )
        # Several workers share a socket; the first that has a name stands for all.
        key = (listener.port, listener.protocol, listener.address)
        if key not in found or not found[key].process:
            found[key] = listener
    return tuple(found[key] for key in sorted(found))


def readable(address: str) -> str:
    """As people write it: /proc/net/tcp has hexadecimal in the byte order of the machine (little)."""
    text = address.removeprefix("hex:")
    if address.startswith("hex:") and re.fullmatch(r"[0-9A-Fa-f]{8}|[0-9A-Fa-f]{32}", text):
        words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
        return str(ipaddress.ip_address(b"".join(words)))
    return {"*": "0.0.0.0", "": "::"}.get(address, address)


def _owners(lines: Lines) -> Mapping[str, str]:
    owners: dict[str, str] = {}
    for path, package in lines.rows("owner", 2):
        name = package.split(":")[0]  # libc6:amd64
        owners[path] = name
        # With merged /usr the package lists one spelling and the process shows the other.
        owners.setdefault(path.removeprefix("/usr") if path.startswith("/usr/") else f"/usr{path}", name)
    return owners


def _unit(pid: str, processes: Mapping[str, tuple[str, ...]], units: Mapping[str, str]) -> str:
    for _ in range(GENERATIONS):
        row = processes.get(pid)
        own = row[2] if row else ""
        if own or pid in units:
            return own or units[pid]
        if row is None or not row[3].isdigit():
            return ""
        pid = row[3]
    return ""
