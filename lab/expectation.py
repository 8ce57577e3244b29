"""Whether a takeover of a scenario came to the end that the scenario is meant to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab.scenario import Scenario

STAGES = ("discover", "verify", "repair", "patch", "backup", "logs")


def surprises(scenario: Scenario, status: Mapping[str, Any]) -> list[str]:
    """What differs between `expect` of each host and `haltuun status --json`, a sentence each."""
    hosts = {host["name"]: host["stages"] for host in status["hosts"]}
    wrong = []
    for host in scenario.hosts:
        for stage in STAGES:
            seen = hosts.get(host.name, {}).get(stage, {})
            text = f"{seen.get('status')} {seen.get('reason') or ''}".strip()
            expected = host.expect.get(stage, "passed")
            if text != expected:
                wrong.append(f"{host.name} {stage}: {text}, expected {expected}: {seen.get('message')}")
    return wrong
