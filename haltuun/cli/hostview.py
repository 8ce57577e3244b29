"""One host, for a person: where it stands, what was found, done and proven, what runs there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from haltuun.cli.tables import GRID, LOOKS
from haltuun.config import AccountConfig
from haltuun.model import HostStatus, Severity, StageName
from haltuun.report.changes import Made
from haltuun.report.facts import Service
from haltuun.report.host import Dossier
from haltuun.report.page import when
from haltuun.report.render import plain
from haltuun.report.standing import WORDS, Place
from haltuun.report.waits import AWAITING

STAGE_WIDTH = 9
SEVERITY_STYLE = {
    Severity.critical: "bold red",
    Severity.high: "red",
    Severity.medium: "yellow",
    Severity.low: "cyan",
    Severity.info: "dim",
}


def print_host(console: Console, dossier: Dossier, account: AccountConfig) -> None:
    host = dossier.host
    where = f"  {host.instance_id} in {host.region}, {account.named}"
    head = Text.assemble((plain(host.name) or host.instance_id, "bold"), where)
    console.print(head, soft_wrap=not console.is_terminal)
    state = "in custody" if dossier.place is Place.custody else WORDS[dossier.place]
    console.print(Text(f"{state}{f'; {dossier.system}' if dossier.system else ''}"))

    _head(console, "Stages")
    for stage, status in dossier.stages.items():
        _stage(console, stage, status)
    _none(console, dossier.stages, "No stage has judged it yet.")

    _head(console, "Findings")
    for _, finding in dossier.findings:
        lead = Text(f"{finding.severity.value:{STAGE_WIDTH - 1}}", style=SEVERITY_STYLE[finding.severity])
        _line(console, Text.assemble((finding.code, "bold"), f"  {plain(finding.message)}"), lead=lead)
        for text in finding.evidence:
            _line(console, Text(plain(text), style="dim"), STAGE_WIDTH)
        if finding.remedy:
            _line(console, Text(f"→ {plain(finding.remedy)}"), STAGE_WIDTH)
    _none(console, dossier.findings, "None.")

    _head(console, "What runs there")
    if isinstance(dossier.services, str):
        _line(console, Text(f"Not known: {dossier.services}"))
    elif dossier.services:
        console.print(Padding(_services(dossier.services), (0, 0, 0, 2)))
    else:
        _line(console, Text("Nothing listens."))
    if dossier.idle_units:
        _line(console, Text(f"Runs and listens nowhere: {', '.join(dossier.idle_units)}"))

    _head(console, "Changed by us")
    for run, changes in groupby(dossier.changes, key=lambda change: change.run):
        _changes(console, run, list(changes))
    _none(console, dossier.changes, "Nothing.")

    _head(console, "Proofs")
    for proof in dossier.proofs:
        until, style = ("valid until", "green") if proof.valid else ("too old since", "yellow")
        seen = f"  seen {when(proof.observed_at)}, "
        told = Text.assemble((proof.kind, "bold"), seen, (f"{until} {when(proof.valid_until)}", style))
        _line(console, told, lead=Text(f"{proof.stage.value:{STAGE_WIDTH - 1}}"))
        _line(console, Text(proof.evidence, style="dim"), STAGE_WIDTH)
    _none(console, dossier.proofs, "None.")

    for facts in dossier.facts:
        _head(console, f"Facts of {facts.stage.value}", f"seen {when(facts.at)}")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for fact in facts.known:
            table.add_row(Text(fact.words), Text(fact.value))
        for unknown in facts.unknown:
            table.add_row(
                Text("unknown", style="magenta"), Text(f"{', '.join(unknown.words)}: {unknown.reason}")
            )
        console.print(Padding(table, (0, 0, 0, 2)))


def _stage(console: Console, stage: StageName, status: HostStatus) -> None:
    word, style = ("appr", "yellow") if status.reason in AWAITING else LOOKS[status.verdict]
    lead = Text.assemble(f"{stage.value:{STAGE_WIDTH}}", (f"{word:4}", style))
    told = Text.assemble((f"since {when(status.since)}", "dim"))
    if status.reason:
        told.append(f"  {plain(status.reason)}", style="bold").append(f"  {plain(status.message)}")
    if status.next_check:
        told.append(f" Next look {when(status.next_check)}.", style="yellow")
    _line(console, told, lead=lead)
    if status.remedy and status.reason:
        _line(console, Text(f"→ {plain(status.remedy)}"), STAGE_WIDTH)


def _changes(console: Console, run: str, changes: Sequence[Made]) -> None:
    undo = next((change.undo for change in changes if change.undo), "")
    back = f"  to take it back: {undo}" if undo else "  nothing of it can be taken back"
    # A command stays whole in its line, to be copied.
    console.print(Text.assemble(f"  Run {run}", (back, "dim")), soft_wrap=True)
    for change in changes:
        style = "green" if change.event == "confirmed" else "bold yellow"
        lead = Text(f"{change.stage.value:{STAGE_WIDTH}}{change.at:%Y-%m-%d %H:%M} ")
        told = Text.assemble((change.state, style), f"  {change.summary}")
        if change.no_undo:
            told.append(f"  No undo: {change.no_undo}", style="dim")
        if change.in_part:
            told.append(f"  Undo in part: {change.in_part}", style="dim")
        if change.left:
            told.append(f"  At the last undo: {change.left}", style="dim")
        if change.note and change.event != "confirmed":
            told.append(f"  ({change.note})", style="dim")
        _line(console, told, 2, lead=lead)


def _services(services: Iterable[Service]) -> Table:
    table = Table(**GRID)
    for title in ("port", "process", "package", "unit", "listens on"):
        table.add_column(title, overflow="fold")
    for one in services:
        where = "this host only" if not one.outside else ", ".join(one.addresses)
        table.add_row(
            Text(f"{one.port}/{one.protocol}"),
            *(
                Text(part or "?", style="" if part else "dim")
                for part in (one.process, one.package, one.unit)
            ),
            Text(where, style="" if one.outside else "dim"),
        )
    return table


def _head(console: Console, title: str, more: str = "") -> None:
    console.print()
    console.print(Text.assemble((title, "bold"), (f"  {more}" if more else "", "dim")))


def _none(console: Console, part: object, text: str) -> None:
    if not part:
        _line(console, Text(text, style="dim"))


def _line(console: Console, text: Text, indent: int = 0, *, lead: Text | None = None) -> None:
    """Text after its lead, below which no further line of it begins."""
    if not console.is_terminal:
        # A pipe or a file gets unbroken lines, so that grep finds a sentence whole.
        first = Text.assemble(lead, " ") if lead else Text()
        console.print(Text(" " * (2 + indent)).append(first).append(text), soft_wrap=True)
        return
    row = Table.grid(padding=(0, 1, 0, 0))
    if lead:
        row.add_column(no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(*([lead, text] if lead else [text]))
    console.print(Padding(row, (0, 0, 0, 2 + indent)))
