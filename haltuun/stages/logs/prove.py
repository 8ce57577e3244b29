"""The proof of logs: a line written on the host is found in the log group, in the host's own stream."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from haltuun.aws import chunks
from haltuun.model import Host, Proof, StageName, Unknown, is_true
from haltuun.run import Run
from haltuun.stages.associations import await_success
from haltuun.stages.base import Proven, View
from haltuun.stages.commands import BATCH, get_invocation, send
from haltuun.stages.discover.lines import script
from haltuun.stages.logs.agent_config import Wanted
from haltuun.stages.logs.facts import LogsFacts
from haltuun.stages.logs.names import CONFIGURE_PREFIX, MARKER_KIND, group_name
from haltuun.stages.polling import poll
from haltuun.stages.tags import ids_by_region

CONFIGURE_S = 900.0
# The agent flushes every five seconds, and a first stream takes a little longer.
ARRIVES_S = 300.0
VALID = timedelta(days=7)
# Changes after which a line has to arrive anew: of roles and network, of the agents, of what is shipped.
_MOVES = (StageName.verify, StageName.repair, StageName.logs)


def prove(run: Run, hosts: Sequence[Host], view: View) -> Mapping[str, Proven]:
    """Write a marker line where no proof is valid any more, and wait for all of them together."""
    proven: dict[str, Proven] = {}
    wanted: dict[str, Wanted] = {}
    for host in hosts:
        row = view.facts.get(StageName.logs, {}).get(host.instance_id)
        if not (isinstance(row, LogsFacts) and isinstance(row.wanted, Wanted) and is_true(row.configured)):
            continue
        valid = run.valid_proof(StageName.logs, "marker", host.instance_id)
        if valid and _still_proves(valid, row.wanted, _last_moved(run, host.instance_id)):
            proven[host.instance_id] = Proven({"marker_found": True, "marker_at": valid.observed_at})
        else:
            wanted[host.instance_id] = row.wanted
    asked = [host for host in hosts if host.instance_id in wanted]
    for region, ids in ids_by_region(asked).items():
        proven.update(_prove_region(run, region, {i: wanted[i] for i in ids}))
    return proven


def _last_moved(run: Run, instance_id: str) -> datetime | None:
    """When this run last changed something that the host's lines depend on."""
    did = run.did(instance_id).items()
    moved = (at for (stage, _, event), at in did if stage in _MOVES and event == "confirmed")
    return max(moved, default=None)


def _still_proves(proof: Proof, config: Wanted, moved: datetime | None) -> bool:
    """A line that another configuration shipped, or that came before a change, shows nothing of now."""
    return proof.evidence.endswith(_by(config)) and (moved is None or proof.observed_at > moved)


def _by(config: Wanted) -> str:
    return f", shipped by configuration {config.tag}"


def _prove_region(run: Run, region: str, wanted: Mapping[str, Wanted]) -> dict[str, Proven]:
    names = {i: CONFIGURE_PREFIX + config.tag for i, config in wanted.items()}
    reasons = await_success(run, region, names, CONFIGURE_S)
    proven = {
        i: Proven({"marker_found": False, "marker_note": f"the agent was not configured: {why}"})
        for i, why in reasons.items()
        if why
    }
    ready = [i for i, why in reasons.items() if not why]
    online = _online(run, region, ready)
    if isinstance(online, Unknown):
        return proven | {i: Proven({"marker_found": online}) for i in ready}
    for instance_id in sorted(set(ready) - online):
        away = Unknown(unknown="NOT_ONLINE: no marker can be written, the host is not Online")
        proven[instance_id] = Proven({"marker_found": away})
    marker = f"haltuun {run.id}"
    commands = _write_markers(run, region, sorted(online), marker)
    found = _await_markers(run, region, {i for i in online if isinstance(commands[i], str)}, marker)
    for instance_id in sorted(online):
        at = found.get(instance_id)
        note = "" if at else _why_not_written(run, region, commands, instance_id)
        fields = {"marker_found": at is not None, "marker_at": at, "marker_note": note}
        proofs = (_proof(run, instance_id, marker, at, wanted[instance_id]),) if at else ()
        proven[instance_id] = Proven(fields, proofs)
    return proven


