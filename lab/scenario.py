"""The scenario of a lab: which account, which hosts, with which faults.

A scenario file is YAML. Everything that AWS would have invented (instance ids, addresses, activation
ids) is derived from the seed, so that a run can be repeated exactly.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

AgentState = Literal[
    "healthy",
    "none",
    "stopped",
    "disabled",
    "stale",
    "stale-fingerprint",
    "half-repaired",
    "hybrid-deliberate",
    "connection-lost",
]
HYBRID_STATES: frozenset[str] = frozenset(
    {"stale", "stale-fingerprint", "half-repaired", "hybrid-deliberate"}
)
Leftover = Literal[
    "log-group",
    "patch-baseline",
    "backup-plan",
    "maintenance-window",
    "association",
    "session-preferences",
]
SSH_MODE = re.compile(r"^(ok|hang|refused|changed-key|no-key|twin-of: ?(?P<twin>[\w.-]+))$")


class ScenarioError(Exception):
    """The scenario file cannot be used; the message says where and why."""


def _text(value: Any) -> Any:
    """YAML reads `14.04` as a number and `111122223333` as an integer; both are names."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_text)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class OperatingSystem(Strict):
    """What a host says about itself in /etc/os-release and to Systems Manager."""

    name: str  # PlatformName of Systems Manager
    id: str  # ID= of os-release
    version: str
    codename: str
    pretty: str
    init: Literal["systemd", "upstart", "windows"] = "systemd"
    openssh: Literal["6.6", "modern"] = "modern"
    user: str = "ubuntu"
    patch_os: str = "UBUNTU"

    @property
    def os_release(self) -> str:
        rows = {
            "NAME": self.name,
            "ID": self.id,
            "ID_LIKE": "debian",
            "VERSION_ID": self.version,
            "VERSION": self.pretty.removeprefix(self.name).strip(),
            "VERSION_CODENAME": self.codename,
            "PRETTY_NAME": self.pretty,
        }
        return "".join(f'{key}="{value}"\n' for key, value in rows.items())


def _ubuntu(version: str, codename: str, title: str, **more: Any) -> OperatingSystem:
    return OperatingSystem(
        name="Ubuntu", id="ubuntu", version=version, codename=codename, pretty=f"Ubuntu {title}", **more
    )


def _debian(version: str, codename: str) -> OperatingSystem:
    return OperatingSystem(
        name="Debian GNU/Linux",
        id="debian",
        version=version,
        codename=codename,
        pretty=f"Debian GNU/Linux {version} ({codename})",
        user="admin",
        patch_os="DEBIAN",
    )


OPERATING_SYSTEMS: dict[str, OperatingSystem] = {
    "ubuntu-14.04": _ubuntu("14.04", "trusty", "14.04.6 LTS", init="upstart", openssh="6.6"),
    "ubuntu-16.04": _ubuntu("16.04", "xenial", "16.04.7 LTS"),
    "ubuntu-18.04": _ubuntu("18.04", "bionic", "18.04.6 LTS"),
    "ubuntu-20.04": _ubuntu("20.04", "focal", "20.04.6 LTS"),
    "ubuntu-22.04": _ubuntu("22.04", "jammy", "22.04.5 LTS"),
    "ubuntu-24.04": _ubuntu("24.04", "noble", "24.04.2 LTS"),
    "debian-11": _debian("11", "bullseye"),
    "debian-12": _debian("12", "bookworm"),
    "debian-13": _debian("13", "trixie"),
    "windows-2016": OperatingSystem(
        name="Microsoft Windows Server 2016 Datacenter",
        id="windows",
        version="10.0.14393",
        codename="",
        pretty="Microsoft Windows Server 2016 Datacenter",
        init="windows",
        user="Administrator",
        patch_os="WINDOWS",
    ),
}


class Patch(Strict):
    """A patch that the host lacks, in the words of PatchComplianceData."""

    title: str
    severity: str = "Important"
    classification: str = "Security"
    state: str = "Missing"
    installs: bool = True

    def message(self) -> dict[str, str]:
        return {
            "Title": self.title,
            "Severity": self.severity,
            "Classification": self.classification,
            "State": self.state,
        }


class Image(Strict):
    """An image of the account; `vmware` images came in through VM Import."""

    source: Literal["marketplace", "vmware", "own"] = "marketplace"
    description: str = ""


