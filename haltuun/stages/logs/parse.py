"""Raw answers to facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from haltuun.model import Host, Json, StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.logs.agent_config import files_seen, wanted_config
from haltuun.stages.logs.facts import LogsAccount, LogsFacts
from haltuun.stages.pages import member, unreadable
from haltuun.stages.tags import LOGS


def parse_account(view: View, raw: Json) -> LogsAccount:
    regions = {name: {**seen, "groups": _groups(seen["groups"])} for name, seen in raw["regions"].items()}
    return LogsAccount.model_validate({"regions": regions})


def _groups(found: Json | Unknown) -> Json | Unknown:
    """Group → retention in days, where each is a number or, for ever, none."""
    if isinstance(found, Unknown) or set(found) == {"unknown"}:
        return found
    days = {name: member(found, name, int) for name in found}
    return next((unreadable("retentionInDays") for one in days.values() if isinstance(one, Unknown)), days)


def parse_host(view: View, host: Host, raw: Json, host_raw: Json | Unknown) -> LogsFacts:
    found = view.facts.get(StageName.discover, {}).get(host.instance_id)
    discover = found if isinstance(found, DiscoverFacts) else None
    platform = discover.platform if discover else Unknown(unknown="nothing was discovered of the host")
    supported = platform if isinstance(platform, Unknown) else platform == "linux"
    seen = files_seen(discover)
    tags = raw["tags"].get(host.region, Unknown(unknown=f"{host.region} was not asked"))
    if isinstance(tags, Mapping) and set(tags) == {"unknown"}:
        tags = Unknown.model_validate(tags)  # as a recorded case spells it
    tag = tags if isinstance(tags, Unknown) else member(tags.get(host.instance_id, {}), LOGS, str)
    if isinstance(tag, Unknown):
        return LogsFacts(
            observed_at=view.now,
            supported=supported,
            wanted=tag,
            files_seen=seen,
            logs_tag=tag,
            configured=tag,
        )
    wanted = wanted_config(view.account.label, discover, tag)
    return LogsFacts(
        observed_at=view.now,
        supported=supported,
        wanted=wanted,
        files_seen=seen,
        logs_tag=tag,
        configured=tag == wanted.tag,
        cw_agent_before=wanted.mode == "add",
    )
