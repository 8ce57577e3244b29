"""What backup would change: role, vault, plan and selection; each host's tag, first backup, arming. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from haltuun.cost import full_backup, nightly_backups
from haltuun.model import Barred, Change, Cost, Host, Reach, StageName, StagePlan, Unknown, Verdict, is_true
from haltuun.stages.backup.facts import BackupAccount, BackupFacts, BackupRegion
from haltuun.stages.backup.jobs import ARM, JOB, STARTED
from haltuun.stages.backup.kinds import (
    BACKUP_PLAN,
    BACKUP_ROLE,
    BACKUP_ROLE_POLICY,
    BACKUP_SELECTION,
    BACKUP_VAULT,
    ROLE_VALUE,
)
from haltuun.stages.backup.names import (
    PLAN,
    POLICIES,
    ROLE,
    SELECTION,
    TAG_VALUE,
    VAULT,
    plan_value,
    selection_value,
)
from haltuun.stages.backup.points import RUNNING
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.own import Draft, Own
from haltuun.stages.tags import ARMED, BACKUP, tag_change

# A vault takes more than its own action (service authorization reference, AWS Backup, "CreateBackupVault").
_VAULT_PERMISSIONS = (
    "backup:CreateBackupVault",
    "backup:TagResource",
    "backup-storage:MountCapsule",
    "kms:CreateGrant",
    "kms:GenerateDataKey",
    "kms:Decrypt",
    "kms:RetireGrant",
    "kms:DescribeKey",
)
_JOB_PERMISSIONS = ("backup:StartBackupJob", "backup:TagResource", "iam:PassRole")

Ids = tuple[str, ...]


def plan(view: View) -> StagePlan:
    draft = Draft(StageName.backup)
    account = view.account_facts.get(StageName.backup)
    if not isinstance(account, BackupAccount):
        return StagePlan()
    rows = {i: f for i, f in view.facts.get(StageName.backup, {}).items() if isinstance(f, BackupFacts)}
    entering = [view.hosts[i] for i in sorted(view.entering) if i in rows]
    for host in entering:
        why = rows[host.instance_id].excluded_why
        if why:
            draft.barred.append(_left_alone(host, why))
    hosts = [host for host in entering if not rows[host.instance_id].excluded_why]
    if hosts:
        role = _plan_role(view, draft, account, hosts)
        for region in sorted({host.region for host in hosts}):
            here = [host for host in hosts if host.region == region]
            _plan_region(view, draft, region, account.regions.get(region, BackupRegion()), here, rows, role)
    return StagePlan(changes=tuple(draft.changes), barred=tuple(draft.barred), notes=tuple(draft.notes))


def _left_alone(host: Host, why: str) -> Barred:
    return Barred(
        host=host.instance_id,
        code="NOT_BACKED_UP",
        message=f"Not backed up: {why}.",
        remedy="Nothing, unless you want a backup of this host all the same: make one by hand.",
        verdict=Verdict.excluded,
    )


def _plan_role(view: View, draft: Draft, account: BackupAccount, hosts: Sequence[Host]) -> Ids | None:
    ids = [host.instance_id for host in hosts]
    role = draft.want(
        account.role,
        ROLE_VALUE,
        kind=BACKUP_ROLE.name,
        region=account.home_region,
        target=ROLE,
        hosts=ids,
        summary=f"Create the role {ROLE}, with which AWS Backup acts.",
        permissions=("iam:CreateRole", "iam:TagRole"),
    )
    if role is None:
        return None
    needs: Ids = role
    for name in POLICIES:
        attached = draft.want(
            account.policies.get(name, Unknown(unknown="was not asked")),
            {"attached_to": ROLE},
            kind=BACKUP_ROLE_POLICY.name,
            region=account.home_region,
            target=name,
            hosts=ids,
            summary=f"Attach {name} to it.",
            permissions=("iam:AttachRolePolicy",),
            needs=[role],
        )
        if attached is None:
            return None
        needs = (*needs, *attached)
    return needs


def _plan_region(
    view: View,
    draft: Draft,
    region: str,
    facts: BackupRegion,
    hosts: Sequence[Host],
    rows: dict[str, BackupFacts],
    role: Ids | None,
) -> None:
    if role is None:
        return
    ids = [host.instance_id for host in hosts]
    vault = draft.want(
        facts.vault,
        {"vault": VAULT},
        kind=BACKUP_VAULT.name,
        region=region,
        target=VAULT,
        hosts=ids,
        summary=f"Create the backup vault {VAULT} ({region}).",
        permissions=_VAULT_PERMISSIONS,
    )
    if vault is None:
        return
    days = view.config.policy.backup_retention_days
    daily = draft.want(
        facts.plan,
        plan_value(days),
        kind=BACKUP_PLAN.name,
        region=region,
        target=PLAN,
        hosts=ids,
        summary=f"Back up daily at 01:00 UTC into it, and keep each recovery point {days} days ({region}).",
        permissions=("backup:CreateBackupPlan", "backup:UpdateBackupPlan", "backup:TagResource"),
        needs=[vault],
        monthly_cost=_kept_longer(
            view, region, facts.plan, days, [h for h in hosts if _tagged(rows[h.instance_id])]
        ),
    )
    selection = None
    if daily is not None:
        selection = draft.want(
            facts.selection,
            selection_value(view.partition),
            kind=BACKUP_SELECTION.name,
            region=region,
            target=SELECTION,
            hosts=ids,
            summary=f"Let that plan take instances and volumes tagged {BACKUP}={TAG_VALUE} ({region}).",
            permissions=("backup:CreateBackupSelection", "backup:DeleteBackupSelection", "iam:PassRole"),
            needs=[daily, role],
            made_anew=True,
        )
    for host in hosts:
        row = rows[host.instance_id]
        if selection is not None:
            _plan_tag(draft, host, row, selection, nightly_backups(region, _gib(view, host), days))
        _plan_first_backup(draft, host, row, (*vault, *role), full_backup(region, _gib(view, host)))


def _gib(view: View, host: Host) -> int | Unknown:
    """Of all the host's volumes."""
    facts = view.facts.get(StageName.discover, {}).get(host.instance_id)
    return (
        facts.volumes_gib if isinstance(facts, DiscoverFacts) else Unknown(unknown="nothing was discovered")
    )


