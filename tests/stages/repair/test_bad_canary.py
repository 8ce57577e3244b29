"""Runs that come to grief on real hosts: at a bad canary, which is as it was; and killed in the middle."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from haltuun.config import load_config
from haltuun.ledger import Ledger
from haltuun.model import StageName, Verdict
from haltuun.retrying import decisions, held_in, worth_a_look
from tests.lab.cloud_kit import until
from tests.stages.repair import interrupted
from tests.stages.repair.host_kit import Hosts, lab_of
from tests.stages.repair.runs import STAGES, looked, take_over

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SCENARIO = """\
name: canary
account_id: "333344445555"
region: eu-west-1
images:
  lifted: {source: vmware, description: "lifted"}
hosts:
  - {name: a-canary, os: ubuntu-18.04, image: lifted, agent: stale}
  - {name: b-next, os: ubuntu-18.04, image: lifted, agent: stale}
  - {name: c-next, os: ubuntu-18.04, image: lifted, agent: stale}
"""
# Without the registration that the repair takes away this agent does not come up any more.
NEEDS_ITS_REGISTRATION = """#!/bin/sh
[ "$1" = -register ] || grep -q '"mi-' /var/lib/amazon/ssm/Vault/Store/RegistrationKey || exit 1
exec /usr/bin/amazon-ssm-agent.real "$@"
"""
# With another service, which ends where the agent starts without it and comes back where it is there.
TAKES_ANOTHER_ALONG = """#!/bin/sh
if [ "$1" != -register ] && ! grep -q '"mi-' /var/lib/amazon/ssm/Vault/Store/RegistrationKey; then
    kill "$(cat /run/other.pid)"
elif [ "$1" != -register ] && ! kill -0 "$(cat /run/other.pid)" 2>/dev/null; then
    /usr/local/bin/other
fi
exec /usr/bin/amazon-ssm-agent.real "$@"
"""
OTHER = """#!/bin/sh
perl -MIO::Socket::INET -e '
    $listener = IO::Socket::INET->new(Listen => 5, LocalPort => 8642, ReuseAddr => 1);
    sleep' >/dev/null 2>&1 </dev/null &
echo $! >/run/other.pid
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with lab_of(SCENARIO, tmp_path_factory.mktemp("canary"), f"canary-{os.getpid()}") as lab:
        yield lab


def files(hosts: Hosts, name: str) -> dict[str, str]:
    """What the repair could have moved: without its own saved state and what the agent writes by itself."""
    return {
        path: seen
        for path, seen in hosts.tree(name).items()
        if path.startswith(("/var/lib/amazon/ssm/Vault", "/root", "/etc"))
        # What an agent writes that came up as the instance, and then as before again.
        and path != "/root/.aws/credentials"
        and not path.startswith(("/var/lib/amazon/ssm/Vault/EC2", "/var/lib/amazon/ssm/Vault/Store/EC2"))
    }


def replace_agent(hosts: Hosts, script: str) -> None:
    agent = hosts.file("a-canary", "/usr/bin/amazon-ssm-agent")
    real = agent.with_name("amazon-ssm-agent.real")
    if not real.exists():
        agent.rename(real)
    write(agent, script)


def write(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


def inside(hosts: Hosts, *command: str) -> None:
    pid = str(hosts.info.hosts["a-canary"]["pid"])
    subprocess.run(["nsenter", "-t", pid, "-m", "-p", "-n", "-r", "-w", *command], check=True, timeout=20)


def listens(hosts: Hosts, port: int) -> bool:
    table = Path(f"/proc/{hosts.info.hosts['a-canary']['pid']}/net/tcp").read_text()
    return any(row.split()[1].endswith(f":{port:04X}") for row in table.splitlines()[1:])


def test_the_stage_ends_at_a_bad_canary_which_is_restored(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALTUUN_AGENT_WAIT_S", "5")
    replace_agent(hosts, NEEDS_ITS_REGISTRATION)
    before = {name: files(hosts, name) for name in hosts.info.hosts}
    canary, *others = (hosts.host(name).instance_id for name in sorted(hosts.info.hosts))
    config, ledger = load_config(hosts.info.config_path), Ledger(f"sqlite:///{tmp_path}/ledger.db")

    takeover = take_over(config, ledger)
    statuses = takeover.progress[StageName.repair].statuses
    assert {status.verdict for status in statuses.values()} == {Verdict.held}
    assert {statuses[host].reason for host in others} == {"STAGE_STOPPED"}
    assert "saved state was put back" in statuses[canary].message
    assert {name: files(hosts, name) for name in hosts.info.hosts} == before
    for name in ("b-next", "c-next"):
        assert not hosts.file(name, "/var/lib/haltuun/jobs").exists()

    held = held_in(ledger, hosts.info.account_id, None, ())
    asked = worth_a_look(ledger, hosts.info.account_id, held, (), takeover.hosts)
    assert asked == others
    looking = looked(config, ledger, "plan", asked)
    looking.end("Planned")
    decided = decisions(
        ledger,
        hosts.info.account_id,
        "acme",
        STAGES,
        held,
        looking.run.id,
        asked,
        takeover.hosts,
        named=(),
        force=False,
        max_tries=3,
    )
    assert {one.host: (one.retried, one.changed) for one in decided} == dict.fromkeys(
        [canary, *others], (False, ())
    )
    ledger.close()


@pytest.mark.soak
def test_where_another_service_falls_silent_the_repair_is_taken_back(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALTUUN_AGENT_WAIT_S", "10")
    write(hosts.file("a-canary", "/usr/local/bin/other"), OTHER)
    inside(hosts, "/usr/local/bin/other")
    until(lambda: listens(hosts, 8642))
    replace_agent(hosts, TAKES_ANOTHER_ALONG)
    before = {name: files(hosts, name) for name in hosts.info.hosts}
    canary, *others = (hosts.host(name).instance_id for name in sorted(hosts.info.hosts))
    config, ledger = load_config(hosts.info.config_path), Ledger(f"sqlite:///{tmp_path}/ledger.db")
    statuses = take_over(config, ledger).progress[StageName.repair].statuses
    assert statuses[canary].reason == "SERVICE_SILENCED"
    assert "8642/tcp" in statuses[canary].message and "listens again" in statuses[canary].message
    assert {statuses[host].reason for host in others} == {"STAGE_STOPPED"}
    assert (canary, StageName.repair) in ledger.worse(hosts.info.account_id)
    assert {name: files(hosts, name) for name in hosts.info.hosts} == before
    assert listens(hosts, 8642)
    ledger.close()


@pytest.mark.soak
def test_killed_with_its_script_in_the_middle_the_next_run_ends_it(hosts: Hosts, tmp_path: Path) -> None:
    """The other ways to be killed are in test_soak.py."""
    interrupted.walk(hosts, "c-next", tmp_path, "the script is killed", run_dies=True)
