"""Begin with the accounts that were never taken over."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed, State

from flows.takeover import take_over_account
from haltuun.config import find_config, load_config
from haltuun.errors import HaltuunError
from haltuun.ledger import Ledger


@flow(name="onboard-accounts", persist_result=False)
def onboard_accounts() -> State[Any]:
    """Every account of the configuration that the ledger does not know: one run each.

    Nothing is approved: what concerns more than one host waits in each run's plan.
    """
    config = load_config(find_config(None))
    ledger = Ledger(config.ledger_url)
    new = [a for a in config.accounts if not any(r.mode == "apply" for r in ledger.runs(a.id))]
    results = [take_over_quietly(account.label) for account in new]
    failed = [result["account"] for result in results if result["outcome"] == "Failed"]
    if failed:
        return Failed(message=f"Not begun: {', '.join(failed)}; see their runs.", data=results)
    return Completed(message=f"{len(results)} account(s) begun.", data=results)


def take_over_quietly(account: str, hosts: list[str] | None = None) -> dict[str, Any]:
    """One account's run; its failure is a value, so that it does not stop its neighbours."""
    state = take_over_account(account=account, hosts=hosts or [], return_state=True)
    data = state.result(raise_on_failure=False)
    if isinstance(data, dict):
        return {"account": account, **data}
    reason = str(data) if isinstance(data, HaltuunError) else f"{type(data).__name__}: {data}"
    get_run_logger().error("%s: %s", account, reason)
    return {"account": account, "outcome": "Failed", "error": reason}
