"""Repair: each host's agent comes up as the instance that it is, by the least step that suffices."""

from __future__ import annotations

from haltuun.model import StageName
from haltuun.stages.base import Stage
from haltuun.stages.repair.checks import CHECKS
from haltuun.stages.repair.facts import RepairAccount, RepairFacts
from haltuun.stages.repair.judge import judge
from haltuun.stages.repair.kinds import KINDS
from haltuun.stages.repair.parse import parse_account, parse_host
from haltuun.stages.repair.plan import plan
from haltuun.stages.repair.probe import probe_account, probe_host
from haltuun.stages.repair.prove import prove

STAGE = Stage(
    name=StageName.repair,
    needs=(StageName.verify,),
    account_facts=RepairAccount,
    host_facts=RepairFacts,
    probe_account=probe_account,
    parse_account=parse_account,
    probe_host=probe_host,
    parse_host=parse_host,
    judge=judge,
    plan=plan,
    kinds=KINDS,
    prove=prove,
    checks=CHECKS,
)