def _tagged(row: BackupFacts) -> bool:
    return not isinstance(row.backup_tag, Unknown) and row.backup_tag == TAG_VALUE


def _kept_longer(
    view: View, region: str, seen: Own | Unknown, days: int, tagged: Sequence[Host]
) -> Cost | Unknown | None:
    """A plan costs nothing by itself: but one that is changed may keep the points of its hosts longer."""
    before = seen.value["delete_after_days"] if isinstance(seen, Own) and seen.state == "ours" else None
    if not tagged or not isinstance(before, int) or before >= days:
        return None
    sizes = [_gib(view, host) for host in tagged]
    unseen = [size for size in sizes if isinstance(size, Unknown)]
    together = sum(size for size in sizes if not isinstance(size, Unknown))
    return nightly_backups(region, unseen[0] if unseen else together, days - before)


def _plan_tag(draft: Draft, host: Host, row: BackupFacts, selection: Ids, cost: Cost | Unknown) -> None:
    if isinstance(row.backup_tag, Unknown) or _tagged(row):
        return
    draft.changes.append(
        tag_change(
            StageName.backup,
            host,
            BACKUP,
            row.backup_tag,
            TAG_VALUE,
            f"Tag {host.label} {BACKUP}={TAG_VALUE}: it is backed up every night.",
            depends_on=selection,
            monthly_cost=cost,
        )
    )


def _plan_first_backup(draft: Draft, host: Host, row: BackupFacts, needs: Ids, cost: Cost | Unknown) -> None:
    """A backup now where none is recent, and the host armed once its recovery point is complete."""
    if isinstance(row.recovery_point, Unknown):
        return
    started: Ids = ()
    running = isinstance(row.job_state, str) and row.job_state in RUNNING
    if not row.is_recent and not running:
        job = _job(host, needs, cost)
        draft.changes.append(job)
        started = (job.id,)
    if row.armed is None and not is_true(row.armed_before):
        draft.changes.append(_arming(host, started))


def _arming(host: Host, started: Ids) -> Change:
    """The tag is set where there is none and Haltuun never set it: another value, or its being taken off
    again, is somebody's decision (see judge). It comes off again, but not what was installed meanwhile.
    """
    return tag_change(
        StageName.backup,
        host,
        ARMED,
        None,
        "yes",
        f"Tag {host.label} {ARMED}=yes once its recovery point is complete: from then on the patch window"
        " (Sundays 03:00 UTC) installs its missing security updates, which restarts the services they"
        " concern; it does not reboot.",
        kind=ARM.name,
        reach=Reach.irreversible,
        no_undo="The tag can be taken off; what the window has installed until then stays.",
        depends_on=started,
    )


def _job(host: Host, needs: Ids, cost: Cost | Unknown) -> Change:
    return Change(
        stage=StageName.backup,
        kind=JOB.name,
        region=host.region,
        target=host.instance_id,
        hosts=(host.instance_id,),
        before=None,
        after=STARTED,
        reach=Reach.irreversible,
        summary=f"Back up {host.label} now.",
        permissions=_JOB_PERMISSIONS,
        no_undo="A recovery point stays until its retention ends; delete it by hand if it must go.",
        depends_on=tuple(sorted(needs)),
        monthly_cost=cost,
    )
