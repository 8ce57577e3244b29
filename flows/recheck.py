"""Look again at the hosts that only time can help."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Failed, State

from flows.onboarding import failed_quietly, not_through, take_over_quietly
from flows.takeover import ended, in_a_sentence
from haltuun.attention import Standing, due, waiting_hosts
from haltuun.config import AccountConfig, Config, find_config, load_config
from haltuun.engine import open_run
from haltuun.errors import HaltuunError
from haltuun.ledger import Ledger
from haltuun.reach import open_host
from haltuun.stages.discover import list_hosts
from haltuun.unasked import by_stages, left_alone, worst
from tasks.leftovers import SEVERAL, take_up
from tasks.publish import publish_recheck


@flow(name="recheck-waiting-hosts", flow_run_name="recheck waiting hosts", persist_result=False)
@in_a_sentence
def recheck_waiting_hosts() -> State[Any]:
    """All accounts: the waiting hosts whose next check has come are taken over again, one run an account.

    The date is compared with the account's own time, as AWS gives it. Where none has come, the next
    dates are said. A host that is gone is left out; an account that fails does not stop the others.

    No look by date is a try: it goes on until the wait is over or turns into a hold. So nothing is begun
    here that is to be counted: a host that was worse after a change is left alone until a person names it,
    and a stage in which a change failed is left to a retry.
    """
    config = load_config(find_config(None))
    take_up(SEVERAL)
    ledger = Ledger(config.ledger_url)
    results = []
    for account in config.accounts:
        waiting = waiting_hosts(ledger.status(account.id))
        if waiting:
            results += _recheck(config, account, ledger, waiting)
    failed = [result["account"] for result in results if result["outcome"] == "Failed"]
    if failed:
        failed = list(dict.fromkeys(failed))
        return Failed(message=f"Not looked at again: {', '.join(failed)}; see the log.", data=results)
    ran = len({result["account"] for result in results if result["outcome"] != "NotDue"})
    left = sum(len(result["left"]) for result in results)
    more = [f"{left} host(s) wait for a person to name them; see the table."] if left else []
    message = " ".join([f"{ran} account(s) looked at again.", *not_through(results), *more])
    return ended(worst(results), message, results)


def _recheck(
    config: Config, account: AccountConfig, ledger: Ledger, waiting: Standing
) -> list[dict[str, Any]]:
    """One account's runs over its due hosts, or when its next dates are."""
    try:
        run = open_run(config, account.id, "plan", open_host, ledger=ledger)
        run.aws.confirm_account()
        there = {host.instance_id for host in list_hosts(run)}
    except HaltuunError as error:
        return [failed_quietly(account.label, error)]
    present = {host: one for host, one in waiting.items() if host in there}
    left = left_alone(present, ledger.worse(account.id), account.label)
    apart = {one.host for one in left}
    mine = {host: one for host, one in present.items() if host not in apart}
    come = due(mine, run.now())
    for host, (stage, status) in come.items():
        get_run_logger().info("%s: %s %s since %s", host, stage.value, status.reason, status.since)
    for one in left:
        get_run_logger().warning("%s: %s %s: %s %s", one.host, one.stage, one.reason, one.why, one.remedy)
    rest = _dates({host: one for host, one in mine.items() if host not in come})
    if present:
        publish_recheck(account.label, come, rest, left)
    told = {"next": rest, "left": [one.model_dump(mode="json") for one in left]}
    if not come:
        return [{"account": account.label, "outcome": "NotDue", "hosts": [], **told}]
    results = [
        {**take_over_quietly(account.label, hosts=hosts, stages=stages), "hosts": hosts}
        for stages, hosts in by_stages(come, ledger.status(account.id)).items()
    ]
    return [*({**one, "next": [], "left": []} for one in results[:-1]), {**results[-1], **told}]


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
