"""Single functions of the scripts that run on a host, in each shell that hosts have."""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from haltuun.model import Unknown
from haltuun.stages.repair.parse import parse_agent
from haltuun.stages.repair.probe import script
from tests.stages.fakehost import SHELLS
from tests.stages.repair.moved_kit import Moved

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the scripts run as root")


def run(shell: str, words: str, *names: str, tools: Path | None = None, said: str = "") -> str:
    """`words` after these scripts; commands of the folder `tools` stand in for the machine's."""
    path = f"{tools}:/usr/bin:/bin" if tools else "/usr/bin:/bin"
    env = {"CHANGE_ID": "c", "RUN_ID": "r", "JOB_DIR": "/nonexistent"}
    # Without job.sh's own end, which tells how the agent is.
    text = f"{script(*names)}\ntrap - EXIT\nPATH={path}\n{words}\n"
    done = subprocess.run(
        [*shell.split(), "-c", text], input=said, env=env, capture_output=True, text=True, timeout=30
    )
    return done.stdout


def stand_in(folder: Path, name: str, text: str) -> None:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{text}\n")
    tool.chmod(0o755)


def about(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mode & 0o7777, status.st_uid, status.st_gid


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("fails", ["", "cat", "mv"])
def test_a_file_is_replaced_whole_or_not_at_all(shell: str, fails: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.override"
    file.write_text("manual\n# ops\n")
    file.chmod(0o640)
    os.chown(file, 12, 34)
    if shell.startswith("busybox"):
        fails = ""  # its own commands come before those of PATH
    if fails:
        stand_in(tmp_path, fails, "head -c 3; exit 1")
    run(shell, f"replace_file {file}", "host.sh", "job.sh", tools=tmp_path, said="# ops\n")
    assert file.read_text() == ("manual\n# ops\n" if fails else "# ops\n")
    assert about(file) == (0o640, 12, 34)
    assert not list(tmp_path.glob("*.haltuun"))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("fails", ["", "cp", "mv"])
def test_what_is_put_back_is_at_no_moment_gone(shell: str, fails: str, tmp_path: Path) -> None:
    """The command at which the script is ended does nothing."""
    file, saved = tmp_path / "agent.json", tmp_path / "saved"
    was = saved / f"files{file}"
    was.parent.mkdir(parents=True)
    was.write_text("as it was")
    was.chmod(0o640)
    (saved / "SHA256SUMS").write_text(f"{sha256(b'as it was').hexdigest()}  files{file}\n")
    (saved / "restore").write_text(f"{file}\n")
    file.write_text("as it is")
    end = f"{fails}() {{ exit 1; }}\n" if fails else ""
    run(shell, f"{end}restore_files {saved}", "host.sh", "job.sh", "saved.sh", "token.sh")
    assert file.read_text() == ("as it is" if fails else "as it was")
    if not fails:
        assert about(file)[0] == 0o640
        assert [kept.read_text() for kept in saved.glob(f"replaced.*{file}")] == ["as it is"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_job_that_has_not_ended_is_told(shell: str, tmp_path: Path) -> None:
    functions = script("probe.sh").partition("\nwait_for_job\nsay root")[0]
    look = f"{functions}\nHALTUUN={tmp_path}\nlook_at_cut_off"
    assert run(shell, look, "host.sh") == ""
    for name in ("aaaa-20261129T1-1", "bbbb-20261129T1-1"):
        (tmp_path / "notes" / name).mkdir(parents=True)
    (tmp_path / "notes/aaaa-20261129T1-1/ended").touch()
    assert run(shell, look, "host.sh") == "cut_off=bbbb\n"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("notes", "changed"), [((), "no"), (("was_enabled",), "yes"), (("was_enabled", "ended"), "no")]
)
def test_what_follows_an_attempt_that_was_cut_off_does_not_say_that_nothing_was_changed(
    shell: str, notes: tuple[str, ...], changed: str, tmp_path: Path
) -> None:
    (tmp_path / "notes/c-r").mkdir(parents=True)
    for name in notes:
        (tmp_path / "notes/c-r" / name).touch()
    begins = script("job.sh").partition("\nfinish()")[0]
    assert run(shell, f'HALTUUN={tmp_path}\n{begins}\necho "$CHANGED"', "host.sh") == f"{changed}\n"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("ends", [False, True])
def test_the_registration_is_put_back_last_and_only_after_all_else(
    shell: str, ends: bool, tmp_path: Path
) -> None:
    """Who looks takes all for being back where it is."""
    key, other, saved = tmp_path / "RegistrationKey", tmp_path / "InstanceFingerprint", tmp_path / "saved"
    (saved / f"files{tmp_path}").mkdir(parents=True)
    (saved / "restore").write_text(f"{key}\n{other}\n")
    for file in (key, other):
        (saved / f"files{file}").write_text("as it was")
    (tmp_path / "InstanceFingerprint.haltuun").write_text("of one that was killed")
    puts = f'put_file() {{ echo "${{2##*/}}"; return {int(ends)}; }}\nverify_saved() {{ :; }}\n'
    told = f"KEY_FILE={key}\nrestore_files {saved} && echo done"
    got = run(shell, f"{puts}{told}", "host.sh", "job.sh", "saved.sh", "token.sh").split()
    assert got == (["InstanceFingerprint"] if ends else ["InstanceFingerprint", "RegistrationKey", "done"])
    assert not (tmp_path / "InstanceFingerprint.haltuun").exists()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        ("no", "yes", ["stop", "disable", "restore", "enable", "failed"]),
        ("no", "unknown", ["stop", "disable", "restore", "failed"]),
        ("yes", "yes", ["stop", "restore", "failed"]),
    ],
)
def test_an_agent_that_was_kept_from_starting_is_so_before_its_state_is_back(
    shell: str, was: str, now: str, expected: list[str], tmp_path: Path
) -> None:
    """And enabled again only where that was undone: here nothing can be put back."""
    saved = tmp_path / "saved/c"
    saved.mkdir(parents=True)
    (saved / "was_enabled").write_text(was)
    (tmp_path / "was_enabled").write_text(now)
    functions = script("repair.sh").partition("\nprove_right_box\nINIT=")[0].partition("\n# conclude")[2]
    tells = {"stop_agent": "stop", "disable_service": "disable", "enable_service": "enable"}
    said = "".join(f"{name}() {{ echo {word}; }}\n" for name, word in tells.items())
    said += "restore_files() { echo restore; return 1; }\nfailed() { echo failed; exit; }\n"
    given = f"verify_saved() {{ :; }}\nHALTUUN={tmp_path}\nNOTES={tmp_path}\nSAVED_FROM={saved}\n"
    got = run(shell, f"#{functions}\n{said}{given}do_restore", "host.sh", "job.sh", "service.sh", "saved.sh")
    assert got.split() == expected


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("begins", ["do_restart", "end_moving"])
@pytest.mark.parametrize("state", ["cut off", "ended", "key is back"])
def test_a_move_that_was_cut_off_is_ended_before_an_agent_starts(
    shell: str, begins: str, state: str, tmp_path: Path
) -> None:
    """The key was moved, what belongs to it was not."""
    saved, vault = tmp_path / "saved/aaaa", tmp_path / "Vault"
    (saved / "moved").mkdir(parents=True)
    vault.mkdir()
    for file in (saved / "COMPLETE", saved / "moved/RegistrationKey", vault / "Manifest", vault / "Print"):
        file.touch()
    (saved / "restore").write_text(f"{vault}/RegistrationKey\n{vault}/Manifest\n{vault}/Print\n")
    if state != "cut off":
        (saved / "ENDED" if state == "ended" else vault / "RegistrationKey").touch()
    functions = script("repair.sh").partition("\nprove_right_box\nINIT=")[0].partition("\n# conclude")[2]
    says = "".join(f"{name}() {{ :; }}\n" for name in ("remember_service", "stop_agent", "conclude"))
    says += 'start_agent() { ls "$VAULT"; }\nfinish() { echo "$1"; exit; }\n'
    given = f"VAULT={vault}\nKEY_FILE=$VAULT/RegistrationKey\nMANIFEST=$VAULT/Manifest\n"
    given += (
        f"FINGERPRINT_FILE=$VAULT/Print\nHALTUUN={tmp_path}\nSAVED=$HALTUUN/saved/bbbb\nUNFINISHED=aaaa\n"
    )
    scripts = ("host.sh", "job.sh", "service.sh", "saved.sh", "package.sh")
    got = run(shell, f"#{functions}\n{says}{given}{begins}\nls $HALTUUN/saved/aaaa/moved", *scripts).split()
    if begins == "do_restart" and state == "ended":
        assert got == ["stale"]
    elif state == "cut off":
        assert got == ["Manifest", "Print", "RegistrationKey"] and not any(vault.iterdir())
        assert (saved / "ENDED").exists() == (begins == "end_moving")
    else:
        assert got[-1] == "RegistrationKey" and {"Manifest", "Print"} <= {*os.listdir(vault)}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("over", [5, 12, 15])
