"""Takes a managed node out of Systems Manager: it cannot be put back."""

from __future__ import annotations

from haltuun.errors import AwsError, HaltuunError
from haltuun.model import Change, Json, Unknown
from haltuun.run import Run
from haltuun.stages.base import Kind
from haltuun.stages.repair.probe import INVALID_ID, get_node

KIND = "ssm.deregister"
PERMISSIONS = ("ssm:DeregisterManagedInstance", "ssm:DescribeInstanceInformation")
GONE: Json = {"state": "gone"}
SILENT: Json = {"state": "silent"}
ONLINE: Json = {"state": "online"}


def look(run: Run, change: Change) -> Json | Unknown:
    """Asked anew: a machine that came Online since the plan keeps its registration."""
    row = get_node(run, change.region, change.target)
    if isinstance(row, Unknown):
        return row
    if row is None:
        return GONE
    return ONLINE if row.get("PingStatus") == "Online" else SILENT


def apply(run: Run, change: Change) -> Json:
    try:
        run.aws.call("ssm", "DeregisterManagedInstance", change.region, InstanceId=change.target)
    except AwsError as error:
        # AWS's word for "not registered here", "not yours to deregister" and "in no state for it" alike.
        if error.code != INVALID_ID:
            raise
        if look(run, change) == GONE:
            return {"deregistered": "it was gone already"}
        raise HaltuunError(
            f"AWS does not deregister it: not registered in {change.region} of this account, not allowed, or"
            " in no state for it (InvalidInstanceId says all three).",
            subject=change.target,
            remedy="Check region and account of the registration, and ssm:DeregisterManagedInstance on"
            " managed-instance/mi-*.",
            code="NOT_DEREGISTERED",
        ) from error
    return {"deregistered": change.target}


DEREGISTER = Kind(name=KIND, look=look, apply=apply)
