"""What a host that lets nobody in printed on its console."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from haltuun.config import AccountConfig, Config
from haltuun.engine import open_run
from haltuun.errors import AuthRefused, BannerTimeout, HostKeyUnknown, NoSudo, Unreachable
from haltuun.ledger import Ledger
from haltuun.model import Host, StageName, Unknown
from haltuun.run import Opener, Run
from haltuun.stages.discover.console import SIGNS, parse_console
from haltuun.stages.discover.facts import DiscoverAccount, Standing
from haltuun.stages.discover.host import CONSOLES_A_RUN, probe_host
from haltuun.stages.discover.judge import judge_from_outside
from haltuun.stages.discover.parse_host import parse_host
from haltuun.transport import Transport
from tests.stages.discover.test_parse import ACCOUNT, HOST, REGION, facts, instance, region, view

BOOT = "[    0.000000] Linux version 3.13.0-170-generic (buildd@lgw01)\n"


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("[ 1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "kernel"),
        ("ALERT!  /dev/xvda1 does not exist.  Dropping to a shell!", "root file system was not found"),
        ("/dev/xvda1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.", "checked by hand"),
        ('You are in emergency mode. After logging in, type "journalctl -xb"', "emergency mode"),
        ("[ TIME ] Timed out waiting for device dev-xvdf.device.", "/etc/fstab"),
        ("[123.4] Out of memory: Kill process 1203 (mysqld) score 412 or sacrifice child", "out of memory"),
        ("[123.4] Out of memory: Killed process 1203 (mysqld)", "out of memory"),
        ("rsyslogd: write error: No space left on device", "disk is full"),
        ("[ 9.1] EXT4-fs error (device xvda1): ext4_find_entry:1455", "file system or disk has errors"),
        ("[ 9.1] XFS (nvme0n1p1): Metadata corruption detected at xfs_agi_verify", "disk has errors"),
        ("[ 9.1] blk_update_request: I/O error, dev xvda, sector 2048", "disk has errors"),
        ("[999.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [kswapd0:35]", "hangs"),
        ("[360.1] INFO: task jbd2/xvda1-8:221 blocked for more than 120 seconds.", "hangs"),
        ("error: no such device: 6f1d2c3e.", "boot loader finds no system"),
        ("Cannot open access to console, the root account is locked.", "emergency mode"),
        ("[FAILED] Failed to mount /data.", "/etc/fstab"),
        (
            "[ ***] A start job is running for Raise network interfaces (4min 58s / 5min 2s)",
            "waits for one unit",
        ),
        ("No DHCPOFFERS received.", "no network address"),
        ("[FAILED] Failed to start LSB: Bring up/down networking.", "no network address"),
        ("2018-05-03 19:04:22 - DataSourceEc2.py[CRITICAL]: Giving up on md from ['http://169", "metadata"),
        ("2026-11-01 - DataSourceEc2.py[WARNING]: IMDS's HTTP endpoint is probably disabled", "metadata"),
        ("[\x1b[0;1;31mFAILED\x1b[0m] Failed to start OpenSSH server daemon.", "SSH server"),
        ("[FAILED] Failed to start ssh.service - OpenBSD Secure Shell server.", "SSH server"),
        ("[FAILED] Failed to start amazon-ssm-agent.service - amazon-ssm-agent.", "Systems Manager agent"),
        ("[FAILED] Failed to start Service for snap application amazon-ssm-agent.amazon-ssm-agent.", "agent"),
        ("2026/11/01 10:00:00Z: BugCheck 0x0000007B", "Windows has stopped"),
    ],
)
def test_a_line_that_says_why(line: str, meaning: str) -> None:
    signs = parse_console(f"{BOOT}{line}\r\nlater\n").signs
    shown = line.replace("\x1b[0;1;31m", "").replace("\x1b[0m", "")[:40].strip()
    assert any(meaning in sign and shown in sign for sign in signs), signs


def test_every_sign_is_found_in_some_line_above() -> None:
    meanings = {meaning for _, meaning, _ in SIGNS}
    assert len(meanings) == len(SIGNS) == 16


@pytest.mark.parametrize(
    ("text", "system"),
    [
        ("\nUbuntu 14.04.6 LTS ip-10-0-0-5 ttyS0\n\nip-10-0-0-5 login: ", "Ubuntu 14.04.6 LTS"),
        ("\nDebian GNU/Linux 12 web-01 ttyS0\n", "Debian GNU/Linux 12"),
        (
            "\nAmazon Linux AMI release 2018.03\nKernel 4.14.320 on an x86_64\n\nip login: ",
            "Amazon Linux AMI release 2018.03",
        ),
        ("\r\nCentOS Linux 7 (Core)\r\nKernel 3.10.0 on an x86_64\r\n", "CentOS Linux 7 (Core)"),
        (BOOT, ""),
    ],
)
def test_the_system_by_its_banner(text: str, system: str) -> None:
    assert parse_console(BOOT + text).system == system


PANIC, FSCK = "Kernel panic - not syncing: x\n", "/dev/xvda1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n"
BANNER = "Ubuntu 14.04.6 LTS web-01 ttyS0\n"
JOB = "[  *** ] A start job is running for Wait for Network to be Configured ({})\n"
NO_SSHD = "[FAILED] Failed to start OpenSSH server daemon.\n"
OOM, STOP, READY = "Out of memory: Kill process 1 (x)\n", "*** STOP: 0x7B\n", "Windows is Ready to use\n"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (BOOT + PANIC, 1),
        (BOOT + PANIC + BOOT + BANNER, 0),  # it was started again
        (BOOT + FSCK, 1),
        (BOOT + FSCK + BANNER, 0),  # it came to its login all the same
        (BOOT + JOB.format("5s / 1min 30s"), 0),
        (BOOT + JOB.format("2min 3s / no limit"), 1),
        (BOOT + JOB.format("2min 3s / no limit") + BANNER, 0),
        (BOOT + NO_SSHD + BANNER, 1),  # a login on the console is none over the network
        (BOOT + NO_SSHD + BOOT + BANNER, 0),
        (BOOT + BANNER + OOM, 1),
        (
            BOOT + "blk_update_request: I/O error, dev fd0, sector 0\n" + BANNER,
            0,
        ),  # there is no disk in the drive
        (BOOT + OOM + BANNER, 1),  # what runs out may run out again
        (STOP + READY, 0),
        (READY + STOP, 1),
    ],
)
def test_the_last_start_counts(text: str, count: int) -> None:
    assert len(parse_console(text).signs) == count


def test_a_hostile_console_costs_no_time() -> None:
    began = time.process_time()
    for words in ("Failed to start ", "A start job is running for ", "XFS (a", "blocked for more than 1"):
        parse_console(words * (65_536 // len(words)))
    assert time.process_time() - began < 4


def test_ready_is_who_came_up_after_the_last_stop() -> None:
    assert parse_console(STOP + READY).ready
    assert not parse_console(READY + STOP).ready


def test_windows() -> None:
    text = (
        "2023/05/01 10:00:01Z: OS: Microsoft Windows NT 10.0.14393\r\n"
        "2023/05/01 10:00:02Z: SSM: Amazon SSM Agent v2.2.392.0\r\n"
        "2023/05/01 10:00:09Z: Message: Windows is Ready to use\r\n"
    )
    console = parse_console(text)
    assert (console.ready, console.agent, console.signs) == (True, "2.2.392.0", ())
    assert not parse_console(text[:-30]).ready


def test_a_password_that_it_printed_is_not_kept() -> None:
    text = BOOT + "Setting Bitnami application password to 'h0rse'\nNo space left on device\n"
    assert "h0rse" not in parse_console(text).model_dump_json()


@given(
    st.text(), st.sampled_from(["", "Kernel panic - not syncing: ", "\x1b[31mOut of memory: Kill process "])
)
def test_whatever_it_printed_is_parsed_and_shows_no_escape(text: str, before: str) -> None:
    for sign in parse_console(before + text).signs:
        assert sign.isprintable()


# -- as facts and findings -----------------------------------------------------------------------------------


def seen(console: str | Unknown, **answers: object) -> object:
    closed = Unknown(unknown="SSH_TIMEOUT: nothing answers")
    return parse_host(view(), HOST, region(**answers), {"closed": closed, "console": console})


def codes(found: object) -> dict[str, str]:
    return {finding.code: finding.message for finding in judge_from_outside(HOST, found)}  # type: ignore[arg-type]


def test_an_unreachable_host_is_unreachable_and_its_console_explains_it() -> None:
    found = seen("Ubuntu 14.04.6 LTS web-01 ttyS0\nOut of memory: Kill process 1 (x)\n")
    assert found.way == Unknown(unknown="SSH_TIMEOUT: nothing answers")
    assert (found.os_guess, found.os_guess_source) == ("Ubuntu 14.04.6 LTS", "what it printed on its console")
    assert "out of memory" in codes(found)["CONSOLE_SAYS"]


def test_a_console_that_could_not_be_read_is_unknown() -> None:
    denied = Unknown(unknown="ACCESS_DENIED: ec2:GetConsoleOutput")
    found = seen(denied)
    assert found.console == denied and "CONSOLE_SAYS" not in codes(found)
    assert facts().console is None, "who was not asked for one has none"


def status(system: str, inside: str, *events: dict[str, str]) -> list[dict[str, object]]:
    return [
        {
            "InstanceId": instance()["InstanceId"],
            "SystemStatus": {"Status": system},
            "InstanceStatus": {"Status": inside},
            "Events": list(events),
        }
    ]


@pytest.mark.parametrize(
    ("statuses", "checks", "remedy"),
    [
        (status("ok", "ok"), "ok", ""),
        (status("ok", "impaired"), "instance impaired", "does not answer"),
        (status("impaired", "impaired"), "system impaired, instance impaired", "other hardware"),
        (status("ok", "initializing"), "instance initializing", ""),
        ([], None, ""),
        (Unknown(unknown="ACCESS_DENIED"), Unknown(unknown="ACCESS_DENIED"), ""),
    ],
)
def test_ec2s_own_checks(statuses: object, checks: object, remedy: str) -> None:
    found = facts(region(statuses=statuses))
    assert found.checks == checks
    said = [finding.remedy for finding in judge_from_outside(HOST, found) if finding.code == "CHECKS_FAIL"]
    assert [remedy in one for one in said] == ([True] if remedy else [])


def test_what_ec2_will_do_to_it_is_told_until_it_is_done() -> None:
    retire = {
        "Code": "instance-retirement",
        "NotBefore": "2026-12-01T00:00:00+00:00",
        "Description": "retire",
    }
    done = {**retire, "Description": "[Completed] retire"}
    assert (
        "instance-retirement on 2026-12-01"
        in codes(facts(region(statuses=status("ok", "ok", retire))))["EC2_EVENT"]
    )
    assert "EC2_EVENT" not in codes(facts(region(statuses=status("ok", "ok", done))))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A plan over an emulated account; its instances print what moto has them print."""
    config = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=[REGION])])
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("MOTO_ACCOUNT_ID", ACCOUNT)
        ledger = Ledger(f"sqlite:///{tmp_path}/l.db")
        yield open_run(config, "acme", "plan", closed_by(BannerTimeout), ledger=ledger)
        ledger.close()


