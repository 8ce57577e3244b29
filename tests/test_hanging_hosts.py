"""A host that hangs costs its own deadline: through the flow, its pool of threads, and real connections.

Nothing here goes by the time that something takes. The hosts that hang would do so for minutes; the tests end
that when all others are through, so that it is their order which is looked at.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto import mock_aws

from flows import takeover
from haltuun.errors import HaltuunError
from haltuun.model import Host, StageName
from haltuun.run import Run
from lab.cloud.extensions import apply_extensions
from tests import inside
from tests.core.test_engine import ACCOUNT, World, make_stages
from tests.prefect_fixtures import PrefectServer
from tests.sshd_fixtures import Sshd, keygen

STUCK = "while [ ! -e /var/lib/haltuun/go-on ]; do sleep 0.1; done"


class Tarpit:
    """Accepts, and then says nothing, or a byte now and then, as endlessh does: never a line."""

    def __init__(self, *, drips: bool = False) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.held: list[socket.socket] = []
        self.over = threading.Event()
        self._drips = drips
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self.over.is_set():
            if select.select([self.listener], [], [], 0.1)[0]:
                self.held.append(self.listener.accept()[0])
            for peer in self.held if self._drips else ():
                with suppress(OSError):
                    peer.send(b"x")

    @property
    def open(self) -> list[socket.socket]:
        """Those of its connections that the other side has not given up."""
        return [peer for peer in self.held if not _given_up(peer)]

    def end(self) -> None:
        self.over.set()
        self._thread.join()
        for sock in (self.listener, *self.held):
            sock.close()


def _given_up(peer: socket.socket) -> bool:
    """The client's greeting is all that it ever sends."""
    try:
        while peer.recv(4096, socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@dataclass
class Looks:
    """What the hosts' looks came to, in their order: `ok`, or the code of the failure."""

    scripts: Mapping[str, str]
    came: list[tuple[StageName, str, str]] = field(default_factory=list)

    def probe(self, stage: StageName) -> Any:
        def look(run: Run, host: Host, view: Any) -> str:
            end = "ok"
            try:
                transport = run.open(host)
                try:
                    transport.run(self.scripts.get(host.name, "true"), timeout_s=250)
                finally:
                    transport.close()
            except HaltuunError as error:
                end = error.code
                raise
            finally:
                self.came.append((stage, host.name, end))
            return end

        return look

    def of(self, stage: StageName) -> dict[str, str]:
        return {name: end for looked, name, end in self.came if looked is stage}


@pytest.fixture(autouse=True, scope="module")
def cloud() -> None:
    apply_extensions()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "sshd")
    server.allow(keygen(tmp_path / "key"), "ubuntu")
    yield server.start()
    server.stop()


@contextmanager
def tarpits(*made: Tarpit) -> Iterator[list[Tarpit]]:
    try:
        yield list(made)
    finally:
        for tarpit in made:
            tarpit.end()


