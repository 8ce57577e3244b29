"""What `doctor` tries over SSH, and what it leaves alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from haltuun.cli.sshtry import GROUPS, Tried, groups_of, try_account, within
from haltuun.config import AccountConfig, HostConfig, SshConfig
from haltuun.errors import AuthRefused, HaltuunError
from haltuun.ledger import Ledger
from haltuun.model import Host, StageName
from haltuun.stages.discover.facts import DiscoverAccount, Standing
from tests.sshd_fixtures import Sshd, free_port, keygen

ACCOUNT, REGION = "111122223333", "eu-central-1"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
IDS = [f"i-{n:017x}" for n in range(40)]
LINUX = {"state": "running", "platform": "linux", "key_name": "acme", "image_name": "ubuntu/jammy"}


def host(n: int) -> Host:
    return Host(account=ACCOUNT, region=REGION, instance_id=IDS[n], name=f"web-{n}")


def test_hosts_that_are_reached_alike_are_one_group_and_the_largest_is_first() -> None:
    account = AccountConfig(id=ACCOUNT, hosts={IDS[8]: HostConfig(exclude="theirs")})
    standing = {IDS[n]: {**LINUX, "private_ip": f"10.1.{n}.4"} for n in range(9)}
    standing[IDS[0]] |= {"private_ip": "10.2.0.4"}
    standing[IDS[1]] |= {"key_name": "old"}
    standing[IDS[2]] |= {"state": "stopped"}
    standing[IDS[3]] |= {"platform": "windows"}
    standing[IDS[4]] |= {"exclude": "tagged"}
    groups = groups_of(account, {IDS[n]: host(n) for n in range(10)}, standing)
    assert [[one.instance_id for one, _ in group.hosts] for group in groups] == [IDS[5:8], [IDS[0]], [IDS[1]]]
    assert groups[0].words == "eu-central-1, 10.1.0.0/16, key pair acme, ubuntu"


def test_a_try_that_is_not_over_in_time_is_left_behind() -> None:
    never = threading.Event()
    refused = AuthRefused("no key opens it.")

    def refuses() -> str:
        raise refused

    def hangs() -> str:
        never.wait()
        return ""

    outcomes: list[str | HaltuunError | None] = within([lambda: "in", refuses, hangs], 0.2)
    assert outcomes == ["in", refused, None]
    never.set()


def test_what_fails_unforeseen_is_told_and_taken_for_no_silence() -> None:
    def breaks() -> str:
        raise ValueError("odd")

    (outcome,) = within([breaks], 10)
    assert isinstance(outcome, HaltuunError)
    assert (outcome.code, outcome.message) == ("INTERNAL", "ValueError while it was tried: odd.")


# -- against a real sshd -----------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield made
    made.close()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "sshd")
    server.allow(keygen(tmp_path / "key"), "ubuntu", "nosudo")
    yield server.start()
    server.stop()


def account_at(sshd: Sshd, folder: Path, **ssh: object) -> AccountConfig:
    """Hosts of one kind: the first is the server, nothing answers at the others."""
    given = {
        "key_files": [folder / "key"],
        "known_hosts": folder / "known",
        "config": None,
        "users": ["nosudo"],
    }
    hosts = {IDS[n]: HostConfig(address="127.0.0.1", port=free_port()) for n in range(3)}
    hosts[IDS[0]] = HostConfig(address="127.0.0.1", port=sshd.port)
    return AccountConfig(id=ACCOUNT, alias="acme", ssh=SshConfig(**{**given, **ssh}), hosts=hosts)  # type: ignore[arg-type]


def inventory(ledger: Ledger, count: int, **each: str) -> None:
    ledger.saw_hosts("run", [host(n) for n in range(count)])
    seen = {IDS[n]: Standing.model_validate({**LINUX, **each}) for n in range(count)}
    ledger.observed(ACCOUNT, "run", StageName.discover, "plan", {"": DiscoverAccount(standing=seen)}, NOW)


def only(tried: list[Tried]) -> Tried:
    (one,) = tried
    return one


@pytest.mark.lab
def test_one_host_of_a_kind_is_entered_and_nothing_is_left(
    ledger: Ledger, sshd: Sshd, tmp_path: Path
) -> None:
    sshd.known_hosts(tmp_path / "known")
    inventory(ledger, 3)
    one = only(try_account(ledger, account_at(sshd, tmp_path)))
    assert (one.what, one.ok) == (f"SSH to web-0 ({IDS[0]})", True)
    assert "logged in as nosudo with key" in one.says and "one of 3 like it" in one.says
    said = sshd.log.read_text()
    assert said.count("Accepted publickey") == 1 and "Starting session" not in said
    assert ledger.recall(ACCOUNT, f"ssh.login/{IDS[0]}") is None
    # Of a group the one that was entered before is tried, here one at which nothing listens.
    ledger.remember(ACCOUNT, f"ssh.login/{IDS[2]}", "x")
    one = only(try_account(ledger, account_at(sshd, tmp_path)))
    assert (one.what, one.ok) == (f"SSH to web-2 ({IDS[2]})", False)
    assert "[SSH_REFUSED]" in one.says and "see ssh.port" in one.says


@pytest.mark.lab
@pytest.mark.parametrize("trust", ["strict", "trust-first"])
def test_no_host_key_is_newly_trusted(ledger: Ledger, sshd: Sshd, tmp_path: Path, trust: str) -> None:
    inventory(ledger, 1)
    account = account_at(sshd, tmp_path, host_keys=trust)
    one = only(try_account(ledger, account))
    assert one.ok == (trust == "trust-first") and "is not known: ssh-ed25519 SHA256:" in one.says
    assert ("no login was tried" if one.ok else "[HOST_KEY_UNKNOWN]") in one.says
    assert "Accepted" not in sshd.log.read_text()
    assert ledger.recall(ACCOUNT, f"ssh.host-key/{IDS[0]}") is None
    assert not (tmp_path / "known").exists()
    # One that the first contact trusted is known to doctor, too; another is a changed one.
    fields = (sshd.folder / "host_key.pub").read_text().split()
    ledger.remember(ACCOUNT, f"ssh.host-key/{IDS[0]}", " ".join(fields[:2]))
    assert only(try_account(ledger, account)).ok == (trust == "trust-first")


@pytest.mark.lab
def test_what_is_not_tried_is_said(ledger: Ledger, sshd: Sshd, tmp_path: Path) -> None:
    account = account_at(sshd, tmp_path)
    one = only(try_account(ledger, account))
    assert one.ok and "no host is known yet: run 'haltuun plan acme'" in one.says
    inventory(ledger, 1, state="stopped")
    assert "no running Linux host is known" in only(try_account(ledger, account)).says
    many = {IDS[n]: Standing.model_validate({**LINUX, "key_name": f"pair-{n}"}) for n in range(GROUPS + 2)}
    nowhere = {i: HostConfig(address="127.0.0.1", port=9) for i in IDS}
    ledger.saw_hosts("run", [host(n) for n in range(GROUPS + 2)])
    ledger.observed(ACCOUNT, "run", StageName.discover, "plan", {"": DiscoverAccount(standing=many)}, NOW)
    *tried, rest = try_account(ledger, account.model_copy(update={"hosts": nowhere}))
    assert len(tried) == GROUPS and rest.ok
    assert "2 smaller group(s) with 2 host(s)" in rest.says
