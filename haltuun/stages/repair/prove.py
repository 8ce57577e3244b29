"""The proof of repair: Online under its own id, and a command that came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from haltuun.aws import chunks
from haltuun.errors import AwsError, NotImplementedByEndpoint
from haltuun.model import Host, Proof, StageName, Unknown, is_true, known
from haltuun.run import Run
from haltuun.stages.base import Proven, View
from haltuun.stages.commands import BATCH, Sent, send
from haltuun.stages.pages import text
from haltuun.stages.polling import poll
from haltuun.stages.repair.facts import NodeRow, RepairFacts
from haltuun.stages.repair.parse import discovered, node_columns, parse_node
from haltuun.stages.repair.probe import INVALID_ID, online_wait_s, seconds

ECHO_WAIT_S = 120.0
# Who is Online fetches it at once.
DELIVERY_S = 60
VALID = timedelta(hours=24)
ECHO = "echo"
# Events of a change after which the agent may be another than before.
_MOVED = ("confirmed", "failed", "not_taken", "unknown")
_FINAL = ("Success", "Failed", "Cancelled", "TimedOut")

# Of a host whose node could not be looked at, all of these are unknown.
COLUMNS = ("ssm_status", "ssm_last_ping_at", "online_as", "online_as_self", "echoed")

Seen = dict[str, NodeRow | Unknown]
Answer = tuple[str, str]  # status and output of a command


def prove(run: Run, hosts: Sequence[Host], view: View) -> Mapping[str, Proven]:
    """Fields: ssm_status, ssm_last_ping_at, online_as, online_as_self, echoed."""
    proven: dict[str, Proven] = {}
    for region in sorted({host.region for host in hosts}):
        proven.update(_prove_region(run, region, [host for host in hosts if host.region == region], view))
    return proven


def _prove_region(run: Run, region: str, hosts: Sequence[Host], view: View) -> dict[str, Proven]:
    """All of them are waited for together."""
    seen = await_online(run, region, hosts, view)
    online = [h for h in hosts if is_online(seen.get(h.instance_id)) and not _is_another(view, h)]
    echoes = echo(run, region, online, view)
    proven = {}
    for host in hosts:
        node = seen.get(host.instance_id)
        if isinstance(node, Unknown):
            proven[host.instance_id] = Proven(fields=dict.fromkeys(COLUMNS, node))
            continue
        fields = node_columns(node)
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


def is_online(node: NodeRow | Unknown | None) -> bool:
    return isinstance(node, NodeRow) and node.ping_status == "Online"


# -- Online as itself ----------------------------------------------------------------------------------


def await_online(run: Run, region: str, hosts: Sequence[Host], view: View) -> Seen:
    """The hosts' own nodes; waited for where the agent says that it is connected as itself."""
    ids = [host.instance_id for host in hosts]
    hopeful = [i for i in ids if _is_hopeful(view, i)]
    seen: Seen = {}

    def look(asked: list[str]) -> list[str]:
        """Who is waited for still. Nobody who was seen Online is asked for again."""
        seen.update(get_nodes(run, region, asked))
        return [i for i in hopeful if not is_online(seen.get(i)) and not isinstance(seen.get(i), Unknown)]

    left = look(ids)

    def look_again() -> bool:
        left[:] = look(left)
        return not left

    if left and not run.aws.read_only:
        poll(look_again, bool, online_wait_s(), gives_way=True)
    return seen


def _is_hopeful(view: View, instance_id: str) -> bool:
    facts = view.facts.get(StageName.repair, {}).get(instance_id)
    return isinstance(facts, RepairFacts) and facts.identity == "EC2" and is_true(facts.connected)


def get_nodes(run: Run, region: str, ids: Sequence[str]) -> Seen:
    """By their ids; those that the account has no node of are not in it."""
    seen: Seen = {}
    for some in chunks(ids, BATCH):
        found = run.aws.ask(partial(_get_nodes, run, region, some))
        seen.update(dict.fromkeys(some, found) if isinstance(found, Unknown) else found)
    return seen


def _get_nodes(run: Run, region: str, ids: Sequence[str]) -> dict[str, NodeRow]:
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

    answers: dict[str, Answer | Unknown] = dict(sent.refused)

    def look() -> bool:
        for command_id in sorted(set(sent.commands.values())):
            asked = [i for i, command in sent.commands.items() if command == command_id]
            if not all(_is_final(answers.get(i)) for i in asked):
                seen = run.aws.ask(partial(get_answers, run, region, command_id, asked))
                answers.update(dict.fromkeys(asked, seen) if isinstance(seen, Unknown) else seen)
        return all(_is_final(answers.get(i)) for i in ids)

    poll(look, bool, seconds("HALTUUN_ECHO_WAIT_S", ECHO_WAIT_S), gives_way=True)
    return {
        host.instance_id: _echo_of(run, host, sent, nonce, answers.get(host.instance_id, ("Pending", "")))
        for host in hosts
    }


def _is_final(answer: Answer | Unknown | None) -> bool:
    return answer is not None and (isinstance(answer, Unknown) or answer[0] in _FINAL)


def get_answers(run: Run, region: str, command_id: str, ids: Sequence[str]) -> dict[str, Answer]:
    """For those that the command knows by now: that it ended well proves less than what it printed."""
    try:
        rows = run.aws.pages(
            "ssm", "ListCommandInvocations", "CommandInvocations", region, CommandId=command_id, Details=True
        )
    except NotImplementedByEndpoint:
        return {i: _answer_one(run, region, command_id, i) for i in ids}
    return {text(row, "InstanceId"): (text(row, "Status"), _output(row)) for row in rows}


def _output(row: Mapping[str, Any]) -> str:
    return "\n".join(plugin.get("Output") or "" for plugin in row.get("CommandPlugins") or ())


def _answer_one(run: Run, region: str, command_id: str, instance_id: str) -> tuple[str, str]:
    row = run.aws.call("ssm", "GetCommandInvocation", region, CommandId=command_id, InstanceId=instance_id)
    return text(row, "Status"), text(row, "StandardOutputContent")


def _echo_of(run: Run, host: Host, sent: Sent, nonce: str, answer: Answer | Unknown) -> Echo:
    if isinstance(answer, Unknown):
        return answer, None
    status, output = answer
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
