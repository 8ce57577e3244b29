"""What a host's script printed: a line a fact, key and fields apart by tabs. Pure.

A host may be anything, so nothing here raises: a line that is no fact is passed over, and a list of
which the script did not say `done` is unknown, with the reason that it gave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import TypeVar

from haltuun.model import Unknown

T = TypeVar("T")


def script(package: str, *names: str) -> str:
    """The named *.sh files of a stage's package, one after the other."""
    folder = resources.files(package)
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


class Lines:
    """The facts by their keys, in order."""

    def __init__(self, text: str) -> None:
        self._rows: dict[str, list[tuple[str, ...]]] = {}
        for line in text.splitlines():
            key, *fields = line.rstrip("\r").split("\t")
            if fields and key:
                self._rows.setdefault(key, []).append(tuple(fields))

    def rows(self, key: str, width: int = 1) -> list[tuple[str, ...]]:
        """All rows of a key, each made exactly `width` fields wide."""
        return [(fields + ("",) * width)[:width] for fields in self._rows.get(key, ())]

    def first(self, key: str) -> str | None:
        rows = self._rows.get(key)
        return rows[0][0] if rows else None

    def has(self, key: str, field: str) -> bool:
        return any(fields[0] == field for fields in self._rows.get(key, ()))

    def reason(self, name: str) -> Unknown:
        """Why the list `name` is not known."""
        for what, why in self.rows("cannot", 2):
            if what == name:
                return Unknown(unknown=why or "the host could not say")
        return Unknown(unknown="the host's script did not come to it")

    def whole(self, name: str, make: Callable[[], T]) -> T | Unknown:
        """`make()` where the script said that the list `name` is whole."""
        return make() if self.has("done", name) else self.reason(name)

    def number(self, key: str) -> float | Unknown:
        """The value as a number."""
        return number(self.first(key), self.reason(key))


def number(text: str | None, otherwise: Unknown) -> float | Unknown:
    try:
        value = float(text or "")
    except ValueError:
        return otherwise
    return value if math.isfinite(value) else otherwise


def pairs(rows: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """KEY="value" lines, as os-release(5) has them, of the first field of each row."""
    found: dict[str, str] = {}
    for row in rows:
        key, equals, value = row[0].partition("=")
        if equals:
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            found.setdefault(key.strip(), value)
    return found
