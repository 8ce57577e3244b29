"""What botocore may send again: a call whose answer was lost must not make a second thing."""

from __future__ import annotations

from haltuun.aws import READS, UNREPEATABLE
from tests.policies.calls import is_told_apart, operations_called

# These set what is set already, or take away what is gone: AWS says so, or nothing, the second time.
SETS = ("Add", "Associate", "Attach", "Authorize", "Put", "Update")
TAKES = ("Cancel", "Delete", "Deregister", "Detach", "Disassociate", "Remove", "Revoke")
# Operations that make something and take no token, and why a second sending makes no second thing.
REASONS = {
    "ec2:CreateTags": "a resource has a key once",
    "iam:CreateInstanceProfile": "its name is unique: EntityAlreadyExists",
    "iam:CreateRole": "its name is unique: EntityAlreadyExists",
    "logs:CreateLogGroup": "its name is unique: ResourceAlreadyExistsException",
    "ssm:CreateDocument": "its name is unique: DocumentAlreadyExists",
    "ssm:RegisterPatchBaselineForPatchGroup": "a patch group has one baseline of a system",
    "ssm:SendCommand": "whatever is sent may run twice: looks, scans, proofs, and a job's steps, which a host"
    " takes one at a time",
    "sts:AssumeRole": "it makes nothing in the account",
}


def test_what_makes_something_is_told_apart_by_aws_or_sent_once() -> None:
    made = {
        operation
        for operation in operations_called()
        if not operation.partition(":")[2].startswith((*READS, *SETS, *TAKES))
    }
    once = {":".join(operation) for operation in UNREPEATABLE}
    assert {operation for operation in made if not is_told_apart(operation)} == once | set(REASONS)
    assert once.isdisjoint(REASONS)
