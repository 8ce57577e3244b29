"""What becomes of a registration after its hosts were cleared of it. AWS is the lab's moto."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from haltuun.config import AccountConfig, Config
from haltuun.effects import open_changes
from haltuun.engine import open_run
from haltuun.errors import HaltuunError
from haltuun.ledger import Ledger
from haltuun.model import Change, Finding, Host, Reach, StageName, Unknown
from haltuun.perform import Performer
from haltuun.run import Run
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
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
        facts={StageName.repair: {IID: host, CLONE: clone}, StageName.discover: {}},
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
        (view(left(node=node(MI, "ConnectionLost", source_type="AWS::IoT::Thing"))), "AWS::IoT::Thing"),
        (view(left(cleared_at=NOW - DAY)), "unused until 2026-11-29"),
        (view(left(node=node(MI, "ConnectionLost", last_ping_at=NOW - DAY))), "unused until 2026-11-29"),
        (view(left(), clone=GOOD.model_copy(update={"vault_instance_id": MI})), f"{CLONE} still has it"),
        (view(left(), host=GOOD.model_copy(update={"online_as_self": False})), "not Online as itself"),
        (
            view(left(), host=GOOD.model_copy(update={"online_as_self": Unknown(unknown="x")})),
            "not Online as",
        ),
    ],
    ids=[
        "seven days",
        "of another kind",
        "cleared lately",
        "seen lately",
        "in a vault",
        "not well",
        "not known to be well",
    ],
)
def test_it_is_left_where_something_speaks_against_it(seen: View, why: str) -> None:
    assert list(plan_orphans(seen)) == []
    found = told(seen, "ORPHAN_NODE")
    assert why in found.message and "deregister-managed-instance" not in found.remedy


def test_what_the_account_does_not_list_is_none_of_its_own() -> None:
    seen = view(left(node=None))
    assert list(plan_orphans(seen)) == [] and findings(seen) == []


def test_what_could_not_be_asked_is_said() -> None:
    seen = view(left(node=Unknown(unknown="ACCESS_DENIED: there")))
    assert list(plan_orphans(seen)) == []
    assert "ACCESS_DENIED: there" in told(seen, "ORPHAN_NODE").message


MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("cleared", "ping", "holds", "code"),
    [
        (20 * MINUTE, 0 * MINUTE, False, "NODE_STILL_USED"),
        (5 * MINUTE, 7 * MINUTE, False, "ORPHAN_NODE"),  # AWS has not noticed yet that it is gone
        (20 * MINUTE, 10 * MINUTE, False, "ORPHAN_NODE"),
        (20 * MINUTE, 0 * MINUTE, True, "ORPHAN_NODE"),  # it is that one
    ],
)
def test_online_from_elsewhere_it_is_a_finding_and_stays(
    cleared: timedelta, ping: timedelta, holds: bool, code: str
) -> None:
    row = node(MI, "Online", ip="172.16.0.9", name="attic", last_ping_at=NOW - ping)
    clone = GOOD.model_copy(update={"vault_instance_id": MI}) if holds else GOOD
    seen = view(left(cleared_at=NOW - cleared, node=row), clone=clone)
    assert list(plan_orphans(seen)) == []
    assert findings(seen) == [code]


def test_where_none_of_its_hosts_is_left_a_person_has_to_look() -> None:
    seen = view(left(hosts=("i-0eeeeeeeeeeeeeeee",)))
    assert list(plan_orphans(seen)) == []
    assert "none of the hosts" in judge(seen)[0].message


UNSEEN = RepairFacts(vault_instance_id=Unknown(unknown="SSH_TIMEOUT"))


@pytest.mark.parametrize(
    ("clone", "image", "planned"),
    [
        (UNSEEN, "ami-1", False),
        (UNSEEN, None, False),
        (UNSEEN, "ami-2", True),
        (UNSEEN.model_copy(update={"online_as_self": True}), "ami-1", True),
    ],
    ids=["its image", "an unknown image", "another image", "online as itself"],
)
def test_a_vault_that_nobody_saw_may_hold_it(clone: RepairFacts, image: str | None, planned: bool) -> None:
    seen = view(left(), clone=clone)
    known = {IID: DiscoverFacts(image_id="ami-1")}
    if image:
        known[CLONE] = DiscoverFacts(image_id=image)
    seen = replace(seen, facts={**seen.facts, StageName.discover: known})
    assert bool(list(plan_orphans(seen))) == planned
    assert ("was not seen" in told(seen, "ORPHAN_NODE").message) != planned


def told(seen: View, code: str) -> Finding:
    (found,) = [finding for finding in judge(seen) if finding.code == code]
    return found


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


def test_what_was_deregistered_is_not_put_back_on_a_host(run: Run, cloud: SsmState) -> None:
    """An undo would leave the host with an identity that nobody knows."""
    clear = clearing()
    assert clear.undo is not None
    terms = {"kind": clear.undo.kind, "before": clear.after, "after": clear.undo.after, "undoes": clear.id}
    back = clear.model_copy(update=terms)
    keeps = STAGE.kinds[back.kind].keeps
    assert keeps is not None and keeps(run, back) == ""
    silent(cloud)
    (change,) = plan_orphans(view(left()))
    run.journal(change, "intended")
    assert keeps(run, back) == ""
    run.journal(change, "confirmed")
    assert f"{MI} was deregistered since" in keeps(run, back)


def test_it_is_deregistered_once(run: Run, cloud: SsmState) -> None:
    silent(cloud)
    (change,) = plan_orphans(view(left()))
    performer = Performer(run, {StageName.repair: STAGE})
    assert performer.perform(change).status == "done"
    assert not cloud.nodes[MI].listed
    assert performer.perform(change).status == "already"


@pytest.mark.parametrize(("died", "found"), [("before the call", "not_done"), ("after it", "confirmed")])
def test_killed_over_the_deregistration_the_next_run_looks(
    run: Run, cloud: SsmState, died: str, found: str
) -> None:
    silent(cloud)
    (change,) = plan_orphans(view(left()))
    for event in ("intended", "sent"):
        run.journal(change, event)
    if died == "after it":
        STAGE.kinds[change.kind].apply(run, change)
    performer = Performer(run, {StageName.repair: STAGE})
    assert open_changes(run.ledger.change_events(ACCOUNT)) == [change]
    assert performer.resolve(change) == found
    assert performer.perform(change).status == ("done" if found == "not_done" else "already")
    assert not cloud.nodes[MI].listed and open_changes(run.ledger.change_events(ACCOUNT)) == []
    assert [call.operation for call in run.aws.calls].count("DeregisterManagedInstance") == 1


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
    run.aws._client("ssm", REGION).meta.events.register(
        "before-send.ssm.DeregisterManagedInstance",
        lambda **_: setattr(cloud.nodes[MI], "deregistered", True),
    )
    assert Performer(run, {StageName.repair: STAGE}).perform(change).status == "done"
    assert [call.ok for call in run.aws.calls if call.operation == "DeregisterManagedInstance"] == [False]


def test_invalid_instance_id_of_one_that_is_there_is_explained(run: Run, cloud: SsmState) -> None:
    silent(cloud, kept=True)
    (change,) = plan_orphans(view(left()))
    outcome = Performer(run, {StageName.repair: STAGE}).perform(change)
    assert isinstance(outcome.error, HaltuunError)
    assert (outcome.status, outcome.error.code) == ("failed", "NOT_DEREGISTERED")
