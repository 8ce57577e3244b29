"""What a person waives for a host in haltuun.yaml: told as that everywhere, and never as proven."""

from __future__ import annotations

from dataclasses import replace

from haltuun.config import AccountConfig, HostConfig, PolicyConfig
from haltuun.ledger import Ledger
from haltuun.model import StageName, Verdict
from haltuun.report.page import standing_markdown
from haltuun.report.standing import standing_of
from tests.core.test_engine import ACCOUNT, NAMES, World, account, go, ledger, make_stages, start

__all__ = ["account", "ledger"]  # fixtures
OLD, OTHER = NAMES[:2]
WHY = "replaced in May, says the owner"


def test_a_waived_host_does_not_hold_the_run_and_is_named_with_its_reason(ledger: Ledger) -> None:
    world = World(NAMES[:2])
    world.switch = dict.fromkeys(world.hosts, "elsewhere")  # nothing that could be changed, and not on
    discover, repair = make_stages(world)
    (check,) = repair.checks
    last = replace(repair, checks=(check.model_copy(update={"code": "EOL"}),))
    takeover = start(world, ledger, stages=(discover, last))
    hosts = {OLD: HostConfig(waive={"EOL": WHY})}
    takeover.run.account = takeover.run.account.model_copy(update={"hosts": hosts})
    takeover.approve(None, everything=True, who="me")
    assert go(takeover) == "PartiallyDone", "the other one is held still"
    status = ledger.status(ACCOUNT)
    found = {host: status[host][StageName.repair].verdict for host in world.hosts}
    assert found == {OLD: Verdict.waived, OTHER: Verdict.held}
    standing = standing_of(ledger, AccountConfig(id=ACCOUNT), PolicyConfig())
    assert [(one.code, one.hosts) for one in standing.left_alone] == [("EOL", (OLD,))]
    left_alone = standing_markdown(standing, ledger.hosts(ACCOUNT), takeover.run.now()).partition(
        "## Left alone"
    )
    assert WHY in left_alone[2] and WHY not in left_alone[0]
