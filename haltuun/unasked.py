"""What a schedule does not go on with by itself, and the command with which a person does; what several runs
ended as. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from haltuun.attention import HELD, Standing, Status
from haltuun.ledger import HostEvent, RunRow
from haltuun.model import Frozen, StageName, command

# What became of several runs is told by the first of these that one of them ended as.
WORST_FIRST = (
    "Failed",
    "GateBlocked",
    "AwaitingApproval",
    "PartiallyDone",
    "NotBegun",
    "NothingRetried",
    "Done",
    "NotDue",
)

OPEN = ("GateBlocked", "AwaitingApproval", "PartiallyDone")  # runs that came to an end and left something


class Left(Frozen):
    """A waiting host that no schedule takes over, and what a person does who has looked at it."""

    host: str
    stage: StageName
    reason: str
    why: str
    remedy: str


def left_alone(
    waiting: Standing, worse: Mapping[tuple[str, StageName], HostEvent], account: str
) -> tuple[Left, ...]:
    """Those that were worse after a change, in whichever stage: a takeover goes on through all of them."""
    of = {host: event for (host, _), event in worse.items()}
    return tuple(
        Left(
            host=host,
            stage=stage,
            reason=status.reason,
            why=f"It was worse after a change on {of[host].at:%Y-%m-%d %H:%M} UTC, so it is not taken over"
            f" without being named: {of[host].body.get('summary', '')}",
            remedy=f"Look at it (haltuun show {host}), then: {command('takeover', account, (), [host])}",
        )
        for host, (stage, status) in waiting.items()
        if host in of
    )


def by_stages(chosen: Standing, status: Status) -> dict[tuple[StageName, ...], list[str]]:
    """The stages to go through (none: all) → the waiting hosts that go through them.

    Where a later stage than that in which it waits holds a host, that one is left to a retry, which looks
    whether the cause has moved, and counts: else each date would try once more what has failed.
    """
    groups: dict[tuple[StageName, ...], list[str]] = defaultdict(list)
    names = list(StageName)
    for host, (stage, _) in chosen.items():
        later = names[names.index(stage) + 1 :]
        held = [one for one in later if one in status[host] and status[host][one].verdict in HELD]
        groups[tuple(name for name in names if name not in held) if held else ()].append(host)
    return dict(groups)


def given_up(account: str, runs: Sequence[RunRow], max_tries: int, at_work: str = "") -> str:
    """Of an account that is not begun: why it is not begun again unasked; "" where it is.

    `runs` are all of the account, oldest first; `at_work` is the one that holds its lease, of which nobody
    knows yet whether it is in vain. A takeover that ended before anything was in the ledger has changed
    nothing, and does not count.
    """
    begun = [run for run in runs if run.mode == "apply" and run.run != at_work]
    if len(begun) < max_tries:
        return ""
    last = begun[-1]
    how = "failed" if last.outcome == "Failed" else "came to no end"
    goes_on = (
        f"It waits for a person: see haltuun status {account}, mend what stopped it, then begin it by hand:"
        f" {command('takeover', account, (), ())}"
    )
    if at_work:
        goes_on = f"Run {at_work} is at work on it now."
    return (
        f"it was begun {len(begun)} times and never came through (policy.max_tries: {max_tries});"
        f" run {last.run}, the last, {how}. {goes_on}"
    )


def worst(results: Iterable[Mapping[str, Any]]) -> str:
    """What the runs of these results ended as, together; whom one leaves to a person is not done."""
    ended = [(one["outcome"], "PartiallyDone" if one.get("left") else "Done") for one in results]
    return min((name for names in ended for name in names), key=WORST_FIRST.index, default="Done")
