"""haltuun.yaml: read, checked, and every error with file, line and key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from haltuun.errors import ConfigError
from haltuun.model import Reach

# haltuun.yaml is written by hand: beyond this it is not one, and YAML aliases could blow it up.
MAX_BYTES = 1_000_000
DATABASES = ("sqlite:///", "postgresql+psycopg://")
# What a pattern asks for, by its key; a key of 'hosts' is an instance id.
SHAPES = {
    "id": "the account's 12 digits",
    "alias": "small letters, digits, '.', '_' and '-' only, 63 at most",
    "role_arn": "the ARN of a role, as arn:aws:iam::111122223333:role/haltuun",
    "regions": "the name of a region, as eu-central-1",
    "sha256": "64 digits of 0-9 and a-f",
}
INSTANCE_ID = "an instance id, as i-0abc1234def567890"
TYPES = {
    "string_type": "text",
    "path_type": "the path of a file or folder",
    "list_type": "a list, as [a, b]",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
}
INTEGERS = ("int_type", "int_parsing", "int_from_float")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SshConfig(_Section):
    users: list[str] = ["ubuntu", "ec2-user", "admin"]
    key_files: list[Path] | None = None  # None: ssh-agent
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    address: Literal["private", "public"] = "private"
    bastion: str | None = None
    known_hosts: Path = Path("~/.ssh/known_hosts")
    config: Path | None = Path("~/.ssh/config")  # None: it is not read
    host_keys: Literal["strict", "trust-first"] = "strict"
    max_attempts: Annotated[int, Field(ge=1, le=50)] = 6
    connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0


# Demands that a person may waive for a host: of the stages that no other needs, so that a waiver opens no way
# to a further change.
Waivable = Literal[
    "EOL",
    "PATCH_UNSUPPORTED",
    "PATCH_PREREQ",
    "SCAN_MISSING",
    "SCAN_OLD",
    "NOT_SELECTED",
    "NO_RECOVERY_POINT",
    "RECOVERY_POINT_OLD",
    "LOGS_UNSUPPORTED",
    "LOGS_NOTHING_TO_SHIP",
    "LOGS_NOT_CONFIGURED",
    "MARKER_MISSING",
]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class HostConfig(_Section):
    address: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    user: str | None = None
    exclude: str | None = None
    waive: dict[Waivable, Reason] = {}
    deliberate_hybrid: bool = False


InstanceId = Annotated[str, StringConstraints(pattern=r"^i-[0-9a-f]{8,17}$")]


RoleArn = Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/[!-~]+$")]


class AccountConfig(_Section):
    id: Annotated[str, StringConstraints(pattern=r"^\d{12}$")]
    alias: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")] | None = None
    role_arn: RoleArn | None = None
    external_id: str | None = None
    profile: str | None = None
    regions: list[Annotated[str, StringConstraints(pattern=r"^[a-z]{2,4}(-[a-z]+)+-\d$")]] | None = None
    ssh: SshConfig = SshConfig()
    hosts: dict[InstanceId, HostConfig] = {}

    @property
    def label(self) -> str:
        return self.alias or self.id

    @property
    def named(self) -> str:
        """Alias and id, for people."""
        return f"{self.alias} ({self.id})" if self.alias else self.id

    def host(self, instance_id: str) -> HostConfig:
        return self.hosts.get(instance_id, HostConfig())


class PolicyConfig(_Section):
    max_held_percent: Annotated[int, Field(ge=0, le=100)] = 50
    max_tries: Annotated[int, Field(ge=1, le=100)] = 3  # retries of a host for one and the same cause
    approve: list[Reach] = [Reach.shared, Reach.account, Reach.irreversible]
    # Log groups of ours: a year, which is also what the usual audits ask for.
    log_retention_days: Literal[30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1827, 3653] = 365
    backup_retention_days: Annotated[int, Field(ge=1, le=36500)] = 35
    # An old hybrid registration is deregistered no sooner after its hosts were cleared of it.
    deregister_after_days: Annotated[int, Field(ge=1, le=365)] = 7
    max_hosts: Annotated[int, Field(ge=1)] | None = None  # changed in one run at most; None: all
    host_concurrency: Annotated[int, Field(ge=1, le=100)] = 10

    @field_validator("approve")
    @classmethod
    def _never_unasked(cls, value: list[Reach]) -> list[Reach]:
        if Reach.irreversible not in value:
            raise ValueError("irreversible changes always wait for approval: keep 'irreversible' in the list")
        return value


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class PackagePin(_Section):
    """One package of the agent. `arch` as AWS's folders are called; "any" fits wherever the package does."""

    format: Literal["deb", "rpm", "snap"]
    arch: Literal["amd64", "arm64", "386", "any"] = "any"
    version: str
    sha256: Sha256

    @field_validator("arch", mode="before")
    @classmethod
    def _as_yaml_reads_386(cls, value: object) -> object:
        return "386" if value == 386 else value


