"""The tasks of an undo, as thin as those of a stage."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prefect import task
from prefect.logging import get_run_logger

from haltuun.stopping import until_asked
from haltuun.undo import SETTLED, Step, Undoing, session
from tasks.stages import LOOK
from tasks.tagging import tag_task_run


@task(task_run_name="look at what would go back", **LOOK)
def preview(undo: str, changes: Sequence[str]) -> None:
    about(undo).preview(changes)


@task(task_run_name="undo {label}", **LOOK)
def undo_hosts(undo: str, hosts: Sequence[str], label: str) -> None:
    undoing = about(undo, hosts)
    for host in until_asked(hosts):
        _tell(undoing.act_on_host(host))


@task(task_run_name="undo account", **LOOK)
def undo_account(undo: str) -> None:
    _tell(about(undo).act_on_account())


def about(undo: str, hosts: Sequence[str] = ()) -> Undoing:
    """The undo; the task run is tagged with what it is about."""
    undoing = session(undo)
    tag_task_run(undoing.run.account.label, hosts=hosts)
    return undoing


def _tell(steps: Sequence[Step]) -> None:
    for step in steps:
        level = logging.INFO if step.status in SETTLED else logging.ERROR
        get_run_logger().log(level, "%s: %s %s", step.status, step.change.summary, step.message)
