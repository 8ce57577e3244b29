"""Files as people copy them: single ones, other folders, Windows', the journal's, in other encodings."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from haltuun.errors import ConfigError
from haltuun.stages.repair import logtail
from haltuun.stages.repair.bundle import read_bundle
from haltuun.stages.repair.diagnose import Diagnosis, diagnose
from haltuun.stages.repair.layout import Place, place
from haltuun.stages.repair.logtail import LogTail
from haltuun.stages.repair.offline import read_agent

NAME = "amazon-ssm-agent.log"
ENTRIES = (
    "2026-11-23 06:00:01.0000 INFO Proxy environment variables:",
    "2026-11-23 06:00:02.0000 INFO Agent will take identity from EC2",
    "2026-11-23 06:00:03.0000 WARN EC2RoleProvider Err: EC2RoleRequestError: no EC2 instance role found",
    "caused by: EC2MetadataError: failed to make EC2Metadata request",
    "\tstatus code: 404, request id: ",
)
TEXT = "".join(f"{line}\n" for line in ENTRIES)
OTHERS = "Nov 23 06:00:00 web-01 systemd[1]: Started amazon-ssm-agent.service - amazon-ssm-agent.\n"
PREFIXES = (
    "Nov 23 06:00:03 ip-10-0-0-5 amazon-ssm-agent[2373]: ",
    "Nov  3 06:00:03 ip-10-0-0-5.ec2.internal amazon-ssm-agent: ",
    "Mon 2026-11-23 06:00:03 UTC ip-10-0-0-5 amazon-ssm-agent[2373]: ",
    "2026-11-23T06:00:03.768740+00:00 ip-10-0-0-5 amazon-ssm-agent.amazon-ssm-agent[526]: ",
    "2026-11-23T06:00:03Z amazon-ssm-agent.amazon-ssm-agent[526]: ",
    "[   12.345678] ip-10-0-0-5 amazon-ssm-agent[812]: ",
    "amazon-ssm-agent[812]: ",
    "Jan 23 19:45:49 ip-10-0-0-5.ec2.internal host-containers@control[1411]: ",
    "Dec 19 00:13:26 ip-10-0-0-5.ec2.internal host-ctr[3198]: ",
)


def found(path: Path) -> Diagnosis:
    return diagnose(read_agent(read_bundle(path)))


def codes(path: Path) -> list[str]:
    return [cause.code for cause in found(path).causes]


def laid_out(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def packed(folder: Path) -> Path:
    path = folder.with_suffix(".tgz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=".")
    return path


def journal(prefix: str) -> str:
    lines = (line.replace("\t", "#011") for line in ENTRIES)
    return OTHERS + "".join(f"{prefix}{line}\n{OTHERS}" for line in lines)


DIES = (
    "Nov 23 07:00:00 web amazon-ssm-agent[812]: panic: assignment to entry in nil map\n"
    "Nov 23 07:00:00 web amazon-ssm-agent[812]: \n"
    "Nov 23 07:00:00 web amazon-ssm-agent[812]: goroutine 44 [running]:\n"
    "Nov 23 07:00:00 web systemd[1]: amazon-ssm-agent.service: Main process exited, code=exited, status=2/X\n"
)


def test_how_the_agent_died_stands_in_the_journal_alone(tmp_path: Path) -> None:
    alone = laid_out(tmp_path / "alone", {"journalctl.txt": DIES, "notes.txt": "x"})
    for path in (alone, packed(alone), alone / "journalctl.txt"):
        assert codes(path) == ["AGENT_CRASHES"]
    took = ENTRIES[0], ENTRIES[1]
    said = "".join(f"Nov 23 06:00:03 web amazon-ssm-agent[812]: {line}\n" for line in took)
    own = "".join(f"{line}\n" for line in took)
    beside = {f"var/log/amazon/ssm/{NAME}": own, "var/log/syslog": f"{OTHERS}{said}{OTHERS}{DIES}"}
    host = laid_out(tmp_path / "host", beside)
    assert codes(host) == codes(packed(host)) == ["AGENT_CRASHES"]
    again = own.replace("2026-11-23", "2026-11-24")
    started = laid_out(tmp_path / "again", {**beside, f"var/log/amazon/ssm/{NAME}": own + again})
    assert codes(started) == []
    chatter = (
        "2026-11-23 09:00:00.0000 INFO [ssm-agent-worker] [HealthCheck] HealthCheck reporting agent health.\n"
    )
    old = {f"var/log/amazon/ssm/{NAME}": chatter, "var/log/syslog": DIES}
    assert codes(laid_out(tmp_path / "old", old)) == [], "nothing tells which of the two was later"
    others = laid_out(
        tmp_path / "others", {**beside, "var/log/syslog": DIES.replace("amazon-ssm-agent", "app")}
    )
    assert codes(others) == []


@pytest.mark.parametrize(
    "before", ["2026-11-23T06:00:04.000Z ", "/var/log/amazon/ssm/amazon-ssm-agent.log:", "12:", "   "]
)
def test_what_an_export_or_grep_puts_before_each_line(tmp_path: Path, before: str) -> None:
    text = "".join(f"{before}{line}\n" for line in ENTRIES)
    host = laid_out(tmp_path / "host", {NAME: text, "notes.txt": "x"})
    assert codes(host) == codes(packed(host)) == codes(host / NAME) == ["ROLE_MISSING"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_journal_and_syslog_alone(tmp_path: Path, prefix: str) -> None:
    host = laid_out(tmp_path / "host", {"journalctl-u-ssm.txt": journal(prefix)})
    for path in (host, packed(host), host / "journalctl-u-ssm.txt"):
        (cause,) = found(path).causes
        (line,) = cause.evidence
        assert (cause.code, line.file, line.line) == ("ROLE_MISSING", "journalctl-u-ssm.txt", 6)
        assert line.text == " | ".join(ENTRIES[2:])


def test_syslog_counts_only_where_the_agent_s_own_log_is_not_at_hand(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "var/log/syslog": OTHERS,
        "var/log/syslog.1": journal(PREFIXES[0]),
        "var/lib/amazon/ssm/registration": "{}",
    }
    host = laid_out(tmp_path / "host", files)
    assert codes(host) == codes(packed(host)) == ["ROLE_MISSING"]
    healthy = f"{ENTRIES[0]}\n{ENTRIES[1]}\n"
    laid_out(host, {f"var/log/amazon/ssm/{NAME}": healthy})
    assert codes(host) == codes(packed(host)) == []
    with pytest.raises(ConfigError, match="holds no file of an SSM agent"):
        read_bundle(laid_out(tmp_path / "other", {"syslog": OTHERS}))


@pytest.mark.parametrize(
    "content",
    [
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        gzip.compress(TEXT.encode("utf-16")),
        bz2.compress(TEXT.encode()),
        lzma.compress(TEXT.encode()),
        lzma.compress(TEXT[:90].encode()) + bytes(4) + lzma.compress(TEXT[90:].encode()),
    ],
    ids=["utf-8 bom crlf", "utf-16", "utf-16 be", "gzip", "bzip2", "xz", "xz of two"],
)
def test_encodings_and_packers_by_what_is_in_the_file(tmp_path: Path, content: bytes) -> None:
    host = laid_out(tmp_path / "host", {NAME: content})
    assert codes(host) == codes(packed(host)) == ["ROLE_MISSING"]
    assert found(host).identity == "EC2"


def test_a_packer_that_is_not_read_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "host.zip", "w") as archive:
        archive.writestr(NAME, TEXT)
    with pytest.raises(ConfigError, match="packed with zip, which is not read"):
        read_bundle(tmp_path / "host.zip")


def test_lines_without_their_times(tmp_path: Path) -> None:
    bare = "".join(f" {line[25:] if line.startswith('2026') else line}\n" for line in ENTRIES)
    prefixed = "".join(f"amazon-ssm-agent.amazon-ssm-agent[1]:{line}\n" for line in bare.splitlines())
    host = laid_out(tmp_path, {"bare": bare, "status.txt": f"Active: active (running)\n{prefixed}"})
    assert codes(host / "bare") == codes(host / "status.txt") == ["ROLE_MISSING"]


def test_of_a_long_journal_the_newest_lines_count_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logtail, "KEPT_BYTES", 4000)
    prefix = PREFIXES[0]
    chatter = f"{prefix}2026-11-23 06:00:09.0000 INFO [CredentialRefresher] Next rotation\n"
    tail = LogTail("/journal")
    tail.feed(io.BytesIO((journal(prefix) + (OTHERS + chatter) * 500 + journal(prefix)).encode()))
    lines = tail.lines()
    assert sum(len(line.text) for line in lines) <= 4000
    assert lines[-1].line == 11 + 1000 + 10
    assert tail.has_start and tail.began_at == b"2026-11-23 06:00:01"


def test_the_logger_s_own_format(tmp_path: Path) -> None:
    bare = "1764000000123456789 [Info] Agent will take identity from OnPrem\n"
    assert codes(laid_out(tmp_path, {NAME: bare})) == ["STALE_HYBRID"]


KEY = json.dumps({"instanceID": "mi-0aa11bb22cc33dd44", "region": "cn-north-1", "privateKey": "MII"})
STATE = {"Manifest": '{"RegistrationKey": "x"}', "Store/RegistrationKey": "\ufeff" + KEY}


@pytest.mark.parametrize(
    "vault",
    [
        "case/7/web-01/var/lib/amazon/ssm/Vault",
        "ticket/state/ssm/Vault",
        "C/ProgramData/Amazon/SSM/InstanceData/Vault",
    ],
)
def test_the_state_in_other_folders(tmp_path: Path, vault: str) -> None:
    files: dict[str, str | bytes] = {f"{vault}/{name}": text for name, text in STATE.items()}
    files[str(Path(vault).with_name("mi-0aa11bb22cc33dd44") / "x")] = ""
    host = laid_out(tmp_path / "host", files)
    assert codes(host) == codes(packed(host)) == ["STALE_HYBRID", "HALF_REPAIRED"]
    laid_out(host, {str(Path(vault).with_name("registration")): "{}"})
    assert codes(host) == codes(packed(host)) == ["STALE_HYBRID"]


@pytest.mark.parametrize("around", ["", "state/"])
def test_the_state_folder_alone(tmp_path: Path, around: str) -> None:
    files: dict[str, str | bytes] = {f"{around}Vault/{name}": text for name, text in STATE.items()}
    files |= {f"{around}mi-0aa11bb22cc33dd44/x": "", f"{around}registration": "{}"}
    host = laid_out(tmp_path / "ssm", files)
    assert codes(host) == codes(packed(host)) == ["STALE_HYBRID"]


def test_a_snap_beside_the_package(tmp_path: Path) -> None:
    status = "Package: amazon-ssm-agent\nStatus: install ok installed\nVersion: 3.3.1142.0-1\n\n"
    files: dict[str, str | bytes] = {"var/lib/dpkg/status": status, f"var/log/amazon/ssm/{NAME}": TEXT}
    host = laid_out(tmp_path / "host", files)
    assert codes(host) == ["ROLE_MISSING"]
    laid_out(host, {"snap/amazon-ssm-agent/7993/amazon-ssm-agent": ""})
    assert codes(host) == codes(packed(host)) == ["ROLE_MISSING", "SNAP_AND_DEB"]


def test_a_package_that_was_removed_is_not_just_stopped(tmp_path: Path) -> None:
    removed = "Package: amazon-ssm-agent\nStatus: deinstall ok config-files\nVersion: 3.3.1142.0-1\n\n"
    bye = f"{TEXT}2026-11-23 07:00:00.0000 INFO [amazon-ssm-agent] Bye.\n"
    files: dict[str, str | bytes] = {"var/lib/dpkg/status": removed, f"var/log/amazon/ssm/{NAME}": bye}
    host = laid_out(tmp_path / "host", files)
    assert codes(host) == ["ROLE_MISSING", "AGENT_MISSING"]
    laid_out(host, {f"var/log/amazon/ssm/{NAME}": TEXT})  # something runs
    assert codes(host) == ["ROLE_MISSING"]
    laid_out(host, {**files, "snap/amazon-ssm-agent/7993/amazon-ssm-agent": ""})
    assert codes(host) == ["ROLE_MISSING", "AGENT_STOPPED"]


def test_errors_of_other_days_are_not_today_s(tmp_path: Path) -> None:
    old = "2026-05-01 06:00:00 ERROR [f @ x.go.1] [HealthCheck] error details - ThrottlingException\n"
    new = "2026-11-23 06:00:00 ERROR [f @ x.go.1] [CredentialRefresher] MachineFingerprintDoesNotMatch: \n"
    host = laid_out(tmp_path, {"errors.log": old + new})
    assert codes(host) == ["STALE_HYBRID", "FINGERPRINT_MISMATCH"]


def test_each_file_of_errors_goes_back_a_day(tmp_path: Path) -> None:
    old = "2026-05-01 06:00:00 ERROR [f @ x.go.1] [HealthCheck] error details - ThrottlingException\n"
    new = "2026-11-23 06:00:00 ERROR [f @ x.go.1] [CredentialRefresher] MachineFingerprintDoesNotMatch: \n"
    asleep = "2026-04-30 06:00:00 INFO Agent is in hibernate mode. Reducing logging.\n"
    host = laid_out(tmp_path, {"errors.log": old + new, "hibernate.log": asleep})
    assert codes(host) == ["STALE_HYBRID", "FINGERPRINT_MISMATCH", "HIBERNATING"]


@pytest.mark.parametrize("line", [OTHERS, "2026-11-23T06:00:00Z rotated\n"])
def test_a_foreign_line_hides_nothing_of_the_agent_s_own_log(tmp_path: Path, line: str) -> None:
    assert codes(laid_out(tmp_path, {NAME: line + TEXT})) == ["ROLE_MISSING"]


def test_what_lies_beside_the_log_in_a_flat_folder(tmp_path: Path) -> None:
    other = f"{ENTRIES[0]}\n2026-11-23 06:00:02.0000 INFO Agent will take identity from OnPrem\n"
    beside = ["amazon-ssm-agent-status.txt", "install-amazon-ssm-agent.log", "old-amazon-ssm-agent.log"]
    files: dict[str, str | bytes] = {NAME: TEXT, **dict.fromkeys(beside, other)}
    files |= {"a/messages.properties": "x", "b/messages.properties": "x"}
    host = laid_out(tmp_path / "host", files)
    for path in (host, packed(host)):
        assert codes(path) == ["ROLE_MISSING"]
        assert sorted(read_bundle(path).unread) == beside
    (host / NAME).unlink()
    assert codes(host) == codes(packed(host)) == ["STALE_HYBRID"]


@pytest.mark.parametrize("name", [NAME, "amazon-ssm-agent (1).txt"])
def test_two_hosts_without_a_root_are_not_taken_for_one(tmp_path: Path, name: str) -> None:
    host = laid_out(tmp_path / "host", {f"web-01/{name}": TEXT, f"web-02/{name}": TEXT})
    for path in (host, packed(host)):
        several = re.escape(f"files of 2 hosts (web-01/{name}, web-02/{name})")
        with pytest.raises(ConfigError, match=several):
            read_bundle(path)


def test_copies_beside_a_host_s_root_do_not_count(tmp_path: Path) -> None:
    healthy = f"{ENTRIES[0]}\n{ENTRIES[1]}\n"
    files: dict[str, str | bytes] = {f"var/log/amazon/ssm/{NAME}": healthy}
    files |= {f"{folder}{NAME}": TEXT for folder in ("", "home/a/", "home/b/")}
    host = laid_out(tmp_path / "host", files)
    assert codes(host) == codes(packed(host)) == []


def test_a_mark_that_a_copy_put_before_the_configuration_breaks_nothing(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {NAME: TEXT, "amazon-ssm-agent.json": "\ufeff{}"}
    assert codes(laid_out(tmp_path, files)) == ["ROLE_MISSING"]


@pytest.mark.parametrize(
    ("copied", "root", "name"),
    [
        ("web/var/log/amazon/ssm/errors.log", "web", "var/log/amazon/ssm/errors.log"),
        ("var/log/upstart/amazon-ssm-agent.log.1", None, "var/log/upstart/amazon-ssm-agent.log.1"),
        ("web-01_amazon-ssm-agent.log.2.gz", None, "var/log/amazon/ssm/amazon-ssm-agent.log.2.gz"),
        ("amazon-ssm-agent (1).txt", None, "var/log/amazon/ssm/amazon-ssm-agent.log"),
        ("messages-20261101.gz", None, "var/log/messages-20261101.gz"),
        ("syslog.2.xz", None, "var/log/syslog.2.xz"),
        ("syslog_web-01.txt", None, "var/log/syslog_web-01.txt"),
        ("journalctl-amazon-ssm-agent.log", None, "var/log/journalctl-amazon-ssm-agent.log"),
        ("x/runtimeconfig/a.json", None, "var/lib/amazon/ssm/runtimeconfig/a.json"),
    ],
)
def test_where_a_file_stood(copied: str, root: str | None, name: str) -> None:
    assert place(copied) == Place(root=root, name=name)


@pytest.mark.parametrize(
    "copied", ["messages.properties", "app/Manifest", "home/joe/.aws/credentials", "mi-5/notes"]
)
def test_what_is_no_file_of_an_agent(copied: str) -> None:
    assert place(copied) is None
