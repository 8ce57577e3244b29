"""backup: every host in a vault every night, a first recovery point now, and armed once it is complete."""

from __future__ import annotations

from haltuun.model import StageName
from haltuun.stages.backup.facts import BackupAccount, BackupFacts
from haltuun.stages.backup.judge import CHECKS, judge
from haltuun.stages.backup.kinds import KINDS
from haltuun.stages.backup.parse import parse_account, parse_host
from haltuun.stages.backup.plan import plan
from haltuun.stages.backup.probe import probe_account
from haltuun.stages.backup.prove import prove
from haltuun.stages.base import Stage

STAGE = Stage(
    name=StageName.backup,
    needs=(StageName.discover,),
    account_facts=BackupAccount,
    host_facts=BackupFacts,
    probe_account=probe_account,
    parse_account=parse_account,
    probe_host=None,
    parse_host=parse_host,
    judge=judge,
    plan=plan,
    kinds=KINDS,
    prove=prove,
    checks=CHECKS,
)
