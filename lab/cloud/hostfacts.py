"""What the emulated account says about each instance: read once a second by the host services."""

from __future__ import annotations

from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
from moto.iam.models import iam_backends
from moto.utilities.utils import get_partition

from lab.cloud import clock
from lab.cloud.identity import INSTANCE_IDENTITY_ROLE, session_for
from lab.cloud.reach import SERVICES, dns_works, reaches


def _role_arn(account_id: str, region: str, instance: Any) -> str | None:
    """The role of the instance's profile as it is now; None without profile or role."""
    profile = instance.iam_instance_profile
    arn = profile.arn if hasattr(profile, "arn") else (profile or {}).get("Arn")
    if not arn:
        return None
    for known in iam_backends[account_id][get_partition(region)].instance_profiles.values():
        if known.arn == arn and known.roles:
            return str(known.roles[0].arn)
    return None


def _zone_id(region: str, name: str) -> str:
    """The zone's name in every account, euc1-az2; empty when moto has none."""
    zones = RegionsAndZonesBackend.zones.get(region, [])
    return next((str(zone.zone_id) for zone in zones if zone.name == name), "")


def instances(account_id: str, region: str) -> list[Any]:
    backend = ec2_backends[account_id][region]
    return [
        instance for reservation in list(backend.reservations.values()) for instance in reservation.instances
    ]


def facts_of(account_id: str, region: str, instance: Any) -> dict[str, Any]:
    options = instance.metadata_options
    nic = instance.nics.get(0)
    profile = instance.iam_instance_profile
    return {
        "instance_id": instance.id,
        "account_id": account_id,
        "region": region,
        "availability_zone": instance.availability_zone,
        "availability_zone_id": _zone_id(region, instance.availability_zone),
        "state": instance.state,
        "image_id": instance.image_id,
        "instance_type": instance.instance_type,
        "architecture": "x86_64",
        "private_ip": instance.private_ip,
        "mac": nic.mac_address if nic is not None else "",
        "launched": instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "http_tokens": str(options.http_tokens),
        "http_endpoint": str(options.http_endpoint),
        "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
        "metadata_tags": str(getattr(options, "instance_metadata_tags", "disabled")),
        "profile_arn": profile.arn if hasattr(profile, "arn") else (profile or {}).get("Arn"),
        "role_arn": _role_arn(account_id, region, instance),
        "reach": {service: reaches(account_id, region, instance, service) for service in SERVICES},
        "dns": dns_works(account_id, region, instance),
    }


def all_facts(account_id: str, region: str) -> dict[str, Any]:
    found = {}
    for instance in instances(account_id, region):
        if instance.state not in ("terminated", "shutting-down"):
            found[instance.id] = facts_of(account_id, region, instance)
    return found


def credentials(account_id: str, region: str, instance_id: str, role_arn: str | None) -> dict[str, Any]:
    """As IMDS gives them; without a role they are those of the instance's own identity."""
    partition = get_partition(region)
    arn = role_arn or f"arn:{partition}:iam::{account_id}:role/{INSTANCE_IDENTITY_ROLE}"
    session = session_for(account_id, region, arn, instance_id, duration_s=6 * 3600)
    form = "%Y-%m-%dT%H:%M:%SZ"
    return {
        "Code": "Success",
        "LastUpdated": clock.now().strftime(form),
        "Type": "AWS-HMAC",
        "AccessKeyId": session.access_key_id,
        "SecretAccessKey": session.secret_access_key,
        "Token": session.session_token,
        "Expiration": session.expiration.strftime(form),
    }
