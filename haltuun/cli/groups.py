"""Hosts with the same trouble and the same remedy are told about together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from haltuun.cli.tables import LOOKS, names_of
from haltuun.model import Host, StageName, Verdict
from haltuun.report.causes import Trouble as Trouble
from haltuun.report.causes import grouped
from haltuun.report.render import plain
from haltuun.report.waits import Cause

INDENT = 6
NAMES = 12


def tell(console: Console, troubles: Iterable[Trouble], hosts: Mapping[str, Host]) -> None:
    """Verdict, stage, code and hosts; one sentence for each host, once where it is the same; one remedy."""
    names = names_of(hosts)
    for group in grouped(troubles):
        one = group.first
        _tell(console, one.verdict, one.stage, one.code, group.said, one.remedy, names)


def tell_causes(console: Console, causes: Iterable[Cause], hosts: Mapping[str, Host]) -> None:
    """As `tell`, of what is grouped already."""
    names = names_of(hosts)
    for cause in causes:
        said = {one.message: one.hosts for one in cause.said}
        _tell(console, cause.verdict, cause.stage, cause.code, said, cause.remedy, names)


def _tell(
    console: Console,
    verdict: Verdict,
    stage: StageName,
    code: str,
    said: Mapping[str, Sequence[str]],
    remedy: str,
    names: Mapping[str, str],
) -> None:
    word, style = LOOKS[verdict]
    everyone = list(dict.fromkeys(host for hosts in said.values() for host in hosts))
    head = Text.assemble(
        (f"{word.strip('-') or 'open':5} ", style),
        (f"{stage.value} {code}", "bold"),
        f"  {enumerate_hosts(everyone, names)}",
    )
    console.print(head, soft_wrap=not console.is_terminal)
    for message, concerned in said.items():
        who = "" if len(said) == 1 else f"{enumerate_hosts(concerned, names)}: "
        line(console, who + message)
    if remedy:
        line(console, f"→ {plain(remedy)}")


def enumerate_hosts(hosts: Sequence[str], names: Mapping[str, str]) -> str:
    """`web-01, web-02`, or `14 hosts: web-01, …` with the first dozen."""
    told = ", ".join(names.get(host, host) for host in hosts[:NAMES])
    more = f" and {len(hosts) - NAMES} more" if len(hosts) > NAMES else ""
    return f"{len(hosts)} hosts: {told}{more}" if len(hosts) > 3 else told


def line(console: Console, text: str) -> None:
    """A sentence below a head."""
    # A pipe or a file gets unbroken lines, so that grep finds a sentence whole.
    if console.is_terminal:
        console.print(Padding(Text(text), (0, 0, 0, INDENT)))
    else:
        console.print(Text(" " * INDENT + text), soft_wrap=True)
