"""Network ACLs: numbered rules, the first that fits decides, each direction for itself. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from haltuun.model import Json

Ports = tuple[int, int]


def acl_allows(
    entries: Iterable[Json], *, egress: bool, cidr: ipaddress.IPv4Network, ports: Ports
) -> bool | None:
    """Whether all of TCP `ports` to or from all of `cidr` is let through; None when it holds for a part of
    `cidr` only, and which part matters is not known.
    """
    open_ports = [ports]
    partly = False
    for entry in sorted(entries, key=lambda row: int(row["RuleNumber"])):
        if bool(entry.get("Egress")) != egress or str(entry.get("Protocol")) not in ("-1", "6", "tcp"):
            continue
        if not entry.get("CidrBlock"):
            continue  # IPv6
        outer = ipaddress.IPv4Network(entry["CidrBlock"], strict=False)
        hit, rest = _cut(open_ports, _range(entry))
        if not hit or not cidr.overlaps(outer):
            continue
        allow = str(entry.get("RuleAction")).lower() == "allow"
        if not cidr.subnet_of(outer):
            partly = partly or not allow
            continue
        if not allow:
            return False
        open_ports = rest
        if not open_ports:
            return None if partly else True
    return False


def _range(entry: Json) -> Ports:
    given = entry.get("PortRange") or {}
    if str(entry.get("Protocol")) == "-1" or not given:
        return 0, 65535
    return int(given.get("From", 0)), int(given.get("To", 65535))


def _cut(left: list[Ports], rule: Ports) -> tuple[bool, list[Ports]]:
    """Whether the rule touches what is left, and what is left after it."""
    hit, rest = False, []
    for low, high in left:
        if rule[1] < low or rule[0] > high:
            rest.append((low, high))
            continue
        hit = True
        if low < rule[0]:
            rest.append((low, rule[0] - 1))
        if rule[1] < high:
            rest.append((rule[1] + 1, high))
    return hit, rest
