"""Flow runs of processes that were killed: nobody told the server, and they would stay Running for ever."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import TaskRun
from prefect.states import Crashed

from haltuun.ledger import RunRow
from haltuun.run import Run

log = logging.getLogger("haltuun")

UNENDED = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}


def dead_runs(runs: Sequence[RunRow], own: str) -> list[RunRow]:
    """Of an account's runs those that changed things under a lease which `own` holds now, and never ended.
    Pure."""
    return [run for run in runs if run.run != own and run.mode != "plan" and run.ended_at is None]


def end_left_open(run: Run) -> None:
    """Tell the server that they crashed. It is the window, not the truth: this never ends a run."""
    dead = dead_runs(run.ledger.runs(run.account.id), run.id)
    ids = [UUID(str(one.body["prefect_run"])) for one in dead if one.body.get("prefect_run")]
    if not ids:
        return
    try:
        with get_client(sync_client=True) as client:
            _crash(client, ids, f"Its process was killed; run {run.id} goes on from there.")
    except Exception as error:
        log.warning("runs that were killed could not be marked in the run history: %s", error)


def _crash(client: SyncPrefectClient, ids: Iterable[UUID], message: str) -> None:
    parents = list(ids)
    unended = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": parents}, "state": UNENDED})
    )
    children = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(
            {"parent_flow_run_id": {"any_": parents}, "state": UNENDED}
        )
    )
    whole = [one.id for one in (*unended, *children)]
    if not whole:
        return
    told: set[UUID] = set()
    # The server gives a page of them; those that have ended are not on the next one.
    while tasks := [task for task in _unended_tasks(client, whole) if task.id not in told]:
        for task in tasks:
            client.set_task_run_state(task.id, Crashed(message=message), force=True)
            told.add(task.id)
    for flow_run in reversed(whole):
        client.set_flow_run_state(flow_run, Crashed(message=message), force=True)


def _unended_tasks(client: SyncPrefectClient, flow_runs: Sequence[UUID]) -> list[TaskRun]:
    return client.read_task_runs(
        flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": flow_runs}}),
        task_run_filter=TaskRunFilter.model_validate({"state": UNENDED}),
    )
