"""logs: what each host writes goes to log groups with a retention; sessions are logged too."""

from __future__ import annotations

from haltuun.model import StageName
from haltuun.stages.base import Stage
from haltuun.stages.logs.back import GO_BACK
from haltuun.stages.logs.facts import LogsAccount, LogsFacts
from haltuun.stages.logs.judge import CHECKS, judge
from haltuun.stages.logs.kinds import KINDS
from haltuun.stages.logs.parse import parse_account, parse_host
from haltuun.stages.logs.plan import plan
from haltuun.stages.logs.probe import probe_account
from haltuun.stages.logs.prove import prove

STAGE = Stage(
    name=StageName.logs,
    needs=(StageName.repair,),
    account_facts=LogsAccount,
    host_facts=LogsFacts,
    probe_account=probe_account,
    parse_account=parse_account,
    probe_host=None,
    parse_host=parse_host,
    judge=judge,
    plan=plan,
    kinds={**KINDS, GO_BACK.name: GO_BACK},
    prove=prove,
    checks=CHECKS,
)
