"""What was looked at → facts. Pure."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from haltuun.model import Host, Json, StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.pages import member, moment, text, unreadable
from haltuun.stages.repair.agentlog import FILE, deaths
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.facts import (
    Activation,
    Agent,
    AgentConfig,
    Cleared,
    IdentityConfig,
    LogLine,
    NodeRow,
    Process,
    RepairAccount,
    RepairFacts,
    RootCredentials,
    Unfinished,
    Vault,
    told,
)
from haltuun.stages.repair.leftovers import ENDPOINT_SECTIONS
from haltuun.stages.repair.state import identity_of, is_connected

Lines = Mapping[str, Sequence[str]]

_NO_ACTIVATIONS = Unknown(unknown="NOT_ASKED: activations")
_NODE_ID = re.compile(r"^(mi|i)-[0-9a-f]{8,}$")


def parse_account(view: View, raw: Json) -> RepairAccount:
    """`raw`: {"nodes": {region: [InstanceInformation, …] or Unknown}, "package_problems": {sha256: text},
    "activations": {region: [Activation, …] or Unknown}, of regions with hybrid nodes,
    "cleared": [{"node_id", "region", "hosts", "at", "node": InstanceInformation, None or Unknown}]}.
    """
    nodes: dict[str, tuple[NodeRow, ...] | Unknown] = {}
    for region, rows in raw["nodes"].items():
        if isinstance(rows, Unknown):
            nodes[region] = rows
        else:
            asked = _by_activation(raw["activations"].get(region))
            nodes[region] = _nodes(region, rows, asked)
    cleared = tuple(
        Cleared(
            node_id=row["node_id"],
            region=row["region"],
            hosts=tuple(row["hosts"]),
            cleared_at=row["at"],
            node=_one_node(row["region"], row["node"]),
        )
        for row in raw["cleared"]
    )
    return RepairAccount(nodes=nodes, package_problems=raw["package_problems"], cleared=cleared)


_Activations = Mapping[str, Activation | Unknown] | Unknown


def _by_activation(rows: Json | Unknown | None) -> _Activations:
    if rows is None:
        return _NO_ACTIVATIONS
    if isinstance(rows, Unknown):
        return rows
    found = {text(row, "ActivationId"): parse_activation(row) for row in rows}
    # Of one without its id nobody knows whose it is, so none can be said to exist no more.
    return unreadable("ActivationId") if "" in found else found


def parse_activation(row: Mapping[str, Any]) -> Activation | Unknown:
    """Unknown where it cannot be read whether it goes on registering machines."""
    numbers = [member(row, name, int) for name in ("RegistrationsCount", "RegistrationLimit")]
    expired = member(row, "Expired", bool)
    for value in (*numbers, expired):
        if isinstance(value, Unknown):
            return value
    count, limit = (number if isinstance(number, int) else 0 for number in numbers)
    tags = member(row, "Tags", list)
    return Activation(
        activation_id=text(row, "ActivationId"),
        description=text(row, "Description"),
        default_name=text(row, "DefaultInstanceName"),
        iam_role=text(row, "IamRole"),
        count=count,
        limit=limit,
        expires_at=_time(row, "ExpirationDate"),
        expired=expired is True,
        tags=tuple(f"{key}={text(tag, 'Value')}" for tag in tags if (key := text(tag, "Key")))
        if isinstance(tags, list)
        else (),
    )


def _nodes(region: str, rows: Json, activations: _Activations) -> tuple[NodeRow, ...] | Unknown:
    """One without its id could be any host's, so then nobody knows which have none."""
    found = tuple(parse_node(region, row, activations) for row in rows)
    return found if all(node.node_id for node in found) else unreadable("InstanceId")


