"""Which identity the agent takes (common/identity/identity/identity_selector.go:78-117)."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

from ..netkit import imds
from ..netkit.hostfs import at, read_text, write_atomically
from ..netkit.pace import pause
from .layout import IDENTITY_CONFIG
from .logfile import Log
from .settings import Settings
from .vault import REGISTRATION_KEY, DataFileMissing, VaultError, hybrid_vault, load_registration
from .version import sends_tokens

ATTEMPTS = 3
ATTEMPT_INTERVAL_S = 0.5
NEVER = "0001-01-01T00:00:00Z"


class NoIdentity(Exception):
    """No identity of the order could be taken."""


@dataclass(frozen=True)
class Identity:
    """Who the agent is; `region` is where it calls."""

    kind: str
    instance_id: str
    region: str
    availability_zone: str = ""


@dataclass
class RuntimeConfig:
    """identity_config.json: what the core last took, and its credentials' times."""

    instance_id: str
    kind: str
    share_file: str = ""
    share_profile: str = ""
    expires_at: str = NEVER
    retrieved_at: str = NEVER
    source: str = ""

    def save(self) -> None:
        """Write the file in the agent's own field order."""
        at(IDENTITY_CONFIG).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = {
            "SchemaVersion": "1.1",
            "InstanceId": self.instance_id,
            "IdentityType": self.kind,
            "ShareFile": self.share_file,
            "ShareProfile": self.share_profile,
            "CredentialsExpiresAt": self.expires_at,
            "CredentialsRetrievedAt": self.retrieved_at,
            "CredentialSource": self.source,
        }
        write_atomically(IDENTITY_CONFIG, json.dumps(data, separators=(",", ":")))


def load_runtime_config() -> RuntimeConfig | None:
    """The file's content; None where there is none or it can not be read."""
    try:
        data = json.loads(read_text(IDENTITY_CONFIG) or "null")
    except (OSError, ValueError):
        return None
    if not data:
        return None
    return RuntimeConfig(
        data["InstanceId"],
        data["IdentityType"],
        data.get("ShareFile", ""),
        data.get("ShareProfile", ""),
        data.get("CredentialsExpiresAt", NEVER),
        data.get("CredentialsRetrievedAt", NEVER),
        data.get("CredentialSource", ""),
    )


def init_runtime_config(identity: Identity) -> RuntimeConfig:
    """Core start: keep the file when it is this identity's, else begin anew (runtimeconfiginit.go:69-91)."""
    config = load_runtime_config()
    if config is None or (config.instance_id, config.kind) != (identity.instance_id, identity.kind):
        config = RuntimeConfig(identity.instance_id, identity.kind)
    config.save()
    return config


def parse_time(text: str) -> datetime:
    """A Go time with up to nine digits of fraction."""
    head, _, fraction = text.rstrip("Z").partition(".")
    when = datetime.strptime(head, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    return when.replace(microsecond=int(fraction[:6].ljust(6, "0"))) if fraction else when


def take_onprem(log: Log) -> Identity | None:
    """The hybrid identity, when the vault holds a complete registration."""
    try:
        registration = load_registration(hybrid_vault(), REGISTRATION_KEY)
    except DataFileMissing as error:
        text = f"Error while loading server info Failed to load instance info from vault. {error}"
        log.at_root("[OnPremIdentity]").warn(text)
        return None
    except VaultError as error:
        log.at_root("[OnPremIdentity]").warn(f"Error while loading server info {error}")
        return None
    if not registration.is_complete:
        return None
    return Identity("OnPrem", registration.instance_id, registration.region)


def take_ec2(log: Log) -> Identity | None:
    """The EC2 identity, when IMDS answers with id and region (ec2_identity.go:266-272)."""
    what = "failed to get identity instance id. Error: "
    try:
        instance_id = imds.instance_id()
        what = "failed to get identity region. Error: "
        return Identity("EC2", instance_id, imds.region(), imds.availability_zone())
    except imds.ImdsError as error:
        log.at_root("[EC2Identity]").error(
            f"Failed to get instance info from IMDS. Err: {what}{error}",
            "NewEC2IdentityWithConfig @ ec2_identity.go.271",
        )
        return None


def take_custom(settings: Settings) -> Identity | None:
    """The first pinned identity that is complete."""
    for custom in settings.custom_identities:
        if custom.instance_id and custom.region:
            return Identity("CustomIdentity", custom.instance_id, custom.region, custom.availability_zone)
    return None


def _take(kind: str, log: Log, settings: Settings) -> Identity | None:
    if kind == "OnPrem":
        return take_onprem(log)
    if kind == "EC2":
        return take_ec2(log)
    if kind == "CustomIdentity":
        return take_custom(settings)
    return None


def _select_once(log: Log, settings: Settings) -> Identity:
    for kind in settings.order:
        log.info(f"Checking if agent identity type {kind} can be assumed")
        identity = _take(kind, log, settings)
        if identity is not None:
            log.info(f"Agent will take identity from {kind}")
            return identity
    log.error("Agent failed to assume any identity", "Errorf @ errors.go.26")
    raise NoIdentity("failed to find agent identity")


def _ask_without_token() -> None:
    """An agent of one process ends where the metadata refuse it (agent/platform/instance_info.go); let in,
    this one goes on as a later one."""
    try:
        imds.get_without_token("meta-data/instance-id")
    except imds.ImdsError as error:
        raise NoIdentity(f"Failed to fetch instance ID. Data from vault is empty. {error}") from error


def select_identity(log: Log, settings: Settings, stop: threading.Event) -> Identity:
    """First match of the order wins; three looks, half a second apart."""
    if not sends_tokens() and not take_onprem(log):
        _ask_without_token()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _select_once(log, settings)
        except NoIdentity as error:
            if attempt == ATTEMPTS or pause(stop, ATTEMPT_INTERVAL_S):
                raise
            source = "NewAgentIdentity @ identity_selector.go.112"
            log.error(f"failed to find identity, retrying: {error}", source)
    raise NoIdentity("failed to find agent identity")


def follow_runtime_config(log: Log, settings: Settings) -> Identity | None:
    """The worker's choice: only the identity that the core wrote down (identity_selector.go:190-217)."""
    config = load_runtime_config()
    if config is None:
        return None
    for kind in settings.order:
        log.info(f"Checking if agent identity type {kind} can be assumed")
        if kind != config.kind:
            continue
        identity = _take(kind, log, settings)
        if identity is not None and identity.instance_id == config.instance_id:
            log.info(f"Agent will take identity from {kind}")
            return identity
        return None
    return None
