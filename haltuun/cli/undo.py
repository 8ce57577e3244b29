"""`undo`: what a run changed, and what of it goes back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from haltuun.cli.groups import enumerate_hosts
from haltuun.cli.planview import rows
from haltuun.cli.tables import GRID, names_of
from haltuun.cli.takeover import begin, opened, run_flow
from haltuun.errors import EXIT_AWAITS_APPROVAL, EXIT_HELD, EXIT_OK
from haltuun.importing import uncollected
from haltuun.model import Change, Host
from haltuun.report.render import UNDO_WORDS, plain
from haltuun.undo import find_run

EXIT_OF = {
    "Undone": EXIT_OK,
    "NothingToUndo": EXIT_OK,
    "PartlyUndone": EXIT_HELD,
    "AwaitingApproval": EXIT_AWAITS_APPROVAL,
}
STYLES = {
    "ready": "green",
    "done": "green",
    "already": "green",
    "failed": "bold red",
    "stale": "red",
    "unknown": "magenta",
    "kept": "default",
}


def undo(config_path: Path, run: str, yes: bool, as_json: bool) -> int:
    config, ledger = opened(config_path)
    account, _ = find_run(config, ledger, run)
    of = config.account(account)
    begin(config, of, as_json, mode="undo" if yes else "plan")
    with uncollected():
        from flows.undo import undo_run

    result = run_flow(as_json, undo_run, run=run, approve=yes)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print(Console(), result, ledger.hosts(of.id), of.label)
    return EXIT_OF[result["outcome"]]


def _print(console: Console, result: Mapping[str, Any], hosts: Mapping[str, Host], account: str) -> None:
    groups: dict[tuple[str, str], list[Change]] = {}
    for step in result["steps"]:
        message = plain(f"{step['message']} {step['not_in_turn']}")
        groups.setdefault((step["status"], message), []).append(_change(step))
    names = names_of(hosts)
    table = Table(**GRID)
    table.add_column("", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    table.add_column("change", overflow="fold", ratio=3)
    table.add_column("hosts", overflow="fold", ratio=2)
    for (status, message), changes in sorted(groups.items(), key=lambda g: list(UNDO_WORDS).index(g[0][0])):
        word, style = UNDO_WORDS[status], STYLES.get(status, "yellow")
        for row in rows(changes, hosts):
            text = Text(plain(row.text))
            if message:
                text.append(f" {message}", style="dim")
            concerned = sorted(row.hosts, key=lambda host: names.get(host, host))
            where = enumerate_hosts(concerned, names) if concerned else "the account"
            table.add_row(Text(word, style=style), Text(row.changes[0].stage.value), text, Text(where))
    if groups:
        console.print(table)
    console.print(Text(_sentence(result, account)), soft_wrap=True)


def _change(step: Mapping[str, Any]) -> Change:
    fields = {name: step[name] for name in Change.model_fields if name in step}
    return Change.model_validate({**fields, "undo": None, "no_undo": ""})


def _sentence(result: Mapping[str, Any], account: str) -> str:
    steps: Sequence[Mapping[str, Any]] = result["steps"]
    back = sum(1 for step in steps if step["status"] in ("ready", "done", "already"))
    of = f"{back} of {len(steps)} changes of run {result['undoes']}"
    again = sum(1 for step in steps if step["in_turn"])
    in_turn = f"{again} of these can be undone in turn"
    return {
        "NothingToUndo": f"Of run {result['undoes']} nothing is in effect that can be taken back.",
        "AwaitingApproval": f"{of} would be taken back; {in_turn} afterwards. Nothing was changed."
        f" Do it with: haltuun undo {result['undoes']} --yes",
        "Undone": f"{of} are taken back, by run {result['run']}. {in_turn}: haltuun undo {result['run']};"
        f" or to have all again: haltuun plan {account}.",
        "PartlyUndone": f"{of} are taken back, by run {result['run']}; {in_turn}. For the rest see why above;"
        f" then: haltuun undo {result['undoes']} --yes",
    }[result["outcome"]]
