"""The host's clock: the machine's, which all hosts of a lab share, plus the error a fault gives this one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from .hostfs import read_text

OFFSET = "/var/lib/lab/clock_offset_s"


def now() -> datetime:
    """What `date` says on this host."""
    try:
        offset_s = float(read_text(OFFSET) or 0)
    except (OSError, ValueError):
        offset_s = 0.0
    return datetime.now(UTC) + timedelta(seconds=offset_s)
