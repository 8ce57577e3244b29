"""Look again at the hosts that only time can help."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed, State

from flows.onboarding import failed_quietly, take_over_quietly
from flows.takeover import in_a_sentence
from haltuun.attention import Standing, due, waiting_hosts
from haltuun.config import AccountConfig, Config, find_config, load_config
from haltuun.engine import open_run
from haltuun.errors import HaltuunError
from haltuun.ledger import Ledger
from haltuun.reach import open_host
from haltuun.stages.discover import list_hosts
from tasks.leftovers import SEVERAL, take_up


@flow(name="recheck-waiting-hosts", flow_run_name="recheck waiting hosts", persist_result=False)
@in_a_sentence
def recheck_waiting_hosts() -> State[Any]:
    """All accounts: the waiting hosts whose next check has come are taken over again, one run an account.

    The date is compared with the account's own time, as AWS gives it. Where none has come, the next
    dates are said. A host that is gone is left out; an account that fails does not stop the others.
    """
    config = load_config(find_config(None))
    take_up(SEVERAL)
    ledger = Ledger(config.ledger_url)
    results = []
    for account in config.accounts:
        waiting = waiting_hosts(ledger.status(account.id))
        if waiting:
            results.append(_recheck(config, account, ledger, waiting))
    failed = [result["account"] for result in results if result["outcome"] == "Failed"]
    if failed:
        return Failed(message=f"Not looked at again: {', '.join(failed)}; see the log.", data=results)
    ran = sum(result["outcome"] != "NotDue" for result in results)
    return Completed(message=f"{ran} account(s) looked at again.", data=results)


def _recheck(config: Config, account: AccountConfig, ledger: Ledger, waiting: Standing) -> dict[str, Any]:
    """One account's run over its due hosts, or when its next dates are."""
    try:
        run = open_run(config, account.id, "plan", open_host, ledger=ledger)
        run.aws.confirm_account()
        there = {host.instance_id for host in list_hosts(run)}
    except HaltuunError as error:
        return failed_quietly(account.label, error)
    present = {host: one for host, one in waiting.items() if host in there}
    come = due(present, run.now())
    for host, (stage, status) in come.items():
        get_run_logger().info("%s: %s %s since %s", host, stage.value, status.reason, status.since)
    rest = _dates({host: one for host, one in present.items() if host not in come})
    if not come:
        return {"account": account.label, "outcome": "NotDue", "hosts": [], "next": rest}
    result = take_over_quietly(account.label, hosts=list(come))
    return {**result, "hosts": list(come), "next": rest}


def _dates(waiting: Standing) -> list[dict[str, str]]:
    """The soonest first."""
    rows = [
        {
            "host": host,
            "stage": stage.value,
            "reason": status.reason,
            "next_check": status.next_check.isoformat() if status.next_check else "",
        }
        for host, (stage, status) in waiting.items()
    ]
    return sorted(rows, key=lambda row: row["next_check"])
