"""Artifacts: plan, gates, summary and the account's standing, as people read them in the Prefect UI."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from haltuun.engine import Takeover
from haltuun.model import StageName
from haltuun.report import render
from haltuun.report.page import standing_markdown
from haltuun.report.standing import standing_of
from haltuun.run import Run

log = logging.getLogger("haltuun")


def publish_plan(takeover: Takeover) -> None:
    assert takeover.plan is not None
    create_markdown_artifact(
        key=_key("plan", takeover.run.account.label),
        markdown=render.plan_markdown(
            takeover.plan, takeover.hosts, takeover.run.account.label, takeover.awaiting()
        ),
        description=f"Plan {takeover.plan.hash} for {takeover.run.account.label}",
    )


def publish_gate(takeover: Takeover, stage: StageName) -> None:
    progress = takeover.progress[stage]
    create_table_artifact(
        key=_key(f"gate-{stage.value}", takeover.run.account.label),
        table=render.status_rows(takeover.hosts, progress.statuses),
        description=render.gate_description(stage, progress.gate),
    )


def publish_summary(takeover: Takeover, outcome: str) -> None:
    table = {name: progress.statuses for name, progress in takeover.progress.items() if progress.statuses}
    create_markdown_artifact(
        key=_key("summary", takeover.run.account.label),
        markdown=render.summary_markdown(
            takeover.run.account.label, takeover.run.id, outcome, takeover.hosts, table
        ),
        description=f"{outcome}: {takeover.run.account.label}",
    )


def publish_standing(run: Run) -> None:
    """The page to look at on Monday: one artifact an account, a new version after each run.

    Called when the run is in the ledger to its end, also after one that failed: it never raises, as
    that would hide how the run ended.
    """
    account = run.account
    try:
        standing = standing_of(run.ledger, account, run.config.policy)
        create_markdown_artifact(
            key=_key("account", account.label),
            markdown=standing_markdown(standing, run.ledger.hosts(account.id), datetime.now(UTC)),
            description=standing.sentence,
        )
    except Exception as error:
        log.warning("the page of %s could not be published: %s", account.label, error)


def _key(kind: str, label: str) -> str:
    # Prefect takes lower-case letters, digits and dashes only.
    return re.sub(r"[^a-z0-9]+", "-", f"{kind}-{label}".lower()).strip("-")