def closed_by(kind: type[Unreachable]) -> Opener:
    def opener(run: Run, host: Host) -> Transport:
        raise kind("no.", subject=host.label, remedy="")

    return opener


def started(count: int) -> list[Host]:
    ec2 = boto3.client("ec2", region_name=REGION)
    image = ec2.register_image(Name="old", Architecture="x86_64", RootDeviceName="/dev/sda1")["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=count, MaxCount=count)["Instances"]
    return [Host(account=ACCOUNT, region=REGION, instance_id=one["InstanceId"]) for one in made]


def looked_at(run: Run, host: Host, **standing: object) -> object:
    known = {"state": "running", "platform": "linux", "ssm_status": "never", **standing}
    account = DiscoverAccount(standing={host.instance_id: Standing(**known)})  # type: ignore[arg-type]
    return probe_host(run, host, replace(view(), account_facts={StageName.discover: account}))


def consoles(run: Run) -> int:
    return sum(call.operation == "GetConsoleOutput" for call in run.aws.calls)


def test_of_silent_hosts_some_consoles_are_read(run: Run) -> None:
    hosts = started(CONSOLES_A_RUN + 3)
    seen = [looked_at(run, host) for host in hosts]
    assert consoles(run) == CONSOLES_A_RUN
    first, last = seen[0], seen[-1]
    assert first["closed"].unknown.startswith("SSH_HANGS") and "Linux version" in first["console"]
    assert last["console"].unknown.startswith("NOT_ASKED")


@pytest.mark.parametrize(
    ("kind", "standing"),
    [(AuthRefused, {}), (HostKeyUnknown, {}), (NoSudo, {}), (BannerTimeout, {"ssm_status": "Online"})],
)
def test_who_answers_has_no_console_read(run: Run, kind: type[Unreachable], standing: dict[str, str]) -> None:
    run.opener = closed_by(kind)
    with pytest.raises(kind):
        looked_at(run, started(1)[0], **standing)
    assert consoles(run) == 0


@pytest.mark.parametrize(
    ("standing", "read"),
    [({}, 1), ({"ssm_status": "Online"}, 0), ({"state": "stopped"}, 0), ({"exclude": "ours"}, 0)],
)
def test_of_windows_only_who_is_not_online(run: Run, standing: dict[str, str], read: int) -> None:
    looked_at(run, started(1)[0], platform="windows", **standing)
    assert consoles(run) == read
