"""What no schedule goes on with by itself: hosts that were worse, what a retry counts, accounts in vain."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from haltuun.attention import waiting_hosts
from haltuun.ledger import Ledger
from haltuun.model import HostStatus, StageName, Verdict
from haltuun.unasked import by_stages, given_up, left_alone

ACCOUNT, NOW = "123456789012", datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
WORSE, SOUND, HELD_ELSEWHERE = "i-0aaaaaaaa", "i-0bbbbbbbb", "i-0cccccccc"
PASSED = HostStatus(verdict=Verdict.passed)
WAITS = HostStatus(verdict=Verdict.waiting, reason="WAITING_SERVICE", message="It waits.", next_check=NOW)
HELD = HostStatus(verdict=Verdict.held, reason="AWS_REFUSED", message="No.", remedy="Mend it.")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    made.start_run(ACCOUNT, "first", {"mode": "apply"}, NOW)
    made.went_worse(ACCOUNT, "first", WORSE, StageName.logs, {"summary": "tag it"}, NOW)
    made.judged(ACCOUNT, "first", StageName.repair, dict.fromkeys((WORSE, SOUND, HELD_ELSEWHERE), WAITS), NOW)
    made.judged(ACCOUNT, "first", StageName.backup, {SOUND: PASSED, HELD_ELSEWHERE: HELD}, NOW)
    yield made
    made.close()


def test_who_was_worse_after_a_change_and_waits_since_is_left_until_it_is_named(ledger: Ledger) -> None:
    waiting = waiting_hosts(ledger.status(ACCOUNT))
    assert set(waiting) == {WORSE, SOUND, HELD_ELSEWHERE}
    (left,) = left_alone(waiting, ledger.worse(ACCOUNT), "acme")
    assert (left.host, left.stage, left.reason) == (WORSE, StageName.repair, "WAITING_SERVICE")
    assert "worse after a change on 2026-11-24 10:00 UTC" in left.why and left.why.endswith("tag it")
    # A retry is for held hosts; this one waits.
    assert left.remedy.endswith(f"haltuun takeover acme --host {WORSE}")

    ledger.start_run(ACCOUNT, "named", {"mode": "apply"}, NOW)
    ledger.judged(ACCOUNT, "named", StageName.logs, {WORSE: PASSED}, NOW)
    assert left_alone(waiting, ledger.worse(ACCOUNT), "acme") == ()


def test_what_holds_a_waiting_host_later_on_is_left_to_a_retry_which_counts(ledger: Ledger) -> None:
    status = ledger.status(ACCOUNT)
    others = [stage for stage in StageName if stage is not StageName.backup]
    assert by_stages(waiting_hosts(status), status) == {
        (): [WORSE, SOUND],
        tuple(others): [HELD_ELSEWHERE],
    }


@pytest.mark.parametrize("last", ["Failed", "killed"])
def test_an_account_that_was_begun_three_times_in_vain_waits_for_a_person(ledger: Ledger, last: str) -> None:
    account = "210987654321"
    ledger.start_run(account, "look", {"mode": "plan"}, NOW)
    ledger.end_run(account, "look", "Planned", {}, NOW)
    for run in ("one", "two"):
        ledger.start_run(account, run, {"mode": "apply"}, NOW)
        ledger.end_run(account, run, "Failed", {}, NOW)
        assert not ledger.was_begun(account) and given_up("acme", ledger.runs(account), 3) == ""
    ledger.start_run(account, "three", {"mode": "apply"}, NOW)
    if last == "Failed":
        ledger.end_run(account, "three", last, {}, NOW)
    why = given_up("acme", ledger.runs(account), 3)
    assert "begun 3 times" in why and "policy.max_tries: 3" in why and "run three" in why
    assert why.endswith("begin it by hand: haltuun takeover acme")

    ledger.start_run(account, "by hand", {"mode": "apply"}, NOW)
    ledger.end_run(account, "by hand", "PartiallyDone", {}, NOW)
    assert ledger.was_begun(account)  # and so nobody begins it again
