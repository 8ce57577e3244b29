"""Facts → changes of roles, profiles and egress rules, and who is held all the same. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from haltuun.model import (
    Barred,
    Change,
    Finding,
    Host,
    Json,
    Reach,
    Severity,
    StageName,
    StagePlan,
    Undo,
    Unknown,
    is_false,
)
from haltuun.stages.base import View
from haltuun.stages.verify.facts import Endpoint, RoleFacts, VerifyAccount, VerifyFacts
from haltuun.stages.verify.faults import Fault, faults_of
from haltuun.stages.verify.needs import OWN_ROLE, POLICY_NAME, is_own_policy, own_policy, own_trust
from haltuun.stages.verify.parse_account import digest, discovered, users_of, verified

ROLE = "iam.role"
POLICY = "iam.role.policy"
PROFILE = "iam.instance_profile.create"
PROFILE_ROLE = "iam.instance_profile.role"
ASSOCIATE = "ec2.instance_profile.associate"
EGRESS = "ec2.security_group.egress"
GLOBAL = "global"  # IAM has no region


def plan(view: View) -> StagePlan:
    account = verified(view)
    if account is None:
        return StagePlan()
    facts = {
        instance_id: seen
        for instance_id in view.entering
        if isinstance(seen := view.facts.get(StageName.verify, {}).get(instance_id), VerifyFacts)
    }
    faults = {i: faults_of(view, view.hosts[i], seen) for i, seen in facts.items()}
    barred = [
        Barred(host=i, code=fault.code, message=fault.message, remedy=fault.remedy, verdict=fault.verdict)
        for i, some in faults.items()
        if (fault := next((f for f in some if not f.mend), None)) is not None
    ]
    held = {one.host for one in barred}
    going = {i: seen for i, seen in facts.items() if i not in held}
    return StagePlan(
        changes=(
            *plan_roles(view, account, going, faults),
            *plan_egress(view, going),
        ),
        barred=tuple(barred),
        notes=tuple(notes_of(view, facts)),
    )


def who(view: View, instance_id: str) -> str:
    """An instance that a change concerns too; one that looks compromised is said to."""
    seen = discovered(view, instance_id)
    return view.hosts[instance_id].label + (" (SUSPECT)" if seen is not None and seen.is_suspect else "")


# -- roles -----------------------------------------------------------------------------------------


def plan_roles(
    view: View,
    account: VerifyAccount,
    going: Mapping[str, VerifyFacts],
    faults: Mapping[str, list[Fault]],
) -> Iterable[Change]:
    """What is missing of our own role and profile, part by part; what roles lack; who gets the profile.

    Each is one call of AWS: what a killed run has made are whole changes, and the next run plans the rest.
    """
    own = (account.own_role, account.own_profile, account.own_inline)
    known = not any(isinstance(part, Unknown) for part in own)
    bare = [i for i in going if known and any(fault.mend == "profile" for fault in faults[i])]
    role = [role_change(view, bare)] if bare and account.own_role == "absent" else []
    policies = list(plan_policies(view, account, going, bare, _ids(role)))
    profile = [profile_change(view, bare)] if bare and account.own_profile == "absent" else []
    inside = []
    if bare and account.own_profile != "ours":
        inside.append(profile_role_change(view, bare, _ids([*role, *profile])))
    yield from (*role, *policies, *profile, *inside)
    needs = _ids([*role, *(one for one in policies if one.target == OWN_ROLE), *profile, *inside])
    for instance_id in bare:
        yield associate_change(view.hosts[instance_id], needs)


def _ids(changes: Iterable[Change]) -> tuple[str, ...]:
    return tuple(change.id for change in changes)


def plan_policies(
    view: View,
    account: VerifyAccount,
    going: Mapping[str, VerifyFacts],
    bare: list[str],
    own_role: tuple[str, ...],
) -> Iterable[Change]:
    """One change a role, however many hosts have it. `bare` hosts are about to get our own role, which the
    change `own_role` makes if it is not there."""
    needy: dict[str, list[str]] = {OWN_ROLE: list(bare)} if bare else {}
    for instance_id, facts in going.items():
        lacks = is_false(facts.ssm_allowed) or is_false(facts.logs_allowed)
        if lacks and facts.credentials == "instance role" and isinstance(facts.role_name, str):
            needy.setdefault(facts.role_name, []).append(instance_id)
    wanted = own_policy(view.partition, view.account_id)
    for name, hosts in sorted(needy.items()):
        role = account.roles.get(name, own_role_of(account, name))
        if not isinstance(role, RoleFacts) or role.inline_policy == wanted:
            continue
        if role.inline_policy is not None and not is_own_policy(role.inline_policy):
            continue
        yield policy_change(view, account, role, hosts, wanted, own_role if name == OWN_ROLE else ())


def own_role_of(account: VerifyAccount, name: str) -> RoleFacts | None:
    """Our own role, where no host has it yet."""
    if name != OWN_ROLE or isinstance(account.own_inline, Unknown):
        return None
    return RoleFacts(role_name=OWN_ROLE, inline_policy=account.own_inline)


def policy_change(
    view: View,
    account: VerifyAccount,
    role: RoleFacts,
    hosts: list[str],
    wanted: Json,
    depends_on: tuple[str, ...],
) -> Change:
    needing = set(hosts)
    others = [who(view, i) for i in users_of(account, view.hosts, role.role_name) if i not in needing]
    before = {"policy": role.inline_policy}
    return Change(
        stage=StageName.verify,
        kind=POLICY,
        region=GLOBAL,
        target=role.role_name,
        hosts=tuple(sorted(hosts)),
        before=before,
        after={"policy": wanted},
        reach=Reach.shared,
        summary=f"Add the inline policy {POLICY_NAME} to the role {role.role_name}: what the SSM agent needs,"
        " Haltuun's parameters and its log groups.",
        permissions=("iam:GetRolePolicy", "iam:PutRolePolicy", "iam:SimulatePrincipalPolicy"),
        undo=Undo(kind=POLICY, after=before),
        concerns=(
            *others,
            *(f"{principal} may assume the role" for principal in role.other_services),
            "instances of other regions, and other services that use the role: not looked for",
        ),
        depends_on=depends_on,
        detail={"role_arn": role.arn},
    )


def role_change(view: View, hosts: list[str]) -> Change:
    trust = own_trust(view.partition)
    return _own_change(
        view,
        ROLE,
        hosts,
        {"role": "absent", "trust": None},
        {"role": "ours", "trust": digest(trust)},
        summary=f"Create the role {OWN_ROLE}, for hosts that have no instance profile.",
        permissions=("iam:CreateRole", "iam:TagRole", "iam:GetRole"),
        detail={"trust": trust},
    )


def profile_change(view: View, hosts: list[str]) -> Change:
    return _own_change(
        view,
        PROFILE,
        hosts,
        {"profile": "absent"},
        {"profile": "ours"},
        summary=f"Create the instance profile {OWN_ROLE}, for hosts that have none.",
        permissions=("iam:CreateInstanceProfile", "iam:TagInstanceProfile", "iam:GetInstanceProfile"),
    )


def profile_role_change(view: View, hosts: list[str], depends_on: tuple[str, ...]) -> Change:
    return _own_change(
        view,
        PROFILE_ROLE,
        hosts,
        {"role": None},
        {"role": OWN_ROLE},
        summary=f"Add the role {OWN_ROLE} to the instance profile {OWN_ROLE}.",
        permissions=("iam:AddRoleToInstanceProfile", "iam:PassRole", "iam:GetInstanceProfile"),
        depends_on=depends_on,
    )


def _own_change(view: View, kind: str, hosts: list[str], before: Json, after: Json, **more: Any) -> Change:
    """Of our own role or profile."""
    return Change(
        stage=StageName.verify,
        kind=kind,
        region=GLOBAL,
        target=OWN_ROLE,
        hosts=tuple(sorted(hosts)),
        before=before,
        after=after,
        reach=Reach.account,
        undo=Undo(kind=kind, after=before),
        concerns=_unseen_users(view),
        **more,
    )


def _unseen_users(view: View) -> tuple[str, ...]:
    """Whom an undo does not see: it keeps what an instance uses, and looks for those of the regions."""
    regions = ", ".join(view.account.regions or ())
    others = f"instances of regions other than {regions}, and " if regions else ""
    return (f"{others}launch templates that come to use it: not looked for before it is taken back",)


def associate_change(host: Host, depends_on: tuple[str, ...]) -> Change:
    return Change(
        stage=StageName.verify,
        kind=ASSOCIATE,
        region=host.region,
        target=host.instance_id,
        hosts=(host.instance_id,),
        before={"profile": None},
        after={"profile": OWN_ROLE},
        reach=Reach.host,
        summary=f"Attach the instance profile {OWN_ROLE} to {host.label}.",
        permissions=(
            "ec2:AssociateIamInstanceProfile",
            "ec2:DescribeIamInstanceProfileAssociations",
            "iam:PassRole",
        ),
        undo=Undo(kind=ASSOCIATE, after={"profile": None}),
        depends_on=depends_on,
    )


# -- network ---------------------------------------------------------------------------------------


def plan_egress(view: View, going: Mapping[str, VerifyFacts]) -> Iterable[Change]:
    """One change a security group: out on 443 to the groups of the endpoints, no further."""
    wanted: dict[tuple[str, str], dict[str, set[str]]] = {}
    members = group_members(view)
    for instance_id, facts in going.items():
        targets = {t for endpoint in _closed(facts) for t in endpoint.open_to}
        group = narrowest_group(view, instance_id, members)
        if targets and group:
            wanted.setdefault((view.hosts[instance_id].region, group), {})[instance_id] = targets
    for (region, group), hosts in sorted(wanted.items()):
        targets = set().union(*hosts.values())
        yield egress_change(view, region, group, members[group], sorted(hosts), sorted(targets))


def _closed(facts: VerifyFacts) -> list[Endpoint]:
    """Endpoints that only the instance's own group keeps it from."""
    endpoints = facts.endpoints if isinstance(facts.endpoints, tuple) else ()
    return [e for e in endpoints if e.reachable is False and e.obstacle == "group" and e.open_to]


