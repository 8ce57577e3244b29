"""What needs a host: discover's script over SSH, from login to the end of the connection."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko

from bench.measure import Figure, compare
from haltuun.config import load_config
from haltuun.model import Host
from haltuun.reach import Whereabouts, endpoint_of
from haltuun.ssh import Endpoint, open_ssh
from haltuun.ssh.keys import load_keys
from haltuun.stages.discover.lines import script
from lab import api

SCENARIO = Path(__file__).with_name("one-host.yaml")
PROBE_TIMEOUT_S = 120.0


class _Memory:
    """What worked, for one run."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def recall(self, key: str) -> str | None:
        return self._known.get(key)

    def remember(self, key: str, value: str) -> None:
        self._known[key] = value


def ssh_probe() -> Figure:
    with _one_host() as info:
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


@contextmanager
def _one_host() -> Iterator[api.LabInfo]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield api.up(SCENARIO, out=Path(folder) / "lab", name="bench")
        finally:
            api.down("bench")
