"""A seeded account with simulated hosts, and the stages discover and verify run over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haltuun import perform
from haltuun.config import AccountConfig, Config, HostConfig, PolicyConfig
from haltuun.engine import Takeover, open_run
from haltuun.errors import AuthRefused, BannerTimeout
from haltuun.ledger import Ledger
from haltuun.model import Host, HostStatus, StageName
from haltuun.run import Run
from haltuun.simulated import SimulatedTransport
from haltuun.stages.discover import STAGE as DISCOVER
from haltuun.stages.discover import list_hosts
from haltuun.stages.verify import STAGE as VERIFY
from haltuun.transport import Result
from lab.answers import discover_answer, verify_answer
from lab.cloud.seed import seed
from lab.cloud.state import ssm_state
from lab.scenario import Host as Described
from lab.scenario import Scenario
from tests.lab.cloud_kit import Account, emulated_account


@dataclass
class World:
    """`seen` may change what a host prints: name → (script kind, text) → text."""

    account: Account
    scenario: Scenario
    ids: Mapping[str, str]
    ledger: Ledger
    hosts: Mapping[str, HostConfig] = field(default_factory=dict)
    seen: dict[str, Callable[[str, str], str]] = field(default_factory=dict)
    connected: list[str] = field(default_factory=list)

    def name_of(self, instance_id: str) -> str:
        return next(name for name, known in self.ids.items() if known == instance_id)

    def online(self, *names: str) -> None:
        """Nodes that are Online under their own ids without an agent."""
        for name in names:
            ssm_state(self.scenario.account_id, self.scenario.region).put_node(self.ids[name], simulated=True)

    def config(self) -> Config:
        account = AccountConfig(
            id=self.scenario.account_id,
            alias="acme",
            regions=[self.scenario.region],
            hosts={self.ids[name]: config for name, config in self.hosts.items()},
        )
        return Config(accounts=[account], policy=PolicyConfig(max_held_percent=100))

    def start(self, mode: str = "apply") -> Takeover:
        """Look and plan."""
        run = open_run(self.config(), "acme", mode, self._open, ledger=self.ledger)
        takeover = Takeover(run, [DISCOVER, VERIFY], lister=list_hosts)
        takeover.begin({})
        for name in takeover.stages:
            self._look(takeover, name, takeover.hosts)
            takeover.settle(name)
            takeover.plan_stage(name)
        takeover.make_plan()
        return takeover

    def go(self, takeover: Takeover) -> dict[str, dict[str, HostStatus]]:
        """Approve all, apply, look again, gate: stage → host name → status."""
        takeover.approve(None, everything=True, who="test")
        statuses = {}
        for name in takeover.stages:
            takeover.enter(name)
            takeover.apply_account(name)
            for wave in takeover.waves(name):
                for host in wave:
                    takeover.work_host(name, host)
            self._look(takeover, name, takeover.relook(name))
            takeover.prove(name)
            statuses[name.value] = {self.name_of(h): s for h, s in takeover.gate(name).items()}
        takeover.end(takeover.outcome())
        return statuses

    def _look(self, takeover: Takeover, name: StageName, hosts: Sequence[str] | Mapping[str, Any]) -> None:
        takeover.look_account(name)
        for host in hosts:
            takeover.look_host(name, host)

    def _open(self, run: Run, host: Host) -> SimulatedTransport:
        described = self.scenario.host(self.name_of(host.instance_id))
        self.connected.append(described.name)
        if described.ssh == "hang":
            remedy = "Restart sshd over the serial console."
            raise BannerTimeout("sshd accepts and never speaks.", subject=host.label, remedy=remedy)
        if described.ssh == "no-key":
            raise AuthRefused("no key opens it.", subject=host.label, remedy="Name its key in key_files.")

        def answer(script: str, env: Mapping[str, str], files: Mapping[str, bytes]) -> Result:
            kind = "verify" if "NAMES" in env else "probe"
            closed = self._egress_closed(host.instance_id)
            text = self._verify(host, env, closed) if kind == "verify" else probe_of(described, host)
            change = self.seen.get(described.name, lambda kind, text: text)
            return Result(exit_code=0, stdout=change(kind, text), stderr="")

        return SimulatedTransport(answer)

    def _instance(self, instance_id: str) -> dict[str, Any]:
        found = self.account.client("ec2").describe_instances(InstanceIds=[instance_id])
        return dict(found["Reservations"][0]["Instances"][0])

    def _egress_closed(self, instance_id: str) -> bool:
        groups = [group["GroupId"] for group in self._instance(instance_id)["SecurityGroups"]]
        found = self.account.client("ec2").describe_security_groups(GroupIds=groups)["SecurityGroups"]
        return not any(group["IpPermissionsEgress"] for group in found)

    def _verify(self, host: Host, env: Mapping[str, str], closed: bool) -> str:
        role = "a-role" if self._instance(host.instance_id).get("IamInstanceProfile") else ""
        return verify_answer(host, env["NAMES"].split(), role, closed=closed)


def probe_of(described: Described, host: Host) -> str:
    system = described.operating_system
    signs = ["/tmp/kdevtmpfsi (pid 4)"] if described.compromised else []
    return discover_answer(host, described.name, system.init, system.os_release, signs)


@contextmanager
def seeded(scenario: Scenario, tmp_path: Path, monkeypatch: Any) -> Iterator[World]:
    for name, value in {"AWS_ACCESS_KEY_ID": "AKIAOPERATOR", "AWS_SECRET_ACCESS_KEY": "none"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(perform, "SETTLES_S", 0.1)  # the emulated account shows at once what was made
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with emulated_account(scenario.account_id) as account:
        monkeypatch.setenv("AWS_ENDPOINT_URL", account.endpoint_url)
        ids = seed(account.endpoint_url, scenario)
        yield World(account, scenario, ids, ledger)
    ledger.close()
