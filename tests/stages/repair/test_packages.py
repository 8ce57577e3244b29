"""rpm, snap, and snap beside deb: repair's real scripts against recorded output. No real host of the kind was
tried, and every such change says so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from haltuun.config import AgentConfig, PackagePin
from haltuun.errors import HaltuunError
from haltuun.model import Change
from haltuun.stages.repair import STAGE
from haltuun.stages.repair.package import fitting, get_package, package_problems
from haltuun.stages.repair.plan import UNPROVEN
from tests.stages.repair.moved_kit import Moved, perform, undo
from tests.stages.repair.plan_kit import MI, agent, plan

NEW, OLD = "3.3.1142.0", "2.2.800.0"


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moved]:
    monkeypatch.setenv("HALTUUN_AGENT_WAIT_S", "30")
    yield Moved(tmp_path / "root")


def planned(host: Moved, pins: list[PackagePin], state: Path) -> tuple[Change, ...]:
    run = host.run(pins, state)
    made = plan(host.look(run), package=run.config.agent, package_problems=package_problems(run.config.agent))
    assert made.barred == ()
    return made.changes


def is_said_to_be_unproven(change: Change) -> bool:
    return UNPROVEN in change.summary and change.after["proven"] == "on recorded output only"


@pytest.mark.parametrize(("shell", "kind"), [("busybox sh", "rpm"), ("mksh", "rpm"), ("dash", "snap")])
def test_installed_proven_and_removed_again(moved: Moved, tmp_path: Path, shell: str, kind: str) -> None:
    moved.shell = shell
    moved.stand_in(kind)
    pin = moved.package(kind, NEW)
    run = moved.run([pin], tmp_path)
    (install,) = planned(moved, [pin], tmp_path)
    assert install.before["package"] == "none" and is_said_to_be_unproven(install)
    key = moved.registered()
    (moved.root / "takes-state").touch()
    (moved.root / "locked").touch()

    perform(run, install)
    assert (moved.look(run).package, moved.look(run).running) == (kind, True)
    undo(run, install)
    assert moved.look(run).package == "none"
    assert key.read_text() == '{"instanceID":""}', "what the package manager took of the state is back"
    asked = [call.split()[1] for call in moved.calls(kind)]
    expected = {"rpm": ["-U", "-U", "-V", "-e"], "snap": ["info", "install", "install"]}[kind]
    assert asked[: len(expected)] == expected, "a lock is waited for"
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds["agent.remove"].apply(run, install)
    assert caught.value.code == "PLAN_STALE", "what Haltuun did not install is not removed"


@pytest.mark.parametrize("former", [True, False])
def test_an_old_agent_is_replaced_and_the_former_one_is_the_way_back(
    moved: Moved, tmp_path: Path, former: bool
) -> None:
    moved.stand_in("rpm")
    pins = [moved.package("rpm", NEW), *([moved.package("rpm", OLD)] if former else [])]
    run = moved.run(pins, tmp_path)
    (moved.root / "rpmdb").write_text(f"{OLD}-1\n")
    moved.tool("amazon-ssm-agent", "#!/bin/sh\n")
    moved.systemctl("enable", "amazon-ssm-agent")
    moved.systemctl("start", "amazon-ssm-agent")
    (replace,) = planned(moved, pins, tmp_path)
    assert (replace.before["version"], replace.after["version"]) == (OLD, NEW)
    assert is_said_to_be_unproven(replace)
    if not former:
        assert replace.undo is None
        assert f"version {OLD}, which was there, is not pinned" in replace.no_undo
        return
    perform(run, replace)
    assert moved.look(run).version == NEW
    undo(run, replace)
    assert (moved.look(run).version, moved.look(run).running) == (OLD, True)


def test_a_package_of_which_the_binary_is_gone_is_made_whole(moved: Moved, tmp_path: Path) -> None:
    moved.stand_in("rpm")
    pin = moved.package("rpm", NEW)
    run = moved.run([pin], tmp_path)
    (moved.root / "rpmdb").write_text(f"{NEW}-1\n")
    (again,) = planned(moved, [pin], tmp_path)
    assert again.kind == "agent.install" and again.undo is None and again.no_undo
    perform(run, again)
    assert (moved.root / "usr/bin/amazon-ssm-agent").exists()


def test_what_was_changed_on_its_way_is_not_installed(moved: Moved, tmp_path: Path) -> None:
    moved.stand_in("rpm")
    pin = moved.package("rpm", NEW)
    (install,) = planned(moved, [pin], tmp_path)
    moved.tampered = b" "
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds["agent.install"].apply(moved.run([pin], tmp_path), install)
    assert "sha256 is not the pinned one" in caught.value.message and caught.value.unchanged
    assert moved.calls("rpm") == []


@pytest.mark.parametrize(
    ("file", "said", "reason"),
    [
        ("amazon-ssm-agent 3.3.1142.0 aarch64", "", "the package is for aarch64"),
        ("amazon-ssm-agent 3.0.0.0 x86_64", "", "holds version 3.0.0.0"),
        ("no package", "", "the package is not amazon-ssm-agent"),
        ("amazon-ssm-agent 3.3.1142.0 x86_64", "half", "missing     /usr/bin/amazon-ssm-agent"),
    ],
)
def test_what_is_not_the_pinned_agent_is_not_left_there(
    moved: Moved, tmp_path: Path, file: str, said: str, reason: str
) -> None:
    moved.stand_in("rpm")
    pin = moved.package("rpm", NEW)
    run = moved.run([pin], tmp_path)
    (install,) = planned(moved, [pin], tmp_path)
    if said:
        (moved.root / said).touch()
    other = moved.root / "packages" / f"{NEW}-amd64.rpm"
    other.write_text(f"{file}\n")
    wrong = moved.run([pin.model_copy(update={"sha256": _sum(other)})], tmp_path)
    change = install.model_copy(update={"after": {**install.after, "sha256": _sum(other)}})
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds["agent.install"].apply(wrong, change)
    assert caught.value.code == "REPAIR_FAILED" and reason in caught.value.message
    assert moved.look(run).package == "none"
    assert not (moved.root / "var/lib/haltuun/installed/amazon-ssm-agent").exists()


def _sum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def both(moved: Moved, deb: str, snap: str) -> None:
    """deb and snap are installed; "running, enabled" and so on, of each."""
    moved.stand_in("snap")
    (moved.root / "dpkg").write_text(f"install ok installed {NEW}-1\n")
    moved.tool("amazon-ssm-agent", "#!/bin/sh\n")
    there = moved.root / "snap/amazon-ssm-agent/current/meta"
    there.mkdir(parents=True)
    (there / "snap.yaml").write_text(f"name: amazon-ssm-agent\nversion: '{NEW}'\n")
    for unit, state in (("amazon-ssm-agent", deb), ("snap.amazon-ssm-agent.amazon-ssm-agent", snap)):
        if state.endswith(" enabled"):
            moved.systemctl("enable", unit)
        if state.startswith("running"):
            moved.systemctl("start", unit)


ON, IDLE, OFF = "running, enabled", "stopped, enabled", "stopped, disabled"


@pytest.mark.parametrize(
    ("deb", "snap", "stopped"),
    [
        (ON, ON, "deb"),
        (ON, "stopped, enabled", "snap"),
        ("stopped, enabled", ON, "deb"),
        ("stopped, enabled", "stopped, enabled", "deb"),
        ("running, disabled", "stopped, enabled", "snap"),
    ],
)
def test_of_snap_and_deb_the_one_not_in_use_is_stopped(deb: str, snap: str, stopped: str) -> None:
    seen = agent(packages={"deb": NEW, "snap": NEW}, services={"deb": deb, "snap": snap})
    (stop,) = plan(seen).changes
    kept = "snap" if stopped == "deb" else "deb"
    assert stop.kind == "agent.service" and is_said_to_be_unproven(stop)
    assert stop.before == {f"{kind}_service": seen.services[kind] for kind in ("deb", "snap")}
    assert (stop.after[f"{stopped}_service"], stop.after[f"{kept}_service"]) == (OFF, ON)


@pytest.mark.parametrize(
    ("deb", "snap", "stopped", "kept"), [(ON, ON, "deb", "snap"), (ON, IDLE, "snap", "deb")]
)
def test_it_is_stopped_and_the_other_is_proven(
    moved: Moved, tmp_path: Path, deb: str, snap: str, stopped: str, kept: str
) -> None:
    both(moved, deb, snap)
    run = moved.run([], tmp_path)
    (stop,) = planned(moved, [], tmp_path)
    perform(run, stop)
    seen = moved.look(run)
    assert seen.services == {stopped: OFF, kept: ON}
    assert (seen.package, seen.running, seen.enabled) == (kept, True, True)
    assert plan(seen).barred[0].code == "WAITING_SERVICE", "both are installed, and it is no fault any more"
    undo(run, stop)
    assert moved.look(run).services == {"deb": deb, "snap": snap}


def test_without_proof_both_services_are_as_they_were(
    moved: Moved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALTUUN_AGENT_WAIT_S", "1")
    both(moved, ON, IDLE)
    run = moved.run([], tmp_path)
    (stop,) = planned(moved, [], tmp_path)
    (moved.root / "start.log").write_text("Agent will take identity from EC2\n")
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds[stop.kind].apply(run, stop)
    assert "as they were again" in caught.value.message
    assert moved.look(run).services == {"deb": ON, "snap": IDLE}


def test_two_packages_and_a_stale_registration(moved: Moved, tmp_path: Path) -> None:
    both(moved, ON, ON)
    moved.registered(f'{{"instanceID":"{MI}","region":"eu-central-1","privateKey":"k"}}')
    manifest = moved.root / "var/lib/amazon/ssm/Vault/Manifest"
    manifest.write_text('{"RegistrationKey":"x"}')
    run = moved.run([], tmp_path)
    made = plan(moved.look(run))
    assert [change.kind for change in made.changes] == ["agent.service", "agent.clear", "agent.vault_aside"]
    assert all(made.changes[0].id in change.depends_on for change in made.changes[1:])


def test_two_packages_of_which_one_is_the_only_way_in(moved: Moved, tmp_path: Path) -> None:
    both(moved, ON, ON)
    seen = moved.look(moved.run([], tmp_path))
    (barred,) = plan(seen, way="run-command").barred
    assert barred.code == "SNAP_NEEDS_SSH"
    (unseen,) = plan(seen.model_copy(update={"services": {}})).barred
    assert unseen.code == "SNAP_AND_DEB"


def pin(kind: str, arch: str, sum_of: str = "a") -> PackagePin:
    return PackagePin.model_validate({"format": kind, "arch": arch, "version": NEW, "sha256": sum_of * 64})


@pytest.mark.parametrize(
    ("managers", "fits"),
    [
        ({"deb": "amd64", "snap": "x86_64"}, ["deb any", "snap amd64"]),
        ({"rpm": "aarch64"}, ["rpm arm64"]),
        ({"rpm": "x86_64"}, []),
        ({}, []),
    ],
)
def test_the_pin_is_chosen_by_package_manager_and_architecture(
    managers: dict[str, str], fits: list[str]
) -> None:
    config = AgentConfig(
        version=NEW,
        sha256="d" * 64,
        packages=[pin("snap", "amd64"), pin("rpm", "arm64")],
    )
    assert [f"{one.format} {one.arch}" for one in fitting(config, managers)] == fits


def test_where_a_pinned_package_is_looked_for(tmp_path: Path) -> None:
    config = AgentConfig(package_source=str(tmp_path), packages=[pin("rpm", "arm64")])
    assert package_problems(config) == {"a" * 64: "there is no *.rpm in the folder."}
    (tmp_path / "x.rpm").write_text("x")
    assert package_problems(config) == {"a" * 64: "no *.rpm in the folder has the pinned sha256."}
    with pytest.raises(HaltuunError, match=r"AWS offers no \*\.snap"):
        get_package(AgentConfig(package_source="https://127.0.0.1:9/x"), pin("snap", "any"), "amd64")
