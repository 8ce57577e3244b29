"""How each kind of change is looked at and performed. Every apply may be called again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from haltuun.aws import tags_of
from haltuun.errors import AwsError, HaltuunError, NotFound
from haltuun.model import Change, Json, Unknown
from haltuun.run import Run
from haltuun.stages.base import Kind
from haltuun.stages.discover.account import plain
from haltuun.stages.tags import MANAGED, managed_tags
from haltuun.stages.verify.account import get_inline
from haltuun.stages.verify.needs import OWN_ROLE, POLICY_NAME
from haltuun.stages.verify.parse_account import digest, parse_own, parse_own_profile, trust_of
from haltuun.stages.verify.plan import ASSOCIATE, EGRESS, POLICY, PROFILE

# IAM and EC2 take some seconds until they agree on what was just created ("eventual consistency").
SETTLE_S = 90.0
EVERY_S = 2.0
RULE_NOTE = "Haltuun: Systems Manager endpoints"


def settled(question: Callable[[], bool], *, deadline_s: float = SETTLE_S, every_s: float = EVERY_S) -> bool:
    """Ask until it is so, or the deadline is over."""
    end = time.monotonic() + deadline_s
    while not question():
        if time.monotonic() + every_s > end:
            return False
        time.sleep(every_s)
    return True


# -- iam.role.policy -------------------------------------------------------------------------------


def look_policy(run: Run, change: Change) -> Json | Unknown:
    def ask() -> Json:
        try:
            found = run.aws.call(
                "iam", "GetRolePolicy", run.aws.home_region, RoleName=change.target, PolicyName=POLICY_NAME
            )
        except NotFound:
            return {"policy": None}
        return {"policy": plain(found["PolicyDocument"])}

    return run.aws.ask(ask)


def apply_policy(run: Run, change: Change) -> Json:
    home, policy = run.aws.home_region, change.after["policy"]
    if policy is None:
        with contextlib.suppress(NotFound):
            run.aws.call("iam", "DeleteRolePolicy", home, RoleName=change.target, PolicyName=POLICY_NAME)
        return None
    try:
        run.aws.call(
            "iam",
            "PutRolePolicy",
            home,
            RoleName=change.target,
            PolicyName=POLICY_NAME,
            PolicyDocument=json.dumps(policy),
        )
    except AwsError as error:
        if error.code != "LimitExceeded":
            raise
        raise _too_large(change.target) from error
    if change.detail and change.detail.get("role_arn"):
        settled(lambda: _may_report(run, change.detail["role_arn"]))
    return None


def _too_large(role_name: str) -> HaltuunError:
    # IAM quotas, "Role policies": all inline policies of one role together, without white space.
    return HaltuunError(
        f"the role's inline policies would be longer than the 10,240 characters that IAM takes, so"
        f" {POLICY_NAME} does not fit beside them.",
        subject=role_name,
        remedy="Turn one of its inline policies into a managed policy and attach that, then retry.",
        code="POLICY_TOO_LARGE",
        unchanged=True,
    )


def _may_report(run: Run, role_arn: str) -> bool:
    """The simulator sees the new policy. Where it may not be asked there is nothing to wait for; a denial
    beyond the policy is the gate's to tell.
    """
    rows = run.aws.ask(
        lambda: run.aws.pages(
            "iam",
            "SimulatePrincipalPolicy",
            "EvaluationResults",
            run.aws.home_region,
            PolicySourceArn=role_arn,
            ActionNames=["ssm:UpdateInstanceInformation"],
            ResourceArns=["*"],
        )
    )
    return isinstance(rows, Unknown) or any(row["EvalDecision"] != "implicitDeny" for row in rows)


# -- iam.instance_profile --------------------------------------------------------------------------


def look_profile(run: Run, change: Change) -> Json | Unknown:
    role = run.aws.ask(lambda: _role(run))
    profile = run.aws.ask(lambda: _profile(run))
    if isinstance(role, Unknown) or isinstance(profile, Unknown):
        return role if isinstance(role, Unknown) else profile
    inline = get_inline(run.aws, OWN_ROLE)
    if isinstance(inline, Unknown):
        return inline
    return {
        "role": parse_own(role),
        "profile": parse_own_profile(profile),
        "policy": digest(inline),
        "trust": trust_of(role),
    }


def _role(run: Run) -> Json:
    try:
        return plain(run.aws.call("iam", "GetRole", run.aws.home_region, RoleName=OWN_ROLE)["Role"])
    except NotFound:
        return None


def _profile(run: Run) -> Json:
    named = {"InstanceProfileName": OWN_ROLE}
    try:
        return plain(
            run.aws.call("iam", "GetInstanceProfile", run.aws.home_region, **named)["InstanceProfile"]
        )
    except NotFound:
        return None


def apply_profile(run: Run, change: Change) -> Json:
    wants = change.after
    _apply_removal(run, wants)
    if wants["role"] == "ours" and change.before["role"] == "absent":
        _create_role(run, change.detail or {})
    if wants["profile"] == "ours":
        _create_profile(run)
    return {"role": OWN_ROLE}


def _create_role(run: Run, detail: dict[str, Json]) -> None:
    home = run.aws.home_region
    if _role(run) is None:
        run.aws.call(
            "iam",
            "CreateRole",
            home,
            RoleName=OWN_ROLE,
            AssumeRolePolicyDocument=json.dumps(detail["trust"]),
            Description="Made by Haltuun: EC2 hosts report to Systems Manager and ship logs",
            Tags=managed_tags(),
        )
    run.aws.call(
        "iam",
        "PutRolePolicy",
        home,
        RoleName=OWN_ROLE,
        PolicyName=POLICY_NAME,
        PolicyDocument=json.dumps(detail["policy"]),
    )


def _create_profile(run: Run) -> None:
    home, named = run.aws.home_region, {"InstanceProfileName": OWN_ROLE}
    profile = _profile(run)
    if profile is None:
        run.aws.call("iam", "CreateInstanceProfile", home, Tags=managed_tags(), **named)
    if not (profile or {}).get("Roles"):
        run.aws.call("iam", "AddRoleToInstanceProfile", home, RoleName=OWN_ROLE, **named)


def _apply_removal(run: Run, wants: dict[str, str]) -> None:
    """Undo: only what is ours, and only while no instance uses it (IAM refuses otherwise)."""
    home, named = run.aws.home_region, {"InstanceProfileName": OWN_ROLE}
    profile = _profile(run) if wants["profile"] in ("absent", "empty") else None
    if profile is not None and tags_of(profile).get(MANAGED) == "true":
        for role in profile.get("Roles") or ():
            run.aws.call("iam", "RemoveRoleFromInstanceProfile", home, RoleName=role["RoleName"], **named)
        if wants["profile"] == "absent":
            run.aws.call("iam", "DeleteInstanceProfile", home, **named)
    role_there = _role(run) if wants["role"] == "absent" else None
    if role_there is not None and tags_of(role_there).get(MANAGED) == "true":
        # A run that was killed in between may have removed it.
        with contextlib.suppress(NotFound):
            run.aws.call("iam", "DeleteRolePolicy", home, RoleName=OWN_ROLE, PolicyName=POLICY_NAME)
        run.aws.call("iam", "DeleteRole", home, RoleName=OWN_ROLE)


# -- ec2.instance_profile.associate ----------------------------------------------------------------


def look_association(run: Run, change: Change) -> Json | Unknown:
    rows = _associations(run, change)
    if isinstance(rows, Unknown):
        return rows
    row = rows.get(change.target)
    return {"profile": row["IamInstanceProfile"]["Arn"].rsplit("/", 1)[-1] if row else None}


def _associations(run: Run, change: Change) -> dict[str, dict[str, Any]] | Unknown:
    """Instance id → its association; one read serves all hosts of the region."""

    def question() -> dict[str, dict[str, Any]]:
        rows = run.aws.pages(
            "ec2", "DescribeIamInstanceProfileAssociations", "IamInstanceProfileAssociations", change.region
        )
        return {row["InstanceId"]: row for row in rows if row.get("State") in ("associated", "associating")}

    return run.shared.get(_shared_key(change), change.target, lambda: run.aws.ask(question))


def _shared_key(change: Change) -> tuple[str, str]:
    return ("profiles", change.region)


def apply_association(run: Run, change: Change) -> Json:
    """What EC2 accepts is associated within seconds; the look at the host waits for the role to come."""
    rows = _associations(run, change)
    if isinstance(rows, Unknown):
        raise HaltuunError(
            f"its instance profile could not be read ({rows.unknown}).",
            subject=change.target,
            remedy="Retry the host.",
            code="UNSEEN",
            unchanged=True,
        )
    there = rows.get(change.target)
    try:
        if change.after["profile"] is None:
            if there is not None:
                run.aws.call(
                    "ec2",
                    "DisassociateIamInstanceProfile",
                    change.region,
                    AssociationId=there["AssociationId"],
                )
        elif there is None and not settled(lambda: _associated(run, change)):
            raise HaltuunError(
                f"EC2 did not know the instance profile {change.after['profile']} in {SETTLE_S:g} s.",
                subject=change.target,
                remedy="Look at the profile in the IAM console, then retry the host.",
                code="ROLE_MISSING",
            )
    finally:  # also where the answer never came
        run.shared.changed(_shared_key(change), change.target)
    return None


def _associated(run: Run, change: Change) -> bool:
    """False while EC2 does not know the profile that IAM has just made."""
    try:
        run.aws.call(
            "ec2",
            "AssociateIamInstanceProfile",
            change.region,
            IamInstanceProfile={"Name": change.after["profile"]},
            InstanceId=change.target,
        )
    except AwsError as error:
        if error.code == "InvalidParameterValue" and "nstance" in error.message and "rofile" in error.message:
            return False
        raise
    return True


# -- ec2.security_group.egress ---------------------------------------------------------------------


def look_egress(run: Run, change: Change) -> Json | Unknown:
    def ask() -> Json:
        wanted = {*change.before["https_to"], *change.after["https_to"]}
        return {"https_to": sorted(wanted & _open_to(run, change))}

    return run.aws.ask(ask)


def _open_to(run: Run, change: Change) -> set[str]:
    """Groups and prefix lists that the group has a rule to on exactly TCP 443."""
    groups = run.aws.pages(
        "ec2", "DescribeSecurityGroups", "SecurityGroups", change.region, GroupIds=[change.target]
    )
    found: set[str] = set()
    for group in groups:
        for rule in group.get("IpPermissionsEgress") or ():
            if (rule.get("IpProtocol"), rule.get("FromPort"), rule.get("ToPort")) == ("tcp", 443, 443):
                found |= {
                    pair["GroupId"] for pair in rule.get("UserIdGroupPairs") or () if pair.get("GroupId")
                }
                found |= {row["PrefixListId"] for row in rule.get("PrefixListIds") or ()}
    return found


def apply_egress(run: Run, change: Change) -> Json:
    there, wanted = _open_to(run, change), set(change.after["https_to"])
    add = sorted(wanted - there)
    drop = sorted((set(change.before["https_to"]) - wanted) & there)
    if add:
        answer = run.aws.call(
            "ec2",
            "AuthorizeSecurityGroupEgress",
            change.region,
            GroupId=change.target,
            IpPermissions=[_permission(target) for target in add],
            TagSpecifications=[{"ResourceType": "security-group-rule", "Tags": managed_tags()}],
        )
        return {"rules": [row["SecurityGroupRuleId"] for row in answer.get("SecurityGroupRules") or ()]}
    if drop:
        run.aws.call(
            "ec2",
            "RevokeSecurityGroupEgress",
            change.region,
            GroupId=change.target,
            IpPermissions=[_permission(target) for target in drop],
        )
    return None


def _permission(target: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}
    if target.startswith("pl-"):
        return rule | {"PrefixListIds": [{"PrefixListId": target, "Description": RULE_NOTE}]}
    return rule | {"UserIdGroupPairs": [{"GroupId": target, "Description": RULE_NOTE}]}


KINDS = {
    kind.name: kind
    for kind in (
        Kind(name=POLICY, look=look_policy, apply=apply_policy),
        Kind(name=PROFILE, look=look_profile, apply=apply_profile),
        Kind(name=ASSOCIATE, look=look_association, apply=apply_association),
        Kind(name=EGRESS, look=look_egress, apply=apply_egress),
    )
}
