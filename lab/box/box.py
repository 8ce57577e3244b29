"""One box: its layers, its namespaces, its processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from lab.box.gateway import Gateway
from lab.box.machine import Machine, write_machine
from lab.errors import LabError

TIME_SCALE = "16"
GATEWAY_SUFFIX = ".1"
DISK_MB = 512


class Box:
    """A host in namespaces of its own.

    `folder` is the box's place below the run directory. The caller's mount namespace should be private to the
    lab, so that nothing mounted here outlives its processes.
    """

    def __init__(self, machine: Machine, folder: Path, lower: list[Path], disk_mb: int = DISK_MB) -> None:
        self.machine = machine
        self.folder = folder
        self.lower = lower
        self.disk_mb = disk_mb
        self.gateway = Gateway(f"{self._network}{GATEWAY_SUFFIX}/24")
        self.pid = 0  # PID 1 of the box, as the machine outside counts
        self._parent: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def _network(self) -> str:
        return self.machine.private_ip.rpartition(".")[0]

    @property
    def upper(self) -> Path:
        """The upper layer; to be written only before the box starts."""
        return self.folder / "disk/up"

    @property
    def root(self) -> Path:
        """The box's file system as its own processes see it."""
        return Path(f"/proc/{self.pid}/root")

    def prepare(self) -> None:
        disk, root = self.folder / "disk", self.folder / "root"
        for path in (disk, root):
            path.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={self.disk_mb}m,mode=755", f"disk-{self.name}", str(disk))
        (disk / "up").mkdir()
        (disk / "work").mkdir()
        write_machine(self.upper, self.lower[-1], self.machine)

    def start(self, timeout_s: float = 20.0) -> None:
        """Boot; returns when PID 1 answers."""
        gate = f"/proc/{os.getpid()}/fd/{self.gateway.open()}"
        # A cgroup namespace too: what contains the lab outside must not show as a unit inside.
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        unshare = ["unshare", *spaces, "--fork", "--kill-child=KILL"]
        boot = ["sh", str(Path(__file__).with_name("boot.sh")), ":".join(map(str, self.lower))]
        disk, root = str(self.folder / "disk"), str(self.folder / "root")
        address, gateway = f"{self.machine.private_ip}/24", self._network + GATEWAY_SUFFIX
        own = [disk, root, self.name, address, gateway, gate, self.machine.init, self.machine.tmp]
        boot_log = self.folder / "boot.log"
        with boot_log.open("wb") as stream:
            self._parent = subprocess.Popen(
                [*unshare, "--propagation", "private", *boot, *own],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={
                    "LAB_TIME_SCALE": os.environ.get("LAB_TIME_SCALE", TIME_SCALE),
                    "PATH": os.environ["PATH"],
                },
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while not self._is_up():
            if self._parent.poll() is not None or time.monotonic() > deadline:
                said = boot_log.read_text(errors="replace").strip().splitlines()
                self.stop()
                raise LabError(f"Host {self.name} did not boot: {said[-1] if said else 'no message'}.")
            time.sleep(0.02)
        self.gateway.connect()

    def _is_up(self) -> bool:
        if not self.pid:
            self.pid = child_of(self._parent.pid) if self._parent else 0
        return bool(self.pid) and (self.root / "run/lab/init.sock").exists()

    @property
    def is_running(self) -> bool:
        return self._parent is not None and self._parent.poll() is None

    def stop(self) -> None:
        """End everything in the box; with PID 1 the kernel ends all of the pid namespace."""
        if self._parent is not None and self._parent.poll() is None:
            if self.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            else:
                self._parent.kill()
            self._parent.wait(timeout=20)
        self.gateway.close()
        disk = self.folder / "disk"
        if os.path.ismount(disk):
            _run("umount", str(disk))
        shutil.rmtree(self.folder, ignore_errors=True)
        self.pid = 0

    def reboot(self) -> None:
        """As after a reset: no process lives on, and what is on the disk stays."""
        if self._parent is None:
            raise LabError(f"Host {self.name} does not run.")
        self.gateway.disconnect()
        os.kill(self.pid, signal.SIGKILL)
        self._parent.wait(timeout=20)
        self.pid = 0
        self.start()

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs a program inside the box."""
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "--", *argv]

    def run(
        self, *argv: str, input_text: str | None = None, timeout_s: float = 60, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the box's root."""
        done = subprocess.run(
            self.enter(*argv), input=input_text, capture_output=True, text=True, timeout=timeout_s, env=_CLEAN
        )
        if check and done.returncode != 0:
            text = (done.stderr or done.stdout).strip().splitlines()
            raise LabError(
                f"{self.name}: {' '.join(argv[:3])} failed: {text[-1] if text else done.returncode}"
            )
        return done

    def fill_disk(self, full: bool) -> None:
        """Shrink the disk to what is used (df says 100 %, writes fail), or give it back its size."""
        if not full:
            self._resize_disk(f"{self.disk_mb}m")
            return
        for tries_left in reversed(range(20)):
            stat = os.statvfs(self.folder / "disk")
            used_kb = (stat.f_blocks - stat.f_bfree) * stat.f_frsize // 1024
            try:
                self._resize_disk(f"{max(used_kb, 4)}k")
            except LabError:  # what runs there has written in between
                if not tries_left:
                    raise
            else:
                return

    def _resize_disk(self, size: str) -> None:
        _run("mount", "-o", f"remount,size={size}", str(self.folder / "disk"))


_CLEAN = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}


def child_of(pid: int) -> int:
    """The first child of a process, or 0."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(text.split()[0]) if text.split() else 0


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise LabError(f"{' '.join(command[:2])} failed: {done.stderr.strip()}", "The lab needs a full root.")
