"""Members of AWS's answers, taken only as what they are: what is of another kind is unknown, and no fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from haltuun.answers import ODD_ANSWER, odd_answer
from haltuun.model import Json, Unknown

T = TypeVar("T")

UNNAMED = ""


def member(row: Json, name: str, kind: type[T]) -> T | Unknown | None:
    """None where the row has none of that name."""
    if not isinstance(row, Mapping):
        return unreadable(name)
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    return unreadable(name)


def readable(make: Callable[[], T]) -> T | Unknown:
    """What `make` makes of an answer; unknown where that lacks a member or has one of another kind."""
    try:
        return make()
    except ODD_ANSWER as error:
        return odd_answer(error)


def one_of(found: Mapping[str, T], name: str) -> T | None:
    """The entry of that name in what AWS's rows were put together to, by name. Where a row named nothing (its
    entry is under UNNAMED) it is unknown what has none.
    """
    return found.get(name, found.get(UNNAMED))


def text(row: Json, name: str) -> str:
    """For what is only told: "" where it cannot be read."""
    value = member(row, name, str)
    return value if isinstance(value, str) else ""


def moment(row: Json, name: str) -> datetime | Unknown | None:
    """A time, or one as ISO 8601 text; in UTC, as botocore gives the machine's own time zone."""
    if not isinstance(row, Mapping):
        return unreadable(name)
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(time, datetime):
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):  # no time, or one beyond the calendar
        pass
    return unreadable(name)


def unreadable(name: str) -> Unknown:
    return Unknown(unknown=f"UNREADABLE: AWS gave no {name} that could be read")
