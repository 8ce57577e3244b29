"""The host's own note of how it was, and the way back to that, under the shells that hosts have."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from haltuun.stages.logs.document import back_script, document
from tests.stages.cloudwatch_kit import (
    CALLED,
    CONFIGURATIONS,
    CONTROL,
    HOME,
    JSON,
    RUNS,
    TOML,
    put_agent,
    tree,
)
from tests.stages.fakehost import SHELLS, FakeHost, fake_host, metadata_service

ID, OTHER = "i-0abc1234def567890", "i-0ffffffffffffffff"
ACCOUNT, REGION = "111122223333", "eu-central-1"
OURS = "AmazonCloudWatch-haltuun-11112222"
NOTED = "var/lib/haltuun/logs/before"
MARKER = "var/log/haltuun/marker.log"
# What the way back changes files with: it is killed at one of them after the other.
CHANGING = ("dpkg", "groupdel", "ln", "mv", "rm", "rmdir", "userdel")

# The state of the package is a file; removing it takes folders along that are empty then, as dpkg does.
_QUERY = """[ -s "$HALTUUN_ROOT/run/dpkg" ] || exit 1
cat "$HALTUUN_ROOT/run/dpkg"
"""
_DPKG = f"""cd "$HALTUUN_ROOT" || exit 1
[ ! -e run/locked ] || {{ echo 'dpkg: error: dpkg frontend lock was locked by another process' >&2; exit 2; }}
case $1 in
    --remove)
        rm -f {CONTROL} {HOME}/bin/CWAGENT_VERSION etc/systemd/system/amazon-cloudwatch-agent.service
        rm -f {RUNS} run/enabled
        echo 'deinstall ok config-files' >run/dpkg
        ;;
    --purge) rm -f {HOME}/etc/common-config.toml run/dpkg ;;
esac
rmdir {HOME}/bin {CONFIGURATIONS} {HOME}/etc {HOME}/logs {HOME}/var {HOME} opt/aws etc/init 2>/dev/null
exit 0
"""
_SYSTEMCTL = f"""case $1 in
    is-enabled) if [ -e "$HALTUUN_ROOT/run/enabled" ]; then echo enabled; else echo disabled; fi ;;
    disable) rm -f "$HALTUUN_ROOT/run/enabled" ;;
    start) cd "$HALTUUN_ROOT" && cat {JSON} >{TOML} && : >{RUNS} ;;
