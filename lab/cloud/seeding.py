"""What the parts of seeding share: clients of the operator, and the steering of the lab's own account."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import boto3

from lab.scenario import Scenario

OPERATOR_KEY = "AKIAOPERATOR00000000"


@dataclass
class Seeding:
    """Clients and the ids made so far."""

    endpoint_url: str
    scenario: Scenario
    public_key: str = ""
    ids: dict[str, str] = field(default_factory=dict)
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        if service not in self.clients:
            self.clients[service] = boto3.client(
                service,
                endpoint_url=self.endpoint_url,
                region_name=self.scenario.region,
                aws_access_key_id=OPERATOR_KEY,
                aws_secret_access_key="lab",
            )
        return self.clients[service]

    def steer(self, path: str, **given: Any) -> dict[str, Any]:
        return steer(self.endpoint_url, path, **given)


def steer(endpoint_url: str, path: str, **given: Any) -> dict[str, Any]:
    """POST to /lab/PATH; see lab.cloud.steering for what there is."""
    request = urllib.request.Request(
        f"{endpoint_url}/lab/{path}",
        data=json.dumps(given, default=str).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found
