"""Kinds of changes of IAM: an inline policy on a host's role, and a role and instance profile of our own.

Each is one call, so that a run that is killed leaves whole changes, and an undo knows all of them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

from haltuun.errors import AwsError, HaltuunError, NotFound
from haltuun.model import Change, Json, StageName, Unknown
from haltuun.run import Run
from haltuun.sharing import FRESH_S
from haltuun.stages.base import Kind
from haltuun.stages.discover.account import plain
from haltuun.stages.polling import SETTLES_S, poll
from haltuun.stages.tags import managed_tags
from haltuun.stages.verify.account import get_attached, get_inline
from haltuun.stages.verify.needs import OWN_ROLE, POLICY_NAME
from haltuun.stages.verify.parse_account import digest, parse_own, parse_own_profile, trust_of
from haltuun.stages.verify.plan import ASSOCIATE, POLICY, PROFILE, PROFILE_ROLE, ROLE

# Until the simulator does.
SIMULATED_S = 90.0
PROFILE_NAME = {"InstanceProfileName": OWN_ROLE}
USERS = ("profile users",)  # as a read that is shared
NAMED = 5  # instances that are named where a profile stays for them


def _iam(run: Run, operation: str, **parameters: Any) -> dict[str, Any]:
    return run.aws.call("iam", operation, run.aws.home_region, **parameters)


def _found(run: Run, operation: str, key: str, **parameters: Any) -> Json:
    """None where it is not there."""
    try:
        return plain(_iam(run, operation, **parameters)[key])
    except NotFound:
        return None


def _settled(call: Callable[[], object], unsettled: str) -> None:
    """Make the call, again while IAM answers with the error `unsettled`: it may not see yet what was changed
    right before."""

    def attempt() -> AwsError | None:
        try:
            call()
        except AwsError as error:
            return error
        return None

    error = poll(attempt, lambda error: error is None or error.code != unsettled, SETTLES_S)
    if error is not None:
        raise error


# -- iam.role.policy -------------------------------------------------------------------------------


def look_policy(run: Run, change: Change) -> Json | Unknown:
    named = {"RoleName": change.target, "PolicyName": POLICY_NAME}
    policy = run.aws.ask(lambda: _found(run, "GetRolePolicy", "PolicyDocument", **named))
    return policy if isinstance(policy, Unknown) else {"policy": policy}


def apply_policy(run: Run, change: Change) -> Json:
    policy = change.after["policy"]
    if policy is None:
        delete_policy(run, change.target)
        return None
    put_policy(run, change.target, policy)
    if change.detail and change.detail.get("role_arn"):
        role_arn = change.detail["role_arn"]
        poll(lambda: _may_report(run, role_arn), bool, SIMULATED_S)
    return None


def put_policy(run: Run, role: str, policy: Json) -> None:
    named = {"RoleName": role, "PolicyName": POLICY_NAME, "PolicyDocument": json.dumps(policy)}
    # Of a predecessor's role that is not there it is the truth.
    unsettled = "NoSuchEntity" if role == OWN_ROLE else ""
    try:
        _settled(lambda: _iam(run, "PutRolePolicy", **named), unsettled)
    except AwsError as error:
        if error.code != "LimitExceeded":
            raise
        raise _too_large(role) from error


def delete_policy(run: Run, role: str) -> None:
    with contextlib.suppress(NotFound):
        _iam(run, "DeleteRolePolicy", RoleName=role, PolicyName=POLICY_NAME)


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
    return isinstance(rows, Unknown) or any(row.get("EvalDecision") != "implicitDeny" for row in rows)


# -- iam.role: our own -----------------------------------------------------------------------------


def look_role(run: Run, change: Change) -> Json | Unknown:
    role = run.aws.ask(lambda: _role(run))
    return role if isinstance(role, Unknown) else {"role": parse_own(role), "trust": trust_of(role)}


def _role(run: Run) -> Json:
    return _found(run, "GetRole", "Role", RoleName=OWN_ROLE)


def apply_role(run: Run, change: Change) -> Json:
    if change.after["role"] == "absent":
        delete_role(run)
    else:
        create_role(run, change.detail["trust"])
    return None


def create_role(run: Run, trust: Json) -> None:
    body = {
        "RoleName": OWN_ROLE,
        "AssumeRolePolicyDocument": json.dumps(trust),
        "Description": "Made by Haltuun: EC2 hosts report to Systems Manager and ship logs",
        "Tags": managed_tags(),
    }
    _iam(run, "CreateRole", **body)


def delete_role(run: Run) -> None:
    """IAM refuses while policies are attached to it, whoever did that."""
    with contextlib.suppress(NotFound):
        _settled(lambda: _iam(run, "DeleteRole", RoleName=OWN_ROLE), "DeleteConflict")


# -- iam.instance_profile.create: our own, empty ---------------------------------------------------


def look_profile(run: Run, change: Change) -> Json | Unknown:
    profile = run.aws.ask(lambda: _profile(run))
    return profile if isinstance(profile, Unknown) else {"profile": parse_own(profile)}


def _profile(run: Run) -> Json:
    return _found(run, "GetInstanceProfile", "InstanceProfile", **PROFILE_NAME)


def apply_profile(run: Run, change: Change) -> Json:
    if change.after["profile"] == "absent":
        delete_profile(run)
    else:
        create_profile(run)
    return None


def create_profile(run: Run) -> None:
    _iam(run, "CreateInstanceProfile", Tags=managed_tags(), **PROFILE_NAME)


def delete_profile(run: Run) -> None:
    with contextlib.suppress(NotFound):
        _settled(lambda: _iam(run, "DeleteInstanceProfile", **PROFILE_NAME), "DeleteConflict")


# -- iam.instance_profile.role: our role in our profile --------------------------------------------


def look_profile_role(run: Run, change: Change) -> Json | Unknown:
    profile = run.aws.ask(lambda: _profile(run))
    if isinstance(profile, Unknown):
        return profile
    if parse_own(profile) == "foreign":
        return {"not_ours": OWN_ROLE}
    return {"role": _role_in(profile)}


def _role_in(profile: Json) -> str | None:
    """A profile holds one at most (IAM quotas)."""
    return next((role["RoleName"] for role in (profile or {}).get("Roles") or ()), None)


def apply_profile_role(run: Run, change: Change) -> Json:
    if change.after["role"] is None:
        remove_role(run)
    else:
        add_role(run)
    return None


def add_role(run: Run) -> None:
    both = {**PROFILE_NAME, "RoleName": OWN_ROLE}
    try:
        _settled(lambda: _iam(run, "AddRoleToInstanceProfile", **both), "NoSuchEntity")
    except AwsError as error:
        # One role is all that it holds: ours, where botocore sent the call again as its answer was lost.
        if error.code != "LimitExceeded":
            raise
        if poll(lambda: _role_in(_profile(run)), bool, SETTLES_S) != OWN_ROLE:
            raise


def remove_role(run: Run) -> None:
    with contextlib.suppress(NotFound):
        _iam(run, "RemoveRoleFromInstanceProfile", RoleName=OWN_ROLE, **PROFILE_NAME)


# -- iam.instance_profile: of ledgers only ---------------------------------------------------------
# Earlier versions made role, policy and profile one change of this kind. None is planned any more; it is here
# so that runs which an earlier version made can be undone, and such an undo in turn.

WHOLE = "iam.instance_profile"


def look_whole(run: Run, change: Change) -> Json | Unknown:
    """What an interrupted one has left on its way to `after` counts as `before`: it goes on from there."""
    role, profile = run.aws.ask(lambda: _role(run)), run.aws.ask(lambda: _profile(run))
    inline = get_inline(run.aws, OWN_ROLE)
    for seen in (role, profile, inline):
        if isinstance(seen, Unknown):
            return seen
    there: dict[str, Json] = {
        "role": parse_own(role),
        "profile": parse_own_profile(profile),
        "policy": digest(inline),
        "trust": trust_of(role),
    }
    before, after = change.before, change.after
    emptied = there["profile"] == "empty" and before["profile"] != after["profile"]
    between = all(
        there[part] in (before[part], after[part]) or (part == "profile" and emptied) for part in there
    )
    return before if between and there != after else there


def apply_whole(run: Run, change: Change) -> Json:
    wants, detail, profile = change.after, change.detail or {}, _profile(run)
    if wants["profile"] != "ours" and _role_in(profile):
        remove_role(run)
    if wants["profile"] == "absent" and profile:
        delete_profile(run)
    if wants["role"] == "absent":
        if get_inline(run.aws, OWN_ROLE):
            delete_policy(run, OWN_ROLE)
        delete_role(run)
    elif change.before["role"] == "absent":
        if _role(run) is None:
            create_role(run, detail["trust"])
        put_policy(run, OWN_ROLE, detail["policy"])
    if wants["profile"] == "ours":
        if profile is None:
            create_profile(run)
        if not _role_in(profile):
            add_role(run)
    return None


# -- what an undo keeps ----------------------------------------------------------------------------


def keeps_used(run: Run, change: Change) -> str | Unknown:
    """IAM empties and deletes a profile that instances have, and breaks what runs on them (IAM API reference,
    RemoveRoleFromInstanceProfile, DeleteInstanceProfile): so nothing of it goes while one has it.

    `change.hosts` are to lose it before. It is looked for where the account is looked at (`regions`).
    """
    if change.target != OWN_ROLE or not any(
        value in (None, "absent", "empty") for value in change.after.values()
    ):
        return ""

    # One read of all regions serves all that an undo asks of.
    fresh_s = chain([FRESH_S], repeat(0.0))

    def users() -> dict[str, str] | Unknown:
        return run.shared.get(USERS, "", lambda: run.aws.ask(lambda: _users(run)), fresh_s=next(fresh_s))

    # EC2 may still tell of what this run has just taken off.
    seen = poll(users, lambda seen: isinstance(seen, Unknown) or not _just_freed(run, seen), SETTLES_S)
    if change.kind in (ROLE, POLICY, WHOLE) and not isinstance(seen, Unknown):
        others = run.aws.ask(lambda: _other_uses(run))
        if isinstance(others, Unknown):
            return Unknown(unknown=f"Whether others use the role could not be read ({others.unknown}).")
        if others:
            return f"Somebody has put it to use: {', '.join(others)}."
    if isinstance(seen, Unknown):
        return Unknown(unknown=f"Whether an instance has its profile could not be read ({seen.unknown}).")
    left = sorted(seen.keys() - set(change.hosts))
    if not left:
        return ""
    known = run.ledger.hosts(run.account.id)
    named = [f"{known[i].label if i in known else i} ({seen[i]})" for i in left[:NAMED]]
    more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
    return f"In use by {', '.join(named)}{more}: it would break what runs there."


def _other_uses(run: Run) -> list[str]:
    """What somebody has made of our role: other profiles that hold it, other policies on it."""

    def listed(operation: str, key: str) -> list[Any]:
        return run.aws.pages("iam", operation, key, run.aws.home_region, RoleName=OWN_ROLE)

    try:
        profiles = [
            p["InstanceProfileName"] for p in listed("ListInstanceProfilesForRole", "InstanceProfiles")
        ]
        attached = [p["PolicyName"] for p in listed("ListAttachedRolePolicies", "AttachedPolicies")]
        inline = listed("ListRolePolicies", "PolicyNames")
    except NotFound:
        return []
    return [
        *(f"the instance profile {name} has it" for name in profiles if name != OWN_ROLE),
        *(f"the policy {name} is attached to it" for name in attached),
        *(f"the inline policy {name} is in it" for name in inline if name != POLICY_NAME),
    ]


def _users(run: Run) -> dict[str, str] | Unknown:
    """Instance id → region, of all that have our profile; unknown where one's profile is."""
    found: dict[str, str] = {}
    for region in run.aws.regions():
        for instance_id, arn in get_attached(run.aws, region).items():
            if isinstance(arn, Unknown):
                return arn
            if arn.rsplit("/", 1)[-1] == OWN_ROLE:
                found[instance_id] = region
    return found


def _just_freed(run: Run, users: dict[str, str]) -> bool:
    return any((StageName.verify, ASSOCIATE, "confirmed") in run.did(instance_id) for instance_id in users)


ROLE_KINDS = (
    Kind(name=ROLE, look=look_role, apply=apply_role, keeps=keeps_used),
    Kind(name=POLICY, look=look_policy, apply=apply_policy, keeps=keeps_used),
    Kind(name=PROFILE, look=look_profile, apply=apply_profile, keeps=keeps_used),
    Kind(name=PROFILE_ROLE, look=look_profile_role, apply=apply_profile_role, keeps=keeps_used),
    Kind(name=WHOLE, look=look_whole, apply=apply_whole, keeps=keeps_used),
)
