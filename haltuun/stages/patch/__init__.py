"""patch: security updates scanned daily by a baseline of our own, installed in a window when backed up."""

from __future__ import annotations

from haltuun.model import StageName
from haltuun.stages.base import Stage
from haltuun.stages.patch.facts import PatchAccount, PatchFacts
from haltuun.stages.patch.judge import CHECKS, judge
from haltuun.stages.patch.kinds import KINDS
from haltuun.stages.patch.parse import parse_account, parse_host
from haltuun.stages.patch.plan import plan
from haltuun.stages.patch.probe import probe_account
from haltuun.stages.patch.prove import prove

STAGE = Stage(
    name=StageName.patch,
    needs=(StageName.repair,),
    account_facts=PatchAccount,
    host_facts=PatchFacts,
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
