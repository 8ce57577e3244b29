"""Looks: log groups, parameters, associations and session preferences in each region; hosts' tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from haltuun.model import Host, Json, StageName, Unknown
from haltuun.run import Run
from haltuun.stages.associations import get_association, get_associations
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.logs.agent_config import Wanted, wanted_config
from haltuun.stages.logs.document import document_name
from haltuun.stages.logs.kinds import get_document, get_groups, get_parameter, get_sessions
from haltuun.stages.logs.names import ASSOCIATION_PREFIX, group_name
from haltuun.stages.tags import LOGS, InstanceTags, get_instance_tags


def probe_account(run: Run, hosts: Sequence[Host]) -> Json:
    tags = get_instance_tags(run, hosts)
    regions = {}
    for region in sorted(tags):
        here = [host for host in hosts if host.region == region]
        regions[region] = _probe_region(run, region, [_wanted(run, host, tags[region]) for host in here])
    return {"regions": regions, "tags": tags}


def _wanted(run: Run, host: Host, tags: InstanceTags | Unknown) -> Wanted:
    found = run.facts.get(StageName.discover, {}).get(host.instance_id)
    tag = None if isinstance(tags, Unknown) else tags[host.instance_id].get(LOGS)
    return wanted_config(run.account.label, found if isinstance(found, DiscoverFacts) else None, tag)


def _probe_region(run: Run, region: str, wanted: Sequence[Wanted]) -> Mapping[str, Any]:
    listed = get_associations(run, region)
    sessions, logged = get_sessions(run, region)
    return {
        "groups": get_groups(run, region, group_name(run.account.label, "")),
        "parameters": {
            name: get_parameter(run, region, name) for name in sorted({w.parameter for w in wanted})
        },
        "document": get_document(run, region, document_name()),
        "associations": {
            tag: get_association(run, region, ASSOCIATION_PREFIX + tag, listed)
            for tag in sorted({w.tag for w in wanted})
        },
        "sessions": sessions,
        "sessions_logged": logged,
    }
