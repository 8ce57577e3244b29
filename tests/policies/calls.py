"""What the code asks of AWS, read from its source: operations at call sites, actions that changes name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import botocore.session

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("haltuun", "flows", "tasks")
ASKS = {"call", "pages"}


@cache
def operations_called() -> dict[str, set[str]]:
    """service:Operation → the files that call it.

    Where the operation at a call site is a variable, each operation of that service which the module
    names as a string counts.
    """
    found: dict[str, set[str]] = {}
    for path, tree in _modules():
        services: set[str] = set()
        for service, operation in _sites(tree):
            services.add(service)
            if operation is not None:
                assert operation in operations_of(service), f"{path}: {service} has no {operation}"
                found.setdefault(f"{service}:{operation}", set()).add(path)
        for word in _words(tree):
            for service in services:
                if word in operations_of(service):
                    found.setdefault(f"{service}:{word}", set()).add(path)
    return found


@cache
def actions_named() -> dict[str, set[str]]:
    """IAM action → the files that name it in a change's `permissions` or a constant of that name."""
    found: dict[str, set[str]] = {}
    for path, tree in _modules():
        for node in ast.walk(tree):
            for value in _permissions(node):
                for word in _words(value):
                    if ":" in word:
                        found.setdefault(word, set()).add(path)
    return found


@cache
def _services() -> frozenset[str]:
    return frozenset(_session().get_available_services())


@cache
def _session() -> botocore.session.Session:
    return botocore.session.get_session()


@cache
def operations_of(service: str) -> frozenset[str]:
    return frozenset(_session().get_service_model(service).operation_names)


def is_told_apart(operation: str) -> bool:
    """Whether botocore gives the operation a token, the same each time that it sends one call."""
    service, _, name = operation.partition(":")
    return bool(_session().get_service_model(service).operation_model(name).idempotent_members)


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def _sites(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """(service, operation) of each call; the operation is None where it is no literal."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        service, operation = node.args[0], node.args[1]
        if name in ASKS and isinstance(service, ast.Constant) and service.value in _services():
            yield str(service.value), str(operation.value) if isinstance(operation, ast.Constant) else None


def _permissions(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.keyword) and node.arg == "permissions":
        yield node.value
    if isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if any(name.lower().endswith("permissions") for name in names):
            yield node.value


def _words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
