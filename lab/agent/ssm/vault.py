"""The file vault and the registrations in it (agent/managedInstances: fsvault.go, instance_info.go)."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass

from ..netkit import clock
from ..netkit.hostfs import at, read_text, write_atomically
from .layout import STORE, VAULT

REGISTRATION_KEY = "RegistrationKey"
FINGERPRINT_KEY = "InstanceFingerprint"
EC2_REGISTRATION_KEY = "EC2RegistrationKey"


class VaultError(Exception):
    """The vault can not be read or written; the text is the agent's."""


class DataFileMissing(VaultError):
    """The manifest names a data file that is not there."""


@dataclass(frozen=True)
class Registration:
    """One registration; all fields empty means none."""

    instance_id: str = ""
    region: str = ""
    private_key: str = ""
    public_key: str = ""
    key_type: str = ""

    @property
    def is_complete(self) -> bool:
        """What makes the OnPrem identity (instance_info.go:93-99)."""
        return bool(self.instance_id and self.region and self.private_key)


class Vault:
    """Named pieces of data below Vault/Store, listed in one manifest."""

    def __init__(self, manifest: str = "Manifest") -> None:
        self._manifest_path = f"{VAULT}/{manifest}"

    def _manifest(self) -> dict[str, str]:
        try:
            text = read_text(self._manifest_path)
        except OSError as error:
            raise VaultError(_go_os_error("open", self._manifest_path, error)) from error
        if text is None:
            return {}
        try:
            data: dict[str, str] = json.loads(text)
        except ValueError as error:
            raise VaultError(f"Failed to parse vault manifest. {error}") from error
        return data

    def retrieve(self, key: str) -> str | None:
        """Data of `key`; None where the manifest does not know it."""
        path = self._manifest().get(key)
        if path is None:
            return None
        try:
            text = read_text(path)
        except OSError as error:
            raise VaultError(_go_os_error("open", path, error)) from error
        if text is None:
            raise DataFileMissing(f"data file of {key} is missing")
        return text

    def store(self, key: str, data: str) -> None:
        """Write data and, where it is new, its manifest entry."""
        try:
            for folder in (VAULT, STORE):
                if not at(folder).is_dir():
                    at(folder).mkdir(parents=True)
                    os.chmod(at(folder), 0o600)  # the agent creates them drw-------
            write_atomically(f"{STORE}/{key}", data)
            manifest = self._manifest()
            if key not in manifest:
                manifest[key] = f"{STORE}/{key}"
                write_atomically(self._manifest_path, _compact(manifest))
        except OSError as error:
            raise VaultError(_go_os_error("open", f"{STORE}/{key}", error)) from error


def hybrid_vault() -> Vault:
    """The vault that decides whether a host is OnPrem."""
    return Vault("Manifest")


def ec2_vault() -> Vault:
    """The vault of the EC2 self-registration."""
    return Vault("EC2Manifest")


def _compact(data: dict[str, object] | dict[str, str]) -> str:
    return json.dumps(data, separators=(",", ":"), sort_keys=False)


def _go_os_error(action: str, path: str, error: OSError) -> str:
    return f"{action} {path}: {os.strerror(error.errno or 0).lower()}"


def load_registration(vault: Vault, key: str) -> Registration:
    """The registration stored under `key`; VaultError where it can not be read."""
    text = vault.retrieve(key)
    if text is None:
        return Registration()
    try:
        data = json.loads(text)
    except ValueError as error:
        raise VaultError(f"Failed to unmarshal instance info. {error}") from error
    return Registration(
        instance_id=data.get("instanceID", ""),
        region=data.get("region", ""),
        private_key=data.get("privateKey", ""),
        public_key=data.get("publicKey", ""),
        key_type=data.get("privateKeyType", ""),
    )


def store_registration(vault: Vault, key: str, registration: Registration) -> None:
    """Overwrite the registration under `key`; an empty one clears it."""
    created = clock.now()
    stamp = f"{created:%Y-%m-%d %H:%M:%S}.{time.time_ns() % 1_000_000_000:09d} +0000 UTC"
    data = {
        "instanceID": registration.instance_id,
        "region": registration.region,
        "instanceType": "",
        "availabilityZone": "",
        "privateKey": registration.private_key,
        "publicKey": registration.public_key,
        "privateKeyType": registration.key_type,
        "privateKeyCreatedDate": stamp,
    }
    vault.store(key, _compact(data))
