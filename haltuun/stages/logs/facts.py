"""What logs knows: groups, parameters, associations and session preferences; what each host ships."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from haltuun.model import Facts, Frozen, Unknown
from haltuun.stages.logs.agent_config import Wanted
from haltuun.stages.own import Own

_NOT_ASKED = Unknown(unknown="not asked yet")


class LogsRegion(Frozen):
    """One region. Keys: group names, parameter names, values of the tag haltuun:logs."""

    groups: dict[str, int | None] | Unknown = _NOT_ASKED  # ours → retention in days, None: for ever
    parameters: dict[str, Own | Unknown] = Field(default_factory=dict)
    document: Own | Unknown = _NOT_ASKED
    associations: dict[str, Own | Unknown] = Field(default_factory=dict)
    sessions: Own | Unknown = _NOT_ASKED
    sessions_logged: bool | Unknown = _NOT_ASKED


class LogsAccount(Frozen):
    regions: dict[str, LogsRegion] = Field(default_factory=dict)


class LogsFacts(Facts):
    supported: bool | Unknown = _NOT_ASKED
    wanted: Wanted | Unknown = _NOT_ASKED
    files_seen: int | Unknown = _NOT_ASKED  # of those that are to be shipped, the ones that exist
    logs_tag: str | Unknown | None = _NOT_ASKED
    configured: bool | Unknown = _NOT_ASKED  # carries the tag of the configuration that it is to have
    cw_agent_before: bool | Unknown = _NOT_ASKED  # a CloudWatch agent was there before Haltuun
    marker_found: bool | Unknown = Unknown(unknown="no marker line was sought")
    marker_at: datetime | Unknown | None = None
    marker_note: str = ""
