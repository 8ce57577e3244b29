"""rpm, snap, and snap beside deb: repair's real scripts against recorded output. No real host of the kind was
tried, and every such change says so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from haltuun.config import AgentConfig, PackagePin
from haltuun.errors import HaltuunError
from haltuun.model import Change, Reach
from haltuun.run import Run
from haltuun.stages.repair import STAGE
from haltuun.stages.repair.facts import RootCredentials
from haltuun.stages.repair.package import fitting, get_package, package_problems
from haltuun.stages.repair.plan import UNPROVEN
from tests.stages.repair.moved_kit import Moved, perform, undo
from tests.stages.repair.plan_kit import IID, MI, agent, node, plan

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
    assert key.read_text() == '{"instanceID":""}', "what was taken in installing is back"
    undo(run, install)
    assert moved.look(run).package == "none"
    assert key.read_text() == '{"instanceID":""}', "what was taken in removing is back"
    assert moved.saw("took the state") == {"rpm": 2, "snap": 1}[kind]
    asked = [call.split()[1] for call in moved.calls(kind)]
    expected = {"rpm": ["-U", "-U", "-V", "-e"], "snap": ["info", "install", "install"]}[kind]
    assert asked[: len(expected)] == expected, "a lock is waited for"
    STAGE.kinds["agent.remove"].apply(moved.run([pin], tmp_path), install)  # one that was killed at its end
    assert moved.look(run).package == "none"


@pytest.mark.parametrize("kind", ["rpm", "snap"])
def test_what_haltuun_did_not_install_is_not_removed(moved: Moved, tmp_path: Path, kind: str) -> None:
    moved.stand_in(kind)
    pin = moved.package(kind, NEW)
    run = moved.run([pin], tmp_path)
    (install,) = planned(moved, [pin], tmp_path)
    perform(run, install)
    (note,) = moved.root.rglob("installed/amazon-ssm-agent")
    note.unlink()
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds["agent.remove"].apply(run, install)
    assert caught.value.code == "PLAN_STALE"
    assert moved.look(run).package == kind


def no_rpm(moved: Moved, tmp_path: Path) -> tuple[Run, Change]:
    """No agent, and the change that installs one."""
    moved.stand_in("rpm")
    pin = moved.package("rpm", NEW)
    (install,) = planned(moved, [pin], tmp_path)
    return moved.run([pin], tmp_path), install


def old_rpm(moved: Moved, tmp_path: Path, *, up: bool = True, former: bool = True) -> tuple[Run, Change]:
    """An old agent, of which the binary is gone where it is not up; and the change that replaces it."""
    moved.stand_in("rpm")
    pins = [moved.package("rpm", NEW), *([moved.package("rpm", OLD)] if former else [])]
    (moved.root / "rpmdb").write_text(f"{OLD}-1\n")
    if up:
        moved.tool("amazon-ssm-agent", "#!/bin/sh\n")
        moved.systemctl("enable", "amazon-ssm-agent")
        moved.systemctl("start", "amazon-ssm-agent")
    (replace,) = planned(moved, pins, tmp_path)
    assert (replace.before["version"], replace.after["version"]) == (OLD, NEW)
    assert is_said_to_be_unproven(replace)
    return moved.run(pins, tmp_path), replace


@pytest.mark.parametrize("up", [True, False])
def test_an_old_agent_is_replaced_and_the_former_one_is_the_way_back(
    moved: Moved, tmp_path: Path, up: bool
) -> None:
    run, replace = old_rpm(moved, tmp_path, up=up)
    assert replace.reach is Reach.host
    perform(run, replace)
    assert (moved.look(run).version, moved.look(run).running) == (NEW, True)
    undo(run, replace)
    seen = moved.look(run)
    assert (seen.version, seen.running, seen.enabled) == (OLD, up, up)


def test_what_leads_nowhere_back_is_asked_for(moved: Moved, tmp_path: Path) -> None:
    _, replace = old_rpm(moved, tmp_path, former=False)
    assert replace.undo is None and replace.reach is Reach.irreversible
    assert f"version {OLD}, which was there, is not pinned" in replace.no_undo


@pytest.mark.parametrize("proof", ["none", "of another identity"])
def test_without_proof_the_former_package_is_put_back(
    moved: Moved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: str
) -> None:
    monkeypatch.setenv("HALTUUN_AGENT_WAIT_S", "1")
    run, replace = old_rpm(moved, tmp_path)
    key = moved.registered()
    (moved.root / "takes-state").touch()
    identity = "EC2" if proof == "none" else "OnPrem"
    (moved.root / "start.log").write_text(f"Agent will take identity from {identity}\n")
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds[replace.kind].apply(run, replace)
    assert caught.value.code == ("NOT_PROVEN" if proof == "none" else "NOT_TAKEN")
    assert "The package that was there before was put back" in caught.value.message
    seen = moved.look(run)
    assert (seen.version, seen.running, seen.enabled) == (OLD, True, True)
    assert key.read_text() == '{"instanceID":""}'
    assert seen.unfinished == ()


@pytest.mark.parametrize(("identity", "code"), [("EC2", "NOT_PROVEN"), ("OnPrem", "NOT_TAKEN")])
def test_an_agent_that_does_not_come_up_where_there_was_none_is_removed_again(
    moved: Moved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identity: str, code: str
) -> None:
    """A change that failed is in no undo: nothing may be left of it."""
    monkeypatch.setenv("HALTUUN_AGENT_WAIT_S", "1")
    (moved.root / "start.log").write_text(f"Agent will take identity from {identity}\n")
    run, install = no_rpm(moved, tmp_path)
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds[install.kind].apply(run, install)
    assert caught.value.code == code and not caught.value.unchanged
    assert "The agent that Haltuun installed was removed again" in caught.value.message
    assert moved.look(run).package == "none"


def test_what_the_former_agent_said_proves_nothing_of_the_new_one(
    moved: Moved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt was killed before it laid the package, and the host started anew with the old agent."""
    monkeypatch.setenv("HALTUUN_AGENT_WAIT_S", "1")
    run, replace = old_rpm(moved, tmp_path)
    notes = moved.root / f"var/lib/haltuun/notes/{replace.id}-{run.id}"
    notes.mkdir(parents=True)
    (notes / "offset").write_text("0\n")
    moved.systemctl("stop", "amazon-ssm-agent")
    moved.systemctl("start", "amazon-ssm-agent")
    assert "channel" in (moved.root / "var/log/amazon/ssm/amazon-ssm-agent.log").read_text()
    (moved.root / "start.log").write_text("")
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds[replace.kind].apply(run, replace)
    assert caught.value.code == "NOT_PROVEN"
    assert moved.look(run).version == OLD