def parse_node(region: str, row: Json, activations: _Activations = _NO_ACTIVATIONS) -> NodeRow:
    """What cannot be read is empty."""
    activation_id = text(row, "ActivationId")
    return NodeRow(
        node_id=text(row, "InstanceId"),
        region=region,
        ping_status=text(row, "PingStatus"),
        ip_address=text(row, "IPAddress"),
        computer_name=text(row, "ComputerName"),
        agent_version=text(row, "AgentVersion"),
        last_ping_at=_time(row, "LastPingDateTime"),
        activation_id=activation_id,
        activation=activations if isinstance(activations, Unknown) else activations.get(activation_id),
        registered_at=_time(row, "RegistrationDate"),
        iam_role=text(row, "IamRole"),
        source_type=text(row, "SourceType"),
    )


def _one_node(
    region: str, row: Json | Unknown | None, activations: _Activations = _NO_ACTIVATIONS
) -> NodeRow | Unknown | None:
    if row is None or isinstance(row, Unknown):
        return row
    return told(parse_node(region, row, activations))


def _time(row: Json, name: str) -> datetime | None:
    at = moment(row, name)
    return at if isinstance(at, datetime) else None


def parse_agent(output: str) -> Agent:
    """probe.sh's output.

    Raises:
        ValueError: it is not whole, or a line of it is none that probe.sh prints; nothing else.
    """
    lines = _key_values(output)
    if "end" not in lines:
        raise ValueError("the probe's output ends too early")
    log = _log(lines)
    return Agent(
        root=_yes(lines, "root"),
        init=_init(lines),
        packages=_packages(lines),
        binary=_one(lines, "binary") if lines["binary"] else _not_shown("binary"),
        processes=_processes(lines),
        deb_is_half=_one(lines, "deb_is_half") == "yes",
        deb_is_begun=_one(lines, "deb_is_begun") == "yes",
        dpkg_arch=_one(lines, "dpkg_arch"),
        rpm_arch=_one(lines, "rpm_arch"),
        snap_arch=_one(lines, "snap_arch"),
        services=dict(_service(text) for text in lines["service"]),
        enabled=_yes(lines, "enabled"),
        imds_instance_id=_imds(lines, "imds_instance_id"),
        imds_account=_imds(lines, "imds_account"),
        imds_region=_imds(lines, "imds_region"),
        vault=_vault(lines),
        registration_file=_yes(lines, "registration_file"),
        hybrid_dirs=tuple(sorted(lines["hybrid_dir"])),
        identity_config=_identity_config(lines),
        config=_config(lines),
        credentials=_credentials(lines),
        proxy=tuple(_without_password(text) for text in lines["proxy"]),
        proxy_lines=tuple(parse_proxy_line(text) for text in lines["proxy_file"]),
        up_s=_number(lines, "up_s"),
        disk_free_kb=_number(lines, "disk_free_kb"),
        inodes_free=_number(lines, "inodes_free"),
        state_kb=_number(lines, "state_kb"),
        clock=parse_clock(_one(lines, "clock")),
        unfinished=tuple(_unfinished(text) for text in lines["unfinished"]),
        cut_off=tuple(lines["cut_off"]),
        log=log,
        died=_died(lines, log),
    )


def _key_values(output: str) -> Lines:
    found: dict[str, list[str]] = defaultdict(list)
    for line in output.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found[key].append(value)
    return found


def _one(lines: Lines, key: str) -> str:
    values = lines[key]
    return values[0].strip() if values else ""


def _yes(lines: Lines, key: str) -> bool | Unknown:
    value = _one(lines, key)
    if value in ("yes", "no"):
        return value == "yes"
    return _not_shown(key)


def _number(lines: Lines, key: str) -> int | Unknown:
    value = _one(lines, key)
    return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else _not_shown(key)


def _not_shown(key: str) -> Unknown:
    return Unknown(unknown=f"NOT_SHOWN: the host did not say {key}")


def _packages(lines: Lines) -> dict[str, str] | Unknown:
    """None are found only where each package manager could be asked."""
    if _one(lines, "packages") != "read":
        return _not_shown("packages")
    return {kind: _one(lines, kind) for kind in ("deb", "rpm", "snap") if _one(lines, kind)}


