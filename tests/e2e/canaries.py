"""Secrets planted where an inherited host has them, and a look for them where they must never be."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.api import LabInfo

# How often a new process's command line is read: it changes when the process becomes another program.
LOOKS = 10
AGENT_LOG = "var/log/amazon/ssm/amazon-ssm-agent.log"


@dataclass
class Canaries:
    """`words` by where they were planted; `seen` are command lines of other processes that held one."""

    words: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def word(self, place: str) -> str:
        return self.words.setdefault(place, f"kanarie{secrets.token_hex(8)}")

    def in_files(self, files: Iterable[Path]) -> list[tuple[str, Path]]:
        found = []
        for path in files:
            data = path.read_bytes()
            found += [(place, path) for place, word in self.words.items() if word.encode() in data]
        return found

    def in_text(self, text: str) -> list[str]:
        return [place for place, word in self.words.items() if word in text]


def plant(info: LabInfo, ec2: Any) -> Canaries:
    """In user data, key files, histories and environments of every host, and in one process of each."""
    canaries = Canaries()
    word = canaries.word
    files = {
        "etc/environment": f"https_proxy=http://ops:{word('proxy URL')}@proxy.acme:3128\n",
        "root/.ssh/id_ed25519": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{word('key file')}\n",
        "home/deploy/.aws/credentials": f"[default]\naws_secret_access_key = {word('credentials')}\n",
        "root/.bash_history": f"mysql -u root -p{word('history')}\n",
        "etc/mysql/debian.cnf": f"[client]\npassword = {word('database')}\n",
    }
    for host in info.hosts.values():
        root = Path(f"/proc/{host['pid']}/root")
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as planted:
                planted.write(text)
        for config in (root / "var/www").rglob("wp-config.php"):
            with config.open("a") as planted:
                planted.write(f"define('AUTH_KEY', '{word('wp-config')}');\n")
        log = root / AGENT_LOG
        if log.exists():
            with log.open("a") as written:
                written.write(
                    f"2026-01-01 00:00:00.0000 INFO http://ops:{word('agent log')}@proxy.acme:3128\n"
                )
        _process(host["pid"], word("environment"), word("command line"))
        ec2.modify_instance_attribute(
            InstanceId=host["instance_id"],
            UserData={"Value": base64.b64encode(f"#!/bin/sh\nexport TOKEN={word('user data')}\n".encode())},
        )
    return canaries


def _process(pid: int, environment: str, argument: str) -> None:
    """One that goes on inside the host, until the lab ends it."""
    inside = ["nsenter", "-t", str(pid), "-m", "-p", "-n", "-r", "-w"]
    program = f"(sleep 3000; : --password={argument}) </dev/null >/dev/null 2>&1 &"
    subprocess.run([*inside, "env", f"APP_TOKEN={environment}", "sh", "-c", program], check=True, timeout=20)


@contextlib.contextmanager
def watched(canaries: Canaries) -> Iterator[None]:
    """The command line of every process of this machine that begins while it lasts."""
    known = Counter({pid: LOOKS for pid in _processes()})
    planted = [pid for pid in known if canaries.in_text(_command_line(pid))]
    assert planted
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            there = _processes()
            for gone in known.keys() - there:
                del known[gone]
            for pid in there:
                if known[pid] < LOOKS:
                    known[pid] += 1
                    text = _command_line(pid)
                    if canaries.in_text(text):
                        canaries.seen.append(text)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _processes() -> set[str]:
    return {name for name in os.listdir("/proc") if name.isdigit()}


def _command_line(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    return ""
