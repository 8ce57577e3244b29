"""Begin with the accounts that were never taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.takeover import ended, finish, in_a_sentence, take_over_account
from haltuun.config import find_config, load_config
from haltuun.errors import HaltuunError
from haltuun.ledger import Ledger
from haltuun.model import StageName
from haltuun.unasked import OPEN, given_up, worst
from tasks.leftovers import SEVERAL, take_up
from tasks.publish import publish_onboarding


@flow(name="onboard-accounts", flow_run_name="onboard accounts", persist_result=False)
@in_a_sentence
def onboard_accounts(at_once: Annotated[int, Field(ge=1, le=10)] = 2) -> State[Any]:
    """Every account of the configuration of which no takeover came to an end of its own: one run each.

    Nothing is approved: what concerns more than one host waits in each run's plan. An account that
    fails does not stop the others, and is begun again the next time. One that was begun policy.max_tries
    times in vain is left to a person.

    Args:
        at_once: How many accounts are worked on side by side.
    """
    config = load_config(find_config(None))
    take_up(SEVERAL)
    ledger = Ledger(config.ledger_url)
    unbegun = [a for a in config.accounts if not ledger.was_begun(a.id)]
    left = {
        a.label: given_up(a.label, ledger.runs(a.id), config.policy.max_tries, ledger.at_work(a.id))
        for a in unbegun
    }
    new = [a for a in unbegun if not left[a.label]]
    for label, why in left.items():
        if why:
            get_run_logger().warning("%s: %s", label, why)
    with ThreadPoolTaskRunner(max_workers=at_once) as runner:
        begun = [runner.submit(begin_account, {"account": account.label}) for account in new]
        finish(begun)
    results = [future.result() for future in begun]
    waits = [{"account": a, "outcome": "NotBegun", "error": why} for a, why in left.items() if why]
    told = [*results, *waits]
    if told:
        publish_onboarding(told)
    failed = [result["account"] for result in results if result["outcome"] == "Failed"]
    if failed:
        return Failed(message=f"Not begun: {', '.join(failed)}; see their runs.", data=told)
    more = (
        [f"Waits for a person: {', '.join(one['account'] for one in waits)}; see the table."] if waits else []
    )
    message = " ".join([f"{len(results)} account(s) begun.", *not_through(results), *more])
    return ended(worst(told), message, told)


def not_through(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """In a sentence: the accounts whose run left something, and what it ended as."""
    some = [f"{one['account']}: {one['outcome']}" for one in results if one["outcome"] in OPEN]
    return [f"Not through: {', '.join(some)}."] if some else []


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
