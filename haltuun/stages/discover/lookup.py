"""One row out of a list of AWS, for each of many hosts: the list is gone through once, not once a host."""

from __future__ import annotations

from collections.abc import Sequence

from haltuun.model import Json
from haltuun.stages.pages import member

# Several lists of several regions are looked up in turns.
_KEPT = 64
# (which list, by which field) → the list itself, so that its id stays its own, and its first row by value.
_indexes: dict[tuple[int, str], tuple[Sequence[Json], dict[str, Json]]] = {}


def forget() -> None:
    """Let go of the lists: of a large account they are a hundred megabytes."""
    _indexes.clear()


def find(rows: Sequence[Json], field: str, value: object) -> Json | None:
    """The first row whose `field` is `value`. `rows` must not be changed any more."""
    key = (id(rows), field)
    known = _indexes.get(key)
    if known is None or known[0] is not rows:
        index: dict[str, Json] = {}
        for row in rows:
            if isinstance(name := member(row, field, str), str):
                index.setdefault(name, row)
        if len(_indexes) >= _KEPT:
            _indexes.clear()
        known = _indexes[key] = (rows, index)
    return known[1].get(value) if isinstance(value, str) else None
