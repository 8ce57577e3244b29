"""Does an instance get through to an AWS service, by the account's configuration? Pure.

Interface endpoints with private DNS take the service's name over for the whole VPC; S3 may go through a
gateway endpoint; everything else goes over the internet. What is stateful (security groups) is asked one
way, what is not (network ACLs) both ways. IPv6 and endpoint policies are not evaluated: the agent's names
are IPv4, and what a policy denies shows as AccessDenied on the host.
"""

from __future__ import annotations

import ipaddress

from haltuun.cost import interface_endpoint, nat_gateway, price_file, say
from haltuun.model import Json, Unknown
from haltuun.stages.verify.acl import acl_allows
from haltuun.stages.verify.facts import Endpoint, Obstacle
from haltuun.stages.verify.tables import (
    HTTPS,
    INTERNET,
    Network,
    Place,
    acl_of,
    addresses_of,
    admits,
    default_route,
    endpoints_of,
    has_port,
    kind_of,
    port_words,
    route_table_of,
    rules_of,
    target_of,
)

# Linux's default range of ephemeral ports (net.ipv4.ip_local_port_range).
EPHEMERAL = (32768, 60999)
APPROVE = "Approve the planned egress rule."


def evaluate(network: Network, place: Place, service: str, *, required: bool) -> Endpoint:
    """How `service` is reached from `place`, or what stands in the way."""
    base = Endpoint(service=service, required=required, reachable=True)
    dns = network.dns.get(place.vpc_id, Unknown(unknown="the VPC's DNS attributes were not asked"))
    if isinstance(dns, Unknown):
        return _unsure(base, "", dns.unknown)
    support, host_names = dns
    modify = f"aws ec2 modify-vpc-attribute --vpc-id {place.vpc_id}"
    if not support:
        reason = f"enableDnsSupport is off in {place.vpc_id}"
        return _no(base, "vpc_dns", reason, f"{modify} --enable-dns-support Value=true")
    mine = endpoints_of(network, place.vpc_id, service)
    interface = next((e for e in mine if kind_of(e) == "interface"), None)
    if interface is not None and interface.get("PrivateDnsEnabled") and host_names:
        return through_interface(network, place, base, interface)
    table = route_table_of(network, place) or {}
    for endpoint in mine:
        if kind_of(endpoint) == "gateway" and table.get("RouteTableId") in (
            endpoint.get("RouteTableIds") or ()
        ):
            return through_gateway(network, place, base, endpoint, table)
    found = over_internet(network, place, base)
    if found.reachable is not False or interface is None:
        return found
    endpoint_id = interface["VpcEndpointId"]
    if not host_names:
        reason = f"{endpoint_id} is not used: enableDnsHostnames is off in {place.vpc_id}"
        return _no(base, "vpc_dns", reason, f"{modify} --enable-dns-hostnames Value=true")
    return _no(
        base,
        "private_dns",
        f"{endpoint_id} is not used: its private DNS is off",
        f"aws ec2 modify-vpc-endpoint --vpc-endpoint-id {endpoint_id} --private-dns-enabled"
        " (changes the name for the whole VPC)",
    )


def through_interface(network: Network, place: Place, base: Endpoint, endpoint: Json) -> Endpoint:
    endpoint_id = endpoint["VpcEndpointId"]
    base = base.model_copy(update={"way": endpoint_id})
    groups = tuple(group["GroupId"] for group in endpoint.get("Groups") or ())
    targets = addresses_of(network, endpoint)
    host = ipaddress.IPv4Network(f"{place.private_ip}/32")
    if not any(admits(rule, [host], place.groups) for rule in rules_of(network, groups, "IpPermissions")):
        return _no(
            base,
            "endpoint_group",
            f"no security group of {endpoint_id} lets {place.private_ip} in on port 443",
            f"aws ec2 authorize-security-group-ingress --group-id {next(iter(groups), 'GROUP')}"
            f" --protocol tcp --port 443 --cidr {host}",
        )
    for subnet_id, address in targets:
        if subnet_id == place.subnet_id:
            continue  # network ACLs stand between subnets, not inside one
        closed = _acl_between(network, place.subnet_id, host, subnet_id, address)
        if closed:
            return _no(base, "acl", closed, "Let TCP 443 out and 1024-65535 back in, in both network ACLs.")
    rules = list(rules_of(network, place.groups, "IpPermissionsEgress"))
    if not all(any(admits(rule, [address], groups) for rule in rules) for _, address in targets):
        reason = f"no security group of the instance lets it out to {endpoint_id} on port 443"
        return _no(base, "group", reason, APPROVE, groups[:1])
    return base


