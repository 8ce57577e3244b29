"""Every statement is one that AWS understands, and what is strong in it is known and has a reason."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from deployments.iam.policies import HERE, Declared, declared
from haltuun.stages.verify.needs import own_policy
from tests.policies.lint import Issue, Level, arns_of, fits, lint

# Reading more than one thing is what a survey of an unknown account is for.
AGREED = Level.low


def strong(issues: list[Issue]) -> list[Issue]:
    return [issue for issue in issues if issue.level > AGREED]


def accepted() -> dict[tuple[str, str], str]:
    """(statement, code) → reason."""
    rows = yaml.safe_load((HERE / "accepted.yaml").read_text(encoding="utf-8"))
    return {(row["sid"], code): row["reason"] for row in rows for code in row["codes"]}


def everything() -> list[Issue]:
    """Of the operator's two policies and of the instances' one."""
    own = own_policy("aws", "111122223333")
    return [*lint(declared()), *lint(statements(*own["Statement"]))]


def test_nothing_is_stronger_than_agreed_but_what_is_listed_with_its_reason() -> None:
    found = strong(everything())
    assert [issue for issue in found if (issue.sid, issue.code) not in accepted()] == []
    assert all(issue.level < Level.broken for issue in found), "what AWS refuses is not to be accepted"


def test_every_accepted_finding_is_still_one_and_has_a_reason() -> None:
    found = {(issue.sid, issue.code) for issue in everything()}
    assert accepted().keys() - found == set()
    assert all(len(reason) > 20 for reason in accepted().values())


def statements(*made: dict[str, Any]) -> Declared:
    return Declared.model_validate(
        {
            "free": [],
            "statements": [
                {
                    "sid": one.get("Sid", f"S{number}"),
                    "access": "write",
                    "why": "",
                    "resources": listed(one["Resource"]),
                    "actions": listed(one["Action"]),
                    "condition": one.get("Condition"),
                }
                for number, one in enumerate(made)
            ],
        }
    )


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


INSTANCE = "arn:${AWS::Partition}:ec2:*:${AWS::AccountId}:instance/*"
ROLE = "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/x"


@pytest.mark.parametrize(
    ("actions", "resource", "condition", "expected"),
    [
        (["ec2:CreateTagz"], INSTANCE, None, "UNKNOWN_ACTION"),
        (["ec2:CreateTags", "ssm:PutParameter"], INSTANCE, None, "NO_RESOURCE_FITS"),
        (["ec2:DescribeVolumes"], INSTANCE, None, "TAKES_NO_RESOURCE"),
        (["ec2:CreateTags"], [INSTANCE, ROLE], None, "RESOURCE_OF_NO_ACTION"),
        (["ec2:CreateTags"], INSTANCE, {"ArnEquals": {"iam:PolicyARN": "x"}}, "NO_SUCH_CONDITION"),
        (["ec2:AssociateIamInstanceProfile"], INSTANCE, None, "DEPENDENT_NOT_DECLARED"),
        (["ec2:DeleteTags"], "*", None, "TAGGING_ON_EVERYTHING"),
        (["ssm:DeleteDocument"], "*", None, "WRITE_ON_EVERYTHING"),
        (["iam:PutRolePolicy"], ROLE, None, "PRIVILEGE_ESCALATION"),
        (["kms:CreateGrant"], "arn:aws:kms:*:111122223333:key/*", None, "RESOURCE_EXPOSURE"),
        (["iam:CreateAccessKey"], "arn:aws:iam::111122223333:user/x", None, "CREDENTIALS_EXPOSURE"),
    ],
)
def test_a_mistake_is_found(actions: list[str], resource: Any, condition: Any, expected: str) -> None:
    made = statements({"Action": actions, "Resource": resource, "Condition": condition})
    assert expected in {issue.code for issue in strong(lint(made))}


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("log-group:/haltuun/*", True),  # as IAM has it: * goes over colons and slashes
        ("log-group:/haltuun/*:log-stream:*", True),
        ("log-group:/haltuun/system:log-stream:i-1", True),
        ("log-group:/haltuun/system", False),
    ],
)
def test_a_resource_is_told_by_its_kind(resource: str, expected: bool) -> None:
    (stream,) = arns_of("logs:PutLogEvents")
    assert fits(f"arn:aws:logs:*:111122223333:{resource}", stream) is expected


def test_a_sound_statement_gives_nothing() -> None:
    tags = {"ForAllValues:StringLike": {"aws:TagKeys": ["haltuun:*"]}}
    assert lint(statements({"Action": ["ec2:CreateTags"], "Resource": INSTANCE, "Condition": tags})) == []