def narrowest_group(view: View, instance_id: str, members: Mapping[str, list[str]]) -> str | None:
    """Of the instance's groups the one that the fewest instances have."""
    seen = discovered(view, instance_id)
    groups = seen.security_groups if seen is not None and isinstance(seen.security_groups, tuple) else ()
    return min(groups, key=lambda group: (len(members[group]), group), default=None)


def group_members(view: View) -> dict[str, list[str]]:
    """Security group → the instances that have it."""
    members: dict[str, list[str]] = {}
    for instance_id in view.hosts:
        seen = discovered(view, instance_id)
        groups = seen.security_groups if seen is not None else ()
        for group in dict.fromkeys(groups) if isinstance(groups, tuple) else ():
            members.setdefault(group, []).append(instance_id)
    return members


def interfaces_of(view: View, region: str, group: str, members: Collection[str]) -> list[str]:
    """What else has the group: interfaces of databases, functions, load balancers, or second ones of
    instances.
    """
    account = verified(view)
    rows = account.interfaces.get(region) if account is not None else None
    if not isinstance(rows, tuple):
        why = rows.unknown if isinstance(rows, Unknown) else "not asked"
        return [f"what else has the group could not be read ({why})"]
    return [
        f"{row.interface_id} ({row.owner})"
        for row in rows
        if group in row.groups and row.instance_id not in members
    ]


