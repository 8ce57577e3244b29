"""IAM policy evaluation for identity policies and permission boundaries.

Follows "Policy evaluation logic" of the IAM user guide: an explicit deny wins, then an allow is needed
from the identity policies and, where there is a boundary, from the boundary as well. Not covered:
service control policies, session policies, resource policies.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

Context = Mapping[str, list[str]]


@dataclass(frozen=True)
class Document:
    name: str
    source_type: str
    statements: list[dict[str, Any]]


@dataclass(frozen=True)
class Match:
    policy: str
    source_type: str


@dataclass
class Decision:
    value: str
    matched: list[Match] = field(default_factory=list)
    boundary_allows: bool | None = None
    missing_context: list[str] = field(default_factory=list)

    @property
    def allowed(self) -> bool:
        return self.value == "allowed"


def document(name: str, source_type: str, text: str | Mapping[str, Any]) -> Document:
    raw: Any = text
    if isinstance(text, str):
        raw = json.loads(unquote(text) if text.lstrip().startswith("%7B") else text)
    statements = raw.get("Statement", [])
    return Document(name, source_type, statements if isinstance(statements, list) else [statements])


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _wild(pattern: str, value: str, *, fold: bool = False) -> bool:
    """IAM knows `*` and `?` only; fnmatch would also read `[`."""
    if fold:
        pattern, value = pattern.lower(), value.lower()
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def _fill(pattern: str, context: Context) -> str:
    """Policy variables such as ${aws:PrincipalTag/team}; one without a value matches nothing."""

    def put(found: re.Match[str]) -> str:
        name = found.group(1).split(",")[0]
        if name in ("*", "?", "$"):
            return name
        values = _lookup(context, name)
        return values[0] if values else "\0"

    return re.sub(r"\$\{([^}]+)\}", put, pattern)


def _lookup(context: Context, key: str) -> list[str] | None:
    for name, values in context.items():
        if name.lower() == key.lower():
            return list(values)
    return None


def _covers(
    statement: Mapping[str, Any], field_name: str, value: str, context: Context, *, fold: bool
) -> bool:
    if f"Not{field_name}" in statement:
        return not any(
            _wild(_fill(p, context), value, fold=fold) for p in _list(statement[f"Not{field_name}"])
        )
    if field_name not in statement:
        return True
    return any(_wild(_fill(p, context), value, fold=fold) for p in _list(statement[field_name]))


def _number(compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    def run(have: str, want: str) -> bool:
        try:
            return compare(float(have), float(want))
        except ValueError:
            return False

    return run


def _in_network(have: str, want: str) -> bool:
    try:
        return ipaddress.ip_address(have) in ipaddress.ip_network(want, strict=False)
    except ValueError:
        return False


# operator -> (comparison, negated)
OPERATORS: dict[str, tuple[Callable[[str, str], bool], bool]] = {
    "stringequals": (lambda have, want: have == want, False),
    "stringnotequals": (lambda have, want: have == want, True),
    "stringequalsignorecase": (lambda have, want: have.lower() == want.lower(), False),
    "stringnotequalsignorecase": (lambda have, want: have.lower() == want.lower(), True),
    "stringlike": (lambda have, want: _wild(want, have), False),
    "stringnotlike": (lambda have, want: _wild(want, have), True),
    "arnequals": (lambda have, want: _wild(want, have), False),
    "arnlike": (lambda have, want: _wild(want, have), False),
    "arnnotequals": (lambda have, want: _wild(want, have), True),
    "arnnotlike": (lambda have, want: _wild(want, have), True),
    "bool": (lambda have, want: have.lower() == want.lower(), False),
    "ipaddress": (_in_network, False),
    "notipaddress": (_in_network, True),
    "numericequals": (_number(lambda a, b: a == b), False),
    "numericnotequals": (_number(lambda a, b: a == b), True),
    "numericlessthan": (_number(lambda a, b: a < b), False),
    "numericlessthanequals": (_number(lambda a, b: a <= b), False),
    "numericgreaterthan": (_number(lambda a, b: a > b), False),
    "numericgreaterthanequals": (_number(lambda a, b: a >= b), False),
    "dateequals": (lambda have, want: have == want, False),
    "datenotequals": (lambda have, want: have == want, True),
    "datelessthan": (lambda have, want: have < want, False),
    "datelessthanequals": (lambda have, want: have <= want, False),
    "dategreaterthan": (lambda have, want: have > want, False),
    "dategreaterthanequals": (lambda have, want: have >= want, False),
}


def _condition_holds(
    operator: str, key: str, wanted: list[str], context: Context, missing: list[str]
) -> bool:
    name = operator.lower()
    quantifier = ""
    if ":" in name:
        quantifier, name = name.split(":", 1)
    if_exists = name.endswith("ifexists")
    name = name.removesuffix("ifexists")
    have = _lookup(context, key)
    if name == "null":
        return (have is None) == (wanted[:1] == ["true"])
    if name not in OPERATORS:
        return False
    compare, negated = OPERATORS[name]
    if not have:
        missing.append(key)
        return if_exists or negated or quantifier == "forallvalues"
    filled = [_fill(want, context) for want in wanted]
    hits = [any(compare(value, want) for want in filled) for value in have]
    if negated:
        hits = [not hit for hit in hits]
    return all(hits) if quantifier == "forallvalues" or (negated and not quantifier) else any(hits)


def _conditions_hold(statement: Mapping[str, Any], context: Context, missing: list[str]) -> bool:
    rows = [
        (operator, key, _list(wanted))
        for operator, block in (statement.get("Condition") or {}).items()
        for key, wanted in block.items()
    ]
    return all([_condition_holds(operator, key, wanted, context, missing) for operator, key, wanted in rows])


def _matching(
    documents: list[Document], effect: str, action: str, resource: str, context: Context, missing: list[str]
) -> list[Match]:
    found = []
    for policy in documents:
        for statement in policy.statements:
            if (
                statement.get("Effect") == effect
                and _covers(statement, "Action", action, context, fold=True)
                and _covers(statement, "Resource", resource, context, fold=False)
                and _conditions_hold(statement, context, missing)
            ):
                found.append(Match(policy.name, policy.source_type))
    return found


def evaluate(
    documents: list[Document],
    action: str,
    resource: str = "*",
    context: Context | None = None,
    boundary: list[Document] | None = None,
) -> Decision:
    """allowed, implicitDeny or explicitDeny, with the statements that decided."""
    known: Context = context or {}
    missing: list[str] = []
    denied = _matching([*documents, *(boundary or [])], "Deny", action, resource, known, missing)
    allowed = _matching(documents, "Allow", action, resource, known, missing)
    by_boundary = None
    if boundary is not None:
        by_boundary = bool(_matching(boundary, "Allow", action, resource, known, missing))
    keys = sorted(set(missing))
    if denied:
        return Decision("explicitDeny", denied, by_boundary, keys)
    if allowed and by_boundary is not False:
        return Decision("allowed", allowed, by_boundary, keys)
    return Decision("implicitDeny", [] if by_boundary is not False else allowed, by_boundary, keys)


def trusts(trust_document: str | Mapping[str, Any], service: str) -> bool:
    """Whether a role's trust policy lets this service assume it."""
    for statement in document("trust", "role", trust_document).statements:
        principals = statement.get("Principal", {})
        services = _list(principals.get("Service")) if isinstance(principals, dict) else _list(principals)
        actions = _list(statement.get("Action"))
        if (
            statement.get("Effect") == "Allow"
            and any(_wild(name, service) for name in services)
            and any(_wild(action, "sts:AssumeRole", fold=True) for action in actions)
        ):
            return True
    return False
