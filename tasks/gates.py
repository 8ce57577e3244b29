"""The gate of a stage as a task: red when it blocks the account."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from haltuun.model import StageName
from haltuun.report.render import count_sentence
from tasks.publish import publish_gate
from tasks.stages import about


@task(task_run_name="gate {stage}", persist_result=False, cache_policy=NO_CACHE)
def gate(run_id: str, stage: StageName) -> State[Any]:
    takeover = about(run_id, stage)
    statuses = takeover.gate(stage)
    publish_gate(takeover, stage)
    message = count_sentence(statuses.values())
    if takeover.progress[stage].blocked:
        return Failed(name="GateBlocked", message=takeover.progress[stage].blocked)
    return Completed(message=message)
