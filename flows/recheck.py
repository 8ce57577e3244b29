"""Look again at the hosts that only time can help."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Completed, State

from flows.onboarding import take_over_quietly
from haltuun.attention import waiting_hosts
from haltuun.config import find_config, load_config
from haltuun.ledger import Ledger


@flow(name="recheck-waiting-hosts", persist_result=False)
def recheck_waiting_hosts() -> State[Any]:
    """All accounts: the waiting hosts whose next check has come are taken over again, one run an account."""
    config = load_config(find_config(None))
    ledger = Ledger(config.ledger_url)
    results = []
    for account in config.accounts:
        due = waiting_hosts(ledger.status(account.id), datetime.now(UTC))
        for host, (stage, status) in due.items():
            get_run_logger().info("%s: %s %s since %s", host, stage.value, status.reason, status.since)
        if due:
            results.append(take_over_quietly(account.label, hosts=list(due)))
    return Completed(message=f"{len(results)} account(s) looked at again.", data=results)
