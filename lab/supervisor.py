"""The lab process: it starts the account and the boxes, couples them, and ends them.

python -m lab.supervisor --run-dir DIR --scenario FILE --out DIR [--seed N] [--agent-deb FILE] --slot N

It runs in a mount namespace of its own, so that no mount of the lab outlives its processes.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lab.account import AccountProcess
from lab.box.base import ensure_base
from lab.box.box import Box
from lab.box.contents import Furnisher
from lab.box.door import Door, Doorkeeper
from lab.box.keys import KeyPair, make_host_keys, make_key_pair
from lab.box.layers import build_common_layer
from lab.box.machine import Machine
from lab.control import ControlSocket
from lab.errors import LabError
from lab.hosts import DISK_FULL, LabHost
from lab.places import OWNER, Owner, Places
from lab.scenario import Host, Scenario, load_scenario
from lab.workspace import PACKAGES, Reached, write_workspace

log = logging.getLogger("lab")
SETTLE_TIMEOUT_S = 45.0
PARALLEL_BOXES = 2
SSH_PORT = 2205
KEY_NAME = "acme-legacy"
FIRST_ADDRESS = 10


class Lab:
    """One lab, from start to end, in this process."""

    def __init__(
        self, places: Places, scenario: Scenario, out: Path, slot: int, agent_deb: Path | None
    ) -> None:
        self.places = places
        self.scenario = scenario
        self.out = out
        self.slot = slot
        self.given_agent_deb = agent_deb
        self.hosts: dict[str, LabHost] = {}
        self.doors = Doorkeeper()
        self.key = make_key_pair(KEY_NAME)
        self.stopping = threading.Event()
        self._account: AccountProcess | None = None
        self._keys: dict[str, dict[str, KeyPair]] = {}
        self._state: dict[str, Any] = places.read_state()

    def say(self, step: str, **more: Any) -> None:
        """Progress, for the one who waits in api.up."""
        log.info("%s", step)
        self._state |= {"step": step, **more}
        self.places.write_state(self._state)

    def up(self) -> None:
        self.say("preparing the base image of the hosts", state="starting", pid=os.getpid())
        base = ensure_base(lambda step: self.say(step))
        self.say("starting the emulated account")
        self._account = AccountProcess(self.places, self.scenario.account_id, self.stopping)
        agent_deb, cloudwatch_deb, version = self._packages()
        layer = build_common_layer(self.places.folder / "common", base, self._ca())
        furnisher = Furnisher(self.scenario, base, self.places.folder / "packages", agent_deb)
        self._make_hosts([layer, base])
        with ThreadPoolExecutor(PARALLEL_BOXES) as pool:
            # Hosts boot while the account, which only their agents need, is being filled.
            booting = [pool.submit(self._boot, host, furnisher) for host in self.hosts.values()]
            self._account.wait_ready()
            self.say("filling the account")
            self._seed(cloudwatch_deb)
            self.say("starting the hosts")
            for done in booting:
                done.result()
            for done in [pool.submit(self._furnish, host, furnisher) for host in self.hosts.values()]:
                done.result()
        self._open_doors()
        env = self._write_workspace(agent_deb, version)
        self.say("waiting for the agents")
        unseen = self._settle()
        if unseen:
            log.warning("not Online after %.0f s: %s", SETTLE_TIMEOUT_S, ", ".join(unseen))
        self.say("ready", state="ready", info=self._info(env))

    @property
    def account(self) -> AccountProcess:
        if self._account is None:
            raise LabError("The emulated account is not up yet.")
        return self._account

    def _packages(self) -> tuple[Path, Path, str]:
        from lab.agent.build import DEFAULT_SSM_VERSION, build_agent_deb, build_cloudwatch_deb

        folder = self.places.folder / "packages"
        folder.mkdir(exist_ok=True)
        agent = self.given_agent_deb or build_agent_deb(folder)
        asked = ["dpkg-deb", "-f", str(agent), "Version"]
        version = subprocess.run(asked, capture_output=True, text=True).stdout.strip() or DEFAULT_SSM_VERSION
        return agent, build_cloudwatch_deb(folder), version

    def _seed(self, cloudwatch_deb: Path) -> None:
        from lab.cloud.seed import seed

        boxes = {host.name: {"private_ip": host.private_ip} for host in self.scenario.hosts}
        seed(
            self.account.endpoint_url,
            self.scenario,
            boxes,
            public_key=self.key.public,
            cloudwatch_deb=cloudwatch_deb,
        )

    def _ca(self) -> str:
        from lab.cloud.ca import ensure_ca

        return ensure_ca(self.places.folder / "ca").authority_pem

    def _make_hosts(self, lower: list[Path]) -> None:
        for position, host in enumerate(self.scenario.hosts):
            if host.has_box:
                keys = self._host_keys(host)
                box = Box(self._machine(host, keys), self.places.boxes / host.name, lower)
                door = Door(f"127.{self.slot}.0.{FIRST_ADDRESS + position}", SSH_PORT, box)
                self.hosts[host.name] = LabHost(host, box, door, keys)
        for lab_host in self.hosts.values():
            twin = lab_host.host.ssh_twin
            if twin:
                lab_host.door.box = self.hosts[twin].box

    def _host_keys(self, host: Host) -> dict[str, KeyPair]:
        """Clones of one image share their host keys, and so does a twin: its address looks familiar."""
        source = host.ssh_twin or host.image or host.name
        if host.ssh_twin:
            twin = self.scenario.host(host.ssh_twin)
            source = twin.image or twin.name
        if source not in self._keys:
            self._keys[source] = make_host_keys(source)
        return self._keys[source]

    def _machine(self, host: Host, keys: dict[str, KeyPair]) -> Machine:
        system = host.operating_system
        known = make_key_pair("somebody-else").public if host.ssh_mode == "no-key" else self.key.public
        # An image that was lifted from elsewhere brings its machine id with it; cloud images make a new one.
        source = f"{self.scenario.seed}:{host.image or host.name}"
        return Machine(
            name=host.name,
            private_ip=host.private_ip,
            os_release=system.os_release,
            init=system.init,
            openssh=system.openssh,
            user=system.user,
            authorized_key=known,
            host_keys=make_host_keys(host.name) if host.ssh_mode == "changed-key" else keys,
            machine_id=hashlib.md5(source.encode(), usedforsecurity=False).hexdigest(),
            patches_missing=[patch.message() for patch in host.patches_missing],
            shell=host.login_shell,
            noisy=host.login_noise,
            sudo=host.sudo,
            tmp=host.tmp,
        )

    def _boot(self, lab_host: LabHost, furnisher: Furnisher) -> None:
        host, box = lab_host.host, lab_host.box
        if self.stopping.is_set():
            raise LabError("The lab was told to stop.")
        box.prepare()
        furnisher.write_state(host, box)
        box.start()
        self.places.record(box.pid)
        furnisher.build_apps(host)

    def _furnish(self, lab_host: LabHost, furnisher: Furnisher) -> None:
        from lab.cloud.addresses import SERVICE_ADDRESSES
        from lab.cloud.hostservices import HostServices

        host, box = lab_host.host, lab_host.box
        lab_host.services = HostServices(
            netns_socket=box.gateway.socket,
            instance_id=host.instance_id,
            region=self.scenario.region,
            endpoint_url=self.account.endpoint_url,
            ca_dir=self.places.folder / "ca",
            on_reach_change=lambda service, up: box.gateway.answer_for(SERVICE_ADDRESSES[service][0], up),
        )
        lab_host.services.start()
        early = [fault for fault in host.faults if fault != DISK_FULL]
        for fault in early:
            lab_host.set_fault(self.doors, fault, True)
        furnisher.install(host, box)
        if DISK_FULL in host.faults:  # what is installed needs the room
            lab_host.set_fault(self.doors, DISK_FULL, True)

    def _open_doors(self) -> None:
        for lab_host in self.hosts.values():
            if lab_host.host.ssh_mode == "hang":
                lab_host.set_fault(self.doors, "sshd_hang", True)
            if lab_host.host.ssh_mode == "refused":
                lab_host.set_fault(self.doors, "sshd_refused", True)
            elif "sshd_refused" not in lab_host.faults:
                self.doors.open(lab_host.door)

    def _write_workspace(self, agent_deb: Path, version: str) -> dict[str, str]:
        reached = [
            Reached(
                instance_id=lab_host.host.instance_id,
                address=lab_host.door.address,
                port=lab_host.door.port,
                user=lab_host.host.operating_system.user,
                known_keys=tuple(pair.public for pair in lab_host.host_keys.values()),
                deliberate_hybrid=lab_host.host.agent == "hybrid-deliberate",
            )
            for lab_host in self.hosts.values()
        ]
        packages = self.out / PACKAGES
        packages.mkdir(parents=True, exist_ok=True)
        given = packages / agent_deb.name
        given.write_bytes(agent_deb.read_bytes())
        return write_workspace(
            self.out,
            account_id=self.scenario.account_id,
            alias=self.scenario.alias,
            region=self.scenario.region,
            endpoint_url=self.account.endpoint_url,
            key=self.key,
            hosts=reached,
            agent_deb=given,
            agent_version=version,
        )

    def _settle(self) -> list[str]:
        """Wait until those agents that can are Online; returns the ids of those that did not come."""
        wanted = {
            host.mi_id if host.is_hybrid else host.instance_id
            for host in (lab_host.host for lab_host in self.hosts.values())
            if _comes_online(host, self.scenario.dhmc)
        }
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while wanted and time.monotonic() < deadline and not self.stopping.is_set():
            nodes = self.account.ask("nodes")
            wanted = {name for name in wanted if nodes.get(name, {}).get("ping_status") != "Online"}
            self._tick()
            self.stopping.wait(0.3)
        return sorted(wanted)

    def _info(self, env: dict[str, str]) -> dict[str, Any]:
        rows = {}
        for host in self.scenario.hosts:
            lab_host = self.hosts.get(host.name)
            rows[host.name] = {
                "instance_id": host.instance_id,
                "private_ip": host.private_ip,
                "address": lab_host.door.address if lab_host else "",
                "port": lab_host.door.port if lab_host else 0,
                "pid": lab_host.box.pid if lab_host else 0,
            }
        return {
            "endpoint_url": self.account.endpoint_url,
            "config_path": env["HALTUUN_CONFIG"],
            "env": env,
            "account_id": self.scenario.account_id,
            "region": self.scenario.region,
            "hosts": rows,
        }

    def _tick(self) -> None:
        for lab_host in self.hosts.values():
            if lab_host.services is None:
                continue
            try:
                lab_host.services.tick()
            except (OSError, LabError) as error:
                log.warning("%s: the account's view of the host could not be read: %s", lab_host.name, error)

    def serve(self, owner: Owner) -> None:
        while not self.stopping.wait(1.0):
            self._tick()
            if owner.has_ended:
                return
            if not self.account.is_running:
                self.say("the emulated account has ended", state="failed")
                return

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the control socket is asked: status, fault, stop."""
        asked = request["op"]
        if asked == "status":
            return self._state | {
                "boxes": {name: self._box_status(found) for name, found in self.hosts.items()}
            }
        if asked == "fault":
            return self._fault(str(request["host"]), str(request["fault"]), bool(request["on"]))
        if asked == "stop":
            self.stopping.set()
            return {"stopping": True}
        raise LabError(f"The lab does not know how to '{asked}'.")

    def _box_status(self, lab_host: LabHost) -> dict[str, Any]:
        return {
            "running": lab_host.box.is_running,
            "pid": lab_host.box.pid,
            "faults": sorted(lab_host.faults),
        }

    def _fault(self, name: str, fault: str, on: bool) -> dict[str, Any]:
        """A fault of one host or, for `account`, of an operation: `ssm:SendCommand=ThrottlingException`."""
        if name == "account":
            operation, _, error = fault.partition("=")
            given = error or "ThrottlingException"
            return {"faults": self.account.ask("fault", operation=operation, error=given if on else None)}
        lab_host = self.hosts.get(name)
        if lab_host is None:
            raise LabError(f"No running host is named '{name}'.", f"There are {', '.join(self.hosts)}.")
        before = lab_host.box.pid
        lab_host.set_fault(self.doors, fault, on)
        if lab_host.box.pid != before:
            self.places.record(lab_host.box.pid)
            self._state["info"]["hosts"][name]["pid"] = lab_host.box.pid
            self.places.write_state(self._state)
        return {"faults": sorted(lab_host.faults)}

    def down(self) -> None:
        self.doors.stop()
        for lab_host in self.hosts.values():
            if lab_host.services is not None:
                lab_host.services.stop()
        for lab_host in self.hosts.values():
            lab_host.box.stop()
        if self._account is not None:
            self._account.stop()


def _comes_online(host: Host, dhmc: bool) -> bool:
    """Whether Systems Manager hears of this host's agent, under whichever id."""
    if host.network == "blocked" or (host.network != "open" and not host.is_hybrid) or host.faults:
        return False
    if host.agent in ("stale", "half-repaired", "hybrid-deliberate"):
        return True
    has_role = dhmc if host.profile == "none" else host.profile != "no-permissions"
    return host.agent == "healthy" and has_role


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.supervisor", description="Runs one lab.")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--scenario", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--agent-deb", type=Path)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    places, owner = Places(given.run_dir), Owner(os.environ.get(OWNER))
    places.record(os.getpid())
    lab = Lab(places, load_scenario(given.scenario, given.seed), given.out, given.slot, given.agent_deb)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: lab.stopping.set())
    control = ControlSocket(places.control, lab.answer)
    try:
        lab.up()
        lab.serve(owner)
    except Exception as error:
        log.exception("the lab could not be brought up")
        lab.say(str(error) or type(error).__name__, state="failed")
        return 1
    finally:
        control.close()
        lab.down()
        if owner.has_ended:
            places.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
