"""What a host that lets nobody in says on its console: its system, and why it may not answer. Pure.

Only lines that mean something here are kept: at its first boot a machine prints passwords there, too.
"""

from __future__ import annotations

import re

from haltuun.model import Frozen

# systemd before 250 names a unit's description alone.
_FAILED = r"Failed to start (?:\S{1,80} - )?"
_WINDOWS_STOP = r"\*\*\* STOP: 0x|BugCheck"
# What may stand there, what it says of the host, and whether a host that came up after it got over it; of
# each the last line is evidence.
SIGNS: tuple[tuple[re.Pattern[str], str, bool], ...] = tuple(
    (re.compile(rf"^.*({pattern}).*$", re.IGNORECASE | re.MULTILINE), meaning, at_boot)
    for pattern, meaning, at_boot in (
        (r"Kernel panic - not syncing", "its kernel has stopped", False),
        (r"soft lockup - CPU|blocked for more than \d+ seconds", "its processor or disk hangs", False),
        (r"grub rescue>|error: no such (?:device|partition)", "its boot loader finds no system", True),
        (
            r"VFS: Unable to mount root fs|ALERT!\s+\S+ does not exist|Gave up waiting for root",
            "its root file system was not found at boot",
            True,
        ),
        (
            r"UNEXPECTED INCONSISTENCY|run fsck manually",
            "a file system has to be checked by hand before it goes on booting",
            True,
        ),
        (
            r"You are in emergency mode|Entering emergency mode|Give root password for maintenance"
            r"|Cannot open access to console, the root account is locked",
            "it waits in emergency mode",
            True,
        ),
        (
            r"Timed out waiting for device|Dependency failed for /|Failed to mount /",
            "something that /etc/fstab names did not come up",
            True,
        ),
        # Shown in the first minute of any start.
        (r"A start job is running for [^\n]{1,100}\(\d+min ", "it waits for one unit as it boots", True),
        (r"Out of memory: Kill(?:ed)? process", "it ran out of memory", False),
        (r"No space left on device", "its disk is full", False),
        (
            r"EXT4-fs error|Remounting filesystem read-only|I/O error, dev (?!fd|sr|loop|ram)\w+, sector"
            r"|XFS \(\w+\): (?:(?:Metadata )?Corruption|Internal error|metadata I/O error)",
            "its file system or disk has errors",
            False,
        ),
        (
            r"No DHCPOFFERS received|Failed to raise network interfaces"
            rf"|{_FAILED}(?:LSB: Bring up/down networking|Raise network interfaces)",
            "it got no network address",
            False,
        ),
        # cloud-init, which brings the keys; the second since 20.
        (
            r"Giving up on md from|IMDS's HTTP endpoint is probably disabled",
            "it did not reach its metadata service as it booted",
            False,
        ),
        (rf"{_FAILED}Open(?:SSH|BSD Secure Shell)", "its SSH server did not start", False),
        (r"Failed to start [^\n]{0,80}amazon-ssm-agent", "its Systems Manager agent did not start", False),
        (_WINDOWS_STOP, "Windows has stopped", True),
    )
)
_START = re.compile(r"^(?:\[ *\d+\.\d+\] )?Linux version ", re.MULTILINE)
_STOP = re.compile(_WINDOWS_STOP, re.IGNORECASE)
# "Ubuntu 14.04.6 LTS ip-10-0-0-5 ttyS0" (agetty's banner), or above "Kernel 4.14 on an x86_64" on Red Hat's.
_BANNER = re.compile(
    r"^(?P<os>(?:Ubuntu|Debian|CentOS|Amazon Linux|Red Hat|Rocky|AlmaLinux|SUSE|openSUSE)\S*[^\n]{0,60}?)"
    r"(?: \S+ (?:ttyS0|tty1|hvc0)\s*$|\r?\nKernel \S+ on an )",
    re.MULTILINE,
)
_AGENT = re.compile(r"Amazon SSM Agent v?(\d+(?:\.\d+){2,3})")
# The last message of a Windows host that came up (EC2 User Guide, "Unable to get console output").
_READY = re.compile("Windows is Ready to use", re.IGNORECASE)
_MAX_LINE = 160
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Console(Frozen):
    """`signs`: "meaning (line)", the newest of each kind."""

    system: str = ""
    agent: str = ""  # the version of the agent that it started, on Windows
    ready: bool = False  # Windows came up
    signs: tuple[str, ...] = ()


def parse_console(text: str) -> Console:
    """`text` as GetConsoleOutput gives it: up to 64 KB, the newest at the end. The last start counts."""
    text = _ESCAPE.sub("", text.replace("\r\n", "\n"))
    banners = list(_BANNER.finditer(text))
    agents = _AGENT.findall(text)
    starts = [found.start() for found in _START.finditer(text)]
    last = text[starts[-1] :] if starts else text
    # Who came to its login, or to readiness, got over what is told before.
    up = max((found.end() for found in (*_BANNER.finditer(last), *_READY.finditer(last))), default=0)
    signs = []
    for pattern, meaning, at_boot in SIGNS:
        lines = [found.group(0) for found in pattern.finditer(last) if not at_boot or found.start() >= up]
        if lines:
            signs.append(f"{meaning} ({_shown(lines[-1])})")
    stopped = max((found.start() for found in _STOP.finditer(text)), default=-1)
    return Console(
        system=_shown(banners[-1]["os"]) if banners else "",
        agent=agents[-1] if agents else "",
        ready=any(found.start() > stopped for found in _READY.finditer(text)),
        signs=tuple(signs),
    )


def _shown(text: str) -> str:
    """Nothing of a console reaches a person's terminal as it is."""
    return "".join(one if one.isprintable() else " " for one in text.strip()[:_MAX_LINE])
