"""Verify: may each host's agent do what it needs, and does it get through?"""

from __future__ import annotations

from haltuun.model import StageName
from haltuun.stages.base import Stage, no_proof
from haltuun.stages.verify.account import probe_account
from haltuun.stages.verify.checks import CHECKS
from haltuun.stages.verify.facts import VerifyAccount, VerifyFacts
from haltuun.stages.verify.host import probe_host
from haltuun.stages.verify.judge import judge
from haltuun.stages.verify.kinds import KINDS
from haltuun.stages.verify.parse_account import parse_account
from haltuun.stages.verify.parse_host import parse_host
from haltuun.stages.verify.plan import plan

STAGE = Stage(
    name=StageName.verify,
    needs=(StageName.discover,),
    account_facts=VerifyAccount,
    host_facts=VerifyFacts,
    probe_account=probe_account,
    parse_account=parse_account,
    probe_host=probe_host,
    parse_host=parse_host,
    judge=judge,
    plan=plan,
    kinds=KINDS,
    prove=no_proof,
    checks=CHECKS,
)

__all__ = ["STAGE", "VerifyAccount", "VerifyFacts"]
