"""The proof of repair: Online under its own id, and a command that came back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from haltuun.aws import chunks
from haltuun.errors import AwsError, NotImplementedByEndpoint
from haltuun.model import Host, Proof, StageName, Unknown, is_true, known
from haltuun.run import Run
from haltuun.stages.base import Proven, View
from haltuun.stages.commands import BATCH, Sent, send
from haltuun.stages.polling import poll
from haltuun.stages.repair.facts import NodeRow, RepairFacts
from haltuun.stages.repair.parse import discovered, node_columns, parse_node
from haltuun.stages.repair.probe import INVALID_ID

# A node that was restarted is listed Online within a minute or two.
ONLINE_WAIT_S = 180.0
ECHO_WAIT_S = 120.0
# Who is Online fetches it at once.
DELIVERY_S = 60
VALID = timedelta(hours=24)
ECHO = "echo"
# Events of a change after which the agent may be another than before.
_MOVED = ("confirmed", "failed", "not_taken", "unknown")
_FINAL = ("Success", "Failed", "Cancelled", "TimedOut")

Seen = dict[str, NodeRow | None]
Answers = dict[str, tuple[str, str]]  # instance id → status and output of a command


def prove(run: Run, hosts: Sequence[Host], view: View) -> Mapping[str, Proven]:
    """Fields: ssm_status, ssm_last_ping_at, online_as, online_as_self, echoed."""
    proven: dict[str, Proven] = {}
    for region in sorted({host.region for host in hosts}):
        here = [host for host in hosts if host.region == region]
        for batch in chunks(here, BATCH):
            proven.update(_prove_batch(run, region, batch, view))
    return proven


def _prove_batch(run: Run, region: str, hosts: Sequence[Host], view: View) -> dict[str, Proven]:
    seen = await_online(run, region, hosts, view)
    if isinstance(seen, Unknown):
        columns = ("ssm_status", "ssm_last_ping_at", "online_as", "online_as_self", "echoed")
        return {host.instance_id: Proven(fields=dict.fromkeys(columns, seen)) for host in hosts}
    online = [h for h in hosts if is_online(seen.get(h.instance_id)) and not _is_another(view, h)]
    echoes = echo(run, region, online, view)
    proven = {}
    for host in hosts:
        fields = node_columns(seen.get(host.instance_id))
        echoed, proof = echoes.get(host.instance_id, (_not_sent(view, host, fields), None))
        proven[host.instance_id] = Proven(
            fields={**fields, "echoed": echoed}, proofs=(proof,) if proof is not None else ()
        )
    return proven


def _not_sent(view: View, host: Host, fields: Mapping[str, Any]) -> Unknown:
    if _is_another(view, host):
        return Unknown(unknown="NOT_SENT: the agent on the host is not this instance's")
    return Unknown(unknown=f"NOT_SENT: the instance is '{fields['ssm_status']}', not Online")


def _is_another(view: View, host: Host) -> bool:
    """Systems Manager goes on listing a node as Online for minutes after its agent has become another, as
    where a repair was taken back: nobody would answer."""
    facts = view.facts.get(StageName.repair, {}).get(host.instance_id)
    return isinstance(facts, RepairFacts) and known(facts.identity) and facts.identity != "EC2"


def is_online(node: NodeRow | None) -> bool:
    return node is not None and node.ping_status == "Online"


# -- Online as itself ----------------------------------------------------------------------------------


def await_online(run: Run, region: str, hosts: Sequence[Host], view: View) -> Seen | Unknown:
    """The hosts' own nodes; waited for where the agent says that it is connected as itself."""
    ids = [host.instance_id for host in hosts]
    hopeful = [i for i in ids if _is_hopeful(view, i)]

    def done(seen: Seen | Unknown) -> bool:
        return isinstance(seen, Unknown) or all(is_online(seen.get(i)) for i in hopeful)

    wait_s = 0.0 if run.aws.read_only else _seconds("HALTUUN_ONLINE_WAIT_S", ONLINE_WAIT_S)
    return poll(lambda: get_nodes(run, region, ids), done, wait_s)


def _is_hopeful(view: View, instance_id: str) -> bool:
    facts = view.facts.get(StageName.repair, {}).get(instance_id)
    return isinstance(facts, RepairFacts) and facts.identity == "EC2" and is_true(facts.connected)


def get_nodes(run: Run, region: str, ids: Sequence[str]) -> Seen | Unknown:
    return run.aws.ask(lambda: _get_nodes(run, region, ids))


def _get_nodes(run: Run, region: str, ids: Sequence[str]) -> Seen:
    try:
        rows = run.aws.pages(
            "ssm",
            "DescribeInstanceInformation",
            "InstanceInformationList",
            region,
            Filters=[{"Key": "InstanceIds", "Values": list(ids)}],
            MaxResults=BATCH,
        )
    except AwsError as error:
        if error.code != INVALID_ID:
            raise
        if len(ids) == 1:
            return {}
        half = len(ids) // 2
        return {**_get_nodes(run, region, ids[:half]), **_get_nodes(run, region, ids[half:])}
    nodes = (parse_node(region, row) for row in rows)
    return {node.node_id: node for node in nodes}


