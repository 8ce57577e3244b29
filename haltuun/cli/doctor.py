"""`haltuun doctor`: is everything there that a takeover needs?"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from haltuun.cli import server
from haltuun.config import AccountConfig, Config
from haltuun.errors import EXIT_ERROR, EXIT_OK, HaltuunError
from haltuun.ledger import Ledger
from haltuun.report.render import plain

READS: tuple[tuple[str, str, dict[str, int]], ...] = (
    ("ssm", "DescribeInstanceInformation", {"MaxResults": 5}),
    ("iam", "ListInstanceProfiles", {"MaxItems": 1}),
    ("autoscaling", "DescribeAutoScalingGroups", {"MaxRecords": 1}),
    ("backup", "ListBackupVaults", {"MaxResults": 1}),
    ("logs", "DescribeLogGroups", {"limit": 1}),
)
PACKAGES = ("haltuun", "prefect", "great-expectations", "boto3", "paramiko")


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    says: str


def examine(config: Config, account: str | None, as_json: bool) -> int:
    """Each check by itself; returns 1 when one of them fails."""
    accounts = [config.account(account)] if account else config.all_accounts()
    findings = [_versions(), _try("ledger", lambda: _ledger(config)), _prefect(config)]
    for one in accounts:
        identity = _try(f"{one.label}: credentials", partial(_identity, one))
        findings.append(identity)
        if identity.ok:
            findings += _reads(one)
        keys = _keys(one)
        findings += [*keys, *_ssh(config, one, all(key.ok for key in keys))]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}: {plain(finding.says)}")
    return EXIT_OK if all(finding.ok for finding in findings) else EXIT_ERROR


def _try(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except HaltuunError as error:
        return Finding(what, False, str(error))


def _versions() -> Finding:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            return Finding("versions", False, f"{name} is not installed. Run 'make setup'.")
    return Finding("versions", True, f"Python {platform.python_version()}, {', '.join(found)}")


def _ledger(config: Config) -> str:
    Ledger(config.ledger_url).close()
    return "opens"


def _prefect(config: Config) -> Finding:
    given = os.environ.get("PREFECT_API_URL")
    if given is None:
        running = server.running(config.state_dir)
        return Finding(
            "Prefect server", True, f"embedded, {'runs at ' + running if running else 'not running'}"
        )
    if server.answers(given):
        return Finding("Prefect server", True, f"{given} answers")
    return Finding("Prefect server", False, f"{given} does not answer. Start it or correct PREFECT_API_URL.")


def _identity(account: AccountConfig) -> str:
    from haltuun.aws import Aws
    from haltuun.cli.preflight import get_identity, get_regions
    from haltuun.clock import Clock

    aws = Aws(account, Clock(), read_only=True)
    return f"{get_identity(aws)}, regions {', '.join(get_regions(aws))}"


def _reads(account: AccountConfig) -> list[Finding]:
    """One cheap read of each service: what is denied here stays unknown in a run."""
    from haltuun.aws import Aws
    from haltuun.clock import Clock

    aws = Aws(account, Clock(), read_only=True)
    findings = []
    for service, operation, parameters in READS:
        what = f"{account.label}: reading {service}"
        ask = partial(aws.call, service, operation, aws.home_region, **parameters)
        findings.append(_try(what, partial(_allowed, ask)))
    return findings


def _allowed(ask: Callable[[], object]) -> str:
    ask()
    return "allowed"


def _keys(account: AccountConfig) -> list[Finding]:
    if account.ssh.key_files is None:
        agent = os.environ.get("SSH_AUTH_SOCK")
        says = (
            "from ssh-agent" if agent else "no key_files and no ssh-agent (SSH_AUTH_SOCK): SSH will not open"
        )
        return [Finding(f"{account.label}: SSH keys", bool(agent), says)]
    return [_try(f"{account.label}: SSH key", partial(_key, account, path)) for path in account.ssh.key_files]


def _ssh(config: Config, account: AccountConfig, keys: bool) -> list[Finding]:
    """A login to one host of each kind; bounded, and nothing is left on either side."""
    from haltuun.cli.sshtry import try_account

    if not keys:
        return [Finding(f"{account.label}: SSH", False, "not tried: see its keys above.")]
    try:
        ledger = Ledger(config.ledger_url)
    except HaltuunError:
        return [
            Finding(f"{account.label}: SSH", False, "not tried: which hosts there are stands in the ledger.")
        ]
    try:
        tried = try_account(ledger, account)
    except HaltuunError as error:
        return [Finding(f"{account.label}: SSH", False, str(error))]
    finally:
        ledger.close()
    return [Finding(f"{account.label}: {one.what}", one.ok, one.says) for one in tried]


def _key(account: AccountConfig, path: Path) -> str:
    from haltuun.reach import check_keys

    check_keys(account.model_copy(update={"ssh": account.ssh.model_copy(update={"key_files": [path]})}))
    return str(path)
