"""A takeover as a team runs it: deployed, triggered through the API, approved, looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from haltuun.config import load_config
from haltuun.effects import open_changes
from haltuun.ledger import Ledger
from lab import api
from lab.calls import mutations, seen_calls
from lab.screenshot import screenshot
from tests.prefect_fixtures import PrefectServer, kill_when

pytestmark = [pytest.mark.lab, pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

ALIAS = "acme-small"
ACCOUNT = "444455556666"
SCENARIO = f"""
name: small
account_id: "{ACCOUNT}"
alias: {ALIAS}
region: eu-west-1
images:
  old-web:
    source: vmware
    description: "AWS-VMImport service: Linux - Ubuntu 18.04.6 LTS - 4.15.0-213-generic"
hosts:
  - {{name: sound, os: ubuntu-22.04, launched: 2023-02-14T09:12:00Z}}
  - {{name: cloned, os: ubuntu-18.04, image: old-web, agent: stale, launched: 2020-02-14T09:12:00Z}}
"""
ME = "Jane <b>Doe</b>"
BY_THE_UI = f"{ME} (as given to the deployment)"
STAGES = ("discover", "verify", "repair", "patch", "backup", "logs")


@dataclass(frozen=True)
class Takeover:
    """Three runs of the deployment: the first asks, the second has the approval and its process is killed
    while it repairs a host, the third brings it to its end.

    `mutations` are the first's calls that change something.
    """

    server: PrefectServer
    hosts: dict[str, dict[str, Any]]
    asked: dict[str, Any]
    killed: dict[str, Any]
    approved: dict[str, Any]
    mutations: list[str]
    worker_log: str
    ledger_url: str
    env: dict[str, str]


@pytest.fixture(scope="module")
def takeover(deployed: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Takeover]:
    folder = tmp_path_factory.mktemp("team")
    scenario = folder / "small.yaml"
    scenario.write_text(SCENARIO)
    name = f"prefect-{folder.parent.name}"
    try:
        lab = api.up(scenario, out=folder / "lab", name=name)
        with deployed.worker(folder, lab.env) as log:
            before = seen_calls(lab.endpoint_url)
            asked = _run(deployed, {"account": ALIAS})
            changing = mutations(seen_calls(lab.endpoint_url) - before)
            approval = {"account": ALIAS, "plan_hash": _plan_hash(asked), "approved_by": ME}
            killed = deployed.trigger("take-over-account", approval)
            saved = Path(f"/proc/{lab.hosts['cloned']['pid']}/root/var/lib/haltuun/saved")
            kill_when(lambda: bool(list(saved.glob("*/COMPLETE"))), killed, log)
            approved = _approve_by_form(deployed, folder, _plan_hash(asked))
            crashed = deployed.get(f"flow_runs/{killed}")
        ledger = load_config(lab.config_path).ledger_url
        yield Takeover(
            deployed, lab.hosts, asked, crashed, approved, changing, log.read_text(), ledger, lab.env
        )
    finally:
        api.down(name)


def _run(server: PrefectServer, parameters: dict[str, Any]) -> dict[str, Any]:
    return server.await_end(server.trigger("take-over-account", parameters), deadline_s=800)


def _approve_by_form(server: PrefectServer, folder: Path, plan_hash: str) -> dict[str, Any]:
    """As a person does it: the deployment's form, filled in and submitted in a browser."""
    deployment = server.deployment("take-over-account")["id"]
    of_it = {"flow_runs": {"deployment_id": {"any_": [deployment]}}}
    before = {run["id"] for run in server.post("flow_runs/filter", of_it)}
    screenshot(
        f"{server.ui}/deployments/deployment/{deployment}/run",
        folder / "form.png",
        fill={"account": ALIAS, "plan_hash": plan_hash, "approved_by": ME},
        click=["Submit"],
        expect=["Upcoming"],
        size=(1400, 1500),
    )
    made = [run for run in server.post("flow_runs/filter", of_it) if run["id"] not in before]
    first = min(made, key=lambda run: run["created"])  # what a busy server answered late was sent twice
    return server.await_end(first["id"], deadline_s=800)


