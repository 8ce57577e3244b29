"""Whatever is wrong before a run: one sentence, what to do, the right exit code, nothing half done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from haltuun import errors
from tests.cli.kit import ACCOUNT, ALIAS, REGION, Cli, Done

pytestmark = [pytest.mark.slow]

ROLE = f"arn:aws:iam::{ACCOUNT}:role/haltuun"


def account_with(**values: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config["accounts"][0].update(values)

    return change


def refused(done: Done, exit_code: int, code: str, *words: str) -> None:
    assert done.code == exit_code, done
    done.sentence(code, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan",), ("Missing argument 'ACCOUNT'", "haltuun plan --help")),
        (("plan", ALIAS, "--frob"), ("No such option: --frob",)),
        (("plan", ALIAS, "--stage", "paint"), ("'paint' is not one of", "repair")),
        (("frob",), ("No such command 'frob'", "haltuun --help")),
        (("takeover", ALIAS, "--yes", "--plan", "0" * 16), ("--plan approves one plan",)),
        (("takeover", ALIAS, "--plan", ""), ("--plan names no plan",)),
    ],
)
def test_a_wrong_command_line(cli: Cli, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(cli.call(*arguments), errors.EXIT_USAGE, "USAGE", *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('accounts:\n  - id: "1"\n   alias: x\n', ("haltuun.yaml:3:", "Correct the YAML")),
        ("accounts:\n  - id: 111122223333\n", ("haltuun.yaml:2: accounts.0.id", "in quotes")),
        ("polcy: {}\n", ("haltuun.yaml:1: polcy", "no such key")),
        (
            "accounts:\n  - id: '111122223333'\n    role_arn: haltuun\n",
            (":3: accounts.0.role_arn", "ARN of a role"),
        ),
        ("state_dir: 2024-13-45\n", ("haltuun.yaml", "in quotes")),
        ("? [a, b]\n: c\n", ("haltuun.yaml",)),
        ("[" * 5000, ("haltuun.yaml",)),
        ("", ("not a mapping",)),
    ],
)
def test_a_broken_configuration(cli: Cli, text: str, words: tuple[str, ...]) -> None:
    (cli.folder / "haltuun.yaml").write_text(text)
    refused(cli.call("status"), errors.EXIT_USAGE, "CONFIG", *words)


@pytest.mark.parametrize("how", ["option before", "environment"])
def test_no_configuration_there(cli: Cli, how: str) -> None:
    arguments = {
        "option before": ("--config", "none.yaml", "status"),
        "environment": ("status",),
    }[how]
    done = cli.call(*arguments, HALTUUN_CONFIG="none.yaml" if how == "environment" else None)
    refused(done, errors.EXIT_USAGE, "CONFIG", "none.yaml: there is no such file", "haltuun init")


def test_a_configuration_that_cannot_be_read(cli: Cli) -> None:
    done = cli.call("status", "--config", str(cli.folder))
    refused(done, errors.EXIT_USAGE, "CONFIG", "cannot be read (Is a directory)")


@pytest.mark.parametrize("command", ["plan", "status", "doctor", "report"])
def test_an_unknown_account(cli: Cli, command: str) -> None:
    more = ("-o", "out") if command == "report" else ()
    refused(
        cli.call(command, "nope", *more), errors.EXIT_USAGE, "UNKNOWN_ACCOUNT", "'nope'", f"there: {ALIAS}"
    )


def test_an_unknown_host_of_the_ledger(cli: Cli) -> None:
    refused(cli.call("show", "nope"), errors.EXIT_USAGE, "UNKNOWN_HOST", "haltuun plan")


def test_an_unknown_plan(cli: Cli) -> None:
    done = cli.call("takeover", ALIAS, "--plan", "0123456789abcdef")
    refused(done, errors.EXIT_USAGE, "UNKNOWN_PLAN", "0123456789abcdef", f"haltuun plan {ALIAS}")


def test_an_unknown_run_and_one_that_changed_nothing(cli: Cli) -> None:
    refused(cli.call("undo", "20260101T000000-abcdef"), errors.EXIT_USAGE, "UNKNOWN_RUN", "20260101T000000")
    cli.ledger.start_run(ACCOUNT, "20260101T000000-abcdef", {"mode": "plan"}, datetime.now(UTC))
    done = cli.call("undo", "20260101T000000-abcdef", "--yes")
    refused(done, errors.EXIT_USAGE, "UNKNOWN_RUN", "only planned")


def test_a_key_file_that_is_missing_and_one_that_is_encrypted(cli: Cli) -> None:
    cli.write(account_with(ssh={"key_files": ["none.pem"]}))
    refused(cli.call("plan", ALIAS), errors.EXIT_USAGE, "CONFIG", "none.pem", "ssh.key_files")
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(cli.folder / "locked")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    cli.write(account_with(ssh={"key_files": ["locked"]}))
    refused(cli.call("plan", ALIAS), errors.EXIT_USAGE, "CONFIG", "locked", "encrypted", "ssh-add")
    examined = cli.call("doctor")
    assert any(line.startswith("FAIL") and "encrypted" in line for line in examined.out.splitlines()), (
        examined
    )


def test_no_credentials(cli: Cli) -> None:
    done = cli.call("plan", ALIAS, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    refused(done, errors.EXIT_ERROR, "NO_CREDENTIALS", "no AWS credentials", "AWS_PROFILE")


@pytest.mark.parametrize(
    ("operation", "error", "change", "code", "words"),
    [
        ("sts:GetCallerIdentity", "ExpiredToken", {}, "NO_CREDENTIALS", ("ExpiredToken", "Renew")),
        (
            "sts:GetCallerIdentity",
            "InvalidClientTokenId",
            {},
            "NO_CREDENTIALS",
            (f"region {REGION} is not enabled",),
        ),
        (
            "sts:AssumeRole",
            "AccessDeniedException",
            {"role_arn": ROLE},
            "ROLE_NOT_ASSUMED",
            (ROLE, "trust policy", "external_id"),
        ),
        (
            "ec2:DescribeInstances",
            "AccessDeniedException",
            {},
            "ACCESS_DENIED",
            ("Allow ec2:DescribeInstances",),
        ),
    ],
)
def test_aws_refuses(
    cli: Cli, operation: str, error: str, change: dict[str, Any], code: str, words: tuple[str, ...]
) -> None:
    cli.write(account_with(**change))
    cli.fault(operation, error)
    try:
        refused(cli.call("takeover", ALIAS, "--yes"), errors.EXIT_ERROR, code, *words)
    finally:
        cli.fault(operation, None)
    assert cli.runs() == []


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"profile": "nope"}, "NO_CREDENTIALS", ("no AWS profile 'nope'", "~/.aws/config")),
        ({"regions": ["eu-wast-1"]}, "WRONG_REGION", ("eu-wast-1", "haltuun.yaml")),
        ({"regions": [REGION, "eu-wast-1"]}, "WRONG_REGION", ("eu-wast-1",)),
        ({"id": "999988887777"}, "WRONG_ACCOUNT", (ACCOUNT, "999988887777")),
    ],
)
def test_a_configuration_that_does_not_fit_the_account(
    cli: Cli, change: dict[str, Any], code: str, words: tuple[str, ...]
) -> None:
    cli.write(account_with(**change))
    refused(cli.call("plan", ALIAS), errors.EXIT_ERROR, code, *words)


def test_nothing_answers_at_the_endpoint(cli: Cli) -> None:
    done = cli.call("plan", ALIAS, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    refused(done, errors.EXIT_ERROR, "AWS_UNREACHABLE", "AWS_ENDPOINT_URL")
    done = cli.call("plan", ALIAS, AWS_ENDPOINT_URL="localhost")
    refused(done, errors.EXIT_ERROR, "AWS_UNREACHABLE", "no address", "http://")


def test_nothing_answers_at_prefect_api_url(cli: Cli) -> None:
    done = cli.run("plan", ALIAS)
    assert done.err.startswith(f"{ALIAS} ({ACCOUNT}) as arn:aws:")
    refused(done, errors.EXIT_ERROR, "PREFECT_UNREACHABLE", "http://127.0.0.1:9/api", "PREFECT_API_URL")


def test_a_state_folder_that_cannot_be_made(cli: Cli) -> None:
    (cli.folder / "file").write_text("")
    cli.write(lambda config: config.update(state_dir="file/state"))
    refused(cli.call("plan", ALIAS), errors.EXIT_ERROR, "LEDGER", "state_dir")


def test_a_ledger_that_is_none(cli: Cli) -> None:
    (cli.folder / "state").mkdir()
    (cli.folder / "state" / "ledger.db").write_text("not a database " * 100)
    refused(cli.call("status"), errors.EXIT_ERROR, "LEDGER", "not a database")


def test_the_local_server_has_no_place(cli: Cli) -> None:
    (cli.folder / "file").write_text("")
    cli.write(
        lambda config: config.update(state_dir="file/state", database_url=f"sqlite:///{cli.folder}/ledger.db")
    )
    done = cli.call("plan", ALIAS, PREFECT_API_URL=None)
    refused(done, errors.EXIT_ERROR, "PREFECT_SERVER", "state_dir")


def test_the_lab_without_root_and_without_its_tools(cli: Cli, tmp_path: Path) -> None:
    as_root = "import haltuun.cli as c; c.main()"
    as_nobody = f"import os, lab.api, haltuun.cli.app, haltuun.cli.lab; os.seteuid(65534); {as_root}"
    assert "needs root" in _lab_up(cli, as_nobody, {}).sentence("LAB", "sudo")
    # A machine that is no Debian: neither the tools nor apt-get are on the PATH.
    (tmp_path / "bin").mkdir()
    bare = _lab_up(cli, as_root, {"PATH": str(tmp_path / "bin")})
    assert "util-linux" in bare.sentence("LAB", "apt-get", "Debian")


def _lab_up(cli: Cli, program: str, extra: dict[str, str]) -> Done:
    done = subprocess.run(
        [sys.executable, "-c", program, "lab", "up"],
        cwd=Path(__file__).parents[2],
        env=cli.environment(**extra),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == errors.EXIT_ERROR, done
    return Done(done.returncode, done.stdout, done.stderr)
