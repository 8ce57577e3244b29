"""Take a run's changes back."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, runtime
from prefect.states import Completed, State

from flows.takeover import STOPPED, approver_of, batches, finish, in_a_sentence, wide
from haltuun.config import find_config, load_config
from haltuun.ledger import Ledger
from haltuun.reach import open_host
from haltuun.stages.order import STAGES
from haltuun.stopping import heed
from haltuun.undo import Undoing, drop, keep, open_undo, session
from tasks import undo as work
from tasks.leftovers import end_left_open, take_up
from tasks.publish import publish_standing, publish_undo
from tasks.tagging import tag_flow_run


@flow(name="undo-run", flow_run_name="undo {run}", persist_result=False)
@in_a_sentence
def undo_run(run: str, approve: bool = False, approved_by: str = "") -> State[Any]:
    """Take back what a run changed, the last first, where nobody has changed it since.

    What must not be deleted (recovery points, log data, the vault that holds them) stays and is named.

    Args:
        run: Id of the run, as its summary artifact and 'haltuun status' name it.
        approve: Do it. Without this it looks at what would go back and changes nothing.
        approved_by: Your name; recorded with the approval. Through a deployment nothing is approved without.
    """
    who = approver_of(approved_by) if approve else ""
    config = load_config(find_config(None))
    ledger = Ledger(config.ledger_url)
    undoing = open_undo(config, run, approved=approve, stages=STAGES, opener=open_host, ledger=ledger)
    label = undoing.run.account.label
    take_up(undoing.run.account.id)
    keep(undoing)
    outcome = "Failed"
    try:
        undoing.begin(who, str(runtime.flow_run.id))
        tag_flow_run(label)
        if approve:
            end_left_open(undoing.run)
        get_run_logger().info("%d change(s) of run %s are in effect", len(undoing.steps), run)
        wide(take_back if approve else look_at, config)(undoing.run.id, label)
        outcome = undoing.outcome()
        publish_undo(undoing, outcome)
    except STOPPED:
        outcome = "Stopped"
        raise
    finally:
        undoing.end(outcome)
        drop(undoing.run.id)
        publish_standing(undoing.run)
    return Completed(name=outcome, message=count(undoing), data=document(undoing, outcome))


@flow(name="look-at-undo", flow_run_name="look at undo {account}", persist_result=False)
def look_at(undo: str, account: str) -> None:
    """Look at what would go back, change nothing."""
    tag_flow_run(account)
    steps = [step.change.id for step in session(undo).steps]
    finish(work.preview.submit(undo, steps[start : start + 20]) for start in range(0, len(steps), 20))


@flow(name="take-back", flow_run_name="take back {account}", persist_result=False)
def take_back(undo: str, account: str) -> None:
    """The hosts' own changes in waves, then the account's; of an undo of an undo the account's first."""
    tag_flow_run(account)
    undoing = session(undo)
    if undoing.account_first:
        heed()
        work.undo_account(undo)
    for wave in undoing.waves():
        heed()
        finish(work.undo_hosts.submit(undo, batch, label) for batch, label in batches(undoing.hosts, wave))
    if not undoing.account_first:
        work.undo_account(undo)


def document(undoing: Undoing, outcome: str) -> dict[str, Any]:
    """The stable form of `undo --json`."""
    return {
        "account": undoing.run.account.id,
        "run": undoing.run.id,
        "undoes": undoing.of,
        "outcome": outcome,
        "steps": [
            {
                **step.change.public(),
                "status": step.status,
                "message": step.message,
                "in_turn": step.in_turn,
                "not_in_turn": step.not_in_turn,
                "takes_back": step.inverse.id if step.inverse else None,
                "concerns": list(step.inverse.concerns) if step.inverse else [],
            }
            for step in undoing.steps
        ],
    }


def count(undoing: Undoing) -> str:
    """`3 done, 1 kept`"""
    statuses = [step.status for step in undoing.steps]
    return ", ".join(f"{statuses.count(s)} {s}" for s in dict.fromkeys(statuses)) or "nothing is in effect"