esac
"""
_DELETE = 'sed -i "/^$1:/d" "$HALTUUN_ROOT/etc/%s"'


@contextmanager
def host_in(folder: Path) -> Iterator[FakeHost]:
    made = fake_host(folder)
    for name in ("curl", "ln", "mkdir", "mv", "rm", "rmdir"):
        made.tool(name)
    made.tool("dpkg-query", _QUERY)
    made.tool("dpkg", _DPKG)
    made.tool("systemctl", _SYSTEMCTL)
    made.tool("userdel", _DELETE % "passwd")
    made.tool("groupdel", _DELETE % "group")
    made.write({"etc/passwd": "root:x:0:0\n", "etc/group": "root:x:0:\n", "opt/aws/other/kept": "x"})
    for folder in ("etc/init", "var/lib"):
        (made.root / folder).mkdir()
    with metadata_service(ID, account=ACCOUNT, region=REGION) as made.metadata:
        yield made


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    with host_in(tmp_path) as made:
        yield made


def step(number: int, action: str = "fetch-config") -> str:
    """A step of the document as Systems Manager hands it out."""
    text = "\n".join(document()["mainSteps"][number]["inputs"]["runCommand"])
    for name, value in {"configuration": OURS, "action": action, "package": "Install"}.items():
        text = text.replace(f"{{{{ {name} }}}}", value)
    return text


def install(host: FakeHost) -> None:
    """As the SSM agent does, with what the package does by itself."""
    put_agent(host.root)
    host.write({"run/dpkg": "install ok installed\n"})
    for name in ("passwd", "group"):
        path = host.root / "etc" / name
        if "cwagent" not in path.read_text():
            path.write_text(f"{path.read_text()}cwagent:x:999:999\n")


def uninstall(host: FakeHost) -> None:
    """As the SSM agent does: `dpkg -r`."""
    assert host.run("dash", "dpkg --remove amazon-cloudwatch-agent").returncode == 0


def configured(host: FakeHost, shell: str, action: str = "fetch-config", *, fresh: bool = True) -> None:
    """What the document does, and the line that the proof writes."""
    noted = host.run(shell, step(0, action))
    assert (noted.returncode, noted.stderr) == (0, "")
    if fresh:
        install(host)
    assert host.run(shell, step(2, action)).returncode == 0
    host.write({MARKER: "a line\n"})


def back(host: FakeHost, shell: str = "dash", *, uninstalled: bool = False) -> str:
    done = host.run(shell, back_script(ACCOUNT, REGION, ID, uninstalled=uninstalled))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def gone_back(host: FakeHost, shell: str = "dash") -> str:
    said = back(host, shell)
    if said == "UNINSTALL":
        uninstall(host)
        said = back(host, shell, uninstalled=True)
    return said


def theirs(host: FakeHost, *, runs: bool) -> None:
    """An agent that somebody installed and configured."""
    install(host)
    files = {f"{CONFIGURATIONS}/file_theirs.json": "theirs\n", TOML: "theirs\n", f"{HOME}/logs/own.log": "x"}
    host.write(
        {f"{HOME}/etc/env-config.json": "{}\n"} | files | ({RUNS: "", "run/enabled": ""} if runs else {})
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_where_no_agent_was_none_is_left(host: FakeHost, shell: str) -> None:
    before = tree(host.root)
    configured(host, shell)
    assert tree(host.root) != before and (host.root / RUNS).exists()
    assert back(host, shell) == "UNINSTALL"
    uninstall(host)
    assert back(host, shell, uninstalled=True) == "BACK"
    assert tree(host.root) == before


@pytest.mark.parametrize("shell", SHELLS)
def test_one_that_was_stopped_and_not_configured_is_so_again(host: FakeHost, shell: str) -> None:
    install(host)
    before = tree(host.root)
    configured(host, shell, fresh=False)
    assert (host.root / RUNS).exists() and (host.root / "run/enabled").exists()
    assert back(host, shell) == "BACK"
    assert tree(host.root) == before
    assert not (host.root / RUNS).exists() and not (host.root / "run/enabled").exists()


@pytest.mark.parametrize(("shell", "runs"), [*((shell, True) for shell in SHELLS), ("dash", False)])
def test_one_that_somebody_configured_goes_on_as_before(host: FakeHost, shell: str, runs: bool) -> None:
    theirs(host, runs=runs)
    log = f"{HOME}/logs/amazon-cloudwatch-agent.log"
    before = tree(host.root)
    configured(host, shell, "append-config", fresh=False)
    assert back(host, shell) == "BACK"
    after = tree(host.root)
    assert after.pop(log), "an agent that is in use keeps its own log"
    assert after == before
    assert (host.root / RUNS).exists() == runs
    assert f"remove-config {OURS}" in (host.root / CALLED).read_text().splitlines()


@pytest.mark.parametrize("runs", [True, False])
def test_a_configuration_that_is_not_in_its_folder_is_not_lost(host: FakeHost, runs: bool) -> None:
    """amazon-cloudwatch-agent.json, as it is put there by hand: of such the agent's control knows little."""
    install(host)
    host.write({JSON: "theirs\n", TOML: "theirs\n"} | ({RUNS: "", "run/enabled": ""} if runs else {}))
    configured(host, "dash", "append-config", fresh=False)
    assert OURS in (host.root / TOML).read_text()
    assert back(host) == "BACK"
    assert (host.root / JSON).read_text() == "theirs\n"
    assert (host.root / RUNS).exists() == (host.root / TOML).exists() == runs
    assert not runs or (host.root / TOML).read_text() == "theirs\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_an_agent_that_somebody_uses_by_now_stays_and_is_named(host: FakeHost, shell: str) -> None:
    configured(host, shell)
    host.write({f"{CONFIGURATIONS}/file_later.json": "later\n"})
    assert back(host, shell).startswith(
        "LEFT: the agent stays installed, for somebody gave it a configuration"
    )
    assert [path.name for path in (host.root / CONFIGURATIONS).iterdir()] == ["file_later.json"]
    assert (host.root / RUNS).exists()
    assert not (host.root / "var/lib/haltuun").exists()


def test_what_somebody_put_beside_the_agent_stays_and_is_named(host: FakeHost) -> None:
    configured(host, "dash")
    host.write({f"{HOME}/bin/config.json": "of the wizard, not in use"})
    said = gone_back(host)
    assert said.startswith("LEFT: files that neither the agent nor Haltuun made: ")
    assert [path.name for path in (host.root / HOME).rglob("*") if path.is_file()] == ["config.json"]
    assert not (host.root / NOTED).exists() and "cwagent" not in (host.root / "etc/passwd").read_text()


def test_of_many_files_some_are_named_for_a_long_answer_is_cut_off(host: FakeHost) -> None:
    configured(host, "dash")
    host.write({f"{HOME}/of-somebody/{number:0100}": "x" for number in range(30)})
    said = gone_back(host)
    assert said.startswith("LEFT: ") and said.endswith("and more ")
    assert len(said) < 2000


def test_what_the_ssm_agent_knows_nothing_of_is_uninstalled_by_the_host(host: FakeHost) -> None:
    before = tree(host.root)
    configured(host, "dash")
    for _ in range(2):
        assert back(host, uninstalled=True) == "BACK", "the second time, too"
        assert tree(host.root) == before


def test_a_locked_package_manager_is_told_and_the_next_time_goes_on(host: FakeHost) -> None:
    before = tree(host.root)
    configured(host, "dash")
    host.write({"run/locked": ""})
    done = host.run("dash", back_script(ACCOUNT, REGION, ID, uninstalled=True))
    assert (done.returncode, done.stderr.partition(":")[0]) == (6, "NOT_UNINSTALLED")
    assert "locked by another process" in done.stderr
    (host.root / "run/locked").unlink()
    assert back(host, uninstalled=True) == "BACK"
    assert tree(host.root) == before


