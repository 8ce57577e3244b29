"""Flow runs of processes that were killed: nobody told the server, and they would stay Running for ever.

Each flow of Haltuun says in its run's labels which process works on it and for which account. The next
one tells of those whose process is there no more that they crashed. What it cannot know it leaves: a
process of another machine, unless it is a run that lost the account's lease to this one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.states import Crashed

from haltuun.ledger import RunRow
from haltuun.processes import is_gone, is_here, machine, process
from haltuun.run import Run

log = logging.getLogger("haltuun")

FLOWS = ("take-over-account", "undo-run", "retry-hosts", "onboard-accounts", "recheck-waiting-hosts")
SEVERAL = "several"  # in the place of an account's id
ACCOUNT, MACHINE, PROCESS = "haltuun.account", "haltuun.machine", "haltuun.process"
RUN_COUNT = "haltuun.run_count"  # which beginning of the flow run the labels are of
UNENDED = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}

Labels = Mapping[str, object]


def take_up(account: str) -> None:
    """To be called first in a flow: whose run this is, and what killed ones of the account became.

    It is the window, not the truth: whatever the server answers, this never ends a run.

    Args:
        account: its id, or SEVERAL.
    """

    def told(client: SyncPrefectClient) -> None:
        own = client.read_flow_run(UUID(str(runtime.flow_run.id)))
        labels = {ACCOUNT: account, MACHINE: machine(), PROCESS: process(os.getpid())}
        client.update_flow_run_labels(own.id, {**labels, RUN_COUNT: own.run_count})
        found = client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": list(FLOWS)}}),
            flow_run_filter=FlowRunFilter.model_validate({"state": UNENDED}),
        )
        dead = [one for one in found if is_dead(one, account)]
        _crash(client, dead, account, "Its process was killed.")

    _tell(told)


def end_left_open(run: Run) -> None:
    """Once `run` has the account's lease, also those of other machines: none of them may change anything."""
    dead = dead_runs(run.ledger.runs(run.account.id), run.id)
    ids = [one.body["prefect_run"] for one in dead if one.body.get("prefect_run")]

    def told(client: SyncPrefectClient) -> None:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": ids}, "state": UNENDED})
        )
        still = [one for one in found if not _is_alive(one.labels) and not begun_anew(one)]
        message = f"Its process was killed, or asleep for too long; run {run.id} goes on from there."
        _crash(client, still, run.account.id, message)

    if ids:
        _tell(told)


def dead_runs(runs: Sequence[RunRow], own: str) -> list[RunRow]:
    """Of an account's runs those that changed things under a lease which `own` holds now, and never ended.
    Pure."""
    return [run for run in runs if run.run != own and run.mode != "plan" and run.ended_at is None]


def is_dead(run: FlowRun, account: str) -> bool:
    """Whether a run of the account, or of several, is of a process that is known to be there no more."""
    whose = run.labels.get(ACCOUNT)
    return whose in (account, SEVERAL) and not begun_anew(run) and is_gone(*_whose(run.labels))


def begun_anew(run: FlowRun) -> bool:
    """Whether its labels are of an earlier beginning: the UI's Retry begins the same flow run again, and
    until it labels itself nobody knows its process. Without labels it is not known to be.

    One that is killed before it labels itself anew stays Running, then, which is
    better than a living one called dead."""
    if ACCOUNT not in run.labels:
        return False
    pending = run.state is not None and run.state.is_pending()
    return pending or run.labels.get(RUN_COUNT) != run.run_count


def _is_alive(labels: Labels) -> bool:
    return is_here(*_whose(labels))


def _whose(labels: Labels) -> tuple[str, str]:
    return str(labels.get(MACHINE, "")), str(labels.get(PROCESS, ""))


def _tell(told: Callable[[SyncPrefectClient], None]) -> None:
    try:
        with get_client(sync_client=True) as client:
            told(client)
    except Exception as error:
        log.warning("runs that were killed could not be marked in the run history: %s", error)


def _crash(client: SyncPrefectClient, dead: Iterable[FlowRun], account: str, message: str) -> None:
    whole = {one.id: one for one in dead}
    fresh = list(whole)
    while fresh:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(
                {"parent_flow_run_id": {"any_": fresh}, "state": UNENDED}
            )
        )
        # Another account's own next run tells of it.
        mine = [
            one
            for one in found
            if one.labels.get(ACCOUNT, account) in (account, SEVERAL) and not begun_anew(one)
        ]
        fresh = [one.id for one in mine if one.id not in whole]
        whole |= {one.id: one for one in mine}
    if not whole:
        return
    ids = list(whole)
    told: set[UUID] = set()
    # The server gives a page of them; those that have ended are not on the next one.
    while tasks := [task for task in _unended_tasks(client, ids) if task.id not in told]:
        for task in tasks:
            client.set_task_run_state(task.id, Crashed(message=message), force=True)
            told.add(task.id)
    for flow_run in reversed(ids):
        client.set_flow_run_state(flow_run, Crashed(message=message), force=True)


def _unended_tasks(client: SyncPrefectClient, flow_runs: Sequence[UUID]) -> list[TaskRun]:
    return client.read_task_runs(
        flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": flow_runs}}),
        task_run_filter=TaskRunFilter.model_validate({"state": UNENDED}),
    )