class AgentConfig(_Section):
    package_source: str | None = None  # folder or URL of agent packages
    version: str | None = None  # of the deb
    sha256: Sha256 | None = None  # of the deb
    packages: list[PackagePin] = []

    @property
    def pins(self) -> tuple[PackagePin, ...]:
        """All that is pinned. Of those that fit a host alike the first is installed there."""
        deb = (
            (PackagePin(format="deb", version=self.version, sha256=self.sha256),)
            if self.version and self.sha256
            else ()
        )
        return (*deb, *self.packages)


class Config(_Section):
    state_dir: Path = Path(".haltuun")
    database_url: str | None = None  # None: SQLite in state_dir
    accounts: list[AccountConfig] = []
    policy: PolicyConfig = PolicyConfig()
    agent: AgentConfig = AgentConfig()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(DATABASES):
            raise ValueError("must begin with " + " or ".join(DATABASES))
        return value

    @property
    def ledger_url(self) -> str:
        return self.database_url or f"sqlite:///{self.state_dir / 'ledger.db'}"

    def all_accounts(self) -> list[AccountConfig]:
        """Those of the file, at least one.

        Raises:
            ConfigError: there is none, so that nothing would be done and nothing said.
        """
        if not self.accounts:
            raise ConfigError(
                "there is no account in the configuration.",
                remedy="Add one under 'accounts:' in haltuun.yaml; see 'haltuun init'.",
            )
        return list(self.accounts)

    def account(self, name: str) -> AccountConfig:
        """The account with this id or alias.

        Raises:
            ConfigError: it is not in the file.
        """
        for account in self.accounts:
            if name in (account.id, account.alias):
                return account
        there = ", ".join(account.label for account in self.accounts) or "none"
        raise ConfigError(
            f"no account '{name}' in the configuration (there: {there}).",
            remedy="Use an id or alias that is there, or add the account to haltuun.yaml.",
            code="UNKNOWN_ACCOUNT",
        )


def find_config(given: str | None) -> Path:
    """The file to read: --config, else HALTUUN_CONFIG, else ./haltuun.yaml."""
    return Path(given or os.environ.get("HALTUUN_CONFIG") or "haltuun.yaml")


