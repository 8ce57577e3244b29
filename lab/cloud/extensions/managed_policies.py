"""AWS's managed policies, parsed and made once.

moto parses its 4 MB of them, and makes 1,500 objects of them, again for every partition of every account
and at every reset, which costs a lab seconds at its start and a test suite minutes.
"""

from __future__ import annotations

import json
from copy import copy
from datetime import datetime
from functools import cache
from typing import Any

from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.models import AWSManagedPolicy, IAMBackend, ManagedPolicy
from moto.settings import load_iam_aws_managed_policies

# Partitions that nobody can reach from outside; their copies would be made and never read.
ISOLATED = "aws-iso"


@cache
def _parsed() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "default_version_id": row.get("DefaultVersionId"),
            "path": row.get("Path"),
            "document": json.dumps(row.get("Document")),
            "create_date": datetime.fromisoformat(row["CreateDate"]),
            "update_date": datetime.fromisoformat(row["UpdateDate"]),
        }
        for name, row in json.loads(aws_managed_policies_data).items()
    ]


@cache
def _made(region: str) -> list[AWSManagedPolicy]:
    return [AWSManagedPolicy(account_id="aws", region=region, **row) for row in _parsed()]  # type: ignore[abstract]


def _init_aws_policies(self: IAMBackend) -> list[ManagedPolicy]:
    if not load_iam_aws_managed_policies() or self.region_name.startswith(ISOLATED):
        return []
    # A copy of its own has what an account changes of them: how often they are attached.
    own = [copy(policy) for policy in _made(self.region_name)]
    for policy in own:
        policy.account_id = self.account_id
    return list(own)


def apply() -> None:
    IAMBackend._init_aws_policies = _init_aws_policies  # type: ignore[method-assign]
