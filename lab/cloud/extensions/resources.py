"""The resource that a machine's call is about, for the evaluation of its role."""

from __future__ import annotations

import json
from typing import Any

from lab.cloud.calls import Call
from lab.cloud.identity import Machine


def resource_of(call: Call, account_id: str, machine: Machine, body: bytes) -> str:
    """The ARN as the service authorization reference gives it; `*` where the call has none."""
    try:
        request: dict[str, Any] = json.loads(body or b"{}")
    except ValueError:
        request = {}
    prefix = f"arn:{machine.partition}:{call.service}:{call.region}:{account_id}"
    if call.service == "logs" and request.get("logGroupName"):
        group = f"{prefix}:log-group:{request['logGroupName']}"
        stream = request.get("logStreamName")
        if call.operation in ("PutLogEvents", "GetLogEvents") and stream:
            return f"{group}:log-stream:{stream}"
        return f"{group}:*" if call.operation != "CreateLogGroup" else group
    if call.service == "ssm":
        return _ssm_resource(call, account_id, machine, request, prefix)
    return "*"


def _ssm_resource(call: Call, account_id: str, machine: Machine, request: dict[str, Any], prefix: str) -> str:
    if call.operation == "GetParameter" and request.get("Name"):
        return f"{prefix}:parameter/{str(request['Name']).lstrip('/')}"
    if call.operation == "GetParameters" and request.get("Names"):
        return f"{prefix}:parameter/{str(request['Names'][0]).lstrip('/')}"
    if call.operation in ("GetDocument", "DescribeDocument") and request.get("Name"):
        return f"{prefix}:document/{request['Name']}"
    on_node = ("UpdateInstanceInformation", "PutInventory", "RegisterManagedInstance")
    if call.operation in on_node and machine.node_id.startswith("mi-"):
        return f"{prefix}:managed-instance/{machine.node_id}"
    if call.operation in on_node:
        return f"arn:{machine.partition}:ec2:{call.region}:{account_id}:instance/{machine.node_id}"
    return "*"