def load_config(path: Path) -> Config:
    """Read and check `path`; relative paths in it count from its folder.

    Raises:
        ConfigError: with file, line and key.
    """
    text = _read(path)
    try:
        loader = _NoAliases(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{problem}.", subject=where, remedy="Correct the YAML there.") from error
    except RecursionError as error:
        raise ConfigError(
            "is nested far deeper than a configuration can be.",
            subject=str(path),
            remedy="Name the right file.",
        ) from error
    except (ValueError, TypeError) as error:
        # What PyYAML lets through: a date that is none, a key that is a list.
        raise ConfigError(
            f"holds a value that YAML cannot make sense of ({str(error)[:100]}).",
            subject=str(path),
            remedy="Put dates and other odd values in quotes.",
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(
            "is not a mapping of keys.",
            subject=f"{path}:1",
            remedy="Begin with 'accounts:'; see 'haltuun init'.",
        )
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        loc = [part for part in first["loc"] if part != "[key]"]
        line = _line_of(node, loc)
        raise ConfigError(
            _sentence(first, loc),
            subject=f"{path}:{line}: {'.'.join(str(part) for part in loc) or '(top)'}",
            remedy=_remedy(first, loc),
        ) from error
    _refuse_twins(config, path, node)
    return _resolved(config, path.resolve().parent)


def _read(path: Path) -> str:
    """Raises ConfigError: not there, not readable, far too large, or not text."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                "larger than a configuration can be.", subject=str(path), remedy="Name the right file."
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no such file.",
            subject=str(path),
            remedy="Write one with 'haltuun init', or name it with --config or HALTUUN_CONFIG.",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror}).",
            subject=str(path),
            remedy="Name a file that you may read with --config or HALTUUN_CONFIG.",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text.", subject=str(path), remedy="Save it as UTF-8.") from error


class _NoAliases(yaml.SafeLoader):
    """YAML without aliases (a bomb is made of them) and without a key given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not used here", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' stands here twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _sentence(error: Any, loc: list[Any]) -> str:
    kind, message = error["type"], str(error["msg"])
    key = next((part for part in reversed(loc) if isinstance(part, str)), "")
    if kind == "extra_forbidden":
        return "there is no such key."
    if kind == "missing":
        return "this key is missing."
    if kind == "string_pattern_mismatch":
        return f"must be {SHAPES.get(key, INSTANCE_ID)}."
    if kind in TYPES:
        return f"must be {TYPES[kind]}."
    if kind in INTEGERS:
        return "must be a whole number."
    message = message.removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return message[0].lower() + message[1:] + ("" if message.endswith(".") else ".")


def _remedy(error: Any, loc: list[Any]) -> str:
    if error["type"] == "string_type":
        reason = loc[-1] == "exclude" or "waive" in loc
        return "Write the reason there, in quotes." if reason else "Put the value in quotes."
    if error["type"] == "extra_forbidden":
        known = _section_of(loc).model_fields
        like = difflib.get_close_matches(str(loc[-1]), known, n=1)
        return f"Did you mean '{like[0]}'?" if like else f"There are: {', '.join(known)}."
    return "Correct that key."


def _section_of(loc: list[Any]) -> type[_Section]:
    """The section in which the last key of `loc` stands."""
    above = [part for part in loc[:-1] if isinstance(part, str)]
    sections: dict[str, type[_Section]] = {
        "accounts": AccountConfig,
        "ssh": SshConfig,
        "policy": PolicyConfig,
        "agent": AgentConfig,
        "packages": PackagePin,
    }
    return sections.get(above[-1], HostConfig) if above else Config


def _line_of(node: Any, loc: list[Any]) -> int:
    """The line (1-based) of the deepest node on the way `loc` that stands in the file."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _refuse_twins(config: Config, path: Path, node: Any) -> None:
    seen: dict[str, int] = {}
    for index, account in enumerate(config.accounts):
        for name in filter(None, (account.id, account.alias)):
            if name in seen:
                raise ConfigError(
                    f"'{name}' names two accounts.",
                    subject=f"{path}:{_line_of(node, ['accounts', index])}: accounts.{index}",
                    remedy="Give each account one entry and an alias of its own.",
                )
            seen[name] = index


def _resolved(config: Config, base: Path) -> Config:
    def there(path: Path) -> Path:
        path = path.expanduser()
        return path if path.is_absolute() else base / path

    accounts = []
    for account in config.accounts:
        files = account.ssh.key_files
        ssh = account.ssh.model_copy(
            update={
                "known_hosts": there(account.ssh.known_hosts),
                "config": None if account.ssh.config is None else there(account.ssh.config),
                "key_files": None if files is None else [there(file) for file in files],
            }
        )
        accounts.append(account.model_copy(update={"ssh": ssh}))
    url = config.database_url
    if url and url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
        url = f"sqlite:///{there(Path(url.removeprefix('sqlite:///')))}"
    source = config.agent.package_source
    if source and "://" not in source:
        source = str(there(Path(source)))
    return config.model_copy(
        update={
            "state_dir": there(config.state_dir),
            "database_url": url,
            "accounts": accounts,
            "agent": config.agent.model_copy(update={"package_source": source}),
        }
    )
