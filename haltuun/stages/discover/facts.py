"""What discover knows of an account and of each host: the ground that all later stages stand on."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from haltuun.model import Facts, Frozen, Unknown
from haltuun.stages.discover.console import Console

_NOT_ASKED = Unknown(unknown="not asked yet")


class Listener(Frozen):
    """One listening port and what is behind it; "" where the host could not say."""

    port: int
    protocol: str  # "tcp" or "udp"
    address: str
    process: str = ""
    package: str = ""
    unit: str = ""


class LogFile(Frozen):
    """A log file that exists on the host, and the service that writes it."""

    path: str
    service: str


class ImageFacts(Frozen):
    """An AMI as far as it still exists and may be seen."""

    image_id: str
    name: str = ""
    description: str = ""
    owner: str = ""
    imported: bool = False  # came in through VM Import, or says so
    created_at: datetime | None = None
    source_instance: str = ""  # what it was made of
    # The image that it was copied from, or that the machine was started from of which it was made.
    source_image: str = ""
    # Of that, and so on, the nearest first; (): not asked, as nothing depends on it.
    lineage: tuple[str, ...] | Unknown = ()


class Baseline(Frozen):
    baseline_id: str
    name: str
    operating_system: str
    default: bool = False


class PatchGroup(Frozen):
    group: str
    baseline_id: str
    operating_system: str


class MaintenanceWindow(Frozen):
    window_id: str
    name: str
    schedule: str = ""
    enabled: bool = True


class Association(Frozen):
    association_id: str
    name: str  # the association's own name, often none
    document: str
    schedule: str = ""
    targets: tuple[str, ...] = ()  # "tag:Role=web", "InstanceIds=i-…"


class BackupPlan(Frozen):
    plan_id: str
    name: str


class BackupVault(Frozen):
    name: str
    arn: str = ""


class LogGroup(Frozen):
    name: str
    retention_days: int | None = None  # None: kept for ever


class HybridNode(Frozen):
    """A managed node that is no EC2 instance to Systems Manager."""

    node_id: str  # mi-…
    ping_status: str
    ip_address: str = ""
    computer_name: str = ""
    source_type: str = ""
    activation_id: str = ""


class Template(Frozen):
    """What starts instances of an image: a version of a launch template, or a launch configuration."""

    label: str  # "launch template web (version 3)"
    image_id: str = ""  # "resolve:ssm:…" where it is looked up at each start
    called: tuple[str, ...] = ()  # as a group may say it: "lt-1:3", "web:$Latest", "configuration:old"


class ScalingGroup(Frozen):
    """An Auto Scaling group."""

    name: str
    starts_from: tuple[str, ...] = ()  # in the words of Template.called


class RegionFacts(Frozen):
    """One region. Each part that could not be asked is Unknown: none and denied are told apart."""

    instances: int | Unknown = _NOT_ASKED
    dhmc_role: str | Unknown | None = _NOT_ASKED
    baselines: tuple[Baseline, ...] | Unknown = _NOT_ASKED  # the account's own, not AWS's
    patch_groups: tuple[PatchGroup, ...] | Unknown = _NOT_ASKED
    windows: tuple[MaintenanceWindow, ...] | Unknown = _NOT_ASKED
    associations: tuple[Association, ...] | Unknown = _NOT_ASKED
    backup_plans: tuple[BackupPlan, ...] | Unknown = _NOT_ASKED
    backup_vaults: tuple[BackupVault, ...] | Unknown = _NOT_ASKED
    log_groups: tuple[LogGroup, ...] | Unknown = _NOT_ASKED
    session_preferences: str | Unknown | None = _NOT_ASKED  # content of SSM-SessionManagerRunShell
    hybrid_nodes: tuple[HybridNode, ...] | Unknown = _NOT_ASKED
    groups: tuple[ScalingGroup, ...] | Unknown = _NOT_ASKED
    templates: tuple[Template, ...] | Unknown = _NOT_ASKED  # newest, default, and those that groups name
    images: tuple[ImageFacts, ...] | Unknown = _NOT_ASKED  # those that hosts were started from


SsmStatus = Literal["Online", "ConnectionLost", "Inactive", "never"]


class Standing(Frozen):
    """What must be known of a host before anybody connects to it."""

    state: str
    platform: Literal["linux", "windows"]
    private_ip: str | None = None
    public_ip: str | None = None
    key_name: str | None = None
    image_name: str | None = None
    ssm_status: SsmStatus | Unknown = _NOT_ASKED
    exclude: str | None = None


class DiscoverAccount(Frozen):
    regions: dict[str, RegionFacts] = Field(default_factory=dict)
    standing: dict[str, Standing] = Field(default_factory=dict)  # by instance id
    # Region → instance ids of which a snapshot is kept as evidence.
    evidence: dict[str, tuple[str, ...] | Unknown] = Field(default_factory=dict)


class DiscoverFacts(Facts):
    """One host: what EC2 and Systems Manager say, then what the host says of itself."""

    # EC2
    state: str | Unknown = _NOT_ASKED
    state_reason: str | Unknown = _NOT_ASKED
    checks: str | Unknown | None = _NOT_ASKED  # EC2's own: "ok", or what fails; None: it does not run
    events: tuple[str, ...] | Unknown = _NOT_ASKED  # what EC2 will do to it: "instance-retirement on 2026-…"
    launched_at: datetime | Unknown | None = _NOT_ASKED
    platform: Literal["linux", "windows"] | Unknown = _NOT_ASKED
    architecture: str | Unknown = _NOT_ASKED
    image_id: str | Unknown = _NOT_ASKED
    image_name: str | Unknown = _NOT_ASKED
    image_imported: bool | Unknown = _NOT_ASKED
    vpc_id: str | Unknown | None = _NOT_ASKED
    subnet_id: str | Unknown | None = _NOT_ASKED
    private_ip: str | Unknown | None = _NOT_ASKED
    public_ip: str | Unknown | None = _NOT_ASKED
    security_groups: tuple[str, ...] | Unknown = _NOT_ASKED
    profile_arn: str | Unknown | None = _NOT_ASKED
    asg: str | Unknown | None = _NOT_ASKED
    managed_by: tuple[str, ...] | Unknown = _NOT_ASKED
    imds_tokens: str | Unknown = _NOT_ASKED  # "optional" or "required"
    imds_hop_limit: int | Unknown = _NOT_ASKED
    imds_tags: bool | Unknown = _NOT_ASKED
    imds_endpoint: str | Unknown = _NOT_ASKED  # "enabled" or "disabled"
    key_name: str | Unknown | None = _NOT_ASKED
    tags: dict[str, str] = Field(default_factory=dict)
    volume_ids: tuple[str, ...] | Unknown = _NOT_ASKED
    volumes_gib: int | Unknown = _NOT_ASKED  # all its EBS volumes together
    exclude: str | None = None  # why it is left alone: from the configuration or its tag

    # Systems Manager
    ssm_status: SsmStatus | Unknown = _NOT_ASKED
    ssm_agent_version: str | Unknown | None = _NOT_ASKED
    ssm_last_ping_at: datetime | Unknown | None = _NOT_ASKED
    ssm_platform_name: str | Unknown | None = _NOT_ASKED
    ssm_platform_version: str | Unknown | None = _NOT_ASKED
    same_box_nodes: tuple[str, ...] | Unknown = _NOT_ASKED  # mi- ids at this host's address or name

    # of a host that is silent, or Windows and not Online; None: there was no reason to ask
    console: Console | Unknown | None = None

    # a guess for hosts that nobody can log in to; `os_guess_source` says from what
    os_guess: str | None = None  # "ubuntu 16.04"
    os_guess_source: str = ""

    # the host
    way: str | Unknown = _NOT_ASKED  # "ssh", "run-command" or "simulated"
    right_box: bool | Unknown = _NOT_ASKED
    hostname: str | Unknown = _NOT_ASKED
    os_id: str | Unknown = _NOT_ASKED
    os_version: str | Unknown = _NOT_ASKED
    os_name: str | Unknown = _NOT_ASKED
    eol: bool | Unknown = _NOT_ASKED
    eol_since: str | Unknown | None = _NOT_ASKED  # ISO date; of a system that still has a free term, its end
    init: Literal["systemd", "upstart", "sysv"] | Unknown = _NOT_ASKED
    arch: str | Unknown = _NOT_ASKED
    agent_package: Literal["deb", "rpm", "snap", "none"] | Unknown = _NOT_ASKED
    agent_version: str | Unknown | None = _NOT_ASKED
    agent_running: bool | Unknown = _NOT_ASKED
    agent_enabled: bool | Unknown = _NOT_ASKED
    agent_processes: tuple[str, ...] | Unknown = _NOT_ASKED  # "amazon-ssm-agen (pid 1234)"
    listeners: tuple[Listener, ...] | Unknown = _NOT_ASKED
    units: tuple[str, ...] | Unknown = _NOT_ASKED
    log_files: tuple[LogFile, ...] | Unknown = _NOT_ASKED
    cloudwatch_config: bool | Unknown = _NOT_ASKED  # its agent would read one at its next start
    config_management: tuple[str, ...] | Unknown = _NOT_ASKED  # "puppet: its process puppet runs"
    python3: str | Unknown | None = _NOT_ASKED
    disk_free_percent: float | Unknown = _NOT_ASKED
    inodes_free_percent: float | Unknown = _NOT_ASKED
    clock_offset_s: float | Unknown = _NOT_ASKED
    ssh_legacy: bool | Unknown = _NOT_ASKED  # sshd older than 7.2: signs RSA with SHA-1 only
    lifted: tuple[str, ...] | Unknown = _NOT_ASKED  # traces of a machine brought from elsewhere
    weak_signs: tuple[str, ...] | Unknown = _NOT_ASKED  # worth a look, hold nothing
    suspect: tuple[str, ...] | Unknown = _NOT_ASKED  # strong signs of compromise
    signs_unlooked: tuple[str, ...] | Unknown = _NOT_ASKED  # strong signs that nobody could look for, and why

    @property
    def is_suspect(self) -> bool:
        """True only when a strong sign was seen; not having looked is no sign."""
        return not isinstance(self.suspect, Unknown) and bool(self.suspect)

    def row(self) -> dict[str, str | int | float | bool | None]:
        # A column of its own, because "nobody could look inside" does not keep a host from its backup.
        looked = "not looked" if isinstance(self.suspect, Unknown) else "none seen"
        return {**super().row(), "compromise": "seen" if self.is_suspect else looked}
