"""What logs would change: groups and retention, configurations, the two associations, tags. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from haltuun.cost import parameter as parameter_cost
from haltuun.cost import session_logs, shipped_logs
from haltuun.model import (
    Barred,
    Cost,
    Finding,
    Host,
    Severity,
    StageName,
    StagePlan,
    Undo,
    Unknown,
    is_false,
    is_true,
)
from haltuun.stages.associations import KIND as ASSOCIATION_KIND
from haltuun.stages.associations import PERMISSIONS as ASSOCIATION_PERMISSIONS
from haltuun.stages.associations import association_value
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverAccount, DiscoverFacts
from haltuun.stages.logs.agent_config import Wanted
from haltuun.stages.logs.back import GO_BACK, goes_back_by
from haltuun.stages.logs.document import ACTIONS, content, digest, document_name
from haltuun.stages.logs.facts import LogsAccount, LogsFacts, LogsRegion
from haltuun.stages.logs.judge import NOTHING_REMEDY, NOTHING_SAID, NOTHING_TO_SHIP
from haltuun.stages.logs.kinds import CONFIGURE, DOCUMENT, GROUP, PARAMETER, RETENTION, SESSIONS, sha256
from haltuun.stages.logs.names import (
    ASSOCIATION_PREFIX,
    LEAVING,
    SESSIONS_DOCUMENT,
    SESSIONS_KIND,
    group_name,
)
from haltuun.stages.own import ABSENT, Draft, Own
from haltuun.stages.tags import LOGS, tag_change
from haltuun.stages.verify.facts import RoleFacts, VerifyAccount, VerifyFacts
from haltuun.stages.verify.plan import ASSOCIATE, POLICY

# How it is brought to a host that State Manager does not serve in time, and watched there.
_SENT = ("ssm:SendCommand", "ssm:ListCommands", "ssm:ListCommandInvocations", "ssm:CancelCommand")
Ids = tuple[str, ...]


def shipping_value(wanted: Wanted) -> object:
    """The association that installs and configures the agent on the hosts that carry its tag."""
    return association_value(
        document_name(),
        (f"tag:{LOGS}", [wanted.tag]),
        {"configuration": [wanted.parameter], "action": [ACTIONS[wanted.mode]]},
    )


def plan(view: View) -> StagePlan:
    draft = Draft(StageName.logs)
    account = view.account_facts.get(StageName.logs)
    regions = account.regions if isinstance(account, LogsAccount) else {}
    rows = {i: f for i, f in view.facts.get(StageName.logs, {}).items() if isinstance(f, LogsFacts)}
    entering = [view.hosts[i] for i in sorted(view.entering) if i in rows]
    draft.barred.extend(_unsupported(h) for h in entering if is_false(rows[h.instance_id].supported))
    able = [host for host in entering if is_true(rows[host.instance_id].supported)]
    draft.barred.extend(_nothing_to_ship(host) for host in able if rows[host.instance_id].files_seen == 0)
    able = [host for host in able if rows[host.instance_id].files_seen != 0]
    barred = [bar for host in able if (bar := _may_not_ship(view, host)) is not None]
    unseen = [host for host in able if isinstance(rows[host.instance_id].files_seen, Unknown)]
    draft.barred.extend(barred)
    draft.notes.extend(_not_planned(host) for host in unseen)
    left_out = {host.instance_id for host in unseen} | {bar.host for bar in barred}
    able = [host for host in able if host.instance_id not in left_out]
    for region in sorted({host.region for host in able}):
        wanted: dict[Host, Wanted] = {}
        tags: dict[Host, str | None] = {}
        for host in able:
            row = rows[host.instance_id]
            if host.region != region or not isinstance(row.wanted, Wanted):
                continue
            if not isinstance(row.logs_tag, Unknown):
                wanted[host], tags[host] = row.wanted, row.logs_tag
        if wanted:
            _plan_region(view, draft, region, regions.get(region, LogsRegion()), wanted, tags)
    return StagePlan(changes=tuple(draft.changes), barred=tuple(draft.barred), notes=tuple(draft.notes))


def _unsupported(host: Host) -> Barred:
    return Barred(
        host=host.instance_id,
        code="LOGS_UNSUPPORTED",
        message="Haltuun configures log shipping on Linux only.",
        remedy="Configure the CloudWatch agent on this host by hand.",
    )


def _nothing_to_ship(host: Host) -> Barred:
    """No agent is installed for the marker alone."""
    return Barred(host=host.instance_id, code=NOTHING_TO_SHIP, message=NOTHING_SAID, remedy=NOTHING_REMEDY)


def _not_planned(host: Host) -> Finding:
    """Nothing is guessed of a host that nobody looked into, such as one that only Run Command reaches."""
    return Finding(
        code="LOGS_NOT_PLANNED",
        severity=Severity.low,
        host=host.instance_id,
        message="Nobody has looked into it, so what its agent is to ship is not planned yet.",
        remedy="A takeover looks into hosts that Run Command reaches; what it then plans waits for approval.",
    )


def _may_not_ship(view: View, host: Host) -> Barred | None:
    """No agent is installed where its calls are known to be refused, whatever this run changes."""
    seen = view.facts.get(StageName.verify, {}).get(host.instance_id)
    if not isinstance(seen, VerifyFacts):
        return None
    if seen.credentials == "default host management":
        return Barred(
            host=host.instance_id,
            code="LOGS_NO_ROLE",
            message="Its credentials are default host management's, which the CloudWatch agent cannot use.",
            remedy="Give it an instance profile when its applications allow, then retry.",
        )
    account = view.account_facts.get(StageName.verify)
    role = account.roles.get(str(seen.role_name)) if isinstance(account, VerifyAccount) else None
    beyond = [text for text in role.beyond if text.startswith("logs:")] if isinstance(role, RoleFacts) else []
    if not beyond or not is_false(seen.logs_allowed):
        return None
    return Barred(
        host=host.instance_id,
        code="LOGS_DENIED",
        message=f"Its role may not write logs, and no policy added to it helps: {beyond[0]}.",
        remedy="Allow it where it is denied (service control policy, boundary, explicit deny), then retry.",
    )


def _plan_region(
    view: View,
    draft: Draft,
    region: str,
    facts: LogsRegion,
    wanted: Mapping[Host, Wanted],
    tags: Mapping[Host, str | None],
) -> None:
    ids = [host.instance_id for host in wanted]
    groups: dict[str, Ids | None] = {}
    for kind in sorted({kind for config in wanted.values() for kind in config.kinds}):
        theirs = [host.instance_id for host, config in wanted.items() if kind in config.kinds]
        groups[kind] = _plan_group(view, draft, region, facts, kind, theirs)
    _plan_sessions(view, draft, region, facts, ids)
    document = draft.want(
        facts.document,
        {"sha256": digest(content())},
        kind=DOCUMENT.name,
        region=region,
        target=document_name(),
        hosts=ids,
        summary=f"Create the document {document_name()}, which installs and configures the CloudWatch agent"
        f" ({region}).",
        permissions=("ssm:CreateDocument", "ssm:AddTagsToResource"),
    )
    by_tag: dict[str, list[Host]] = {}
    for host, config in wanted.items():
        by_tag.setdefault(config.tag, []).append(host)
    for tag in sorted(by_tag):
        hosts, config = by_tag[tag], wanted[by_tag[tag][0]]
        ready = _plan_configuration(draft, region, facts, config, hosts, groups, document)
        if ready is None:
            continue
        for host in hosts:
            days = view.config.policy.log_retention_days
            cost = shipped_logs(region, [file.service for file in config.files], days)
            _plan_tag(draft, host, config, tags[host], ready, cost)


def _plan_group(
    view: View, draft: Draft, region: str, facts: LogsRegion, kind: str, ids: Sequence[str]
) -> Ids | None:
    name = group_name(view.account.label, kind)
    days = view.config.policy.log_retention_days
    there: Own | Unknown
    kept: Own | Unknown
    if isinstance(facts.groups, Unknown):
        there = kept = facts.groups
    else:
        there = Own(state="ours", value={"group": name}) if name in facts.groups else ABSENT
        present = facts.groups.get(name)
        kept = ABSENT if present is None else Own(state="ours", value={"days": present})
    group = draft.want(
        there,
        {"group": name},
        kind=GROUP.name,
        region=region,
        target=name,
        hosts=ids,
        summary=f"Create the log group {name} ({region}).",
        permissions=("logs:CreateLogGroup", "logs:TagResource"),
        undo=False,
        no_undo="It holds what hosts have shipped since; delete it by hand if that may go.",
    )
    if group is None:
        return None
    return draft.want(
        kept,
        {"days": days},
        kind=RETENTION.name,
        region=region,
        target=name,
        hosts=ids,
        summary=f"Keep what is in {name} for {days} days.",
        permissions=("logs:PutRetentionPolicy",),
        needs=[group],
        undo=there is not ABSENT,
        no_undo="It belongs to a group that stays: without it, its logs would be paid for without end.",
        monthly_cost=_kept_longer(kept, days),
    )


def _kept_longer(seen: Own | Unknown, days: int) -> Unknown | None:
    """What a group already holds is kept longer: how much that is was not asked."""
    before = seen.value["days"] if isinstance(seen, Own) and seen.state == "ours" else None
    if isinstance(before, int) and before < days:
        return Unknown(unknown="how much the group holds was not asked")
    return None


def _plan_sessions(view: View, draft: Draft, region: str, facts: LogsRegion, ids: Sequence[str]) -> None:
    """Preferences only where there are none: a predecessor's stay (see judge)."""
    if isinstance(facts.sessions, Unknown) or facts.sessions.state != "absent":
        return
    group = _plan_group(view, draft, region, facts, SESSIONS_KIND, ids)
    if group is None:
        return
    name = group_name(view.account.label, SESSIONS_KIND)
    draft.want(
        facts.sessions,
        {"log_group": name},
        kind=SESSIONS.name,
        region=region,
        target=SESSIONS_DOCUMENT,
        hosts=ids,
        summary=f"Log all Session Manager sessions of {region} to {name}.",
        permissions=("ssm:CreateDocument", "ssm:AddTagsToResource"),
        needs=[group],
        concerns=unlogged_nodes(view, region),
        monthly_cost=session_logs(region, view.config.policy.log_retention_days),
    )


