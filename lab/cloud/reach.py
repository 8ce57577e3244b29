"""What an instance can reach, decided from moto's network: groups, ACLs, routes, endpoints.

A service is reached through an interface endpoint with private DNS where the VPC has one (its name then
resolves to nothing else), S3 also through a gateway endpoint, everything else over the internet.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from moto.ec2.models import ec2_backends

HTTPS = 443
# A port of the host's ephemeral range: answers come back to it, and network ACLs are stateless.
EPHEMERAL = 49152
# Stands for AWS's public addresses; a rule that admits only part of the internet does not help.
PUBLIC_ADDRESS = "52.94.5.1"
SERVICES = ("ssm", "ssmmessages", "ec2messages", "s3", "logs", "monitoring", "ec2", "sts", "kms")


def _inside(address: str, cidr: str | None) -> bool:
    return bool(cidr) and ipaddress.ip_address(address) in ipaddress.ip_network(str(cidr), strict=False)


def _rule_hits(rule: Any, port: int, *, address: str, groups: Iterable[str], prefix_list: str = "") -> bool:
    if rule.ip_protocol not in ("-1", "tcp", "6", None):
        return False
    if rule.ip_protocol != "-1" and not int(rule.from_port or 0) <= port <= int(rule.to_port or 65535):
        return False
    if address and _inside(address, rule.ip_range.get("CidrIp")):
        return True
    if rule.source_group and rule.source_group.get("GroupId") in set(groups):
        return True
    return bool(prefix_list) and rule.prefix_list_id == prefix_list


def _acl_allows(backend: Any, subnet_id: str, *, egress: bool, address: str, port: int) -> bool:
    acl = next(
        (a for a in list(backend.network_acls.values()) for s in a.associations if s.subnet_id == subnet_id),
        None,
    )
    if acl is None:
        return True
    for entry in sorted(acl.entries, key=lambda entry: int(entry.rule_number)):
        if _truth(entry.egress) != egress or not _inside(address, entry.cidr_block):
            continue
        if str(entry.protocol) not in ("-1", "6", "tcp"):
            continue
        ports = (entry.port_range_from, entry.port_range_to)
        if str(entry.protocol) == "-1" or None in ports or int(ports[0]) <= port <= int(ports[1]):
            return str(entry.rule_action) == "allow"
    return False


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).lower() == "true"


def _route_table(backend: Any, subnet: Any) -> Any:
    tables = [table for table in list(backend.route_tables.values()) if table.vpc_id == subnet.vpc_id]
    for table in tables:
        if subnet.id in table._associations.values():
            return table
    return next((table for table in tables if table.main_association_id), None)


def _route_to(table: Any, address: str) -> Any:
    """The most specific route to an address."""
    best, length = None, -1
    for route in table.routes if table else []:
        cidr = route.destination_cidr_block
        if cidr and _inside(address, cidr) and ipaddress.ip_network(cidr, strict=False).prefixlen > length:
            best, length = route, ipaddress.ip_network(cidr, strict=False).prefixlen
    return best


def _internet(backend: Any, subnet: Any, public_ip: str | None) -> bool:
    route = _route_to(_route_table(backend, subnet), PUBLIC_ADDRESS)
    if route is None or route.local:
        return False
    if route.nat_gateway is not None or route.transit_gateway is not None:
        return True
    gateway = getattr(route.gateway, "id", "")
    return gateway.startswith("igw-") and bool(public_ip)


def _groups(instance: Any) -> list[Any]:
    nic = instance.nics.get(0)
    return list(nic.group_set) if nic is not None else list(instance.security_groups)


def _through_endpoint(backend: Any, instance: Any, subnet: Any, endpoint: Any) -> bool:
    groups, host = _groups(instance), instance.private_ip
    admitting = [backend.get_security_group_from_id(known) for known in endpoint.security_group_ids]
    names = [group.id for group in groups]
    for subnet_id in endpoint.subnet_ids or []:
        there = backend.get_subnet(subnet_id)
        address = str(next(ipaddress.ip_network(there.cidr_block).hosts()) + 3)
        out = any(
            _rule_hits(rule, HTTPS, address=address, groups=endpoint.security_group_ids)
            for group in groups
            for rule in group.egress_rules
        )
        into = any(
            _rule_hits(rule, HTTPS, address=host, groups=names)
            for group in admitting
            for rule in group.ingress_rules
        )
        if (
            out
            and into
            and (there.id == subnet.id or _between_subnets(backend, subnet.id, host, there.id, address))
        ):
            return True
    return False


def _between_subnets(backend: Any, here: str, host: str, there: str, address: str) -> bool:
    return all(
        (
            _acl_allows(backend, here, egress=True, address=address, port=HTTPS),
            _acl_allows(backend, there, egress=False, address=host, port=HTTPS),
            _acl_allows(backend, there, egress=True, address=host, port=EPHEMERAL),
            _acl_allows(backend, here, egress=False, address=address, port=EPHEMERAL),
        )
    )


def _outward(backend: Any, instance: Any, subnet: Any, prefix_list: str = "") -> bool:
    """Egress rule and ACLs towards the internet, or towards a gateway endpoint's prefix list."""
    out = any(
        _rule_hits(rule, HTTPS, address=PUBLIC_ADDRESS, groups=(), prefix_list=prefix_list)
        for group in _groups(instance)
        for rule in group.egress_rules
    )
    there = _acl_allows(backend, subnet.id, egress=True, address=PUBLIC_ADDRESS, port=HTTPS)
    return (
        out
        and there
        and _acl_allows(backend, subnet.id, egress=False, address=PUBLIC_ADDRESS, port=EPHEMERAL)
    )


def _private_dns_works(backend: Any, vpc_id: str) -> bool:
    vpc = backend.get_vpc(vpc_id)
    return _truth(vpc.enable_dns_support) and _truth(vpc.enable_dns_hostnames)


def reaches(account_id: str, region: str, instance: Any, service: str) -> bool:
    backend = ec2_backends[account_id][region]
    subnet = backend.get_subnet(instance.subnet_id)
    mine = [
        endpoint
        for endpoint in list(backend.vpc_end_points.values())
        if endpoint.vpc_id == subnet.vpc_id
        and endpoint.service_name == f"com.amazonaws.{region}.{service}"
        and endpoint.state == "available"
    ]
    for endpoint in mine:
        if str(endpoint.vpc_endpoint_type).lower() == "interface":
            if _truth(endpoint.private_dns_enabled) and _private_dns_works(backend, subnet.vpc_id):
                return _through_endpoint(backend, instance, subnet, endpoint)
        elif _gateway_serves(backend, subnet, endpoint):
            return _outward(backend, instance, subnet, endpoint.destination_prefix_list_id or "")
    return _internet(backend, subnet, instance.public_ip) and _outward(backend, instance, subnet)


def _gateway_serves(backend: Any, subnet: Any, endpoint: Any) -> bool:
    table = _route_table(backend, subnet)
    return table is not None and table.id in (endpoint.route_table_ids or [])


def dns_works(account_id: str, region: str, instance: Any) -> bool:
    """The VPC's own resolver answers only where EnableDnsSupport is on."""
    backend = ec2_backends[account_id][region]
    vpc = backend.get_vpc(backend.get_subnet(instance.subnet_id).vpc_id)
    return _truth(vpc.enable_dns_support)
