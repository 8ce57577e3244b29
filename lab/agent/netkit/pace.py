"""Time in the lab: the real agent's waits, shortened by one factor."""

from __future__ import annotations

import os
import threading

DEFAULT_SCALE = 16.0


def _scale_of_pid_1() -> str:
    try:
        with open("/proc/1/environ", "rb") as stream:
            for item in stream.read().split(b"\0"):
                if item.startswith(b"LAB_TIME_SCALE="):
                    return item.partition(b"=")[2].decode()
    except OSError:
        return ""
    return ""


def time_scale() -> float:
    """How many times faster than the real agent; a value below 1 is read as the inverse factor."""
    raw = os.environ.get("LAB_TIME_SCALE") or _scale_of_pid_1()
    try:
        value = float(raw)
    except ValueError:
        return DEFAULT_SCALE
    if value <= 0:
        return DEFAULT_SCALE
    return value if value >= 1 else 1 / value


def scaled_s(real_s: float, at_least_s: float = 0.0) -> float:
    """Seconds to wait here for what takes `real_s` with the real agent."""
    return max(real_s / time_scale(), at_least_s)


def pause(stop: threading.Event, real_s: float, at_least_s: float = 0.0) -> bool:
    """Wait scaled time; True when `stop` was set meanwhile."""
    return stop.wait(scaled_s(real_s, at_least_s))


def go_duration(seconds: int) -> str:
    """A duration as Go prints it: 27m16s, 5m0s, 1h0m0s."""
    hours, rest = divmod(int(seconds), 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"
