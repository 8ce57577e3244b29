"""In which order hosts are changed: canaries one by one, then growing waves."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping

# Share of the remaining hosts, cumulatively 10, 40 and 100 %.
GROWTH = (0.10, 0.40, 1.0)
# A canary on which nothing came to be changed says nothing of its like: the next one goes alone, up to here.
CANARIES = 3


def waves(
    likeness: Mapping[str, Hashable], came_right: Callable[[str], bool] = lambda host: True
) -> Iterator[tuple[str, ...]]:
    """Host → what it is like (OS family, init, agent package, cause) → waves, first to last.

    The first host of each likeness goes alone, one after the other; the rest follow in waves of 10,
    30 and 60 %. Every host is in exactly one wave. `came_right` is asked of a canary when the next
    wave is asked for: until one of a likeness came right its next host goes alone, `CANARIES` at most.
    """
    alike: dict[Hashable, list[str]] = {}
    for host, like in likeness.items():
        alike.setdefault(like, []).append(host)
    alone: set[str] = set()
    for hosts in alike.values():
        for host in hosts[:CANARIES]:
            alone.add(host)
            yield (host,)
            if came_right(host):
                break
    rest = [host for host in likeness if host not in alone]
    start = 0
    for share in GROWTH:
        end = max(start + 1, round(len(rest) * share)) if start < len(rest) else start
        if rest[start:end]:
            yield tuple(rest[start:end])
        start = end
