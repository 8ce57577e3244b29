"""The evaluation of policies, in itself and through SimulatePrincipalPolicy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lab.cloud.policy import Decision, document, evaluate, trusts
from tests.lab.cloud_kit import Account, emulated_account


def decide(*statements: dict[str, Any], action: str = "ssm:GetParameter", **more: Any) -> Decision:
    rows = [{"Effect": "Allow", "Resource": "*"} | row for row in statements]
    policy = document("p", "IAM Policy", {"Version": "2012-10-17", "Statement": rows})
    return evaluate([policy], action, **more)


@pytest.mark.parametrize(
    ("statement", "resource", "value"),
    [
        ({"Action": "ssm:GetParameter"}, "*", "allowed"),
        ({"Action": "SSM:getparameter"}, "*", "allowed"),
        ({"Action": ["ssm:Get*"]}, "*", "allowed"),
        ({"Action": "ssm:Get?arameter"}, "*", "allowed"),
        ({"Action": "ssm:PutParameter"}, "*", "implicitDeny"),
        ({"NotAction": "ec2:*"}, "*", "allowed"),
        ({"NotAction": ["ssm:*"]}, "*", "implicitDeny"),
        ({"Action": "*", "Resource": "arn:a:b/*"}, "arn:a:b/c", "allowed"),
        ({"Action": "*", "Resource": "arn:a:b/*"}, "arn:a:x/c", "implicitDeny"),
        ({"Action": "*", "Resource": "arn:a:B/*"}, "arn:a:b/c", "implicitDeny"),
        ({"Action": "*", "NotResource": "arn:a:b/*"}, "arn:a:b/c", "implicitDeny"),
        ({"Action": "*", "NotResource": "arn:a:b/*"}, "arn:a:x/c", "allowed"),
    ],
)
def test_actions_and_resources(statement: dict[str, Any], resource: str, value: str) -> None:
    if "NotResource" in statement:
        policy = document("p", "IAM Policy", {"Statement": {"Effect": "Allow"} | statement})
        assert evaluate([policy], "ssm:GetParameter", resource).value == value
    else:
        assert decide(statement, resource=resource).value == value


def test_an_explicit_deny_wins() -> None:
    found = decide({"Action": "*"}, {"Effect": "Deny", "Action": "ssm:*"})
    assert found.value == "explicitDeny"
    assert [match.policy for match in found.matched] == ["p"]


@pytest.mark.parametrize(
    ("condition", "context", "value"),
    [
        ({"StringEquals": {"aws:RequestedRegion": ["eu-central-1"]}}, ["eu-central-1"], "allowed"),
        ({"StringEquals": {"aws:requestedregion": "eu-central-1"}}, ["us-east-1"], "implicitDeny"),
        ({"StringLike": {"aws:RequestedRegion": "eu-*"}}, ["eu-west-1"], "allowed"),
        ({"StringNotEquals": {"aws:RequestedRegion": "us-east-1"}}, ["eu-west-1"], "allowed"),
        ({"StringNotEquals": {"aws:RequestedRegion": "us-east-1"}}, ["us-east-1"], "implicitDeny"),
        ({"StringEqualsIfExists": {"aws:RequestedRegion": "eu-west-1"}}, None, "allowed"),
        ({"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}, None, "implicitDeny"),
        ({"Null": {"aws:RequestedRegion": "true"}}, None, "allowed"),
        ({"Null": {"aws:RequestedRegion": "true"}}, ["x"], "implicitDeny"),
        ({"IpAddress": {"aws:RequestedRegion": "10.0.0.0/8"}}, ["10.1.2.3"], "allowed"),
        ({"NumericLessThan": {"aws:RequestedRegion": "5"}}, ["4"], "allowed"),
        ({"ForAllValues:StringEquals": {"aws:RequestedRegion": ["a", "b"]}}, ["a", "c"], "implicitDeny"),
        ({"ForAnyValue:StringEquals": {"aws:RequestedRegion": ["a", "b"]}}, ["a", "c"], "allowed"),
        ({"Whatever": {"aws:RequestedRegion": "x"}}, ["x"], "implicitDeny"),
    ],
)
def test_conditions(condition: dict[str, Any], context: list[str] | None, value: str) -> None:
    known = {"aws:RequestedRegion": context} if context else {}
    found = decide({"Action": "*", "Condition": condition}, context=known)
    assert found.value == value
    if context is None and "Null" not in condition:
        assert found.missing_context == ["aws:RequestedRegion"]


def test_variables_are_filled_from_the_context() -> None:
    statement = {"Action": "*", "Resource": "arn:a:b/${aws:username}/*"}
    assert decide(statement, resource="arn:a:b/jo/x", context={"aws:username": ["jo"]}).allowed
    assert not decide(statement, resource="arn:a:b/al/x", context={"aws:username": ["jo"]}).allowed
    assert not decide(statement, resource="arn:a:b/jo/x").allowed


def test_a_boundary_has_to_allow_as_well() -> None:
    policy = document("p", "IAM Policy", {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})
    narrow = {"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}
    found = evaluate([policy], "ssm:GetParameter", boundary=[document("b", "Permissions Boundary", narrow)])
    assert (found.value, found.boundary_allows) == ("implicitDeny", False)
    assert evaluate([policy], "ssm:GetParameter", boundary=[]).value == "implicitDeny"


def test_trust() -> None:
    text = {"Statement": {"Effect": "Allow", "Principal": {"Service": ["a.com", "b.com"]}, "Action": "sts:*"}}
    assert trusts(text, "b.com")
    assert not trusts(json.dumps(text), "c.com")


@pytest.fixture
def account() -> Iterator[Account]:
    with emulated_account() as found:
        yield found


@pytest.fixture
def role(account: Account) -> str:
    trust = {"Statement": {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "*"}}
    iam = account.client("iam")
    made = iam.create_role(RoleName="web", AssumeRolePolicyDocument=json.dumps(trust))
    arn = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
    iam.attach_role_policy(RoleName="web", PolicyArn=arn)
    return str(made["Role"]["Arn"])


def policy(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def simulate(account: Account, arn: str, *actions: str, **more: Any) -> list[dict[str, Any]]:
    pages = account.client("iam").get_paginator("simulate_principal_policy")
    asked = pages.paginate(PolicySourceArn=arn, ActionNames=list(actions), **more)
    return [row for page in asked for row in page["EvaluationResults"]]


def test_the_simulator_reads_attached_inline_and_boundary(account: Account, role: str) -> None:
    iam = account.client("iam")
    rows = simulate(account, role, "ssm:UpdateInstanceInformation", "logs:PutLogEvents")
    assert [row["EvalDecision"] for row in rows] == ["allowed", "implicitDeny"]
    assert rows[0]["MatchedStatements"][0]["SourcePolicyId"] == "AmazonSSMManagedInstanceCore"
    deny = policy({"Effect": "Deny", "Action": "ssm:Update*", "Resource": "*"})
    iam.put_role_policy(RoleName="web", PolicyName="no", PolicyDocument=deny)
    assert simulate(account, role, "ssm:UpdateInstanceInformation")[0]["EvalDecision"] == "explicitDeny"
    iam.delete_role_policy(RoleName="web", PolicyName="no")
    iam.put_role_permissions_boundary(
        RoleName="web", PermissionsBoundary="arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
    )
    row = simulate(account, role, "ssm:UpdateInstanceInformation")[0]
    assert row["EvalDecision"] == "implicitDeny"
    assert row["PermissionsBoundaryDecisionDetail"] == {"AllowedByPermissionsBoundary": False}


def test_each_pair_of_action_and_resource_is_answered_and_paged(account: Account, role: str) -> None:
    arns = [f"arn:aws:ssm:eu-central-1:111122223333:parameter/p{number}" for number in range(4)]
    actions = ("ssm:GetParameter", "ssm:PutParameter", "ssm:GetParameters")
    rows = simulate(account, role, *actions, ResourceArns=arns, PaginationConfig={"PageSize": 5})
    assert len(rows) == 12
    pairs = {(row["EvalActionName"], row["EvalResourceName"]): row["EvalDecision"] for row in rows}
    assert pairs["ssm:GetParameter", arns[3]] == "allowed"
    assert pairs["ssm:PutParameter", arns[0]] == "implicitDeny"


def test_context_entries_are_used(account: Account, role: str) -> None:
    allow = {
        "Effect": "Allow",
        "Action": "ec2:StopInstances",
        "Resource": "*",
        "Condition": {"StringEquals": {"aws:RequestedRegion": "eu-central-1"}},
    }
    account.client("iam").put_role_policy(RoleName="web", PolicyName="stop", PolicyDocument=policy(allow))
    row = simulate(account, role, "ec2:StopInstances")[0]
    assert (row["EvalDecision"], row["MissingContextValues"]) == ("implicitDeny", ["aws:RequestedRegion"])
    entry = {
        "ContextKeyName": "aws:RequestedRegion",
        "ContextKeyType": "string",
        "ContextKeyValues": ["eu-central-1"],
    }
    assert (
        simulate(account, role, "ec2:StopInstances", ContextEntries=[entry])[0]["EvalDecision"] == "allowed"
    )


def test_users_have_their_groups_policies(account: Account) -> None:
    iam = account.client("iam")
    arn = iam.create_user(UserName="jo")["User"]["Arn"]
    iam.create_group(GroupName="ops")
    iam.attach_group_policy(GroupName="ops", PolicyArn="arn:aws:iam::aws:policy/AmazonSSMReadOnlyAccess")
    assert simulate(account, arn, "ssm:DescribeDocument")[0]["EvalDecision"] == "implicitDeny"
    iam.add_user_to_group(GroupName="ops", UserName="jo")
    assert simulate(account, arn, "ssm:DescribeDocument")[0]["EvalDecision"] == "allowed"


def test_a_principal_that_is_not_there(account: Account) -> None:
    with pytest.raises(ClientError, match="NoSuchEntity"):
        simulate(account, "arn:aws:iam::111122223333:role/nobody", "ssm:GetParameter")
    with pytest.raises(ClientError, match="InvalidInput"):
        simulate(account, "arn:aws:sts::111122223333:assumed-role/a/b", "ssm:GetParameter")