def test_run_again_it_sees_what_the_agent_said_when_it_came_up(
    moved: Moved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that was killed as it waited is run again, and an agent tells but once that it is there."""
    monkeypatch.setenv("HALTUUN_AGENT_WAIT_S", "1")
    run, install = no_rpm(moved, tmp_path)
    assert perform(run, install)["result"] == "done"
    assert STAGE.kinds[install.kind].apply(run, install)["result"] == "done"


@pytest.mark.parametrize("fresh", [True, False])
def test_a_port_that_falls_silent_takes_only_this_run_s_work_back(
    moved: Moved, tmp_path: Path, fresh: bool
) -> None:
    if fresh:
        run, change = no_rpm(moved, tmp_path)
    else:
        run, change = old_rpm(moved, tmp_path)
        mark = moved.root / "var/lib/haltuun/installed/amazon-ssm-agent"
        mark.parent.mkdir(parents=True)
        mark.write_text(f"{'0' * 64} rpm\n")  # an earlier run installed it
    key = moved.registered()
    (moved.root / "takes-state").touch()
    moved.silences()
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds[change.kind].apply(run, change)
    assert caught.value.code == "SERVICE_SILENCED"
    assert ("removed again" if fresh else "was put back") in caught.value.message
    assert moved.look(run).packages == ({} if fresh else {"rpm": f"{OLD}-1"})
    assert key.read_text() == '{"instanceID":""}'


@pytest.mark.parametrize("linked", ["ssm", "ssm/Vault", "ssm/Vault/Store/RegistrationKey"])
def test_a_registration_behind_a_link_is_not_touched(moved: Moved, tmp_path: Path, linked: str) -> None:
    run, replace = old_rpm(moved, tmp_path)
    key = moved.registered()
    link = moved.root / "var/lib/amazon" / linked
    link.rename(moved.root / "disk")
    link.symlink_to(moved.root / "disk")
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds[replace.kind].apply(run, replace)
    assert f"{linked} is a link" in caught.value.message and caught.value.unchanged
    assert not [call for call in moved.calls("rpm") if "-U" in call] and key.exists()
    assert moved.look(run).running


def old_deb(moved: Moved, tmp_path: Path) -> tuple[Run, Change]:
    moved.stand_in("dpkg")
    (moved.root / "debian").touch()
    (moved.root / "dpkg").write_text(f"install ok installed {OLD}-1\n")
    pin = moved.package("deb", NEW, said="amd64")
    (replace,) = planned(moved, [pin], tmp_path)
    return moved.run([pin], tmp_path), replace


@pytest.mark.parametrize("ours", [False, True])
def test_what_dpkg_left_half_of_an_agent_that_was_in_use_is_not_removed(
    moved: Moved, tmp_path: Path, ours: bool
) -> None:
    """The mark of an installation of Haltuun's own stays for as long as that is not taken back."""
    run, replace = old_deb(moved, tmp_path)
    mark = moved.root / "var/lib/haltuun/installed/amazon-ssm-agent"
    if ours:
        mark.parent.mkdir(parents=True)
        mark.write_text("sha deb\n")
    (moved.root / "killed").touch()
    (moved.root / "broken").touch()
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds[replace.kind].apply(run, replace)
    assert "error processing package" in caught.value.message
    asked = [call.split()[1] for call in moved.calls("dpkg")]
    assert asked == ["-i", "-i"], "killed, and begun once more; what was there before Haltuun stays"
    assert mark.exists() == ours

    (again,) = planned(moved, list(run.config.agent.packages), tmp_path)
    assert again.undo is None and "dpkg left half" in again.no_undo
    assert again.reach is Reach.irreversible, "a person decides"
    with pytest.raises(HaltuunError):
        STAGE.kinds[again.kind].apply(moved.run(list(run.config.agent.packages), tmp_path), again)
    assert "dpkg --remove amazon-ssm-agent" not in moved.calls("dpkg")

    (moved.root / "broken").unlink()
    perform(moved.run(list(run.config.agent.packages), tmp_path), again)


def test_what_was_killed_where_nothing_was_is_removed(moved: Moved, tmp_path: Path) -> None:
    run, install = old_deb(moved, tmp_path)
    (moved.root / "dpkg").unlink()
    (install,) = planned(moved, list(run.config.agent.packages), tmp_path)
    for name in ("killed", "broken"):
        (moved.root / name).touch()
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds[install.kind].apply(run, install)
    assert "removed again" in caught.value.message
    assert moved.calls("dpkg")[-1] == "dpkg --remove amazon-ssm-agent"
    assert not moved.look(run).deb_is_half


def test_what_was_killed_half_configured_is_ended_by_the_next_run_and_removed_by_its_undo(
    moved: Moved, tmp_path: Path
) -> None:
    """All of its files are there, the program too; dpkg alone knows that it never came to an end."""
    run, _ = old_deb(moved, tmp_path)
    (moved.root / "dpkg").write_text(f"install ok half-configured {NEW}-1\n")
    stand_in = moved.root / "usr/bin/amazon-ssm-agent"
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(0o755)
    mark = moved.root / "var/lib/haltuun/installed/amazon-ssm-agent"
    mark.parent.mkdir(parents=True)
    mark.write_text("sha deb\n")
    (install,) = planned(moved, list(run.config.agent.packages), tmp_path)
    assert install.kind == "agent.install"
    assert install.undo is not None and install.undo.kind == "agent.remove"
    perform(run, install)
    undo(run, install)
    assert moved.look(run).packages == {} and not stand_in.exists() and not mark.exists()


def test_the_lock_is_waited_for_while_the_agent_runs(moved: Moved, tmp_path: Path) -> None:
    run, replace = old_rpm(moved, tmp_path)
    lock = moved.root / "var/lib/rpm/.rpm.lock"
    lock.parent.mkdir()
    lock.touch()
    held = moved.root / "proc/locks"
    held.write_text(f"1: POSIX  ADVISORY  WRITE 4321 fe:01:{lock.stat().st_ino} 0 EOF\n")
    moved.tool("sleep", f'#!/bin/sh\necho "systemctl -- waits" >>"$ROOT/calls"\nrm -f {held}\n')
    perform(run, replace)
    said = [call.split()[1] for call in moved.calls("systemctl")]
    assert said.index("--") < len(said) - 1 - said[::-1].index("stop")
    assert "stop" not in said[: said.index("--")]


@pytest.mark.parametrize("mark", ["", "0" * 64])
def test_a_mark_without_a_format_is_removed_by_what_is_there(moved: Moved, tmp_path: Path, mark: str) -> None:
    moved.stand_in("rpm")
    pin = moved.package("rpm", NEW)
    run = moved.run([pin], tmp_path)
    (install,) = planned(moved, [pin], tmp_path)
    perform(run, install)
    (moved.root / "var/lib/haltuun/installed/amazon-ssm-agent").write_text(mark)
    undo(run, install)
    assert moved.look(run).package == "none"


def test_dpkg_as_a_tool_installs_nothing(moved: Moved, tmp_path: Path) -> None:
    moved.stand_in("rpm")
    moved.stand_in("dpkg")
    run = moved.run([], tmp_path)
    assert moved.look(run).managers == {"rpm": "x86_64"}
    (moved.root / "debian").touch()
    assert moved.look(run).managers == {"deb": "amd64"}


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


@pytest.mark.parametrize("fault", ["silences", "stuck"])
def test_what_goes_wrong_with_two_services_gives_both_back(moved: Moved, tmp_path: Path, fault: str) -> None:
    both(moved, ON, IDLE)
    moved.registered()
    (moved.root / "units/snap.amazon-ssm-agent.amazon-ssm-agent/active").touch()
    run = moved.run([], tmp_path)
    (stop,) = planned(moved, [], tmp_path)
    if fault == "silences":
        moved.silences()
    else:
        (moved.root / "stuck").touch()
    with pytest.raises(HaltuunError) as caught:
        STAGE.kinds[stop.kind].apply(run, stop)
    assert caught.value.code == ("SERVICE_SILENCED" if fault == "silences" else "REPAIR_FAILED")
    assert "The services of both packages are as they were again" in caught.value.message
    assert moved.look(run).services == {"deb": ON, "snap": ON}


def test_two_packages_on_a_host_that_works_are_no_reason_to_restart() -> None:
    seen = agent(packages={"deb": NEW, "snap": NEW}, services={"deb": ON, "snap": ON})
    token = RootCredentials(
        present=True, sections=("default",), default_kind="temporary", of_agent=True, digest="d" * 64
    )
    online = (node(IID),)
    assert plan(seen, nodes=online).changes == ()
    changes = plan(seen.model_copy(update={"credentials": token, "hybrid_dirs": (MI,)}), nodes=online).changes
    assert [change.kind for change in changes] == ["agent.credentials_aside"]


def test_of_two_packages_the_one_that_is_kept_starts(moved: Moved, tmp_path: Path) -> None:
    """Else neither would, and the registration's step would start the one that was stopped."""
    both(moved, IDLE, "running, disabled")
    moved.registered(f'{{"instanceID":"{MI}","region":"eu-central-1","privateKey":"k"}}')
    (moved.root / "var/lib/amazon/ssm/Vault/Manifest").write_text('{"RegistrationKey":"x"}')
    (moved.root / "start.log").write_text("Agent will take identity from OnPrem\n")
    run = moved.run([], tmp_path)
    stop, clear, _ = plan(moved.look(run)).changes
    assert (stop.kind, clear.kind) == ("agent.service", "agent.clear")
    perform(run, stop)
    seen = moved.look(run)
    assert (seen.services, seen.package) == ({"deb": OFF, "snap": ON}, "snap")
    undo(run, stop)
    assert moved.look(run).services == {"deb": IDLE, "snap": "running, disabled"}


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


def test_a_pin_for_the_architecture_is_before_one_for_any() -> None:
    as_yaml_reads_it = pin("deb", "386").model_dump() | {"arch": 386}
    config = AgentConfig.model_validate(
        {"version": NEW, "sha256": "d" * 64, "packages": [pin("deb", "arm64"), as_yaml_reads_it]}
    )
    for said, arch in (("arm64", "arm64"), ("i386", "386"), ("amd64", "any")):
        assert next(fitting(config, {"deb": said})).arch == arch


def test_where_a_pinned_package_is_looked_for(tmp_path: Path) -> None:
    config = AgentConfig(package_source=str(tmp_path), packages=[pin("rpm", "arm64")])
    assert package_problems(config) == {"a" * 64: "there is no *.rpm in the folder."}
    (tmp_path / "x.rpm").write_text("x")
    assert package_problems(config) == {"a" * 64: "no *.rpm in the folder has the pinned sha256."}
    with pytest.raises(HaltuunError, match=r"AWS offers no \*\.snap"):
        get_package(AgentConfig(package_source="https://127.0.0.1:9/x"), pin("snap", "any"), "amd64")
