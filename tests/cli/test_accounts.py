"""Recheck and onboard over several accounts, against a real Prefect server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from haltuun import errors
from haltuun.model import Host, HostStatus, StageName, Verdict
from lab.cloud.seeding import steer
from tests.cli.kit import ACCOUNT, ALIAS, REGION, Cli
from tests.prefect_fixtures import PrefectServer

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]

EMPTY = {"111100001111": "empty-1", "222200002222": "empty-2", "444400004444": "empty-3"}
GONE = "i-0aaaaaaaaaaaaaaaa"
IN_VAIN = "555500005555"


def with_more_accounts(config: dict[str, Any]) -> None:
    """Three without a host, each behind a role of its own, one that is not the one it says, and one that was
    begun in vain."""
    first = config["accounts"][0]
    config["accounts"] = [
        {"id": "333300003333", "alias": "another", "regions": [REGION]},
        {"id": IN_VAIN, "alias": "in-vain", "regions": [REGION]},
        *(
            {"id": i, "alias": a, "regions": [REGION], "role_arn": f"arn:aws:iam::{i}:role/haltuun"}
            for i, a in EMPTY.items()
        ),
        first,
    ]


@contextmanager
def moved(cli: Cli, days: float) -> Iterator[None]:
    steer(cli.endpoint_url, "clock", offset_s=days * 86400)
    try:
        yield
    finally:
        steer(cli.endpoint_url, "clock", offset_s=0)


@pytest.fixture
def waiting(running: Cli) -> datetime:
    """One host waits until tomorrow, another that is gone since waits, too, and one that was worse after a
    change; the date of the first."""
    now = datetime.now(UTC).replace(microsecond=0)
    date = now + timedelta(days=1)
    sound, worse = running.instances["sound"], running.instances["silent"]
    ledger = running.ledger
    ledger.start_run(ACCOUNT, "r-before", {"mode": "apply"}, now)
    ledger.saw_hosts(
        "r-before", [Host(account=ACCOUNT, region=REGION, instance_id=i) for i in (sound, worse, GONE)]
    )
    status = HostStatus(
        verdict=Verdict.waiting, reason="WAITING_SERVICE", message="It waits.", next_check=date
    )
    ledger.judged(ACCOUNT, "r-before", StageName.repair, {sound: status, worse: status, GONE: status}, now)
    ledger.went_worse(ACCOUNT, "r-before", worse, StageName.repair, {"summary": "clear it"}, now)
    return date


def test_a_recheck_says_who_waits_for_a_person_and_the_next_dates_and_goes_by_the_accounts_clock(
    running: Cli, waiting: datetime, prefect_server: PrefectServer
) -> None:
    sound, worse = running.instances["sound"], running.instances["silent"]
    at = f"{waiting - timedelta(days=1):%Y-%m-%d %H:%M} UTC"
    done = running.call("recheck")
    assert (done.code, done.out.splitlines()) == (
        errors.EXIT_HELD,
        [
            f"{ALIAS}: no host is due.",
            f"  leave  {worse}  repair WAITING_SERVICE",
            f"      It was worse after a change on {at}, so it is not taken over without being named:"
            " clear it",
            f"      → Look at it (haltuun show {worse}), then: haltuun takeover {ALIAS} --host {worse}",
            f"  {waiting:%Y-%m-%d %H:%M} UTC  {sound}  repair WAITING_SERVICE",
        ],
    )
    assert [run.run for run in running.runs()] == ["r-before"]
    with moved(running, days=1.5):
        (result,) = running.document("recheck", code=errors.EXIT_AWAITS_APPROVAL)
    assert (result["account"], result["hosts"], result["next"]) == (ALIAS, [sound], [])
    assert [one["host"] for one in result["left"]] == [worse]
    last = running.runs()[-1]
    assert (last.mode, last.body["hosts"]) == ("apply", [sound])
    assert last.started_at > waiting
    of_it = {"flows": {"name": {"any_": ["recheck-waiting-hosts"]}}, "sort": "START_TIME_ASC"}
    told = [(run["state_type"], run["state_name"]) for run in prefect_server.post("flow_runs/filter", of_it)]
    assert told[-2:] == [("COMPLETED", "PartiallyDone"), ("COMPLETED", "AwaitingApproval")]


@pytest.fixture
def several() -> Iterator[str]:
    """The address of AWS with more than one account: whose role is assumed, that account answers."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def test_onboarding_begins_what_is_new_two_at_once_and_one_that_fails_stops_no_other(
    running: Cli, waiting: datetime, several: str
) -> None:
    running.write(with_more_accounts)
    for run in ("vain-1", "vain-2", "vain-3"):
        running.ledger.start_run(IN_VAIN, run, {"mode": "apply"}, waiting)
        running.ledger.end_run(IN_VAIN, run, "Failed", {}, waiting)
    done = running.call("onboard", "--json", AWS_ENDPOINT_URL=several)
    assert done.code == errors.EXIT_ERROR
    results = {result["account"]: result for result in json.loads(done.out)}
    assert list(results) == ["another", *EMPTY.values(), "in-vain"]
    assert results["in-vain"]["outcome"] == "NotBegun"
    assert results["in-vain"]["error"].endswith("begin it by hand: haltuun takeover in-vain")
    assert running.ledger.runs(IN_VAIN)[-1].run == "vain-3"
    assert results["another"]["outcome"] == "Failed"
    assert "333300003333" in results["another"]["error"] and "Traceback" not in done.err
    assert [results[a]["outcome"] for a in EMPTY.values()] == ["Done"] * 3, done.out
    runs = {account: running.ledger.runs(account) for account in EMPTY}
    for account, alias in EMPTY.items():
        assert results[alias]["run"] == runs[account][-1].run
        assert runs[account][-1].ended_at is not None
    # Side by side: the second began before the first had ended.
    assert runs["222200002222"][0].started_at < runs["111100001111"][0].ended_at
    # Two at most: the third waited for one of these.
    first, second, third = sorted((rows[0] for rows in runs.values()), key=lambda row: row.started_at)
    assert third.started_at >= min(first.ended_at, second.ended_at)
