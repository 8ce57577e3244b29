"""What needs a host: discover's script over SSH, and the repair of a stale agent beside its bare steps."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import paramiko

from bench.measure import Figure, compare, timed
from haltuun.config import load_config
from haltuun.model import Host
from haltuun.reach import Whereabouts, endpoint_of, open_host
from haltuun.run import Run
from haltuun.ssh import Endpoint, open_ssh
from haltuun.ssh.keys import load_keys
from haltuun.stages.discover.lines import script
from haltuun.transport import Transport
from lab import api
from tests.stages.repair.host_kit import Bench, Hosts, bench

ONE_HOST = Path(__file__).with_name("one-host.yaml")
STALE_HOST = Path(__file__).with_name("stale-host.yaml")
PROBE_TIMEOUT_S = 120.0
REPAIRS = 3
KEEP = 'rm -rf /root/kept; cp -a /var/lib/amazon/ssm /root/kept; echo "end\tprobe"\n'
PUT_BACK = """
systemctl stop amazon-ssm-agent
rm -rf /var/lib/amazon/ssm; cp -a /root/kept /var/lib/amazon/ssm
systemctl start amazon-ssm-agent
for _ in $(seq 600); do
    grep -q OnPrem /var/lib/amazon/ssm/runtimeconfig/identity_config.json && break
    sleep 0.1
done
echo "end\tprobe"
"""
# What a person would type, and the wait until the agent says that it is there as itself.
BY_HAND = """
log=/var/log/amazon/ssm/amazon-ssm-agent.log
from=$(($(wc -c <"$log") + 1))
systemctl stop amazon-ssm-agent
amazon-ssm-agent -register -clear >/dev/null 2>&1
systemctl start amazon-ssm-agent
for _ in $(seq 600); do
    tail -c "+$from" "$log" | grep -q 'Set up control channel successfully' && break
    sleep 0.1
done
echo "end\tprobe"
"""


class _Memory:
    """What worked, for one run."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def recall(self, key: str) -> str | None:
        return self._known.get(key)

    def remember(self, key: str, value: str) -> None:
        self._known[key] = value


def ssh_probe() -> Figure:
    with _lab(ONE_HOST) as info:
        config = load_config(info.config_path)
        account = config.accounts[0]
        (box,) = info.hosts.values()
        host = Host(account=account.id, region=info.region, instance_id=box["instance_id"], name="web-01")
        endpoint = endpoint_of(account, host, Whereabouts())
        memory = _Memory()
        text = script("haltuun.stages.discover", "common.sh", "suspect.sh", "probe.sh")
        (_, key), *_ = load_keys(account.ssh)

        def ours() -> None:
            transport = open_ssh(endpoint, account.ssh, memory, "bench")
            try:
                answer = transport.run(text, timeout_s=PROBE_TIMEOUT_S).stdout
            finally:
                transport.close()
            assert "end\tprobe" in answer

        return compare(
            "SSH: login, discover's script",
            ours,
            "paramiko exec_command",
            lambda: _bare(endpoint, key, text),
            rounds=7,
            amount=1,
            unit="host",
        )


def _bare(endpoint: Endpoint, key: paramiko.PKey, text: str) -> None:
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        user = endpoint.users[0]
        client.connect(
            endpoint.address, endpoint.port, user, pkey=key, allow_agent=False, look_for_keys=False
        )
        stdin, stdout, _ = client.exec_command("sudo -n /bin/sh -s", timeout=PROBE_TIMEOUT_S)
        stdin.write(text)
        stdin.channel.shutdown_write()
        assert b"end\tprobe" in stdout.read()


def stale_repair() -> Figure:
    """Look, save, clear, start, proof on the host: beside the agent's own stop, clear and start over one
    connection. Between the rounds the repair is taken back."""
    with _lab(STALE_HOST) as info, _environment(info.env):
        hosts = Hosts(info)
        account = load_config(info.config_path).accounts[0]
        endpoint = endpoint_of(account, hosts.host("web-01"), Whereabouts())
        (_, key), *_ = load_keys(account.ssh)
        ours, by_hand, connections = [], [], 0
        for _ in range(REPAIRS):
            with bench(hosts, "web-01") as b:
                clear = next(change for change in b.plan().changes if change.kind == "agent.clear")
                opened = _counted(b)
                ours.append(timed(partial(b.kind(clear).apply, b.run, clear)))
                connections = len(opened)
                b.undo(clear)
            _bare(endpoint, key, KEEP)
            by_hand.append(timed(lambda: _bare(endpoint, key, BY_HAND)))
            _bare(endpoint, key, PUT_BACK)
        return Figure(
            f"repair of a stale agent ({connections} connection(s))",
            statistics.median(ours),
            "stop, clear, start by hand",
            statistics.median(by_hand),
            amount=1,
            unit="host",
        )


def _counted(b: Bench) -> list[Host]:
    """The hosts in the order in which connections to them are opened from now on."""
    opened: list[Host] = []

    def opener(run: Run, host: Host) -> Transport:
        opened.append(host)
        return open_host(run, host)

    b.run.opener = opener
    return opened


@contextmanager
def _lab(scenario: Path) -> Iterator[api.LabInfo]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield api.up(scenario, out=Path(folder) / "lab", name="bench")
        finally:
            api.down("bench")


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
