"""Retry the hosts that are held."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Completed, State

from flows.takeover import take_over_account
from haltuun.attention import held_hosts
from haltuun.config import find_config, load_config
from haltuun.ledger import Ledger
from haltuun.model import StageName


@flow(name="retry-hosts", flow_run_name="retry {account}", persist_result=False)
def retry_hosts(
    account: str,
    stage: StageName | None = None,
    hosts: list[str] = [],  # noqa: B006 - a plain list is a plain field in the UI's form
    plan_hash: str = "",
    approve_all: bool = False,
) -> State[Any]:
    """Look and judge the held hosts again from discover; those that are not held are left alone.

    Args:
        account: Id (12 digits) or alias of an account in haltuun.yaml.
        stage: Only the hosts that are held in this stage; empty means any.
        hosts: Only these instance ids; empty means all that are held.
        plan_hash: Hash of the plan that you approve, from its artifact; empty approves nothing.
        approve_all: Approve every change of this run unseen; it is recorded as that.
    """
    config = load_config(find_config(None))
    of = config.account(account)
    held = held_hosts(Ledger(config.ledger_url).status(of.id), stage)
    chosen = [host for host in held if not hosts or host in hosts]
    logger = get_run_logger()
    for host in chosen:
        where, status = held[host]
        logger.info("retry %s: %s %s: %s", host, where.value, status.reason, status.message)
    if not chosen:
        return Completed(name="NothingToDo", message="No host is held there.")
    state: State[Any] = take_over_account(
        account=account, hosts=chosen, plan_hash=plan_hash, approve_all=approve_all, return_state=True
    )
    return state