def _processes(lines: Lines) -> tuple[Process, ...] | Unknown:
    if _one(lines, "processes") != "read":
        return _not_shown("processes")
    return tuple(_process(text) for text in lines["process"])


def _log(lines: Lines) -> tuple[LogLine, ...] | Unknown:
    """Of no file no lines; of one that could not be read to its end, nobody knows what it says."""
    if _one(lines, "log_read") != "yes" and _one(lines, "log_file") != "no":
        return _not_shown("log")
    return tuple(_log_line(FILE, text) for text in lines["log"])


def _died(lines: Lines, log: tuple[LogLine, ...] | Unknown) -> tuple[LogLine, ...] | Unknown:
    where = _one(lines, "journal_read")
    if isinstance(log, Unknown):
        return Unknown(unknown="NOT_SHOWN: its log could not be read")
    if not where:
        return Unknown(unknown="NOT_SHOWN: no journal of it is kept, or it could not be read")
    return deaths(log, [_log_line(where, text) for text in lines["journal"]])


def _init(lines: Lines) -> Literal["systemd", "upstart", "sysv"] | Unknown:
    value = _one(lines, "init")
    if value in ("systemd", "upstart", "sysv"):
        return value  # type: ignore[return-value]
    return Unknown(unknown="NOT_SHOWN: the host did not say its init")


def _imds(lines: Lines, key: str) -> str | Unknown:
    value = _one(lines, key)
    return value or Unknown(unknown="IMDS_UNREACHABLE: the host got no answer from its metadata service")


def _without_password(text: str) -> str:
    """A proxy's variable with nothing before the last @ but the scheme."""
    name, _, value = text.partition("=")
    scheme, there, rest = value.partition("://")
    _, at, address = (rest if there else value).rpartition("@")
    return f"{name}={scheme + there if there else ''}{'***@' if at else ''}{address}"


def _unfinished(text: str) -> Unfinished:
    change_id, foreign, day, clock, *saved = text.split()
    return Unfinished(
        change_id=change_id,
        foreign=foreign == "yes",
        saved_at=datetime.strptime(f"{day} {clock}", "%Y-%m-%d %H:%M:%S"),
        registration=next(filter(_NODE_ID.match, saved), ""),
    )


def _service(text: str) -> tuple[str, str]:
    """ "deb running, enabled"."""
    kind, _, state = text.partition(" ")
    return kind, state


def _process(text: str) -> Process:
    comm, pid, started = text.split()
    return Process(comm=comm, pid=int(pid), started=int(started))


def _vault(lines: Lines) -> Vault:
    threshold = _one(lines, "fingerprint_threshold")
    instance_id = _one(lines, "vault_instance_id")
    return Vault(
        manifest=_one(lines, "vault_manifest") == "yes",
        key_file=_one(lines, "vault_key_file") == "yes",
        instance_id=instance_id if _NODE_ID.match(instance_id) or not instance_id else "malformed",
        region=_one(lines, "vault_region"),
        private_key=_one(lines, "vault_private_key") == "yes",
        fingerprint_file=_one(lines, "fingerprint_file") == "yes",
        similarity_threshold=int(threshold) if re.fullmatch(r"-?\d{1,9}", threshold) else None,
    )


def _identity_config(lines: Lines) -> IdentityConfig | None:
    if _one(lines, "identity_config") != "yes":
        return None
    return IdentityConfig(
        identity_type=_one(lines, "identity_config.IdentityType"),
        instance_id=_one(lines, "identity_config.InstanceId"),
        credential_source=_one(lines, "identity_config.CredentialSource"),
        expires_at=_one(lines, "identity_config.CredentialsExpiresAt"),
        share_file=_one(lines, "identity_config.ShareFile"),
    )


def _config(lines: Lines) -> AgentConfig:
    if _one(lines, "config_file") != "yes":
        return AgentConfig(state="absent")
    config = parse_config("\n".join(lines["config"]))
    return config.model_copy(update={"digest": _one(lines, "config_sum") or "none"})


