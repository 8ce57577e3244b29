"""Whether the cause of a hold has moved since it was judged, and so who is tried again. Pure.

Compared are two looks of Haltuun, never the world with the ledger: what a look concludes (findings,
bars, planned changes, the columns that the failed check stands on) holds no times and no counters,
so a difference is one that decides. What no look shows is told from what has not moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from haltuun.gates import Check, evaluate_plainly
from haltuun.ledger import HostEvent
from haltuun.model import Frozen, HostStatus, StageName, Unknown, Verdict, canonical

STOPPED = "STAGE_STOPPED"
TOLD = 3


class Sight(Frozen):
    """What one look concluded of one host, in the stages that its hold stands on."""

    unseen: str = ""  # the code of why nobody could look inside
    findings: frozenset[str] = frozenset()  # "repair STALE_HYBRID"
    bars: frozenset[str] = frozenset()
    changes: Mapping[str, str] = {}  # what makes a planned change what it is → its summary
    columns: Mapping[str, Any] = {}  # of the checks that hold it; Unknown where not seen


class Hold(Frozen):
    """One host, the stage that holds it, and what the run that judged it saw."""

    host: str
    stage: StageName
    status: HostStatus
    judged_at: datetime
    before: Sight = Sight()  # before its changes
    after: Sight = Sight()  # when it was judged
    checks: tuple[Check, ...] = ()  # that failed, or could not be judged
    failed: str = ""  # the summary of a change that was begun and failed
    unchanged: bool = False  # by which the host is as it was
    stoppers: tuple[str, ...] = ()  # hosts that ended the stage by being worse after a change
    stopped_elsewhere: bool = False  # the stage ended, and no host was worse


class Decision(Frozen):
    """What becomes of one held host in a retry, with the sentence that says why."""

    host: str
    stage: StageName
    reason: str
    message: str
    action: Literal["retry", "leave"]
    changed: tuple[str, ...] = ()  # since it was judged
    why: str
    remedy: str = ""
    cause: str = ""  # equal for the same hold on the same ground; "" where nobody looked

    @property
    def retried(self) -> bool:
        return self.action == "retry"


def column(check: Check, row: Mapping[str, Any], seen: object) -> Any:
    """What the check's column shows: `seen` where it is unknown; of a measure only which side it is on."""
    if isinstance(seen, Unknown):
        return seen
    if check.op != "between":
        return row.get(check.column)
    return evaluate_plainly(["host"], {"host": row}, [check]).verdicts["host"].verdict.value


def digest(hold: Hold, now: Sight) -> str:
    """Names a cause: the hold with what it stands on."""
    ground = [hold.stage.value, hold.status.reason, now.unseen, *map(sorted, (now.findings, now.bars))]
    shown = {name: _said(value) for name, value in now.columns.items()}
    return hashlib.sha256(canonical([*ground, sorted(now.changes), shown]).encode()).hexdigest()[:12]


def moved(hold: Hold, now: Sight) -> tuple[str, ...]:
    """What is different now from what the hold was judged on, a phrase each."""
    before, after = hold.before, hold.after
    found: list[str] = []
    if now.unseen not in (before.unseen, after.unseen):
        found.append(_seen(after.unseen, now.unseen))
    found += [f"found now: {one}" for one in sorted(now.findings - before.findings - after.findings)]
    found += [f"no longer found: {one}" for one in sorted((before.findings & after.findings) - now.findings)]
    found += [f"bars it now: {one}" for one in sorted(now.bars - after.bars)]
    found += [f"bars it no longer: {one}" for one in sorted(after.bars - now.bars)]
    found += _some("possible now", [now.changes[key] for key in sorted(now.changes.keys() - after.changes)])
    found += _some(
        "no longer planned", [after.changes[key] for key in sorted(after.changes.keys() - now.changes)]
    )
    for check in hold.checks:
        was, value = after.columns.get(check.column), now.columns.get(check.column)
        if not isinstance(value, Unknown) and value != was:
            found.append(f"{check.column} was {_said(was)}, is {_said(value)}")
    if hold.status.reason == STOPPED and not hold.stoppers and not hold.stopped_elsewhere:
        found.append("the host that had ended the stage has come right since")
    return tuple(dict.fromkeys(found))


