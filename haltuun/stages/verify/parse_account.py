"""What AWS said of roles and network → facts. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from haltuun.aws import tags_of
from haltuun.model import Host, Json, StageName, Unknown, canonical, is_false
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.pages import readable, text
from haltuun.stages.tags import MANAGED
from haltuun.stages.verify.account import dhmc_role
from haltuun.stages.verify.egress import evaluate
from haltuun.stages.verify.facts import Endpoint, Interface, RoleFacts, VerifyAccount
from haltuun.stages.verify.needs import (
    DHMC_SINCE,
    FALLBACK,
    OPTIONAL_SERVICES,
    OWN_ROLE,
    SHIPPING,
    numbers_of,
    required_services,
)
from haltuun.stages.verify.tables import Network, Place, parse_network


def parse_account(view: View, raw: Json) -> VerifyAccount:
    networks = {
        region: readable(partial(parse_network, region, part)) for region, part in raw["network"].items()
    }
    return VerifyAccount(
        profile_of=raw["profile_of"],
        endpoints={
            instance_id: parse_endpoints(host, discovered(view, instance_id), networks.get(host.region))
            for instance_id, host in view.hosts.items()
        },
        profile_roles=raw["profiles"],
        roles={name: readable(partial(parse_role, name, answers)) for name, answers in raw["roles"].items()},
        own_role=parse_own(raw["own_role"]),
        own_profile=parse_own_profile(raw["own_profile"]),
        own_inline=raw["own_inline"],
        interfaces={region: parse_interfaces(rows) for region, rows in raw["members"].items()},
    )


def discovered(view: View, instance_id: str) -> DiscoverFacts | None:
    facts = view.facts.get(StageName.discover, {}).get(instance_id)
    return facts if isinstance(facts, DiscoverFacts) else None


def verified(view: View) -> VerifyAccount | None:
    account = view.account_facts.get(StageName.verify)
    return account if isinstance(account, VerifyAccount) else None


def role_of(view: View, host: Host) -> tuple[str | Unknown | None, str]:
    """The role that the host's agent can use, and by what: "instance role", "default host management"
    or "none".
    """
    account = verified(view)
    if account is None:
        return Unknown(unknown="the account was not asked"), "none"
    arn = account.profile_of.get(host.instance_id, Unknown(unknown="the instance was not asked"))
    if isinstance(arn, Unknown):
        return arn, "none"
    if arn is not None:
        role = account.profile_roles.get(arn, Unknown(unknown="the profile was not asked"))
        return role, "none" if role is None else "instance role"
    by_setting = dhmc_role(view.account_facts.get(StageName.discover), host.region)
    works = bool(by_setting) and dhmc_works(view, discovered(view, host.instance_id))
    if isinstance(works, Unknown):
        return works, "default host management"
    return (by_setting, "default host management") if works else (None, "none")


def dhmc_works(view: View, seen: DiscoverFacts | None) -> bool | Unknown:
    """Whether the host's agent is new enough for default host management; where none is installed, whether
    one that repair may install is."""
    why = Unknown(unknown="whether its agent is new enough for default host management is not known")
    if seen is None:
        return why
    if seen.ssm_status == "Online":  # it has no other credentials
        return True
    if seen.agent_package == "none" and is_false(seen.agent_running):
        pins = [numbers_of(pin.version) for pin in view.config.agent.pins]
        return not pins or any(pin is not None and pin >= DHMC_SINCE for pin in pins)
    version = numbers_of(agent_version(seen))
    return why if version is None else version >= DHMC_SINCE


def agent_version(facts: DiscoverFacts) -> str | None:
    """As the host says, else as it last reported."""
    for version in (facts.agent_version, facts.ssm_agent_version):
        if isinstance(version, str):
            return version
    return None


# -- network -------------------------------------------------------------------------------------


def parse_endpoints(
    host: Host, facts: DiscoverFacts | None, network: Network | Unknown | None
) -> tuple[Endpoint, ...] | Unknown:
    if isinstance(network, Unknown):
        return network
    place = place_of(facts)
    if facts is None or network is None or place is None:
        return Unknown(unknown="where the instance stands in the network is not known")
    required = required_services(agent_version(facts), host.region)
    return readable(
        lambda: tuple(
            evaluate(network, place, service, required=service in required)
            for service in (*required, *OPTIONAL_SERVICES)
        )
    )


def place_of(facts: DiscoverFacts | None) -> Place | None:
    if facts is None:
        return None
    vpc, subnet, groups, address = facts.vpc_id, facts.subnet_id, facts.security_groups, facts.private_ip
    if not (isinstance(vpc, str) and isinstance(subnet, str) and isinstance(address, str)):
        return None
    return Place(
        vpc_id=vpc,
        subnet_id=subnet,
        groups=groups if isinstance(groups, tuple) else (),
        private_ip=address,
        public_ip=facts.public_ip if isinstance(facts.public_ip, str) else None,
    )


def parse_interfaces(rows: Json) -> tuple[Interface, ...] | Unknown:
    return rows if isinstance(rows, Unknown) else readable(lambda: tuple(map(parse_interface, rows)))


def parse_interface(row: Json) -> Interface:
    """A service that owns an interface is known by its description and by who asked for it."""
    attachment = row.get("Attachment") or {}
    by = row.get("RequesterId") or attachment.get("InstanceOwnerId") or ""
    what = row.get("Description") or row.get("InterfaceType") or "no description"
    return Interface(
        interface_id=row["NetworkInterfaceId"],
        groups=tuple(group["GroupId"] for group in row.get("Groups") or ()),
        instance_id=attachment.get("InstanceId") or "",
        owner=f"{what}, of {by}" if by else what,
    )


# -- roles ---------------------------------------------------------------------------------------


def parse_role(name: str, raw: Json) -> RoleFacts | Unknown:
    role, simulated, inline = raw["role"], raw["simulated"], raw["inline"]
    if isinstance(role, Unknown):
        return role
    denied = denied_of(simulated)
    trusted = services_of(role.get("AssumeRolePolicyDocument"))
    return RoleFacts(
        role_name=name,
        arn=str(role["Arn"]),
        denied=_pick(denied, lambda action: action not in (*FALLBACK, *SHIPPING)),
        denied_fallback=_pick(denied, lambda action: action in FALLBACK),
        denied_logs=_pick(denied, lambda action: action in SHIPPING),
        beyond=() if isinstance(simulated, Unknown) else beyond_of(simulated),
        trusts_ec2=trusted if isinstance(trusted, Unknown) else any(s.startswith("ec2.") for s in trusted),
        other_services=()
        if isinstance(trusted, Unknown)
        else tuple(s for s in trusted if not s.startswith("ec2.")),
        inline_policy=inline,
    )


def denied_of(rows: Json) -> tuple[str, ...] | Unknown:
    """Actions that any of the simulated resources denies. What hangs on a condition whose value the
    simulation does not have is neither: then all of it is unknown.
    """
    if isinstance(rows, Unknown):
        return rows
    denied = [row for row in rows if row["EvalDecision"] != "allowed"]
    for row in denied:
        if row.get("MissingContextValues") and row["EvalDecision"] == "implicitDeny":
            keys = ", ".join(row["MissingContextValues"])
            return Unknown(unknown=f"{row['EvalActionName']} hangs on a condition over {keys}")
    return tuple(sorted({row["EvalActionName"] for row in denied}))


def beyond_of(rows: Json) -> tuple[str, ...]:
    """Denied by something that an added policy does not outweigh, and by what."""
    found = set()
    for row in rows:
        if row["EvalDecision"] == "allowed":
            continue
        action = row["EvalActionName"]
        organization = row.get("OrganizationsDecisionDetail") or {}
        boundary = row.get("PermissionsBoundaryDecisionDetail") or {}
        if organization.get("AllowedByOrganizations") is False:
            found.add(f"{action} (by a service control policy)")
        elif boundary.get("AllowedByPermissionsBoundary") is False:
            found.add(f"{action} (by the role's permissions boundary)")
        elif row["EvalDecision"] == "explicitDeny":
            found.add(f"{action} (by an explicit deny)")
    return tuple(sorted(found))


def services_of(trust: Json) -> tuple[str, ...] | Unknown:
    """Who may assume the role: service principals, and the ARNs of accounts, users and providers."""
    if not isinstance(trust, dict):
        return Unknown(unknown="the role's trust policy could not be read")
    statements = trust.get("Statement") or ()
    found: set[str] = set()
    for statement in [statements] if isinstance(statements, dict) else statements:
        principal = statement.get("Principal")
        if statement.get("Effect") != "Allow" or not principal:
            continue
        for names in principal.values() if isinstance(principal, dict) else [principal]:
            found.update([names] if isinstance(names, str) else names)
    return tuple(sorted(found))


def digest(document: Json) -> str | None:
    """Of a policy document, as it decides in a change; None: there is none."""
    if document is None:
        return None
    return hashlib.sha256(canonical(document).encode()).hexdigest()[:12]


def trust_of(role: Json) -> str | Unknown | None:
    """Hash of the role's trust policy."""
    if isinstance(role, Unknown) or role is None:
        return role
    return digest(role.get("AssumeRolePolicyDocument"))


def parse_own(role: Json) -> Literal["absent", "ours", "foreign"] | Unknown:
    if isinstance(role, Unknown):
        return role
    if role is None:
        return "absent"
    return "ours" if tags_of(role).get(MANAGED) == "true" else "foreign"


def parse_own_profile(profile: Json) -> Literal["absent", "ours", "empty", "foreign"] | Unknown:
    if isinstance(profile, Unknown):
        return profile
    if profile is None:
        return "absent"
    names = [text(role, "RoleName") for role in profile.get("Roles") or ()]
    if tags_of(profile).get(MANAGED) != "true" or names not in ([], [OWN_ROLE]):
        return "foreign"
    return "ours" if names else "empty"


def _pick(denied: tuple[str, ...] | Unknown, wanted: Any) -> tuple[str, ...] | Unknown:
    return denied if isinstance(denied, Unknown) else tuple(action for action in denied if wanted(action))


def users_of(account: VerifyAccount, hosts: Mapping[str, Host], role_name: str) -> tuple[str, ...]:
    """Instances whose profile has the role."""
    return tuple(
        instance_id
        for instance_id in hosts
        if isinstance(arn := account.profile_of.get(instance_id), str)
        and account.profile_roles.get(arn) == role_name
    )
