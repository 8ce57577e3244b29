"""SimulatePrincipalPolicy and SimulateCustomPolicy, by the content of the policies."""

from __future__ import annotations

import json
from typing import Any

from moto.core.responses import ActionResult
from moto.iam.models import iam_backends
from moto.iam.responses import IamResponse

from lab.cloud.errors import CloudError
from lab.cloud.extensions import managed_policies
from lab.cloud.extensions.base import graft
from lab.cloud.identity import boundary_documents, role_documents
from lab.cloud.policy import Context, Decision, Document, document, evaluate

MAX_ITEMS = 100


def _inputs(texts: list[str], kind: str) -> list[Document]:
    found = []
    for number, text in enumerate(texts, start=1):
        try:
            found.append(document(f"PolicyInputList.{number}", kind, text))
        except ValueError:
            raise CloudError("InvalidInput", f"Policy document {number} is no valid JSON.") from None
    return found


def _context(entries: list[dict[str, Any]]) -> Context:
    return {
        str(row["ContextKeyName"]): [str(v) for v in row.get("ContextKeyValues") or []] for row in entries
    }


def _principal(self: IamResponse, arn: str) -> Any:
    backend = iam_backends[self.current_account][self.partition]
    holders = [*backend.roles.values(), *backend.users.values(), *backend.groups.values()]
    for holder in holders:
        if getattr(holder, "arn", None) == arn:
            return holder
    if ":sts:" in arn or not arn.startswith("arn:"):
        raise CloudError(
            "InvalidInput", f"Invalid Entity Arn: {arn} does not clearly define entity type and name."
        )
    raise CloudError("NoSuchEntity", f"The entity {arn} cannot be found.")


def _result(action: str, resource: str, decision: Decision) -> dict[str, Any]:
    position = {"Line": 1, "Column": 1}
    statements = [
        {
            "SourcePolicyId": match.policy,
            "SourcePolicyType": match.source_type,
            "StartPosition": position,
            "EndPosition": position,
        }
        for match in decision.matched
    ]
    row: dict[str, Any] = {
        "EvalActionName": action,
        "EvalResourceName": resource,
        "EvalDecision": decision.value,
        "MatchedStatements": statements,
        "MissingContextValues": decision.missing_context,
    }
    if decision.boundary_allows is not None:
        row["PermissionsBoundaryDecisionDetail"] = {"AllowedByPermissionsBoundary": decision.boundary_allows}
    return row


def _simulate(self: IamResponse, documents: list[Document], boundary: list[Document] | None) -> ActionResult:
    given = self._get_param("ContextEntries") or []
    context = _context(given)
    rows = []
    for action in self._get_param("ActionNames") or []:
        if ":" not in action:
            raise CloudError("InvalidInput", f"The action {action} has no service prefix.")
        for resource in self._get_param("ResourceArns") or ["*"]:
            rows.append(_result(action, resource, evaluate(documents, action, resource, context, boundary)))
    size = int(self._get_param("MaxItems") or MAX_ITEMS)
    marker = self._get_param("Marker") or "0"
    if not str(marker).isdigit():
        raise CloudError("InvalidInput", "The marker is not valid.")
    start, end = int(marker), int(marker) + size
    answer: dict[str, Any] = {"EvaluationResults": rows[start:end], "IsTruncated": end < len(rows)}
    if end < len(rows):
        answer["Marker"] = str(end)
    return ActionResult(answer)


class Simulator(IamResponse):
    def simulate_principal_policy(self) -> ActionResult:
        holder = _principal(self, str(self._get_param("PolicySourceArn")))
        documents = role_documents(holder)
        for group in iam_backends[self.current_account][self.partition].groups.values():
            if holder in group.users:
                documents += role_documents(group)
        documents += _inputs(self._get_param("PolicyInputList") or [], "IAM Policy")
        own = self._get_param("PermissionsBoundaryPolicyInputList")
        if own:
            boundary: list[Document] | None = _inputs(own, "Permissions Boundary")
        else:
            boundary = boundary_documents(holder, self.current_account, self.partition)
        return _simulate(self, documents, boundary)

    def simulate_custom_policy(self) -> ActionResult:
        own = self._get_param("PermissionsBoundaryPolicyInputList")
        boundary = _inputs(own, "Permissions Boundary") if own else None
        return _simulate(self, _inputs(self._get_param("PolicyInputList") or [], "IAM Policy"), boundary)

    def get_context_keys_for_principal_policy(self) -> ActionResult:
        holder = _principal(self, str(self._get_param("PolicySourceArn")))
        keys: set[str] = set()
        for policy in role_documents(holder):
            for statement in policy.statements:
                for block in (statement.get("Condition") or {}).values():
                    keys |= set(block)
        return ActionResult({"ContextKeyNames": sorted(keys)})


def trust_of(account_id: str, partition: str, role_arn: str) -> Any:
    """The trust policy of a role, or None when there is no such role."""
    for role in iam_backends[account_id][partition].roles.values():
        if role.arn == role_arn:
            text = role.assume_role_policy_document
            return json.loads(text) if isinstance(text, str) else text
    return None


def apply() -> None:
    managed_policies.apply()
    graft(Simulator, IamResponse)
