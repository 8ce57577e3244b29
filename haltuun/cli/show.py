"""Status, plan and one host, as tables for people and as documents for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from haltuun.cli.groups import INDENT, enumerate_hosts, line, tell_causes
from haltuun.cli.hostview import print_host
from haltuun.cli.tables import names_of, status_table
from haltuun.config import AccountConfig, Config
from haltuun.errors import EXIT_HELD, EXIT_OK, ConfigError
from haltuun.ledger import Ledger
from haltuun.model import Finding, Host, StageName, command
from haltuun.report.changes import Stays, made
from haltuun.report.host import describe
from haltuun.report.page import (
    NOTHING_GOES_BACK,
    age_line,
    appeared_line,
    approval_line,
    left_line,
    part_line,
    stays_line,
    undone_line,
    when,
    work_line,
)
from haltuun.report.render import plain
from haltuun.report.standing import Standing, host_label, standing_of

LINES = 20  # of one kind, host by host; all of them are in the report
LEVEL_STYLE = {"good": "green", "open": "yellow", "bad": "red"}


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
    accounts = [config.account(account)] if account else config.all_accounts()
    ledger = Ledger(config.ledger_url)
    console = Console()
    held, documents = False, []
    for one in accounts:
        standing = standing_of(ledger, one, config.policy)
        held = held or any(standing.numbers[place] for place in ("held", "unknown"))
        if as_json:
            documents.append(
                {**status_document(ledger, one.id), "standing": standing.model_dump(mode="json")}
            )
        else:
            _print_status(console, ledger, one, standing)
    if as_json:
        typer.echo(json.dumps(documents[0] if account else documents))
    return EXIT_HELD if held else EXIT_OK


def _print_status(console: Console, ledger: Ledger, account: AccountConfig, standing: Standing) -> None:
    hosts = ledger.hosts(account.id)
    if not hosts:
        console.print(
            f"{account.named}: no host is known yet. Begin with: haltuun plan {account.label}",
            highlight=False,
            soft_wrap=True,
        )
        return
    console.print(f"{account.named}", highlight=False)
    _sentence(console, standing.sentence, f"bold {LEVEL_STYLE[standing.level]}")
    _sentence(console, age_line(standing, hosts, datetime.now(UTC)), "dim")
    console.print()
    console.print(status_table(ledger, account.id, width=console.width))
    console.print()
    tell_waits(console, standing, hosts)


def summary(console: Console, ledger: Ledger, config: Config, account: AccountConfig) -> None:
    """How a run ended: the sentence, and what waits."""
    standing = standing_of(ledger, account, config.policy)
    console.print()
    _sentence(console, standing.sentence, f"bold {LEVEL_STYLE[standing.level]}")
    tell_waits(console, standing, ledger.hosts(account.id))


def tell_waits(console: Console, standing: Standing, hosts: Mapping[str, Host]) -> None:
    """What wants somebody's eyes, as the standing artifact has it, in its order."""
    names = names_of(hosts)
    for worse in standing.worse[:LINES]:
        change = f"  {names[worse.host]}: was {worse.was.value}, is {worse.now.value}"
        head = Text.assemble(("worse ", "bold red"), (f"{worse.stage.value} {worse.code}", "bold"), change)
        console.print(head, soft_wrap=not console.is_terminal)
    _more(console, standing.worse, "got worse")
    for new in standing.appeared[:LINES]:
        _told(console, "new", "bold yellow", appeared_line(new, hosts))
    _more(console, standing.appeared, "are new")
    for suspect in standing.suspects:
        _told(console, "SUSPECT", "bold red", f"{host_label(hosts, suspect.host)}")
        for sign in suspect.signs:
            line(console, sign)
        line(console, f"→ {suspect.remedy}")
    for node in standing.foreign:
        if not node.settled:
            where = host_label(hosts, node.host) if node.host else node.computer_name or "a machine elsewhere"
            _told(console, node.node_id, "bold yellow", f"{where}: {node.message}")
    if standing.approval is not None:
        _told(console, "appr", "yellow", approval_line(standing.approval))
        if standing.approval.hosts:
            line(console, f"Waiting for it: {enumerate_hosts(standing.approval.hosts, names)}.")
        narrowed = standing.approval.narrowed
        look = command("plan", standing.label, narrowed["stages"], narrowed["hosts"])
        _command(console, standing.approval.command, f"see it with {look}")
    tell_causes(console, [*standing.decisions, *standing.holds], hosts)
    for waiting in standing.waiting[:LINES]:
        date = when(waiting.next_check) if waiting.next_check else "no date"
        _told(
            console,
            "wait",
            "yellow",
            f"{waiting.stage.value} {waiting.code}  {names[waiting.host]}: {date}. {waiting.message}",
        )
    _more(console, standing.waiting, "wait for a date")
    tell_causes(console, standing.unknown, hosts)
    for said in standing.not_judged_together:
        _told(console, "UNKN", "bold magenta", said)
    for begun in standing.unresolved:
        _told(console, "UNKN", "bold magenta", f"begun in {begun.run}, end not known: {begun.summary}")
    tell_causes(console, standing.left_alone, hosts)
    for undone in standing.undone[-LINES:]:
        _told(console, "undo", "yellow", undone_line(undone))
        _stay(console, undone.stays)
        _left(console, undone.left)
        _part(console, undone.in_part)
    _more(console, standing.undone, "runs before took something back")
    for work in standing.work[:LINES]:
        _told(console, "done", "green", work_line(work))
        if work.undo:
            _command(console, work.undo, "takes back what can be")
        else:
            line(console, NOTHING_GOES_BACK)
            _stay(console, work.stays)
        _left(console, work.left)
    _more(console, standing.work, f"runs before changed something: haltuun report {standing.label} -o DIR")


