"""The proof of logs: a line written on the host is found in the log group, in the host's own stream."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from haltuun.model import Host, Proof, StageName, Unknown, is_true
from haltuun.run import Run
from haltuun.stages.associations import send_once, status_on_host
from haltuun.stages.base import Proven, View
from haltuun.stages.commands import UNDELIVERED, Sent, send
from haltuun.stages.discover.lines import script
from haltuun.stages.logs.agent_config import Wanted
from haltuun.stages.logs.document import document_name
from haltuun.stages.logs.facts import LogsFacts
from haltuun.stages.logs.kinds import CONFIGURE, get_document
from haltuun.stages.logs.names import ASSOCIATION_PREFIX, MARKER_KIND, group_name
from haltuun.stages.logs.plan import shipping_value
from haltuun.stages.polling import poll
from haltuun.stages.repair.prove import get_nodes, is_online
from haltuun.stages.tags import ids_by_region

# State Manager reaches a new target within ten minutes; the package is 100 MB.
BEGINS_S = 600.0
CONFIGURE_S = 900
# Where it has not by then, the document is sent to the host.
PATIENCE_S = 60.0
# The agent flushes every five seconds, and a first stream takes a little longer.
ARRIVES_S = 300.0
VALID = timedelta(days=7)
PROOF = "marker"
# How long a host is asked that nobody is about to configure.
GLANCE_S = 2
# How often State Manager is asked of a host by itself: it takes a call for each.
ASK_AGAIN_S = 60.0
_TAGGED = (StageName.logs, CONFIGURE.name, "confirmed")
_LACKS = "NOT_CONFIGURED"  # as marker.sh says it
# Statuses of State Manager's run on a host that brings nothing any more.
_FAILED = frozenset({"Failed", "TimedOut", "Cancelled", "Skipped"})
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
    watches: list[_Watch] = []
    for region, ids in ids_by_region([host for host in hosts if host.instance_id in wanted]).items():
        online, seen = _online(run, region, ids)
        proven.update(seen)
        if online:
            watches.append(_Watch(run, region, {i: wanted[i] for i in online}, f"haltuun {run.id}"))
    _await(watches)
    proven.update({i: watch.proven(i) for watch in watches for i in watch.wanted})
    return proven


def _await(watches: Sequence[_Watch]) -> None:
    """All regions at once: none waits for another's hosts."""
    going = list(watches)

    def look() -> bool:
        going[:] = [watch for watch in going if not watch.look()]
        return not going

    try:
        for watch in watches:
            watch.begin()
        poll(look, bool, CONFIGURE_S + ARRIVES_S, gives_way=True)
    finally:
        for watch in watches:
            watch.end()


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


def _online(run: Run, region: str, ids: Sequence[str]) -> tuple[list[str], dict[str, Proven]]:
    """Those that are Online, and what is to be said of the others: a command to a node that is not would wait
    until its time is over.
    """
    seen = get_nodes(run, region, sorted(ids))
    online = [i for i in sorted(ids) if is_online(seen.get(i))]
    away = Unknown(unknown="NOT_ONLINE: no marker can be written, the host is not Online")
    others = {}
    for instance_id in sorted(set(ids) - set(online)):
        node = seen.get(instance_id)
        others[instance_id] = Proven({"marker_found": node if isinstance(node, Unknown) else away})
    return online, others


