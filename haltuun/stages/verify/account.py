"""Looks at what decides for the agents: roles by what they may do, and the network. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from haltuun.aws import Aws, chunks
from haltuun.errors import NotFound
from haltuun.model import Host, Json, StageName, Unknown
from haltuun.run import Run
from haltuun.stages.discover.account import plain
from haltuun.stages.discover.facts import DiscoverAccount, DiscoverFacts
from haltuun.stages.pages import one_of, text, unreadable
from haltuun.stages.verify.needs import OWN_ROLE, POLICY_NAME, actions_by_resource

FILTER_VALUES = 200
ATTACHED = ("associated", "associating")  # states of an instance profile's association


def probe_account(run: Run, hosts: Sequence[Host]) -> Json:
    """{"profile_of", "profiles", "roles", "own_role", "own_profile", "network"}; see the functions below."""
    aws, home = run.aws, run.aws.home_region
    facts = {
        host.instance_id: seen
        for host in hosts
        if isinstance(seen := run.facts.get(StageName.discover, {}).get(host.instance_id), DiscoverFacts)
    }
    attached = {
        region: aws.ask(lambda region=region: get_attached(aws, region))  # type: ignore[misc]
        for region in sorted({host.region for host in hosts})
    }
    profile_of = {
        host.instance_id: _profile_of(host.instance_id, attached[host.region], facts) for host in hosts
    }
    arns = sorted({arn for arn in profile_of.values() if isinstance(arn, str)})
    profiles = {arn: get_profile(aws, arn.rsplit("/", 1)[-1]) for arn in arns}
    samples = _role_samples(run, hosts, profile_of, profiles)
    own = {"InstanceProfileName": OWN_ROLE}
    return {
        "profile_of": profile_of,
        "profiles": profiles,
        "roles": {name: get_role(run, name, sample) for name, sample in samples.items()},
        "own_role": _or_none(aws, lambda: aws.call("iam", "GetRole", home, RoleName=OWN_ROLE)["Role"]),
        "own_profile": _or_none(
            aws, lambda: aws.call("iam", "GetInstanceProfile", home, **own)["InstanceProfile"]
        ),
        "own_inline": get_inline(aws, OWN_ROLE),
        "network": {region: get_network(aws, region, vpcs) for region, vpcs in _vpcs(hosts, facts).items()},
        "members": {
            region: get_members(aws, region, groups) for region, groups in _groups(hosts, facts).items()
        },
    }


def get_attached(aws: Aws, region: str) -> dict[str, str | Unknown]:
    """Instance id → ARN of the profile that is attached, or about to be (see `one_of`)."""
    rows = aws.pages(
        "ec2", "DescribeIamInstanceProfileAssociations", "IamInstanceProfileAssociations", region
    )
    attached = [row for row in rows if row.get("State") in ATTACHED]
    return {text(row, "InstanceId"): profile_arn(row) for row in attached}


def profile_arn(row: Json) -> str | Unknown:
    """Of an association that names its instance; of another it is not known whose it would be."""
    arn = text(row.get("IamInstanceProfile"), "Arn") if text(row, "InstanceId") else ""
    return arn or unreadable("IamInstanceProfile")


def _profile_of(
    instance_id: str, attached: dict[str, str | Unknown] | Unknown, facts: Mapping[str, DiscoverFacts]
) -> str | Unknown | None:
    """Where the associations may not be asked, what EC2 said of the instance stands."""
    if not isinstance(attached, Unknown):
        return one_of(attached, instance_id)
    return facts[instance_id].profile_arn if instance_id in facts else attached


def get_profile(aws: Aws, name: str) -> Json:
    """The role's name in the instance profile; None for a profile without a role, or that is gone."""

    def ask() -> str | None:
        try:
            found = aws.call("iam", "GetInstanceProfile", aws.home_region, InstanceProfileName=name)
        except NotFound:
            return None
        roles = found["InstanceProfile"].get("Roles") or ()
        return str(roles[0]["RoleName"]) if roles else None

    return aws.ask(ask)


def _role_samples(
    run: Run, hosts: Sequence[Host], profile_of: Mapping[str, Json], profiles: Mapping[str, Json]
) -> dict[str, dict[str, str]]:
    """Role → region → one instance that has it: asked once a role and region, not once a host."""
    samples: dict[str, dict[str, str]] = {}
    for host in hosts:
        arn = profile_of[host.instance_id]
        role = profiles.get(arn) if isinstance(arn, str) else None
        if arn is None:
            role = dhmc_role(run.account_facts.get(StageName.discover), host.region)
        if isinstance(role, str):
            samples.setdefault(role, {}).setdefault(host.region, host.instance_id)
    return samples


def dhmc_role(account: object, region: str) -> str | None:
    """The role of default host management, without its path, where that is on."""
    if isinstance(account, DiscoverAccount) and region in account.regions:
        name = account.regions[region].dhmc_role
        return name.rsplit("/", 1)[-1] if isinstance(name, str) else None
    return None


