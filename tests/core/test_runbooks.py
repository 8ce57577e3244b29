"""Promise 10: every code that can hold a host has a page that says what it means and what to do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from haltuun import errors
from haltuun.stages.order import STAGES

PROJECT = Path(__file__).parents[2]
RUNBOOKS = PROJECT / "docs" / "runbooks"
# What ends a command or a run before any host is judged: never a host's reason.
NOT_A_HOSTS = {
    "AWS",
    "CONFIG",
    "ERROR",
    "LAB",
    "LEASE_HELD",
    "LEASE_LOST",
    "LEDGER",
    "NO_CREDENTIALS",
    "NO_RUN",
    "NOT_TAKEN",
    "PLAN_NEEDS_SSH",
    "PREFECT_SERVER",
    "PREFECT_UNREACHABLE",
    "READ_ONLY",
    "ROLE_NOT_ASSUMED",
    "STATE_DIR",
    "TOOL_MISSING",
    "UNKNOWN_ACCOUNT",
    "UNKNOWN_HOST",
    "UNKNOWN_PLAN",
    "UNKNOWN_RUN",
    "USAGE",
    "WRONG_ACCOUNT",
    "WRONG_REGION",
}
SECTIONS = ("## How Haltuun knows", "## What Haltuun does", "## What to do by hand", "## Source")


def _written(path: Path) -> Iterator[str]:
    """Codes that the file gives to errors, bars and statuses, as literals."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        given = [word.value for word in node.keywords if word.arg in ("code", "reason")]
        codes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if codes and "inding" not in ast.unparse(node.func):
            yield from codes


def _codes() -> set[str]:
    found = {check.code for stage in STAGES for check in stage.checks}
    found |= {check.in_doubt.code for stage in STAGES for check in stage.checks if check.in_doubt}
    found |= {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.HaltuunError)
    }
    for path in (PROJECT / "haltuun").rglob("*.py"):
        if "cli" not in path.parts:
            found |= set(_written(path))
    return {code for code in found if code.isupper()} - NOT_A_HOSTS


def test_each_code_that_can_hold_a_host_has_a_page() -> None:
    missing = {code for code in _codes() | {"AWS_REFUSED"} if not (RUNBOOKS / f"{code}.md").is_file()}
    assert missing == set(), "write docs/runbooks/CODE.md"


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_has_what_its_reader_looks_for(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem}\n")
    assert [section for section in SECTIONS if section not in text] == []
