"""What no schedule goes on with by itself: hosts that were worse, what a retry counts, accounts in vain."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType

from flows.takeover import ended
from haltuun.attention import waiting_hosts
from haltuun.cli.takeover import exit_of_many
from haltuun.errors import EXIT_AWAITS_APPROVAL, EXIT_BLOCKED, EXIT_ERROR, EXIT_HELD, EXIT_OK
from haltuun.ledger import Ledger
from haltuun.model import HostStatus, StageName, Verdict
from haltuun.unasked import by_stages, given_up, left_alone, worst

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


def test_a_first_takeover_that_is_still_at_work_is_not_in_vain(ledger: Ledger) -> None:
    account = "210987654321"
    lease = ledger.take_lease(account, "by hand")
    ledger.start_run(account, "by hand", {"mode": "apply"}, NOW)
    assert ledger.at_work(account) == "by hand" and ledger.at_work(ACCOUNT) == ""
    assert given_up("acme", ledger.runs(account), 1, ledger.at_work(account)) == ""
    ledger.release_lease(lease)  # and it did not say how it ended
    assert ledger.at_work(account) == ""
    assert "begun 1 times" in given_up("acme", ledger.runs(account), 1, ledger.at_work(account))

    ledger.take_lease(account, "again")
    ledger.start_run(account, "again", {"mode": "apply"}, NOW)
    why = given_up("acme", ledger.runs(account), 1, ledger.at_work(account))
    assert "begun 1 times" in why and "run by hand, the last" in why
    assert why.endswith("Run again is at work on it now.")


LEFT = [{"host": WORSE}]


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([], EXIT_OK),
        ([{"outcome": "NotDue", "left": []}], EXIT_OK),
        ([{"outcome": "NotDue", "left": LEFT}], EXIT_HELD),
        ([{"outcome": "NotDue", "left": LEFT}, {"outcome": "Done", "left": []}], EXIT_HELD),
        ([{"outcome": "Done", "left": LEFT}], EXIT_HELD),
        ([{"outcome": "NotDue", "left": LEFT}, {"outcome": "AwaitingApproval"}], EXIT_AWAITS_APPROVAL),
        ([{"outcome": "Failed"}, {"outcome": "NotDue", "left": LEFT}], EXIT_ERROR),
        ([{"outcome": "NotBegun"}], EXIT_HELD),
        ([{"outcome": "AwaitingApproval"}, {"outcome": "GateBlocked"}], EXIT_BLOCKED),
    ],
)
def test_a_recheck_that_leaves_a_host_to_a_person_ends_as_one_that_holds_it(
    results: list[dict[str, Any]], code: int
) -> None:
    assert exit_of_many(results) == code
    state = ended(worst(results), "", results)
    # In the run history it is told from a clean one by the same rule.
    assert (state.name == "Completed") == (code == EXIT_OK)
    assert (state.type is StateType.FAILED) == (code in (EXIT_ERROR, EXIT_BLOCKED))
