"""The services that systemd knows, what a command line asks of them, and their properties."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import units
from service import Service

SERVICES: dict[str, Service] = {}
WITH_VALUE = {
    "-p": "property",
    "--property": "property",
    "-t": "type",
    "--type": "type",
    "-n": "lines",
    "--lines": "lines",
    "-s": "signal",
    "--signal": "signal",
    "--state": "state",
    "-o": "output",
    "--output": "output",
    "--kill-who": "whom",
    "--kill-whom": "whom",
    "--root": "root",
}


@dataclass
class Reply:
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    code: int = 0


@dataclass
class Options:
    words: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    values: dict[str, list[str]] = field(default_factory=dict)


def parse(argv: list[str]) -> Options:
    found = Options()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in WITH_VALUE:
            given = value if equals else (rest.pop(0) if rest else "")
            found.values.setdefault(WITH_VALUE[name], []).extend(given.split(","))
        elif word[:2] in ("-p", "-t", "-n", "-s") and not word.startswith("--") and len(word) > 2:
            found.values.setdefault(WITH_VALUE[word[:2]], []).extend(word[2:].lstrip("=").split(","))
        elif word.startswith("-"):
            found.flags.add(word)
        else:
            found.words.append(word)
    return found


def service_of(name: str) -> Service | None:
    name = units.real_name(units.full_name(name))
    known = SERVICES.get(name)
    if known:
        return known
    definition = units.load(name)
    if definition is None:
        return None
    SERVICES[name] = Service(definition)
    return SERVICES[name]


def reload_all() -> None:
    """daemon-reload: read the files again; what runs goes on, and what is gone from disk is forgotten."""
    for name, service in list(SERVICES.items()):
        definition = units.load(name)
        if definition is not None:
            service.definition = definition
        elif service.active in ("inactive", "failed"):
            del SERVICES[name]


def stamp(moment: float) -> str:
    return time.strftime("%a %Y-%m-%d %H:%M:%S UTC", time.gmtime(moment)) if moment else ""


def properties(name: str) -> dict[str, str]:
    full = units.real_name(units.full_name(name))
    service = service_of(full)
    path = units.find(full)
    if service is None:
        return {
            "Id": full,
            "Names": full,
            "Description": full,
            "LoadState": "not-found",
            "ActiveState": "inactive",
            "SubState": "dead",
            "UnitFileState": "",
            "FragmentPath": "",
            "MainPID": "0",
            "NRestarts": "0",
            "Result": "success",
            "ExecMainStatus": "0",
            "Type": "",
            "DropInPaths": "",
            "Environment": "",
        }
    where = service.definition
    masked = units.is_masked(path)
    return {
        "Id": full,
        "Names": full,
        "Description": where.description,
        "LoadState": "masked" if masked else "loaded",
        "ActiveState": service.active,
        "SubState": service.sub,
        "UnitFileState": units.enablement(full),
        "FragmentPath": where.path,
        "DropInPaths": " ".join(units.files_of(full)[1:]),
        "Type": where.kind,
        "Restart": where.restart,
        "KillMode": where.kill_mode,
        "Environment": " ".join(f"{key}={value}" for key, value in where.env.items()),
        "MainPID": str(service.main_pid),
        "ExecMainPID": str(service.main_pid),
        "ExecMainStatus": str(service.exit_signal or service.exit_code),
        "ExecMainCode": "2" if service.exit_signal else "1",
        "NRestarts": str(service.restarts),
        "Result": service.result,
        "InvocationID": service.invocation,
        "ControlGroup": f"/system.slice/{full}",
        "ActiveEnterTimestamp": stamp(service.since) if service.active == "active" else "",
        "StateChangeTimestamp": stamp(service.since),
        "NeedDaemonReload": "no",
    }


def unit_of_pid(pid: int) -> str:
    for name, service in SERVICES.items():
        if pid == service.main_pid or (service.invocation and pid in service.pids()):
            return name
    return ""


def comm_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as stream:
            return stream.read().strip()
    except OSError:
        return "n/a"
