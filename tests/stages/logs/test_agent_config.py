"""From what runs on a host to the agent's configuration: one file a case under tests/cases/logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from haltuun.model import Unknown
from haltuun.stages.discover.facts import DiscoverFacts, LogFile
from haltuun.stages.logs.agent_config import MAX_BYTES, files_seen, wanted_config
from haltuun.stages.logs.names import leaving

CASES = sorted((Path(__file__).parents[2] / "cases" / "logs").glob("*.json"))


def shipped(discover: DiscoverFacts | None) -> dict[str, tuple[str, str]]:
    config = json.loads(wanted_config("acme", discover, None).text)
    entries = config["logs"]["logs_collected"]["files"]["collect_list"]
    return {e["file_path"]: (e["log_group_name"], e["log_stream_name"]) for e in entries}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case: dict[str, Any] = json.loads(path.read_text())
    facts = DiscoverFacts.model_validate(case["facts"])
    assert files_seen(facts) == case["seen"]
    found = shipped(facts)
    marker = found.pop("/var/log/haltuun/marker.log")
    assert marker == ("/haltuun/acme/marker", "{instance_id}")
    assert {path: group for path, (group, _) in found.items()} == case["ships"]
    assert all(not set("*:") & set(stream) for _, stream in found.values())


def test_what_is_added_names_no_user_that_the_predecessors_could_contradict() -> None:
    added = wanted_config("acme", DiscoverFacts(os_id="debian", cloudwatch_config=True), None)
    alone = wanted_config("acme", DiscoverFacts(os_id="debian", cloudwatch_config=False), None)
    assert (added.mode, set(json.loads(added.text))) == ("add", {"logs"})
    assert (alone.mode, json.loads(alone.text)["agent"]) == ("replace", {"run_as_user": "root"})
    assert added.hash != alone.hash


def test_what_nobody_looked_for_is_not_absent() -> None:
    assert isinstance(files_seen(None), Unknown)
    assert isinstance(files_seen(DiscoverFacts()), Unknown)


def test_unknown_facts_ship_the_logs_of_any_distribution() -> None:
    paths = set(shipped(None))
    assert {"/var/log/syslog", "/var/log/messages", "/var/log/auth.log", "/var/log/secure"} < paths


def test_the_same_files_in_another_order_are_the_same_configuration() -> None:
    files = [LogFile(path=f"/var/log/nginx/{name}.log", service="nginx") for name in ("b", "a")]
    one = wanted_config("acme", DiscoverFacts(os_id="debian", log_files=tuple(files)), None)
    other = wanted_config("acme", DiscoverFacts(os_id="debian", log_files=tuple(reversed(files))), None)
    assert one.hash == other.hash


def test_a_configuration_fits_into_a_parameter_and_says_what_is_left_out() -> None:
    long = "/var/log/apache2/a-very-long-virtual-host-name.example.com-access"
    files = tuple(LogFile(path=f"{long}-{n}.log", service="apache") for n in range(100))
    wanted = wanted_config(
        "a-rather-long-account-alias", DiscoverFacts(os_id="debian", log_files=files), None
    )
    assert len(wanted.text.encode()) <= MAX_BYTES
    assert wanted.left_out > 0
    assert len(wanted.files) + wanted.left_out == 2 + len(files)


def test_the_tag_keeps_the_mode_that_was_chosen_first() -> None:
    here = DiscoverFacts(cloudwatch_config=True, units=("ssh.service",))  # stopped, and yet configured
    gone = DiscoverFacts(cloudwatch_config=False)
    assert wanted_config("acme", here, None).mode == "add"
    assert wanted_config("acme", gone, None).mode == "replace"
    assert wanted_config("acme", DiscoverFacts(units=()), None).mode == "add", "nobody looked for one"
    assert wanted_config("acme", None, None).mode == "add"
    assert wanted_config("acme", here, "installing").mode == "replace"
    assert wanted_config("acme", here, "0123abcd").mode == "replace"
    assert wanted_config("acme", gone, "0123abcd-add").mode == "add"
    assert wanted_config("acme", gone, leaving("0123abcd-add")).mode == "add", "an undo was cut short"
