"""What backup knows: vault, role, plan and selection, and each host's recovery points."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from haltuun.model import Facts, Frozen, Unknown, is_true
from haltuun.stages.backup.names import MAX_AGE_H
from haltuun.stages.own import Own

_NOT_ASKED = Unknown(unknown="not asked yet")


class BackupRegion(Frozen):
    vault: Own | Unknown = _NOT_ASKED
    plan: Own | Unknown = _NOT_ASKED
    selection: Own | Unknown = _NOT_ASKED
    opted_out: tuple[str, ...] | Unknown = _NOT_ASKED  # of EC2 and EBS, those that are switched off


class BackupAccount(Frozen):
    home_region: str = ""
    role: Own | Unknown = _NOT_ASKED
    policies: dict[str, Own | Unknown] = Field(default_factory=dict)
    regions: dict[str, BackupRegion] = Field(default_factory=dict)


class BackupFacts(Facts):
    excluded_why: str = ""  # why Haltuun does not back this host up
    backup_tag: str | Unknown | None = _NOT_ASKED
    armed: str | Unknown | None = _NOT_ASKED
    armed_before: bool | Unknown = _NOT_ASKED  # by Haltuun, and it did not take that back
    recovery_point: bool | Unknown = _NOT_ASKED  # a completed one in our vault, of any age
    recovery_point_arn: str | Unknown | None = _NOT_ASKED
    recovery_point_at: datetime | Unknown | None = _NOT_ASKED
    recovery_point_age_h: float | Unknown | None = _NOT_ASKED
    job_state: str | Unknown | None = _NOT_ASKED  # of the newest job of the last hours
    job_message: str | Unknown | None = _NOT_ASKED
    protected_by: tuple[str, ...] | Unknown = _NOT_ASKED  # what a predecessor left
    consistency: str | Unknown = _NOT_ASKED  # "crash": as after a power cut

    @property
    def is_recent(self) -> bool:
        """True when it is known to have a recovery point that the daily plan may have made."""
        age = self.recovery_point_age_h
        return is_true(self.recovery_point) and isinstance(age, float) and age <= MAX_AGE_H
