"""What `haltuun lab` calls: up, down, status, fault."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.box.base import CACHE, ensure_base, install_tools
from lab.control import ask
from lab.errors import LabError
from lab.places import RUN_ROOT, Places
from lab.workspace import remove_workspace

DEMO_SCENARIO = Path(__file__).parent / "scenarios" / "demo.yaml"
UP_TIMEOUT_S = 480.0
STOP_TIMEOUT_S = 15.0
DYING_S = 2.0
FIRST_SLOT, LAST_SLOT = 20, 250  # second octet of the hosts' loopback addresses, one for each lab
Progress = Callable[[str], None]


@dataclass(frozen=True)
class LabInfo:
    """A lab that is up."""

    name: str
    endpoint_url: str
    config_path: Path
    account_id: str
    region: str
    env: dict[str, str]
    hosts: dict[
        str, dict[str, Any]
    ]  # name → instance_id, private_ip, address, port, pid (of the box's PID 1)


def _silent(step: str) -> None:
    """No progress is wanted."""


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("The lab needs root: it makes namespaces and mounts.", "Run it with sudo, or as root.")


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Two commands that start or end labs at the same time take turns."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".labs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _free_slot(root: Path) -> int:
    taken = {Places(path.parent).read_state().get("slot") for path in root.glob("*/lab.json")}
    return next(slot for slot in range(FIRST_SLOT, LAST_SLOT) if slot not in taken)


def _info(name: str, state: dict[str, Any]) -> LabInfo:
    found = state["info"]
    return LabInfo(
        name=name,
        endpoint_url=found["endpoint_url"],
        config_path=Path(found["config_path"]),
        account_id=found["account_id"],
        region=found["region"],
        env=found["env"],
        hosts=found["hosts"],
    )


def up(
    scenario: Path | str,
    *,
    out: Path = Path(".haltuun/lab"),
    name: str = "demo",
    seed: int = 0,
    agent_deb: Path | None = None,
    progress: Progress = _silent,
    timeout_s: float = UP_TIMEOUT_S,
) -> LabInfo:
    """Bring a lab up and wait until its hosts answer; one that is up already is returned as it is.

    Raises:
        LabError: no root, a tool is missing, another scenario is up under this name, or it did not come up.
    """
    _require_root()
    from lab.scenario import ScenarioError, load_scenario

    try:
        load_scenario(scenario, seed)
    except ScenarioError as error:
        raise LabError(str(error)) from error
    if agent_deb is not None and not agent_deb.is_file():
        raise LabError(f"There is no package {agent_deb}.", "Name a .deb file with --agent-deb.")
    install_tools(progress)
    ensure_base(progress)
    wanted = {
        "scenario": str(Path(scenario).resolve()) if Path(scenario).exists() else str(scenario),
        "seed": seed,
        "out": str(out.resolve()),
        "agent_deb": str(agent_deb.resolve()) if agent_deb else "",
    }
    places = Places.of(name)
    with _only_one():
        if places.is_supervised:
            _same_or_refuse(places, wanted)
        else:
            _clear(places)
            _spawn(places, wanted, _free_slot(RUN_ROOT))
    try:
        return _wait_ready(places, progress, timeout_s)
    except BaseException:
        with contextlib.suppress(LabError):
            down(name, keep_log=True)
        raise


def _same_or_refuse(places: Places, wanted: dict[str, Any]) -> None:
    state = places.read_state()
    other = [key for key, value in wanted.items() if state.get(key) != value]
    if other:
        raise LabError(
            f"A lab named {places.name} is already up with another {' and '.join(other)}.",
            "Take it down first with haltuun lab down.",
        )


def _spawn(places: Places, wanted: dict[str, Any], slot: int) -> None:
    places.folder.mkdir(parents=True, mode=0o700)
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "lab.supervisor"]
    command += ["--run-dir", str(places.folder), "--scenario", wanted["scenario"], "--out", wanted["out"]]
    command += ["--seed", str(wanted["seed"]), "--slot", str(slot)]
    command += ["--agent-deb", wanted["agent_deb"]] if wanted["agent_deb"] else []
    source = str(Path(__file__).resolve().parent.parent)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PREFECT_"))}
    env["PYTHONPATH"] = source
    # From here on the state is the supervisor's to write.
    places.write_state(wanted | {"slot": slot, "state": "starting", "step": "starting"})
    with places.log.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
            cwd="/",
        )
    places.record(process.pid)
    places.supervisor_file.write_text(str(process.pid), encoding="ascii")


def _wait_ready(places: Places, progress: Progress, timeout_s: float) -> LabInfo:
    deadline = time.monotonic() + timeout_s
    step = ""
    while True:
        state = places.read_state()
        if state.get("step", "") != step:
            step = state.get("step", "")
            progress(step)
        if state.get("state") == "ready":
            return _info(places.name, state)
        if state.get("state") == "failed" or not places.is_supervised:
            raise LabError(f"Lab {places.name} did not come up: {step}.", f"See {kept_log(places)}.")
        if time.monotonic() > deadline:
            raise LabError(
                f"Lab {places.name} was not ready after {timeout_s:.0f} s.", f"See {kept_log(places)}."
            )
        time.sleep(0.1)


def kept_log(places: Places) -> Path:
    """Where the supervisor's log goes when a lab that failed is cleared away."""
    return Path("/var/log") / f"haltuun-lab-{places.name}.log"


def _clear(places: Places) -> None:
    places.kill_all()
    places.remove()


def down(name: str = "demo", *, keep_out: bool = False, keep_log: bool = False) -> bool:
    """End a lab and take away all it made; only the cached base image stays. False when there was none.

    `keep_out` leaves what `up` wrote for its user. Works as well when the supervisor was killed.
    """
    _require_root()
    places = Places.of(name)
    if not places.folder.exists():
        return False
    state = places.read_state()
    if places.is_supervised:
        with contextlib.suppress(LabError):
            ask(places.control, {"op": "stop"}, timeout_s=5)
        _is_supervised_for(places, STOP_TIMEOUT_S)
    if keep_log and places.log.exists():
        kept_log(places).write_bytes(places.log.read_bytes())
    with _only_one():
        _clear(places)
    if state.get("out") and not keep_out:
        remove_workspace(Path(state["out"]))
    return True


def _is_supervised_for(places: Places, seconds: float) -> bool:
    """Whether it still is at the end of that time; False as soon as it is not."""
    deadline = time.monotonic() + seconds
    while places.is_supervised and time.monotonic() < deadline:
        time.sleep(0.05)
    return places.is_supervised


def status(name: str = "demo") -> dict[str, Any]:
    """State, hosts and faults of a lab; {"state": "down"} when there is none."""
    places = Places.of(name)
    state = places.read_state()
    if not state:
        return {"state": "down", "name": name}
    if places.is_supervised and places.control.exists():
        try:
            return {"name": name} | ask(places.control, {"op": "status"})
        except LabError:
            # The kernel closes the connections of a process that dies some time before it is gone.
            if _is_supervised_for(places, DYING_S):
                raise
    if not places.is_supervised:
        return {"state": "dead", "name": name, "step": state.get("step", "")}
    return {"name": name} | state


def fault(name: str, host: str, fault: str, on: bool) -> dict[str, Any]:
    """Switch a fault of a host or, for `account`, of an operation (`ssm:SendCommand=ThrottlingException`)."""
    return ask(Places.of(name).control, {"op": "fault", "host": host, "fault": fault, "on": on})
