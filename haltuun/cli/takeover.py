"""`plan`, `takeover`, `retry`, `recheck`, `onboard`: run the flows in this process."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from haltuun.cli import server
from haltuun.cli.groups import enumerate_hosts
from haltuun.cli.interrupt import stoppable
from haltuun.cli.live import Progress, watched
from haltuun.cli.planview import print_plan
from haltuun.cli.preflight import check_account
from haltuun.cli.show import status_document, summary
from haltuun.cli.tables import names_of, status_table
from haltuun.config import AccountConfig, Config, load_config
from haltuun.errors import (
    EXIT_AWAITS_APPROVAL,
    EXIT_BLOCKED,
    EXIT_ERROR,
    EXIT_HELD,
    EXIT_OK,
    ConfigError,
    HaltuunError,
    ServerUnreachable,
)
from haltuun.importing import uncollected
from haltuun.ledger import Ledger
from haltuun.model import Host, StageName
from haltuun.report.render import plain
from haltuun.report.standing import host_label
from haltuun.unasked import OPEN, given_up, worst

if TYPE_CHECKING:
    from haltuun.causes import Decision

EXIT_OF = {
    "Done": EXIT_OK,
    "Planned": EXIT_OK,
    "PartiallyDone": EXIT_HELD,
    "GateBlocked": EXIT_BLOCKED,
    "AwaitingApproval": EXIT_AWAITS_APPROVAL,
    "NotDue": EXIT_OK,
    "NotBegun": EXIT_HELD,
}
INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")


def plan_account(
    config_path: Path,
    account: str,
    stages: Sequence[StageName] | None,
    hosts: Sequence[str] | None,
    full: bool,
    as_json: bool,
) -> int:
    config, ledger = opened(config_path)
    of = config.account(account)
    hosts = ids_of(ledger, of, hosts)
    begin(config, of, as_json, mode="plan", stages=stages or (), hosts=hosts or ())
    result = _flow(as_json, account, stages, hosts, mode="plan")
    made = ledger.plan(of.id, result["plan_hash"])
    assert made is not None
    if as_json:
        document = {
            "account": of.id,
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
        print_plan(
            Console(),
            made,
            ledger.hosts(of.id),
            of.label,
            approve=config.policy.approve,
            full=full,
            stages=stages or (),
            only_hosts=hosts,
        )
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
    config, ledger = opened(config_path)
    of = config.account(account)
    hosts = ids_of(ledger, of, hosts)
    if plan_hash and yes:
        raise ConfigError(
            "--plan approves one plan, --yes approves every change.",
            remedy="Use one of the two.",
            code="USAGE",
        )
    if plan_hash == "":  # a shell variable that holds nothing
        raise ConfigError(
            "--plan names no plan.", remedy="Give the hash that the plan printed.", code="USAGE"
        )
    if plan_hash and ledger.plan(of.id, plan_hash) is None:
        from haltuun.engine import unknown_plan

        raise unknown_plan(of.label, plan_hash)
    approval = {"plan_hash": plan_hash or "", "approve_all": yes}
    begin(config, of, as_json, mode="apply", stages=stages or (), hosts=hosts or (), **approval)
    result = _flow(as_json, account, stages, hosts, **approval)
    return _closing(config, of, ledger, result, as_json)


def retry_account(
    config_path: Path,
    account: str,
    hosts: Sequence[str] | None,
    stage: StageName | None,
    yes: bool,
    force: bool,
    as_json: bool,
) -> int:
    from haltuun.attention import held_hosts
    from haltuun.retrying import not_held, unfinished

    config, ledger = opened(config_path)
    of = config.account(account)
    hosts = ids_of(ledger, of, hosts)
    held = held_hosts(ledger.status(of.id), stage)
    chosen = [host for host in held if not hosts or host in hosts]
    known = ledger.hosts(of.id)
    for host, said in not_held(hosts, held, known, stage).items():
        typer.echo(f"{host_label(known, host)} {said}", err=True)
    if goes_on := unfinished(ledger, of.id, of.label):
        typer.echo(goes_on, err=True)
    if not chosen:
        _say(as_json, "No host is held there: nothing to retry.")
        if as_json:
            typer.echo(json.dumps(status_document(ledger, of.id)))
        return EXIT_OK
    begin(config, of, as_json, mode="apply", hosts=chosen, approve_all=yes)
    _say(as_json, f"Looking again at what holds {len(chosen)} host(s); nothing is changed meanwhile.")
    with uncollected():
        from flows.retry import retry_hosts
        from haltuun.retrying import on_decided

    token = on_decided.set(lambda decided: _tell_decisions(decided, ledger.hosts(of.id), as_json))
    try:
        result = run_flow(
            as_json,
            retry_hosts,
            account=account,
            stage=stage,
            hosts=hosts,
            force=force,
            approve_all=yes,
        )
    finally:
        on_decided.reset(token)
    extra = {"retry": result["retry"]}
    if result["run"] is None:
        if as_json:
            document = {**status_document(ledger, of.id), "outcome": result["outcome"], "plan_hash": ""}
            typer.echo(json.dumps({**document, **extra}))
        else:
            typer.echo("Nothing was retried.")
        return EXIT_HELD
    return _closing(config, of, ledger, result, as_json, extra)


def _tell_decisions(decided: Sequence[Decision], hosts: Mapping[str, Host], as_json: bool) -> None:
    """Which hosts are tried again and what changed since, then which are not and why."""
    names = names_of(hosts)
    alike: dict[tuple[str, ...], list[str]] = {}
    for one in sorted(decided, key=lambda one: not one.retried):
        key = (one.action, one.stage.value, one.reason, one.why, one.remedy if not one.retried else "")
        alike.setdefault(key, []).append(one.host)
    for (action, stage, reason, why, remedy), concerned in alike.items():
        _say(as_json, f"{action:5} {stage} {reason}: {enumerate_hosts(concerned, names)}")
        _say(as_json, f"      {plain(why)}")
        if remedy:
            _say(as_json, f"      → {plain(remedy)}")


def recheck_waiting(config_path: Path, as_json: bool) -> int:
    config, ledger = opened(config_path)
    accounts = config.all_accounts()
    _connect(config, as_json)
    with uncollected():
        from flows.recheck import recheck_waiting_hosts

    hosts = {host: one for account in accounts for host, one in ledger.hosts(account.id).items()}
    return _many(as_json, recheck_waiting_hosts, "No host waits for a date.", hosts)


def onboard_new(config_path: Path, as_json: bool) -> int:
    config, ledger = opened(config_path)
    new = [
        account.label
        for account in config.all_accounts()
        if not ledger.was_begun(account.id)
        and not given_up(
            account.label, ledger.runs(account.id), config.policy.max_tries, ledger.at_work(account.id)
        )
    ]
    _connect(config, as_json)
    if new and not as_json:
        told = f"Beginning with {', '.join(new)}: what concerns one host alone is changed, all else waits."
        typer.echo(told, err=True)
    with uncollected():
        from flows.onboarding import onboard_accounts

    return _many(as_json, onboard_accounts, "Every account of the configuration was begun already.")


def _many(
    as_json: bool, flow: Callable[..., Any], nothing: str, hosts: Mapping[str, Host] | None = None
) -> int:
    results = run_flow(as_json, flow)
    if as_json:
        typer.echo(json.dumps(results))
    else:
        for result in results:
            for line in _outcome_lines(result, hosts or {}):
                typer.echo(line)
        if not results:
            typer.echo(nothing)
    return exit_of_many(results)


def exit_of_many(results: Sequence[Mapping[str, Any]]) -> int:
    """As of the worst of them; a host that is left to a person counts as held, whatever became of others."""
    return EXIT_OF.get(worst(results), EXIT_ERROR)


def _go_on(result: Mapping[str, Any]) -> str:
    return f"; see haltuun status {result['account']}" if result["outcome"] in OPEN else ""


def _outcome_lines(result: Mapping[str, Any], hosts: Mapping[str, Host]) -> list[str]:
    """How an account's run ended; of a recheck also who waits for a person, and which dates come next."""
    later, left = result.get("next") or (), result.get("left") or ()
    if result["outcome"] == "NotDue":
        none = "." if later or left else "; those that waited are gone."
        lines = [f"{result['account']}: no host is due{none}"]
    else:
        error = f": {result['error']}" if result.get("error") else ""
        lines = [f"{result['account']}: {result['outcome']}{error or _go_on(result)}"]
    for one in left:
        lines.append(f"  leave  {host_label(hosts, one['host'])}  {one['stage']} {one['reason']}")
        lines += [f"      {plain(one['why'])}", f"      → {plain(one['remedy'])}"]
    for one in later:
        date, where = one["next_check"][:16].replace("T", " "), host_label(hosts, one["host"])
        lines.append(f"  {date} UTC  {where}  {one['stage']} {one['reason']}")
    return lines


