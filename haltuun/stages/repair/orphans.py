"""A hybrid registration whose hosts were cleared of it: watched, and deregistered when nothing uses it. Pure.

It goes last and late: as long as it is there, putting the saved state back works (undo), and a machine
that still lives under it shows by coming Online.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from haltuun.model import Change, Finding, Reach, Severity, StageName, Unknown, is_true
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.repair.deregister import GONE, KIND, PERMISSIONS, SILENT
from haltuun.stages.repair.facts import Cleared, NodeRow, RepairAccount, RepairFacts

# AWS says a node is Online for some minutes after its last word (agents report every five).
SHOWN_FOR = timedelta(minutes=15)


def plan_orphans(view: View) -> Iterator[Change]:
    for cleared, node in _registered(view):
        hosts = [host for host in cleared.hosts if host in view.entering]
        if not hosts or _why_not_yet(view, cleared, node):
            continue
        yield Change(
            stage=StageName.repair,
            kind=KIND,
            region=cleared.region,
            target=cleared.node_id,
            hosts=tuple(hosts),
            before=SILENT,
            after=GONE,
            reach=Reach.irreversible,
            summary=f"Deregister {cleared.node_id} in {cleared.region}: nothing has been Online as it since"
            f" {_day(node.last_ping_at)}, and its host(s) here run as themselves.",
            permissions=PERMISSIONS,
            no_undo="a registration is made anew with an activation only; what was saved on the hosts is of"
            " no use any more",
            concerns=(_machine(node),),
        )


def judge_orphans(view: View) -> Iterator[Finding]:
    for cleared in _all(view):
        if isinstance(cleared.node, Unknown):
            yield _told(cleared, f"whether it is still there could not be asked ({cleared.node.unknown})", ())
    for cleared, node in _registered(view):
        if _came_back(cleared, node) and not _holders(view, cleared):
            yield _still_used(cleared, node)
            continue
        why = _why_not_yet(view, cleared, node)
        last = f"last Online {_day(node.last_ping_at)} from {_machine(node)}"
        yield _told(cleared, why or "nothing uses it any more, and it may be deregistered", (last,), not why)


def _told(cleared: Cleared, what: str, more: Sequence[str], due: bool = False) -> Finding:
    return Finding(
        code="ORPHAN_NODE",
        severity=Severity.low,
        message=f"The registration {cleared.node_id} is left in Systems Manager: {what}.",
        evidence=(f"cleared from {', '.join(cleared.hosts)} on {_day(cleared.cleared_at)}", *more),
        remedy="Approve its deregistration in the plan, or by hand: aws ssm deregister-managed-instance"
        f" --region {cleared.region} --instance-id {cleared.node_id}"
        if due
        else "Nothing now: it is looked at again at each run.",
    )


def _still_used(cleared: Cleared, node: NodeRow) -> Finding:
    return Finding(
        code="NODE_STILL_USED",
        severity=Severity.high,
        message=f"{cleared.node_id} has come Online after its hosts here were cleared of it: another machine"
        " has the same registration.",
        evidence=(f"Online {node.last_ping_at:%Y-%m-%d %H:%M} from {_machine(node)} in {cleared.region}",),
        remedy="Find that machine by name and address: the original, or one more copy. It is not deregistered"
        " while it is Online.",
    )


def _came_back(cleared: Cleared, node: NodeRow) -> bool:
    """Systems Manager shows a node as Online for minutes after its agent has gone."""
    at = node.last_ping_at
    return node.ping_status == "Online" and at is not None and at > cleared.cleared_at + SHOWN_FOR


def _all(view: View) -> tuple[Cleared, ...]:
    account = view.account_facts.get(StageName.repair)
    return account.cleared if isinstance(account, RepairAccount) else ()


def _registered(view: View) -> Iterator[tuple[Cleared, NodeRow]]:
    for cleared in _all(view):
        if isinstance(cleared.node, NodeRow):
            yield cleared, cleared.node


def _why_not_yet(view: View, cleared: Cleared, node: NodeRow) -> str:
    """Why it is not deregistered now; "" when nothing speaks against it."""
    soak = timedelta(days=view.config.policy.deregister_after_days)
    due = max(cleared.cleared_at, node.last_ping_at or cleared.cleared_at) + soak
    if node.ping_status == "Online":
        return "it is still shown as Online"
    if node.of_another_kind:
        return f"its source type is {node.source_type}: what made it is to take it away"
    if due > view.now:
        return f"it has to stay unused until {_day(due)}"
    if not any(host in view.hosts for host in cleared.hosts):
        return "none of the hosts that it was taken off is there any more, so nothing here shows how they are"
    if holders := _holders(view, cleared):
        return f"{holders[0]} still has it in its vault"
    if unseen := _unseen(view, cleared):
        return f"the vault of {unseen[0]}, of the same image, was not seen"
    facts = view.facts.get(StageName.repair, {})
    ill = [host for host in cleared.hosts if host in view.hosts and not _is_itself(facts.get(host))]
    return f"{ill[0]}, which was cleared of it, is not Online as itself" if ill else ""


def _holders(view: View, cleared: Cleared) -> list[str]:
    """Hosts whose vault is seen to hold it."""
    return [
        instance_id
        for instance_id, seen in view.facts.get(StageName.repair, {}).items()
        if isinstance(seen, RepairFacts) and seen.vault_instance_id == cleared.node_id
    ]


def _unseen(view: View, cleared: Cleared) -> list[str]:
    """Hosts that may hold it, for all that is known: of the cleared hosts' images, or of an unknown one."""
    images = {_image(view, host) for host in cleared.hosts} | {None}
    return [
        instance_id
        for instance_id, seen in view.facts.get(StageName.repair, {}).items()
        if isinstance(seen, RepairFacts)
        and isinstance(seen.vault_instance_id, Unknown)
        and not _is_itself(seen)
        and _image(view, instance_id) in images
    ]


def _image(view: View, instance_id: str) -> str | None:
    facts = view.facts.get(StageName.discover, {}).get(instance_id)
    return facts.image_id if isinstance(facts, DiscoverFacts) and isinstance(facts.image_id, str) else None


def _is_itself(facts: object) -> bool:
    return isinstance(facts, RepairFacts) and is_true(facts.online_as_self)


def _machine(node: NodeRow) -> str:
    return f"{node.computer_name} {node.ip_address}".strip() or "a machine without a name"


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d}" if at else "an unknown day"
