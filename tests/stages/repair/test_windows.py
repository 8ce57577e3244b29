"""A Windows host that is not Online is judged from AWS's side, first cause first."""

from __future__ import annotations

from typing import Any

import pytest

from haltuun.model import Unknown
from haltuun.stages.discover.console import Console
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.repair.facts import RepairFacts
from haltuun.stages.repair.sides import Sides
from haltuun.stages.repair.windows import judge_windows
from haltuun.stages.verify.facts import VerifyFacts
from tests.stages.repair.plan_kit import IID

GOOD = {
    "state": "running",
    "platform": "windows",
    "checks": "ok",
    "profile_arn": "arn:x:instance-profile/app",
}


def judged(verify: dict[str, Any] | None = None, online: Any = False, **found: Any) -> list[Any]:
    discover = DiscoverFacts(**{**GOOD, "same_box_nodes": (), "console": Console(ready=True), **found})
    repair = RepairFacts(ssm_status="never", ssm_last_ping_at=None, online_as_self=online)
    return list(
        judge_windows(
            IID, Sides(repair, discover, VerifyFacts(**({"egress_ok": True} if verify is None else verify)))
        )
    )


@pytest.mark.parametrize(
    ("given", "message", "remedy"),
    [
        ({"checks": "instance impaired", "profile_arn": None}, "checks fail", "get-console-screenshot"),
        ({"console": Console(signs=("Windows has stopped (STOP)",))}, "did not come up", "screenshot"),
        ({"profile_arn": None}, "has no role", "AmazonSSMManagedInstanceCore"),
        (
            {"profile_arn": None, "verify": {"egress_ok": True, "credentials": "default host management"}},
            "role and network are good",
            "Get-Service",
        ),
        ({"verify": {"credentials": "none"}}, "has no role", "AmazonSSMManagedInstanceCore"),
        (
            {"verify": {"egress_ok": False, "egress_reason": "no route"}},
            "closed (no route)",
            "Open 443 outwards",
        ),
        ({"same_box_nodes": ("mi-0123eb6450bf5617b",)}, "mi-0123eb6450bf5617b", "-register -clear"),
        (
            {"console": Console(ready=True, agent="2.2.392.0")},
            "agent 2.2.392.0",
            "Get-Service AmazonSSMAgent",
        ),
        ({"console": None}, "role and network are good", "Get-Service AmazonSSMAgent"),
        (
            {"profile_arn": Unknown(unknown="denied")},
            "no fault is seen, with the role unknown",
            "Get-Service",
        ),
    ],
)
def test_the_first_cause_that_explains_it(given: dict[str, Any], message: str, remedy: str) -> None:
    (finding,) = judged(**given)
    assert finding.code == "WINDOWS_AGENT" and message in finding.message and remedy in finding.remedy
    assert len(finding.evidence) == 6, "each thing that was looked at"


def test_what_is_online_off_or_no_windows_is_none() -> None:
    assert judged(online=True) == []
    assert judged(online=Unknown(unknown="denied")) == [], "unknown is not False"
    assert judged(state="stopped") == []
    assert judged(platform="linux") == []


def test_unknown_is_said_as_unknown() -> None:
    (finding,) = judged(verify={}, checks=Unknown(unknown="denied"), console=Unknown(unknown="denied"))
    said = " | ".join(finding.evidence)
    assert "status checks: unknown (denied)" in said and "console: unknown (denied)" in said
    assert "way out: unknown" in said