def _plan_hash(asked: dict[str, Any]) -> str:
    # As a person reads it in the UI: from the words of the run's state.
    found = re.search(r"plan_hash (\w+)", asked["state"]["message"] or "")
    assert found, asked["state"]
    return found[1]


def test_what_concerns_more_than_one_host_waits_for_approval(takeover: Takeover) -> None:
    assert (takeover.asked["state_type"], takeover.asked["state_name"]) == ("COMPLETED", "AwaitingApproval")
    # The role that both hosts share comes first, so nothing of a single host is done before it.
    # The one command is the proof of the sound one: an echo.
    assert takeover.mutations == ["ssm:SendCommand"]


def test_a_run_killed_while_it_repairs_a_host_is_told_and_brought_to_its_end(takeover: Takeover) -> None:
    assert takeover.killed["state_type"] == "CRASHED"
    ledger = Ledger(takeover.ledger_url)
    try:
        events = ledger.change_events(ACCOUNT)
    finally:
        ledger.close()
    assert open_changes(events) == []
    cleared = [event for event in events if event.change.kind == "agent.clear"]
    assert [event.event for event in cleared].count("confirmed") == 1
    assert {event.event for event in cleared} <= {"intended", "sent", "confirmed"}


def test_the_form_passes_on_the_plan_that_was_approved_and_nothing_else(takeover: Takeover) -> None:
    given = takeover.approved["parameters"]
    assert given["account"] == ALIAS and given["plan_hash"] == _plan_hash(takeover.asked)
    assert (given["mode"], given["stages"], given["hosts"], given["approve_all"]) == ("apply", [], [], False)


def test_an_approval_by_the_form_keeps_who_when_and_what_was_shown(takeover: Takeover) -> None:
    ledger = Ledger(takeover.ledger_url)
    try:
        run = next(r for r in ledger.runs(ACCOUNT) if r.body["prefect_run"] == takeover.approved["id"])
        (one,) = [one for one in ledger.approvals(ACCOUNT) if one.run == run.run]
        shown = ledger.shown(ACCOUNT, run.run)
        made = shown and ledger.plan_of(ACCOUNT, shown.plan_run)
    finally:
        ledger.close()
    assert run.ended_at is not None and run.started_at <= one.at <= run.ended_at
    assert (one.who, one.how, one.plan_hash) == (BY_THE_UI, "plan hash", _plan_hash(takeover.asked))
    assert shown is not None and made is not None
    assert shown.changes == made.changes and made.hash == one.plan_hash


@pytest.mark.soak
def test_the_held_host_is_retried_from_the_ui(takeover: Takeover, tmp_path: Path) -> None:
    server, held = takeover.server, takeover.hosts["cloned"]["instance_id"]
    named = {"account": ALIAS, "hosts": [held], "force": True, "approve_all": True, "approved_by": ME}
    with server.worker(tmp_path, takeover.env):
        left, forced = (
            server.await_end(server.trigger("retry-hosts", given), deadline_s=300)
            for given in ({"account": ALIAS}, named)
        )
    assert (left["state_type"], left["state_name"]) == ("COMPLETED", "NothingRetried")
    assert (forced["state_type"], forced["state_name"]) == ("COMPLETED", "PartiallyDone")
    for run, what, why in (
        (left, "leave", "Nothing that holds it has changed since it was judged on"),
        (forced, "retry", "Nothing that holds it has changed; forced."),
    ):
        (table,) = [a for a in server.artifacts(run["id"]) if a["key"] == f"retry-{ALIAS}"]
        (row,) = json.loads(table["data"])
        assert (row["host"], row["stage"], row["code"], row["what"]) == (held, "patch", "EOL", what)
        assert why in row["why"]
    ledger = Ledger(takeover.ledger_url)
    try:
        last = ledger.approvals(ACCOUNT)[-1]
    finally:
        ledger.close()
    assert last.who == BY_THE_UI and "every change, unseen" in last.how


