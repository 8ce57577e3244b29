"""What a run is about, for the search in the run history: account, stage and host."""

from __future__ import annotations

from collections.abc import Iterable

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.context import TaskRunContext

from haltuun.model import StageName


def tags_of(account: str, stage: StageName | None = None, hosts: Iterable[str] = ()) -> list[str]:
    wanted = [f"account:{account}", *(f"host:{host}" for host in hosts)]
    return sorted([*wanted, f"stage:{stage.value}"] if stage else wanted)


def tag_flow_run(account: str, stage: StageName | None = None, hosts: Iterable[str] = ()) -> None:
    """For this flow run; a worker's has no caller who could tag it."""
    wanted = {*runtime.flow_run.tags, *tags_of(account, stage, hosts)}
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, tags=sorted(wanted))


def tag_task_run(account: str, stage: StageName | None = None, hosts: Iterable[str] = ()) -> None:
    """For this task run, from within: they are recorded when it ends.

    With the tags that a task starts with, Prefect asks its server for concurrency slots first, and
    where that is on SQLite, each new set of them waits about 2 s: the write is refused while another
    is under way (503), and tried again after that time (seen with 3.x, measured in `make bench`).
    """
    context = TaskRunContext.get()
    assert context is not None, "only a task run has tags of its own"
    context.task_run.tags = tags_of(account, stage, hosts)
