"""What the emulated account was asked by operators, and which of it changes something."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter

from haltuun.aws import READS


def seen_calls(endpoint_url: str) -> Counter[str]:
    """Service:Operation → how often, since the account is there."""
    with urllib.request.urlopen(f"{endpoint_url}/lab/calls", timeout=30) as answer:
        return Counter(json.load(answer))


def mutations(calls: Counter[str]) -> list[str]:
    return [call for call in calls if not _is_read(call)]


def reads(calls: Counter[str]) -> Counter[str]:
    return Counter({call: times for call, times in calls.items() if _is_read(call)})


def _is_read(call: str) -> bool:
    return call.partition(":")[2].startswith(READS)
