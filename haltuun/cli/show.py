"""Status, plan and one host, as tables for people and as documents for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from haltuun.cli.groups import Trouble, tell
from haltuun.cli.tables import status_table
from haltuun.config import AccountConfig, Config
from haltuun.errors import EXIT_HELD, EXIT_OK, ConfigError
from haltuun.ledger import Ledger
from haltuun.model import Host, StageName
from haltuun.report.render import last_word, plain


def status_document(ledger: Ledger, account_id: str) -> dict[str, Any]:
    """The stable form of `status --json`."""
    runs = [run for run in ledger.runs(account_id) if run.mode == "apply"]
    table, hosts = ledger.status(account_id), ledger.hosts(account_id)
    return {
        "account": account_id,
        "run": runs[-1].run if runs else None,
        "hosts": [
            {
                "instance_id": instance_id,
                "region": host.region,
                "name": host.name,
                "stages": {
                    stage.value: {
                        "status": status.verdict.value,
                        "reason": status.reason,
                        "message": status.message,
                        "remedy": status.remedy,
                        "since": status.since.isoformat() if status.since else None,
                        "next_check": status.next_check.isoformat() if status.next_check else None,
                    }
                    for stage, status in table.get(instance_id, {}).items()
                },
            }
            for instance_id, host in hosts.items()
        ],
    }


def show_status(config: Config, account: str | None, as_json: bool) -> int:
    accounts = [config.account(account)] if account else list(config.accounts)
    ledger = Ledger(config.ledger_url)
    documents = [status_document(ledger, one.id) for one in accounts]
    if as_json:
        typer.echo(json.dumps(documents[0] if account else documents))
    else:
        console = Console()
        for one in accounts:
            _print_status(console, ledger, one)
    held = any(
        status["status"] in ("held", "unknown")
        for document in documents
        for host in document["hosts"]
        for status in host["stages"].values()
    )
    return EXIT_HELD if held else EXIT_OK


def _print_status(console: Console, ledger: Ledger, account: AccountConfig) -> None:
    if not ledger.hosts(account.id):
        console.print(
            f"{account.label} ({account.id}): no host is known yet. Begin with: haltuun plan {account.label}",
            highlight=False,
            soft_wrap=True,
        )
        return
    console.print(f"{account.label} ({account.id})", highlight=False)
    console.print(status_table(ledger, account.id, width=console.width))


def summary(console: Console, ledger: Ledger, account: AccountConfig, result: dict[str, Any]) -> None:
    """One sentence and one remedy for each host that did not make it, and what to do next."""
    hosts, status = ledger.hosts(account.id), ledger.status(account.id)
    by_stage = {
        stage: {host: stages[stage] for host, stages in status.items() if stage in stages}
        for stage in StageName
    }
    words = {host: word for host in hosts if (word := last_word(host, by_stage)) is not None}
    through = len(hosts) - len(words)
    console.print(
        f"\n[bold]{through} of {len(hosts)} hosts are in custody.[/]"
        f" Run {result['run']} ended as {result['outcome']}.",
        highlight=False,
    )
    troubles = [
        Trouble(host, stage, one.verdict, one.reason, one.message, one.remedy)
        for host, (stage, one) in words.items()
    ]
    tell(console, troubles, hosts)
    if result["outcome"] == "AwaitingApproval":
        command = f"haltuun takeover {account.label} --plan {result['plan_hash']}"
        console.print(
            f"\nSee the plan with [bold]haltuun plan {account.label}[/], approve it with [bold]{command}[/]",
            highlight=False,
            soft_wrap=True,
        )


def show_host(config: Config, host: str, as_json: bool) -> int:
    """Raises ConfigError when the ledger knows no such host, or several of that name."""
    ledger = Ledger(config.ledger_url)
    found = [
        (account, one)
        for account in config.accounts
        for one in ledger.hosts(account.id).values()
        if host in (one.instance_id, one.name)
    ]
    if len(found) != 1:
        many = ", ".join(one.instance_id for _, one in found)
        raise ConfigError(
            f"{len(found)} hosts have this name ({many})." if found else "the ledger knows no such host.",
            subject=host,
            remedy="Use the instance id." if found else "See 'haltuun status'; run 'haltuun plan' first.",
            code="UNKNOWN_HOST",
        )
    account, one = found[0]
    document = _host_document(ledger, account, one)
    if as_json:
        typer.echo(json.dumps(document))
        return EXIT_OK
    console = Console()
    console.print(f"[bold]{escape(plain(one.label))}[/] in {one.region}, {account.label} ({account.id})")
    for part in ("stages", "changes", "proofs", "facts"):
        console.print(f"\n[bold]{part}[/]")
        for depth, line in _lines(document[part]):
            console.print("  " * depth + escape(plain(line)), highlight=False, soft_wrap=True)
    return EXIT_OK


def _host_document(ledger: Ledger, account: AccountConfig, host: Host) -> dict[str, Any]:
    events = [e for e in ledger.change_events(account.id) if host.instance_id in e.change.hosts]
    status = ledger.status(account.id).get(host.instance_id, {})
    return {
        "account": account.id,
        "instance_id": host.instance_id,
        "region": host.region,
        "name": host.name,
        "stages": {stage.value: one.model_dump(mode="json") for stage, one in status.items()},
        "changes": [
            {
                "at": event.at.isoformat(),
                "run": event.run,
                "id": event.change_id,
                "event": event.event,
                "summary": event.change.summary,
                "undo": event.change.undo.model_dump(mode="json") if event.change.undo else None,
            }
            for event in events
        ],
        "proofs": [proof.model_dump(mode="json") for proof in ledger.proofs(account.id, host.instance_id)],
        "facts": {
            stage.value: {"observed_at": at.isoformat(), **facts}
            for stage, (at, facts) in ledger.observations(account.id, host.instance_id).items()
        },
    }


def _lines(part: Any) -> list[tuple[int, str]]:
    """(depth, text) of a part of the document, without what is empty."""
    if isinstance(part, list):
        return [(1, "  ".join(f"{k}={v}" for k, v in entry.items() if v)) for entry in part] or [(1, "none")]
    lines = []
    for key, value in part.items():
        lines.append((1, key))
        lines += [(2, f"{k}: {json.dumps(v)}") for k, v in value.items() if v not in (None, "", [])]
    return lines or [(1, "none")]


def write_report(config: Config, account: str, out: Path) -> None:
    from haltuun.report.dossier import write

    of = config.account(account)
    path = write(Ledger(config.ledger_url), of, out)
    typer.echo(f"{path}")
