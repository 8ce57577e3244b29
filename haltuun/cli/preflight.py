"""Looked at before a run begins: what would end it early is told in a second, and nothing is half done."""

from __future__ import annotations

from collections.abc import Sequence

from haltuun.aws import Aws
from haltuun.clock import Clock
from haltuun.config import AccountConfig, Config
from haltuun.errors import AccessDenied, AwsError, NoCredentials, NotFound, NotImplementedByEndpoint
from haltuun.model import StageName
from haltuun.reach import check_keys
from haltuun.report.opening import get_caller, opening_line


def check_account(
    config: Config,
    account: AccountConfig,
    *,
    mode: str,
    stages: Sequence[StageName] = (),
    hosts: Sequence[str] = (),
    plan_hash: str = "",
    approve_all: bool = False,
) -> str:
    """Keys, credentials, account and regions; returns the opening line of the run.

    Raises:
        ConfigError, NoCredentials, AwsError.
    """
    check_keys(account)
    aws = Aws(account, Clock(), read_only=True)
    caller = get_identity(aws)
    return opening_line(
        account,
        config.policy,
        caller=caller,
        regions=get_regions(aws),
        mode=mode,
        stages=stages,
        hosts=hosts,
        plan_hash=plan_hash,
        approve_all=approve_all,
    )


def get_identity(aws: Aws) -> str:
    """The caller's ARN, once it is sure that it belongs to the configured account.

    Raises:
        NoCredentials, AwsError.
    """
    account = aws.account
    try:
        caller = get_caller(aws)
    except (AccessDenied, NotFound) as error:
        # GetCallerIdentity needs no permission: what was denied is AssumeRole.
        if account.role_arn is None:
            raise
        raise AwsError(
            f"the role {account.role_arn} cannot be assumed ({error.message.rstrip('.')}).",
            subject=f"accounts: {account.label}: role_arn",
            remedy="Check role_arn, external_id, the role's trust policy and your right to sts:AssumeRole.",
            code="ROLE_NOT_ASSUMED",
        ) from error
    except NotImplementedByEndpoint as error:
        raise _no_such_region(aws, aws.home_region) from error
    except NoCredentials as error:
        # A region that is not enabled refuses every token (InvalidClientTokenId, AuthFailure).
        if account.regions and "refuses" in error.message:
            error.remedy += f" If they are right, region {aws.home_region} is not enabled for the account."
        raise
    aws.confirm_account()
    return caller


def get_regions(aws: Aws) -> list[str]:
    """The regions of the run. In each configured one instances can be listed: without that, no run.

    Raises:
        AccessDenied: to list instances, or regions where none are configured.
        AwsError: a configured region does not exist or is not enabled.
    """
    regions = aws.regions()
    for region in aws.account.regions or ():
        try:
            aws.call("ec2", "DescribeInstances", region, MaxResults=5)
        except NotImplementedByEndpoint as error:
            raise _no_such_region(aws, region) from error
    return regions


def _no_such_region(aws: Aws, region: str) -> AwsError:
    return AwsError(
        f"nothing that speaks as AWS answers for region {region}.",
        subject=f"accounts: {aws.account.label}: regions",
        remedy="Check the region's name in haltuun.yaml, and AWS_ENDPOINT_URL where it is set.",
        code="WRONG_REGION",
    )
