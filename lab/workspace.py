"""What `up` writes for the one who takes the account over: configuration, key, known hosts, environment."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.box.keys import KeyPair

CONFIG, KEY, KNOWN_HOSTS, ENV, PACKAGES = "haltuun.yaml", "id_rsa", "known_hosts", "env", "packages"
WRITTEN = (CONFIG, KEY, KNOWN_HOSTS, ENV, PACKAGES)
# Obviously no account's; boto3 only needs something to sign with.
ACCESS_KEY_ID, SECRET_ACCESS_KEY = "AKIAOPERATOR00000000", "lab"


@dataclass(frozen=True)
class Reached:
    """How one host is reached over SSH."""

    instance_id: str
    address: str
    port: int
    user: str
    known_keys: tuple[str, ...]  # public keys that known_hosts gives for this address
    deliberate_hybrid: bool = False


def write_workspace(
    out: Path,
    *,
    account_id: str,
    alias: str,
    region: str,
    endpoint_url: str,
    key: KeyPair,
    hosts: Iterable[Reached],
    agent_deb: Path,
    agent_version: str,
) -> dict[str, str]:
    """Write everything below `out`; returns the environment that points Haltuun at the lab."""
    reached = list(hosts)
    (out / PACKAGES).mkdir(parents=True, exist_ok=True)
    private = out / KEY
    private.unlink(missing_ok=True)
    private.touch(mode=0o600)
    private.write_text(key.private, encoding="utf-8")
    (out / KNOWN_HOSTS).write_text(_known_hosts(reached), encoding="utf-8")
    config = {
        "state_dir": "state",
        "accounts": [
            {
                "id": account_id,
                "alias": alias,
                "regions": [region],
                "ssh": {
                    "users": ["ubuntu", "ec2-user", "admin"],
                    "key_files": [KEY],
                    "known_hosts": KNOWN_HOSTS,
                    "host_keys": "strict",
                    "connect_timeout_s": 5,
                },
                "hosts": {host.instance_id: _host(host) for host in reached},
            }
        ],
        "agent": {
            "package_source": PACKAGES,
            "version": agent_version,
            "sha256": hashlib.sha256(agent_deb.read_bytes()).hexdigest(),
        },
    }
    head = (
        "# Written by the lab; it points at an emulated account and at hosts in namespaces of this machine.\n"
    )
    (out / CONFIG).write_text(head + yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    env = {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AWS_DEFAULT_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HALTUUN_CONFIG": str(out / CONFIG),
    }
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    (out / ENV).write_text(exports, encoding="utf-8")
    return env


def _host(host: Reached) -> dict[str, Any]:
    row: dict[str, Any] = {"address": host.address, "port": host.port, "user": host.user}
    return row | ({"deliberate_hybrid": True} if host.deliberate_hybrid else {})


def _known_hosts(hosts: Iterable[Reached]) -> str:
    rows = []
    for host in hosts:
        for key in host.known_keys:
            kind, text = key.split()[:2]
            rows.append(f"[{host.address}]:{host.port} {kind} {text}\n")
    return "".join(rows)


def remove_workspace(out: Path) -> None:
    """Take away what `write_workspace` wrote; a ledger in the same folder stays."""
    for name in WRITTEN:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
