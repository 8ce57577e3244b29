"""Which hosts want another look, from the ledger's status alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from haltuun.model import HostStatus, StageName, Verdict

Status = Mapping[str, Mapping[StageName, HostStatus]]
HELD = (Verdict.held, Verdict.unknown)
Standing = dict[str, tuple[StageName, HostStatus]]


def held_hosts(status: Status, stage: StageName | None = None) -> Standing:
    """Host → the first stage that holds it (or does not know), and why."""
    return _first(status, HELD, stage)


def waiting_hosts(status: Status) -> Standing:
    """Host → the first stage in which it waits for what only time brings, and why."""
    return _first(status, (Verdict.waiting,), None)


def due(waiting: Standing, now: datetime) -> Standing:
    """Those whose next check has come at `now`, the account's time; without a date, every one."""
    return {
        host: (stage, one)
        for host, (stage, one) in waiting.items()
        if one.next_check is None or one.next_check <= now
    }


def _first(status: Status, verdicts: tuple[Verdict, ...], only: StageName | None) -> Standing:
    found = {}
    for host, stages in status.items():
        for stage in StageName:
            one = stages.get(stage)
            if one is not None and one.verdict in verdicts and only in (None, stage):
                found[host] = (stage, one)
                break
    return found