def unlogged_nodes(view: View, region: str) -> tuple[str, ...]:
    """Managed nodes whose role may not, or is not known to, write to the group: their sessions open as
    before and are not logged. A dependency on the roles' policies would help none of them.
    """
    planned = view.changes_of(StageName.verify)
    roles = {change.target for change in planned if change.kind == POLICY}
    given = {host for change in planned if change.kind == ASSOCIATE for host in change.hosts}
    found = []
    for instance_id, host in sorted(view.hosts.items()):
        seen = view.facts.get(StageName.discover, {}).get(instance_id)
        verified = view.facts.get(StageName.verify, {}).get(instance_id)
        managed = isinstance(seen, DiscoverFacts) and seen.ssm_status != "never"
        if host.region != region or not managed or instance_id in given:
            continue
        may = isinstance(verified, VerifyFacts) and is_true(verified.logs_allowed)
        will = isinstance(verified, VerifyFacts) and verified.role_name in roles
        if may or will:
            continue
        found.append(f"{host.label}: its sessions stay unlogged, its role may not write to the group")
    account = view.account_facts.get(StageName.discover)
    facts = account.regions.get(region) if isinstance(account, DiscoverAccount) else None
    nodes = facts.hybrid_nodes if facts is not None and isinstance(facts.hybrid_nodes, tuple) else ()
    return (*found, *(f"{node.node_id} {node.computer_name}: a hybrid node" for node in nodes))


