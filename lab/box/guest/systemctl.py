"""The server's side of `systemctl`: one command in, text and an exit code out."""

from __future__ import annotations

import os
import signal

import units
import world
from registry import (
    SERVICES,
    Options,
    Reply,
    comm_of,
    parse,
    properties,
    reload_all,
    service_of,
    stamp,
    unit_of_pid,
)
from service import StartFailed, is_held


def boot() -> None:
    for name in units.wanted_at_boot():
        service = None if units.is_masked(units.find(name)) else service_of(name)
        if service is not None:
            try:
                service.start()
            except StartFailed:
                continue


def _start(name: str, reply: Reply) -> None:
    if units.is_masked(units.find(units.full_name(name))):
        reply.err.append(f"Failed to start {units.full_name(name)}: Unit {units.full_name(name)} is masked.")
        reply.code = 1
        return
    service = service_of(name)
    if service is None:
        reply.err.append(f"Failed to start {units.full_name(name)}: Unit {units.full_name(name)} not found.")
        reply.code = 5
        return
    if is_held(service.definition.name.removesuffix(".service")):
        return
    try:
        service.start()
    except StartFailed:
        unit = service.definition.name
        reply.err.append(
            f"Job for {unit} failed because the control process exited with error code.\n"
            f'See "systemctl status {unit}" and "journalctl -xeu {unit}" for details.'
        )
        reply.code = 1


def _stop(name: str, reply: Reply) -> None:
    service = service_of(name)
    if service is None:
        full = units.full_name(name)
        reply.err.append(f"Failed to stop {full}: Unit {full} not loaded.")
        reply.code = 5
    else:
        service.stop()


def start(options: Options, reply: Reply) -> None:
    for name in options.words:
        _start(name, reply)


def stop(options: Options, reply: Reply) -> None:
    for name in options.words:
        _stop(name, reply)


def restart(options: Options, reply: Reply) -> None:
    for name in options.words:
        service = service_of(name)
        if service is not None:
            service.stop()
        _start(name, reply)


def try_restart(options: Options, reply: Reply) -> None:
    for name in options.words:
        service = service_of(name)
        if service is not None and service.active == "active":
            service.stop()
            _start(name, reply)


def reload(options: Options, reply: Reply) -> None:
    for name in options.words:
        service = service_of(name)
        if service is None or not service.reload():
            reply.err.append(f"Failed to reload {units.full_name(name)}: Job type reload is not applicable.")
            reply.code = 1


def kill(options: Options, reply: Reply) -> None:
    wanted = options.values.get("signal", ["SIGTERM"])[0]
    number = (
        int(wanted) if wanted.isdigit() else signal.Signals[wanted if wanted[:3] == "SIG" else f"SIG{wanted}"]
    )
    for name in options.words:
        service = service_of(name)
        if service is not None:
            service.kill(int(number), options.values.get("whom", ["all"])[0])


def is_active(options: Options, reply: Reply) -> None:
    states = []
    for name in options.words:
        service = service_of(name)
        states.append(service.active if service else "inactive")
    reply.out += [] if options.flags & {"-q", "--quiet"} else states
    reply.code = 0 if "active" in states else 3


def is_failed(options: Options, reply: Reply) -> None:
    states = [service.active if (service := service_of(name)) else "inactive" for name in options.words]
    reply.out += [] if options.flags & {"-q", "--quiet"} else states
    reply.code = 0 if "failed" in states else 1


def is_enabled(options: Options, reply: Reply) -> None:
    quiet = bool(options.flags & {"-q", "--quiet"})
    reply.code = 1
    for name in options.words:
        full = units.full_name(name)
        state = units.enablement(full)
        if not state:
            reply.err.append(f"Failed to get unit file state for {full}: No such file or directory")
        elif not quiet:
            reply.out.append(state)
        if state in ("enabled", "static", "alias"):
            reply.code = 0


def _each_file(options: Options, reply: Reply, verb: str) -> list[str]:
    found = []
    for name in options.words:
        full = units.real_name(units.full_name(name))
        if units.find(full):
            found.append(full)
        else:
            reply.err.append(f"Failed to {verb} unit: Unit file {full} does not exist.")
            reply.code = 1
    return found


def enable(options: Options, reply: Reply) -> None:
    for name in _each_file(options, reply, "enable"):
        reply.err += units.enable(name)
        if "--now" in options.flags:
            _start(name, reply)


def disable(options: Options, reply: Reply) -> None:
    for name in _each_file(options, reply, "disable"):
        reply.err += units.disable(name)
        if "--now" in options.flags:
            _stop(name, reply)


def mask(options: Options, reply: Reply) -> None:
    for name in map(units.full_name, options.words):
        path = f"/etc/systemd/system/{name}"
        if os.path.isfile(path) and not os.path.islink(path):
            reply.err.append(f"Failed to mask unit: File '{path}' already exists.")
            reply.code = 1
            continue
        if os.path.islink(path):
            os.unlink(path)
        os.symlink("/dev/null", path)
        reply.err.append(f"Created symlink {path} → /dev/null.")
        if "--now" in options.flags:
            _stop(name, reply)


def unmask(options: Options, reply: Reply) -> None:
    for name in map(units.full_name, options.words):
        path = f"/etc/systemd/system/{name}"
        if os.path.islink(path) and os.path.realpath(path) == "/dev/null":
            os.unlink(path)
            reply.err.append(f"Removed {path}.")


def daemon_reload(options: Options, reply: Reply) -> None:
    reload_all()


