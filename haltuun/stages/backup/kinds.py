"""Role, vault, plan, selection: found by name, made, changed, removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from haltuun.aws import tags_of
from haltuun.errors import AwsError, HaltuunError, NotFound
from haltuun.model import Change, Json, Unknown
from haltuun.run import Run
from haltuun.stages.backup.jobs import ARM, JOB, ROLE_SETTLES_S, is_role_unsettled
from haltuun.stages.backup.names import (
    COMPLETION_WINDOW_MINUTES,
    PLAN,
    ROLE,
    RULE,
    SERVICE,
    START_WINDOW_MINUTES,
    VAULT,
    policy_arn,
    role_arn,
)
from haltuun.stages.base import Kind
from haltuun.stages.own import ABSENT, MADE_BY, Own, as_value, get_own, is_ours, surely
from haltuun.stages.pages import text
from haltuun.stages.polling import poll
from haltuun.stages.tags import MANAGED, TAG, managed_tags

ROLE_VALUE: Json = {"trusts": SERVICE}


# -- the role ------------------------------------------------------------------------------------


def get_role(run: Run, region: str, name: str = ROLE) -> Own | Unknown:
    def question() -> Own:
        role = run.aws.call("iam", "GetRole", region, RoleName=name)["Role"]
        if is_ours(tags_of(role), role.get("Description") or "") is not True:
            return Own(state="foreign", id=role["Arn"])
        return Own(state="ours", id=role["Arn"], value={"trusts": _trusted(role)})

    return get_own(run, question)


def _trusted(role: Mapping[str, Any]) -> str:
    document = role.get("AssumeRolePolicyDocument") or {}
    if isinstance(document, str):
        document = json.loads(document)
    services = [
        statement.get("Principal", {}).get("Service")
        for statement in document.get("Statement") or ()
        if isinstance(statement.get("Principal"), dict)
    ]
    return ",".join(str(service) for service in services)


def apply_role(run: Run, change: Change) -> Json:
    if change.after is None:
        run.aws.call("iam", "DeleteRole", change.region, RoleName=change.target)
        return None
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": SERVICE}, "Action": "sts:AssumeRole"}],
    }
    made = run.aws.call(
        "iam",
        "CreateRole",
        change.region,
        RoleName=change.target,
        AssumeRolePolicyDocument=json.dumps(trust),
        Description=f"{MADE_BY} AWS Backup acts with it.",
        Tags=managed_tags(),
    )
    return {"arn": text(made.get("Role"), "Arn")}


def get_role_policy(run: Run, region: str, name: str) -> Own | Unknown:
    """Is the AWS managed policy `name` attached to our role?"""

    def question() -> Own:
        attached = run.aws.pages("iam", "ListAttachedRolePolicies", "AttachedPolicies", region, RoleName=ROLE)
        found = next((policy for policy in attached if policy["PolicyName"] == name), None)
        return Own(state="ours", id=found["PolicyArn"], value={"attached_to": ROLE}) if found else ABSENT

    return get_own(run, question)


def apply_role_policy(run: Run, change: Change) -> Json:
    operation = "AttachRolePolicy" if change.after else "DetachRolePolicy"
    arn = policy_arn(run.aws.partition, change.target)
    run.aws.call("iam", operation, change.region, RoleName=ROLE, PolicyArn=arn)
    return {"policy": arn}


# -- the vault -----------------------------------------------------------------------------------


def _tags(run: Run, region: str, arn: str) -> dict[str, str] | Unknown:
    return run.aws.ask(
        lambda: dict(run.aws.call("backup", "ListTags", region, ResourceArn=arn).get("Tags") or {})
    )


def get_vault(run: Run, region: str, name: str = VAULT) -> Own | Unknown:
    def question() -> Own | Unknown:
        # Not DescribeBackupVault: of a vault that is not there it says AccessDenied.
        vaults = run.aws.pages("backup", "ListBackupVaults", "BackupVaultList", region)
        found = next((vault for vault in vaults if vault["BackupVaultName"] == name), None)
        if found is None:
            return ABSENT
        return _own(run, region, found["BackupVaultArn"], {"vault": name})

    return get_own(run, question)


def _own(run: Run, region: str, arn: str, value: Json) -> Own | Unknown:
    """Ours by its tag: these APIs have no description to tell by."""
    ours = is_ours(_tags(run, region, arn))
    if isinstance(ours, Unknown):
        return ours
    return Own(state="ours", id=arn, value=value) if ours else Own(state="foreign", id=arn)


def apply_vault(run: Run, change: Change) -> Json:
    if change.after is None:
        run.aws.call("backup", "DeleteBackupVault", change.region, BackupVaultName=change.target)
        return None
    made = run.aws.call(
        "backup",
        "CreateBackupVault",
        change.region,
        BackupVaultName=change.target,
        BackupVaultTags={MANAGED: "true"},
        CreatorRequestId=change.id,
    )
    return {"arn": text(made, "BackupVaultArn")}


def keeps_vault(run: Run, change: Change) -> str | Unknown:
    """A vault with recovery points in it is not deleted; AWS refuses that, too."""
    if change.after is not None:
        return ""
    points = run.aws.ask(
        lambda: run.aws.pages(
            "backup",
            "ListRecoveryPointsByBackupVault",
            "RecoveryPoints",
            change.region,
            BackupVaultName=change.target,
        )
    )
    if isinstance(points, Unknown):
        return Unknown(unknown=f"Whether it holds recovery points could not be read ({points.unknown}).")
    return f"It holds {len(points)} recovery point(s)." if points else ""


# -- the plan ------------------------------------------------------------------------------------


def _find_plan(run: Run, region: str) -> Mapping[str, Any] | None:
    plans = run.aws.pages("backup", "ListBackupPlans", "BackupPlansList", region)
    found = [plan for plan in plans if plan["BackupPlanName"] == PLAN and not plan.get("DeletionDate")]
    return found[0] if found else None


def get_plan(run: Run, region: str, name: str = PLAN) -> Own | Unknown:
    def question() -> Own | Unknown:
        found = _find_plan(run, region)
        if found is None:
            return ABSENT
        own = _own(run, region, found["BackupPlanArn"], None)
        if isinstance(own, Unknown) or own.state == "foreign":
            return own
        rules = _body(run, region, found)["Rules"]
        return Own(state="ours", id=found["BackupPlanId"], value=_rule_value(_our_rule(rules)))

    return get_own(run, question)


def _our_rule(rules: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((rule for rule in rules if rule.get("RuleName") == RULE), {})


def _rule_value(rule: Mapping[str, Any]) -> Json:
    """Of our rule, which a person may have taken out of the plan: then all is None."""
    return {
        "vault": rule.get("TargetBackupVaultName"),
        "schedule": rule.get("ScheduleExpression"),
        "delete_after_days": (rule.get("Lifecycle") or {}).get("DeleteAfterDays"),
    }


def _body(run: Run, region: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as UpdateBackupPlan takes it: what it does not name is deleted, and RuleId is output only."""
    answer = run.aws.call("backup", "GetBackupPlan", region, BackupPlanId=found["BackupPlanId"])
    body: dict[str, Any] = dict(answer["BackupPlan"])
    body["Rules"] = [
        {key: value for key, value in rule.items() if key != "RuleId"} for rule in body.get("Rules") or ()
    ]
    return body


