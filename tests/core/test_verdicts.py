"""What decides of a host's status where several things could."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from haltuun.errors import HaltuunError
from haltuun.gates import HostVerdict
from haltuun.model import Barred, Change, HostStatus, Reach, StageName, Verdict
from haltuun.perform import Outcome
from haltuun.verdicts import not_entered, status_of, waived

CHANGE = Change(
    stage=StageName.repair,
    kind="switch",
    region="r",
    target="t",
    hosts=("i-1",),
    before="off",
    after="on",
    reach=Reach.host,
    summary="switch it on",
)
BARRED = Barred(host="i-1", code="NO_IMDS", message="no.", remedy="-")
FAILED = Outcome(CHANGE, "failed", error=HaltuunError("it broke.", subject="i-1", code="DISK_FULL"))
LATER = Outcome(CHANGE, "failed", error=HaltuunError("it broke, too.", code="LimitExceeded"))
WAITS = Outcome(CHANGE, "approval")
PASSED = HostVerdict(verdict=Verdict.passed)
HELD = HostVerdict(verdict=Verdict.held, code="NOT_ONLINE", message="is not Online", remedy="look")


def status(verdict: HostVerdict = HELD, **given: Any) -> HostStatus:
    told = {"barred": None, "mine": (), "stale": (), "how_to_approve": "approve", "untouched": "", **given}
    return status_of(verdict, told.pop("barred"), told.pop("mine"), **told)


def test_what_is_there_is_passed_however_it_came_about() -> None:
    for barred, mine, untouched in product((None, BARRED), ((), (FAILED,), (WAITS,)), ("", "why")):
        found = status(PASSED, barred=barred, mine=mine, untouched=untouched)
        assert found == HostStatus(verdict=Verdict.passed)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"barred": BARRED, "mine": (WAITS, FAILED), "untouched": "why"}, "NO_IMDS"),
        ({"mine": (FAILED, WAITS), "untouched": "why"}, "AWAITS_APPROVAL"),
        ({"mine": (WAITS,), "stale": {CHANGE.id}}, "PLAN_STALE"),
        ({"mine": (WAITS,), "stale": {"another"}}, "AWAITS_APPROVAL"),
        ({"mine": (LATER, FAILED), "untouched": "why"}, "DISK_FULL"),
        ({"mine": (FAILED, LATER)}, "AWS_REFUSED"),
        ({"mine": (Outcome(CHANGE, "stale", error=FAILED.error),)}, "DISK_FULL"),
        ({"mine": (Outcome(CHANGE, "not_taken", error=FAILED.error),)}, "DISK_FULL"),
        ({"mine": (Outcome(CHANGE, "unknown", error=FAILED.error),)}, "NOT_ONLINE"),
        ({"mine": (Outcome(CHANGE, "done"),), "untouched": "the canary"}, "STAGE_STOPPED"),
        ({"mine": (Outcome(CHANGE, "done"),)}, "NOT_ONLINE"),
    ],
)
def test_what_a_person_decides_comes_before_what_failed_and_that_before_what_the_gate_says(
    given: dict[str, Any], reason: str
) -> None:
    assert status(**given).reason == reason


def test_the_remedy_says_how_to_approve_and_a_bar_keeps_its_date() -> None:
    assert status(mine=(WAITS,), how_to_approve="approve it so").remedy == "approve it so"
    date = datetime(2026, 12, 1, tzinfo=UTC)
    assert status(barred=BARRED.model_copy(update={"next_check": date})).next_check == date


def test_the_message_is_that_of_the_last_rung() -> None:
    assert status(mine=(LATER, FAILED)).message == "i-1: it broke."
    assert status(mine=(FAILED, LATER)).message == "it broke, too."


def test_of_the_stages_that_are_needed_the_first_that_is_not_through_says_why() -> None:
    through = HostStatus(verdict=Verdict.passed)
    held = HostStatus(verdict=Verdict.held, reason="NO_ROLE", message="no role", remedy="attach one")
    out = HostStatus(verdict=Verdict.excluded, reason="EXCLUDED", message="left alone")
    discover, verify = StageName.discover, StageName.verify
    assert not_entered([(discover, "too many", through)]).reason == "STAGE_BLOCKED"
    assert not_entered([(discover, "", through), (verify, "", held)]).reason == "NO_ROLE"
    assert not_entered([(discover, "", out), (verify, "", held)]) == out
    assert not_entered([(discover, "", through), (verify, "", None)]).reason == "NOT_BEGUN"


def test_a_hold_is_waived_by_its_code_and_keeps_what_it_says_beside_the_reason() -> None:
    held = HostStatus(verdict=Verdict.held, reason="EOL", message="It is old.", remedy="Move it.")
    found = waived(held, {"EOL": "replaced in May.", "SCAN_OLD": "why"})
    assert (found.verdict, found.reason, found.remedy) == (Verdict.waived, "EOL", "Move it.")
    assert found.message == "Waived in haltuun.yaml: replaced in May. It is old."
    for other in (
        held.model_copy(update={"reason": "PATCH_PREREQ"}),
        held.model_copy(update={"verdict": Verdict.unknown}),
        held.model_copy(update={"verdict": Verdict.pending}),
        HostStatus(verdict=Verdict.passed),
    ):
        assert waived(other, {"EOL": "why"}) == other
