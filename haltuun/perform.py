"""One change performed: looked at, journaled, sent, and resolved by looking when its answer never came.

Every mutation goes through here, a takeover's and an undo's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from haltuun.errors import AwsError, HaltuunError, LeaseLost
from haltuun.ledger import ChangeEvent, Lease
from haltuun.model import Change, Json, StageName, Unknown, canonical
from haltuun.run import Run
from haltuun.stages.base import Kind, Stage
from haltuun.stages.polling import SETTLES_S, poll

log = logging.getLogger("haltuun")

RENEW_S = 20


@dataclass(frozen=True)
class Outcome:
    """How the performance of one change ended."""

    change: Change
    status: str  # done, already, approval, limit, waits, stale, unknown, not_taken, failed, skipped
    message: str = ""  # of what is done: what of it was left, and why
    error: HaltuunError | None = None

    @property
    def in_effect(self) -> bool:
        return self.status in ("done", "already")


class Performer:
    """Performs changes of one run, under the account's lease once that is taken. Thread-safe."""

    def __init__(self, run: Run, stages: Mapping[StageName, Stage]) -> None:
        self.run = run
        self.lease: Lease | None = None
        self._stages = stages
        self._stop_renewing = threading.Event()

    def kind_of(self, change: Change) -> Kind:
        """Raises KeyError for a kind that this version does not know."""
        return self._stages[change.stage].kinds[change.kind]

    # -- lease -------------------------------------------------------------------------------

    def take_lease(self) -> None:
        """Raises LeaseHeld."""
        run = self.run
        self.lease = run.ledger.take_lease(run.account.id, run.id)
        run.fence = self.lease.fence
        run.aws.before_mutation = self.check_lease
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def check_lease(self) -> None:
        """Raises LeaseLost."""
        if self.lease:
            self.run.ledger.check_lease(self.lease)

    def release_lease(self) -> None:
        self._stop_renewing.set()
        if self.lease:
            self.run.ledger.release_lease(self.lease)

    def _renew(self) -> None:
        while not self._stop_renewing.wait(RENEW_S):
            try:
                if self.lease:
                    self.run.ledger.renew_lease(self.lease)
            except LeaseLost:
                return  # the next mutation finds out by itself
            except Exception as error:  # a database that is away for a moment must not end the renewing
                log.warning("the lease could not be renewed: %s", error)

    # -- one change --------------------------------------------------------------------------

    def perform(self, change: Change, first: Callable[[], None] = lambda: None) -> Outcome:
        """Perform it if what it starts from still holds. Never raises for its own fault.

        Args:
            first: done under the lease right before the change begins, and only when it does.

        Raises:
            LeaseLost: a later run has the account.
        """
        try:
            outcome = self._performed(change, first)
        except LeaseLost as error:
            self.check_lease()  # ours is lost: raises. Else a host alone refused our number.
            refused = HaltuunError(
                error.message, subject=change.target, remedy=error.remedy, code="HOST_FENCED", unchanged=True
            )
            outcome = Outcome(change, "failed", str(refused), refused)
        except HaltuunError as error:
            outcome = Outcome(change, "failed", str(error), error)
        except Exception as error:
            log.exception("change %s (%s)", change.id, change.summary)
            wrapped = HaltuunError(
                f"{type(error).__name__} in '{change.kind}'.",
                subject=change.target,
                remedy="See the run's log and report it.",
                code="INTERNAL",
            )
            self.run.journal(change, "unknown", str(wrapped))
            outcome = Outcome(change, "failed", str(wrapped), wrapped)
        if outcome.status in ("done", "not_taken", "failed"):
            for host in change.hosts:
                self.run.forget(host)
        if outcome.status != "already":
            log.info(
                "%s: %s%s", outcome.status, change.summary, f" ({outcome.message})" if outcome.message else ""
            )
        return outcome

    def _performed(self, change: Change, first: Callable[[], None]) -> Outcome:
        kind = self.kind_of(change)
        seen = kind.look(self.run, change)
        if isinstance(seen, Unknown):
            return Outcome(change, "unknown", seen.unknown)
        if canonical(seen) == canonical(change.after):
            return Outcome(change, "already")
        if canonical(seen) != canonical(change.before):
            self.run.journal(change, "stale", {"seen": seen})
            error = HaltuunError(
                f"what '{change.summary}' was planned on has moved.",
                subject=change.target,
                remedy="Plan again.",
                code="PLAN_STALE",
            )
            return Outcome(change, "stale", str(error), error)
        self.check_lease()
        first()
        self.run.journal(change, "intended")
        self.run.journal(change, "sent")
        try:
            note = kind.apply(self.run, change)
        except HaltuunError as error:
            if isinstance(error, LeaseLost):
                # It may have been lost between two calls, or between two sendings of one.
                self.run.journal(change, "failed" if error.unchanged else "unknown", str(error))
                raise
            there_already = isinstance(error, AwsError) and error.there_already
            if not error.answered or there_already:
                # AWS does not show at once what it has just made.
                found = self.resolve(change, SETTLES_S if isinstance(error, AwsError) else 0)
                if found == "confirmed":
                    return Outcome(change, "done")
                if not error.answered or found == "unknown":
                    return Outcome(change, "failed", str(error), error)
            status = "not_taken" if error.code == "NOT_TAKEN" else "failed"
            self.run.journal(change, status, str(error))
            return Outcome(change, status, str(error), error)
        self.run.journal(change, "confirmed", note)
        kept = note.get("kept") if isinstance(note, dict) else None
        return Outcome(change, "done", kept if isinstance(kept, str) else "")

    def resolve(self, change: Change, wait_s: float = 0) -> str:
        """Look what became of a change whose answer never came, and journal it. A look that does not show it
        yet is made again for up to `wait_s`: parts of it may be seen before the rest is.
        """

        return self._found(change, poll(lambda: self._look(change), partial(_is_done, change), wait_s))

    def resolve_all(self, opened: Sequence[ChangeEvent]) -> dict[str, str]:
        """`resolve` for what earlier runs left open, by each one's last event; change id → what was found.

        They are looked at side by side. Of AWS's things, those not seen done are looked at again, all of them
        together, until AWS has had its time to show what was sent: counted from the event, so mostly there is
        nothing to wait for.
        """
        run, seen = self.run, dict[str, Json | Unknown]()
        left = [(event.change, self._settles_s(event)) for event in opened]
        began = time.monotonic()

        def look() -> bool:
            changes = [change for change, _ in left]
            with ThreadPoolExecutor(max_workers=run.config.policy.host_concurrency) as pool:
                seen.update(zip((c.id for c in changes), pool.map(self._look, changes), strict=True))
            so_far_s = time.monotonic() - began
            left[:] = [(c, s) for c, s in left if not _is_done(c, seen[c.id]) and so_far_s < s]
            return not left

        if left:
            poll(look, bool, max(settles_s for _, settles_s in left))
        return {event.change_id: self._found(event.change, seen[event.change_id]) for event in opened}

    def _settles_s(self, event: ChangeEvent) -> float:
        """For how long AWS may not show yet what was sent. What is on a host is seen at once."""
        if self.kind_of(event.change).on_host:
            return 0.0
        age_s = (self.run.now() - event.at).total_seconds()
        return min(max(0.0, SETTLES_S - age_s), SETTLES_S)

    def _found(self, change: Change, seen: Json | Unknown) -> str:
        event = "confirmed" if _is_done(change, seen) else "not_done"
        if isinstance(seen, Unknown):
            event = "unknown"
        self.run.journal(change, event, "found by looking")
        return event

    def _look(self, change: Change) -> Json | Unknown:
        try:
            return self.kind_of(change).look(self.run, change)
        except HaltuunError as error:
            return Unknown(unknown=str(error))
        except Exception as error:
            log.exception("looking at change %s (%s)", change.id, change.summary)
            return Unknown(unknown=f"INTERNAL: {type(error).__name__} while looking at it; see the log.")


def _is_done(change: Change, seen: Json | Unknown) -> bool:
    return not isinstance(seen, Unknown) and canonical(seen) == canonical(change.after)
