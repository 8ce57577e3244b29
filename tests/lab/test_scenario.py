from __future__ import annotations

from pathlib import Path

import pytest

from lab.scenario import Scenario, ScenarioError, load_scenario


def test_the_demo_has_the_ten_hosts_of_the_story() -> None:
    scenario = load_scenario("demo")
    by_name = {host.name: host for host in scenario.hosts}
    assert len(by_name) == 10
    clones = [host for host in scenario.hosts if host.agent == "stale" and not host.asg]
    assert len(clones) == 2
    assert len({(host.image, host.mi_id, host.fingerprint) for host in clones}) == 1
    assert by_name["db-01"].operating_system.init == "upstart"
    assert by_name["db-01"].operating_system.openssh == "6.6"
    assert {"wordpress", "mysql"} <= set(by_name["blog-01"].apps)
    assert [host.name for host in scenario.hosts if host.asg] == ["asg-web-1"]
    assert not scenario.leftovers


@pytest.mark.parametrize("name", ["demo", "full", "dhmc", "hardened"])
def test_ids_depend_on_the_seed_and_on_nothing_else(name: str) -> None:
    first, again, other = load_scenario(name, 1), load_scenario(name, 1), load_scenario(name, 2)
    assert first == again
    assert [host.instance_id for host in first.hosts] != [host.instance_id for host in other.hosts]
    ids = [host.instance_id for host in first.hosts]
    assert len(set(ids)) == len(ids)
    assert len({host.private_ip for host in first.hosts}) == len(ids)


def test_the_full_scenario_has_every_other_fault() -> None:
    scenario = load_scenario("full")
    assert {host.agent for host in scenario.hosts} >= {
        "stopped",
        "disabled",
        "hybrid-deliberate",
        "connection-lost",
    }
    modes = {host.ssh_mode for host in scenario.hosts}
    assert modes >= {"refused", "changed-key", "twin-of", "no-key"}
    assert scenario.host("shadow").ssh_twin == "original"
    assert not scenario.host("windows-01").has_box
    assert not scenario.host("asleep").has_box
    assert scenario.host("miner").compromised
    assert set(scenario.leftovers) >= {"log-group", "patch-baseline", "backup-plan"}


def test_what_a_file_states_wins_over_what_the_seed_would_make(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(
        "name: one\naccount_id: 210987654321\nregion: us-west-2\nhosts:\n"
        "  - {name: a, os: ubuntu-14.04, instance_id: i-0123456789abcdef0, private_ip: 10.20.0.77,\n"
        "     agent: stale, mi_id: mi-0123eb6450bf5617b, mi_region: us-east-1}\n"
        "  - {name: b, patches_missing: [bash.amd64], ssh: {twin-of: a}}\n"
    )
    scenario = load_scenario(file, seed=7)
    host = scenario.host("a")
    assert scenario.account_id == "210987654321"
    assert (host.instance_id, host.private_ip) == ("i-0123456789abcdef0", "10.20.0.77")
    assert (host.mi_id, host.mi_region) == ("mi-0123eb6450bf5617b", "us-east-1")
    assert scenario.host("b").patches_missing[0].message()["State"] == "Missing"
    assert scenario.host("b").ssh_twin == "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nhosts:\n  - {name: a, agent: asleep}\n", "hosts.0.agent"),
        ("name: x\nhosts:\n  - {name: a, os: beos-5}\n", "beos-5"),
        ("name: x\nhosts:\n  - {name: a, colour: red}\n", "hosts.0.colour"),
        ("name: x\nhosts:\n  - {name: a}\n  - {name: a}\n", "two hosts are named a"),
        ("name: x\nhosts:\n  - {name: a, ssh: 'twin-of: b'}\n", "twin-of b"),
        ("name: [x\n", "not valid YAML"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ScenarioError, match=r"broken\.yaml") as caught:
        load_scenario(file)
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"nowhere\.yaml cannot be read"):
        load_scenario(tmp_path / "nowhere.yaml")


def test_an_unknown_host_is_named_with_the_known_ones() -> None:
    scenario = Scenario.model_validate({"name": "x", "hosts": [{"name": "a"}]})
    with pytest.raises(ScenarioError, match="it has a"):
        scenario.host("b")