def parse_config(text: str) -> AgentConfig:
    """amazon-ssm-agent.json; keys are matched without case, as Go does."""
    try:
        data = json.loads(text)
    except RecursionError:
        return AgentConfig(state="broken", problem="not valid JSON: too deep")
    except ValueError as error:
        return AgentConfig(state="broken", problem=f"not valid JSON: {error}")
    if not isinstance(data, dict):
        return AgentConfig(state="broken", problem="not a JSON object")
    identity = _section(data, "identity")
    order = _value(identity, "consumptionorder") or []
    custom = _value(identity, "customidentities") or []
    endpoints = [
        f"{name}.Endpoint={_value(_section(data, name), 'endpoint')}"
        for name in ENDPOINT_SECTIONS
        if _value(_section(data, name), "endpoint")
    ]
    domain = _value(_section(data, "agent"), "servicedomain")
    if domain:
        endpoints.append(f"Agent.ServiceDomain={domain}")
    return AgentConfig(
        state="ok",
        consumption_order=tuple(_text(name) for name in order) if isinstance(order, list) else (),
        custom_identities=tuple(
            _text(_value(entry, "instanceid")) for entry in custom if isinstance(entry, dict)
        ),
        region=_text(_value(_section(data, "agent"), "region") or ""),
        endpoints=tuple(map(_text, endpoints)),
        text=text,
    )


def _text(value: Any) -> str:
    """JSON can name half a surrogate pair, which nothing can store."""
    return str(value).encode(errors="replace").decode()


def _value(data: Mapping[str, Any], name: str) -> Any:
    return next((value for key, value in data.items() if key.lower() == name.lower()), None)


