"""Runs over a lab's account in the order of the flow, without Prefect: discover, verify, repair."""

from __future__ import annotations

from collections.abc import Sequence

from haltuun.config import Config
from haltuun.engine import Takeover, open_run
from haltuun.ledger import Ledger
from haltuun.reach import open_host
from haltuun.stages.discover import STAGE as DISCOVER
from haltuun.stages.discover import list_hosts
from haltuun.stages.repair import STAGE as REPAIR
from haltuun.stages.verify import STAGE as VERIFY

STAGES = (DISCOVER, VERIFY, REPAIR)


def looked(config: Config, ledger: Ledger, mode: str, only: Sequence[str] = ()) -> Takeover:
    """Of the configuration's one account; `only` these hosts."""
    run = open_run(config, config.accounts[0].id, mode, open_host, ledger=ledger)
    takeover = Takeover(run, STAGES, lister=list_hosts, only_hosts=only)
    takeover.begin({})
    for stage in takeover.stages:
        takeover.look_account(stage)
        for host in takeover.hosts:
            takeover.look_host(stage, host)
        takeover.settle(stage)
        takeover.plan_stage(stage)
    takeover.make_plan()
    return takeover


def take_over(config: Config, ledger: Ledger, only: Sequence[str] = ()) -> Takeover:
    takeover = looked(config, ledger, "apply", only)
    takeover.reconcile()
    takeover.approve(None, everything=True, who="test")
    for stage in takeover.stages:
        takeover.enter(stage)
        takeover.apply_account(stage)
        for wave in takeover.waves(stage):
            for host in wave:
                takeover.work_host(stage, host)
                if host in takeover.relook(stage):
                    takeover.look_host(stage, host)
        if takeover.account_moved(stage):
            takeover.look_account(stage)
        takeover.prove(stage)
        takeover.gate(stage)
    takeover.end(takeover.outcome())
    return takeover