def get_role(run: Run, name: str, sample: Mapping[str, str]) -> Json:
    """{"role", "inline", "simulated"}: the role, its policy of our name, and the simulator's answers."""
    aws, home = run.aws, run.aws.home_region
    role = plain(aws.ask(lambda: aws.call("iam", "GetRole", home, RoleName=name)["Role"]))
    inline = get_inline(aws, name)
    if isinstance(role, Unknown):
        return {"role": role, "inline": inline, "simulated": role}
    simulated = aws.ask(
        lambda: [
            row
            for region, instance_id in sorted(sample.items())
            for row in simulate(aws, str(role["Arn"]), region, instance_id)
        ]
    )
    return {"role": role, "inline": inline, "simulated": plain(simulated)}


def get_inline(aws: Aws, role_name: str) -> Json:
    """The role's inline policy of our name; None where it, or the role, is not there."""
    named = {"RoleName": role_name, "PolicyName": POLICY_NAME}
    return _or_none(aws, lambda: aws.call("iam", "GetRolePolicy", aws.home_region, **named)["PolicyDocument"])


def simulate(aws: Aws, role_arn: str, region: str, instance_id: str) -> list[dict[str, Any]]:
    """Each (action, resource) pair once; the answers carry the decision and what made it."""
    rows: list[dict[str, Any]] = []
    asked = actions_by_resource(aws.partition, aws.account_id, region, instance_id)
    for resource, actions in asked.items():
        rows.extend(
            aws.pages(
                "iam",
                "SimulatePrincipalPolicy",
                "EvaluationResults",
                aws.home_region,
                PolicySourceArn=role_arn,
                ActionNames=list(actions),
                ResourceArns=[resource],
            )
        )
    return rows


def _groups(hosts: Sequence[Host], facts: Mapping[str, DiscoverFacts]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for host in hosts:
        seen = facts.get(host.instance_id)
        if seen is not None and isinstance(seen.security_groups, tuple):
            found.setdefault(host.region, set()).update(seen.security_groups)
    return {region: sorted(groups) for region, groups in sorted(found.items())}


def get_members(aws: Aws, region: str, groups: Sequence[str]) -> Json:
    """All network interfaces with one of the groups, whatever they belong to."""
    return plain(aws.ask(lambda: _interfaces_with(aws, region, "group-id", groups)))


def _interfaces_with(aws: Aws, region: str, name: str, values: Sequence[str]) -> list[Any]:
    rows: list[Any] = []
    for some in chunks(values, FILTER_VALUES):
        wanted = [{"Name": name, "Values": list(some)}]
        rows.extend(
            aws.pages("ec2", "DescribeNetworkInterfaces", "NetworkInterfaces", region, Filters=wanted)
        )
    return rows


def _vpcs(hosts: Sequence[Host], facts: Mapping[str, DiscoverFacts]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for host in hosts:
        seen = facts.get(host.instance_id)
        if seen is not None and isinstance(seen.vpc_id, str):
            found.setdefault(host.region, set()).add(seen.vpc_id)
    return {region: sorted(vpcs) for region, vpcs in sorted(found.items())}


def get_network(aws: Aws, region: str, vpcs: Sequence[str]) -> dict[str, Json]:
    """The VPCs' groups, subnets, ACLs, tables, endpoints with their interfaces, and DNS attributes."""

    def of_vpcs(operation: str, key: str) -> Json:
        def ask() -> list[Any]:
            rows: list[Any] = []
            for some in chunks(vpcs, FILTER_VALUES):
                wanted = [{"Name": "vpc-id", "Values": list(some)}]
                rows.extend(aws.pages("ec2", operation, key, region, Filters=wanted))
            return rows

        return plain(aws.ask(ask))

    endpoints = of_vpcs("DescribeVpcEndpoints", "VpcEndpoints")
    return {
        "groups": of_vpcs("DescribeSecurityGroups", "SecurityGroups"),
        "subnets": of_vpcs("DescribeSubnets", "Subnets"),
        "acls": of_vpcs("DescribeNetworkAcls", "NetworkAcls"),
        "route_tables": of_vpcs("DescribeRouteTables", "RouteTables"),
        "endpoints": endpoints,
        "interfaces": _interfaces(aws, region, endpoints),
        "dns": {vpc: aws.ask(lambda vpc=vpc: _dns(aws, region, vpc)) for vpc in vpcs},  # type: ignore[misc]
    }


def _interfaces(aws: Aws, region: str, endpoints: Json) -> Json:
    if isinstance(endpoints, Unknown):
        return endpoints
    ids = sorted({nic for endpoint in endpoints for nic in endpoint.get("NetworkInterfaceIds") or ()})
    return plain(aws.ask(lambda: _interfaces_with(aws, region, "network-interface-id", ids)))


def _dns(aws: Aws, region: str, vpc_id: str) -> list[bool]:
    values = []
    for attribute, key in (
        ("enableDnsSupport", "EnableDnsSupport"),
        ("enableDnsHostnames", "EnableDnsHostnames"),
    ):
        answer = aws.call("ec2", "DescribeVpcAttribute", region, VpcId=vpc_id, Attribute=attribute)
        values.append(bool(answer[key]["Value"]))
    return values


def _or_none(aws: Aws, question: Callable[[], Any]) -> Json:
    def ask() -> Any:
        try:
            return question()
        except NotFound:
            return None

    return plain(aws.ask(ask))