def _section(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = _value(data, name)
    return found if isinstance(found, dict) else {}


def _credentials(lines: Lines) -> RootCredentials | Unknown:
    there = _yes(lines, "credentials_file")
    if isinstance(there, Unknown):
        return there
    kind = _one(lines, "credentials_default")
    return RootCredentials(
        present=there,
        sections=tuple(lines["credentials_section"]),
        default_kind=kind if kind in ("temporary", "long-term") else "none",
        of_agent=_one(lines, "credentials_of_agent") == "yes",
        digest=_one(lines, "credentials_sum"),
        others=_one(lines, "credentials_others") or "none",
    )


def parse_clock(text: str) -> datetime | Unknown:
    """The host's local time, naive: as its log has it."""
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return Unknown(unknown="NOT_SHOWN: the host did not say its time")


def _log_line(file: str, text: str) -> LogLine:
    number, _, rest = text.partition(":")
    return LogLine(file=file, line=int(number), text=rest)


def parse_proxy_line(text: str) -> LogLine:
    """A line of the agent's unit: "path:number:text"."""
    path, _, rest = text.partition(":")
    number, _, line = rest.partition(":")
    return LogLine(file=path, line=int(number), text=line)


# -- host ------------------------------------------------------------------------------------------


def parse_host(view: View, host: Host, raw: Json, host_raw: Json | Unknown) -> RepairFacts:
    """`raw` is the account's, parsed already; `host_raw` {"stdout": probe.sh's output, "vault_node": row,
    "vault_activations": rows, "own_node": row} or Unknown."""
    account = view.account_facts[StageName.repair]
    assert isinstance(account, RepairAccount)
    seen = node_columns(account.node(host.region, host.instance_id))
    own = None if isinstance(host_raw, Unknown) else host_raw["own_node"]
    if own is not None:  # looked at after the list
        seen = node_columns(_one_node(host.region, own))
    agent = _agent_or_unknown(host_raw)
    if isinstance(agent, Unknown):
        return RepairFacts(observed_at=view.now, **seen, **without_host(agent, seen), agent=agent)
    if isinstance(host_raw, Unknown):
        node = vault_node(account, agent, host_raw)
    else:
        node = vault_node(account, agent, host_raw["vault_node"], host_raw["vault_activations"])
    columns = host_columns(view, host, account, agent, node)
    return RepairFacts(observed_at=view.now, **seen, **columns, agent=agent)


def _agent_or_unknown(host_raw: Json | Unknown) -> Agent | Unknown:
    if isinstance(host_raw, Unknown):
        return host_raw
    try:
        return parse_agent(host_raw["stdout"])
    except ValueError as error:
        return Unknown(unknown=f"PROBE_UNREADABLE: the probe's output cannot be read ({error}).")


def node_columns(node: NodeRow | Unknown | None) -> dict[str, Any]:
    """The columns that Systems Manager alone decides, of the host's own node (None: it has none)."""
    node = node if isinstance(node, Unknown) else told(node)
    if isinstance(node, Unknown):
        return dict.fromkeys(("ssm_status", "ssm_last_ping_at", "online_as", "online_as_self"), node)
    online = node is not None and node.ping_status == "Online"
    return {
        "ssm_status": "never" if node is None else node.ping_status,
        "ssm_last_ping_at": None if node is None else node.last_ping_at,
        "online_as": node.node_id if node is not None and online else None,
        "online_as_self": online,
    }


def without_host(reason: Unknown, seen: Mapping[str, Any]) -> dict[str, Any]:
    """A node that is Online under its own id shows by itself that its agent took the EC2 identity."""
    if seen["online_as_self"] is True:
        return {"identity": "EC2", "identity_id": seen["online_as"], "running": True, "connected": True}
    columns = ("identity", "identity_id", "connected", "running", "enabled", "package", "version")
    more = ("right_box", "vault_instance_id", "vault_region", "vault_node", "vault_foreign", "deliberate")
    return dict.fromkeys((*columns, *more, "causes"), reason)


def vault_node(
    account: RepairAccount, agent: Agent, asked: Json | Unknown, activations: Json | Unknown | None = None
) -> NodeRow | Unknown | None:
    """The managed node that the vault names: of the account's list, or `asked` if its region is not there."""
    vault = agent.vault
    if isinstance(vault, Unknown):
        return vault
    if not vault.instance_id:
        return None
    if vault.region in account.nodes:
        return account.node(vault.region, vault.instance_id)
    return _one_node(vault.region, asked, _by_activation(activations))


def host_columns(
    view: View, host: Host, account: RepairAccount, agent: Agent, node: NodeRow | Unknown | None
) -> dict[str, Any]:
    diagnosis = diagnose(agent)
    identity, identity_id = identity_of(agent, diagnosis)
    vault = agent.vault
    assert not isinstance(vault, Unknown)
    return {
        "identity": identity,
        "identity_id": identity_id,
        "connected": is_connected(agent, diagnosis),
        "running": agent.running,
        "enabled": agent.enabled,
        "package": agent.package,
        "version": agent.version,
        "right_box": right_box(view.account_id, host, agent),
        "vault_instance_id": vault.instance_id or None,
        "vault_region": vault.region or None,
        "vault_node": node,
        "vault_foreign": vault_foreign(host, account, vault),
        "deliberate": vault.complete and vault.similarity_threshold == -1,
        "causes": tuple(cause.code for cause in diagnosis.causes),
        "found": diagnosis.causes,
    }


def right_box(account_id: str, host: Host, agent: Agent) -> bool | Unknown:
    """Whether the machine that answered is the instance that was meant (promise 8)."""
    said = (agent.imds_instance_id, agent.imds_account, agent.imds_region)
    unknown = next((value for value in said if isinstance(value, Unknown)), None)
    if unknown is not None:
        return unknown
    return said == (host.instance_id, account_id, host.region)


def vault_foreign(host: Host, account: RepairAccount, vault: Vault) -> bool | Unknown:
    """The saved registration is another region's, or no node of this account in this region."""
    if not vault.instance_id:
        return False
    if vault.region and vault.region != host.region:
        return True
    node = account.node(host.region, vault.instance_id)
    return node if isinstance(node, Unknown) else node is None


def discovered(view: View, instance_id: str) -> DiscoverFacts | None:
    facts = view.facts.get(StageName.discover, {}).get(instance_id)
    return facts if isinstance(facts, DiscoverFacts) else None
