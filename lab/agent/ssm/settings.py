"""amazon-ssm-agent.json, as far as it decides who the agent is and where it calls."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ..netkit.aws import domain_of
from ..netkit.hostfs import read_text
from .layout import CONFIG

DEFAULT_ORDER = ("OnPrem", "EC2", "CustomIdentity")
_ENDPOINT_SECTIONS = {"ssm": "Ssm", "ec2messages": "Mds", "ssmmessages": "Mgs", "s3": "S3", "kms": "Kms"}


class SettingsError(Exception):
    """The file is there and can not be used; the text is Go's."""


@dataclass(frozen=True)
class CustomIdentity:
    """An id that somebody pinned in the configuration."""

    instance_id: str
    region: str
    availability_zone: str = ""


@dataclass(frozen=True)
class Settings:
    """The configuration with its defaults applied."""

    order: tuple[str, ...] = DEFAULT_ORDER
    custom_identities: tuple[CustomIdentity, ...] = ()
    region: str = ""
    service_domain: str = ""
    endpoints: dict[str, str] = field(default_factory=dict)
    share_credentials: bool = True
    share_profile: str = ""

    def region_or(self, identity_region: str) -> str:
        """The pinned region, else the identity's."""
        return self.region or identity_region

    def endpoint(self, service: str, region: str) -> str:
        """Endpoint of a service: overridden, or built from region and domain."""
        override = self.endpoints.get(service)
        if override:
            return override
        return f"{service}.{region}.{self.service_domain or domain_of(region)}"


def _go_json_error(text: str, error: json.JSONDecodeError) -> str:
    if error.pos >= len(text.rstrip()):
        return "unexpected end of JSON input"
    return f"invalid character {text[error.pos]!r} looking for beginning of value"


def _custom_identity(data: dict[str, Any]) -> CustomIdentity:
    return CustomIdentity(
        data.get("InstanceID", ""), data.get("Region", ""), data.get("AvailabilityZone", "")
    )


def load_settings() -> Settings:
    """Read the file; absent means all defaults, broken raises SettingsError."""
    text = read_text(CONFIG)
    if text is None:
        return Settings()
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(_go_json_error(text, error)) from error
    identity, agent, profile = (data.get(name) or {} for name in ("Identity", "Agent", "Profile"))
    endpoints = {
        service: (data.get(name) or {}).get("Endpoint", "") for service, name in _ENDPOINT_SECTIONS.items()
    }
    return Settings(
        order=tuple(identity.get("ConsumptionOrder") or DEFAULT_ORDER),
        custom_identities=tuple(_custom_identity(item) for item in identity.get("CustomIdentities") or []),
        region=agent.get("Region", ""),
        service_domain=agent.get("ServiceDomain", ""),
        endpoints={service: value for service, value in endpoints.items() if value},
        share_credentials=bool(profile.get("ShareCreds", True)),
        share_profile=profile.get("ShareProfile", ""),
    )