def test_what_was_removed_before_and_left_its_configuration_is_so_again(host: FakeHost) -> None:
    install(host)
    uninstall(host)
    before = tree(host.root)
    configured(host, "dash")
    assert gone_back(host) == "BACK"
    assert tree(host.root) == before
    assert (host.root / "run/dpkg").read_text() == "deinstall ok config-files\n"


def test_a_note_is_made_once_and_is_of_this_very_host(host: FakeHost) -> None:
    configured(host, "dash")
    noted = (host.root / NOTED).read_text()
    assert host.run("dash", step(0)).returncode == 0
    assert (host.root / NOTED).read_text() == noted
    with metadata_service(OTHER, account=ACCOUNT, region=REGION) as host.metadata:
        assert host.run("dash", step(0)).returncode == 0, "made of an image of it, agent and note with it"
    assert "agent 1.300049.1" in (host.root / NOTED).read_text().splitlines()


def test_nothing_is_configured_before_it_is_noted_how_it_was(host: FakeHost) -> None:
    install(host)
    done = host.run("dash", step(2))
    assert (done.returncode, done.stderr.partition(":")[0]) == (6, "NOT_NOTED")
    assert not (host.root / CALLED).exists()


def test_of_a_host_that_noted_nothing_the_agent_stays_without_haltuuns_configuration(host: FakeHost) -> None:
    """An earlier version configured it."""
    configured(host, "dash")
    (host.root / NOTED).unlink()
    assert back(host) == "LEFT: the agent stays installed, for how the host was before is not noted there"
    assert list((host.root / CONFIGURATIONS).iterdir()) == []
    assert not (host.root / RUNS).exists(), "without a configuration it would take a default one"


def test_another_version_of_the_package_is_told(host: FakeHost) -> None:
    theirs(host, runs=True)
    configured(host, "dash", "append-config", fresh=False)
    put_agent(host.root, version="1.300050.0")
    assert back(host) == "LEFT: the agent is 1.300050.0 now, it was 1.300049.1"


@pytest.mark.parametrize("shell", SHELLS)
def test_who_waits_goes_on_where_the_way_back_takes_the_folder_of_the_lock_away(
    host: FakeHost, shell: str
) -> None:
    text = step(0).replace("    take_lock\n", '    rmdir "$lock"\n    take_lock\n')
    assert 'rmdir "$lock"' in text
    assert host.run(shell, text).returncode == 0
    assert (host.root / NOTED).read_text().endswith("\nend\n")


@pytest.mark.parametrize(("instance_id", "account"), [(OTHER, ACCOUNT), (ID, "999999999999")])
def test_another_box_is_left_alone(host: FakeHost, instance_id: str, account: str) -> None:
    configured(host, "dash")
    before = tree(host.root)
    with metadata_service(instance_id, account=account, region=REGION) as host.metadata:
        done = host.run("dash", back_script(ACCOUNT, REGION, ID, uninstalled=True))
    assert (done.returncode, done.stderr.partition(":")[0]) == (4, "WRONG_BOX")
    assert tree(host.root) == before


def kill_at(host: FakeHost, nth: int) -> None:
    """The nth call of a tool that changes something kills the script instead."""
    for name in CHANGING:
        tool = host.bin / name
        kept = host.bin / f".{name}"
        if not kept.exists():
            kept = tool.rename(kept)
        host.tool(
            name,
            f"""left=$(($(cat "$HALTUUN_ROOT/run/left") - 1))
echo $left >"$HALTUUN_ROOT/run/left"
if [ $left = 0 ]; then kill -9 "$(cat "$HALTUUN_ROOT/run/script")" "$PPID"; fi
exec {shlex.quote(str(kept))} "$@\"""",
        )
    host.write({"run/left": f"{nth}\n"})


def revive(host: FakeHost) -> None:
    for name in CHANGING:
        (host.bin / f".{name}").replace(host.bin / name)


def killed_and_gone_back(folder: Path, nth: int) -> bool:
    """False where the way back has fewer changes than that."""
    folder.mkdir()
    with host_in(folder) as host:
        before = tree(host.root)
        configured(host, "dash")
        kill_at(host, nth)
        given = 'echo $$ >"$HALTUUN_ROOT/run/script"\n'
        done = host.run("dash", given + back_script(ACCOUNT, REGION, ID, uninstalled=True))
        revive(host)
        if done.returncode == 0:
            return False
        assert gone_back(host) == "BACK"
        assert tree(host.root) == before, f"killed at change {nth}"
        return True


@pytest.mark.parametrize("pace", [11, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_anywhere_it_goes_on(tmp_path: Path, pace: int) -> None:
    nth = pace
    while killed_and_gone_back(tmp_path / str(nth), nth):
        nth += pace
    assert nth > 20
