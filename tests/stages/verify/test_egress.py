"""The way to AWS by the account's configuration: one network, and a case file for each that differs."""

from __future__ import annotations

import copy
import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from haltuun.model import Unknown
from haltuun.stages.verify.acl import acl_allows
from haltuun.stages.verify.egress import evaluate
from haltuun.stages.verify.facts import Endpoint, VerifyFacts
from haltuun.stages.verify.faults import network_faults
from haltuun.stages.verify.tables import Network, Place, parse_network

CASES = sorted((Path(__file__).parents[2] / "cases" / "verify" / "egress").glob("*.yaml"))
REGION = "eu-central-1"


def base() -> dict[str, Any]:
    """A public subnet (a) with a way out, and a private one (b) with interface endpoints in it."""
    everything = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}
    open_acl = [
        {
            "RuleNumber": number,
            "Protocol": "-1",
            "RuleAction": action,
            "Egress": egress,
            "CidrBlock": "0.0.0.0/0",
        }
        for number, action in ((100, "allow"), (32767, "deny"))
        for egress in (True, False)
    ]
    return {
        "groups": {
            "sg-open": {"IpPermissionsEgress": [everything]},
            "sg-closed": {"IpPermissionsEgress": []},
            "sg-ends": {"IpPermissions": [https | {"IpRanges": [{"CidrIp": "10.0.0.0/16"}]}]},
        },
        "subnets": {"subnet-a": "10.0.0.0/24", "subnet-b": "10.0.1.0/24"},
        "acls": {
            "acl-a": {"subnet": "subnet-a", "Entries": open_acl},
            "acl-b": {"subnet": "subnet-b", "Entries": open_acl},
        },
        "routes": {
            "subnet-a": [{"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-1", "State": "active"}],
            "subnet-b": [],
        },
        "endpoints": [],
        "dns": [True, True],
        "host": {
            "subnet": "subnet-a",
            "groups": ["sg-open"],
            "private_ip": "10.0.0.5",
            "public_ip": "203.0.113.5",
        },
        "service": "ssm",
    }


def merged(into: Any, change: Any) -> Any:
    if isinstance(into, dict) and isinstance(change, dict):
        return {
            key: merged(into.get(key), change[key]) if key in change else into[key]
            for key in {**into, **change}
        }
    return copy.deepcopy(change)


def network_of(data: dict[str, Any]) -> tuple[Network, Place]:
    local = {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local"}
    raw = {
        "groups": [{"GroupId": name, **rules} for name, rules in data["groups"].items()],
        "subnets": [{"SubnetId": n, "CidrBlock": c, "VpcId": "vpc-1"} for n, c in data["subnets"].items()],
        "acls": [
            {
                "NetworkAclId": n,
                "VpcId": "vpc-1",
                "Associations": [{"SubnetId": a["subnet"]}],
                "Entries": a["Entries"],
            }
            for n, a in data["acls"].items()
        ],
        "route_tables": [
            {
                "RouteTableId": f"rtb-{subnet[-1]}",
                "VpcId": "vpc-1",
                "Associations": [{"SubnetId": subnet}],
                "Routes": [local, *routes],
            }
            for subnet, routes in data["routes"].items()
        ],
        "endpoints": [{"VpcId": "vpc-1", "State": "available", **endpoint} for endpoint in data["endpoints"]],
        "interfaces": [],
        "dns": {"vpc-1": data["dns"]},
    }
    network = parse_network(REGION, raw)
    assert isinstance(network, Network)
    at = data["host"]
    place = Place("vpc-1", at["subnet"], tuple(at["groups"]), at["private_ip"], at.get("public_ip"))
    return network, place


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    given = yaml.safe_load(case.read_text())
    network, place = network_of(merged(base(), given.get("network", {})))
    found = evaluate(network, place, given.get("network", {}).get("service", "ssm"), required=True)
    expected = given["expected"]
    reachable = "unknown" if isinstance(found.reachable, Unknown) else found.reachable
    assert reachable == expected["reachable"], found
    assert found.obstacle == expected.get("obstacle", ""), found
    assert list(found.open_to) == expected.get("open_to", [])
    assert bool(found.reason) == (found.reachable is not True)
    for word in expected.get("says", []):
        assert word in f"{found.reason} {found.remedy}"


def test_denied_parts_are_unknown() -> None:
    denied = Unknown(unknown="ACCESS_DENIED: ec2:DescribeNetworkAcls")
    parts = ("groups", "subnets", "acls", "route_tables", "endpoints", "interfaces")
    raw = {part: denied if part == "acls" else [] for part in parts} | {"dns": {}}
    assert parse_network(REGION, raw) == denied


# -- network ACLs, against rule-by-rule evaluation of single addresses and ports -------------------

PORT = st.integers(min_value=0, max_value=20)
RULE = st.fixed_dictionaries(
    {
        "ports": st.tuples(PORT, PORT).map(sorted),
        "cidr": st.sampled_from(["10.0.0.0/30", "10.0.0.0/31", "10.0.0.2/31", "10.0.0.1/32", "0.0.0.0/0"]),
        "action": st.sampled_from(["allow", "deny"]),
    }
)


def _first_match(rules: list[Any], address: ipaddress.IPv4Address, port: int) -> bool:
    for rule in rules:
        if address in ipaddress.ip_network(rule["cidr"]) and rule["ports"][0] <= port <= rule["ports"][1]:
            return bool(rule["action"] == "allow")
    return False


@given(st.lists(RULE, max_size=6), st.tuples(PORT, PORT).map(sorted))
def test_acl_agrees_with_every_single_packet(rules: list[Any], ports: list[int]) -> None:
    entries = [
        {
            "RuleNumber": number,
            "Protocol": "6",
            "RuleAction": rule["action"],
            "Egress": True,
            "CidrBlock": rule["cidr"],
            "PortRange": {"From": rule["ports"][0], "To": rule["ports"][1]},
        }
        for number, rule in enumerate(rules)
    ]
    cidr = ipaddress.IPv4Network("10.0.0.0/30")
    said = acl_allows(entries, egress=True, cidr=cidr, ports=(ports[0], ports[1]))
    truth = [_first_match(rules, a, port) for a in cidr for port in range(ports[0], ports[1] + 1)]
    if said is True:
        assert all(truth)
    if said is False:
        # Several partial allows may add up; then "no" is cautious, never wrong about an open way.
        assert not all(truth) or any(
            rule["cidr"] != "0.0.0.0/0" and rule["cidr"] != str(cidr) for rule in rules
        )
    if all(rule["cidr"] in ("0.0.0.0/0", str(cidr)) for rule in rules):
        assert said is all(truth)


@pytest.mark.parametrize(
    ("tcp_reason", "mend"),
    [("ssmmessages.eu-central-1.amazonaws.com: timeout", "egress"), ("git.acme: timeout", "")],
)
def test_what_the_host_says_now_outweighs_that_it_was_online_minutes_ago(tcp_reason: str, mend: str) -> None:
    closed = Endpoint(
        service="ssmmessages",
        required=True,
        reachable=False,
        way="vpce-1",
        obstacle="group",
        reason="no security group lets it out",
        remedy="Approve the planned egress rule.",
        open_to=("sg-1",),
    )
    facts = VerifyFacts(endpoints=(closed,), egress_ok=True, tcp_ok=False, tcp_reason=tcp_reason)
    (fault,) = network_faults(facts)
    assert (fault.code, fault.mend) == ("EGRESS_BLOCKED", mend)
    assert ("Approve" in fault.remedy) is bool(mend)
    assert not list(network_faults(facts.model_copy(update={"tcp_ok": True})))
