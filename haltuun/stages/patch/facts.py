"""What patch knows: Haltuun's own things in each region, and each host's last scan."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from haltuun.model import Facts, Frozen, Unknown
from haltuun.stages.own import Own

_NOT_ASKED = Unknown(unknown="not asked yet")
SCAN_MAX_AGE_H = 24.0


class PatchRegion(Frozen):
    """One region. Keys of `baselines` and `groups` are the families' names, "haltuun-ubuntu"."""

    baselines: dict[str, Own | Unknown] = Field(default_factory=dict)
    groups: dict[str, Own | Unknown] = Field(default_factory=dict)
    window: Own | Unknown = _NOT_ASKED
    window_target: Own | Unknown = _NOT_ASKED
    window_task: Own | Unknown = _NOT_ASKED
    scan: Own | Unknown = _NOT_ASKED
    competing: tuple[str, ...] | Unknown = _NOT_ASKED  # others' associations that scan or install


class PatchAccount(Frozen):
    regions: dict[str, PatchRegion] = Field(default_factory=dict)


class PatchFacts(Facts):
    family: str | Unknown | None = _NOT_ASKED  # None: Patch Manager does not know this system
    supported: bool | Unknown = _NOT_ASKED
    eol: bool | Unknown = _NOT_ASKED
    group_key: str | Unknown = _NOT_ASKED  # "Patch Group", or "PatchGroup" where tags are in the metadata
    group: str | Unknown | None = _NOT_ASKED
    group_foreign: bool | Unknown = _NOT_ASKED
    scan_tag: str | Unknown | None = _NOT_ASKED
    prereq_ok: bool | Unknown = _NOT_ASKED
    scanned: bool | Unknown = _NOT_ASKED
    scan_at: datetime | Unknown | None = _NOT_ASKED
    scan_age_h: float | Unknown | None = _NOT_ASKED
    scan_note: str = ""  # why no scan came, as far as the command tells
    baseline_id: str | Unknown | None = _NOT_ASKED
    missing: int | Unknown | None = _NOT_ASKED
    failed: int | Unknown | None = _NOT_ASKED
    security_missing: int | Unknown | None = _NOT_ASKED
    pending_reboot: int | Unknown | None = _NOT_ASKED
