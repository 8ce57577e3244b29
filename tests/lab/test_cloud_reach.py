"""What the emulated network lets through, one hindrance at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab.cloud.seed import seed
from lab.scenario import Scenario, load_scenario
from tests.lab.cloud_kit import REGION, Account, emulated_account

EVERYTHING = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with emulated_account() as found:
        seed(found.endpoint_url, network_scenario())
        yield found


def network_scenario() -> Scenario:
    demo = load_scenario("demo")
    return demo.model_copy(update={"hosts": [demo.host("web-01"), demo.host("intern-01")]})


def reach(account: Account, name: str) -> dict[str, bool]:
    instance_id = network_scenario().host(name).instance_id
    found: dict[str, bool] = account.steer("instances", region=REGION)[instance_id]["reach"]
    return found


def group_id(account: Account, name: str) -> str:
    asked = [{"Name": "group-name", "Values": [name]}]
    return str(account.client("ec2").describe_security_groups(Filters=asked)["SecurityGroups"][0]["GroupId"])


def tagged(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if {"Key": "Name", "Value": name} in row["Tags"])


def https(**more: Any) -> list[dict[str, Any]]:
    return [{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, **more}]


def test_an_open_host_reaches_everything_and_a_closed_one_nothing(account: Account) -> None:
    assert all(reach(account, "web-01").values())
    assert not any(reach(account, "intern-01").values())


def test_a_rule_to_the_endpoints_group_opens_the_endpoints_alone(account: Account) -> None:
    ec2, closed = account.client("ec2"), group_id(account, "acme-closed")
    rule = https(UserIdGroupPairs=[{"GroupId": group_id(account, "acme-endpoints")}])
    ec2.authorize_security_group_egress(GroupId=closed, IpPermissions=rule)
    found = reach(account, "intern-01")
    ec2.revoke_security_group_egress(GroupId=closed, IpPermissions=rule)
    assert {name for name, is_open in found.items() if is_open} == {
        "ssm",
        "ssmmessages",
        "ec2messages",
        "logs",
    }


def test_a_rule_to_the_prefix_list_opens_s3(account: Account) -> None:
    ec2, closed = account.client("ec2"), group_id(account, "acme-closed")
    lists = ec2.describe_prefix_lists()["PrefixLists"]
    s3 = next(row["PrefixListId"] for row in lists if row["PrefixListName"] == f"com.amazonaws.{REGION}.s3")
    rule = https(PrefixListIds=[{"PrefixListId": s3}])
    ec2.authorize_security_group_egress(GroupId=closed, IpPermissions=rule)
    found = reach(account, "intern-01")
    ec2.revoke_security_group_egress(GroupId=closed, IpPermissions=rule)
    assert [name for name, is_open in found.items() if is_open] == ["s3"]


def test_an_endpoint_that_admits_nobody_cuts_the_whole_vpc(account: Account) -> None:
    """Its private DNS takes the name over for hosts that could use the internet, too."""
    ec2, group = account.client("ec2"), group_id(account, "acme-endpoints")
    rule = https(IpRanges=[{"CidrIp": "10.20.0.0/16"}])
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rule)
    found = reach(account, "web-01")
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rule)
    assert not found["ssm"]
    assert found["monitoring"]


def test_without_an_egress_rule_nothing_is_reached(account: Account) -> None:
    ec2, group = account.client("ec2"), group_id(account, "acme-open")
    ec2.revoke_security_group_egress(GroupId=group, IpPermissions=EVERYTHING)
    found = reach(account, "web-01")
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=EVERYTHING)
    assert not any(found.values())


@pytest.mark.parametrize("egress", [True, False])
def test_network_acls_count_both_ways(account: Account, egress: bool) -> None:
    """Denying the answers' ephemeral ports is as good as denying the questions."""
    ec2 = account.client("ec2")
    subnet = tagged(ec2.describe_subnets()["Subnets"], "acme-public")["SubnetId"]
    asked = [{"Name": "association.subnet-id", "Values": [subnet]}]
    acl = ec2.describe_network_acls(Filters=asked)["NetworkAcls"][0]["NetworkAclId"]
    ports = {"From": 443, "To": 443} if egress else {"From": 1024, "To": 65535}
    entry = {"NetworkAclId": acl, "RuleNumber": 50, "Egress": egress}
    ec2.create_network_acl_entry(
        **entry, Protocol="6", RuleAction="deny", CidrBlock="0.0.0.0/0", PortRange=ports
    )
    found = reach(account, "web-01")
    ec2.delete_network_acl_entry(**entry)
    assert not any(found.values())
    assert reach(account, "web-01")["ssm"]


def test_without_a_route_only_the_endpoints_are_left(account: Account) -> None:
    ec2 = account.client("ec2")
    table = tagged(ec2.describe_route_tables()["RouteTables"][1:], "acme-public")
    gateway = next(row["GatewayId"] for row in table["Routes"] if row["DestinationCidrBlock"] == "0.0.0.0/0")
    where = {"RouteTableId": table["RouteTableId"], "DestinationCidrBlock": "0.0.0.0/0"}
    ec2.delete_route(**where)
    found = reach(account, "web-01")
    ec2.create_route(**where, GatewayId=gateway)
    assert {name for name, is_open in found.items() if is_open} == {
        "ssm",
        "ssmmessages",
        "ec2messages",
        "logs",
    }


def test_without_dns_hostnames_private_names_lead_to_the_internet(account: Account) -> None:
    ec2 = account.client("ec2")
    vpc = tagged([row for row in ec2.describe_vpcs()["Vpcs"] if row.get("Tags")], "acme")["VpcId"]
    closed = group_id(account, "acme-closed")
    ec2.authorize_security_group_egress(GroupId=closed, IpPermissions=EVERYTHING)
    before = reach(account, "intern-01")["ssm"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": False})
    after = reach(account, "intern-01")["ssm"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    ec2.revoke_security_group_egress(GroupId=closed, IpPermissions=EVERYTHING)
    assert (before, after) == (True, False)
