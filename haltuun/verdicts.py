"""A host's status in a stage, of the gate's verdict, why it was barred, and how its changes ended. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from haltuun.config import Waivable
from haltuun.errors import HaltuunError
from haltuun.gates import HostVerdict
from haltuun.model import Barred, Finding, HostStatus, Severity, StageName, Verdict
from haltuun.perform import Outcome


def status_of(
    verdict: HostVerdict,
    barred: Barred | None,
    mine: Sequence[Outcome],
    *,
    stale: Collection[str],
    how_to_approve: str,
    untouched: str,
) -> HostStatus:
    """`mine` are the outcomes of the changes that concern the host, in order; `stale` ids of changes that
    were approved otherwise; `untouched` says why the stage ended before its turn, "" where it did not.

    What is there is passed, however it came about; else what a person decides or waits for comes first.
    """
    if verdict.verdict is Verdict.passed:
        return HostStatus(verdict=Verdict.passed)
    if barred is not None:
        return from_barred(barred)
    waits = [o for o in mine if o.status == "approval"]
    if waits:
        why = {o.change.id: f" ({o.message})" if o.change.id in stale else "" for o in waits}
        named = "; ".join(f"{o.change.id} {o.change.summary}{why[o.change.id]}" for o in waits[:3])
        return HostStatus(
            verdict=Verdict.pending,
            reason="PLAN_STALE" if any(o.change.id in stale for o in waits) else "AWAITS_APPROVAL",
            message=f"{len(waits)} change(s) wait for approval: {named}",
            remedy=how_to_approve,
        )
    wrong = [o.error for o in mine if o.error is not None and o.status in ("failed", "stale", "not_taken")]
    if wrong:
        return _from_error(wrong[-1])  # the last rung of a ladder says why
    limited = next((o for o in mine if o.status == "limit"), None)
    if limited is not None:
        return HostStatus(
            verdict=Verdict.pending,
            reason="RUN_LIMIT",
            message=f"Not begun: {limited.message}.",
            remedy="Look at those that were changed, then run again: the next run goes on with the others.",
        )
    if untouched:
        return HostStatus(
            verdict=Verdict.held,
            reason="STAGE_STOPPED",
            message=f"Not touched: {untouched}.",
            remedy="Look at the hosts that did not come right, then retry.",
        )
    return HostStatus(
        verdict=verdict.verdict, reason=verdict.code, message=verdict.message, remedy=verdict.remedy
    )


def waived(status: HostStatus, reasons: Mapping[Waivable, str]) -> HostStatus:
    """A hold that a person has waived for the host: code → why. What is unknown cannot be waived."""
    why = next((why for code, why in reasons.items() if code == status.reason), None)
    if status.verdict is not Verdict.held or why is None:
        return status
    message = f"Waived in haltuun.yaml: {why.rstrip('.')}. {status.message}"
    return status.model_copy(update={"verdict": Verdict.waived, "message": message})


def not_entered(needs: Iterable[tuple[StageName, str, HostStatus | None]]) -> HostStatus:
    """`needs` are the stages that this one needs, each with why it is blocked ("" where it is not) and the
    host's status in it."""
    for need, blocked, status in needs:
        if blocked:
            return HostStatus(
                verdict=Verdict.pending,
                reason="STAGE_BLOCKED",
                message=f"Not begun: {need.value} is blocked: {blocked}",
                remedy=f"See what {need.value} says of the hosts, mend what they share, then run again.",
            )
        if status is None or status.verdict in (Verdict.passed, Verdict.waived):
            continue
        if status.verdict is Verdict.excluded:
            return status
        return HostStatus(
            verdict=Verdict.pending,
            reason=status.reason,
            message=f"Not begun: {need.value} is {status.verdict.value}.",
            remedy=status.remedy,
        )
    return HostStatus(verdict=Verdict.pending, reason="NOT_BEGUN", message="Not begun.")


def from_barred(barred: Barred) -> HostStatus:
    return HostStatus(
        verdict=barred.verdict,
        reason=barred.code,
        message=barred.message,
        remedy=barred.remedy,
        next_check=barred.next_check,
    )


def from_unjudged(finding: Finding) -> HostStatus:
    return HostStatus(
        verdict=Verdict.unknown, reason=finding.code, message=finding.message, remedy=finding.remedy
    )


def _from_error(error: HaltuunError) -> HostStatus:
    return HostStatus(
        verdict=Verdict.held,
        # AWS's own codes ("LimitExceeded") stand in the message and share one page.
        reason=error.code if error.code.isupper() else "AWS_REFUSED",
        message=f"{error.subject}: {error.message}".removeprefix(": "),
        remedy=error.remedy,
    )


def unjudged(instance_id: str, error: Exception) -> Finding:
    """Of a host that could not be judged."""
    return Finding(
        code="INTERNAL",
        severity=Severity.high,
        host=instance_id,
        message=f"{type(error).__name__} while what it shows was judged; see the log.",
        remedy="Report it with the log; the host is left as it is.",
    )


def unjudged_together(name: StageName, error: Exception) -> Finding:
    """Of hosts that could not be judged together, though perhaps each alone."""
    return Finding(
        code="INTERNAL",
        severity=Severity.high,
        host=None,
        message=f"{type(error).__name__} while {name.value} was judged: what holds for several hosts is not"
        " known, and each was judged as if it were alone; see the log.",
        remedy="Report it with the log.",
    )
