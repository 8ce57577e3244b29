"""A host of the lab with an agent's package on it, and its account: what an experiment acts on and looks at.

Everything here is said of any agent's package: paths, unit, binaries and configuration that the stand-in has
in common with the real one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.agent.stale import StaleRegistration, write_stale_state
from lab.box.base import ensure_base
from lab.box.box import Box
from lab.box.contents import HOLD
from lab.box.keys import make_host_keys, make_registration_key
from lab.box.layers import build_common_layer
from lab.box.machine import Machine, put
from lab.cloud.addresses import SERVICE_ADDRESSES
from lab.cloud.ca import ensure_ca
from lab.cloud.hostservices import HostServices
from lab.cloud.seed import seed
from lab.cloud.state import Node, SsmState, ssm_state
from lab.scenario import Host, Scenario, load_scenario
from tests.lab.cloud_kit import Account, emulated_account, until

NAME = "amazon-ssm-agent"
STATE = "/var/lib/amazon/ssm"
LOG = "/var/log/amazon/ssm/amazon-ssm-agent.log"
CONFIG = "/etc/amazon/ssm/amazon-ssm-agent.json"
REGISTRATION_KEY = f"{STATE}/Vault/Store/RegistrationKey"
CREDENTIALS = "/root/.aws/credentials"
CORE, WORKER = "amazon-ssm-agen", "ssm-agent-worke"  # as the kernel cuts them
WAIT_S = 40.0
# Init starts a killed core again after RestartSec=90, here at once: before an experiment is set up.
NO_RESTART = "[Service]\nRestart=no\n"


class AgentHost:
    """One box; `patience` is how much longer than the stand-in this agent may take."""

    def __init__(self, box: Box, account: Account, scenario: Scenario, deb: Path, patience: float) -> None:
        self.box = box
        self.account = account
        self.deb = deb
        self.patience = patience
        self._scenario = scenario
        self._host: Host = scenario.hosts[0]
        self._key = make_registration_key()
        self._mark = 0
        self.orphans: list[int] = []

    @property
    def instance_id(self) -> str:
        return self._host.instance_id

    @property
    def hybrid_id(self) -> str:
        return self._host.mi_id

    @property
    def fingerprint(self) -> str:
        """What the account expects of the hybrid node."""
        return self._host.fingerprint

    @property
    def _state(self) -> SsmState:
        return ssm_state(self._scenario.account_id, self._scenario.region)

    # files

    def path(self, name: str) -> Path:
        return self.box.root / name.lstrip("/")

    def sh(self, script: str) -> str:
        """Run a script as the host's root; its output."""
        return self.box.run("sh", "-c", script, timeout_s=60 * self.patience, check=True).stdout

    def remove(self, *names: str) -> None:
        for name in names:
            assert self.path(f"{STATE}/{name}").exists(), name
            self.sh(f"rm -rf {STATE}/{name}")

    def empty(self) -> None:
        self.sh(f"find {STATE} -mindepth 1 -delete")

    def taken_identity(self) -> str:
        text = self.path(f"{STATE}/runtimeconfig/identity_config.json").read_text()
        return str(json.loads(text)["InstanceId"])

    # the agent

    def install(self) -> None:
        """By dpkg, over whatever is there; the package starts its agent."""
        self._mark = self._log_size()
        self.sh(f"dpkg --force-unsafe-io -i /var/cache/apt/archives/{self.deb.name}")

    def purge(self) -> None:
        self.sh(f"dpkg --purge {NAME}")

    def start(self) -> None:
        self._mark = self._log_size()
        self.sh(f"systemctl start {NAME}")

    def stop(self) -> None:
        self.sh(f"systemctl stop {NAME}")

    def clear(self, *more: str) -> None:
        said = self.sh(" ".join([NAME, "-register", "-clear", *more]))
        assert "Registration information has been removed from the instance." in said
        assert json.loads(self.path(REGISTRATION_KEY).read_text())["instanceID"] == ""

    def kill_core(self) -> None:
        self.sh(f"pkill -KILL -x {CORE}")
        self.until(lambda: not self.pids(CORE))

    def pids(self, comm: str) -> list[int]:
        return [int(pid) for pid in self.box.run("pgrep", "-x", comm).stdout.split()]

    # what is seen of it

    def until(self, what: Callable[[], object]) -> None:
        until(what, WAIT_S * self.patience)

    def _log_size(self) -> int:
        return self.path(LOG).stat().st_size if self.path(LOG).exists() else 0

    def log(self) -> str:
        """What the agent wrote since it was last started."""
        if not self.path(LOG).exists():
            return ""
        with self.path(LOG).open("rb") as stream:
            stream.seek(self._mark)
            return stream.read().decode("utf-8", "replace")

    def wait_log(self, text: str) -> None:
        try:
            self.until(lambda: text in self.log())
        except AssertionError as error:
            raise AssertionError(f"{text!r} does not come in the log, which is:\n{self.log()}") from error

    def is_connected(self, node_id: str) -> bool:
        """Whether the account has this node's control channel open."""
        return self.account.client("ssm").get_connection_status(Target=node_id)["Status"] == "connected"

    def wait_online(self, node_id: str) -> None:
        self.wait_log("Set up control channel successfully")
        self.until(lambda: self.is_connected(node_id))

    def answers_as(self, node_id: str) -> None:
        """What is sent to that node is done on this host."""
        ssm = self.account.client("ssm")
        sent = ssm.send_command(
            InstanceIds=[node_id],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": ["cat /etc/hostname"]},
        )
        asked = {"CommandId": sent["Command"]["CommandId"], "InstanceId": node_id}
        self.until(lambda: ssm.get_command_invocation(**asked)["Status"] not in ("Pending", "InProgress"))
        found = ssm.get_command_invocation(**asked)
        assert (found["Status"], found["StandardOutputContent"].strip()) == ("Success", self.box.name)

    # its account

    def _profiles(self) -> list[str]:
        ec2 = self.account.client("ec2")
        asked = [{"Name": "instance-id", "Values": [self.instance_id]}]
        rows = ec2.describe_iam_instance_profile_associations(Filters=asked)
        return [row["AssociationId"] for row in rows["IamInstanceProfileAssociations"]]

    def take_role(self) -> None:
        for association in self._profiles():
            self.account.client("ec2").disassociate_iam_instance_profile(AssociationId=association)
        self.until(lambda: "404" in self._role_answer())

    def give_role(self) -> None:
        if not self._profiles():
            self.account.client("ec2").associate_iam_instance_profile(
                IamInstanceProfile={"Name": "acme-ec2-managed"}, InstanceId=self.instance_id
            )
        self.until(lambda: "200" in self._role_answer())

    def _role_answer(self) -> str:
        """The metadata service is a second behind the account."""
        url = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
        return self.box.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", url).stdout

    # between experiments

    def reset(self, *, same_hardware: bool, living_token: bool) -> None:
        """Contaminated, stopped, its log empty, and forgotten by the account as an instance."""
        if not self.path(f"/usr/bin/{NAME}").exists():
            self.install()
        self.stop()
        self.sh(f"pkill -KILL -x {CORE}; pkill -KILL -x {WORKER}; rm -rf {CONFIG} /root/.aws {LOG}; true")
        self.until(lambda: not self.pids(CORE) and not self.pids(WORKER))
        self.until(lambda: not self.is_connected(self.instance_id) and not self.is_connected(self.hybrid_id))
        self.sh(f"mkdir -p {STATE}")
        self.empty()
        self._state.nodes.pop(self.instance_id, None)
        hybrid: Node = self._state.nodes[self.hybrid_id]
        hybrid.last_seen_s = float("-inf")
        self.give_role()
        self._contaminate(same_hardware, living_token)
        self._mark = 0

    def _contaminate(self, same_hardware: bool, living_token: bool) -> None:
        stale = StaleRegistration(
            self.hybrid_id,
            self._scenario.region,
            self._host.fingerprint,
            self.box.machine.machine_id,
            same_hardware,
            private_key=self._key,
        )
        life_s = 3000.0 if living_token else -3600.0
        write_stale_state(self.box.root, stale, token_life_s=life_s)
        if living_token:
            role = (
                f"arn:aws:iam::{self._scenario.account_id}:role/{self._state.nodes[self.hybrid_id].iam_role}"
            )
            region = self._scenario.region
            found = self.account.steer("credentials", region=region, id=self.hybrid_id, role_arn=role)
            lines = [
                "[default]",
                f"aws_access_key_id     = {found['AccessKeyId']}",
                f"aws_secret_access_key = {found['SecretAccessKey']}",
                f"aws_session_token     = {found['Token']}",
            ]
            put(self.path(CREDENTIALS), "\n".join(lines) + "\n\n", 0o600)