def ids_of(ledger: Ledger, of: AccountConfig, hosts: Sequence[str] | None) -> list[str]:
    """Hosts as they were typed, by id or by name → instance ids. Ids are taken as they are; of a name it is
    said whose it was when Haltuun looked last.

    Raises:
        ConfigError: a name that the ledger does not know, or that several hosts have.
    """
    known = ledger.hosts(of.id)
    found = {typed: _id_of(typed, known, of.label) for typed in hosts or ()}
    named = {typed: host for typed, host in found.items() if typed != host}
    looked = ledger.looked_at(of.id) if named else {}
    for typed, host in named.items():
        times = [at for (of_host, _), at in looked.items() if of_host == host]
        seen = f"seen on {max(times):%Y-%m-%d %H:%M} UTC" if times else "the ledger has it"
        typer.echo(f"{plain(typed)} is {host}, as {seen}.", err=True)
    return list(dict.fromkeys(found.values()))


def _id_of(typed: str, known: Mapping[str, Host], label: str) -> str:
    if INSTANCE_ID.fullmatch(typed):
        return typed
    found = [host for host, one in known.items() if typed and one.name == typed]
    if len(found) == 1:
        return found[0]
    if found:
        message, remedy = f"{len(found)} hosts have this name ({', '.join(found)}).", "Use the instance id."
    elif not known:
        message = "no host is known by name yet."
        remedy = f"Use the instance id, or run 'haltuun plan {label}' first: it looks at all hosts."
    else:
        message = "no host had this name when Haltuun looked last."
        remedy = f"See 'haltuun status {label}'; for a host that is new or was renamed use the instance id."
    raise ConfigError(message, subject=typed, remedy=remedy, code="UNKNOWN_HOST")


