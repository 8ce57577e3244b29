"""How each kind of change is looked at and performed. Every apply may be called again."""

from __future__ import annotations

from typing import Any

from haltuun.errors import AwsError, HaltuunError
from haltuun.model import Change, Json, Unknown
from haltuun.run import Run
from haltuun.stages.base import Kind
from haltuun.stages.own import unseen
from haltuun.stages.pages import one_of, text
from haltuun.stages.polling import poll
from haltuun.stages.tags import managed_tags
from haltuun.stages.verify.account import ATTACHED, profile_arn
from haltuun.stages.verify.plan import ASSOCIATE, EGRESS
from haltuun.stages.verify.roles import ROLE_KINDS, USERS

# IAM and EC2 take some seconds until they agree on what was just created ("eventual consistency").
SETTLE_S = 90.0
RULE_NOTE = "Haltuun: Systems Manager endpoints"


# -- ec2.instance_profile.associate ----------------------------------------------------------------


def look_association(run: Run, change: Change) -> Json | Unknown:
    rows = _associations(run, change)
    if isinstance(rows, Unknown):
        return rows
    row = one_of(rows, change.target)
    if row is None:
        return {"profile": None}
    arn = profile_arn(row)
    return arn if isinstance(arn, Unknown) else {"profile": arn.rsplit("/", 1)[-1]}


def _associations(run: Run, change: Change) -> dict[str, dict[str, Any]] | Unknown:
    """Instance id → its association; one read serves all hosts of the region."""

    def question() -> dict[str, dict[str, Any]]:
        rows = run.aws.pages(
            "ec2", "DescribeIamInstanceProfileAssociations", "IamInstanceProfileAssociations", change.region
        )
        attached = [row for row in rows if row.get("State") in ATTACHED]
        return {text(row, "InstanceId"): row if text(row, "InstanceId") else {} for row in attached}

    return run.shared.get(_shared_key(change), change.target, lambda: run.aws.ask(question))


def _shared_key(change: Change) -> tuple[str, str]:
    return ("profiles", change.region)


def apply_association(run: Run, change: Change) -> Json:
    """What EC2 accepts is associated within seconds; the look at the host waits for the role to come."""
    rows = _associations(run, change)
    if isinstance(rows, Unknown):
        raise unseen("its instance profile", rows, change.target, "Retry the host.")
    there = rows.get(change.target)  # as it was looked at: it is known
    try:
        if change.after["profile"] is None:
            if there is not None:
                run.aws.call(
                    "ec2",
                    "DisassociateIamInstanceProfile",
                    change.region,
                    AssociationId=there["AssociationId"],
                )
        elif there is None and not poll(lambda: _associated(run, change), bool, SETTLE_S):
            raise HaltuunError(
                f"EC2 did not know the instance profile {change.after['profile']} in {SETTLE_S:g} s.",
                subject=change.target,
                remedy="Look at the profile in the IAM console, then retry the host.",
                code="ROLE_MISSING",
            )
    finally:  # also where the answer never came
        run.shared.changed(_shared_key(change), change.target)
        run.shared.changed(USERS, "")
    return None


def _associated(run: Run, change: Change) -> bool:
    """False while EC2 does not know the profile that IAM has just made. It says so in two ways (the second:
    hashicorp/terraform-provider-aws #12533).
    """
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
        if error.code == "IncorrectState" and "InstanceIdentityProfileNotFound" in error.message:
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
        return {"rules": [text(row, "SecurityGroupRuleId") for row in answer.get("SecurityGroupRules") or ()]}
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
        *ROLE_KINDS,
        Kind(name=ASSOCIATE, look=look_association, apply=apply_association),
        Kind(name=EGRESS, look=look_egress, apply=apply_egress),
    )
}
