"""What the agent tells the service about its host."""

from __future__ import annotations

from .identity import Identity
from .machine import hostname, os_release, primary_address
from .version import VERSION


def instance_information(identity: Identity, agent_name: str) -> dict[str, str]:
    """Arguments of UpdateInstanceInformation."""
    name, version = os_release()
    information = {
        "InstanceId": identity.instance_id,
        "AgentName": agent_name,
        "AgentStatus": "Active",
        "AgentVersion": VERSION,
        "PlatformType": "Linux",
        "PlatformName": name,
        "PlatformVersion": version,
        "IPAddress": primary_address(),
        "ComputerName": hostname(),
    }
    if identity.availability_zone:
        information["AvailabilityZone"] = identity.availability_zone
    return information
