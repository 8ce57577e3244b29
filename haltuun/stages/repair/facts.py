"""What repair knows of a host: the agent as the host shows it, and the node as Systems Manager does."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field

from haltuun.model import Facts, Frozen, Unknown
from haltuun.stages.pages import unreadable

_NOT_ASKED = Unknown(unknown="NOT_ASKED: not asked yet")

# The agent's core in /proc/PID/comm, and what Linux counts the start of a process in (USER_HZ).
CORE, TICKS_A_SECOND = "amazon-ssm-agen", 100

Identity = Literal["EC2", "OnPrem", "CustomIdentity", "none"]


class Process(Frozen):
    """One process of the agent; `started` is in clock ticks since boot (/proc/PID/stat, field 22)."""

    comm: str
    pid: int
    started: int = 0


class LogLine(Frozen):
    """One line of a file on the host, as it stands there; numbers count from 1."""

    file: str
    line: int
    text: str


class IdentityConfig(Frozen):
    """runtimeconfig/identity_config.json, four fields of it: what the core last took."""

    identity_type: str = ""
    instance_id: str = ""
    credential_source: str = ""
    expires_at: str = ""
    share_file: str = ""


class AgentConfig(Frozen):
    """amazon-ssm-agent.json as far as it moves the identity or the endpoints."""

    state: Literal["absent", "ok", "broken"]
    problem: str = ""
    consumption_order: tuple[str, ...] = ()
    custom_identities: tuple[str, ...] = ()
    region: str = ""
    endpoints: tuple[str, ...] = ()  # "Ssm.Endpoint=…"
    text: str = Field(default="", exclude=True)  # the whole file, for showing what to take out of it
    # Its sha256, as the host has it; "none": no file, or not asked. A weak password that was redacted in the
    # text could be guessed by it.
    digest: str = Field(default="none", exclude=True)


class Vault(Frozen):
    """The hybrid registration on disk. The private key itself never leaves the host."""

    manifest: bool
    key_file: bool
    instance_id: str = ""
    region: str = ""
    private_key: bool = False
    fingerprint_file: bool = False
    similarity_threshold: int | None = None

    @property
    def complete(self) -> bool:
        """The agent takes OnPrem only if all three are there (onprem_identity.go:101-103), and reads
        an absent manifest as an empty vault (instance_info.go:215-218)."""
        return self.manifest and self.key_file and self.private_key and bool(self.instance_id and self.region)


class RootCredentials(Frozen):
    """/root/.aws/credentials as a projection: never a key."""

    present: bool
    sections: tuple[str, ...] = ()
    default_kind: Literal["none", "temporary", "long-term"] = "none"
    of_agent: bool = False  # [default] is as the agent writes it, so nobody else's
    digest: str = ""  # sha256 of the whole file
    others: str = "none"  # sha256 of what is left of it without the agent's section


class Unfinished(Frozen):
    """The state that a repair saved before it was killed; nothing has ended it since."""

    change_id: str
    foreign: bool
    saved_at: datetime  # the host's local time (naive)
    registration: str = ""  # the mi- that is in what was saved


class Agent(Frozen):
    """The host's side, whole. A part that the files at hand do not show is Unknown."""

    root: bool | Unknown = _NOT_ASKED
    init: Literal["systemd", "upstart", "sysv"] | Unknown = _NOT_ASKED
    packages: dict[str, str] | Unknown = _NOT_ASKED  # "deb", "rpm", "snap" → version
    binary: str | Unknown = _NOT_ASKED  # path, "" where there is none
    deb_is_half: bool = False  # dpkg was interrupted over an agent that was there; it is in no `packages`
    deb_is_begun: bool = False  # Haltuun's own installation where none was, killed half-way: no agent yet
    dpkg_arch: str = ""  # "amd64"; "" where dpkg is not what the system's own packages are
    rpm_arch: str = ""  # "x86_64"; "" where there is no rpm
    snap_arch: str = ""  # "x86_64", the machine's; "" where there is no snapd
    services: dict[str, str] = Field(default_factory=dict)  # deb and snap, where both are: "running, enabled"
    processes: tuple[Process, ...] | Unknown = _NOT_ASKED
    up_s: int | Unknown = _NOT_ASKED  # since the machine's boot
    enabled: bool | Unknown = _NOT_ASKED
    imds_instance_id: str | Unknown = _NOT_ASKED
    imds_account: str | Unknown = _NOT_ASKED
    imds_region: str | Unknown = _NOT_ASKED
    vault: Vault | Unknown = _NOT_ASKED
    registration_file: bool | Unknown = _NOT_ASKED
    hybrid_dirs: tuple[str, ...] | Unknown = _NOT_ASKED  # mi-… folders
    identity_config: IdentityConfig | Unknown | None = _NOT_ASKED
    config: AgentConfig | Unknown = _NOT_ASKED
    credentials: RootCredentials | Unknown = _NOT_ASKED
    proxy: tuple[str, ...] | Unknown = _NOT_ASKED  # "https_proxy=http://***@proxy:3128"
    proxy_lines: tuple[LogLine, ...] | Unknown = _NOT_ASKED  # where its unit sets one
    disk_free_kb: int | Unknown = _NOT_ASKED
    inodes_free: int | Unknown = _NOT_ASKED
    state_kb: int | Unknown = _NOT_ASKED  # size of /var/lib/amazon/ssm
    clock: datetime | Unknown = _NOT_ASKED  # the host's local time, as its log writes it (naive)
    unfinished: tuple[Unfinished, ...] | Unknown = _NOT_ASKED
    cut_off: tuple[str, ...] = ()  # ids of changes whose job on the host has not come to its end
    # At debug level the agent logs what passes through sessions: the run judges by it and never records it.
    log: tuple[LogLine, ...] | Unknown = Field(default=_NOT_ASKED, exclude=True)
    # What the journal says of its end after the last start in its log: (): of none.
    died: tuple[LogLine, ...] | Unknown = _NOT_ASKED

    @property
    def running_s(self) -> float | Unknown:
        """For how many seconds the last started core has run; Unknown also where the machine's own time does
        not fit, as in a container that is shown a boot of its own."""
        if isinstance(self.processes, Unknown) or isinstance(self.up_s, Unknown):
            return Unknown(unknown="NOT_SEEN: since when the agent runs")
        ages = [self.up_s - one.started / TICKS_A_SECOND for one in self.processes if one.comm == CORE]
        if not ages or min(ages) < -1:
            return Unknown(unknown="NOT_SEEN: since when the agent runs")
        return min(ages)

    @property
    def package(self) -> str | Unknown:
        """ "deb", "snap", "rpm", or "none"; where deb and snap are, the deb unless only the snap starts."""
        if isinstance(self.packages, Unknown):
            return self.packages
        starts = [kind for kind, state in self.services.items() if state.endswith(" enabled")]
        if starts == ["snap"]:
            return "snap"
        return next((kind for kind in ("deb", "rpm", "snap") if kind in self.packages), "none")

    @property
    def managers(self) -> dict[str, str]:
        """What can be installed here, the preferred format first → architecture, as the host calls it. An rpm
        beside dpkg is a tool there, not what the system is made of."""
        rpm = {} if self.dpkg_arch else {"rpm": self.rpm_arch}
        every = {"deb": self.dpkg_arch, **rpm, "snap": self.snap_arch}
        return {kind: arch for kind, arch in every.items() if arch}

    @property
    def version(self) -> str | Unknown:
        """Without the package's own revision: 3.3.1142.0."""
        kind = self.package
        if isinstance(kind, Unknown) or isinstance(self.packages, Unknown):
            return kind if isinstance(kind, Unknown) else "unknown"
        return self.packages.get(kind, "").split("-")[0]

    @property
    def running(self) -> bool | Unknown:
        """The core process; a worker alone is an orphan, not a running agent."""
        if isinstance(self.processes, Unknown):
            return self.processes
        return any(process.comm == CORE for process in self.processes)


