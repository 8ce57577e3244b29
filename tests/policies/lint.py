"""The policies against AWS's Service Authorization Reference, as policy_sentry carries it (no network)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from policy_sentry.shared import constants
from policy_sentry.shared.iam_data import get_service_prefix_data

from deployments.iam.policies import Declared, Statement

# Lists of actions that policy_sentry ships: what each lets its holder do.
AUDITS = Path(constants.__file__).parent / "data" / "audit"
_PLACEHOLDER = re.compile(r"\$\{[^}]*\}")
LISTS = ("privilege-escalation", "credentials-exposure", "resource-exposure")


class Level(IntEnum):
    """`broken`: AWS would refuse it, or it never allows anything. `wide`: more than one thing, unbounded."""

    low = 1
    wide = 2
    strong = 3
    broken = 4


class Issue(NamedTuple):
    level: Level
    code: str
    sid: str
    what: str


def lint(known: Declared) -> list[Issue]:
    return [issue for statement in known.statements for issue in _statement(statement, known)]


def _statement(statement: Statement, known: Declared) -> Iterator[Issue]:
    sid, everywhere = statement.sid, "*" in statement.resources
    unused = set(statement.resources) - {"*"}
    for action in (one.action for one in statement.actions):
        privilege = privilege_of(action)
        if privilege is None:
            yield Issue(Level.broken, "UNKNOWN_ACTION", sid, action)
            continue
        formats = arns_of(action)
        fitting = {r for r in statement.resources if any(fits(r, arn) for arn in formats)}
        unused -= fitting
        if formats and not fitting and not everywhere:
            yield Issue(Level.broken, "NO_RESOURCE_FITS", sid, action)
        if not formats and not everywhere:
            yield Issue(Level.broken, "TAKES_NO_RESOURCE", sid, action)
        for key in condition_keys(statement):
            if not _has_key(action, key):
                yield Issue(Level.broken, "NO_SUCH_CONDITION", sid, f"{action} {key}")
        if statement.effect == "Deny":
            continue
        for dependent in sorted(dependents_of(action) - known.actions()):
            yield Issue(Level.strong, "DEPENDENT_NOT_DECLARED", sid, f"{action} {dependent}")
        yield from _width(statement, action, str(privilege["access_level"]), bool(formats) and everywhere)
    for resource in sorted(unused):
        yield Issue(Level.broken, "RESOURCE_OF_NO_ACTION", sid, resource)


def _width(statement: Statement, action: str, access: str, wider_than_needed: bool) -> Iterator[Issue]:
    sid = statement.sid
    for name in LISTS:
        if action.lower() in listed(name):
            yield Issue(Level.strong, name.upper().replace("-", "_"), sid, action)
    if wider_than_needed and not statement.condition:
        level = Level.low if access in ("Read", "List") else Level.wide
        yield Issue(level, f"{access.upper().replace(' ', '_')}_ON_EVERYTHING", sid, action)


@cache
def listed(name: str) -> frozenset[str]:
    """Lower case, as the lists do not agree on theirs."""
    lines = (AUDITS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip().lower() for line in lines if ":" in line)


def privilege_of(action: str) -> dict[str, Any] | None:
    service, name = action.split(":")
    found: dict[str, Any] | None = get_service_prefix_data(service).get("privileges", {}).get(name)
    return found


def arns_of(action: str) -> list[str]:
    """The formats of the resources that it takes; none where it takes "*" alone."""
    privilege, data = privilege_of(action), get_service_prefix_data(action.split(":")[0])
    assert privilege is not None
    return [data["resources"][name]["arn"] for name in privilege["resource_types"] if name]


def dependents_of(action: str) -> set[str]:
    privilege = privilege_of(action)
    assert privilege is not None
    return {d for kind in privilege["resource_types"].values() for d in kind["dependent_actions"]}


def condition_keys(statement: Statement) -> list[str]:
    return [key for test in (statement.condition or {}).values() for key in test]


def _has_key(action: str, key: str) -> bool:
    privilege, data = privilege_of(action), get_service_prefix_data(action.split(":")[0])
    assert privilege is not None
    kinds = privilege["resource_types"]
    keys = {k for kind in kinds.values() for k in kind["condition_keys"]}
    keys |= {k for name in kinds if name for k in data["resources"][name]["condition_keys"]}
    return any(_same_key(key, known) for known in keys)


def _same_key(key: str, known: str) -> bool:
    """`aws:ResourceTag/haltuun:managed` is one of `aws:ResourceTag/${TagKey}`."""
    if "/${" in known:
        return key.lower().startswith(known.lower().partition("${")[0])
    return key.lower() == known.lower()


def fits(resource: str, arn: str) -> bool:
    """Whether a statement's resource is of the kind that this format describes."""
    if resource == "*":
        return False
    ours, theirs = (_PLACEHOLDER.sub("*", one).split(":", 5) for one in (resource, arn))
    return len(ours) == len(theirs) and all(map(_overlap, ours, theirs))


@cache
def _overlap(one: str, other: str) -> bool:
    """Whether some text matches both patterns; policy_sentry's own comparison trips over slashes in names."""
    if not one or not other:
        return not (one + other).strip("*")
    if one[0] == "*":
        return _overlap(one[1:], other) or _overlap(one, other[1:])
    if other[0] == "*":
        return _overlap(one, other[1:]) or _overlap(one[1:], other)
    return one[0] == other[0] and _overlap(one[1:], other[1:])
