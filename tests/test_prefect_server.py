"""The embedded Prefect server, and what prefect.yaml puts on a server."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import yaml

from haltuun.cli import server
from haltuun.errors import ServerUnreachable
from tasks.leftovers import FLOWS
from tests.prefect_fixtures import PROJECT, PrefectServer

DEPLOYMENTS = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]

MANY_TASKS = """
from prefect import flow, task
from prefect.futures import wait
from prefect.runtime import flow_run
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner
from tasks.tagging import tag_task_run

@task(task_run_name="host {number}", persist_result=False)
def host(number):
    tag_task_run("acme", hosts=[f"i-{number}"])
    return Failed(name="Held", message=f"host {number} is held") if number % 40 == 0 else number

@flow(task_runner=ThreadPoolTaskRunner(max_workers=10), persist_result=False)
def stage(count):
    wait([host.submit(number) for number in range(count)])

@flow(persist_result=False)
def run(count):
    stage(count)
    return str(flow_run.id)

print(run(120))
"""


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_every_entrypoint_is_a_module_path_that_imports(deployment: dict[str, str]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert flow.name == deployment["name"]
    # Else a run of it that is killed stays Running for ever: nobody would know whose it was.
    assert flow.name in FLOWS and "take_up" in inspect.unwrap(flow.fn).__code__.co_names


def test_connect_names_a_server_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(ServerUnreachable) as raised:
        server.connect(tmp_path)
    assert raised.value.subject == "http://127.0.0.1:9/api"
    assert "PREFECT_API_URL" in raised.value.remedy


def test_stop_leaves_a_process_alone_that_only_has_the_pid(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        home = tmp_path / "prefect"
        home.mkdir()
        (home / "server.json").write_text(
            json.dumps({"pid": stranger.pid, "started_ticks": 1, "port": 4200}), encoding="utf-8"
        )
        assert server.running(tmp_path) is None
        assert server.stop(tmp_path) is False
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.server
def test_server_is_shared_outlives_its_starter_and_keeps_its_address(state_dir: Path) -> None:
    starter = "import sys, pathlib, haltuun.cli.server as s; print(s.start(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", starter, str(state_dir)]
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(
                subprocess.run(command, capture_output=True, text=True).stdout.strip()
            )
        )
        for _ in range(2)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1, "two callers at once must get one server"
        assert server.running(state_dir) == found[0]
        assert server.answers(found[0])
        assert server.stop(state_dir) is True
        assert server.running(state_dir) is None
        assert not server.answers(found[0])
        assert server.start(state_dir) == found[0]
    finally:
        server.stop(state_dir)


@pytest.mark.server
def test_server_holds_no_credentials_of_the_account(
    prefect_server: PrefectServer,
) -> None:
    record = json.loads((prefect_server.state_dir / "prefect" / "server.json").read_text())
    environment = Path(f"/proc/{record['pid']}/environ").read_bytes().split(b"\0")
    assert not [entry for entry in environment if entry.startswith(b"AWS_")]
    assert f"PREFECT_API_URL={prefect_server.url}".encode() in environment


@pytest.mark.server
def test_server_that_cannot_start_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "prefect" / "prefect.db").mkdir(parents=True)
    with pytest.raises(server.ServerFailed) as raised:
        server.start(tmp_path)
    assert raised.value.subject == str(tmp_path / "prefect" / "server.log")
    assert "\n" not in raised.value.message
    assert server.running(tmp_path) is None


@pytest.mark.server
def test_no_task_run_is_lost_and_each_has_ended(prefect_server: PrefectServer, tmp_path: Path) -> None:
    script = tmp_path / "many.py"
    script.write_text(MANY_TASKS)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=prefect_server.environment(),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    flow_run_id = done.stdout.split()[-1]
    prefect_server.await_end(flow_run_id, deadline_s=60)
    ended = Counter(row["state_name"] for row in prefect_server.task_runs(flow_run_id))
    # The subflow stands in its parent as a task run of its own.
    assert ended == {"Held": 3, "Completed": 118}
    held = [row for row in prefect_server.task_runs(flow_run_id) if row["state_name"] == "Held"]
    assert {row["state_type"] for row in held} == {"FAILED"}
    assert sorted(row["tags"] for row in held) == [
        ["account:acme", f"host:i-{number}"] for number in (0, 40, 80)
    ]


@pytest.mark.server
def test_deployments_offer_a_typed_form_with_descriptions(deployed: PrefectServer) -> None:
    for declared in DEPLOYMENTS:
        deployment = deployed.deployment(declared["name"])
        assert deployment["entrypoint"] == declared["entrypoint"]
        assert deployment["enforce_parameter_schema"] is True
        for name, schema in deployment["parameter_openapi_schema"].get("properties", {}).items():
            assert schema.get("description"), f"{declared['name']}: the UI shows no help for '{name}'"
    modes = deployed.deployment("take-over-account")["parameter_openapi_schema"]["properties"]["mode"]
    assert modes["enum"] == ["plan", "apply"]
    assert [s["active"] for s in deployed.deployment("recheck-waiting-hosts")["schedules"]] == [True]
    assert [s["active"] for s in deployed.deployment("onboard-accounts")["schedules"]] == [True]
