"""The proof of logs: a line written on the host is found in the log group, in the host's own stream."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from haltuun.aws import chunks
from haltuun.model import Host, Proof, StageName, Unknown, is_true
from haltuun.run import Run
from haltuun.stages.associations import send_once
from haltuun.stages.base import Proven, View
from haltuun.stages.commands import BATCH, Sent, send
from haltuun.stages.discover.lines import script
from haltuun.stages.logs.agent_config import Wanted
from haltuun.stages.logs.facts import LogsFacts
from haltuun.stages.logs.kinds import CONFIGURE
from haltuun.stages.logs.names import ASSOCIATION_PREFIX, MARKER_KIND, group_name
from haltuun.stages.polling import poll
from haltuun.stages.tags import ids_by_region

# State Manager reaches a new target within ten minutes; the package is 100 MB.
CONFIGURE_S = 900
# Where it has not by then, the document is sent to the host.
PATIENCE_S = 60.0
# The agent flushes every five seconds, and a first stream takes a little longer.
ARRIVES_S = 300.0
VALID = timedelta(days=7)
PROOF = "marker"
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
        valid = run.valid_proof(StageName.logs, PROOF, host.instance_id)
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
    online = _online(run, region, sorted(wanted))
    if isinstance(online, Unknown):
        return {i: Proven({"marker_found": online}) for i in wanted}
    away = Unknown(unknown="NOT_ONLINE: no marker can be written, the host is not Online")
    proven = {i: Proven({"marker_found": away}) for i in sorted(set(wanted) - online)}
    watch = _Watch(run, region, {i: wanted[i] for i in sorted(online)}, f"haltuun {run.id}")
    if online:
        watch.begin()
        poll(watch.look, bool, CONFIGURE_S + ARRIVES_S)
    for instance_id in sorted(online):
        at = watch.found.get(instance_id)
        note = "" if at else watch.why(instance_id)
        fields: dict[str, Any] = {"marker_found": at is not None, "marker_at": at, "marker_note": note}
        if not at and watch.is_not_configured(instance_id):
            fields["configured"] = False
        proofs = (_proof(run, instance_id, watch.marker, at, wanted[instance_id]),) if at else ()
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


@dataclass
class _Watch:
    """The marker lines of a region's hosts, from the command that writes them to the group they arrive in.

    On each host the command waits for the configuration that is to ship the line. Where State Manager has
    not brought that in time, its document is sent to the host, once.
    """

    run: Run
    region: str
    wanted: Mapping[str, Wanted]
    marker: str
    found: dict[str, datetime] = field(default_factory=dict)  # instance id → when its line was first seen
    _lines: Sent = field(default_factory=lambda: Sent(""))
    _documents: list[Sent] = field(default_factory=list)
    _written: dict[str, float] = field(default_factory=dict)
    _begun_s: float = 0.0

    def begin(self) -> None:
        """Send the command that writes the lines."""

        def parameters(some: Sequence[str]) -> dict[str, list[str]]:
            configurations = {i: self.wanted[i].parameter for i in some}
            text = marker_script(self.run.account.id, self.region, configurations, self.marker)
            return {"commands": text.splitlines(), "executionTimeout": [str(CONFIGURE_S + 120)]}

        comment = "Haltuun: a marker line for the log group"
        self._begun_s = time.monotonic()
        self._lines = send(self.run, self.region, self.wanted, "AWS-RunShellScript", parameters, comment)

    def look(self) -> bool:
        """Take in what has come; True when nothing more is to be waited for."""
        self._look_for_lines()
        if len(self.found) == len(self.wanted):
            return True
        now_s = time.monotonic()
        for instance_id, why in self._lines.look(self.run).items():
            if not why:
                self._written.setdefault(instance_id, now_s)
        if not self._documents and now_s - self._begun_s >= PATIENCE_S:
            self._send_documents(i for i in self.wanted if self._is_open(i) and self._may_be_sent(i))
        for sent in self._documents:
            sent.look(self.run)
        return not any(self._is_awaited(i, now_s) for i in self.wanted)

    def _look_for_lines(self) -> None:
        events = self.run.aws.ask(
            lambda: self.run.aws.pages(
                "logs",
                "FilterLogEvents",
                "events",
                self.region,
                logGroupName=group_name(self.run.account.label, MARKER_KIND),
                filterPattern=f'"{self.marker}"',
                startTime=int((self.run.now() - timedelta(days=1)).timestamp() * 1000),
            )
        )
        for event in () if isinstance(events, Unknown) else events:
            stream, message = str(event.get("logStreamName")), str(event.get("message"))
            if stream in self.wanted and message.split() == [*self.marker.split(), stream]:
                self.found.setdefault(stream, self.run.now())

    def _send_documents(self, ids: Iterable[str]) -> None:
        by_tag: dict[str, list[str]] = {}
        for instance_id in ids:
            by_tag.setdefault(self.wanted[instance_id].tag, []).append(instance_id)
        for tag, some in sorted(by_tag.items()):
            self._documents.append(send_once(self.run, self.region, ASSOCIATION_PREFIX + tag, some))

    def _may_be_sent(self, instance_id: str) -> bool:
        """Not to what has shipped a line with this configuration: a slow agent is not installed anew."""
        if (StageName.logs, CONFIGURE.name, "confirmed") in self.run.did(instance_id):
            return True
        proofs = self.run.ledger.proofs(self.run.account.id, instance_id)
        return not any(p.kind == PROOF and p.evidence.endswith(_by(self.wanted[instance_id])) for p in proofs)

    def _is_open(self, instance_id: str) -> bool:
        return instance_id not in self.found and instance_id not in self._lines.endings

    def _is_awaited(self, instance_id: str, now_s: float) -> bool:
        if instance_id in self.found:
            return False
        if self.was_written(instance_id):
            return now_s - self._written[instance_id] < ARRIVES_S
        return self._is_open(instance_id) and not self._why_not_configured(instance_id)

    def was_written(self, instance_id: str) -> bool:
        return instance_id in self._written

    def _why_not_configured(self, instance_id: str) -> str:
        return next((why for s in self._documents if (why := s.endings.get(instance_id, ""))), "")

    def is_not_configured(self, instance_id: str) -> bool:
        waited = self._lines.endings.get(instance_id, "").startswith("NOT_CONFIGURED")
        return waited or bool(self._why_not_configured(instance_id))

    def why(self, instance_id: str) -> str:
        """Why no line of the host has arrived."""
        if self.was_written(instance_id):
            return "it was written on the host, and did not arrive"
        why = self._why_not_configured(instance_id)
        if why:
            return why
        why = self._lines.endings.get(instance_id, "") or self._lines.why_open(instance_id)
        return f"the command that writes it: {why}"


def marker_script(account: str, region: str, configurations: Mapping[str, str], marker: str) -> str:
    """The script for Run Command: it finds out by itself which of the hosts it runs on.

    `configurations` is instance id → the parameter that its agent is to have.
    """
    given = {
        "HALTUUN_IDS": " ".join(f"{i}={name}" for i, name in configurations.items()),
        "HALTUUN_PLACE": f"{account} {region}",
        "HALTUUN_MARKER": marker,
        "HALTUUN_WAIT_S": str(CONFIGURE_S),
    }
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in given.items())
    return head + script("haltuun.stages.discover", "common.sh") + script("haltuun.stages.logs", "marker.sh")


def _proof(run: Run, instance_id: str, marker: str, at: datetime, config: Wanted) -> Proof:
    group = group_name(run.account.label, MARKER_KIND)
    return Proof(
        host=instance_id,
        stage=StageName.logs,
        kind=PROOF,
        evidence=f"'{marker} {instance_id}' in {group}, stream {instance_id}{_by(config)}",
        observed_at=at,
        valid_until=at + VALID,
    )
