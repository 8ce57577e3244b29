"""Discover: every host of the account, in every state, and what it says of itself."""

from __future__ import annotations

from haltuun.model import StageName
from haltuun.stages.base import Stage, no_proof
from haltuun.stages.discover.account import list_hosts, probe_account
from haltuun.stages.discover.facts import DiscoverAccount, DiscoverFacts
from haltuun.stages.discover.host import probe_host
from haltuun.stages.discover.judge import judge
from haltuun.stages.discover.lookup import forget
from haltuun.stages.discover.parse_account import parse_account
from haltuun.stages.discover.parse_host import parse_host
from haltuun.stages.discover.plan import CHECKS, KINDS, plan

STAGE = Stage(
    name=StageName.discover,
    needs=(),
    account_facts=DiscoverAccount,
    host_facts=DiscoverFacts,
    probe_account=probe_account,
    parse_account=parse_account,
    probe_host=probe_host,
    parse_host=parse_host,
    judge=judge,
    plan=plan,
    kinds=KINDS,
    prove=no_proof,
    checks=CHECKS,
    forget=forget,
)

__all__ = ["STAGE", "DiscoverAccount", "DiscoverFacts", "list_hosts"]