def _acl_between(
    network: Network,
    here: str,
    host: ipaddress.IPv4Network,
    there: str,
    address: ipaddress.IPv4Network,
) -> str:
    """The first of the four passages that is not open, in words."""
    passages = (
        (here, True, address, (HTTPS, HTTPS)),
        (there, False, host, (HTTPS, HTTPS)),
        (there, True, host, EPHEMERAL),
        (here, False, address, EPHEMERAL),
    )
    for subnet_id, egress, cidr, ports in passages:
        acl = acl_of(network, subnet_id)
        if acl and acl_allows(acl["Entries"], egress=egress, cidr=cidr, ports=ports) is False:
            way = "out to" if egress else "in from"
            name = acl["NetworkAclId"]
            return f"network ACL {name} of {subnet_id} lets nothing {way} {cidr} on {port_words(ports)}"
    return ""


def through_gateway(network: Network, place: Place, base: Endpoint, endpoint: Json, table: Json) -> Endpoint:
    """S3's public addresses, by the endpoint's prefix list."""
    endpoint_id = endpoint["VpcEndpointId"]
    base = base.model_copy(update={"way": endpoint_id})
    lists = [
        route["DestinationPrefixListId"]
        for route in table.get("Routes") or ()
        if route.get("GatewayId") == endpoint_id and route.get("DestinationPrefixListId")
    ]
    rules = rules_of(network, place.groups, "IpPermissionsEgress")
    if any(admits(rule, [INTERNET], (), lists[0] if lists else "") for rule in rules):
        return _acl_outward(network, place, base)
    reason = f"no security group of the instance lets it out to {endpoint_id} on port 443"
    return _no(base, "group", reason, APPROVE, tuple(lists[:1]))


def over_internet(network: Network, place: Place, base: Endpoint) -> Endpoint:
    create = (
        f"Create an interface endpoint com.amazonaws.{network.region}.{base.service} with private DNS in"
        f" {place.vpc_id}, or give the subnet a way out{_either_costs(network.region)}."
    )
    route = default_route(route_table_of(network, place))
    if route is None:
        reason = f"{place.subnet_id} has neither a default route nor an endpoint for {base.service}"
        return _no(base, "endpoint", reason, create)
    way = target_of(route)
    base = base.model_copy(update={"way": way})
    if route.get("State") == "blackhole":
        reason = f"the default route of {place.subnet_id} points at {way}, which is gone"
        return _no(base, "route", reason, create)
    if way.startswith("igw-") and not place.public_ip:
        reason = f"its default route is {way}, but the instance has no public address"
        return _no(base, "route", reason, create)
    rules = list(rules_of(network, place.groups, "IpPermissionsEgress"))
    if not any(admits(rule, [INTERNET], ()) for rule in rules):
        if any(has_port(rule) and (rule.get("IpRanges") or rule.get("PrefixListIds")) for rule in rules):
            reason = "the egress rules name address ranges, and whether AWS's are among them is not known"
            return _unsure(base, way, reason)
        return _no(
            base,
            "group",
            "no security group of the instance lets it out on port 443",
            "Allow TCP 443 out to 0.0.0.0/0 in one of its groups, or create interface endpoints.",
        )
    if way.startswith(("igw-", "nat-")):
        return _acl_outward(network, place, base)
    return _unsure(
        base, way, f"the default route goes to {way or 'an unknown target'}, beyond which nothing is seen"
    )


def _either_costs(region: str) -> str:
    """For who decides between the two; neither is anything that Haltuun would make."""
    endpoint, gateway = interface_endpoint(region), nat_gateway(region)
    if isinstance(endpoint, Unknown) or isinstance(gateway, Unknown):
        return ""
    as_of = price_file().as_of.isoformat()
    return f" (the endpoint: {say(endpoint)} in each zone; a NAT gateway: {say(gateway)}; prices of {as_of})"


def _acl_outward(network: Network, place: Place, base: Endpoint) -> Endpoint:
    acl = acl_of(network, place.subnet_id)
    if acl is None:
        return base
    name = acl["NetworkAclId"]
    for egress, ports in ((True, (HTTPS, HTTPS)), (False, EPHEMERAL)):
        allowed = acl_allows(acl["Entries"], egress=egress, cidr=INTERNET, ports=ports)
        if allowed is None:
            return _unsure(base, base.way, f"network ACL {name} denies a part of the internet")
        if not allowed:
            direction = "out" if egress else "back in"
            reason = f"network ACL {name} lets nothing {direction} on {port_words(ports)}"
            remedy = "Let TCP 443 out and 1024-65535 in from 0.0.0.0/0 in that network ACL."
            return _no(base, "acl", reason, remedy)
    return base


def _no(
    base: Endpoint, obstacle: Obstacle, reason: str, remedy: str, open_to: tuple[str, ...] = ()
) -> Endpoint:
    told = {"obstacle": obstacle, "reason": reason, "remedy": remedy, "open_to": open_to}
    return base.model_copy(update={"reachable": False, **told})


def _unsure(base: Endpoint, way: str, reason: str) -> Endpoint:
    return base.model_copy(update={"reachable": Unknown(unknown=reason), "way": way, "reason": reason})
