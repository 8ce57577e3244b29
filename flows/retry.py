"""Retry the hosts that are held."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Completed, State

from flows.takeover import approver_of, ended, in_a_sentence, take_over_account
from haltuun.causes import Decision
from haltuun.config import find_config, load_config
from haltuun.engine import open_run
from haltuun.ledger import Ledger
from haltuun.model import StageName
from haltuun.reach import open_host
from haltuun.retrying import (
    by_stage,
    decisions,
    from_stage,
    held_in,
    not_held,
    on_begun,
    on_decided,
    record_tries,
    unfinished,
    worth_a_look,
)
from haltuun.stages.discover import list_hosts
from haltuun.stages.order import STAGES
from haltuun.unasked import worst
from tasks.leftovers import take_up
from tasks.publish import publish_retry


@flow(name="retry-hosts", flow_run_name="retry {account}", persist_result=False)
@in_a_sentence
def retry_hosts(
    account: str,
    stage: StageName | None = None,
    hosts: list[str] = [],  # noqa: B006 - a plain list is a plain field in the UI's form
    force: bool = False,
    plan_hash: str = "",
    approve_all: bool = False,
    approved_by: str = "",
) -> State[Any]:
    """Look at the held hosts again, and work on those whose cause has moved.

    The look changes nothing. Then it says of each host what has changed since it was held, whether it
    is tried again and why; changes begin at the stage that held it. A host that was worse after a change
    is left alone unless it is named; no host is tried more often than policy.max_tries for one cause. Where
    a change failed without any effect and the host still shows why, only `force` tries it.

    Args:
        account: Id (12 digits) or alias of an account in haltuun.yaml.
        stage: Only the hosts that are held in this stage; empty means any.
        hosts: Only these instance ids; empty means all that are held but none that was worse after a change.
        force: Also try hosts of which nothing that holds them has changed.
        plan_hash: Hash of the plan that you approve, from its artifact; empty approves nothing.
        approve_all: Approve every change of this run unseen; it is recorded as that.
        approved_by: Your name; recorded with the approval. Through a deployment nothing is approved without.
    """
    if plan_hash or approve_all:
        approver_of(approved_by)
    config = load_config(find_config(None))
    of = config.account(account)
    take_up(of.id)
    ledger = Ledger(config.ledger_url)
    held = held_in(ledger, of.id, stage, hosts)
    # In the UI's form, too, a name or a host that nothing holds must not pass without a word.
    others = [f"{host} {said}" for host, said in not_held(hosts, held, ledger.hosts(of.id), stage).items()]
    others += filter(None, [unfinished(ledger, of.id, of.label)])
    for one in others:
        get_run_logger().warning(one)
    if not held:
        message = " ".join(["No host is held there.", *others])
        return Completed(name="NothingToDo", message=message, data=_data([], []))
    listing = open_run(config, account, "plan", open_host, ledger=ledger)
    listing.aws.confirm_account()
    there = [host.instance_id for host in list_hosts(listing)]
    asked = worth_a_look(ledger, of.id, held, hosts, there)
    looked = take_over_account(account=account, mode="plan", hosts=asked)["run"] if asked else ""
    decided = decisions(
        ledger,
        of.id,
        of.label,
        STAGES,
        held,
        looked,
        asked,
        there,
        named=hosts,
        force=force,
        max_tries=config.policy.max_tries,
    )
    on_decided.get()(decided)
    for one in decided:
        get_run_logger().info(
            "%s %s: %s %s: %s %s", one.action, one.host, one.stage.value, one.reason, one.why, one.remedy
        )
    publish_retry(of.label, decided)
    results = []
    for held_by, chosen in by_stage(one for one in decided if one.retried):
        token = on_begun.set(partial(record_tries, tried=chosen))
        try:
            state = take_over_account(
                account=account,
                stages=from_stage(held_by),
                hosts=[one.host for one in chosen],
                plan_hash=plan_hash,
                approve_all=approve_all,
                approved_by=approved_by,
                return_state=True,
            )
        finally:
            on_begun.reset(token)
        results.append(_result(state))
    return _ended(decided, results)


def _result(state: State[Any]) -> dict[str, Any]:
    """What the run returned, also where a gate blocked it; raises what it raised."""
    data = state.result(raise_on_failure=False)
    if isinstance(data, BaseException):
        raise data
    return dict(data)


def _ended(decided: list[Decision], results: list[dict[str, Any]]) -> State[Any]:
    data = _data(decided, results)
    tried = sum(one.retried for one in decided)
    message = f"{tried} of {len(decided)} held host(s) retried; see the table of decisions."
    return ended(data["outcome"], message, data)


def _data(decided: list[Decision], results: list[dict[str, Any]]) -> dict[str, Any]:
    """As of the run that ended worst, with the decisions."""
    none = {"run": None, "plan_hash": "", "outcome": "NothingRetried"}
    told = next((result for result in results if result["outcome"] == worst(results)), none)
    return {**told, "retry": [one.model_dump(mode="json") for one in decided]}
