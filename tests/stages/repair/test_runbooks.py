"""Promise 10: every code of this stage has its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from haltuun.stages.repair import CHECKS
from haltuun.stages.repair.wording import WORDING

ROOT = Path(__file__).parents[3]
STAGE = ROOT / "haltuun" / "stages" / "repair"
_BARRED = re.compile(r'barred\(\s*"([A-Z_]+)"')
_RAISED = re.compile(r'code="([A-Z_]+)"')


def _codes() -> set[str]:
    barred = _BARRED.findall((STAGE / "guards.py").read_text() + (STAGE / "plan.py").read_text())
    raised = _RAISED.findall("".join(file.read_text() for file in STAGE.glob("*.py")))
    return {*WORDING, *barred, *raised, *(check.code for check in CHECKS), "NOT_PROVEN", "PROBE_UNREADABLE"}


@pytest.mark.parametrize("code", sorted(_codes()))
def test_has_a_page(code: str) -> None:
    page = (ROOT / "docs" / "runbooks" / f"{code}.md").read_text()
    assert page.startswith(f"# {code}\n")
