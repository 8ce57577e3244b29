"""One clock. An account's time is the Date header of AWS's answers, not this machine's opinion."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

RESOLUTION = timedelta(seconds=2)  # of the header, and of two clocks that are both set by NTP


class Clock:
    """Wall time corrected by what AWS last said. Thread-safe."""

    def __init__(self) -> None:
        self._offset = timedelta(0)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The account's time, aware, UTC."""
        with self._lock:
            return datetime.now(UTC) + self._offset

    def heard(self, date_header: str | None, asked: datetime) -> None:
        """Take the `Date` header (RFC 9110, whole seconds) of an answer into account.

        `asked` is this machine's time when the question went out: a slow answer is no difference of clocks.
        """
        if not date_header:
            return
        try:
            said = parsedate_to_datetime(date_header)
        except (TypeError, ValueError):
            return
        if said.tzinfo is None:
            said = said.replace(tzinfo=UTC)
        now = datetime.now(UTC)
        agrees = asked - RESOLUTION <= said <= now + RESOLUTION
        with self._lock:
            self._offset = timedelta(0) if agrees else said - now
