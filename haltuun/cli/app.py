"""The commands and their options. What they do is imported when they are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from haltuun import __version__
from haltuun.config import Config, find_config, load_config
from haltuun.errors import EXIT_USAGE
from haltuun.model import StageName

app = typer.Typer(
    name="haltuun",
    help="Take inherited AWS accounts under management: find why a host does not answer, repair it with"
    " the smallest sufficient step, prove the effect.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
lab_app = typer.Typer(help="An inherited account to practise on.")
app.add_typer(lab_app, name="lab")

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", envvar="HALTUUN_CONFIG", help="Configuration file [./haltuun.yaml]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else")]
Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Id or alias of the account")]
StageOption = Annotated[
    list[StageName] | None, typer.Option("--stage", help="Change only in this stage (repeatable)")
]
HostOption = Annotated[
    list[str] | None, typer.Option("--host", help="Only this host, by id or name (repeatable)")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Approve every change; recorded as that")]


def _config(path: str | None) -> Config:
    return load_config(find_config(path))


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version")] = False,
    config: ConfigOption = None,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if config:  # before the command as good as behind it
        os.environ["HALTUUN_CONFIG"] = config
    _help_without_command(context)


@lab_app.callback(invoke_without_command=True)
def lab_top(context: typer.Context) -> None:
    _help_without_command(context)


def _help_without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(EXIT_USAGE)


@app.command(short_help="Write a configuration to begin with")
def init(config: ConfigOption = None) -> None:
    """Write haltuun.yaml to begin with, and the template of the role that Haltuun assumes."""
    from haltuun.cli.init import write_templates

    write_templates(find_config(config))


@app.command(short_help="Check what a takeover needs")
def doctor(
    account: Annotated[str | None, typer.Argument(metavar="[ACCOUNT]")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check configuration, credentials, permissions, SSH keys, the Prefect server and versions, and log in
    over SSH to one host of each kind: nothing is run there, and no host key is newly trusted."""
    from haltuun.cli.doctor import examine

    return examine(_config(config), account, as_json)


@app.command(short_help="Say what would be changed")
def plan(
    account: Account,
    stage: StageOption = None,
    host: HostOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every change in a row of its own, with its id")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Look at everything and say what would be changed; change nothing."""
    from haltuun.cli.takeover import plan_account

    return plan_account(find_config(config), account, stage, host, full, as_json)


@app.command(short_help="Take the account over")
def takeover(
    account: Account,
    stage: StageOption = None,
    host: HostOption = None,
    plan_hash: Annotated[str | None, typer.Option("--plan", help="Approve the plan of this hash")] = None,
    yes: YesOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Take the account over. What concerns more than one host waits for --plan HASH."""
    from haltuun.cli.takeover import take_over

    return take_over(find_config(config), account, stage, host, plan_hash, yes, as_json)


@app.command(short_help="Where each host stands")
def status(
    account: Annotated[str | None, typer.Argument(metavar="[ACCOUNT]", help="Default: all")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Where each host stands, from the ledger."""
    from haltuun.cli.show import show_status

    return show_status(_config(config), account, as_json)


@app.command(short_help="All that is known of one host")
def show(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Instance id or name")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """All that the ledger knows of one host: facts, verdicts, changes, proofs."""
    from haltuun.cli.show import show_host

    return show_host(_config(config), host, as_json)


@app.command(short_help="Write the takeover report")
def report(
    account: Account,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write into")],
    config: ConfigOption = None,
) -> None:
    """Write the takeover report: one HTML file without outside addresses, and its tables as CSV and JSON."""
    from haltuun.cli.show import write_report

    write_report(_config(config), account, out)


@app.command(short_help="Try the held hosts again")
def retry(
    account: Account,
    host: HostOption = None,
    stage: Annotated[StageName | None, typer.Option("--stage", help="Only hosts held here")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also hosts of which nothing that holds them has changed")
    ] = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Look again at the hosts that are held, say what changed since, and work on those where it matters.

    A host of which nothing has changed is left alone, also where a change failed without any effect and the
    host still shows why (DISK_FULL): --force tries it. Where no look shows why a change failed, only trying
    does. For one cause a host is tried policy.max_tries times at most.

    A host that was worse after a change is retried only if --host names it.
    """
    from haltuun.cli.takeover import retry_account

    return retry_account(find_config(config), account, host, stage, yes, force, as_json)


@app.command(short_help="Look at the waiting hosts again, by date")
def recheck(config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Look again at the waiting hosts whose date has come; where none has, say which dates are next.

    A host that was worse after a change is left alone: name it with takeover --host.
    """
    from haltuun.cli.takeover import recheck_waiting

    return recheck_waiting(find_config(config), as_json)


@app.command(short_help="Begin with the accounts not yet begun")
def onboard(config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Begin with every account of the configuration that was never taken over.

    One that was begun policy.max_tries times in vain is left to a person, who begins it with takeover.
    """
    from haltuun.cli.takeover import onboard_new

    return onboard_new(find_config(config), as_json)


@app.command(short_help="Take back what a run changed")
def undo(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, as status and show name it")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this only say what would go back")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Take back what a run changed, the last first, where nobody has changed it since."""
    from haltuun.cli.undo import undo as take_back

    return take_back(find_config(config), run, yes, as_json)


@app.command(short_help="Why an agent fails, from a host's files")
def diagnose(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder, archive or log file of one host")],
    as_json: JsonOption = False,
) -> int:
    """Say why a host's agent does not answer, from its files alone: no account, no host, no ledger.

    PATH is laid out as on the host (var/log/amazon/ssm/, var/lib/amazon/ssm/, etc/amazon/ssm/,
    root/.aws/; any of these), as a folder or a .tgz. An archive is read, never unpacked.
    """
    from haltuun.cli.diagnose import diagnose_files

    return diagnose_files(path, as_json)


@app.command(short_help="Serve the run history")
def ui(
    config: ConfigOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running and return")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the local server")] = False,
) -> None:
    """Serve the run history of this state folder and print its address."""
    from haltuun.cli.ui import serve

    serve(find_config(config), detach=detach, stop=stop)


@lab_app.command("up")
def lab_up(
    scenario: Annotated[Path | None, typer.Option("--scenario", help="Scenario file [the demo's]")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Changes ids and addresses")] = 0,
    agent_deb: Annotated[Path | None, typer.Option("--agent-deb", help="Another agent package")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where its files go")] = Path(".haltuun/lab"),
) -> None:
    """Bring the practice account up; again: make sure that it is."""
    from haltuun.cli.lab import up

    up(scenario, seed, agent_deb, out)


@lab_app.command("down", short_help="End and remove all of it")
def lab_down() -> None:
    """End every process, mount, namespace and file of the practice account."""
    from haltuun.cli.lab import down

    down()


@lab_app.command("status")
def lab_status(as_json: JsonOption = False) -> None:
    """What of the practice account runs."""
    from haltuun.cli.lab import status as lab_state

    lab_state(as_json)
