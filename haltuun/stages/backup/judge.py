"""Facts to findings, and what the gate demands. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from haltuun.gates import Check
from haltuun.model import Finding, Host, Severity, StageName, is_true
from haltuun.stages.backup.facts import BackupAccount, BackupFacts
from haltuun.stages.backup.names import MAX_AGE_H, VAULT
from haltuun.stages.backup.points import RUNNING
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.tags import ARMED, BACKUP

# Names by which databases show themselves behind a listening port.
_DATABASES = ("mysql", "mariadb", "postgres", "mongo", "redis", "oracle", "sqlservr")

CHECKS = (
    Check(
        column="backup_tag",
        op="in_set",
        values=("daily",),
        code="NOT_SELECTED",
        message=f"The host does not carry {BACKUP}=daily, so the daily plan does not take it.",
        remedy="Approve the plan's change that tags it, then retry.",
    ),
    Check(
        column="recovery_point",
        op="in_set",
        values=(True,),
        code="NO_RECOVERY_POINT",
        message=f"No backup of this host has been completed in the vault {VAULT}.",
        remedy="Look at its job in AWS Backup, then retry.",
    ),
    Check(
        column="recovery_point_age_h",
        op="between",
        high=MAX_AGE_H,
        code="RECOVERY_POINT_OLD",
        message="The newest recovery point is {value} hours old: the daily backup does not come.",
        remedy="Look at the host's failed jobs in AWS Backup, then retry.",
    ),
)


def judge(view: View) -> Sequence[Finding]:
    return (*_judge_account(view), *_judge_hosts(view))


def _judge_account(view: View) -> Iterator[Finding]:
    account = view.account_facts.get(StageName.backup)
    if not isinstance(account, BackupAccount):
        return
    for region, facts in sorted(account.regions.items()):
        if isinstance(facts.opted_out, tuple) and facts.opted_out:
            yield Finding(
                code="BACKUP_OPT_IN",
                severity=Severity.low,
                message=f"AWS Backup is switched off for {', '.join(facts.opted_out)} in {region}. Haltuun's"
                " selection names its types and works all the same; selections by tag alone do not.",
                remedy="Switch the types on in AWS Backup's settings if other plans are to work.",
            )


def _judge_hosts(view: View) -> Iterator[Finding]:
    for instance_id, facts in view.facts.get(StageName.backup, {}).items():
        if isinstance(facts, BackupFacts) and instance_id in view.hosts:
            yield from _judge_host(view, view.hosts[instance_id], facts)


def _judge_host(view: View, host: Host, facts: BackupFacts) -> Iterator[Finding]:
    if isinstance(facts.protected_by, tuple) and facts.protected_by:
        yield Finding(
            code="ALREADY_PROTECTED",
            severity=Severity.info,
            message="A predecessor's backups of it are there; they are left as they are.",
            host=host.instance_id,
            evidence=facts.protected_by,
            remedy="When Haltuun's recovery points suffice, end the old ones to save their cost.",
        )
    if isinstance(facts.job_state, str) and facts.job_state not in RUNNING | {"COMPLETED"}:
        yield Finding(
            code="BACKUP_FAILED",
            severity=Severity.high,
            message=f"The last backup job ended {facts.job_state}: {facts.job_message}.",
            host=host.instance_id,
            remedy="Mend what the job names, then retry.",
        )
    if isinstance(facts.armed, str) and facts.armed != "yes":
        said = f"Somebody has set {ARMED}={facts.armed}, so the patch window leaves it out."
        yield _not_armed(host, said, _STAYS)
    if facts.armed is None and is_true(facts.armed_before):
        said = f"Haltuun had set {ARMED}=yes, and somebody has taken it off since."
        yield _not_armed(host, said, _STAYS)
    elif facts.armed is None and facts.is_recent and not facts.excluded_why:
        said = f"It has a recovery point and does not carry {ARMED}=yes: the patch window leaves it out."
        yield _not_armed(
            host,
            said,
            "Take the account over again with the plan that you approved, which still holds, or with the"
            f" newest one: haltuun takeover {view.account.label} --plan HASH.",
        )
    databases = _databases(view, host)
    if databases:
        yield Finding(
            code="CRASH_CONSISTENT",
            severity=Severity.low,
            message=f"Its recovery points are as after a power cut; {', '.join(databases)}"
            " will run its crash recovery after a restore.",
            host=host.instance_id,
            evidence=tuple(databases),
            remedy="Add a dump of the database if that is not enough.",
        )


# What is told where a person has decided.
_STAYS = f"It stays so. Tag the instance {ARMED}=yes by hand to let the window patch it again."


def _not_armed(host: Host, message: str, remedy: str) -> Finding:
    return Finding(
        code="NOT_ARMED",
        severity=Severity.medium,
        message=message,
        host=host.instance_id,
        remedy=remedy,
    )


def _databases(view: View, host: Host) -> list[str]:
    discover = view.facts.get(StageName.discover, {}).get(host.instance_id)
    if not isinstance(discover, DiscoverFacts) or not isinstance(discover.listeners, tuple):
        return []
    names = {listener.process for listener in discover.listeners}
    return sorted(name for name in names if name.startswith(_DATABASES))