def _stay(console: Console, found: Sequence[Stays]) -> None:
    for one in found[:LINES]:
        line(console, f"- {stays_line(one)}")
    _more(console, found, "reasons")


def _left(console: Console, found: Sequence[Stays]) -> None:
    for one in found[:LINES]:
        line(console, f"- {left_line(one)}")
    _more(console, found, "reasons")


def _part(console: Console, found: Sequence[Stays]) -> None:
    for one in found[:LINES]:
        line(console, f"- {part_line(one)}")
    _more(console, found, "reasons")


def _more(console: Console, told: Sequence[object], what: str) -> None:
    if len(told) > LINES:
        line(console, f"and {len(told) - LINES} more {what}")


def _sentence(console: Console, text: str, style: str) -> None:
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def _told(console: Console, word: str, style: str, text: str) -> None:
    head = Text.assemble((f"{word:5} ", style), plain(text))
    console.print(head, soft_wrap=not console.is_terminal)


def _command(console: Console, typed: str, what: str) -> None:
    """A command stands whole in its line, to be copied."""
    told = Text(" " * INDENT).append(plain(typed), style="bold").append(f"   {what}", style="dim")
    console.print(told, soft_wrap=True)


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
    findings = [item for item in ledger.findings(account.id) if item[1].host == one.instance_id]
    if as_json:
        typer.echo(json.dumps(_host_document(ledger, account, one, findings)))
        return EXIT_OK
    events = ledger.change_events(account.id)
    dossier = describe(
        one,
        stages=ledger.status(account.id).get(one.instance_id, {}),
        findings=findings,
        made=[change for change in made(events, ledger.runs(account.id)) if one.instance_id in change.hosts],
        proofs=ledger.proofs(account.id, one.instance_id),
        observations=ledger.observations(account.id, one.instance_id),
        now=datetime.now(UTC),
    )
    print_host(Console(), dossier, account)
    return EXIT_OK


def _host_document(
    ledger: Ledger, account: AccountConfig, host: Host, findings: Sequence[tuple[StageName, Finding]]
) -> dict[str, Any]:
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
        "findings": [
            {"stage": stage.value, **finding.model_dump(mode="json")} for stage, finding in findings
        ],
        "proofs": [proof.model_dump(mode="json") for proof in ledger.proofs(account.id, host.instance_id)],
        "facts": {
            stage.value: {"observed_at": at.isoformat(), **facts}
            for stage, (at, facts) in ledger.observations(account.id, host.instance_id).items()
        },
    }


def write_report(config: Config, account: str, out: Path) -> None:
    from haltuun.report.dossier import write

    of = config.account(account)
    path = write(Ledger(config.ledger_url), of, config.policy, out)
    typer.echo(f"{path}")
    typer.echo(
        f"Written into {path.parent.resolve()}, for your eyes alone: they tell where the account is weak.",
        err=True,
    )
