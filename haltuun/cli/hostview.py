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
from haltuun.report.standing import AWAITING, WORDS, Place

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
    head = Text(plain(host.name) or host.instance_id, style="bold")
    head.append(f"  {host.instance_id} in {host.region}, {account.label} ({account.id})", style="default")
    console.print(head, soft_wrap=not console.is_terminal)
    state = "in custody" if dossier.place is Place.custody else WORDS[dossier.place]
    console.print(Text(f"{state}{f'; {dossier.system}' if dossier.system else ''}"))

    _head(console, "Stages")
    for stage, status in dossier.stages.items():
        _stage(console, stage, status)
    _none(console, dossier.stages, "No stage has judged it yet.")

    _head(console, "Findings")
    for _, finding in dossier.findings:
        told = Text(f"{finding.severity.value:{STAGE_WIDTH}}", style=SEVERITY_STYLE[finding.severity])
        told.append(finding.code, style="bold").append(f"  {plain(finding.message)}", style="default")
        _line(console, told)
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
        told = Text(f"{proof.stage.value:{STAGE_WIDTH}}").append(proof.kind, style="bold")
        told.append(f"  seen {when(proof.observed_at)}, ", style="default")
        told.append(
            f"{'valid until' if proof.valid else 'too old since'} {when(proof.valid_until)}",
            style="green" if proof.valid else "yellow",
        )
        _line(console, told)
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
    told = Text(f"{stage.value:{STAGE_WIDTH}}").append(f"{word:5}", style=style)
    told.append(f"since {when(status.since)}", style="dim")
    if status.reason:
        told.append(f"  {plain(status.reason)}", style="bold")
        told.append(f"  {plain(status.message)}", style="default")
    if status.next_check:
        told.append(f" Next look {when(status.next_check)}.", style="yellow")
    _line(console, told)
    if status.remedy and status.reason:
        _line(console, Text(f"→ {plain(status.remedy)}"), STAGE_WIDTH)


def _changes(console: Console, run: str, changes: Sequence[Made]) -> None:
    undo = next((change.undo for change in changes if change.undo), "")
    head = Text(f"Run {run}", style="cyan")
    head.append(f"  to take it back: {undo}" if undo else "  nothing of it can be taken back", style="dim")
    _line(console, head)
    for change in changes:
        told = Text(f"{change.stage.value:{STAGE_WIDTH}}{change.at:%Y-%m-%d %H:%M}  ")
        told.append(change.state, style="green" if change.event == "confirmed" else "bold yellow")
        told.append(f"  {change.summary}", style="default")
        if change.no_undo:
            told.append(f"  No undo: {change.no_undo}", style="dim")
        if change.note and change.event != "confirmed":
            told.append(f"  ({change.note})", style="dim")
        _line(console, told, 2)


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
    console.print(Text(title, style="bold").append(f"  {more}" if more else "", style="dim"))


def _none(console: Console, part: object, text: str) -> None:
    if not part:
        _line(console, Text(text, style="dim"))


def _line(console: Console, text: Text, indent: int = 0) -> None:
    # A pipe or a file gets unbroken lines, so that grep finds a sentence whole.
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, 2 + indent)))
    else:
        console.print(Text(" " * (2 + indent)).append(text), soft_wrap=True)