def test_an_approved_run_takes_every_host_through_every_stage(takeover: Takeover) -> None:
    rows = takeover.server.task_runs(takeover.approved["id"])
    names = {row["name"] for row in rows}
    for stage in STAGES:
        for host in takeover.hosts.values():
            assert [name for name in names if name.startswith(f"{stage} {host['instance_id']}")], (
                stage,
                host,
            )
            tags = {f"account:{ALIAS}", f"stage:{stage}", f"host:{host['instance_id']}"}
            assert [row for row in rows if tags <= set(row["tags"])], (stage, host)
    # Repaired, backed up and logged like the other; only its system's end of life stays, and is red.
    held = [(row["name"].split()[:2], row["state_name"]) for row in rows if row["state_type"] == "FAILED"]
    assert held == [(["patch", takeover.hosts["cloned"]["instance_id"]], "Held")], takeover.worker_log
    assert (takeover.approved["state_type"], takeover.approved["state_name"]) == (
        "COMPLETED",
        "PartiallyDone",
    )


@pytest.mark.parametrize("which", ["asked", "approved"])
def test_every_task_run_is_recorded_and_ended(takeover: Takeover, which: str) -> None:
    run = getattr(takeover, which)
    rows = takeover.server.task_runs(run["id"])
    assert rows
    assert {row["state_type"] for row in rows} <= {"COMPLETED", "FAILED"}
    family = takeover.server.family(run["id"])
    assert {row["state_type"] for row in family} <= {"COMPLETED", "FAILED"}
    for row in family:
        assert f"account:{ALIAS}" in row["tags"], row["name"]
    # The run stands for its subflows in its own list of task runs.
    subflows = {row["parent_task_run_id"] for row in family}
    for row in rows:
        assert row["id"] in subflows or f"account:{ALIAS}" in row["tags"], row["name"]


def test_plan_gates_and_summary_are_artifacts_of_the_run(takeover: Takeover) -> None:
    keys = {artifact["key"] for artifact in takeover.server.artifacts(takeover.approved["id"])}
    assert {f"plan-{ALIAS}", f"summary-{ALIAS}", *(f"gate-{stage}-{ALIAS}" for stage in STAGES)} <= keys


@pytest.mark.parametrize(("which", "outcome"), [("asked", "AwaitingApproval"), ("approved", "PartiallyDone")])
def test_each_run_brings_the_account_s_page_up_to_date(takeover: Takeover, which: str, outcome: str) -> None:
    run = getattr(takeover, which)
    (page,) = [a for a in takeover.server.artifacts(run["id"]) if a["key"] == f"account-{ALIAS}"]
    assert page["data"].startswith("# 🔴" if which == "approved" else "# 🟡")
    assert f"ended as {outcome}" in page["data"] and page["description"] in page["data"]
    assert ("haltuun takeover" in page["data"]) == (which == "asked")


def test_a_person_sees_the_run_and_its_artifacts(takeover: Takeover, tmp_path: Path) -> None:
    server, run = takeover.server, takeover.approved
    picture = tmp_path / "run.png"
    screenshot(
        f"{server.ui}/runs/flow-run/{run['id']}",
        picture,
        click=["Artifacts"],
        expect=[run["name"], run["state_name"], f"account:{ALIAS}", f"summary-{ALIAS}"],
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    summary = next(a for a in server.artifacts(run["id"]) if a["key"] == f"summary-{ALIAS}")
    words = screenshot(
        f"{server.ui}/artifacts/artifact/{summary['id']}", tmp_path / "summary.png", expect=["cloned"]
    )
    for host in takeover.hosts:
        assert host in words
