"""Looks: at all managed nodes at once, and at one host with one script. Changes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from weakref import WeakKeyDictionary

from haltuun.aws import Aws
from haltuun.envelope import host_script
from haltuun.errors import AwsError, NoCredentials
from haltuun.ledger import ChangeEvent
from haltuun.model import Host, Json, StageName, Unknown, is_true
from haltuun.run import Run
from haltuun.stages.base import View
from haltuun.stages.discover.host import no_way_in, standing_of
from haltuun.stages.polling import poll
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.facts import Agent, RepairAccount
from haltuun.stages.repair.package import package_problems
from haltuun.stages.repair.parse import parse_agent
from haltuun.stages.repair.state import identity_of, is_connected

PROBE_TIMEOUT_S = 420.0
# A job of Haltuun that is still at work (its run was killed) is waited for: what it leaves counts.
BUSY_WAIT_S = 300
# A node that was restarted is listed Online within a minute or two.
ONLINE_WAIT_S = 180.0
# One id that is no managed node here fails the call for all.
INVALID_ID = "InvalidInstanceId"
# The kinds of change that take a registration off a host, and the one that puts it back.
CLEARING = ("agent.clear", "agent.vault_aside")
RESTORING = "agent.restore"
# DescribeInstanceInformation takes 5 to 50 a page (botocore 1.44).
NODES_A_PAGE = 50
ACTIVATIONS_A_PAGE = 50  # 1 to 50, by its API reference
# What a host says is not asked unseen: it goes into the endpoint's name.
_REGION = re.compile(r"^[a-z]{2,4}(-[a-z]+){1,2}-\d$")
# Clones share a registration, so one answer serves them all: (region, id) → row, and (region, "activations")
# → rows. As long as the run lives.
_asked: WeakKeyDictionary[Aws, dict[tuple[str, str], Json | Unknown]] = WeakKeyDictionary()


@cache
def script(*names: str) -> str:
    """The named *.sh files of this package as one script, after haltuun/host/metadata.sh."""
    folder = resources.files("haltuun.stages.repair")
    return "\n".join(
        (host_script("metadata.sh"), *(folder.joinpath(name).read_text(encoding="utf-8") for name in names))
    )


def probe_account(run: Run, hosts: Sequence[Host]) -> Json:
    regions = sorted({host.region for host in hosts})
    nodes = {region: get_nodes(run, region) for region in regions}
    # No activation has registered anything where there is no hybrid node.
    hybrid = [region for region, rows in nodes.items() if not isinstance(rows, Unknown) and _hybrid(rows)]
    return {
        "nodes": nodes,
        "activations": {region: get_activations(run, region) for region in hybrid},
        "package_problems": package_problems(run.config.agent),
        "cleared": [{**row, "node": _listed_node(run, nodes, row)} for row in get_cleared(run)],
    }


def get_cleared(run: Run) -> list[dict[str, Json]]:
    """The registrations that Haltuun took off hosts of this account and that were not put back."""
    standing: dict[str, ChangeEvent] = {}  # by the id of the change that cleared
    for event in run.ledger.change_events(run.account.id, kinds=(*CLEARING, RESTORING)):
        if event.event != "confirmed":
            continue
        if event.change.kind == RESTORING:
            standing.pop(event.change.undoes, None)
        else:
            standing[event.change_id] = event
    found: dict[tuple[str, str], dict[str, Json]] = {}
    for event in standing.values():
        change = event.change
        node_id, region = change.after.get("registration"), change.after.get("registration_region")
        if node_id and region:
            row = found.setdefault((region, node_id), {"node_id": node_id, "region": region, "hosts": []})
            row["hosts"] = sorted({*row["hosts"], *change.hosts})
            row["at"] = max(row.get("at", event.at), event.at)
    return list(found.values())


def _listed_node(run: Run, nodes: Mapping[str, Json | Unknown], row: Mapping[str, Json]) -> Json | Unknown:
    """Of the regions' lists; asked for by itself where its region has no hosts."""
    listed = nodes.get(row["region"])
    if listed is None:
        return get_node(run, row["region"], row["node_id"])
    if isinstance(listed, Unknown):
        return listed
    return next((node for node in listed if node.get("InstanceId") == row["node_id"]), None)


def get_nodes(run: Run, region: str) -> list[Json] | Unknown:
    """Every managed node of the region, EC2 or hybrid."""
    return run.aws.ask(
        lambda: run.aws.pages(
            "ssm", "DescribeInstanceInformation", "InstanceInformationList", region, MaxResults=NODES_A_PAGE
        )
    )


def _hybrid(nodes: Sequence[Json]) -> bool:
    return any(node.get("ActivationId") for node in nodes)


def get_activations(run: Run, region: str) -> list[Json] | Unknown:
    """Every activation of the region, expired ones too; their codes are told only when they are made."""
    return run.aws.ask(
        lambda: run.aws.pages(
            "ssm", "DescribeActivations", "ActivationList", region, MaxResults=ACTIVATIONS_A_PAGE
        )
    )


