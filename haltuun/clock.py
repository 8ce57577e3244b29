"""One clock. An account's time is the Date header of AWS's answers, not this machine's opinion."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


class Clock:
    """Wall time corrected by what AWS last said. Thread-safe."""

    def __init__(self) -> None:
        self._offset = timedelta(0)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The account's time, aware, UTC."""
        with self._lock:
            return datetime.now(UTC) + self._offset

    def heard(self, date_header: str | None) -> None:
        """Take the `Date` header (RFC 9110, whole seconds) of an answer into account."""
        if not date_header:
            return
        try:
            said = parsedate_to_datetime(date_header)
        except (TypeError, ValueError):
            return
        if said.tzinfo is None:
            said = said.replace(tzinfo=UTC)
        offset = said - datetime.now(UTC)
        with self._lock:
            # Below two seconds it is the header's resolution and the way, not a difference.
            self._offset = offset if abs(offset) > timedelta(seconds=2) else timedelta(0)
