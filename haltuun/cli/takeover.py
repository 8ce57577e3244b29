"""`plan`, `takeover`, `retry`, `recheck`, `onboard`: run the flows in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from haltuun.cli import server
from haltuun.cli.live import Progress
from haltuun.cli.show import plan_table, status_document, status_table, summary
from haltuun.config import Config, load_config
from haltuun.errors import (
    EXIT_AWAITS_APPROVAL,
    EXIT_BLOCKED,
    EXIT_ERROR,
    EXIT_HELD,
    EXIT_OK,
    HaltuunError,
)
from haltuun.ledger import Ledger
from haltuun.model import StageName

EXIT_OF = {
    "Done": EXIT_OK,
    "Planned": EXIT_OK,
    "PartiallyDone": EXIT_HELD,
    "GateBlocked": EXIT_BLOCKED,
    "AwaitingApproval": EXIT_AWAITS_APPROVAL,
}


def plan_account(
    config_path: Path,
    account: str,
    stages: Sequence[StageName] | None,
    hosts: Sequence[str] | None,
    as_json: bool,
) -> int:
    config = _prepared(config_path, account)
    result = _flow(as_json, account, stages, hosts, mode="plan")
    ledger = Ledger(config.ledger_url)
    account_id = config.account(account).id
    made = ledger.plan(account_id, result["plan_hash"])
    assert made is not None
    if as_json:
        document = {
            "account": account_id,
            "plan_hash": made.hash,
            "findings": [finding.model_dump(mode="json") for finding in made.findings],
            "changes": [change.public() for change in made.changes],
            "barred": {
                stage: [one.model_dump(mode="json") for one in barred]
                for stage, barred in made.barred.items()
            },
        }
        typer.echo(json.dumps(document))
    else:
        plan_table(made, ledger.hosts(account_id), config.account(account).label)
    return EXIT_OK


def take_over(
    config_path: Path,
    account: str,
    stages: Sequence[StageName] | None,
    hosts: Sequence[str] | None,
    plan_hash: str | None,
    yes: bool,
    as_json: bool,
) -> int:
    config = _prepared(config_path, account)
    if plan_hash:
        _known_plan(config, account, plan_hash)
    result = _flow(as_json, account, stages, hosts, plan_hash=plan_hash or "", approve_all=yes)
    return _closing(config, account, result, as_json)


def retry_account(
    config_path: Path,
    account: str,
    hosts: Sequence[str] | None,
    stage: StageName | None,
    yes: bool,
    as_json: bool,
) -> int:
    from haltuun.attention import held_hosts

    config = _prepared(config_path, account)
    ledger = Ledger(config.ledger_url)
    held = held_hosts(ledger.status(config.account(account).id), stage)
    chosen = [host for host in held if not hosts or host in hosts]
    _name_others(hosts, held)
    if not chosen:
        _say(as_json, "No host is held there: nothing to retry.")
        if as_json:
            typer.echo(json.dumps(status_document(ledger, config.account(account).id)))
        return EXIT_OK
    for host in chosen:
        where, status = held[host]
        _say(as_json, f"retry {host}: {where.value} {status.reason}: {status.message}")
    from flows.retry import retry_hosts

    with Progress(shown=not as_json):
        state = retry_hosts(account=account, stage=stage, hosts=chosen, approve_all=yes, return_state=True)
    return _closing(config, account, _result(state), as_json)


def recheck_waiting(config_path: Path, as_json: bool) -> int:
    config = _prepared(config_path, None)
    from flows.recheck import recheck_waiting_hosts

    return _many(config, as_json, recheck_waiting_hosts, "No waiting host's date has come.")


def onboard_new(config_path: Path, as_json: bool) -> int:
    config = _prepared(config_path, None)
    from flows.onboarding import onboard_accounts

    return _many(config, as_json, onboard_accounts, "Every account of the configuration was begun already.")


def _many(config: Config, as_json: bool, flow: Callable[..., Any], nothing: str) -> int:
    state = flow(return_state=True)
    results = _result(state)
    if as_json:
        typer.echo(json.dumps(results))
    else:
        for result in results:
            typer.echo(
                f"{result['account']}: {result['outcome']}" + (f": {e}" if (e := result.get("error")) else "")
            )
        if not results:
            typer.echo(nothing)
    codes = [EXIT_OF.get(result["outcome"], EXIT_ERROR) for result in results]
    return EXIT_ERROR if EXIT_ERROR in codes else max(codes, default=EXIT_OK)


def _prepared(config_path: Path, account: str | None) -> Config:
    """Configuration read and server reachable, before Prefect is imported: both fail in a sentence."""
    config = load_config(config_path)
    if account is not None:
        config.account(account)
    os.environ["HALTUUN_CONFIG"] = str(config_path.resolve())  # the flows read the same file
    server.connect(config.state_dir)
    return config


def _known_plan(config: Config, account: str, plan_hash: str) -> None:
    from haltuun.engine import unknown_plan

    of = config.account(account)
    if Ledger(config.ledger_url).plan(of.id, plan_hash) is None:
        raise unknown_plan(of.label, plan_hash)


def _flow(
    as_json: bool,
    account: str,
    stages: Sequence[StageName] | None,
    hosts: Sequence[str] | None,
    **parameters: Any,
) -> dict[str, Any]:
    from flows.takeover import take_over_account

    with Progress(shown=not as_json):
        state = take_over_account(
            account=account,
            stages=list(stages or ()),
            hosts=list(hosts or ()),
            return_state=True,
            **parameters,
        )
    result: dict[str, Any] = _result(state)
    return result


def _result(state: Any) -> Any:
    data = state.result(raise_on_failure=False)
    if isinstance(data, HaltuunError):
        raise data
    if isinstance(data, BaseException):
        raise HaltuunError(
            f"the run ended by a defect: {type(data).__name__}: {data}.",
            remedy="Look at the flow run's log in the Prefect UI and report it.",
            code="INTERNAL",
        ) from data
    return data


def _closing(config: Config, account: str, result: dict[str, Any], as_json: bool) -> int:
    of = config.account(account)
    ledger = Ledger(config.ledger_url)
    if as_json:
        document = status_document(ledger, of.id)
        document.update(outcome=result["outcome"], plan_hash=result["plan_hash"])
        typer.echo(json.dumps(document))
    else:
        console = Console()
        console.print(status_table(ledger, of.id))
        summary(console, ledger, of, result)
        console.print(f"\nLedger       {config.ledger_url}", highlight=False, soft_wrap=True)
        console.print(f"Report       haltuun report {of.label} -o DIR", highlight=False)
        console.print(f"Run history  {server.ui_address(os.environ['PREFECT_API_URL'])}", highlight=False)
    return EXIT_OF.get(result["outcome"], EXIT_ERROR)


def _name_others(asked: Sequence[str] | None, held: Any) -> None:
    for host in asked or ():
        if host not in held:
            typer.echo(f"{host} is not held: left alone.", err=True)


def _say(as_json: bool, text: str) -> None:
    typer.echo(text, err=as_json)