def reset_failed(options: Options, reply: Reply) -> None:
    for name in options.words or list(SERVICES):
        service = service_of(name)
        if service is not None and service.active == "failed":
            service.active, service.sub, service.result = "inactive", "dead", "success"


def show(options: Options, reply: Reply) -> None:
    wanted = options.values.get("property", [])
    rows = [properties(name) for name in options.words] or [
        {
            "Version": "249 (lab)",
            "SystemState": "running",
            "Environment": "",
            "DefaultTimeoutStartUSec": "1min 30s",
        }
    ]
    for position, row in enumerate(rows):
        reply.out += [""] if position else []
        for key in wanted or row:
            if key in row:
                reply.out.append(row[key] if "--value" in options.flags else f"{key}={row[key]}")


def status(options: Options, reply: Reply) -> None:
    for word in options.words:
        name = unit_of_pid(int(word)) if word.isdigit() else word
        if not name:
            reply.err.append(
                f"Failed to get unit for PID {word}: PID {word} does not belong to any loaded unit."
            )
            reply.code = 1
            continue
        row = properties(name)
        if row["LoadState"] == "not-found":
            reply.err.append(f"Unit {row['Id']} could not be found.")
            reply.code = 4
            continue
        mark = {"active": "●", "failed": "×"}.get(row["ActiveState"], "○")
        since = f" since {stamp(service.since)}" if (service := service_of(name)) and service.since else ""
        reply.out += [
            f"{mark} {row['Id']} - {row['Description']}",
            f"     Loaded: {row['LoadState']} ({row['FragmentPath']}; {row['UnitFileState']}; preset: n/a)",
            f"     Active: {row['ActiveState']} ({row['SubState']}){since}",
        ]
        if row["MainPID"] != "0":
            comm = comm_of(int(row["MainPID"]))
            reply.out.append(f"   Main PID: {row['MainPID']} ({comm})")
        reply.code = reply.code or (0 if row["ActiveState"] in ("active", "reloading") else 3)


def list_units(options: Options, reply: Reply) -> None:
    states = options.values.get("state", [])
    rows = []
    for name in units.all_names():
        row = properties(name)
        loaded = row["LoadState"] != "not-found"
        shown = "--all" in options.flags or "-a" in options.flags or row["ActiveState"] != "inactive"
        if states:
            shown = bool({row["ActiveState"], row["SubState"]} & set(states))
        if loaded and shown:
            rows.append(f"{name} loaded {row['ActiveState']} {row['SubState']} {row['Description']}")
    if "--no-legend" not in options.flags:
        rows = ["UNIT LOAD ACTIVE SUB DESCRIPTION", *rows, "", f"{len(rows)} loaded units listed."]
    reply.out += rows


def list_unit_files(options: Options, reply: Reply) -> None:
    wanted = {units.full_name(word) for word in options.words}
    rows = [
        f"{name} {units.enablement(name)} enabled"
        for name in units.all_names()
        if not wanted or name in wanted
    ]
    reply.code = 0 if rows else 1
    if "--no-legend" not in options.flags:
        rows = ["UNIT FILE STATE VENDOR PRESET", *rows, "", f"{len(rows)} unit files listed."]
    reply.out += rows


def cat(options: Options, reply: Reply) -> None:
    for name in options.words:
        service = service_of(name)
        if service is None:
            reply.err.append(f"No files found for {units.full_name(name)}.")
            reply.code = 1
        else:
            reply.out.append(service.definition.text)


def is_system_running(options: Options, reply: Reply) -> None:
    failed = any(service.active == "failed" for service in SERVICES.values())
    reply.out.append("degraded" if failed else "running")
    reply.code = 1 if failed else 0


def nothing(options: Options, reply: Reply) -> None:
    """Commands that change nothing here (presets, timers)."""


COMMANDS = {
    "start": start,
    "stop": stop,
    "restart": restart,
    "try-restart": try_restart,
    "condrestart": try_restart,
    "reload": reload,
    "reload-or-restart": restart,
    "force-reload": restart,
    "kill": kill,
    "is-active": is_active,
    "is-failed": is_failed,
    "is-enabled": is_enabled,
    "enable": enable,
    "disable": disable,
    "reenable": enable,
    "mask": mask,
    "unmask": unmask,
    "daemon-reload": daemon_reload,
    "daemon-reexec": daemon_reload,
    "reset-failed": reset_failed,
    "show": show,
    "status": status,
    "list-units": list_units,
    "list-unit-files": list_unit_files,
    "cat": cat,
    "preset": nothing,
    "is-system-running": is_system_running,
    "list-timers": nothing,
}


READ_ONLY = {
    "is-active",
    "is-failed",
    "is-enabled",
    "show",
    "status",
    "list-units",
    "list-unit-files",
    "cat",
    "is-system-running",
    "list-timers",
}


def answer(argv: list[str], is_root: bool) -> Reply:
    reply = Reply()
    options = parse(argv)
    if "--version" in options.flags:
        reply.out.append("systemd 249 (lab)")
        return reply
    verb = options.words.pop(0) if options.words else "list-units"
    command = COMMANDS.get(verb)
    if command is None:
        reply.err.append(f"Unknown command verb {verb}.")
        reply.code = 1
        return reply
    if not is_root and verb not in READ_ONLY:
        reply.err.append(f"Failed to {verb}: Interactive authentication required.")
        reply.code = 1
        return reply
    with world.world:
        command(options, reply)
    return reply
