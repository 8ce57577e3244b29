"""What a hybrid registration from before the move to EC2 leaves in an image."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .ssm.rsakey import generate_key_pair

STATE = "var/lib/amazon/ssm"
# md5 of what dmidecode printed on the virtual machine that was registered.
FORMER_DMI = {
    "bios-hash": "WTKbs3BZwvgr8mWA7OX05g==",
    "memory-hash": "GLr9s3iIiA0O4NMVgu2FOg==",
    "processor-hash": "0sANEza7UOb5cXnnm1rxjg==",
    "system-hash": "J1PM4CTK5DDyDrs8sHFP/g==",
}


@dataclass(frozen=True)
class StaleRegistration:
    """A registration in an image; `same_hardware` says whether the fingerprint check lets the clone pass."""

    instance_id: str
    region: str
    fingerprint: str
    machine_id: str
    same_hardware: bool
    hostname: str = "appsrv01"
    address: str = "192.168.50.20"
    mac: str = "00:50:56:aa:bb:01"
    threshold: int = 40
    # base64 of PKCS#1; without a library the agent's own way takes a second or two
    private_key: str = field(default_factory=lambda: generate_key_pair().private_key)


def _json(data: object) -> str:
    return json.dumps(data, separators=(",", ":"))


def _put(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _hardware(stale: StaleRegistration) -> dict[str, str]:
    dmi = dict.fromkeys(FORMER_DMI, "") if stale.same_hardware else FORMER_DMI
    values = {
        **dmi,
        "disk-info": "",
        "hostname-info": stale.hostname,
        "ipaddress-info": stale.address,
        "macaddr-info": stale.mac,
        "machine-id": stale.machine_id.rstrip("\n") + "\n",
    }
    return dict(sorted(values.items()))


def _write_vault(root: Path, stale: StaleRegistration) -> None:
    created = datetime.now(UTC) - timedelta(days=400)
    registration = {
        "instanceID": stale.instance_id,
        "region": stale.region,
        "instanceType": "",
        "availabilityZone": "",
        "privateKey": stale.private_key,
        "publicKey": "",
        "privateKeyType": "Rsa",
        "privateKeyCreatedDate": f"{created:%Y-%m-%d %H:%M:%S}.543416424 +0000 UTC",
    }
    fingerprint = {
        "fingerprint": stale.fingerprint,
        "hardwareHash": _hardware(stale),
        "similarityThreshold": stale.threshold,
    }
    store = root / STATE / "Vault/Store"
    _put(store / "RegistrationKey", _json(registration))
    _put(store / "InstanceFingerprint", _json(fingerprint))
    names = ("InstanceFingerprint", "RegistrationKey")
    _put(root / STATE / "Vault/Manifest", _json({name: f"/{STATE}/Vault/Store/{name}" for name in names}))
    for folder in (store, store.parent):
        os.chmod(folder, 0o600)


def write_stale_state(
    root: Path, stale: StaleRegistration, *, half_repaired: bool = False, token_life_s: float = -3600.0
) -> None:
    """Contaminate a host's files; `half_repaired` leaves out `registration`, as after a repair by hand.

    A positive `token_life_s` leaves credentials that still live, as on an image younger than an hour.
    """
    _write_vault(root, stale)
    state = root / STATE
    if not half_repaired:
        registration = {"ManagedInstanceID": stale.instance_id, "Region": stale.region}
        _put(state / "registration", _json(registration))
    for name in ("", "document", "replies", "replies_mgs", "inventory", "longrunningplugins", "idempotency"):
        (state / stale.instance_id / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    expires = datetime.fromtimestamp(time.time() + token_life_s, UTC)
    retrieved = expires - timedelta(hours=1)
    config = {
        "SchemaVersion": "1.1",
        "InstanceId": stale.instance_id,
        "IdentityType": "OnPrem",
        "ShareFile": "/root/.aws/credentials",
        "ShareProfile": "",
        "CredentialsExpiresAt": f"{expires:%Y-%m-%dT%H:%M:%SZ}",
        "CredentialsRetrievedAt": f"{retrieved:%Y-%m-%dT%H:%M:%S}.747318758Z",
        "CredentialSource": "SSM",
    }
    _put(state / "runtimeconfig/identity_config.json", _json(config))
    profile = (
        "[default]\n"
        "aws_access_key_id     = ASIAHYBRID000000000\n"
        "aws_secret_access_key = s\n"
        f"aws_session_token     = hy-{stale.instance_id}\n\n"
    )
    _put(root / "root/.aws/credentials", profile)
