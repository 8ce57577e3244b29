"""A host as it says of itself: what its probe printed → facts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from haltuun.model import Host, Json, Unknown
from haltuun.stages.discover.eol import term
from haltuun.stages.discover.facts import DiscoverFacts, LogFile
from haltuun.stages.discover.lines import Lines, pairs
from haltuun.stages.discover.listeners import parse_listeners

INSTANCE_ID = re.compile(r"^i-[0-9a-f]{8,17}$")
# OpenSSH 7.2 brought rsa-sha2-256/512 (its release notes, 2016-02-29).
RSA_SHA2_SINCE = (7, 2)
STRONG_SIGNS = ("running", "checksum", "pipe", "upload")


def unseen(why: Unknown) -> dict[str, Any]:
    """Every host-side fact, unknown for the same reason."""
    names = list(DiscoverFacts.model_fields)
    return {name: why for name in names[names.index("way") :]}


def parse_inside(host: Host, account_id: str, ec2: Mapping[str, Any], raw: Json) -> dict[str, Any]:
    lines = Lines(raw["stdout"])
    if lines.first("probe") is None:
        return {
            **unseen(Unknown(unknown="PROBE_FAILED: the host's script printed nothing")),
            "way": raw["way"],
        }
    box = parse_box(lines, host, account_id, ec2.get("private_ip"))
    if box["right_box"] is False:
        # Whatever this machine says is another machine's; nothing of it is put down to the instance.
        return {**unseen(Unknown(unknown=f"WRONG_BOX: {box['why']}")), "way": raw["way"], "right_box": False}
    os_id, os_version, os_name = parse_os(lines)
    return {
        "way": raw["way"],
        "right_box": box["right_box"],
        "hostname": lines.first("hostname") or Unknown(unknown="the host did not say"),
        "os_id": os_id,
        "os_version": os_version,
        "os_name": os_name,
        **parse_eol(os_id, os_version, raw["asked_at"]),
        "init": _one_of(lines.first("init"), "systemd", "upstart", "sysv"),
        "arch": lines.first("arch") or Unknown(unknown="the host did not say"),
        **parse_agent(lines),
        "listeners": lines.whole("listeners", lambda: parse_listeners(lines)),
        "units": lines.whole("units", lambda: tuple(sorted({row[0] for row in lines.rows("unit")}))),
        "cloudwatch_config": lines.whole("cloudwatch", lambda: lines.first("cloudwatch") == "yes"),
        "config_management": lines.whole(
            "config-management",
            lambda: tuple(f"{tool}: {how}" for tool, how in lines.rows("config-management", 2)),
        ),
        "log_files": lines.whole(
            "logs",
            lambda: tuple(LogFile(path=path, service=service) for path, service in lines.rows("log", 2)),
        ),
        "python3": _python3(lines.first("python3")),
        "disk_free_percent": parse_free(lines, "disk"),
        "inodes_free_percent": parse_free(lines, "inodes"),
        "clock_offset_s": parse_clock(lines.number("epoch"), raw["asked_at"], raw["answered_at"]),
        "ssh_legacy": parse_ssh_legacy(lines.first("openssh"), raw.get("legacy")),
        "lifted": lines.whole("lifted", lambda: tuple(row[0] for row in lines.rows("lifted"))),
        "weak_signs": lines.whole(
            "weak", lambda: tuple(" ".join(row).strip() for row in lines.rows("weak", 2))
        ),
        "suspect": parse_suspect(lines),
        "signs_unlooked": parse_unlooked(lines),
    }


def parse_box(lines: Lines, host: Host, account_id: str, private_ip: object) -> dict[str, Any]:
    """Is the machine that answered the instance that was meant? Its metadata decides; without metadata
    a foreign id in the firmware, or an address of EC2 that the machine does not have, still tells a
    wrong one.
    """
    seen = lines.first("imds.instance-id") or ""
    if INSTANCE_ID.match(seen):
        account, region = lines.first("imds.account") or account_id, lines.first("imds.region") or host.region
        if (seen, account, region) == (host.instance_id, account_id, host.region):
            return {"right_box": True, "why": ""}
        return {
            "right_box": False,
            "why": f"the machine that answers is {seen} of account {account} in {region}",
        }
    firmware = lines.first("dmi.instance-id") or ""
    if INSTANCE_ID.match(firmware):
        return {
            "right_box": firmware == host.instance_id,
            "why": f"by its firmware the machine that answers is {firmware}",
        }
    addresses = {row[0] for row in lines.rows("address")} - {"127.0.0.1"}
    if isinstance(private_ip, str) and addresses and private_ip not in addresses:
        return {"right_box": False, "why": f"the machine that answers does not have the address {private_ip}"}
    return {"right_box": Unknown(unknown="the instance metadata did not answer"), "why": ""}


def parse_os(lines: Lines) -> tuple[str | Unknown, str | Unknown, str | Unknown]:
    """ID, VERSION_ID and a name for people: os-release, else what came before it."""
    release = pairs(lines.rows("os-release"))
    if release.get("ID"):
        version = release.get("VERSION_ID") or Unknown(
            unknown="os-release has no VERSION_ID (testing or rolling)"
        )
        return release["ID"], version, release.get("PRETTY_NAME") or release.get("NAME") or release["ID"]
    lsb = pairs(lines.rows("lsb-release"))
    if lsb.get("DISTRIB_ID"):
        name = lsb.get("DISTRIB_DESCRIPTION") or lsb["DISTRIB_ID"]
        return (
            lsb["DISTRIB_ID"].lower(),
            lsb.get("DISTRIB_RELEASE") or Unknown(unknown="lsb-release says none"),
            name,
        )
    text = lines.first("release") or ""
    for pattern, os_id in (
        (r"CentOS.*release (\d[\d.]*)", "centos"),
        (r"Red Hat Enterprise Linux.*release (\d[\d.]*)", "rhel"),
        (r"Amazon Linux AMI release (\d[\d.]*)", "amzn"),
        (r"Amazon Linux release (\d[\d.]*)", "amzn"),
    ):
        found = re.search(pattern, text)
        if found:
            return os_id, found.group(1), text
    debian = lines.first("debian") or ""
    if re.match(r"^\d", debian):
        return "debian", debian.split(".")[0], f"Debian GNU/Linux {debian}"
    why = Unknown(unknown="no os-release, lsb-release, redhat-release or debian_version")
    return why, why, why


def parse_windows_eol(ec2: Mapping[str, Any], now_epoch: float) -> dict[str, Any]:
    """No script looks at Windows: the agent's report names the release ("Microsoft Windows Server 2012 R2
    Standard")."""
    name = ec2["ssm_platform_name"]
    found = re.search(r"Windows Server (\d{4}(?: R2)?)", name) if isinstance(name, str) else None
    why = Unknown(unknown="the host's agent has not told Systems Manager its release of Windows")
    return parse_eol("windows", found.group(1) if found else why, now_epoch)