def hidden(hold: Hold, now: Sight) -> str:
    """Why a look alone cannot tell whether the cause has moved; empty where it can."""
    if hold.failed and not still_shown(hold, now):
        return f"Only trying shows whether it fails again: {hold.failed}"
    if hold.stopped_elsewhere:
        return "Only the stage itself shows whether it is stopped again."
    for check in hold.checks:
        was, value = hold.after.columns.get(check.column), now.columns.get(check.column)
        if isinstance(value, Unknown) and not (isinstance(was, Unknown) and _code(was) == _code(value)):
            return f"Only trying shows this: {check.demand()}."
    return ""


def still_shown(hold: Hold, now: Sight) -> bool:
    """Whether a change failed without any effect for a cause that a look finds by itself: then as now."""
    cause = f"{hold.stage.value} {hold.status.reason}"
    return bool(hold.failed) and hold.unchanged and cause in hold.after.findings & now.findings


def decide(
    hold: Hold,
    now: Sight | None,
    *,
    named: bool,
    force: bool,
    worse: HostEvent | None,
    tries: Mapping[str, int],
    max_tries: int,
    account: str,
) -> Decision:
    """Try it again or leave it.

    `now` is None where nobody looked: the host is gone, or was worse and is not `named`. `tries`
    counts by cause. `force` tries what has not moved; nothing else.
    """
    status = hold.status

    def decision(action: Literal["retry", "leave"], why: str, remedy: str = "") -> Decision:
        return Decision(
            host=hold.host,
            stage=hold.stage,
            reason=status.reason,
            message=status.message,
            action=action,
            changed=moved(hold, now) if now is not None else (),
            why=why,
            remedy=remedy.strip(),
            cause=digest(hold, now) if now is not None else "",
        )

    if worse is not None and not named:
        return decision(
            "leave",
            f"It was worse after a change on {worse.at:%Y-%m-%d %H:%M} UTC, so it is not retried without"
            f" being named: {worse.body.get('summary', '')}",
            f"Look at it (haltuun show {hold.host}), then: haltuun retry {account} --host {hold.host}",
        )
    if now is None:
        return decision(
            "leave",
            "It is not among the account's instances: terminated, or its region could not be asked.",
            "Nothing is to be done for an instance that is gone.",
        )
    told = decision("retry", "Nothing that holds it has changed; forced.")
    if tries.get(told.cause, 0) >= max_tries:
        return decision(
            "leave",
            f"It was retried {tries[told.cause]} times for this cause, which has not moved"
            f" (policy.max_tries: {max_tries}).",
            f"{status.remedy} When that is done: haltuun takeover {account} --host {hold.host}",
        )
    if told.changed:
        return decision("retry", f"Changed since: {'; '.join(told.changed)}.")
    if unsure := hidden(hold, now):
        return decision("retry", unsure)
    return told if force else decision("leave", _unmoved(hold, now), _mend(hold, account))


def _unmoved(hold: Hold, now: Sight) -> str:
    if hold.stoppers:
        return f"The stage was ended by {', '.join(hold.stoppers[:TOLD])}, which has not come right yet."
    since = f"since it was judged on {hold.judged_at:%Y-%m-%d %H:%M} UTC"
    if still_shown(hold, now):
        what = f"{hold.status.reason} still, for which this failed without changing it"
        return f"It shows {what}: {hold.failed.rstrip('.')}. Nothing has changed {since}."
    return f"Nothing that holds it has changed {since}."


def _mend(hold: Hold, account: str) -> str:
    if hold.stoppers:
        first = hold.stoppers[0]
        return f"Mend that host first: haltuun retry {account} --host {first}. Or retry these with --force."
    return f"{hold.status.remedy} To try it all the same: --force."


def _some(word: str, summaries: Sequence[str]) -> list[str]:
    more = len(summaries) - TOLD
    told = [f"{word}: {summary.rstrip('.')}" for summary in summaries[:TOLD]]
    return told + ([f"{word}: {more} more change(s)"] if more > 0 else [])


def _seen(was: str, now: str) -> str:
    if not now:
        return f"it can be looked into now (it was {was})"
    return f"it cannot be looked into now: {now}" + (f" (it was {was})" if was else "")


def _said(value: object) -> str:
    if isinstance(value, Unknown):
        return f"unknown ({_code(value)})"
    if isinstance(value, Verdict | StageName):
        return value.value
    return "not seen" if value is None else str(value)


def _code(value: Unknown) -> str:
    return value.unknown.partition(":")[0]
