"""One host's facts, put together from all that looked at it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from haltuun.model import Host, Json, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.console import parse_console
from haltuun.stages.discover.facts import DiscoverFacts, HybridNode
from haltuun.stages.discover.parse_account import parse_hybrid_nodes
from haltuun.stages.discover.parse_ec2 import guess_os, parse_ec2, same_box_nodes
from haltuun.stages.discover.parse_inside import parse_inside, parse_windows_eol, unseen


def parse_host(view: View, host: Host, raw: Json, host_raw: Json | Unknown) -> DiscoverFacts:
    facts = parse_ec2(view, host, raw)
    if isinstance(host_raw, dict) and "closed" in host_raw:
        said = host_raw["console"]
        facts["console"] = said if isinstance(said, Unknown) else parse_console(said)
        host_raw = host_raw["closed"]
    if isinstance(host_raw, Unknown):
        facts |= unseen(host_raw)
    else:
        facts |= parse_inside(host, view.account_id, facts, host_raw)
    if facts["platform"] == "windows":
        facts |= parse_windows_eol(facts, view.now.timestamp())
    facts["same_box_nodes"] = _same_box(facts, raw)
    return DiscoverFacts(observed_at=view.now, **facts, **guess_os(facts))


def _same_box(facts: Mapping[str, Any], raw: Json) -> tuple[str, ...] | Unknown:
    """Over all regions: a hybrid agent talks to the region that it was registered in."""
    why: Unknown | None = None
    nodes: list[HybridNode] = []
    for answers in raw.values():
        found = parse_hybrid_nodes(answers["nodes"])
        if isinstance(found, Unknown):
            why = found
        else:
            nodes.extend(found)
    same = same_box_nodes(facts, nodes)
    return same if same or why is None else why
