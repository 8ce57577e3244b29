"""The table hosts × stages, and how verdicts and names look, for the running and the finished run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from haltuun.ledger import Ledger
from haltuun.model import Host, HostStatus, StageName, Verdict
from haltuun.report.render import plain
from haltuun.report.waits import AWAITING

# Short, so that six stages, a name and a code stand side by side in 80 columns.
LOOKS: Mapping[Verdict, tuple[str, str]] = {
    Verdict.passed: ("ok", "green"),
    Verdict.held: ("HELD", "bold red"),
    Verdict.unknown: ("UNKN", "bold magenta"),
    Verdict.waiting: ("wait", "yellow"),
    Verdict.pending: ("-", "dim"),
    Verdict.excluded: ("excl", "dim"),
    Verdict.waived: ("waiv", "cyan"),
}
NAME_WIDTH, NARROW_NAME_WIDTH, LEAST_NAME_WIDTH = 24, 16, 13
INSTANCE_WIDTH, GAP, NARROW_GAP, EDGES = 19, 2, 1, 2
GRID: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
NARROW_GRID: dict[str, Any] = {**GRID, "padding": 0, "show_edge": False}
# From here on there is room for longer names, and for the instance ids.
MIDDLE, WIDE = 96, 120

Cell = Callable[[StageName, str], Text]


def short(text: str, width: int) -> str:
    """One harmless line of at most `width` columns."""
    text = plain(text)
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _short_name(name: str, width: int) -> str:
    """As `short`, but the end stays: names of fleets differ there."""
    name = plain(name)
    if cell_len(name) <= width:
        return name
    end = name[-width // 4 :]
    return set_cell_size(name, width - 1 - cell_len(end)).rstrip() + "…" + end


def names_of(hosts: Mapping[str, Host], width: int = NAME_WIDTH) -> dict[str, str]:
    """Host → what it is called here: its name, with the end of its id where names are shared or missing."""
    names = {instance_id: _short_name(host.name, width) for instance_id, host in hosts.items()}
    often = Counter(names.values())
    told = {}
    for instance_id, name in names.items():
        if not name:
            told[instance_id] = _short_name(instance_id, width)
        elif often[name] > 1:
            told[instance_id] = f"{_short_name(name, width - 8)} …{instance_id[-6:]}"
        else:
            told[instance_id] = name
    return told


def grid(
    hosts: Mapping[str, Host],
    stages: Iterable[StageName],
    cell: Cell,
    why: Callable[[str], str],
    *,
    width: int,
) -> Table:
    """A row a host: its name, a short word for each stage, and why it is not through."""
    stages, wide = list(stages), width >= WIDE
    told = {instance_id: why(instance_id) for instance_id in hosts}
    longest = max((len(code) for codes in told.values() for code in codes.split()), default=0)
    gap = GAP if width >= MIDDLE else NARROW_GAP
    taken = sum(len(stage.value) + gap for stage in stages) + gap + (INSTANCE_WIDTH + gap if wide else 0)
    left = width - taken - (EDGES if width >= MIDDLE else 0)
    # Codes stay whole, as they are searched for; a name can be shortened.
    most = NAME_WIDTH if width >= MIDDLE else NARROW_NAME_WIDTH
    names = names_of(hosts, max(LEAST_NAME_WIDTH, min(most, left - longest)))
    room = max(longest, left - max(map(cell_len, names.values()), default=0))
    table = Table(**(GRID if width >= MIDDLE else NARROW_GRID))
    if wide:
        table.add_column("instance", no_wrap=True)
    table.add_column("host", no_wrap=True)
    for stage in stages:
        table.add_column(stage.value, no_wrap=True)
    table.add_column("why", no_wrap=True)
    for instance_id in hosts:
        first = [Text(instance_id)] if wide else []
        cells = [cell(stage, instance_id) for stage in stages]
        table.add_row(*first, Text(names[instance_id]), *cells, Text(_folded(told[instance_id], room)))
    return table


def _folded(codes: str, width: int) -> str:
    """Whole codes in lines of at most `width`."""
    lines = [""]
    for code in codes.split():
        if lines[-1] and len(lines[-1]) + 1 + len(code) > width:
            lines.append(code)
        else:
            lines[-1] = f"{lines[-1]} {code}".lstrip()
    return "\n".join(lines)


def status_table(ledger: Ledger, account_id: str, *, width: int) -> Table:
    """Where each host stands, as the ledger has it."""
    hosts, status = ledger.hosts(account_id), ledger.status(account_id)

    def cell(stage: StageName, instance_id: str) -> Text:
        return verdict_cell(status.get(instance_id, {}).get(stage))

    def why(instance_id: str) -> str:
        return codes(status.get(instance_id, {}))

    return grid(hosts, StageName, cell, why, width=width)


def verdict_cell(status: HostStatus | None) -> Text:
    if status is None:
        return Text("")
    if status.reason in AWAITING:
        return Text("appr", style="yellow")
    word, style = LOOKS[status.verdict]
    return Text(word, style=style)


def codes(stages: Mapping[StageName, HostStatus]) -> str:
    """The codes that keep a host from being through, each once, as the stages come."""
    telling = (Verdict.held, Verdict.unknown, Verdict.waiting, Verdict.excluded)
    found = [one.reason for stage in StageName if (one := stages.get(stage)) and one.verdict in telling]
    waiting = [one.reason for one in stages.values() if one.reason in AWAITING]
    return " ".join(dict.fromkeys(filter(None, found or waiting)))