class Cause(Frozen):
    """A judged fault of the agent, with the lines or files that show it."""

    code: str
    message: str
    remedy: str
    evidence: tuple[LogLine, ...] = ()


class Activation(Frozen):
    """What a hybrid node was registered with, as DescribeActivations gives it, which never tells its code."""

    activation_id: str
    description: str = ""
    default_name: str = ""  # of the nodes that it registers
    iam_role: str = ""
    count: int = 0  # machines that were registered with it, of `limit` at most
    limit: int = 0
    expires_at: datetime | None = None
    expired: bool = False
    tags: tuple[str, ...] = ()  # "team=web"


# What a machine becomes that is registered by an activation (botocore, ssm SourceType).
BY_ACTIVATION = "AWS::SSM::ManagedInstance"


class NodeRow(Frozen):
    """A managed node of this account as DescribeInstanceInformation gives it."""

    node_id: str
    region: str
    ping_status: str
    ip_address: str = ""
    computer_name: str = ""
    agent_version: str = ""
    last_ping_at: datetime | None = None
    activation_id: str = ""  # of a hybrid node: what it was registered with, when, and its role
    registered_at: datetime | None = None
    iam_role: str = ""
    source_type: str = ""  # "AWS::SSM::ManagedInstance"; "" where it is not said
    activation: Activation | Unknown | None = _NOT_ASKED  # None: it exists no more

    @property
    def of_another_kind(self) -> bool:
        """A Greengrass device, or another cloud's machine, which something else made a node of."""
        return self.source_type not in ("", BY_ACTIVATION)


