"""AWS access without AWS: what is decided before the first call."""

from __future__ import annotations

import pytest

from haltuun.aws import first_region


@pytest.mark.parametrize(
    ("role_arn", "beginning"),
    [
        (None, "us-east-1"),
        ("arn:aws:iam::111122223333:role/haltuun", "us-east-1"),
        ("arn:aws-cn:iam::111122223333:role/haltuun", "cn-"),
        ("arn:aws-us-gov:iam::111122223333:role/haltuun", "us-gov-"),
        ("arn:aws-eusc:iam::111122223333:role/haltuun", "eusc-"),
    ],
)
def test_the_first_call_goes_to_the_partition_of_the_role(role_arn: str | None, beginning: str) -> None:
    assert first_region(role_arn).startswith(beginning)
