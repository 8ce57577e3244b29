"""The first line of a run: whom it works on, as whom, where, how far and how fast."""

from __future__ import annotations

from collections.abc import Sequence

from haltuun.aws import Aws
from haltuun.config import AccountConfig, PolicyConfig
from haltuun.model import StageName
from haltuun.waves import GROWTH


def get_caller(aws: Aws) -> str:
    """The ARN under which AWS knows the caller.

    Raises:
        NoCredentials, AccessDenied, AwsError.
    """
    return str(aws.call("sts", "GetCallerIdentity", aws.home_region)["Arn"])


def opening_line(
    account: AccountConfig,
    policy: PolicyConfig,
    *,
    caller: str,
    regions: Sequence[str],
    mode: str,
    stages: Sequence[StageName] = (),
    hosts: Sequence[str] = (),
    plan_hash: str = "",
    approve_all: bool = False,
    approved_by: str = "",
) -> str:
    """One line: account, identity, regions, mode with what is approved, and the limits."""
    who, by = account.named, f" by {approved_by}" if approved_by else ""
    approval = f"{_approval(mode, plan_hash, approve_all)}{by}"
    parts = [
        f"{who} as {caller} in {', '.join(regions)}: mode {mode}, {approval}",
        f"stages {', '.join(stage.value for stage in stages)} only" if stages else "",
        f"{len(hosts)} chosen host(s) only" if hosts else "",
        f"at most {policy.host_concurrency} hosts at a time",
    ]
    if mode == "apply":
        parts += [
            f"canaries one by one, then waves of {_growth()} %",
            f"at most {policy.max_hosts} hosts are changed" if policy.max_hosts else "",
            f"no stage begins with more than {policy.max_held_percent} % of its hosts held",
        ]
    return "; ".join(part for part in parts if part) + "."


def _approval(mode: str, plan_hash: str, approve_all: bool) -> str:
    if mode == "plan":
        return "nothing is changed"
    if mode == "undo":
        return "what a run changed is taken back"
    if approve_all:
        return "every change is approved unseen"
    if plan_hash:
        return f"plan {plan_hash} is approved"
    return "nothing is approved beforehand"


def _growth() -> str:
    steps = [round((end - start) * 100) for start, end in zip((0.0, *GROWTH), GROWTH, strict=False)]
    return ", ".join(str(step) for step in steps)