def _scenario() -> Scenario:
    """One clone of an image that was lifted with its registration."""
    demo = load_scenario("demo")
    return demo.model_copy(update={"hosts": [demo.host("web-02")]})


@contextlib.contextmanager
def agent_host(folder: Path, deb: Path, patience: float) -> Iterator[AgentHost]:
    """Box, account and services around it; the agent is installed and stopped."""
    scenario = _scenario()
    host = scenario.hosts[0]
    system = host.operating_system
    base = ensure_base(print)
    authority = ensure_ca(folder / "ca")
    machine = Machine(
        name=host.name,
        private_ip=host.private_ip,
        os_release=system.os_release,
        init=system.init,
        host_keys=make_host_keys(host.name),
    )
    layer = build_common_layer(folder / "common", base, authority.authority_pem)
    box = Box(machine, folder / "box", [layer, base])
    with contextlib.ExitStack() as stack:
        account = stack.enter_context(emulated_account())
        seed(account.endpoint_url, scenario)
        stack.callback(box.stop)
        box.prepare()
        put(box.upper / f"etc/systemd/system/{NAME}.service.d/table.conf", NO_RESTART)
        box.start()
        services = HostServices(
            netns_socket=box.gateway.socket,
            instance_id=host.instance_id,
            region=scenario.region,
            endpoint_url=account.endpoint_url,
            ca_dir=folder / "ca",
            on_reach_change=lambda service, up: box.gateway.answer_for(SERVICE_ADDRESSES[service][0], up),
        )
        services.start()
        stack.callback(services.stop)
        found = AgentHost(box, account, scenario, deb, patience)
        put(found.path(f"{HOLD}/{NAME}"), "")
        shutil.copy(deb, found.path(f"/var/cache/apt/archives/{deb.name}"))
        found.install()
        found.path(f"{HOLD}/{NAME}").unlink()
        yield found