@dataclass
class _Watch:
    """The marker lines of a region's hosts, from the commands that write them to the group they arrive in.

    On each host the command waits for the configuration that is to ship the line: State Manager brings it to
    hosts that this run tagged. To those of them that have nothing in time, and to others that say that they
    have not got it, the document is sent, once. Where that fails State Manager's own run may come through
    still: each waits for the other's installation, and not for ever.
    """

    run: Run
    region: str
    wanted: Mapping[str, Wanted]
    marker: str
    found: dict[str, datetime] = field(default_factory=dict)  # instance id → when its line was first seen
    _lines: list[Sent] = field(default_factory=list)
    _documents: list[Sent] = field(default_factory=list)
    _written: dict[str, float] = field(default_factory=dict)
    _coming: dict[str, str] = field(default_factory=dict)  # why State Manager may bring it still
    _asked: dict[str, tuple[float, str]] = field(default_factory=dict)  # when, and what came of it
    _unread: str = ""  # why the group could not be read the last time
    _begun_s: float = 0.0

    def begin(self) -> None:
        self._begun_s = time.monotonic()
        tagged = {i for i in self.wanted if _TAGGED in self.run.did(i)}
        self._write(sorted(tagged), CONFIGURE_S)
        self._write(sorted(set(self.wanted) - tagged), GLANCE_S)

    def look(self) -> bool:
        """Take in what has come; True when nothing more is to be waited for."""
        self._look_for_lines()
        if len(self.found) == len(self.wanted):
            return True
        now_s = time.monotonic()
        for sent in self._lines:
            for instance_id, why in sent.look(self.run).items():
                if not why:
                    self._written.setdefault(instance_id, now_s)
        self._send_documents([i for i in self.wanted if self._lacks_configuration(i, now_s)])
        for sent in self._documents:
            sent.look(self.run)
        failed = (i for i in self.wanted if i not in self.found and self._why_not_configured(i))
        self._coming = {i: why for i in failed if (why := self._may_come(i, now_s))}
        return not any(self._is_awaited(i, now_s) for i in self.wanted)

    def end(self) -> None:
        """A script that nobody waits for would hold one of the few commands that an agent runs at a time."""
        for sent in self._lines:
            sent.cancel(self.run, [i for i in self.wanted if i not in self.found and i not in sent.endings])

    def proven(self, instance_id: str) -> Proven:
        at = self.found.get(instance_id)
        proofs = (_proof(self.run, instance_id, self.marker, at, self.wanted[instance_id]),) if at else ()
        return Proven({"marker_at": at, **self.seen(instance_id)}, proofs)

    def seen(self, instance_id: str) -> dict[str, Any]:
        """The host's columns. What could not be read or sent is unknown: it says nothing of the host."""
        if instance_id in self.found:
            return {"marker_found": True, "marker_note": ""}
        if instance_id in self._written:
            if self._unread:
                why = f"its log group could not be read ({self._unread})"
                return {"marker_found": Unknown(unknown=why), "marker_note": why}
            note = "it was written on the host, and did not arrive"
            return {"marker_found": False, "marker_note": note}
        sent, ending = self._line_of(instance_id), self._line_of(instance_id).endings.get(instance_id)
        failed = self._why_not_configured(instance_id)
        if failed or (ending or "").startswith(_LACKS):
            refused = self._why_not_sent(instance_id)
            note = failed or f"{ending}{f' ({refused})' if refused else ''}"
            if instance_id in self._coming:
                note = f"{note}; {self._coming[instance_id]}"
                unknown = Unknown(unknown=note)
                return {"configured": unknown, "marker_found": unknown, "marker_note": note}
            return {"configured": False, "marker_found": False, "marker_note": note}
        note = f"the command that writes it: {ending or sent.why_open()}"
        unread = instance_id in sent.refused or ending in UNDELIVERED or (ending is None and sent.unread)
        return {"marker_found": Unknown(unknown=note) if unread else False, "marker_note": note}

    def _write(self, ids: Sequence[str], wait_s: int) -> None:
        """Send the command that writes the lines, as soon as the host has its configuration."""

        def parameters(some: Sequence[str]) -> dict[str, list[str]]:
            configurations = {i: self.wanted[i].parameter for i in some}
            text = marker_script(self.run.account.id, self.region, configurations, self.marker, wait_s)
            return {"commands": text.splitlines(), "executionTimeout": [str(wait_s + 120)]}

        if ids:
            comment = "Haltuun: a marker line for the log group"
            self._lines.append(send(self.run, self.region, ids, "AWS-RunShellScript", parameters, comment))

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
        self._unread = events.unknown if isinstance(events, Unknown) else ""
        for event in () if isinstance(events, Unknown) else events:
            stream, message = str(event.get("logStreamName")), str(event.get("message"))
            if stream in self.wanted and message.split() == [*self.marker.split(), stream]:
                self.found.setdefault(stream, self.run.now())

    def _line_of(self, instance_id: str) -> Sent:
        """The last command that was to write the host's line."""
        return next(s for s in reversed(self._lines) if instance_id in s.commands or instance_id in s.refused)

    def _lacks_configuration(self, instance_id: str, now_s: float) -> bool:
        """By the host's own word, or because State Manager has had its time; and nothing was sent yet."""
        if instance_id in self.found or any(
            instance_id in one.commands or instance_id in one.refused for one in self._documents
        ):
            return False
        ending = self._line_of(instance_id).endings.get(instance_id)
        if ending is not None:
            return ending.startswith(_LACKS)
        return _TAGGED in self.run.did(instance_id) and now_s - self._begun_s >= PATIENCE_S

    def _send_documents(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        by_tag: dict[str, list[str]] = {}
        for instance_id in ids:
            by_tag.setdefault(self.wanted[instance_id].tag, []).append(instance_id)
        document = get_document(self.run, self.region, document_name())
        if isinstance(document, Unknown) or document.state != "ours":
            unread = f" ({document.unknown})" if isinstance(document, Unknown) else ""
            why = Unknown(unknown=f"the document is not as Haltuun made it{unread}")
            self._documents.append(Sent(self.region, refused=dict.fromkeys(ids, why)))
            return
        for tag, some in sorted(by_tag.items()):
            value = shipping_value(self.wanted[some[0]])
            sent = send_once(self.run, self.region, ASSOCIATION_PREFIX + tag, value, some)
            self._documents.append(sent)
            # Who said that it has nothing waits no more.
            self._write([i for i in sorted(sent.commands) if i in self._line_of(i).endings], CONFIGURE_S)

    def _is_awaited(self, instance_id: str, now_s: float) -> bool:
        if instance_id in self.found:
            return False
        if instance_id in self._written:
            return now_s - self._written[instance_id] < ARRIVES_S
        failed = self._why_not_configured(instance_id) and instance_id not in self._coming
        return not failed and instance_id not in self._line_of(instance_id).endings

    def _why_not_configured(self, instance_id: str) -> str:
        """What failed on the host; where the document never came to it State Manager may come."""
        endings = (s.endings.get(instance_id, "") for s in self._documents if instance_id in s.commands)
        return next((why for why in endings if why and why not in UNDELIVERED), "")

    def _may_come(self, instance_id: str, now_s: float) -> str:
        """Why State Manager may bring it still to a host that this run tagged; "" where it will not."""
        if _TAGGED not in self.run.did(instance_id):
            return ""
        asked_s, why = self._asked.get(instance_id, (-ASK_AGAIN_S, ""))
        if now_s - asked_s >= ASK_AGAIN_S:
            why = self._ask(instance_id)
            self._asked[instance_id] = (now_s, why)
        return why

    def _ask(self, instance_id: str) -> str:
        name = ASSOCIATION_PREFIX + self.wanted[instance_id].tag
        status = status_on_host(self.run, self.region, instance_id, name)
        if isinstance(status, Unknown):
            return f"how State Manager's own run stands could not be read ({status.unknown})"
        if status is None:
            tagged_at = self.run.did(instance_id)[_TAGGED]
            begins_yet = (self.run.now() - tagged_at).total_seconds() < BEGINS_S
            return "State Manager has not begun its own run there yet" if begins_yet else ""
        return "" if status in _FAILED else f"State Manager says '{status}' of its own run"

    def _why_not_sent(self, instance_id: str) -> str:
        refused = (s.refused[instance_id] for s in self._documents if instance_id in s.refused)
        return next((f"the document could not be sent: {why.unknown}" for why in refused), "")


def marker_script(
    account: str, region: str, configurations: Mapping[str, str], marker: str, wait_s: int
) -> str:
    """The script for Run Command: it finds out by itself which of the hosts it runs on.

    `configurations` is instance id → the parameter that its agent is to have, within `wait_s`.
    """
    given = {
        "HALTUUN_IDS": " ".join(f"{i}={name}" for i, name in configurations.items()),
        "HALTUUN_PLACE": f"{account} {region}",
        "HALTUUN_MARKER": marker,
        "HALTUUN_WAIT_S": str(wait_s),
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