def test_a_password_at_the_place_where_a_jobs_log_is_cut_stays_there(
    shell: str, over: int, tmp_path: Path
) -> None:
    line = "https_proxy: http://bob:hunter2@proxy:3128".rjust(700 + over)
    (tmp_path / "unproven.log").write_text(f"{line}\n")
    quiet = "still_silenced() { :; }\ncore_runs() { :; }\n"
    got = run(shell, f"{quiet}JOB_DIR={tmp_path}\nfinish not_proven 21", "host.sh", "job.sh", "service.sh")
    assert "hunt" not in got and "log=1:" in got and got.endswith("result=not_proven\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_folder_comes_back_as_it_was(shell: str, tmp_path: Path) -> None:
    was, now = tmp_path / "was", tmp_path / "now"
    (was / "a/b/c").mkdir(parents=True)
    now.mkdir()
    (was / "a").chmod(0o751)
    os.chown(was / "a/b", 12, 34)
    (was / "a/b").chmod(0o2770)
    run(shell, f"folder_as_in {was} {now} /a/b/c", "host.sh", "job.sh", "saved.sh")
    for folder in ("a", "a/b", "a/b/c"):
        assert about(now / folder) == about(was / folder), folder


@pytest.mark.parametrize("shell", SHELLS)
def test_a_folder_that_was_reached_by_a_link_comes_back_as_what_the_link_leads_to(
    shell: str, tmp_path: Path
) -> None:
    was, now = tmp_path / "was", tmp_path / "now"
    (was / "disk").mkdir(parents=True, mode=0o700)
    (was / "a").symlink_to(was / "disk")
    now.mkdir()
    run(shell, f"folder_as_in {was} {now} /a", "host.sh", "job.sh", "saved.sh")
    assert about(now / "a")[0] == 0o700


@pytest.mark.parametrize("shell", SHELLS)
def test_what_was_saved_as_a_link_alone_was_not_saved(shell: str, tmp_path: Path) -> None:
    (tmp_path / "files/var").mkdir(parents=True)
    (tmp_path / "SHA256SUMS").touch()
    asked = f"verify_saved {tmp_path} && echo whole"
    assert run(shell, asked, "host.sh", "job.sh", "saved.sh") == "whole\n"  # nothing was there
    (tmp_path / "files/var/ssm").symlink_to(tmp_path)
    assert run(shell, asked, "host.sh", "job.sh", "saved.sh") == ""


# What `systemctl is-enabled` prints, on either stream.
SAID = {
    "enabled": "yes",
    "enabled-runtime": "yes",
    "disabled": "no",
    "masked": "no",
    "not-found": "no",
    "Failed to get unit file state for amazon-ssm-agent.service: No such file or directory": "no",
    "Failed to connect to bus: No such file or directory": "unknown",
    "Failed to get unit file state for amazon-ssm-agent.service: Connection timed out": "unknown",
    "": "unknown",  # it was ended after 20 s
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("said", SAID)
def test_a_service_manager_that_does_not_answer_is_no_no(shell: str, said: str, tmp_path: Path) -> None:
    stand_in(tmp_path, "systemctl", f"echo '{said}' >&2; exit 1" if " " in said else f"printf '{said}'")
    words = "init_system() { echo systemd; }\nservice_enabled"
    assert run(shell, words, "host.sh", tools=tmp_path) == f"{SAID[said]}\n"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("unread", ["", "dpkg", "rpm", "rpm on Debian", "rpm beside a deb", "log"])
def test_what_cannot_be_read_is_unknown_and_not_none(shell: str, unread: str, tmp_path: Path) -> None:
    moved = Moved(tmp_path, shell)
    for name in ("dpkg", "rpm"):
        moved.stand_in(name)
    if unread == "dpkg":
        moved.tool(
            "dpkg-query", "#!/bin/sh\necho 'dpkg-query: error: failed to open package info file' >&2; exit 2"
        )
    if unread == "rpm on Debian":
        (tmp_path / "debian").touch()
    if unread == "rpm beside a deb":
        (tmp_path / "dpkg").write_text("install ok installed 3.3.1142.0-1\n")
    if unread.startswith("rpm"):
        said = "echo 'error: cannot open Packages database in /var/lib/rpm' >&2"
        none = "echo 'package amazon-ssm-agent is not installed'"
        moved.tool("rpm", f"#!/bin/sh\n{said}\n{none}\nexit 1")
    if unread == "log":
        log = tmp_path / "var/log/amazon/ssm/amazon-ssm-agent.log"
        log.unlink()
        log.mkdir()
    agent = moved.look(moved.run([], tmp_path))
    assert isinstance(agent.packages, Unknown) == (unread in ("dpkg", "rpm"))
    assert isinstance(agent.log, Unknown) == (unread == "log")
    assert not isinstance(agent.processes, Unknown) and not isinstance(agent.binary, Unknown)


def test_a_section_that_did_not_arrive_is_unknown() -> None:
    agent = parse_agent("deb=\nrpm=\nsnap=\nlog_file=yes\nend=yes\n")
    for part in (agent.packages, agent.binary, agent.processes, agent.log):
        assert isinstance(part, Unknown)
    assert parse_agent("log_file=no\nend=yes\n").log == ()