class Host(Strict):
    """One EC2 instance and the faults it starts with.

    `profile` is none, ok, no-permissions or the name of an instance profile of its own; `ssh` is ok, hang,
    refused, changed-key, no-key or `twin-of: NAME`, where NAME is the host that really answers there.
    `sudo` asks for a password or, with requiretty, wants a terminal; with `login_noise` the login shell
    prints of its own on both streams.
    """

    name: str
    os: Annotated[str, BeforeValidator(_text)] = "ubuntu-22.04"
    image: str = ""
    profile: str = "ok"
    network: Literal["open", "closed-with-endpoints", "blocked"] = "open"
    agent: AgentState = "healthy"
    mi_id: str = ""
    mi_region: str = ""
    fingerprint: str = ""
    apps: list[Literal["wordpress", "mysql"]] = []
    ssh: str = "ok"
    login_shell: Literal["bash", "csh", "rbash"] = "bash"
    login_noise: bool = False
    sudo: Literal["passwordless", "asks", "requiretty"] = "passwordless"
    tmp: Literal["plain", "noexec"] = "plain"
    state: Literal["running", "stopped"] = "running"
    platform: Literal["linux", "windows"] = "linux"
    asg: str = ""
    compromised: bool = False
    patches_missing: list[Patch] = []
    tags: dict[str, Name] = {}
    launched: datetime | None = None
    faults: list[str] = []
    expect: dict[str, str] = {}  # stage → "verdict CODE" after a takeover; stages not named are passed
    instance_id: str = ""
    private_ip: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short_patches(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("patches_missing"), list):
            rows = [{"title": row} if isinstance(row, str) else row for row in data["patches_missing"]]
            return data | {"patches_missing": rows}
        return data

    @model_validator(mode="before")
    @classmethod
    def _ssh_mapping(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("ssh"), dict) and "twin-of" in data["ssh"]:
            return data | {"ssh": f"twin-of: {data['ssh']['twin-of']}"}
        return data

    @model_validator(mode="after")
    def _known(self) -> Host:
        if self.os not in OPERATING_SYSTEMS:
            raise ValueError(f"os {self.os!r} is not one of {', '.join(OPERATING_SYSTEMS)}")
        if not SSH_MODE.match(self.ssh):
            raise ValueError(
                f"ssh {self.ssh!r} is not ok, hang, refused, changed-key, no-key or twin-of: NAME"
            )
        return self

    @property
    def operating_system(self) -> OperatingSystem:
        return OPERATING_SYSTEMS[self.os]

    @property
    def ssh_mode(self) -> str:
        return "twin-of" if self.ssh_twin else self.ssh

    @property
    def ssh_twin(self) -> str | None:
        found = SSH_MODE.match(self.ssh)
        return found.group("twin") if found else None

    @property
    def is_hybrid(self) -> bool:
        return self.agent in HYBRID_STATES

    @property
    def has_box(self) -> bool:
        """Windows and stopped instances exist in the account only."""
        return self.platform == "linux" and self.state == "running"


class Scenario(Strict):
    """One account with one region; `seed` has been worked into every id."""

    name: str
    account_id: Name = Field(default="111122223333", pattern=r"^\d{12}$")
    alias: str = "acme-legacy"
    region: str = "eu-central-1"
    seed: int = 0
    dhmc: bool = False
    leftovers: list[Leftover] = []
    operator_denied: list[str] = []
    images: dict[str, Image] = {}
    hosts: list[Host]

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        names = [host.name for host in self.hosts]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two hosts are named {', '.join(sorted(twice))}")
        for host in self.hosts:
            if host.ssh_twin and host.ssh_twin not in names:
                raise ValueError(f"{host.name}: ssh is twin-of {host.ssh_twin}, which is no host here")
        return self

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        raise ScenarioError(
            f"No host {name!r} in scenario {self.name}; it has {', '.join(h.name for h in self.hosts)}."
        )

    def image_of(self, host: Host) -> str:
        """The key of the host's image; hosts without one share the marketplace image of their system."""
        return host.image or host.os

    def made_id(self, prefix: str, *parts: str) -> str:
        """A 17-digit id as AWS writes them, the same for the same seed."""
        text = ":".join((str(self.seed), self.account_id, prefix, *parts))
        return f"{prefix}-0{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def made_uuid(self, *parts: str) -> str:
        text = ":".join((str(self.seed), self.account_id, *parts))
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"haltuun-lab:{text}"))

    def with_seed(self, seed: int) -> Scenario:
        """A copy in which every id, address and fingerprint that the file left open is filled in."""
        filled = self.model_copy(update={"seed": seed}, deep=True)
        for position, host in enumerate(filled.hosts):
            subnet = 1 if host.network == "closed-with-endpoints" else 0
            host.instance_id = host.instance_id or filled.made_id("i", host.name)
            host.private_ip = host.private_ip or f"10.20.{subnet}.{10 + position}"
            if host.is_hybrid:
                baked = host.image or host.name
                host.mi_id = host.mi_id or filled.made_id("mi", baked)
                host.mi_region = host.mi_region or filled.region
                host.fingerprint = host.fingerprint or filled.made_uuid("fingerprint", host.mi_id)
        return filled


def _place(error: Any) -> str:
    return ".".join(str(part) for part in error["loc"]) or "the file"


def load_scenario(path: Path | str, seed: int = 0) -> Scenario:
    """Read a scenario file; a bare name such as `demo` means the one that comes with the lab."""
    file = Path(path)
    if not file.exists() and file.name == str(path) and not file.suffix:
        file = Path(__file__).parent / "scenarios" / f"{path}.yaml"
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(
            f"Scenario {file} cannot be read ({error.strerror}); name an existing file."
        ) from error
    except yaml.YAMLError as error:
        raise ScenarioError(f"Scenario {file} is not valid YAML: {error}") from error
    try:
        return Scenario.model_validate(raw).with_seed(seed)
    except ValidationError as error:
        first = error.errors()[0]
        raise ScenarioError(
            f"Scenario {file}, {_place(first)}: {first['msg'].removeprefix('Value error, ')}"
        ) from error
