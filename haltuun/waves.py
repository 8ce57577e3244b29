"""In which order hosts are changed: canaries one by one, then growing waves."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

# Share of the remaining hosts, cumulatively 10, 40 and 100 %.
GROWTH = (0.10, 0.40, 1.0)


def waves(likeness: Mapping[str, Hashable]) -> list[tuple[str, ...]]:
    """Host → what it is like (OS family, init, agent package, cause) → waves, first to last.

    The first host of each likeness goes alone, one after the other; the rest follow in waves of 10,
    30 and 60 %. Every host is in exactly one wave.
    """
    canaries: dict[Hashable, str] = {}
    for host, like in likeness.items():
        canaries.setdefault(like, host)
    alone = set(canaries.values())
    rest = [host for host in likeness if host not in alone]
    result: list[tuple[str, ...]] = [(host,) for host in canaries.values()]
    start = 0
    for share in GROWTH:
        end = max(start + 1, round(len(rest) * share)) if start < len(rest) else start
        if rest[start:end]:
            result.append(tuple(rest[start:end]))
        start = end
    return result