def parse_eol(os_id: str | Unknown, version: str | Unknown, now_epoch: float) -> dict[str, Any]:
    if isinstance(os_id, Unknown) or isinstance(version, Unknown):
        why = os_id if isinstance(os_id, Unknown) else version
        return {"eol": why, "eol_since": why}
    found = term(os_id, version)
    if isinstance(found, Unknown):
        return {"eol": found, "eol_since": found}
    today = datetime.fromtimestamp(now_epoch, UTC).date()
    return {"eol": today > found.free, "eol_since": found.free.isoformat()}


def parse_agent(lines: Lines) -> dict[str, Any]:
    if not lines.has("done", "agent"):
        why = lines.reason("agent")
        names = ("agent_package", "agent_version", "agent_running", "agent_enabled", "agent_processes")
        return {name: why for name in names}
    packages = {kind: version for kind, version in lines.rows("agent.package", 2)}
    kind = next((name for name in ("snap", "deb", "rpm") if name in packages), "none")
    processes = tuple(f"{name} (pid {pid})" for pid, name in lines.rows("agent.process", 2))
    enabled = lines.first("agent.enabled")
    return {
        "agent_package": kind,
        "agent_version": packages.get(kind) or None,
        "agent_running": any(name.startswith("amazon-ssm-agen") for name in processes),
        "agent_enabled": Unknown(unknown="the init system did not say")
        if not enabled and kind != "none"
        else enabled in ("enabled", "enabled-runtime", "static", "alias"),
        "agent_processes": processes,
    }


def parse_free(lines: Lines, key: str) -> float | Unknown:
    """The lower percentage of what is free on / and /var."""
    shares = []
    for _, total, free in lines.rows(key, 3):
        if all(re.fullmatch(r"[0-9]{1,18}", one) for one in (total, free)) and int(total) > 0:
            shares.append(round(100 * int(free) / int(total), 1))
    return min(shares) if shares else Unknown(unknown="df did not say")


def parse_clock(epoch: float | Unknown, asked_at: float, answered_at: float) -> float | Unknown:
    """How far the host is ahead; what lies between question and answer is no difference."""
    if isinstance(epoch, Unknown):
        return epoch
    if asked_at - 1 <= epoch <= answered_at + 1:
        return 0.0
    return round(epoch - (asked_at if epoch < asked_at else answered_at), 1)


def parse_ssh_legacy(version: str | None, seen: bool | None) -> bool | Unknown:
    """What the connection itself showed decides; else the version of the host's OpenSSH."""
    if seen is not None:
        return seen
    found = re.match(r"^(\d{1,9})\.(\d{1,9})", version or "")
    if not found:
        return Unknown(unknown="the host's OpenSSH version is not known")
    return (int(found.group(1)), int(found.group(2))) < RSA_SHA2_SINCE


def parse_suspect(lines: Lines) -> tuple[str, ...] | Unknown:
    """Strong signs as sentences. Any sign counts. None counts when the script came to its looks and could
    make at least one: what a host cannot say of itself is told apart (parse_unlooked).
    """
    words = {
        "running": "a program runs from {}",
        "checksum": "{} is not the file that its package installed",
        "pipe": "a download is piped into a shell in {}",
        "upload": "there is PHP code in an upload folder: {}",
    }
    signs = tuple(
        words[kind].format(where) for kind, where in lines.rows("suspect", 2) if kind in words and where
    )
    missing = [kind for kind in STRONG_SIGNS if not lines.has("done", f"suspect.{kind}")]
    lost = [kind for kind in missing if not lines.has("cannot", f"suspect.{kind}")]
    if not signs and (lost or len(missing) == len(STRONG_SIGNS)):
        return lines.reason(f"suspect.{(lost or missing)[0]}")
    return signs


def parse_unlooked(lines: Lines) -> tuple[str, ...]:
    """Of the strong signs those that nobody could look for, and why."""
    names = [f"suspect.{kind}" for kind in STRONG_SIGNS]
    missing = [name for name in names if not lines.has("done", name)]
    return tuple(f"{name.partition('.')[2]}: {lines.reason(name).unknown}" for name in missing)


def _python3(text: str | None) -> str | Unknown | None:
    if not text:
        return Unknown(unknown="the host did not say")
    return None if text == "none" else text


def _one_of(text: str | None, *allowed: str) -> str | Unknown:
    return text if text in allowed else Unknown(unknown="the host did not say")
