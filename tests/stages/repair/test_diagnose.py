"""Every real log of the case files: what must be found, what must not, and who the agent is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from haltuun.stages.repair.agentlog import covers_metadata
from haltuun.stages.repair.diagnose import diagnose
from tests.stages.repair.hostfiles import read_agent

CASES = Path(__file__).parents[2] / "cases" / "repair" / "ssm-agent"
IDENTITY = {"OnPrem": "mi", "CustomIdentity": "mi", "EC2": "i", None: None}


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_real_log(case: str) -> None:
    expected = json.loads((CASES / case / "expected.json").read_text())
    found = diagnose(read_agent(CASES / case))
    codes = {cause.code for cause in found.causes}
    assert set(expected["must"]) <= codes
    assert not set(expected["never"]) & codes
    assert IDENTITY[found.identity] == expected["identity"]
    assert all(cause.evidence and cause.message and cause.remedy for cause in found.causes)


@pytest.mark.parametrize("case", ["C1-register-clear", "D1-del-RegistrationKey", "L0-clean-ok", "H-mv-aside"])
def test_a_host_that_came_up_has_no_cause(case: str) -> None:
    found = diagnose(read_agent(CASES / case))
    assert found.causes == ()
    assert found.connected


@pytest.mark.parametrize(
    ("no_proxy", "spared"),
    [
        ("169.254.169.254", True),
        ("localhost, 169.254.169.254:80", True),
        ("169.254.0.0/16", True),
        ("*", True),
        ("localhost,10.0.0.0/8", False),
        ("", False),
    ],
)
def test_no_proxy_as_go_reads_it(no_proxy: str, spared: bool) -> None:
    assert covers_metadata(no_proxy) is spared
