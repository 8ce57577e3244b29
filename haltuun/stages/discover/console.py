"""What a host that lets nobody in says on its console: its system, and why it may not answer. Pure.

Only lines that mean something here are kept: at its first boot a machine prints passwords there, too.
"""

from __future__ import annotations

import re

from haltuun.model import Frozen

# What may stand there, and what it says of the host; of each the last line is evidence.
SIGNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.MULTILINE), meaning)
    for pattern, meaning in (
        (r"^.*Kernel panic - not syncing.*$", "its kernel has stopped"),
        (
            r"^.*(VFS: Unable to mount root fs|ALERT!\s+\S+ does not exist|Gave up waiting for root).*$",
            "its root file system was not found at boot",
        ),
        (
            r"^.*(UNEXPECTED INCONSISTENCY|run fsck manually).*$",
            "a file system has to be checked by hand before it goes on booting",
        ),
        (
            r"^.*(You are in emergency mode|Entering emergency mode|Give root password for maintenance).*$",
            "it waits in emergency mode",
        ),
        (
            r"^.*(Timed out waiting for device|Dependency failed for /).*$",
            "something that /etc/fstab names did not come up",
        ),
        (r"^.*Out of memory: Kill(ed)? process.*$", "it ran out of memory"),
        (r"^.*No space left on device.*$", "its disk is full"),
        (r"^.*(EXT4-fs error|Remounting filesystem read-only).*$", "its file system has errors"),
        (r"^.*(No DHCPOFFERS received|Failed to raise network interfaces).*$", "it got no network address"),
        (r"^.*(\*\*\* STOP: 0x|BugCheck).*$", "Windows has stopped"),
    )
)
# "Ubuntu 14.04.6 LTS ip-10-0-0-5 ttyS0" (agetty's banner), or above "Kernel 4.14 on an x86_64" on Red Hat's.
_BANNER = re.compile(
    r"^(?P<os>(?:Ubuntu|Debian|CentOS|Amazon Linux|Red Hat|Rocky|AlmaLinux|SUSE|openSUSE)\S*[^\n]{0,60}?)"
    r"(?: \S+ (?:ttyS0|tty1|hvc0)\s*$|\r?\nKernel \S+ on an )",
    re.MULTILINE,
)
_AGENT = re.compile(r"Amazon SSM Agent v?(\d+(?:\.\d+){2,3})")
# The last message of a Windows host that came up (EC2 User Guide, "Unable to get console output").
_READY = "Windows is Ready to use"
_MAX_LINE = 160
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Console(Frozen):
    """`signs`: "meaning (line)", the newest of each kind."""

    system: str = ""
    agent: str = ""  # the version of the agent that it started, on Windows
    ready: bool = False  # Windows came up
    signs: tuple[str, ...] = ()


def parse_console(text: str) -> Console:
    """`text` as GetConsoleOutput gives it: up to 64 KB, the newest at the end."""
    text = _ESCAPE.sub("", text.replace("\r\n", "\n"))
    signs = []
    for pattern, meaning in SIGNS:
        lines = [found.group(0) for found in pattern.finditer(text)]
        if lines:
            signs.append(f"{meaning} ({_shown(lines[-1])})")
    banners = _BANNER.findall(text)
    agents = _AGENT.findall(text)
    return Console(
        system=_shown(banners[-1]) if banners else "",
        agent=agents[-1] if agents else "",
        ready=_READY.lower() in text.lower(),
        signs=tuple(signs),
    )


def _shown(text: str) -> str:
    """Nothing of a console reaches a person's terminal as it is."""
    return "".join(one if one.isprintable() else " " for one in text.strip()[:_MAX_LINE])
