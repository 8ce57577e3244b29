"""The declared IAM actions against the calls that takeovers of emulated accounts really make.

The runs are made once for the module: each action of the list has to be called in one of them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deployments.iam.policies import declared
from haltuun.aws import CallRecord
from haltuun.config import PolicyConfig
from haltuun.engine import Takeover
from haltuun.errors import CommandTimeout, NotImplementedByEndpoint
from haltuun.model import Host, StageName
from haltuun.perform import Performer
from haltuun.runcommand import RunCommandTransport
from haltuun.stages.backup import STAGE as BACKUP
from haltuun.stages.commands import send
from haltuun.stages.discover.account import get_lineage
from haltuun.stages.logs import STAGE as LOGS
from haltuun.stages.patch import STAGE as PATCH
from haltuun.stages.patch.kinds import WINDOW
from haltuun.stages.patch.probe import SCAN
from haltuun.stages.repair import STAGE as REPAIR
from haltuun.stages.repair.orphans import plan_orphans
from haltuun.stages.repair.prove import get_answers
from lab.cloud.extensions.backup_state import backup_state
from lab.cloud.state import ssm_state
from lab.scenario import load_scenario
from tests.lab.cloud_kit import Account
from tests.stages.account_kit import ACCOUNT, REGION, World, logs_prove, take_back, ubuntu, world
from tests.stages.repair.plan_kit import MI
from tests.stages.repair.test_orphans import left
from tests.stages.repair.test_orphans import view as orphans_view
from tests.stages.takeover_kit import seeded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# What proves an effect, or asks a host a question, is no change of a plan.
PROOFS = {"ssm:SendCommand", "ssm:CancelCommand"}


@dataclass(frozen=True)
class Recording:
    """The calls of one run, what its plan names, and the calls of its undo."""

    calls: Sequence[CallRecord]
    planned: frozenset[str]
    undo: Sequence[CallRecord] = ()


def actions(calls: Iterable[CallRecord], *, mutating: bool) -> set[str]:
    return {f"{call.service}:{call.operation}" for call in calls if call.mutating is mutating}


def recording(takeover: Takeover) -> Recording:
    assert takeover.plan is not None
    planned = frozenset(p for change in takeover.plan.changes for p in change.permissions)
    return Recording(tuple(takeover.run.aws.calls), planned)


@contextmanager
def account(folder: Path, **more: Any) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch, world(folder, patch, ubuntu(), **more) as made:
        yield made


def run_stage(folder: Path, stage: Any) -> Iterator[Recording]:
    """A takeover, taken back and made again; one after somebody set things otherwise, and its undo."""
    with account(folder, managed_policies=True) as made:
        first = made.take(stage)
        state = backup_state(ACCOUNT, REGION)
        state.points.clear()  # a vault that holds some is not deleted, rightly
        state.tokens.clear()
        calls = recording(first)
        yield Recording(calls.calls, calls.planned, made.undo(first, stage).run.aws.calls)
        made.take(stage)
        _set_otherwise(made, stage)
        second = made.start(stage)
        made.go(second)
        done = recording(second)
        yield Recording(done.calls, done.planned, made.undo(second, stage).run.aws.calls)


def run_refused(folder: Path) -> Iterator[Recording]:
    """A host that takes the document neither from State Manager nor from Run Command."""
    with account(folder) as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs_prove, "PATIENCE_S", 0.0)
        for node in made.nodes.values():
            node.ends["aws:runShellScript"] = "Failed"
        yield recording(made.take(LOGS))


def _set_otherwise(made: World, stage: Any) -> None:
    if stage is BACKUP:
        made.policy = PolicyConfig(backup_retention_days=made.policy.backup_retention_days + 1)
    if stage is LOGS:
        logs = made.client("logs")
        for group in logs.describe_log_groups()["logGroups"]:
            logs.delete_retention_policy(logGroupName=group["logGroupName"])
    if stage is PATCH:
        ssm = made.client("ssm")
        windows = ssm.describe_maintenance_windows()["WindowIdentities"]
        window_id = next(window["WindowId"] for window in windows if window["Name"] == WINDOW)
        ssm.update_maintenance_window(WindowId=window_id, Duration=2)
        (target,) = ssm.describe_maintenance_window_targets(WindowId=window_id)["Targets"]
        other = [{"Key": "tag:haltuun:armed", "Values": ["no"]}]
        ssm.update_maintenance_window_target(
            WindowId=window_id, WindowTargetId=target["WindowTargetId"], Targets=other
        )
        (task,) = ssm.describe_maintenance_window_tasks(WindowId=window_id)["Tasks"]
        ssm.update_maintenance_window_task(
            WindowId=window_id, WindowTaskId=task["WindowTaskId"], MaxErrors="2"
        )
        rows = ssm.list_associations()["Associations"]
        scan = next(row for row in rows if row.get("AssociationName") == SCAN)
        # What UpdateAssociation is not told it takes away.
        ssm.update_association(
            AssociationId=scan["AssociationId"],
            AssociationName=SCAN,
            ScheduleExpression="rate(1 day)",
            Targets=scan["Targets"],
            Parameters={"Operation": ["Scan"], "RebootOption": ["NoReboot"]},
        )


def run_verify(folder: Path) -> Iterator[Recording]:
    """Discover and verify: hosts with faults of roles and network, a compromised one, an ECS member; and the
    lineage of images, which moto does not keep."""
    demo = load_scenario("demo")
    wanted = [host for host in demo.hosts if host.name in ("web-01", "batch-01", "intern-01", "files-01")]
    suspect = demo.host("web-02").model_copy(update={"compromised": True})
    scenario = demo.model_copy(update={"hosts": [*wanted, suspect]})
    with pytest.MonkeyPatch.context() as patch, seeded(scenario, folder, patch) as made:
        _join_cluster(made.account, made.ids["web-01"])
        first = made.start()
        made.go(first)
        kin = [{"ImageId": "ami-1", "SourceImageId": "ami-2"}, {"ImageId": "ami-3"}]
        with pytest.raises(NotImplementedByEndpoint):
            get_lineage(first.run.aws, REGION, kin)
        yield recording(first)
        second = made.start()
        done = recording(second)
        second.end("Done")
        undoing = take_back(made.config(), made.ledger, first.run.id, list(first.stages.values()))
        yield Recording(done.calls, done.planned, undoing.run.aws.calls)


def _join_cluster(made: Account, instance_id: str) -> None:
    ecs = made.client("ecs")
    ecs.create_cluster(clusterName="web")
    identity = {"instanceId": instance_id}
    ecs.register_container_instance(cluster="web", instanceIdentityDocument=json.dumps(identity))


def run_commands(folder: Path) -> Iterator[Recording]:
    """Run Command as a way to a host, its time running out, and the echo that repair proves with."""
    with account(folder) as made:
        takeover = made.start(PATCH)
        (instance_id,) = made.nodes
        host = Host(account=ACCOUNT, region=REGION, instance_id=instance_id)
        transport = RunCommandTransport(takeover.run.aws, host)
        assert transport.run("echo here", timeout_s=20).stdout == "here\n"
        made.nodes[instance_id].ends["AWS-RunShellScript"] = "InProgress"
        with pytest.raises(CommandTimeout):
            transport.run("sleep 60", timeout_s=1)
        lines = {"commands": [f"echo {uuid.uuid4().hex}"]}
        sent = send(takeover.run, REGION, [instance_id], "AWS-RunShellScript", lambda _: lines, "test")
        assert set(get_answers(takeover.run, REGION, sent.commands[instance_id], [instance_id])) == {
            instance_id
        }
        takeover.end("Done")
        yield recording(takeover)


def run_deregister(folder: Path) -> Iterator[Recording]:
    with account(folder) as made:
        takeover = made.start(PATCH)
        known = {"last_ping": datetime(2025, 1, 1, tzinfo=UTC), "activation_id": "activation-1"}
        ssm_state(ACCOUNT, REGION).put_node(MI, **known)
        REPAIR.probe_account(takeover.run, list(takeover.hosts.values()))
        (change,) = plan_orphans(orphans_view(left()))
        assert Performer(takeover.run, {StageName.repair: REPAIR}).perform(change).status == "done"
        takeover.end("Done")
        yield Recording(tuple(takeover.run.aws.calls), frozenset(change.permissions))


def run_plan(folder: Path) -> Iterator[Recording]:
    with account(folder, managed_policies=True) as made:
        takeover = made.start(BACKUP, mode="plan")
        assert takeover.run.aws.read_only
        takeover.end("Planned")
        yield recording(takeover)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Recording]]:
    made = tmp_path_factory.mktemp("recorded")
    runs = {
        "patch": run_stage(made / "patch", PATCH),
        "backup": run_stage(made / "backup", BACKUP),
        "logs": run_stage(made / "logs", LOGS),
        "refused": run_refused(made / "refused"),
        "verify": run_verify(made / "verify"),
        "commands": run_commands(made / "commands"),
        "deregister": run_deregister(made / "deregister"),
        "plan": run_plan(made / "plan"),
    }
    for name in runs:
        (made / name).mkdir()
    return {name: list(run) for name, run in runs.items()}


def test_a_run_keeps_to_the_list(recorded: dict[str, list[Recording]]) -> None:
    known = declared()
    read = {action for statement in known.policy("read")["Statement"] for action in statement["Action"]}
    for name, run in ((name, run) for name, runs in recorded.items() for run in runs):
        assert actions(run.calls, mutating=False) <= read | {a.action for a in known.free}, name
        assert run.planned <= known.actions(), name
        written = actions(run.calls, mutating=True)
        assert written <= run.planned | PROOFS, name
        assert written <= known.actions("call"), f"{name}: marked as for undo only"


def test_an_undo_keeps_to_the_list(recorded: dict[str, list[Recording]]) -> None:
    known = declared()
    for name in ("patch", "backup", "logs", "verify"):
        undone = actions([call for run in recorded[name] for call in run.undo], mutating=True)
        assert undone <= known.actions("call", "undo"), name
        assert undone & known.actions("undo"), name


def test_a_plan_needs_the_read_policy_alone(recorded: dict[str, list[Recording]]) -> None:
    (plan,) = recorded["plan"]
    assert actions(plan.calls, mutating=True) == set()
    assert plan.planned


def test_every_action_of_the_list_is_called(recorded: dict[str, list[Recording]]) -> None:
    """Those that no call shows stand in the list with their source instead."""
    calls = [c for runs in recorded.values() for run in runs for c in (*run.calls, *run.undo)]
    called = actions(calls, mutating=True) | actions(calls, mutating=False)
    known = declared()
    assert known.actions("call", "undo") - called == set()
    assert {action.action for action in known.free} <= called