def opened(config_path: Path) -> tuple[Config, Ledger]:
    """Configuration and ledger, before anything slow: both fail in a sentence."""
    config = load_config(config_path)
    os.environ["HALTUUN_CONFIG"] = str(config_path.resolve())  # the flows read the same file
    return config, Ledger(config.ledger_url)


def begin(config: Config, account: AccountConfig, as_json: bool, **told: Any) -> None:
    """Account and server answer, and the first line of the run is said: before Prefect is imported."""
    opening = check_account(config, account, **told)
    if not as_json:
        console = Console(stderr=True)
        console.print(Text(opening), soft_wrap=not console.is_terminal)
    _connect(config, as_json)


def _connect(config: Config, as_json: bool) -> None:
    if not as_json and not os.environ.get("PREFECT_API_URL") and server.running(config.state_dir) is None:
        typer.echo("Starting the local Prefect server ...", err=True)
    server.connect(config.state_dir)


def _flow(
    as_json: bool,
    account: str,
    stages: Sequence[StageName] | None,
    hosts: Sequence[str] | None,
    **parameters: Any,
) -> dict[str, Any]:
    with uncollected():
        from flows.takeover import take_over_account

    result: dict[str, Any] = run_flow(
        as_json,
        take_over_account,
        account=account,
        stages=list(stages or ()),
        hosts=list(hosts or ()),
        **parameters,
    )
    return result


def run_flow(as_json: bool, flow: Callable[..., Any], **parameters: Any) -> Any:
    url = os.environ["PREFECT_API_URL"]
    try:
        with stoppable(), watched(url), Progress(shown=not as_json):
            state = flow(**parameters, return_state=True)
    except Exception as error:
        # What a flow raises is in its state; what comes out here is Prefect's client and its server.
        raise ServerUnreachable(
            f"the Prefect server does not do what a run needs of it ({type(error).__name__}: {error}).",
            subject=url,
            remedy="Check that it is a Prefect 3 server and that it runs; the next run goes on from here.",
        ) from error
    try:
        return _result(state)
    except HaltuunError as error:
        if error.code == "INTERNAL" and not server.answers(url):
            raise ServerUnreachable(
                "the Prefect server stopped answering during the run.",
                subject=url,
                remedy="Start it again; the next run goes on from here.",
            ) from error
        raise


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


def _closing(
    config: Config,
    of: AccountConfig,
    ledger: Ledger,
    result: dict[str, Any],
    as_json: bool,
    extra: Mapping[str, Any] | None = None,
) -> int:
    if as_json:
        document = status_document(ledger, of.id)
        document.update(outcome=result["outcome"], plan_hash=result["plan_hash"], **(extra or {}))
        typer.echo(json.dumps(document))
    else:
        console = Console()
        console.print(status_table(ledger, of.id, width=console.width))
        summary(console, ledger, config, of)
        console.print(f"\nLedger       {config.ledger_url}", highlight=False, soft_wrap=True)
        console.print(f"Report       haltuun report {of.label} -o DIR", highlight=False)
        console.print(f"Run history  {server.ui_address(os.environ['PREFECT_API_URL'])}", highlight=False)
    return EXIT_OF.get(result["outcome"], EXIT_ERROR)


def _say(as_json: bool, text: str) -> None:
    typer.echo(text, err=as_json)
