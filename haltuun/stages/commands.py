"""One document on exactly these hosts, by Run Command, and how it ended on each.

State Manager's StartAssociationsOnce would run it on all targets of an association: also on hosts
that a run is not about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from haltuun.aws import chunks
from haltuun.errors import AwsError, NoCredentials
from haltuun.model import Unknown
from haltuun.redaction import redact
from haltuun.run import Run
from haltuun.stages.pages import member, moment, text, unreadable

# SendCommand takes 50 ids (botocore 1.44); 51 come back as throttling (botocore #993). It is a page of
# DescribeInstanceInformation, too.
BATCH = 50
# How long a host's agent may take to fetch the command (SendCommand's TimeoutSeconds: at least 30).
DELIVERY_S = 120
# After that none of ours is under way any more: its steps have timeouts.
LONGEST = timedelta(hours=2)
# Whether a command that was invoked in that very second counts as after it is not documented.
_BEFORE = timedelta(minutes=1)
_FINAL = frozenset({"Success", "Failed", "TimedOut", "Cancelled"})
# StatusDetails of what never ran on the host.
UNDELIVERED = frozenset({"DeliveryTimedOut", "Undeliverable", "Terminated", "Cancelled"})
# What the agent puts between the two streams of a listed invocation's output.
_ERRORS = "----------ERROR-------"
_CODED = re.compile(r"[A-Z]+(_[A-Z]+)+: ")  # of ours; WARNING and ERROR are others'
_EXIT = "failed to run commands: "

Parameters = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class Step:
    """One step of a command on a host. `output` is the part that Systems Manager lists."""

    name: str
    well: bool
    output: str

    @property
    def last_line(self) -> str:
        """Of what it printed, were it no error."""
        lines = self.output.partition(_ERRORS)[0].split("\n")
        return redact(next((line.strip() for line in reversed(lines) if line.strip()), ""))

    @property
    def why(self) -> str:
        """Why it did not end well."""
        return _error(self.output)


@dataclass
class Sent:
    """A document that was sent to hosts of one region.

    How it ended is asked of whole commands: one ListCommands for up to fifty of them, and the hosts of a
    command only where it did not end well on all.
    """

    region: str
    commands: dict[str, str] = field(default_factory=dict)  # instance id → command
    refused: dict[str, Unknown] = field(default_factory=dict)  # instance id → why it was sent none
    begun: datetime | None = None  # by AWS's clock
    endings: dict[str, str] = field(default_factory=dict)  # instance id → "", or why it did not end well
    _unread: str = ""  # why the commands could not be looked at the last time
    _completed: dict[str, int] = field(default_factory=dict)  # command → on how many hosts it had ended then

    def look(self, run: Run) -> Mapping[str, str]:
        """`endings`, with what has ended by now."""
        self.endings.update({i: why.unknown for i, why in self.refused.items()})
        going = {command for i, command in self.commands.items() if i not in self.endings}
        if not going or self.begun is None:
            return self.endings
        since = self.begun.astimezone(UTC) - _BEFORE
        after = {"key": "InvokedAfter", "value": f"{since:%Y-%m-%dT%H:%M:%SZ}"}
        rows = run.aws.ask(
            lambda: run.aws.pages(
                "ssm", "ListCommands", "Commands", self.region, Filters=[after], MaxResults=BATCH
            )
        )
        self._unread = rows.unknown if isinstance(rows, Unknown) else ""
        for row in () if isinstance(rows, Unknown) else rows:
            if text(row, "CommandId") in going and (_is_over(row) or self._has_settled(row)):
                self._take_in(run, row)
        return self.endings

    def _has_settled(self, command: Mapping[str, Any]) -> bool:
        """It goes on somewhere, and where it has ended is not known yet: a host that hangs holds up none of
        the others for long."""
        completed, before = _count(command, "CompletedCount"), self._completed.get(command["CommandId"])
        self._completed[command["CommandId"]] = completed
        known = sum(i in self.endings for i, sent in self.commands.items() if sent == command["CommandId"])
        return completed == before and completed > known

    def cancel(self, run: Run, ids: Collection[str]) -> None:
        """Nobody waits for it on these hosts any more."""
        for command in sorted({self.commands[i] for i in ids if i in self.commands}):
            some = [i for i in ids if self.commands.get(i) == command]
            run.aws.ask(
                lambda command=command, some=some: run.aws.call(  # type: ignore[misc]
                    "ssm", "CancelCommand", self.region, CommandId=command, InstanceIds=some
                )
            )

    @property
    def unread(self) -> str:
        """Why it could not be looked at the last time; "" where it could."""
        return self._unread

    def why_open(self) -> str:
        """What is to be said of a host where it has not ended."""
        return self._unread or "it has not ended"

    def _take_in(self, run: Run, command: Mapping[str, Any]) -> None:
        hosts = [i for i, sent in self.commands.items() if sent == command["CommandId"]]
        if text(command, "Status") == "Success":
            self.endings.update(dict.fromkeys(hosts, ""))
            return
        rows = run.aws.ask(
            lambda: run.aws.pages(
                "ssm",
                "ListCommandInvocations",
                "CommandInvocations",
                self.region,
                CommandId=command["CommandId"],
                Details=True,
            )
        )
        if isinstance(rows, Unknown):
            self._unread = rows.unknown
            return
        over = [row for row in rows if text(row, "InstanceId") in hosts and text(row, "Status") in _FINAL]
        self.endings.update({row["InstanceId"]: _why(row) for row in over})


def is_under_way(run: Run, region: str, instance_id: str, document: str) -> bool | Unknown:
    """Whether a command with a document that begins so has yet to end on the host."""
    since = (run.now() - LONGEST).astimezone(UTC)
    rows = run.aws.ask(
        lambda: run.aws.pages(
            "ssm",
            "ListCommandInvocations",
            "CommandInvocations",
            region,
            InstanceId=instance_id,
            Filters=[{"key": "InvokedAfter", "value": f"{since:%Y-%m-%dT%H:%M:%SZ}"}],
        )
    )
    if isinstance(rows, Unknown):
        return rows
    ours = (row for row in rows if text(row, "DocumentName").startswith(document))
    return any(text(row, "Status") not in _FINAL for row in ours)


def steps_of(run: Run, region: str, command_id: str, instance_id: str) -> list[Step] | Unknown:
    """What each step of a command said on one host, those that ended well too, in their order."""
    rows = run.aws.ask(
        lambda: run.aws.pages(
            "ssm",
            "ListCommandInvocations",
            "CommandInvocations",
            region,
            CommandId=command_id,
            InstanceId=instance_id,
            Details=True,
        )
    )
    if isinstance(rows, Unknown):
        return rows
    plugins = sorted((p for row in rows for p in row.get("CommandPlugins") or ()), key=_begun)
    return [
        Step(str(p.get("Name")), p.get("Status") == "Success", str(p.get("Output") or "")) for p in plugins
    ]


def _is_over(command: Mapping[str, Any]) -> bool:
    """On all its hosts."""
    count = _count(command, "TargetCount")
    return text(command, "Status") in _FINAL or 0 < count <= _count(command, "CompletedCount")


def _count(command: Mapping[str, Any], name: str) -> int:
    count = member(command, name, int)
    return count if isinstance(count, int) else 0


def _why(invocation: Mapping[str, Any]) -> str:
    """What its first failed step said, else the status; "" where its last step, which decides, ended well."""
    plugins = sorted(invocation.get("CommandPlugins") or (), key=_begun)
    if invocation.get("Status") == "Success" or (plugins and plugins[-1].get("Status") == "Success"):
        return ""
    said = (_error(str(p.get("Output") or "")) for p in plugins if p.get("Status") != "Success")
    return next(filter(None, said), "") or str(invocation.get("StatusDetails") or invocation.get("Status"))


def _begun(plugin: Mapping[str, Any]) -> float:
    at = plugin.get("ResponseStartDateTime")
    return at.timestamp() if isinstance(at, datetime) else 0.0


def _error(output: str) -> str:
    """Of what a step printed the line to tell: one with a code of ours, else the last of its errors, else the
    last of all.
    """
    told, _, errors = output.partition(_ERRORS)
    lines = [
        line.strip()
        for line in (*told.splitlines(), *errors.splitlines())
        if line.strip() and not line.strip().startswith(_EXIT)
    ]
    coded = [line for line in lines if _CODED.match(line)]
    line = "".join(char for char in (coded or lines or [""])[-1] if char.isprintable())
    return redact(line)[:300]


def send(
    run: Run,
    region: str,
    ids: Iterable[str],
    document: str,
    parameters: Parameters,
    comment: str,
    *,
    delivery_s: int = DELIVERY_S,
) -> Sent:
    """`parameters` are made for the ids of each command. SendCommand refuses all its targets for one that
    is no managed node any more (InvalidInstanceId): the batch is halved until that one stands alone.
    """
    sent = Sent(region)
    waiting = [list(some) for some in chunks(sorted(ids), BATCH)]
    while waiting:
        some = waiting.pop(0)
        try:
            answer = run.aws.call(
                "ssm",
                "SendCommand",
                region,
                DocumentName=document,
                InstanceIds=some,
                Comment=comment,
                TimeoutSeconds=delivery_s,
                MaxErrors="100%",  # one host that fails must not keep the others from being served
                Parameters={name: list(values) for name, values in parameters(some).items()},
            )
        except NoCredentials:
            raise
        except AwsError as error:
            if error.code == "InvalidInstanceId" and len(some) > 1:
                half = len(some) // 2
                waiting[:0] = [some[:half], some[half:]]
            else:
                why = Unknown(unknown=f"{error.code}: {error.subject}: {error.message}")
                sent.refused.update(dict.fromkeys(some, why))
            continue
        command = answer.get("Command")
        command_id, at = text(command, "CommandId"), moment(command, "RequestedDateTime")
        if not command_id:  # it was taken, and nobody can ask how it ended
            sent.refused.update(dict.fromkeys(some, unreadable("CommandId")))
            continue
        sent.commands.update(dict.fromkeys(some, command_id))
        asked = at if isinstance(at, datetime) else run.now()
        sent.begun = asked if sent.begun is None else min(sent.begun, asked)
    return sent
