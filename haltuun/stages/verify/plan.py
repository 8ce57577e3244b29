"""Facts → changes of roles, profiles and egress rules, and who is held all the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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

POLICY = "iam.role.policy"
PROFILE = "iam.instance_profile"
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
    bare = [i for i in going if any(fault.mend == "profile" for fault in faults[i])]
    policies = list(plan_policies(view, account, going, bare))
    yield from policies
    yield from plan_profiles(view, account, bare, policies)


def plan_policies(
    view: View, account: VerifyAccount, going: Mapping[str, VerifyFacts], bare: list[str]
) -> Iterable[Change]:
    """One change a role, however many hosts have it. `bare` hosts are about to get our own role."""
    needy: dict[str, list[str]] = {OWN_ROLE: list(bare)} if bare and account.own_role == "ours" else {}
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
        yield policy_change(view, account, role, hosts, wanted)


def own_role_of(account: VerifyAccount, name: str) -> RoleFacts | None:
    """Our own role, where no host has it yet."""
    if name != OWN_ROLE or isinstance(account.own_inline, Unknown):
        return None
    return RoleFacts(role_name=OWN_ROLE, inline_policy=account.own_inline)


def policy_change(
    view: View, account: VerifyAccount, role: RoleFacts, hosts: list[str], wanted: Json
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
        detail={"role_arn": role.arn},
    )


def plan_profiles(
    view: View, account: VerifyAccount, bare: list[str], policies: list[Change]
) -> Iterable[Change]:
    own = (account.own_role, account.own_profile, account.own_inline, account.own_trust)
    if not bare or any(isinstance(part, Unknown) for part in own):
        return
    create = tuple(change.id for change in policies if change.target == OWN_ROLE)
    if (account.own_role, account.own_profile) != ("ours", "ours"):
        change = profile_change(view, account, bare)
        create = (*create, change.id)
        yield change
    for instance_id in bare:
        yield associate_change(view.hosts[instance_id], create)


def profile_change(view: View, account: VerifyAccount, hosts: list[str]) -> Change:
    policy, trust = own_policy(view.partition, view.account_id), own_trust(view.partition)
    there = {"policy": digest(account.own_inline), "trust": account.own_trust}
    before = {"role": account.own_role, "profile": account.own_profile, **there}
    # A role that is there already keeps its policies here: its inline policy is a change of its own.
    made = {"policy": digest(policy), "trust": digest(trust)} if account.own_role == "absent" else there
    return Change(
        stage=StageName.verify,
        kind=PROFILE,
        region=GLOBAL,
        target=OWN_ROLE,
        hosts=tuple(sorted(hosts)),
        before=before,
        after={"role": "ours", "profile": "ours", **made},
        reach=Reach.account,
        summary=f"Create the role and instance profile {OWN_ROLE} for hosts that have none.",
        permissions=(
            "iam:CreateRole",
            "iam:TagRole",
            "iam:PutRolePolicy",
            "iam:CreateInstanceProfile",
            "iam:TagInstanceProfile",
            "iam:AddRoleToInstanceProfile",
            "iam:PassRole",
            "iam:GetRole",
            "iam:GetInstanceProfile",
        ),
        undo=Undo(kind=PROFILE, after=before),
        detail={"trust": trust, "policy": policy},
    )


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
    for instance_id, facts in going.items():
        targets = {t for endpoint in _closed(facts) for t in endpoint.open_to}
        group = narrowest_group(view, instance_id)
        if targets and group:
            wanted.setdefault((view.hosts[instance_id].region, group), {})[instance_id] = targets
    for (region, group), hosts in sorted(wanted.items()):
        yield egress_change(view, region, group, sorted(hosts), sorted(set().union(*hosts.values())))


def _closed(facts: VerifyFacts) -> list[Endpoint]:
    """Endpoints that only the instance's own group keeps it from."""
    endpoints = facts.endpoints if isinstance(facts.endpoints, tuple) else ()
    return [e for e in endpoints if e.reachable is False and e.obstacle == "group" and e.open_to]


def narrowest_group(view: View, instance_id: str) -> str | None:
    """Of the instance's groups the one that the fewest instances have."""
    seen = discovered(view, instance_id)
    groups = seen.security_groups if seen is not None and isinstance(seen.security_groups, tuple) else ()
    return min(groups, key=lambda group: (len(members_of(view, group)), group), default=None)


def members_of(view: View, group: str) -> list[str]:
    return [
        instance_id
        for instance_id in view.hosts
        if (seen := discovered(view, instance_id)) is not None
        and isinstance(seen.security_groups, tuple)
        and group in seen.security_groups
    ]


def interfaces_of(view: View, region: str, group: str) -> list[str]:
    """What else has the group: interfaces of databases, functions, load balancers, or second ones of
    instances.
    """
    account = verified(view)
    rows = account.interfaces.get(region) if account is not None else None
    if not isinstance(rows, tuple):
        why = rows.unknown if isinstance(rows, Unknown) else "not asked"
        return [f"what else has the group could not be read ({why})"]
    members = set(members_of(view, group))
    return [
        f"{row.interface_id} ({row.owner})"
        for row in rows
        if group in row.groups and row.instance_id not in members
    ]


def egress_change(view: View, region: str, group: str, hosts: list[str], targets: list[str]) -> Change:
    others = [who(view, i) for i in members_of(view, group) if i not in hosts]
    others += interfaces_of(view, region, group)
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
