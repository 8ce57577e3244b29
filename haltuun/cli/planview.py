"""A plan for the person who approves it: like changes in one row, or each by itself with its id."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from haltuun.cli.groups import Trouble, enumerate_hosts, tell
from haltuun.cli.tables import GRID, names_of
from haltuun.cost import basis, say, say_total
from haltuun.model import (
    Change,
    Cost,
    Host,
    Plan,
    Reach,
    Severity,
    StageName,
    Unknown,
    canonical,
    command,
    held_back,
)
from haltuun.report.causes import without_host
from haltuun.report.render import plain

LABELS = 14
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
    console: Console,
    plan: Plan,
    hosts: Mapping[str, Host],
    account: str,
    *,
    approve: Collection[Reach],
    full: bool = False,
    stages: Sequence[StageName] = (),
    only_hosts: Sequence[str] = (),
) -> None:
    """`approve` are the reaches that wait for a person; `stages` and `only_hosts` are what was asked for."""
    if not hosts:
        console.print(f"{account}: there is no instance in the regions that were looked at.", highlight=False)
    for stage in StageName:
        changes = [change for change in plan.changes if change.stage is stage]
        if not changes:
            continue
        if full:
            console.print(Text(stage.value, style="bold"))
            for change in changes:
                _print_whole(console, change, hosts)
        else:
            console.print(_table(stage, changes, hosts))
        _print_cost(console, stage, changes)
    troubles = [
        Trouble(one.host, StageName(stage), one.verdict, one.code, one.message, one.remedy)
        for stage, barred in plan.barred.items()
        for one in barred
    ]
    if troubles:
        console.print(Text("Hosts that these changes will not help", style="bold"))
        tell(console, troubles, hosts)
    _print_findings(console, plan, hosts, account, {(one.host, one.code) for one in troubles})
    _print_closing(console, plan, approve, partial(command, account=account, stages=stages, hosts=only_hosts))


def _table(stage: StageName, changes: Sequence[Change], hosts: Mapping[str, Host]) -> Table:
    names = names_of(hosts)
    table = Table(
        title=Text(stage.value, style="bold"),
        title_justify="left",
        **GRID,
    )
    table.add_column("reach", no_wrap=True)
    table.add_column("change", overflow="fold", ratio=3)
    table.add_column("hosts", overflow="fold", ratio=2)
    before: list[str] = []
    for row in rows(changes, hosts):
        text = Text(plain(row.text))
        for more in (row.undo, _cost(row.changes)):
            if more:
                text.append(f" {plain(more)}", style="dim")
        table.add_row(
            Text(row.reach.value, style=_reach_style(row.reach)),
            text,
            Text(_hosts(row, before, hosts, names)),
        )
        before = row.hosts
    return table


def _print_whole(console: Console, change: Change, hosts: Mapping[str, Host]) -> None:
    """Everything that stands behind its id, a line each; nothing is left out or cut."""
    reach = Text(change.reach.value, style=_reach_style(change.reach))
    lines = [(Text(change.id, style="bold"), Text(plain(change.summary))), (Text("reach"), reach)]
    lines += [(Text(name), Text(plain(value))) for name, value in _particulars(change, hosts) if value]
    if console.is_terminal:
        block = Table.grid(padding=(0, 2, 0, 0))
        block.add_column(no_wrap=True)
        block.add_column(overflow="fold")
        for line in lines:
            block.add_row(*line)
        console.print(Padding(block, (0, 0, 1, 2)))
        return
    # A pipe or a file gets unbroken lines, so that grep finds an id with its sentence.
    for name, value in lines:
        name.pad_right(LABELS - len(name))
        console.print(Text("  ") + name + value, soft_wrap=True)


def _particulars(change: Change, hosts: Mapping[str, Host]) -> list[tuple[str, str]]:
    cost = change.monthly_cost
    return [
        ("kind", f"{change.kind} on {change.target} in {change.region}"),
        ("hosts", ", ".join(hosts[h].label if h in hosts else h for h in change.hosts) or "the account"),
        ("concerned", "; ".join(change.concerns)),
        ("permissions", ", ".join(change.permissions) or "none of AWS: performed on the host itself"),
        ("undo", _undo_in_full(change)),
        ("cost", f"{say(cost)}: {cost.basis}" if isinstance(cost, Cost) else _cost([change])),
        ("needs", ", ".join(change.depends_on)),
        ("only if", f"{change.only_if_failed} has no effect" if change.only_if_failed else ""),
    ]


def _undo_in_full(change: Change) -> str:
    if change.undo is None:
        return f"none: {change.no_undo}"
    there = "takes it away" if change.undo.after is None else f"back to {canonical(change.undo.after)}"
    return there + (f"; {change.no_undo}" if change.no_undo else "")


def _cost(changes: Sequence[Change]) -> str:
    """Of one row: of all its hosts together."""
    costs = [change.monthly_cost for change in changes]
    unknown = next((cost for cost in costs if isinstance(cost, Unknown)), None)
    if unknown is not None and not any(isinstance(cost, Cost) for cost in costs):
        return f"Cost unknown ({unknown.unknown})."
    told = say_total(costs)
    return f"{'Costs' if len(changes) == 1 else 'Together'} {told}." if told else ""


def _print_cost(console: Console, stage: StageName, changes: Sequence[Change]) -> None:
    told = say_total(change.monthly_cost for change in changes)
    if told:
        console.print(Text(f"{stage.value}: {told}.\n"))


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


def _text(change: Change) -> str:
    text = change.summary
    if change.concerns:
        text += f" Also concerned: {', '.join(change.concerns)}."
    return text


def _without_host(text: str, instance_id: str, hosts: Mapping[str, Host]) -> str:
    unnamed = Host(account="", region="", instance_id=instance_id)
    return without_host(text, hosts.get(instance_id, unnamed))


def _undo(change: Change) -> str:
    """What cannot be taken back; all else can, which is said once at the end."""
    if change.undo is None:
        return f"No undo: {change.no_undo}"
    return f"Undo in part: {change.no_undo}" if change.no_undo else ""


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


def waiting(plan: Plan, approve: Collection[Reach]) -> list[Change]:
    """What is not done unasked: changes of these reaches, and those that build on them."""
    return held_back(plan.changes, {change.id for change in plan.changes if change.reach in approve})


def _print_closing(
    console: Console, plan: Plan, approve: Collection[Reach], typed: Callable[[str], str]
) -> None:
    count = {reach: sum(1 for change in plan.changes if change.reach is reach) for reach in Reach}
    told = ", ".join(f"{n} {reach.value}" for reach, n in count.items() if n)
    console.print(
        f"\nPlan [bold]{plan.hash}[/]: {len(plan.changes)} changes{f' ({told})' if told else ''}."
        " Nothing was changed.",
        highlight=False,
        soft_wrap=True,
    )
    if plan.changes:
        costs = say_total(change.monthly_cost for change in plan.changes)
        asked, all_of_them = len(waiting(plan, approve)), len(plan.changes)
        undoable = sum(1 for change in plan.changes if change.undo is not None)
        lines = [
            f"{asked} wait for approval; {all_of_them - asked} are made without: {typed('takeover')}.",
            f"{undoable} of {all_of_them} can be taken back afterwards: haltuun undo RUN.",
        ]
        if costs:
            lines.append(f"Cost in all: {costs}. {basis()}")
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)
        console.print(
            f"Approve it with [bold]{typed('takeover')} --plan {plan.hash}[/];"
            f" every host, permission and undo of each change: {typed('plan')} --full",
            highlight=False,
            soft_wrap=True,
        )
