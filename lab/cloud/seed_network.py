"""The legacy network: one VPC, a public and a private subnet, endpoints where a scenario needs them."""

from __future__ import annotations

from typing import Any

from lab.cloud.seeding import Seeding

VPC_CIDR = "10.20.0.0/16"
SUBNETS = {"public": "10.20.0.0/24", "private": "10.20.1.0/24"}
INTERFACE_ENDPOINTS = ("ssm", "ssmmessages", "ec2messages", "logs")


def _name(kind: str, name: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": name}]}]


def make_network(work: Seeding) -> None:
    ec2, ids, region = work.client("ec2"), work.ids, work.scenario.region
    ids["vpc"] = ec2.create_vpc(CidrBlock=VPC_CIDR, TagSpecifications=_name("vpc", "acme"))["Vpc"]["VpcId"]
    for attribute in ("EnableDnsSupport", "EnableDnsHostnames"):
        ec2.modify_vpc_attribute(VpcId=ids["vpc"], **{attribute: {"Value": True}})
    for name, cidr in SUBNETS.items():
        made = ec2.create_subnet(
            VpcId=ids["vpc"],
            CidrBlock=cidr,
            AvailabilityZone=f"{region}a",
            TagSpecifications=_name("subnet", f"acme-{name}"),
        )
        ids[name] = made["Subnet"]["SubnetId"]
        table = ec2.create_route_table(
            VpcId=ids["vpc"], TagSpecifications=_name("route-table", f"acme-{name}")
        )
        ids[f"{name}-routes"] = table["RouteTable"]["RouteTableId"]
        ec2.associate_route_table(RouteTableId=ids[f"{name}-routes"], SubnetId=ids[name])
    ec2.modify_subnet_attribute(SubnetId=ids["public"], MapPublicIpOnLaunch={"Value": True})
    ids["igw"] = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=ids["igw"], VpcId=ids["vpc"])
    ec2.create_route(
        RouteTableId=ids["public-routes"], DestinationCidrBlock="0.0.0.0/0", GatewayId=ids["igw"]
    )
    _security_groups(work, ec2)
    if any(host.network == "closed-with-endpoints" for host in work.scenario.hosts):
        _endpoints(work, ec2)


def _security_groups(work: Seeding, ec2: Any) -> None:
    ids = work.ids
    for name, text in (
        ("open", "legacy servers"),
        ("closed", "no way out"),
        ("endpoints", "interface endpoints"),
    ):
        group = ec2.create_security_group(GroupName=f"acme-{name}", Description=text, VpcId=ids["vpc"])
        ids[f"sg-{name}"] = group["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    web = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": VPC_CIDR}]}
    ec2.authorize_security_group_ingress(GroupId=ids["sg-open"], IpPermissions=[ssh, web])
    ec2.authorize_security_group_ingress(GroupId=ids["sg-closed"], IpPermissions=[ssh])
    ec2.authorize_security_group_ingress(GroupId=ids["sg-endpoints"], IpPermissions=[https])
    everything = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.revoke_security_group_egress(GroupId=ids["sg-closed"], IpPermissions=[everything])


def _endpoints(work: Seeding, ec2: Any) -> None:
    ids, region = work.ids, work.scenario.region
    for service in INTERFACE_ENDPOINTS:
        ec2.create_vpc_endpoint(
            VpcEndpointType="Interface",
            VpcId=ids["vpc"],
            ServiceName=f"com.amazonaws.{region}.{service}",
            SubnetIds=[ids["private"]],
            SecurityGroupIds=[ids["sg-endpoints"]],
            PrivateDnsEnabled=True,
            TagSpecifications=_name("vpc-endpoint", f"acme-{service}"),
        )
    ec2.create_vpc_endpoint(
        VpcEndpointType="Gateway",
        VpcId=ids["vpc"],
        ServiceName=f"com.amazonaws.{region}.s3",
        RouteTableIds=[ids["private-routes"]],
        TagSpecifications=_name("vpc-endpoint", "acme-s3"),
    )
