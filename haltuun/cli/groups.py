"""Hosts with the same trouble and the same remedy are told about together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from haltuun.cli.tables import LOOKS, names_of
from haltuun.model import Host, StageName, Verdict
from haltuun.report.render import plain

INDENT = 6
NAMES = 12


@dataclass(frozen=True)
class Trouble:
    """Why one host is not through."""

    host: str
    stage: StageName
    verdict: Verdict
    code: str
    message: str
    remedy: str


@dataclass
class Group:
    """Troubles of one verdict, code and remedy; `said` is message → hosts."""

    first: Trouble
    said: dict[str, list[str]] = field(default_factory=dict)

    @property
    def hosts(self) -> list[str]:
        return list(dict.fromkeys(host for hosts in self.said.values() for host in hosts))


def grouped(troubles: Iterable[Trouble]) -> list[Group]:
    groups: dict[tuple[str, ...], Group] = {}
    for one in troubles:
        key = (one.verdict.value, one.stage.value, one.code, plain(one.remedy))
        group = groups.setdefault(key, Group(one))
        group.said.setdefault(plain(one.message), []).append(one.host)
    return list(groups.values())


def tell(console: Console, troubles: Sequence[Trouble], hosts: Mapping[str, Host]) -> None:
    """Verdict, stage, code and hosts; one sentence for each host, once where it is the same; one remedy."""
    names = names_of(hosts)
    for group in grouped(troubles):
        one, (word, style) = group.first, LOOKS[group.first.verdict]
        head = Text(f"{word.strip('-') or 'open':5} ", style=style)
        head.append(f"{one.stage.value} {one.code}", style="bold")
        head.append(f"  {enumerate_hosts(group.hosts, names)}", style="default")
        console.print(head, soft_wrap=not console.is_terminal)
        for message, concerned in group.said.items():
            who = "" if len(group.said) == 1 else f"{enumerate_hosts(concerned, names)}: "
            _line(console, who + message)
        if one.remedy:
            _line(console, f"→ {plain(one.remedy)}")


def enumerate_hosts(hosts: Sequence[str], names: Mapping[str, str]) -> str:
    """`web-01, web-02`, or `14 hosts: web-01, …` with the first dozen."""
    told = ", ".join(names.get(host, host) for host in hosts[:NAMES])
    more = f" and {len(hosts) - NAMES} more" if len(hosts) > NAMES else ""
    return f"{len(hosts)} hosts: {told}{more}" if len(hosts) > 3 else told


def _line(console: Console, text: str) -> None:
    # A pipe or a file gets unbroken lines, so that grep finds a sentence whole.
    if console.is_terminal:
        console.print(Padding(Text(text), (0, 0, 0, INDENT)))
    else:
        console.print(Text(" " * INDENT + text), soft_wrap=True)
