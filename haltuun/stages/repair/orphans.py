"""A hybrid registration whose hosts were cleared of it: watched, and deregistered when nothing uses it. Pure.

It goes last and late: as long as it is there, putting the saved state back works (undo), and a machine
that still lives under it shows by coming Online.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from haltuun.model import Change, Finding, Reach, Severity, StageName, is_true
from haltuun.stages.base import View
from haltuun.stages.repair.deregister import GONE, KIND, PERMISSIONS, SILENT
from haltuun.stages.repair.facts import Cleared, NodeRow, RepairAccount, RepairFacts


def plan_orphans(view: View) -> Iterator[Change]:
    for cleared, node in _left(view):
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
    for cleared, node in _left(view):
        if node.ping_status == "Online":
            yield _still_used(cleared, node)
        else:
            why = _why_not_yet(view, cleared, node) or "its deregistration is planned and waits for approval"
            yield Finding(
                code="ORPHAN_NODE",
                severity=Severity.low,
                message=f"The registration {cleared.node_id} is left in Systems Manager: {why}.",
                evidence=(
                    f"cleared from {', '.join(cleared.hosts)} on {_day(cleared.cleared_at)}",
                    f"last Online {_day(node.last_ping_at)} from {_machine(node)}",
                ),
                remedy="Approve its deregistration when it is planned, or by hand: aws ssm"
                f" deregister-managed-instance --region {cleared.region} --instance-id {cleared.node_id}",
            )


def _still_used(cleared: Cleared, node: NodeRow) -> Finding:
    return Finding(
        code="NODE_STILL_USED",
        severity=Severity.high,
        message=f"{cleared.node_id} is Online although its hosts here were cleared of it: another machine"
        " has the same registration.",
        evidence=(f"Online from {_machine(node)} in {cleared.region}",),
        remedy="Find that machine by name and address: the original, or one more copy. It is not deregistered"
        " while it is Online.",
    )


def _left(view: View) -> Iterator[tuple[Cleared, NodeRow]]:
    account = view.account_facts.get(StageName.repair)
    if isinstance(account, RepairAccount):
        for cleared in account.cleared:
            if isinstance(cleared.node, NodeRow):
                yield cleared, cleared.node


def _why_not_yet(view: View, cleared: Cleared, node: NodeRow) -> str:
    """Why it is not deregistered now; "" when nothing speaks against it."""
    soak = timedelta(days=view.config.policy.deregister_after_days)
    due = max(cleared.cleared_at, node.last_ping_at or cleared.cleared_at) + soak
    if node.ping_status == "Online":
        return "it is Online"
    if due > view.now:
        return f"it has to stay unused until {_day(due)}"
    facts = view.facts.get(StageName.repair, {})
    for instance_id, seen in facts.items():
        if isinstance(seen, RepairFacts) and seen.vault_instance_id == cleared.node_id:
            return f"{instance_id} still has it in its vault"
    ill = [host for host in cleared.hosts if host in view.hosts and not _is_itself(facts.get(host))]
    return f"{ill[0]}, which was cleared of it, is not Online as itself" if ill else ""


def _is_itself(facts: object) -> bool:
    return isinstance(facts, RepairFacts) and is_true(facts.online_as_self)


def _machine(node: NodeRow) -> str:
    return f"{node.computer_name} {node.ip_address}".strip() or "a machine without a name"


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d}" if at else "an unknown day"