def _plan_configuration(
    draft: Draft,
    region: str,
    facts: LogsRegion,
    config: Wanted,
    hosts: Sequence[Host],
    groups: Mapping[str, Ids | None],
    document: Ids | None,
) -> Ids | None:
    """The parameter and the association of one configuration; what its hosts' tags depend on."""
    if document is None:
        return None
    ids = [host.instance_id for host in hosts]
    unseen = Unknown(unknown=f"{region} was not asked")
    needs: list[Ids] = []
    for kind in config.kinds:
        group = groups[kind]
        if group is None:
            return None
        needs.append(group)
    files = f"{len(config.files)} log files"
    seen = facts.parameters.get(config.parameter, unseen)
    parameter = draft.want(
        seen,
        {"sha256": sha256(config.text)},
        kind=PARAMETER.name,
        region=region,
        target=config.parameter,
        hosts=ids,
        summary=f"Store the agent's configuration for {files} as {config.parameter} ({region}).",
        permissions=("ssm:PutParameter", "ssm:AddTagsToResource"),
        # PutParameter names no earlier text to go back to, but Parameter Store keeps the last hundred.
        undo=not _present(seen),
        no_undo="What stood there before is in the parameter's history (ssm get-parameter-history)."
        if _present(seen)
        else "",
        detail={"text": config.text},
        monthly_cost=parameter_cost(region, config.text),
    )
    if parameter is None:
        return None
    return draft.want(
        facts.associations.get(config.tag, unseen),
        shipping_value(config),
        kind=ASSOCIATION_KIND,
        region=region,
        target=ASSOCIATION_PREFIX + config.tag,
        hosts=ids,
        summary="Install the CloudWatch agent and configure it so on instances tagged"
        f" {LOGS}={config.tag} ({region}).",
        permissions=ASSOCIATION_PERMISSIONS,
        needs=[*needs, document, parameter],
    )


def _present(seen: Own | Unknown) -> bool:
    return isinstance(seen, Own) and seen.state == "ours"


def _plan_tag(
    draft: Draft, host: Host, config: Wanted, tag: str | None, ready: Ids, cost: Cost | Unknown
) -> None:
    if tag == config.tag:
        return
    # A host whose way back was cut short goes back all the way.
    earlier = None if tag is None or tag.startswith(LEAVING) else tag
    draft.changes.append(
        tag_change(
            StageName.logs,
            host,
            LOGS,
            tag,
            config.tag,
            f"Tag {host.label} {LOGS}={config.tag}: the CloudWatch agent is installed there and ships"
            f" {len(config.files)} log files.",
            kind=CONFIGURE.name,
            undo=Undo(kind=GO_BACK.name, after={LOGS: earlier}),
            depends_on=tuple(sorted(ready)),
            detail=goes_back_by(earlier),
            permissions=_SENT,
            monthly_cost=cost,
        )
    )
