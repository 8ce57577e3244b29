"""The part of the agent's JSON that names log files."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

from ..netkit import imds
from ..netkit.hostfs import at
from .paths import CONFIG_FOLDER


@dataclass(frozen=True)
class LogFile:
    """One entry of collect_list with its placeholders filled in."""

    path: str
    group: str
    stream: str
    retention_days: int = -1


def _placeholders(instance_id: str) -> dict[str, str]:
    return {
        "{instance_id}": instance_id,
        "{hostname}": socket.gethostname(),
        "{local_hostname}": socket.gethostname(),
        "{ip_address}": "",
    }


def _fill(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _entries(data: dict[str, Any]) -> list[dict[str, Any]]:
    logs = data.get("logs") or {}
    files = (logs.get("logs_collected") or {}).get("files") or {}
    default = logs.get("log_stream_name") or "{instance_id}"
    return [{"log_stream_name": default, **entry} for entry in files.get("collect_list") or []]


def load_log_files() -> list[LogFile]:
    """All configured log files; ImdsError while the instance id is not known."""
    values = _placeholders(imds.instance_id())
    found = []
    folder = at(CONFIG_FOLDER)
    for source in sorted(folder.iterdir()) if folder.is_dir() else []:
        for entry in _entries(json.loads(source.read_text())):
            path = entry["file_path"]
            # The agent's own default: the file's path with dots for slashes.
            group = entry.get("log_group_name") or path.replace("/", ".").strip(".")
            stream = _fill(entry["log_stream_name"], values)
            days = int(entry.get("retention_in_days", -1))
            found.append(LogFile(path, _fill(group, values), stream, days))
    return found
