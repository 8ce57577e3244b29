"""Raw answers to facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from haltuun.model import Host, Json, StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.logs.agent_config import files_seen, wanted_config
from haltuun.stages.logs.facts import LogsAccount, LogsFacts
from haltuun.stages.tags import LOGS


def parse_account(view: View, raw: Json) -> LogsAccount:
    return LogsAccount.model_validate({"regions": raw["regions"]})


def parse_host(view: View, host: Host, raw: Json, host_raw: Json | Unknown) -> LogsFacts:
    found = view.facts.get(StageName.discover, {}).get(host.instance_id)
    discover = found if isinstance(found, DiscoverFacts) else None
    platform = discover.platform if discover else Unknown(unknown="nothing was discovered of the host")
    supported = platform if isinstance(platform, Unknown) else platform == "linux"
    seen = files_seen(discover)
    tags = raw["tags"].get(host.region, Unknown(unknown=f"{host.region} was not asked"))
    if isinstance(tags, Mapping) and set(tags) == {"unknown"}:
        tags = Unknown.model_validate(tags)  # as a recorded case spells it
    if isinstance(tags, Unknown):
        return LogsFacts(
            observed_at=view.now,
            supported=supported,
            wanted=tags,
            files_seen=seen,
            logs_tag=tags,
            configured=tags,
        )
    tag = tags.get(host.instance_id, {}).get(LOGS)
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
