"""A plan for the person who approves it: like changes in one row, or each by itself with its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from haltuun.cli.groups import Trouble, enumerate_hosts, tell
from haltuun.cli.tables import GRID, names_of
from haltuun.model import Change, Host, Plan, Reach, Severity, StageName, canonical
from haltuun.report.render import plain

EACH = "each host"
SEVERITY_STYLE = {
    Severity.critical: "bold red",
    Severity.high: "red",
    Severity.medium: "yellow",
}


@dataclass
class Row:
    """Changes that read the same but for the host: kind, region, reach, result and undo are equal."""

    text: str
    reach: Reach
    undo: str
    changes: list[Change] = field(default_factory=list)

    @property
    def hosts(self) -> list[str]:
        return list(dict.fromkeys(host for change in self.changes for host in change.hosts))


def print_plan(
    console: Console, plan: Plan, hosts: Mapping[str, Host], account: str, *, full: bool = False
) -> None:
    for stage in StageName:
        changes = [change for change in plan.changes if change.stage is stage]
        if changes:
            console.print(_table(stage, changes, hosts, full))
    troubles = [
        Trouble(one.host, StageName(stage), one.verdict, one.code, one.message, one.remedy)
        for stage, barred in plan.barred.items()
        for one in barred
    ]
    if troubles:
        console.print(Text("Hosts that these changes will not help", style="bold"))
        tell(console, troubles, hosts)
    _print_findings(console, plan, hosts, account, {(one.host, one.code) for one in troubles})
    _print_closing(console, plan, account)


def _table(stage: StageName, changes: Sequence[Change], hosts: Mapping[str, Host], full: bool) -> Table:
    names = names_of(hosts)
    table = Table(
        title=Text(stage.value, style="bold"),
        title_justify="left",
        **GRID,
    )
    if full:
        table.add_column("id", no_wrap=True)
    table.add_column("reach", no_wrap=True)
    table.add_column("change", overflow="fold", ratio=3)
    table.add_column("hosts", overflow="fold", ratio=2)
    before: list[str] = []
    for row in _alone(changes) if full else rows(changes, hosts):
        text = Text(plain(row.text))
        if row.undo:
            text.append(f" {plain(row.undo)}", style="dim")
        ids = [Text(row.changes[0].id)] if full else []
        table.add_row(
            *ids,
            Text(row.reach.value, style=_reach_style(row.reach)),
            text,
            Text(_hosts(row, before, hosts, names)),
        )
        before = row.hosts
    return table


def rows(changes: Sequence[Change], hosts: Mapping[str, Host]) -> list[Row]:
    """In the order of the changes; those of single hosts that differ in nothing else share a row."""
    found: dict[tuple[str, ...], Row] = {}
    for change in changes:
        text = _text(change)
        after = canonical(change.after)
        if len(change.hosts) == 1:
            text, after = (_without_host(part, change.hosts[0], hosts) for part in (text, after))
        key = (change.kind, change.region, change.reach.value, text, after, str(len(change.hosts) == 1))
        row = found.setdefault(key, Row(text, change.reach, _undo(change)))
        row.changes.append(change)
    for row in found.values():
        if len(row.changes) == 1:
            row.text = _text(row.changes[0])
    return list(found.values())


def _alone(changes: Sequence[Change]) -> list[Row]:
    return [Row(_text(change), change.reach, _undo(change), [change]) for change in changes]


def _text(change: Change) -> str:
    text = change.summary
    if change.concerns:
        text += f" Also concerned: {', '.join(change.concerns)}."
    if change.only_if_failed:
        text += " (only if the step before it has no effect)"
    return text


def _without_host(text: str, instance_id: str, hosts: Mapping[str, Host]) -> str:
    host = hosts.get(instance_id)
    if host is not None and host.name:
        text = text.replace(host.label, EACH).replace(f"{host.name} ({instance_id})", EACH)
        text = text.replace(f"{instance_id} ({host.name})", EACH)
    return text.replace(instance_id, EACH)


def _undo(change: Change) -> str:
    return "" if change.undo else f"No undo: {change.no_undo}"


def _hosts(row: Row, before: Sequence[str], hosts: Mapping[str, Host], names: Mapping[str, str]) -> str:
    concerned = row.hosts
    if not concerned:
        return "the account"
    if len(concerned) > 3 and set(concerned) == set(before):
        return f"the same {len(concerned)}"
    if len(concerned) > 3 and len(concerned) == len(hosts):
        return f"all {len(concerned)} hosts"
    return enumerate_hosts(sorted(concerned, key=lambda host: names.get(host, host)), names)


def _reach_style(reach: Reach) -> str:
    return {Reach.host: "green", Reach.irreversible: "bold red"}.get(reach, "yellow")


def _print_findings(
    console: Console, plan: Plan, hosts: Mapping[str, Host], account: str, told: set[tuple[str, str]]
) -> None:
    serious = [
        f for f in plan.findings if f.severity in SEVERITY_STYLE and (f.host or "", f.code) not in told
    ]
    if not serious:
        return
    console.print(Text("\nFindings", style="bold"))
    names = names_of(hosts)
    groups: dict[tuple[str, str, str], list[str]] = {}
    for finding in sorted(
        serious, key=lambda f: list(SEVERITY_STYLE).index(f.severity) if f.severity in SEVERITY_STYLE else 9
    ):
        text = plain(finding.message)
        if finding.host:
            text = _without_host(text, finding.host, hosts)
        key = (finding.severity.value, finding.code, text)
        groups.setdefault(key, []).append(finding.host or account)
    for (severity, code, text), where in groups.items():
        line = Text(f"{severity:8} ", style=SEVERITY_STYLE[Severity(severity)])
        line.append(code, style="bold")
        line.append(f"  {enumerate_hosts(where, names)}: {text}", style="default")
        console.print(line, soft_wrap=not console.is_terminal)


def _print_closing(console: Console, plan: Plan, account: str) -> None:
    count = {reach: sum(1 for change in plan.changes if change.reach is reach) for reach in Reach}
    told = ", ".join(f"{n} {reach.value}" for reach, n in count.items() if n)
    console.print(
        f"\nPlan [bold]{plan.hash}[/]: {len(plan.changes)} changes{f' ({told})' if told else ''}."
        " Nothing was changed.",
        highlight=False,
        soft_wrap=True,
    )
    if plan.changes:
        console.print(
            f"Approve it with [bold]haltuun takeover {account} --plan {plan.hash}[/];"
            f" every change with its id: haltuun plan {account} --full",
            highlight=False,
            soft_wrap=True,
        )
