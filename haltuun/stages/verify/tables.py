"""A region's network as EC2 describes it, and how its parts are found. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from haltuun.model import Json, Unknown

HTTPS = 443
INTERNET = ipaddress.IPv4Network("0.0.0.0/0")


@dataclass(frozen=True)
class Place:
    """Where an instance stands."""

    vpc_id: str
    subnet_id: str
    groups: tuple[str, ...]
    private_ip: str
    public_ip: str | None


@dataclass(frozen=True)
class Network:
    """One region's network, as EC2 describes it."""

    region: str
    groups: Mapping[str, Json]
    subnets: Mapping[str, Json]
    acls: Sequence[Json]
    route_tables: Sequence[Json]
    endpoints: Sequence[Json]
    interfaces: Mapping[str, Json]
    dns: Mapping[str, tuple[bool, bool] | Unknown]  # VPC → (enableDnsSupport, enableDnsHostnames)


def parse_network(region: str, raw: Json) -> Network | Unknown:
    for part in ("groups", "subnets", "acls", "route_tables", "endpoints", "interfaces"):
        if isinstance(raw[part], Unknown):
            return Unknown(unknown=raw[part].unknown)
    return Network(
        region=region,
        groups={row["GroupId"]: row for row in raw["groups"]},
        subnets={row["SubnetId"]: row for row in raw["subnets"]},
        acls=raw["acls"],
        route_tables=raw["route_tables"],
        endpoints=raw["endpoints"],
        interfaces={row["NetworkInterfaceId"]: row for row in raw["interfaces"]},
        dns={
            vpc: pair if isinstance(pair, Unknown) else (pair[0], pair[1]) for vpc, pair in raw["dns"].items()
        },
    )


def endpoints_of(network: Network, vpc_id: str, service: str) -> list[Json]:
    """Endpoints of the VPC for the service; China's names have a prefix of their own."""
    return [
        endpoint
        for endpoint in network.endpoints
        if endpoint.get("VpcId") == vpc_id
        and str(endpoint.get("State", "")).lower() == "available"
        and str(endpoint.get("ServiceName", "")).endswith(f".{network.region}.{service}")
    ]


def kind_of(endpoint: Json) -> str:
    return str(endpoint.get("VpcEndpointType", "")).lower()


def addresses_of(network: Network, endpoint: Json) -> list[tuple[str, ipaddress.IPv4Network]]:
    """(subnet, address) of each of the endpoint's interfaces; the whole subnet where they are not seen."""
    known = [network.interfaces.get(nic) for nic in endpoint.get("NetworkInterfaceIds") or ()]
    found = [
        (nic["SubnetId"], ipaddress.IPv4Network(f"{nic['PrivateIpAddress']}/32"))
        for nic in known
        if nic is not None and nic.get("PrivateIpAddress")
    ]
    if found:
        return found
    return [
        (subnet_id, ipaddress.IPv4Network(network.subnets[subnet_id]["CidrBlock"]))
        for subnet_id in endpoint.get("SubnetIds") or ()
        if subnet_id in network.subnets
    ]


def rules_of(network: Network, groups: Iterable[str], direction: str) -> Iterator[Json]:
    for group in groups:
        yield from network.groups.get(group, {}).get(direction) or ()


def has_port(rule: Json) -> bool:
    protocol = str(rule.get("IpProtocol"))
    if protocol == "-1":
        return True
    return protocol in ("tcp", "6") and int(rule.get("FromPort", 0)) <= HTTPS <= int(
        rule.get("ToPort", 65535)
    )


def admits(
    rule: Json, networks: Sequence[ipaddress.IPv4Network], groups: Iterable[str], prefix: str = ""
) -> bool:
    """True when the rule covers all the networks, names one of the groups, or names the prefix list."""
    if not has_port(rule):
        return False
    if {pair.get("GroupId") for pair in rule.get("UserIdGroupPairs") or ()} & set(groups):
        return True
    if prefix and any(row.get("PrefixListId") == prefix for row in rule.get("PrefixListIds") or ()):
        return True
    ranges = [ipaddress.IPv4Network(row["CidrIp"], strict=False) for row in rule.get("IpRanges") or ()]
    return bool(networks) and all(any(net.subnet_of(outer) for outer in ranges) for net in networks)


def acl_of(network: Network, subnet_id: str) -> Json | None:
    for acl in network.acls:
        if any(row.get("SubnetId") == subnet_id for row in acl.get("Associations") or ()):
            return acl
    vpc_id = network.subnets.get(subnet_id, {}).get("VpcId")
    return next((acl for acl in network.acls if acl.get("IsDefault") and acl.get("VpcId") == vpc_id), None)


def route_table_of(network: Network, place: Place) -> Json | None:
    """The subnet's own table, else the VPC's main one."""
    main = None
    for table in network.route_tables:
        if table.get("VpcId") != place.vpc_id:
            continue
        for row in table.get("Associations") or ():
            if row.get("SubnetId") == place.subnet_id:
                return table
            if row.get("Main"):
                main = table
    return main


def default_route(table: Json | None) -> Json | None:
    routes = (table or {}).get("Routes") or ()
    return next((route for route in routes if route.get("DestinationCidrBlock") == "0.0.0.0/0"), None)


def target_of(route: Json) -> str:
    names = (
        "NatGatewayId",
        "GatewayId",
        "TransitGatewayId",
        "VpcPeeringConnectionId",
        "NetworkInterfaceId",
        "InstanceId",
    )
    return next((str(route[name]) for name in names if route.get(name)), "")


def port_words(ports: tuple[int, int]) -> str:
    return f"port {ports[0]}" if ports[0] == ports[1] else f"ports {ports[0]}-{ports[1]}"
