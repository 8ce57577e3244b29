"""The tasks of a stage. One module serves all six: the engine is the same, only the stage differs.

What a task learns is in the ledger before it returns; the objects stay in this process and are
found by the run's id, because Prefect refuses and logs large parameters.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed, State

from haltuun.engine import Takeover, session
from haltuun.model import HostStatus, StageName, StagePlan, Verdict
from haltuun.stopping import until_asked
from tasks.tagging import tag_task_run

# Lines of a plan in a task run's log. All of ten thousand hosts' would wait in memory for the server to
# take them, and nobody reads so many there.
LOGGED = 200
LOOK = {"persist_result": False, "cache_policy": NO_CACHE}


def about(run_id: str, stage: StageName, hosts: Sequence[str] = ()) -> Takeover:
    """The run's takeover; the task run is tagged with what it is about."""
    takeover = session(run_id)
    tag_task_run(takeover.run.account.label, stage, hosts)
    return takeover


_SEVERITY = {Verdict.passed: logging.INFO, Verdict.excluded: logging.INFO, Verdict.waiting: logging.WARNING}


@task(task_run_name="look {stage} account", **LOOK)
def look_account(run_id: str, stage: StageName) -> None:
    about(run_id, stage).look_account(stage)


@task(task_run_name="look {stage} {label}", **LOOK)
def look_hosts(run_id: str, stage: StageName, hosts: Sequence[str], label: str) -> None:
    takeover = about(run_id, stage, hosts)
    for host in until_asked(hosts):
        takeover.look_host(stage, host)


@task(task_run_name="plan {stage}", **LOOK)
def plan_stage(run_id: str, stage: StageName) -> None:
    takeover = about(run_id, stage)
    takeover.settle(stage)
    plan = takeover.plan_stage(stage)
    logger = get_run_logger()
    for level, line in plan_lines(plan):
        logger.log(level, "%s", line)


def plan_lines(plan: StagePlan) -> Iterator[tuple[int, str]]:
    """What a task run's log says of a plan, with the level of each line. Pure."""
    for change in plan.changes[:LOGGED]:
        yield logging.INFO, f"{change.id} {change.summary} ({change.reach.value})"
    for barred in plan.barred[:LOGGED]:
        yield logging.WARNING, f"{barred.host} {barred.code}: {barred.message} {barred.remedy}"
    more = sum(max(0, len(told) - LOGGED) for told in (plan.changes, plan.barred))
    if more:
        yield logging.INFO, f"and {more} more: see the plan among the artifacts"


@task(task_run_name="change {stage} account", **LOOK)
def apply_account(run_id: str, stage: StageName) -> None:
    logger = get_run_logger()
    for outcome in about(run_id, stage).apply_account(stage):
        logger.info("%s: %s %s", outcome.status, outcome.change.summary, outcome.message)


@task(task_run_name="work {stage} {label}", **LOOK)
def work_hosts(run_id: str, stage: StageName, hosts: Sequence[str], label: str) -> None:
    takeover, logger = about(run_id, stage, hosts), get_run_logger()
    for host in until_asked(hosts):
        for outcome in takeover.work_host(stage, host):
            logger.info("%s %s: %s %s", host, outcome.status, outcome.change.summary, outcome.message)
        if takeover.was_touched(stage, host):
            takeover.look_host(stage, host)


@task(task_run_name="prove {stage}", **LOOK)
def prove(run_id: str, stage: StageName) -> None:
    get_run_logger().info("%d new proof(s)", about(run_id, stage).prove(stage))


@task(task_run_name="{stage} {label}", **LOOK)
def verdict(run_id: str, stage: StageName, hosts: Sequence[str], label: str) -> State[Any]:
    """Where people look for a host in the run history: red when it is held, with why and what to do."""
    takeover, logger = about(run_id, stage, hosts), get_run_logger()
    statuses = {host: takeover.progress[stage].statuses[host] for host in hosts}
    for host, status in statuses.items():
        logger.log(_SEVERITY.get(status.verdict, logging.ERROR), "%s", sentence(host, status))
    red = {host: s for host, s in statuses.items() if s.verdict in (Verdict.held, Verdict.unknown)}
    if red:
        host, status = next(iter(red.items()))
        more = f" (and {len(red) - 1} more)" if len(red) > 1 else ""
        return Failed(name="Held", message=sentence(host, status) + more, data=_data(statuses))
    first = next(iter(statuses.values()))
    name = first.verdict.value.capitalize() if len(statuses) == 1 else "Judged"
    message = sentence(next(iter(statuses)), first) if len(statuses) == 1 else f"{len(statuses)} hosts"
    return Completed(name=name, message=message, data=_data(statuses))


def sentence(host: str, status: HostStatus) -> str:
    said = " ".join(filter(None, [status.reason and f"{status.reason}:", status.message, status.remedy]))
    return f"{host} {status.verdict.value}" + (f": {said}" if said else "")


def _data(statuses: dict[str, HostStatus]) -> dict[str, Any]:
    return {host: status.model_dump(mode="json") for host, status in statuses.items()}