def probe_host(run: Run, host: Host, view: View) -> Json | Unknown:
    """probe.sh's output, and where the account's lists lack it the node that its vault names, with the
    activations of its region; or why nobody should connect.

    Raises:
        Unreachable: or a subclass.
    """
    closed = no_way_in(standing_of(view, host.instance_id))
    return closed if closed is not None else look_at(run, host, view)


def look_at(run: Run, host: Host, view: View) -> Json:
    output = get_output(run, host)
    try:
        agent = parse_agent(output)
    except ValueError:
        return {"stdout": output, "vault_node": None, "vault_activations": None, "own_node": None}
    node = _vault_node(run, view, agent)
    return {
        "stdout": output,
        "vault_node": node,
        "vault_activations": _vault_activations(run, agent, node),
        "own_node": own_node(run, host, view, agent),
    }


def own_node(run: Run, host: Host, view: View, agent: Agent) -> Json | Unknown | None:
    """The host's own node as it is by now; None where the list of all nodes tells it.

    An agent that has just started, with the machine or by a run that was killed, is listed Online within a
    minute or two. That is waited for, in a plan as well: its host is none of those that only time can help.
    Those that this run itself has started are waited for together, by the proof.
    """
    account = view.account_facts.get(StageName.repair)
    assert isinstance(account, RepairAccount)
    listed, running_s = account.node(host.region, host.instance_id), agent.running_s
    if isinstance(listed, Unknown) or (listed is not None and listed.ping_status == "Online"):
        return None
    left_s = 0.0 if isinstance(running_s, Unknown) else online_wait_s() - max(running_s, 0.0)
    if left_s <= 0 or any(stage is StageName.repair for stage, _, _ in run.did(host.instance_id)):
        return None
    diagnosis = diagnose(agent)
    if identity_of(agent, diagnosis)[0] != "EC2" or not is_true(is_connected(agent, diagnosis)):
        return None

    def done(row: Json | Unknown | None) -> bool:
        return isinstance(row, Unknown) or (row is not None and row.get("PingStatus") == "Online")

    return poll(lambda: get_node(run, host.region, host.instance_id), done, left_s, gives_way=True)


def online_wait_s() -> float:
    """How long after its start an agent may take until it is listed Online."""
    return seconds("HALTUUN_ONLINE_WAIT_S", ONLINE_WAIT_S)


def seconds(name: str, default: float) -> float:
    """A lab's agents answer sooner than real ones."""
    given = os.environ.get(name)
    return float(given) if given else default


def _vault_node(run: Run, view: View, agent: Agent) -> Json | Unknown | None:
    """The registration in the vault may be of a region in which the account has no hosts; the account's
    regions were listed already."""
    vault = agent.vault
    account = view.account_facts.get(StageName.repair)
    listed = account.nodes if isinstance(account, RepairAccount) else {}
    if isinstance(vault, Unknown) or not vault.instance_id or vault.region in listed:
        return None
    if vault.instance_id == "malformed":
        return Unknown(unknown="NOT_ASKED: the vault names no id that could be asked for")
    known = _asked.setdefault(run.aws, {})
    key = (vault.region, vault.instance_id)
    if key not in known:
        known[key] = get_node(run, *key)
    return known[key]


def _vault_activations(run: Run, agent: Agent, node: Json | Unknown | None) -> Json | Unknown | None:
    if node is None or isinstance(node, Unknown) or isinstance(agent.vault, Unknown) or not _hybrid([node]):
        return None
    known = _asked.setdefault(run.aws, {})
    key = (agent.vault.region, "activations")
    if key not in known:
        known[key] = get_activations(run, agent.vault.region)
    return known[key]


def get_node(run: Run, region: str, node_id: str) -> Json | Unknown | None:
    """`region` may be what a host says: it is asked for only where it has a region's form."""
    if not _REGION.match(region):
        return Unknown(unknown="NOT_ASKED: that names no region that could be asked for")
    filters = [{"Key": "InstanceIds", "Values": [node_id]}]
    try:
        rows = run.aws.pages(
            "ssm", "DescribeInstanceInformation", "InstanceInformationList", region, Filters=filters
        )
    except NoCredentials:
        raise
    except AwsError as error:
        # A region that the account has not enabled refuses credentials that are good elsewhere.
        return None if error.code == INVALID_ID else Unknown(unknown=f"{error.code}: {error}")
    return rows[0] if rows else None


def get_output(run: Run, host: Host) -> str:
    transport = run.open(host)
    try:
        result = transport.run(
            script("host.sh", "token.sh", "probe.sh"),
            timeout_s=PROBE_TIMEOUT_S,
            env={"BUSY_WAIT_S": str(BUSY_WAIT_S)},
        )
        return result.stdout
    finally:
        transport.close()
