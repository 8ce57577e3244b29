"""Software inventory, sent with PutInventory."""

from __future__ import annotations

import hashlib
import json
import subprocess
from typing import Any

from ..netkit import clock
from ..netkit.hostfs import at
from .machine import go_arch, mac_address, os_release, primary_address
from .ping import instance_information
from .session import Session

Item = dict[str, Any]


def now_text() -> str:
    """The time as inventory items give it."""
    return f"{clock.now():%Y-%m-%dT%H:%M:%SZ}"


def item(type_name: str, content: list[dict[str, str]], schema: str = "1.0") -> Item:
    """One inventory item of PutInventory."""
    digest = hashlib.md5(json.dumps(content, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    return {
        "TypeName": type_name,
        "SchemaVersion": schema,
        "CaptureTime": now_text(),
        "ContentHash": digest,
        "Content": content,
    }


def _applications() -> list[dict[str, str]]:
    form = "${Package}\\t${Version}\\t${Architecture}\\t${db:Status-Status}\\n"
    try:
        listing = subprocess.run(
            ["dpkg-query", f"--admindir={at('/var/lib/dpkg')}", "-W", "-f", form],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split("\t") for line in listing.splitlines())
    return [
        {"Name": name, "Version": version, "Architecture": arch, "ApplicationType": "deb"}
        for name, version, arch, status in rows
        if status == "installed"
    ]


def gather_inventory(session: Session) -> int:
    """Collect and send; the number of inventory types sent."""
    information = instance_information(session.identity, "amazon-ssm-agent")
    name, version = os_release()
    details = {"CPUModel": go_arch(), "PlatformName": name, "PlatformVersion": version}
    network = {"Name": "eth0", "IPV4": primary_address(), "MacAddress": mac_address()}
    items = [
        item("AWS:InstanceInformation", [{**information, "ResourceType": _resource_type(session)}]),
        item("AWS:Application", _applications(), "1.1"),
        item("AWS:Network", [network]),
        item("AWS:InstanceDetailedInformation", [details]),
    ]
    payload = {"InstanceId": session.identity.instance_id, "Items": items}
    session.client("ssm").call("AmazonSSM.PutInventory", payload)
    return len(items)


def _resource_type(session: Session) -> str:
    return "ManagedInstance" if session.identity.kind == "OnPrem" else "EC2Instance"