def with_our_rule(rules: Sequence[Mapping[str, Any]], value: Json) -> list[dict[str, Any]]:
    """The plan's rules with ours as `value` says; others, and what else stands in ours, are kept."""
    others = [dict(rule) for rule in rules if rule.get("RuleName") != RULE]
    if value["vault"] is None:
        return others
    there = _our_rule(rules)
    windows = {
        "StartWindowMinutes": START_WINDOW_MINUTES,
        "CompletionWindowMinutes": COMPLETION_WINDOW_MINUTES,
    }
    ours = {
        "RuleName": RULE,
        "TargetBackupVaultName": value["vault"],
        "ScheduleExpression": value["schedule"],
        "Lifecycle": {**(there.get("Lifecycle") or {}), "DeleteAfterDays": value["delete_after_days"]},
    }
    return [{**windows, **there, **ours}, *others]


def apply_plan(run: Run, change: Change) -> Json:
    found = _find_plan(run, change.region)
    body: dict[str, Any] = {"BackupPlanName": PLAN, "Rules": []}
    if found:
        body = _body(run, change.region, found)
    if change.after is None:
        others = [str(rule.get("RuleName")) for rule in body["Rules"] if rule.get("RuleName") != RULE]
        if others:
            raise HaltuunError(
                f"the backup plan {PLAN} holds rules that Haltuun did not make ({', '.join(others)}).",
                subject=change.region,
                remedy=f"Delete the rule '{RULE}' by hand, or the whole plan if the others may go.",
                code="PLAN_STALE",
                unchanged=True,
            )
        if found:
            run.aws.call("backup", "DeleteBackupPlan", change.region, BackupPlanId=found["BackupPlanId"])
        return None
    body["Rules"] = with_our_rule(body["Rules"], change.after)
    if found:
        plan_id = found["BackupPlanId"]
        run.aws.call("backup", "UpdateBackupPlan", change.region, BackupPlanId=plan_id, BackupPlan=body)
        return {"plan_id": plan_id}
    made = run.aws.call(
        "backup",
        "CreateBackupPlan",
        change.region,
        BackupPlan=body,
        BackupPlanTags={MANAGED: "true"},
        CreatorRequestId=f"{change.id}-{run.id}",
    )
    return {"plan_id": text(made, "BackupPlanId")}