def plan(
    server: PrefectServer,
    sshd: Sshd,
    folder: Path,
    ports: Mapping[str, int],
    looks: Looks,
    *,
    at_once: int,
    connect_timeout_s: float,
) -> None:
    """`haltuun plan` over hosts at these ports, in this order; two stages look at each."""
    hosts = [
        Host(account=ACCOUNT, region="eu-central-1", instance_id=f"i-{number:08x}", name=name)
        for number, name in enumerate(ports)
    ]
    known = sshd.known_hosts(folder / "known")
    ssh = {"key_files": [str(folder / "key")], "known_hosts": str(known), "config": None}
    account = {
        "id": ACCOUNT,
        "alias": "acme",
        "regions": ["eu-central-1"],
        "ssh": {**ssh, "connect_timeout_s": connect_timeout_s},
        "hosts": {
            host.instance_id: {"address": "127.0.0.1", "port": ports[host.name], "user": "ubuntu"}
            for host in hosts
        },
    }
    config = {"state_dir": "state", "accounts": [account], "policy": {"host_concurrency": at_once}}
    (folder / "haltuun.yaml").write_text(yaml.safe_dump(config))
    world = World(tuple(host.instance_id for host in hosts))
    stages = [replace(stage, probe_host=looks.probe(stage.name)) for stage in make_stages(world)]
    environment = server.environment(
        {
            "HALTUUN_CONFIG": str(folder / "haltuun.yaml"),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
    )
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setattr(takeover, "STAGES", stages)
        patch.setattr(takeover, "list_hosts", lambda run: hosts)
        done = inside.call(environment, folder, "plan", "acme")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.lab
@pytest.mark.server
def test_its_neighbours_are_through_while_it_hangs(
    prefect_server: PrefectServer, sshd: Sshd, tmp_path: Path
) -> None:
    neighbours = {f"well-{n}": sshd.port for n in range(6)}
    looks = Looks({"stuck": STUCK})
    # What each that hangs has come to when the last neighbour is through.
    then: dict[str, Any] = {}

    with tarpits(Tarpit(), Tarpit(drips=True)) as (silent, drips):

        def release() -> None:
            deadline = time.monotonic() + 240
            while not neighbours.keys() <= looks.of(StageName.discover).keys():
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            then.update(came=list(looks.came), open=[len(silent.open), len(drips.open)])
            (sshd.root / "go-on").touch()
            for tarpit in (silent, drips):
                tarpit.end()

        releaser = threading.Thread(target=release)
        releaser.start()
        ports = {"silent": silent.port, "drips": drips.port, "stuck": sshd.port, **neighbours}
        plan(prefect_server, sshd, tmp_path, ports, looks, at_once=4, connect_timeout_s=120)
        releaser.join()

    assert {(name, end) for _, name, end in then["came"]} == {(name, "ok") for name in neighbours}
    assert then["open"] == [1, 1]
    ends = looks.of(StageName.discover)
    assert ends["stuck"] == "ok" and ends["silent"].startswith("SSH_") and ends["drips"].startswith("SSH_")


@pytest.mark.lab
@pytest.mark.server
@pytest.mark.soak
def test_more_of_them_than_there_are_threads_cost_each_its_own_deadline_once(
    prefect_server: PrefectServer, sshd: Sshd, tmp_path: Path
) -> None:
    """Nothing lets them go here, and who waits for a thread has its own deadline whole."""
    with tarpits(Tarpit(), Tarpit(drips=True), Tarpit(), Tarpit(drips=True), Tarpit()) as hanging:
        ports = {f"hangs-{n}": tarpit.port for n, tarpit in enumerate(hanging)}
        looks = Looks({})
        both = {**ports, "well-1": sshd.port, "well-2": sshd.port}
        plan(prefect_server, sshd, tmp_path, both, looks, at_once=2, connect_timeout_s=0.5)
        assert [(len(tarpit.held), tarpit.open) for tarpit in hanging] == [(1, [])] * 5
    expected = {**dict.fromkeys(ports, "SSH_HANGS"), "well-1": "ok", "well-2": "ok"}
    # The second stage knows of the first one's, and tries none of them again.
    assert looks.of(StageName.discover) == looks.of(StageName.repair) == expected


@pytest.mark.parametrize("many", [7, 250, 251, 1_000, 10_000, 10_007])
def test_of_very_many_no_task_run_has_neighbours_of_one_name(many: int) -> None:
    names = [f"i-{number:08x}" for number in range(many)]
    known = {name: Host(account=ACCOUNT, region="eu-central-1", instance_id=name) for name in names}
    dealt = takeover.batches(known, names)
    assert len(dealt) * takeover.RUNS_PER_HOST <= takeover.TASK_RUNS_PER_STAGE
    assert sorted(name for batch, _ in dealt for name in batch) == names
    task_run = {name: number for number, (batch, _) in enumerate(dealt) for name in batch}
    at_once = min(len(dealt), 100)  # the largest host_concurrency there is
    for start in range(many - at_once):
        assert len({task_run[name] for name in names[start : start + at_once]}) == at_once
    assert max(len(batch) for batch, _ in dealt) - min(len(batch) for batch, _ in dealt) <= 1
