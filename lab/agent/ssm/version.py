"""The release that this stand-in follows; the packager writes another number here when asked for one."""

from __future__ import annotations

VERSION = "3.3.1142.0"