def _seconds(name: str, default: float) -> float:
    """A lab's agents answer sooner than real ones."""
    given = os.environ.get(name)
    return float(given) if given else default


# -- a command that comes back -------------------------------------------------------------------------


Echo = tuple[bool | Unknown, Proof | None]


def echo(run: Run, region: str, hosts: Sequence[Host], view: View) -> dict[str, Echo]:
    """One command to all Online hosts that have no valid proof; nothing is sent in a read-only run."""
    echoes: dict[str, Echo] = {}
    unproven: list[Host] = []
    for host in hosts:
        proof = run.valid_proof(StageName.repair, ECHO, host.instance_id)
        at = _last_changed(run, host.instance_id)
        if proof is not None and (at is None or proof.observed_at > at):
            echoes[host.instance_id] = (True, None)
        else:
            unproven.append(host)
    if run.aws.read_only:
        reason = Unknown(unknown="READ_ONLY: a plan sends no command")
        return {**echoes, **{host.instance_id: (reason, None) for host in unproven}}
    windows = [host for host in unproven if _is_windows(view, host)]
    linux = [host for host in unproven if host not in windows]
    for batch, document in ((linux, "AWS-RunShellScript"), (windows, "AWS-RunPowerShellScript")):
        if batch:
            echoes.update(_send_and_await(run, region, batch, document))
    return echoes


def _last_changed(run: Run, instance_id: str) -> datetime | None:
    """When this run last touched the host's agent: an echo of before says nothing of it."""
    did = run.did(instance_id).items()
    return max(
        (at for (stage, _, event), at in did if stage is StageName.repair and event in _MOVED), default=None
    )


def _is_windows(view: View, host: Host) -> bool:
    found = discovered(view, host.instance_id)
    return found is not None and found.platform == "windows"


def _send_and_await(run: Run, region: str, hosts: Sequence[Host], document: str) -> dict[str, Echo]:
    nonce = f"haltuun {run.id}"
    lines = {"commands": [f"echo {nonce}"]}
    ids = [host.instance_id for host in hosts]
    comment = "Haltuun: proof that commands arrive"
    sent = send(run, region, ids, document, lambda _: lines, comment, delivery_s=DELIVERY_S)

    def done(seen: Answers | Unknown) -> bool:
        return isinstance(seen, Unknown) or all(seen.get(i, ("", ""))[0] in _FINAL for i in sent.commands)

    answers = poll(
        lambda: run.aws.ask(lambda: _all_answers(run, sent)),
        done,
        _seconds("HALTUUN_ECHO_WAIT_S", ECHO_WAIT_S),
    )
    return {host.instance_id: _echo_of(run, host, sent, nonce, answers) for host in hosts}


def _all_answers(run: Run, sent: Sent) -> Answers:
    answers: Answers = {}
    for command_id in sorted(set(sent.commands.values())):
        asked = [i for i, command in sent.commands.items() if command == command_id]
        answers.update(get_answers(run, sent.region, command_id, asked))
    return answers


def get_answers(run: Run, region: str, command_id: str, ids: Sequence[str]) -> Answers:
    """For those that the command knows by now: that it ended well proves less than what it printed."""
    try:
        rows = run.aws.pages(
            "ssm", "ListCommandInvocations", "CommandInvocations", region, CommandId=command_id, Details=True
        )
    except NotImplementedByEndpoint:
        return {i: _answer_one(run, region, command_id, i) for i in ids}
    return {row["InstanceId"]: (row["Status"], _output(row)) for row in rows}


def _output(row: Mapping[str, Any]) -> str:
    return "\n".join(plugin.get("Output") or "" for plugin in row.get("CommandPlugins") or ())


def _answer_one(run: Run, region: str, command_id: str, instance_id: str) -> tuple[str, str]:
    row = run.aws.call("ssm", "GetCommandInvocation", region, CommandId=command_id, InstanceId=instance_id)
    return row["Status"], row.get("StandardOutputContent") or ""


def _echo_of(run: Run, host: Host, sent: Sent, nonce: str, answers: Answers | Unknown) -> Echo:
    seen = sent.refused.get(host.instance_id, answers)
    if isinstance(seen, Unknown):
        return seen, None
    status, output = seen.get(host.instance_id, ("Pending", ""))
    if status != "Success" or nonce not in output:
        return False, None
    now = run.now()
    proof = Proof(
        host=host.instance_id,
        stage=StageName.repair,
        kind=ECHO,
        evidence=f"command {sent.commands[host.instance_id]} printed '{nonce}'",
        observed_at=now,
        valid_until=now + VALID,
    )
    return True, proof
