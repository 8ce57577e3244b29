"""One host of a running lab: its box, its door, and what the account decides about it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab.box.box import Box
from lab.box.door import Door, Doorkeeper
from lab.box.keys import KeyPair, make_host_keys
from lab.box.machine import put, write_host_keys
from lab.errors import LabError
from lab.scenario import Host

if TYPE_CHECKING:
    from lab.cloud.hostservices import HostServices

log = logging.getLogger("lab")
DISK_FULL = "disk_full"
CLOCK_OFFSET = "var/lib/lab/clock_offset_s"
SKEW_S = 3600
# A shell on the host learns the time from `date` alone; the stand-ins read the offset themselves.
SKEWED_DATE = f"""\
#!/bin/sh
case " $* " in
*" -d"* | *" --date"* | *" -r"* | *" --reference"*) exec /usr/bin/date.lab "$@" ;;
esac
exec /usr/bin/date.lab -d "@$(($(/usr/bin/date.lab +%s) + $(cat /{CLOCK_OFFSET})))" "$@"
"""


@dataclass
class LabHost:
    """A host with a box."""

    host: Host
    box: Box
    door: Door
    host_keys: dict[str, KeyPair]
    services: HostServices | None = None
    faults: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.host.name

    def set_fault(self, doors: Doorkeeper, fault: str, on: bool) -> None:
        """Switch a fault of the box itself or, where the account decides it, of its services."""
        with self.lock:
            work = BOX_FAULTS.get(fault)
            if work is not None:
                work(self, doors, on)
            elif self.services is not None:
                try:
                    self.services.set_fault(fault, on)
                except (KeyError, ValueError) as error:
                    known = ", ".join(sorted(BOX_FAULTS))
                    raise LabError(f"There is no fault '{fault}'.", f"A box has {known}.") from error
            self.faults.discard(fault)
            if on:
                self.faults.add(fault)


def _sshd_hang(lab_host: LabHost, doors: Doorkeeper, on: bool) -> None:
    lab_host.door.hangs = on
    if not on:
        doors.release(lab_host.door)


def _sshd_refused(lab_host: LabHost, doors: Doorkeeper, on: bool) -> None:
    if on:
        doors.shut(lab_host.door)
    else:
        doors.open(lab_host.door)


def _host_key_changed(lab_host: LabHost, doors: Doorkeeper, on: bool) -> None:
    write_host_keys(lab_host.box.root, make_host_keys(lab_host.name) if on else lab_host.host_keys)


def _disk_full(lab_host: LabHost, doors: Doorkeeper, on: bool) -> None:
    lab_host.box.fill_disk(on)


def _clock_skew(lab_host: LabHost, doors: Doorkeeper, on: bool) -> None:
    root = lab_host.box.root
    real, kept = root / "usr/bin/date", root / "usr/bin/date.lab"
    if on and not kept.exists():
        put(root / CLOCK_OFFSET, f"{SKEW_S}\n")
        real.rename(kept)
        put(real, SKEWED_DATE, 0o755)
    elif not on and kept.exists():
        kept.replace(real)
        (root / CLOCK_OFFSET).unlink(missing_ok=True)


def _agent_killed(lab_host: LabHost, doors: Doorkeeper, on: bool) -> None:
    """SIGKILL to the core alone, once; its worker stays behind, and the init starts it again in its time."""
    if on:
        lab_host.box.run("pkill", "-KILL", "-x", "amazon-ssm-agen")


def _rebooted(lab_host: LabHost, doors: Doorkeeper, on: bool) -> None:
    """Without a shutdown, once."""
    if on:
        lab_host.box.reboot()


BoxFault = Callable[[LabHost, Doorkeeper, bool], None]
BOX_FAULTS: dict[str, BoxFault] = {
    "sshd_hang": _sshd_hang,
    "sshd_refused": _sshd_refused,
    "host_key_changed": _host_key_changed,
    DISK_FULL: _disk_full,
    "clock_skew": _clock_skew,
    "agent_killed": _agent_killed,
    "rebooted": _rebooted,
}
