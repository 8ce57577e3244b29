"""Who calls: the role behind an access key, its policies, and whether they allow the call."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from moto.iam.models import Group, Role, User, iam_backends
from moto.sts.models import AssumedRole, sts_backends
from moto.utilities.utils import get_partition

from lab.cloud.policy import Context, Decision, Document, document, evaluate

MACHINE_SESSION = re.compile(r"^m?i-[0-9a-f]{8,17}$")
INSTANCE_IDENTITY_ROLE = "aws:ec2-instance"
SCOPE = re.compile(r"Credential=(?P<key>[^/]+)/[^/]+/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
# All that the identity role of an instance may do (amazon-ssm-agent authregister_client.go:58-63).
INSTANCE_IDENTITY_ACTIONS = frozenset({"ssm:RegisterManagedInstance"})


@dataclass(frozen=True)
class Machine:
    """The session of an instance or managed node: role, and the node's id as session name."""

    account_id: str
    region: str
    role_arn: str
    node_id: str

    @property
    def partition(self) -> str:
        return str(get_partition(self.region))

    @property
    def role_name(self) -> str:
        return self.role_arn.rsplit("/", 1)[-1]

    @property
    def arn(self) -> str:
        return f"arn:{self.partition}:sts::{self.account_id}:assumed-role/{self.role_name}/{self.node_id}"


def scope_of(authorization: str) -> tuple[str, str, str] | None:
    """(access key, region, service) of a SigV4 header."""
    found = SCOPE.search(authorization or "")
    return (found["key"], found["region"], found["service"]) if found else None


def machine_of(account_id: str, access_key: str, region: str) -> Machine | None:
    """The machine behind an access key, or None for everybody else (operators are not restricted)."""
    backend = sts_backends[account_id][get_partition(region)]
    for session in reversed(backend.assumed_roles):
        if session.access_key_id == access_key:
            if MACHINE_SESSION.match(session.session_name):
                return Machine(account_id, region, session.role_arn, session.session_name)
            return None
    return None


def session_for(
    account_id: str, region: str, role_arn: str, node_id: str, duration_s: int = 3600
) -> AssumedRole:
    """Credentials that a service hands to a machine."""
    backend = sts_backends[account_id][get_partition(region)]
    return backend.assume_role(region, node_id, role_arn, "", duration_s, "")


def role_documents(role: Role | User | Group) -> list[Document]:
    """Inline and attached policies; roles, users and groups keep them alike but for the container."""
    inline: Any = role.policies
    if isinstance(inline, dict):
        inline = list(inline.items())
    else:
        inline = [(row["policy_name"], row["policy_document"]) for row in inline]
    found = [document(name, "IAM Policy", text) for name, text in inline]
    for policy in role.managed_policies.values():
        kind = "AWS Managed Policy" if ":iam::aws:" in policy.arn else "Customer Managed Policy"
        found.append(document(policy.name, kind, default_version(policy)))
    return found


def default_version(policy: Any) -> str:
    for version in policy.versions:
        if version.is_default:
            return str(version.document)
    return str(policy.document)


def boundary_documents(role: Any, account_id: str, partition: str) -> list[Document] | None:
    arn = getattr(role, "permissions_boundary_arn", None)
    if not arn:
        return None
    policy = iam_backends[account_id][partition].managed_policies.get(arn)
    if policy is None:
        return []
    return [document(policy.name, "Permissions Boundary", default_version(policy))]


def decide(machine: Machine, action: str, resource: str = "*", context: Context | None = None) -> Decision:
    if machine.role_name == INSTANCE_IDENTITY_ROLE:
        return Decision("allowed" if action in INSTANCE_IDENTITY_ACTIONS else "implicitDeny")
    backend = iam_backends[machine.account_id][machine.partition]
    role = next((role for role in backend.roles.values() if role.arn == machine.role_arn), None)
    if role is None:
        return Decision("implicitDeny")
    boundary = boundary_documents(role, machine.account_id, machine.partition)
    return evaluate(role_documents(role), action, resource, context, boundary)


def denial(machine: Machine, action: str, resource: str, decision: Decision) -> str:
    """The sentence that AWS answers with."""
    if decision.value == "explicitDeny":
        why = "with an explicit deny in an identity-based policy"
    elif decision.boundary_allows is False and decision.matched:
        why = f"because no permissions boundary allows the {action} action"
    else:
        why = f"because no identity-based policy allows the {action} action"
    return f"User: {machine.arn} is not authorized to perform: {action} on resource: {resource} {why}"
