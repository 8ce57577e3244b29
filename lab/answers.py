"""What a host prints when a stage's script looks at it: for hosts that are no machines."""

from __future__ import annotations

import time
from collections.abc import Sequence

from haltuun.model import Host

_LISTS = ("agent", "listeners", "units", "logs", "lifted", "weak")
_SIGNS = ("running", "checksum", "pipe", "upload")
AGENT_VERSION = "3.3.1142.0"


def _identity(host: Host) -> list[str]:
    return [
        "imds.v2\tyes",
        f"imds.instance-id\t{host.instance_id}",
        f"imds.account\t{host.account}",
        f"imds.region\t{host.region}",
        f"epoch\t{int(time.time())}",
    ]


def discover_answer(
    host: Host, hostname: str, init: str, os_release: str, signs: Sequence[str] = (), more: Sequence[str] = ()
) -> str:
    """Of discover's probe.sh. `signs` are of a compromise; `more` are further lines."""
    return "\n".join(
        [
            "probe\t1",
            *_identity(host),
            f"hostname\t{hostname}",
            f"init\t{init}",
            *(f"os-release\t{line}" for line in os_release.splitlines()),
            *(f"suspect\trunning\t{sign}" for sign in signs),
            *more,
            *(f"done\t{name}" for name in (*_LISTS, *(f"suspect.{sign}" for sign in _SIGNS))),
            "end\tprobe",
        ]
    )


def verify_answer(host: Host, names: Sequence[str], role: str = "", *, closed: bool = False) -> str:
    """Of verify.sh: which of the endpoints `names` the host reaches."""
    rows = [f"role\t{role}", "imds.v1\t401", "proxy\t", "proxy.http\tno", "done\tproxy"]
    for name in names:
        rows += [
            f"dns\t{name}\tok",
            f"tcp\t{name}\t{'timeout' if closed else 'open'}",
            f"tls\t{name}\t{'closed' if closed else 'ok'}",
        ]
    return "\n".join(["verify\t1", *_identity(host), *rows, "end\tverify"])


def repair_answer(host: Host, init: str) -> str:
    """Of repair's probe.sh: an agent that runs and is connected under the instance's own id."""
    clock, own = f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())}", host.instance_id
    said = (
        "Checking if agent identity type OnPrem can be assumed",
        "Checking if agent identity type EC2 can be assumed",
        "Agent will take identity from EC2",
        f"[amazon-ssm-agent] amazon-ssm-agent - v{AGENT_VERSION}",
        "EC2RoleProvider Successfully connected with instance profile role credentials",
        "[CredentialRefresher] Credentials ready",
        "[ssm-agent-worker] Agent will take identity from EC2",
        f"[ssm-agent-worker] ssm-agent-worker - v{AGENT_VERSION}",
        f"[ssm-agent-worker] [MessageService] [MGSInteractor] Setting up websocket for controlchannel"
        f" for instance: {own}, requestId: 8338f8cc-ca9e-4fd6-a25f-8dfc91cd5090",
        "[ssm-agent-worker] [MessageService] [MGSInteractor] Set up control channel successfully",
    )
    known = {
        "root": "yes",
        "clock": f"{clock}:00",
        "init": init,
        "imds": "v2",
        "imds_instance_id": own,
        "imds_account": host.account,
        "imds_region": host.region,
        "packages": "read",
        "deb": AGENT_VERSION,
        "snap": "",
        "rpm": "",
        "service": "deb running, enabled",
        "processes": "read",
        "up_s": "8640000",
        "binary": "/usr/bin/amazon-ssm-agent",
        "dpkg_arch": "amd64",
        "enabled": "yes",
        "vault_manifest": "no",
        "vault_key_file": "no",
        "vault_instance_id": "",
        "vault_region": "",
        "vault_private_key": "no",
        "fingerprint_file": "no",
        "fingerprint_threshold": "",
        "registration_file": "no",
        "identity_config": "yes",
        "identity_config.IdentityType": "EC2",
        "identity_config.InstanceId": own,
        "identity_config.CredentialSource": "EC2",
        "identity_config.ShareFile": "",
        "config_file": "no",
        "credentials_file": "no",
        "disk_free_kb": "5206000",
        "inodes_free": "1310000",
        "state_kb": "12",
        "log_file": "yes",
        "log_read": "yes",
        "journal_read": "journalctl -u amazon-ssm-agent",
    }
    rows = [f"{name}={value}" for name, value in known.items()]
    rows += ["process=amazon-ssm-agen 56 417919", "process=ssm-agent-worke 59 418097"]
    rows += [f"log={n}:{clock}:00.{n:04} INFO {line}" for n, line in enumerate(said, 1)]
    return "\n".join([*rows, "end=yes"])