# -- the selection -------------------------------------------------------------------------------


def get_selection(run: Run, region: str, name: str) -> Own | Unknown:
    """The selection of that name in our plan; what stands in our plan is ours."""

    def question() -> Own:
        plan = _find_plan(run, region)
        if plan is None:
            return ABSENT
        plan_id = plan["BackupPlanId"]
        listed = run.aws.pages(
            "backup", "ListBackupSelections", "BackupSelectionsList", region, BackupPlanId=plan_id
        )
        found = next((selection for selection in listed if selection["SelectionName"] == name), None)
        if found is None:
            return ABSENT
        answer = run.aws.call(
            "backup",
            "GetBackupSelection",
            region,
            BackupPlanId=plan_id,
            SelectionId=found["SelectionId"],
        )
        return Own(state="ours", id=found["SelectionId"], value=_selection(answer["BackupSelection"]))

    return get_own(run, question)


def _selection(body: Mapping[str, Any]) -> Json:
    """What we set; `others` is what somebody set beside, so that it can be given back as it was."""
    conditions = body.get("Conditions") or {}
    others = {
        "Conditions": {key: rows for key, rows in conditions.items() if rows and key != "StringEquals"},
        **{key: body[key] for key in ("ListOfTags", "NotResources") if body.get(key)},
    }
    others = {key: value for key, value in others.items() if value}
    return {
        "resources": sorted(body.get("Resources") or ()),
        "conditions": [
            [c["ConditionKey"], c["ConditionValue"]] for c in conditions.get("StringEquals") or ()
        ],
        **({"others": others} if others else {}),
    }


def apply_selection(run: Run, change: Change) -> Json:
    plan = _find_plan(run, change.region)
    if plan is None:
        raise NotFound("the backup plan is not there.", subject=PLAN, remedy="Plan again.")
    seen = surely(get_selection(run, change.region, change.target), change.target)
    if seen.state == "ours":
        # There is no UpdateBackupSelection. Earlier versions took one away and made it anew in one change,
        # and its undo does so, too.
        run.aws.call(
            "backup",
            "DeleteBackupSelection",
            change.region,
            BackupPlanId=plan["BackupPlanId"],
            SelectionId=seen.id,
        )
    if change.after is None:
        return None
    others = change.after.get("others") or {}
    body = {
        "SelectionName": change.target,
        "IamRoleArn": role_arn(run.aws.partition, run.aws.account_id),
        "Resources": change.after["resources"],
        **others,
        "Conditions": {
            "StringEquals": [
                {"ConditionKey": key, "ConditionValue": value} for key, value in change.after["conditions"]
            ],
            **(others.get("Conditions") or {}),
        },
    }

    def attempt() -> dict[str, Any] | AwsError:
        try:
            return run.aws.call(
                "backup",
                "CreateBackupSelection",
                change.region,
                BackupPlanId=plan["BackupPlanId"],
                BackupSelection=body,
                CreatorRequestId=f"{change.id}-{run.id}",
            )
        except AwsError as error:
            return error

    made = poll(attempt, lambda answer: not is_role_unsettled(answer), ROLE_SETTLES_S)
    if isinstance(made, AwsError):
        raise made
    return {"selection_id": text(made, "SelectionId")}


def _kind(name: str, get: Any, apply: Any, **more: Any) -> Kind:
    return Kind(
        name=name,
        look=lambda run, change: as_value(get(run, change.region, change.target)),
        apply=apply,
        **more,
    )


BACKUP_ROLE = _kind("backup.role", get_role, apply_role)
BACKUP_ROLE_POLICY = _kind("backup.role.policy", get_role_policy, apply_role_policy)
BACKUP_VAULT = _kind("backup.vault", get_vault, apply_vault, keeps=keeps_vault)
BACKUP_PLAN = _kind("backup.plan", get_plan, apply_plan)
BACKUP_SELECTION = _kind("backup.selection", get_selection, apply_selection)

KINDS = {
    kind.name: kind
    for kind in (
        BACKUP_ROLE,
        BACKUP_ROLE_POLICY,
        BACKUP_VAULT,
        BACKUP_PLAN,
        BACKUP_SELECTION,
        JOB,
        ARM,
        TAG,
    )
}