def told(node: NodeRow | None) -> NodeRow | Unknown | None:
    """A node of which nobody knows whether it is Online is not to be taken for one that is not."""
    if node is None or (node.node_id and node.ping_status):
        return node
    return unreadable("InstanceId" if not node.node_id else "PingStatus")


class Cleared(Frozen):
    """A hybrid registration that Haltuun took off `hosts`, and its managed node as it is now."""

    node_id: str
    region: str
    hosts: tuple[str, ...]
    cleared_at: datetime  # the last time
    node: NodeRow | Unknown | None  # None: Systems Manager has no such node in this account


class RepairAccount(Frozen):
    """All managed nodes by region, and which of the pinned agent packages are of no use."""

    _computed_once: ClassVar[tuple[str, ...]] = ("_by_id",)

    nodes: dict[str, tuple[NodeRow, ...] | Unknown] = Field(default_factory=dict)
    package_problems: dict[str, str] = Field(default_factory=dict)  # sha256 of a pin → why it is of no use
    cleared: tuple[Cleared, ...] = ()

    def node(self, region: str, node_id: str) -> NodeRow | Unknown | None:
        """The node of this id in the region; None where the account has none of it."""
        rows = self.nodes.get(region, Unknown(unknown=f"NOT_ASKED: nodes of {region}"))
        if isinstance(rows, Unknown):
            return rows
        return told(self._by_id.get((region, node_id)))

    @cached_property
    def _by_id(self) -> dict[tuple[str, str], NodeRow]:
        return {
            (region, row.node_id): row
            for region, rows in self.nodes.items()
            if not isinstance(rows, Unknown)
            for row in rows
        }


# Composed, and of no use to the gate.
_NO_COLUMNS = ("agent", "found", "vault_node")


class RepairFacts(Facts):
    """One host. `agent` holds the details that the columns below are drawn from."""

    identity: Identity | Unknown = _NOT_ASKED  # what the agent runs as; stopped: what it would take
    identity_id: str | Unknown | None = _NOT_ASKED
    connected: bool | Unknown = _NOT_ASKED  # control channel (or ec2messages) since its last start
    running: bool | Unknown = _NOT_ASKED
    enabled: bool | Unknown = _NOT_ASKED
    package: str | Unknown = _NOT_ASKED
    version: str | Unknown = _NOT_ASKED
    right_box: bool | Unknown = _NOT_ASKED
    vault_instance_id: str | Unknown | None = _NOT_ASKED
    vault_region: str | Unknown | None = _NOT_ASKED
    vault_node: NodeRow | Unknown | None = _NOT_ASKED  # the managed node that the vault names
    vault_foreign: bool | Unknown = _NOT_ASKED  # the saved registration is another account's or region's
    deliberate: bool | Unknown = _NOT_ASKED  # signs that the hybrid registration is meant
    causes: tuple[str, ...] | Unknown = _NOT_ASKED

    ssm_status: str | Unknown = _NOT_ASKED  # PingStatus, or "never"
    ssm_last_ping_at: datetime | Unknown | None = _NOT_ASKED
    online_as: str | Unknown | None = _NOT_ASKED
    online_as_self: bool | Unknown = _NOT_ASKED
    echoed: bool | Unknown = _NOT_ASKED

    agent: Agent | Unknown = _NOT_ASKED
    found: tuple[Cause, ...] = ()

    def row(self) -> dict[str, str | int | float | bool | None]:
        return {name: value for name, value in super().row().items() if name not in _NO_COLUMNS}
