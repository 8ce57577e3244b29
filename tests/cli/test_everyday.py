"""What costs nothing must stay cheap: help and status without the large packages; init; doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from haltuun import __version__, errors
from haltuun.config import load_config
from haltuun.model import Host, HostStatus, StageName, Verdict
from tests.cli.kit import ACCOUNT, ALIAS, HALTUUN, REGION, Cli

pytestmark = [pytest.mark.slow]

HEAVY = ("prefect", "great_expectations", "boto3", "botocore", "paramiko", "pandas", "moto")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["plan", "--help"], ["status"], ["status", "--json"]]
)
def test_help_version_and_status_import_none_of_the_large_packages(cli: Cli, arguments: list[str]) -> None:
    program = f"""
import atexit, sys
from haltuun.cli import main
loaded = lambda: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
atexit.register(loaded)
sys.argv = ["haltuun", *{arguments!r}]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=cli.environment(),
        cwd=cli.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.strip()) == (errors.EXIT_OK, "[]"), done
    assert done.stdout


def test_help_names_every_command_and_a_bare_call_is_help(cli: Cli) -> None:
    told = cli.call("--help").out
    for command in (
        "init",
        "doctor",
        "plan",
        "takeover",
        "status",
        "show",
        "retry",
        "recheck",
        "onboard",
        "lab",
    ):
        assert f"  {command} " in told
    assert cli.call("--version").out.strip() == __version__
    bare = cli.run()
    assert bare.code == errors.EXIT_USAGE and bare.out.startswith("Usage: haltuun") and not bare.err


def test_status_before_the_first_run_says_how_to_begin(cli: Cli) -> None:
    done = cli.call("status")
    assert done.code == errors.EXIT_OK
    assert f"{ALIAS} ({ACCOUNT}): no host is known yet" in done.out and f"haltuun plan {ALIAS}" in done.out
    document = cli.document("status", ALIAS)
    assert (document["account"], document["run"], document["hosts"]) == (ACCOUNT, None, [])


def test_init_writes_a_configuration_that_is_accepted_and_never_overwrites(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    config = folder / "haltuun.yaml"
    done = cli.call("init", "--config", str(config))
    assert done.code == errors.EXIT_OK and str(config) in done.out
    assert load_config(config).accounts[0].role_arn
    role = folder / "haltuun-role.yaml"
    assert "sts:AssumeRole" in role.read_text()
    config.write_text("mine")
    again = cli.call("init", "--config", str(config))
    assert again.code == errors.EXIT_USAGE
    again.sentence("CONFIG", str(config), "not overwritten")
    assert config.read_text() == "mine"
    config.unlink()
    assert cli.call("init", "--config", str(config)).code == errors.EXIT_USAGE  # the role's file is there
    assert not config.exists()
    nowhere = cli.call("init", "--config", str(folder / "none" / "haltuun.yaml"))
    assert nowhere.code == errors.EXIT_USAGE
    nowhere.sentence("CONFIG", "cannot be written")


def test_doctor_tells_each_thing_by_itself(cli: Cli) -> None:
    cli.fault("ssm:DescribeInstanceInformation", "AccessDeniedException")
    try:
        done = cli.call("doctor", "--json")
        said = cli.call("doctor", ALIAS)
    finally:
        cli.fault("ssm:DescribeInstanceInformation", None)
    assert done.code == said.code == errors.EXIT_ERROR
    found = {finding["what"]: finding for finding in json.loads(done.out)}
    assert found["ledger"]["ok"] and found["versions"]["ok"]
    assert found[f"{ALIAS}: credentials"]["ok"] and REGION in found[f"{ALIAS}: credentials"]["says"]
    assert not found["Prefect server"]["ok"] and "PREFECT_API_URL" in found["Prefect server"]["says"]
    assert [what for what, finding in found.items() if not finding["ok"]] == [
        "Prefect server",
        f"{ALIAS}: reading ssm",
    ]
    assert "Allow ssm:DescribeInstanceInformation" in found[f"{ALIAS}: reading ssm"]["says"]
    assert f"FAIL  {ALIAS}: reading ssm" in said.out and said.err == ""


def test_output_that_cannot_be_written_or_shown_is_no_defect(cli: Cli) -> None:
    """A full disk is said in a sentence; a terminal without arrows gets question marks."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [HALTUUN, "status"],
            env=cli.environment(),
            cwd=cli.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == errors.EXIT_ERROR
    assert done.stderr.strip().endswith("Free space, then call it again. [OUTPUT]")
    _known(cli)
    shown = cli.run("status", PYTHONIOENCODING="ascii")
    assert shown.code == errors.EXIT_HELD and "? Free it." in shown.out, shown


def _known(cli: Cli) -> None:
    now, host = datetime.now(UTC), cli.instances["sound"]
    cli.ledger.start_run(ACCOUNT, "run", {"mode": "apply"}, now)
    cli.ledger.saw_hosts("run", [Host(account=ACCOUNT, region=REGION, instance_id=host, name="sound")])
    held = HostStatus(verdict=Verdict.held, reason="DISK_FULL", message="It is full.", remedy="Free it.")
    cli.ledger.judged(ACCOUNT, "run", StageName.repair, {host: held}, now)


def test_a_configuration_without_an_account_is_said(cli: Cli) -> None:
    cli.write(lambda config: config.update(accounts=[]))
    for command in ("status", "onboard"):
        cli.call(command).sentence("CONFIG", "no account")


def test_a_reader_that_leaves_early(cli: Cli) -> None:
    _known(cli)
    piped = subprocess.run(
        ["bash", "-c", f"{HALTUUN} show sound | head -n 1"],
        env=cli.environment(),
        cwd=cli.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert piped.stderr == ""
    assert "sound" in piped.stdout.splitlines()[0]