def _online(run: Run, region: str, ids: Sequence[str]) -> set[str] | Unknown:
    """A command to a node that is not Online would wait until its time is over."""

    def question() -> set[str]:
        online: set[str] = set()
        for some in chunks(ids, BATCH):  # the filter's limit too (botocore 1.44)
            nodes = run.aws.pages(
                "ssm",
                "DescribeInstanceInformation",
                "InstanceInformationList",
                region,
                Filters=[{"Key": "InstanceIds", "Values": list(some)}],
                MaxResults=BATCH,
            )
            online.update(n["InstanceId"] for n in nodes if n.get("PingStatus") == "Online")
        return online & set(ids)

    return run.aws.ask(question)


def marker_script(account: str, region: str, ids: Sequence[str], marker: str) -> str:
    """The script for Run Command: it finds out by itself which of `ids` it runs on."""
    given = {"HALTUUN_IDS": " ".join(ids), "HALTUUN_PLACE": f"{account} {region}", "HALTUUN_MARKER": marker}
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in given.items())
    return head + script("haltuun.stages.discover", "common.sh") + script("haltuun.stages.logs", "marker.sh")


def _write_markers(run: Run, region: str, ids: Sequence[str], marker: str) -> dict[str, str | Unknown]:
    """Instance id → the command that writes its marker, or why none was sent."""

    def parameters(some: Sequence[str]) -> dict[str, list[str]]:
        lines = marker_script(run.account.id, region, some, marker).splitlines()
        return {"commands": lines, "executionTimeout": ["120"]}

    comment = "Haltuun: a marker line for the log group"
    return send(run, region, ids, "AWS-RunShellScript", parameters, comment)


def _await_markers(run: Run, region: str, ids: set[str], marker: str) -> dict[str, datetime]:
    """Instance id → when its marker was first seen in its stream."""
    group = group_name(run.account.label, MARKER_KIND)
    found: dict[str, datetime] = {}

    def question() -> list[Any]:
        return run.aws.pages(
            "logs",
            "FilterLogEvents",
            "events",
            region,
            logGroupName=group,
            filterPattern=f'"{marker}"',
            startTime=int((run.now() - timedelta(days=1)).timestamp() * 1000),
        )

    def look() -> bool:
        events = run.aws.ask(question)
        for event in () if isinstance(events, Unknown) else events:
            stream, message = str(event.get("logStreamName")), str(event.get("message"))
            if stream in ids and message.split() == [*marker.split(), stream]:
                found.setdefault(stream, run.now())
        return len(found) == len(ids)

    if ids:
        poll(look, bool, ARRIVES_S)
    return found


def _why_not_written(run: Run, region: str, commands: Mapping[str, str | Unknown], instance_id: str) -> str:
    command = commands[instance_id]
    if isinstance(command, Unknown):
        return f"the command that writes it could not be sent ({command.unknown})"
    answer = get_invocation(run, region, command, instance_id)
    if isinstance(answer, Unknown):
        return answer.unknown
    if answer.get("Status") == "Success":
        return "it was written on the host, and did not arrive"
    error = str(answer.get("StandardErrorContent") or "").strip().splitlines()
    return f"the command ended {answer.get('Status')}: {error[0] if error else 'no output'}"


def _proof(run: Run, instance_id: str, marker: str, at: datetime, config: Wanted) -> Proof:
    group = group_name(run.account.label, MARKER_KIND)
    return Proof(
        host=instance_id,
        stage=StageName.logs,
        kind="marker",
        evidence=f"'{marker} {instance_id}' in {group}, stream {instance_id}{_by(config)}",
        observed_at=at,
        valid_until=at + VALID,
    )
