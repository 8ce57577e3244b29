"""Begin with the accounts that were never taken over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.takeover import finish, in_a_sentence, take_over_account
from haltuun.config import find_config, load_config
from haltuun.errors import HaltuunError
from haltuun.ledger import Ledger
from haltuun.model import StageName
from tasks.leftovers import SEVERAL, take_up


@flow(name="onboard-accounts", flow_run_name="onboard accounts", persist_result=False)
@in_a_sentence
def onboard_accounts(at_once: Annotated[int, Field(ge=1, le=10)] = 2) -> State[Any]:
    """Every account of the configuration that the ledger does not know: one run each.

    Nothing is approved: what concerns more than one host waits in each run's plan. An account that
    fails does not stop the others.

    Args:
        at_once: How many accounts are worked on side by side.
    """
    config = load_config(find_config(None))
    take_up(SEVERAL)
    ledger = Ledger(config.ledger_url)
    new = [a for a in config.accounts if not ledger.was_begun(a.id)]
    with ThreadPoolTaskRunner(max_workers=at_once) as runner:
        begun = [runner.submit(begin_account, {"account": account.label}) for account in new]
        finish(begun)
    results = [future.result() for future in begun]
    failed = [result["account"] for result in results if result["outcome"] == "Failed"]
    if failed:
        return Failed(message=f"Not begun: {', '.join(failed)}; see their runs.", data=results)
    return Completed(message=f"{len(results)} account(s) begun.", data=results)


@task(task_run_name="begin {account}", persist_result=False, cache_policy=NO_CACHE)
def begin_account(account: str) -> dict[str, Any]:
    return take_over_quietly(account)


def take_over_quietly(
    account: str, hosts: Sequence[str] = (), stages: Sequence[StageName] = ()
) -> dict[str, Any]:
    """One account's run; its failure is a value, so that it does not stop its neighbours."""
    state = take_over_account(account=account, hosts=list(hosts), stages=list(stages), return_state=True)
    data = state.result(raise_on_failure=False)
    if isinstance(data, dict):
        return {"account": account, **data}
    return failed_quietly(account, data)


def failed_quietly(account: str, error: object) -> dict[str, Any]:
    """The outcome of an account with which nothing could be begun."""
    reason = str(error) if isinstance(error, HaltuunError) else f"{type(error).__name__}: {error}"
    get_run_logger().error("%s: %s", account, reason)
    return {"account": account, "outcome": "Failed", "error": reason}