def egress_change(
    view: View, region: str, group: str, members: list[str], hosts: list[str], targets: list[str]
) -> Change:
    going = set(hosts)
    others = [who(view, i) for i in members if i not in going]
    others += interfaces_of(view, region, group, set(members))
    before: Json = {"https_to": []}
    return Change(
        stage=StageName.verify,
        kind=EGRESS,
        region=region,
        target=group,
        hosts=tuple(hosts),
        before=before,
        after={"https_to": targets},
        reach=Reach.shared,
        summary=f"Let the security group {group} out on TCP 443 to the VPC endpoints ({', '.join(targets)}).",
        permissions=(
            "ec2:AuthorizeSecurityGroupEgress",
            "ec2:CreateTags",
            "ec2:DescribeSecurityGroups",
        ),
        undo=Undo(kind=EGRESS, after=before),
        concerns=tuple(others),
    )


def notes_of(view: View, facts: Mapping[str, VerifyFacts]) -> Iterable[Finding]:
    """Optional services out of reach for more than the host's own group: named, not done. What is
    required is told as the reason why the host is held.
    """
    for instance_id, seen in facts.items():
        for endpoint in seen.endpoints if isinstance(seen.endpoints, tuple) else ():
            if not endpoint.required and endpoint.reachable is False and not endpoint.open_to:
                yield Finding(
                    code="SERVICE_OUT_OF_REACH",
                    severity=Severity.medium,
                    host=instance_id,
                    message=f"{endpoint.service} is out of reach: {endpoint.reason}.",
                    remedy=endpoint.remedy,
                )
