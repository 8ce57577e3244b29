"""What becomes of a registration after its hosts were cleared of it. AWS is the lab's moto."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from haltuun.config import AccountConfig, Config
from haltuun.engine import open_run
from haltuun.errors import HaltuunError
from haltuun.ledger import Ledger
from haltuun.model import Change, Host, Reach, StageName, Unknown
from haltuun.perform import Performer
from haltuun.run import Run
from haltuun.stages.base import View
from haltuun.stages.repair import STAGE
from haltuun.stages.repair.facts import Cleared, NodeRow, RepairAccount, RepairFacts
from haltuun.stages.repair.judge import judge
from haltuun.stages.repair.orphans import plan_orphans
from haltuun.stages.repair.parse import parse_account
from haltuun.stages.repair.probe import probe_account
from lab.cloud.state import SsmState
from tests.stages.repair.plan_kit import ACCOUNT, HOST, IID, MI, NOW, REGION, STALE_VAULT, node, stale
from tests.stages.repair.plan_kit import plan as plan_for
from tests.stages.repair.test_prove import cloud as cloud  # the fixture

CLONE = "i-0fedcba9876543210"
HOSTS = {IID: HOST, CLONE: Host(account=ACCOUNT, region=REGION, instance_id=CLONE, name="web-02")}
DAY = timedelta(days=1)
GOOD = RepairFacts(identity="EC2", online_as_self=True, vault_instance_id=None, causes=())


def left(days: float = 30, **special: Any) -> Cleared:
    """Cleared and silent for so many days, unless said otherwise."""
    silent = node(MI, "ConnectionLost", last_ping_at=NOW - days * DAY)
    plain = {"node_id": MI, "region": REGION, "hosts": (IID,), "cleared_at": NOW - days * DAY, "node": silent}
    return Cleared(**{**plain, **special})


def view(cleared: Cleared, clone: RepairFacts = GOOD, host: RepairFacts = GOOD, **more: Any) -> View:
    seen = View(
        account=AccountConfig(id=ACCOUNT),
        config=Config(),
        account_id=ACCOUNT,
        partition="aws",
        now=NOW,
        run_id="run",
        hosts=HOSTS,
        entering=tuple(HOSTS),
        facts={StageName.repair: {IID: host, CLONE: clone}},
        account_facts={StageName.repair: RepairAccount(cleared=(cleared,))},
    )
    return replace(seen, **more)


def findings(seen: View) -> list[str]:
    return [finding.code for finding in judge(seen) if finding.host is None]


def test_after_days_of_silence_it_is_planned_and_never_unasked() -> None:
    (change,) = plan_orphans(view(left()))
    assert (change.target, change.region, change.hosts, change.reach) == (
        MI,
        REGION,
        (IID,),
        Reach.irreversible,
    )
    assert change.undo is None and change.no_undo
    assert change.concerns == ("web-01.corp 10.0.0.5",)
    assert findings(view(left())) == ["ORPHAN_NODE"]


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (view(left(days=6.9)), "unused until 2026-11-23"),
        (view(left(cleared_at=NOW - DAY)), "unused until 2026-11-29"),
        (view(left(node=node(MI, "ConnectionLost", last_ping_at=NOW - DAY))), "unused until 2026-11-29"),
        (view(left(), clone=GOOD.model_copy(update={"vault_instance_id": MI})), f"{CLONE} still has it"),
        (view(left(), host=GOOD.model_copy(update={"online_as_self": False})), "not Online as itself"),
        (
            view(left(), host=GOOD.model_copy(update={"online_as_self": Unknown(unknown="x")})),
            "not Online as",
        ),
    ],
    ids=["seven days", "cleared lately", "seen lately", "in a vault", "not well", "not known to be well"],
)
def test_it_is_left_where_something_speaks_against_it(seen: View, why: str) -> None:
    assert list(plan_orphans(seen)) == []
    (found,) = [finding for finding in judge(seen) if finding.code == "ORPHAN_NODE"]
    assert why in found.message


@pytest.mark.parametrize("there", [None, Unknown(unknown="ACCESS_DENIED: …")])
def test_what_the_account_does_not_list_is_none_of_its_own(there: Any) -> None:
    seen = view(left(node=there))
    assert list(plan_orphans(seen)) == [] and findings(seen) == []


def test_online_from_elsewhere_it_is_a_finding_and_stays() -> None:
    seen = view(left(node=node(MI, "Online", ip="172.16.0.9", name="attic", last_ping_at=NOW)))
    assert list(plan_orphans(seen)) == []
    assert findings(seen) == ["NODE_STILL_USED"]


def test_without_one_of_its_hosts_in_the_run_it_waits() -> None:
    assert list(plan_orphans(view(left(), entering=(CLONE,)))) == []


# -- from the ledger to AWS -----------------------------------------------------------------------------


@pytest.fixture
def run(cloud: SsmState, tmp_path: Any) -> Any:
    config = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=[REGION])])
    made = open_run(
        config, "acme", "apply", lambda run, host: None, ledger=Ledger(f"sqlite:///{tmp_path}/l.db")
    )  # type: ignore[arg-type,return-value]
    yield made
    made.ledger.close()
    cloud.nodes.pop(MI, None)


def clearing() -> Change:
    return next(
        change for change in plan_for(stale(vault=STALE_VAULT)).changes if change.kind == "agent.clear"
    )


def listed(run: Run) -> tuple[Cleared, ...]:
    return parse_account(view(left()), probe_account(run, [HOST])).cleared


def silent(cloud: SsmState, **more: Any) -> None:
    cloud.put_node(MI, **{"last_ping": datetime(2025, 1, 1, tzinfo=NOW.tzinfo), **more})


def test_what_was_cleared_is_known_by_the_ledger_until_it_is_put_back(run: Run, cloud: SsmState) -> None:
    silent(cloud, activation_id="activation-1")
    assert listed(run) == ()
    change = clearing()
    for event in ("intended", "sent"):
        run.journal(change, event)
    assert listed(run) == ()
    run.journal(change, "confirmed")
    (found,) = listed(run)
    assert (found.node_id, found.region, found.hosts) == (MI, REGION, (IID,))
    assert isinstance(found.node, NodeRow) and found.node.activation_id == "activation-1"
    assert change.undo is not None
    back = change.model_copy(update={"kind": change.undo.kind, "undoes": change.id})
    run.journal(back, "confirmed")
    assert listed(run) == ()


def test_it_is_deregistered_once(run: Run, cloud: SsmState) -> None:
    silent(cloud)
    (change,) = plan_orphans(view(left()))
    performer = Performer(run, {StageName.repair: STAGE})
    assert performer.perform(change).status == "done"
    assert not cloud.nodes[MI].listed
    assert performer.perform(change).status == "already"


def test_one_that_came_online_since_the_plan_is_left(run: Run, cloud: SsmState) -> None:
    silent(cloud, simulated=True)
    (change,) = plan_orphans(view(left()))
    outcome = Performer(run, {StageName.repair: STAGE}).perform(change)
    assert outcome.status == "stale"
    assert cloud.nodes[MI].listed


def test_invalid_instance_id_of_one_that_is_gone_is_done(run: Run, cloud: SsmState) -> None:
    silent(cloud)
    (change,) = plan_orphans(view(left()))
    # Somebody else is quicker, between the look and the call.
    run.aws.before_mutation = lambda: setattr(cloud.nodes[MI], "deregistered", True)
    assert Performer(run, {StageName.repair: STAGE}).perform(change).status == "done"


def test_invalid_instance_id_of_one_that_is_there_is_explained(run: Run, cloud: SsmState) -> None:
    silent(cloud, kept=True)
    (change,) = plan_orphans(view(left()))
    outcome = Performer(run, {StageName.repair: STAGE}).perform(change)
    assert isinstance(outcome.error, HaltuunError)
    assert (outcome.status, outcome.error.code) == ("failed", "NOT_DEREGISTERED")
