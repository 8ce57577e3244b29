"""What the ledger gives back, beside the model's own things."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from haltuun.model import Change, Frozen, HostStatus, Json, StageName


class ChangeEvent(Frozen):
    """One step in the life of a change: intended, sent, confirmed, failed, unknown, stale."""

    run: str
    change_id: str
    event: str
    at: datetime
    change: Change
    note: Json = None


class Approval(Frozen):
    """Who approved what."""

    run: str
    plan_hash: str
    at: datetime
    who: str
    how: str


class Shown(Frozen):
    """What stood before the approver's eyes: the changes as they were in the plan of run `plan_run`.

    With `plan_run` "" nobody was shown a plan: `changes` are then what the run went on to plan.
    """

    plan_run: str
    changes: tuple[Change, ...]


class HostEvent(Frozen):
    """What happened to one host in one stage: it was worse after a change, or tried again."""

    run: str
    host: str
    stage: StageName
    event: str
    at: datetime
    body: Mapping[str, Any]


class Judgement(Frozen):
    """The newest verdict on one host in one stage, and the run that gave it."""

    run: str
    at: datetime
    status: HostStatus


class RunRow(Frozen):
    run: str
    account: str
    started_at: datetime
    ended_at: datetime | None
    mode: str
    outcome: str
    body: Mapping[str, Any]


class Lease(Frozen):
    account: str
    run: str
    fence: int
