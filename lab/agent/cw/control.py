"""amazon-cloudwatch-agent-ctl: fetch or remove a configuration, start, stop, tell the status.

As aws/amazon-cloudwatch-agent does it: packaging/dependencies/amazon-cloudwatch-agent-ctl, config-downloader.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from ..netkit import imds
from ..netkit.aws import Client, RequestError, ServiceError, endpoint_of
from ..netkit.hostfs import at, is_of_this_host, read_text, write_atomically
from .paths import BINARY, CONFIG_FOLDER, SERVICE, TOML, VERSION_FILE


class ControlFailed(Exception):
    """The action could not be done; the text says why."""


def _init_system() -> str:
    return (read_text("/proc/1/comm") or "").strip()


def _runs() -> bool:
    """As the init system knows it."""
    argv = (
        ["systemctl", "is-active", SERVICE] if _init_system() == "systemd" else ["initctl", "status", SERVICE]
    )
    done = subprocess.run(argv, capture_output=True, text=True)
    return done.stdout.strip() == "active" or " start/" in done.stdout


def stop() -> None:
    """Stopped already is well."""
    if _runs():
        _service("stop")
    else:
        print(f"{SERVICE} has already been stopped")


def before_uninstall() -> None:
    """What the packages call before they are removed."""
    stop()
    if _init_system() == "systemd":
        for words in (["disable", f"{SERVICE}.service"], ["daemon-reload"], ["reset-failed"]):
            subprocess.run(["systemctl", *words], capture_output=True)


def _service(action: str) -> None:
    if _init_system() == "systemd":
        commands = {
            "start": [["systemctl", "daemon-reload"], ["systemctl", "enable", f"{SERVICE}.service"]],
            "stop": [],
        }[action]
        commands.append(["systemctl", "restart" if action == "start" else "stop", f"{SERVICE}.service"])
    else:
        commands = [["initctl", action, SERVICE]]
        if action == "start":
            subprocess.run(["initctl", "stop", SERVICE], capture_output=True)
    for argv in commands:
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode != 0:
            raise ControlFailed(f"{' '.join(argv)} failed: {(done.stderr or done.stdout).strip()}")


def _is_agent(process: Path) -> bool:
    try:
        if (process / "comm").read_text().strip() != "amazon-cloudwat":
            return False
        is_ours = (process / "cmdline").read_bytes().startswith(BINARY.encode())
        return is_ours and is_of_this_host(process)
    except OSError:
        return False


def running_pid() -> int | None:
    """Process id of the running agent."""
    found = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_agent(entry))
    return next((int(entry.name) for entry in found), None)


def _name(location: str) -> str:
    """What a configuration of there is filed under."""
    kind, _, name = location.partition(":")
    return kind if kind == "default" else f"{kind}_{name.replace('/', '_')}"


def remove_config(location: str) -> None:
    """Take it out of the folder; without any configuration left the agent has none."""
    folder = at(CONFIG_FOLDER)
    try:
        for old in folder.iterdir() if location == "all" else [folder / _name(location)]:
            old.unlink()
    except OSError as error:
        raise ControlFailed(
            f"E! Failed to remove the json file {error.filename}: {error.strerror}"
        ) from error
    if not any(folder.iterdir()):
        print("all amazon-cloudwatch-agent configurations have been removed")
        at(TOML).unlink(missing_ok=True)


def _fetch(location: str) -> tuple[str, str]:
    """Name to file the configuration under, and its text."""
    kind, _, name = location.partition(":")
    if kind == "default":
        return _name(location), "{}"
    if kind == "file":
        return f"file_{Path(name).name}", Path(name).read_text()
    if kind != "ssm" or not name:
        raise ControlFailed(f"unknown configuration location {location}")
    try:
        region = imds.region()
        client = Client(endpoint_of("ssm", region), "ssm", region, imds.role_credentials())
        answer = client.call("AmazonSSM.GetParameter", {"Name": name, "WithDecryption": True})
    except imds.ImdsError as error:
        raise ControlFailed(f"Fail to fetch the config from ssm: {error}") from error
    except (ServiceError, RequestError) as error:
        text = str(error).replace("\n\t", " ").replace("\n", " ")
        raise ControlFailed(f"Fail to fetch/remove json config: {text}") from error
    return _name(location), str(answer["Parameter"]["Value"])


def fetch_config(location: str, append: bool) -> None:
    """Store the configuration, replacing what was there unless it is appended."""
    name, text = _fetch(location)
    try:
        json.loads(text)
    except ValueError as error:
        raise ControlFailed(
            f"Configuration validation first phase failed: not valid JSON: {error}"
        ) from error
    folder = at(CONFIG_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    if not append:
        for old in folder.iterdir():
            old.unlink()
    write_atomically(f"{CONFIG_FOLDER}/{name}", text, mode=0o644)
    write_atomically(TOML, "[agent]\n", mode=0o644)
    print(f"Successfully fetched the config and saved in {CONFIG_FOLDER}/{name}.tmp")
    print("Configuration validation first phase succeeded")
    print("Configuration validation second phase succeeded")
    print("Configuration validation succeeded")


def status() -> dict[str, str]:
    """The JSON that `-a status` prints."""
    pid = running_pid()
    started = ""
    if pid is not None:
        when = time.gmtime(Path(f"/proc/{pid}").stat().st_mtime)
        started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", when)
    return {
        "status": "running" if pid is not None else "stopped",
        "starttime": started,
        "configstatus": "configured" if at(TOML).exists() else "not configured",
        "version": (read_text(VERSION_FILE) or "").strip(),
    }


def main(argv: list[str]) -> int:
    """amazon-cloudwatch-agent-ctl -a ACTION [-m ec2] [-c LOCATION] [-s]."""
    parser = argparse.ArgumentParser(prog="amazon-cloudwatch-agent-ctl")
    parser.add_argument("-a", dest="action", default="status")
    parser.add_argument("-m", dest="mode", default="ec2")
    parser.add_argument("-c", dest="config", default="default")
    parser.add_argument("-s", dest="restart", action="store_true")
    options = parser.parse_args(argv)
    try:
        if options.action == "status":
            print(json.dumps(status(), indent=2))
        elif options.action == "start":
            if not at(TOML).exists():
                fetch_config("default", append=False)
            _service("start")
        elif options.action == "stop":
            stop()
        elif options.action == "preun":
            before_uninstall()
        elif options.action == "remove-config":
            remove_config(options.config)
            if options.restart:
                _service("start")
        elif options.action in ("fetch-config", "append-config"):
            print("****** processing amazon-cloudwatch-agent ******")
            fetch_config(options.config, append=options.action == "append-config")
            if options.restart:
                _service("start")
        else:
            raise ControlFailed(f"Invalid action: {options.action}")
    except (ControlFailed, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
