"""Runs against a real Prefect server: what they print, how they end, what they leave."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest

from haltuun import errors
from tests.cli.kit import ACCOUNT, ALIAS, REGION, Cli, Front, until
from tests.prefect_fixtures import PrefectServer

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

HTML_500 = (500, "text/html", b"<!doctype html><title>500</title><h1>Internal Server Error</h1>")
HTML_404 = (404, "text/html", b"<!doctype html><title>404</title><h1>Not Found</h1>")
CHANGE_KEYS = {"id", "stage", "kind", "hosts", "region", "target", "summary", "permissions", "reach", "undo"}
FINDING_KEYS = {"code", "severity", "host", "message", "evidence", "remedy"}


def last_events(cli: Cli) -> Counter[str]:
    """How the life of every change that was begun ended."""
    last = {event.change_id: event.event for event in cli.ledger.change_events(ACCOUNT)}
    return Counter(last.values())


def test_a_plan_as_json_and_an_account_where_optional_reads_fail(running: Cli) -> None:
    whole = running.document("plan", ALIAS)
    assert {"account", "plan_hash", "findings", "changes"} <= whole.keys()
    assert whole["account"] == ACCOUNT and len(whole["plan_hash"]) == 16
    assert whole["changes"] and whole["findings"]
    assert all(change.keys() >= CHANGE_KEYS for change in whole["changes"])
    assert all(finding.keys() >= FINDING_KEYS for finding in whole["findings"])

    lacking = {
        "DescribeImages": HTML_404,
        "DescribeInstanceInformation": HTML_404,
        "GetServiceSetting": HTML_500,
        "DescribeRegions": HTML_404,
    }
    running.fault("backup:*", "AccessDeniedException")
    running.fault("iam:SimulatePrincipalPolicy", "AccessDeniedException")
    try:
        with Front(running.endpoint_url, lacking) as front:
            done = running.call("plan", ALIAS, "--json", AWS_ENDPOINT_URL=front.url)
            assert set(front.asked) == set(lacking)
    finally:
        running.fault("backup:*", None)
        running.fault("iam:SimulatePrincipalPolicy", None)
    assert (done.code, done.err) == (errors.EXIT_OK, "")
    partial = json.loads(done.out)
    assert any("could not be" in finding["message"] for finding in partial["findings"])
    # What could not be read is not planned as if it were absent.
    kinds = {change["kind"] for change in partial["changes"]}
    assert not kinds & {"backup.vault", "backup.plan", "backup.selection"}, kinds


def test_killed_in_the_middle_then_held_by_one_run_and_brought_to_its_end(
    running: Cli, prefect_server: PrefectServer
) -> None:
    killed = running.start("takeover", ALIAS, "--yes")
    before = sum(last_events(running).values())
    until(lambda: sum(last_events(running).values()) > before + 2 or killed.poll() is not None)
    killed.kill()
    killed.communicate(timeout=20)
    assert killed.returncode == -signal.SIGKILL
    assert running.runs()[-1].ended_at is None

    known = len(running.runs())
    again = running.start("takeover", ALIAS, "--yes", "--json")
    try:
        until(lambda: len(running.runs()) > known)
        second = running.call("takeover", ALIAS, "--yes")
        out, err = again.communicate(timeout=150)
    finally:
        again.kill()
    assert second.code == errors.EXIT_ERROR
    second.sentence("LEASE_HELD", "works on this account since", "Wait for it to end")
    assert (again.returncode, err) == (errors.EXIT_HELD, "")
    document = json.loads(out)
    assert document["outcome"] == "PartiallyDone"
    assert set(last_events(running)) == {"confirmed"}
    _each_thing_once(running)
    _check_status(running)
    _check_history(running, prefect_server)


def _check_history(cli: Cli, prefect: PrefectServer) -> None:
    """No run stays Running that nobody runs, and one that was refused says so in a sentence."""
    mine = {"flow_runs": {"tags": {"all_": [f"account:{ALIAS}"]}}, "sort": "START_TIME_ASC"}
    runs = prefect.post("flow_runs/filter", mine)
    assert {run["state_type"] for run in runs} <= {"COMPLETED", "CRASHED"}, runs
    killed = next(run for run in cli.runs() if run.ended_at is None and run.mode == "apply")
    (row,) = [run for run in runs if run["id"] == killed.body["prefect_run"]]
    assert (row["state_type"], "Its process was killed" in row["state"]["message"]) == ("CRASHED", True)
    failed = {
        "flow_runs": {"state": {"type": {"any_": ["FAILED"]}}, "name": {"any_": [f"take over {ALIAS}"]}}
    }
    (refused,) = prefect.post("flow_runs/filter", failed)
    assert "[LEASE_HELD]" in refused["state"]["message"]
    logs = prefect.post("logs/filter", {"logs": {"flow_run_id": {"any_": [refused["id"]]}}})
    assert "Traceback" not in " ".join(line["message"] for line in logs)


def _each_thing_once(cli: Cli) -> None:
    """Nothing that the killed run made was made a second time."""
    backup = boto3.client(
        "backup",
        endpoint_url=cli.endpoint_url,
        region_name=REGION,
        aws_access_key_id="AKIAOPERATOR00000000",
        aws_secret_access_key="none",
    )
    plans = [plan["BackupPlanName"] for plan in backup.list_backup_plans()["BackupPlansList"]]
    vaults = [vault["BackupVaultName"] for vault in backup.list_backup_vaults()["BackupVaultList"]]
    jobs = Counter(job["ResourceArn"] for job in backup.list_backup_jobs()["BackupJobs"])
    assert plans and all(count == 1 for count in Counter(plans).values()), plans
    assert vaults and all(count == 1 for count in Counter(vaults).values()), vaults
    assert set(jobs.values()) == {1}, jobs


def _check_status(cli: Cli) -> None:
    document = cli.document("status", ALIAS, code=errors.EXIT_HELD)
    assert document["account"] == ACCOUNT and document["run"]
    assert {host["instance_id"] for host in document["hosts"]} == set(cli.instances.values())
    for host in document["hosts"]:
        assert {"instance_id", "region", "name", "stages"} <= host.keys()
        for stage in host["stages"].values():
            assert {"status", "reason", "message", "remedy", "since"} <= stage.keys()
        held = host["stages"]["verify"]
        assert held["status"] == "held" and held["reason"] and held["message"] and held["remedy"]
    shown = cli.document("show", "sound")
    assert shown["instance_id"] == cli.instances["sound"] and shown["facts"]
    # Not held: left alone, and no Prefect is needed for that.
    retried = cli.call("retry", ALIAS, "--host", "i-0aaaaaaaaaaaaaaaa", "--json")
    assert retried.code == errors.EXIT_OK
    assert json.loads(retried.out) == {key: document[key] for key in ("account", "run", "hosts")}
    assert "i-0aaaaaaaaaaaaaaaa is not known to the ledger: left alone." in retried.err


def test_a_retry_looks_says_why_it_leaves_hosts_alone_and_tries_them_when_forced(running: Cli) -> None:
    """Both hosts refuse SSH as before: nothing has moved, and a look is no try."""
    known = len(running.runs())
    done = running.call("retry", ALIAS)
    assert done.code == errors.EXIT_HELD, done
    assert "leave verify" in done.out and "Nothing that holds it has changed since" in done.out
    assert done.out.splitlines()[-1] == "Nothing was retried."
    assert [run.mode for run in running.runs()[known:]] == ["plan"]

    (sound,) = (i for name, i in running.instances.items() if name == "sound")
    forced = running.document("retry", ALIAS, "--host", sound, "--force", code=errors.EXIT_HELD)
    (decision,) = forced["retry"]
    assert (decision["host"], decision["action"], decision["changed"]) == (sound, "retry", [])
    assert decision["why"] == "Nothing that holds it has changed; forced."
    last = running.runs()[-1]
    assert (last.mode, last.body["hosts"]) == ("apply", [sound])
    assert last.body["stages"][0] == decision["stage"]
    assert [event.run for event in running.ledger.host_events(ACCOUNT, "tried")] == [last.run]


@pytest.mark.soak
def test_a_retry_that_is_killed_was_a_try(running: Cli) -> None:
    """Otherwise a host whose repair brings the process down would be tried for ever."""
    running.run("takeover", ALIAS, "--yes", timeout_s=250.0)
    before = len(running.ledger.host_events(ACCOUNT, "tried"))
    run = running.start("retry", ALIAS, "--host", running.instances["sound"], "--force")
    until(lambda: len(running.ledger.host_events(ACCOUNT, "tried")) > before, timeout_s=250.0)
    run.kill()
    run.communicate()
    tried = running.ledger.host_events(ACCOUNT, "tried")[-1]
    last = running.runs()[-1]
    assert (tried.run, last.mode, last.ended_at) == (last.run, "apply", None)


def test_ctrl_c_ends_with_a_sentence_and_gives_the_account_back(running: Cli) -> None:
    known = len(running.runs())
    run = running.start("takeover", ALIAS, "--yes")
    until(lambda: len(running.runs()) > known)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    assert err.startswith(f"{ALIAS} ({ACCOUNT}) as arn:aws:"), err
    for told in (f"in {REGION}: mode apply, every change is approved unseen", "waves of 10, 30, 60 %"):
        assert told in err.splitlines()[0]
    assert err.splitlines()[-1].startswith("haltuun: stopped. The ledger holds what was done"), err
    assert "Traceback" not in err
    ended = running.runs()[-1]
    assert ended.ended_at is not None and ended.outcome == "Stopped"
    running.ledger.release_lease(running.ledger.take_lease(ACCOUNT, "after Ctrl-C"))


def test_an_unknown_instance_of_a_run(running: Cli) -> None:
    done = running.call("plan", ALIAS, "--host", "i-0aaaaaaaaaaaaaaaa", "--json")
    assert done.code == errors.EXIT_USAGE
    done.sentence("UNKNOWN_HOST", "i-0aaaaaaaaaaaaaaaa", REGION)


@pytest.mark.parametrize("command", ["recheck", "onboard"])
def test_nothing_to_do_is_said_and_is_a_document(running: Cli, command: str) -> None:
    if not running.ledger.was_begun(ACCOUNT):  # run alone; else a test before has taken it over
        now = datetime.now(UTC)
        running.ledger.start_run(ACCOUNT, "begun", {"mode": "apply"}, now)
        running.ledger.end_run(ACCOUNT, "begun", "PartiallyDone", {}, now)
    assert running.document(command) == []


def test_a_server_that_is_no_prefect(running: Cli) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.endswith("/health") else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """A test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/api"
        done = running.run("plan", ALIAS, PREFECT_API_URL=url)
    finally:
        server.shutdown()
        server.server_close()
    assert done.code == errors.EXIT_ERROR
    done.sentence("PREFECT_UNREACHABLE", url)
