"""Paths of the host, which a test may move below another root."""

from __future__ import annotations

import os
from pathlib import Path


def lab_root() -> Path:
    """The folder that stands for `/`; the real one unless LAB_ROOT says otherwise."""
    return Path(os.environ.get("LAB_ROOT", "") or "/")


def at(path: str) -> Path:
    """Where the host's absolute `path` really lies."""
    return lab_root() / path.lstrip("/")


def is_of_this_host(process: Path) -> bool:
    """Whether a process in /proc sees this root; below another root, /proc is the whole machine's."""
    root = os.environ.get("LAB_ROOT", "")
    return not root or f"LAB_ROOT={root}".encode() in (process / "environ").read_bytes().split(b"\0")


def write_atomically(path: str, data: str, mode: int = 0o600) -> None:
    """Replace a file in one step, so that a reader never sees half of it."""
    target = at(path)
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as stream:
            stream.write(data)
        os.replace(staging, target)
    finally:
        staging.unlink(missing_ok=True)


def read_text(path: str) -> str | None:
    """Content of a file, or None where there is none."""
    try:
        return at(path).read_text(errors="replace")
    except FileNotFoundError:
        return None
