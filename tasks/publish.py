"""Artifacts: plan, gates, summary and the account's standing, as people read them in the Prefect UI."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from haltuun.attention import Standing
from haltuun.causes import Decision
from haltuun.engine import Takeover
from haltuun.model import StageName
from haltuun.report import render
from haltuun.report.page import standing_markdown
from haltuun.report.render import artifact_key
from haltuun.report.standing import standing_of
from haltuun.run import Run
from haltuun.unasked import Left
from haltuun.undo import Undoing

log = logging.getLogger("haltuun")


def publish_plan(takeover: Takeover) -> None:
    assert takeover.plan is not None
    run = takeover.run
    own = [one for one in run.ledger.approvals(run.account.id) if one.run == run.id]
    create_markdown_artifact(
        key=artifact_key("plan", takeover.run.account.label),
        markdown=render.plan_markdown(
            takeover.plan,
            takeover.hosts,
            run.account.label,
            takeover.awaiting(),
            run=run.id,
            command=takeover.approval_command,
            approval=own[-1] if own else None,
            shown=run.ledger.shown(run.account.id, run.id) if own else None,
            stale=takeover.stale,
        ),
        description=f"Plan {takeover.plan.hash} for {takeover.run.account.label}",
    )


def publish_gate(takeover: Takeover, stage: StageName) -> None:
    progress = takeover.progress[stage]
    create_table_artifact(
        key=artifact_key(f"gate-{stage.value}", takeover.run.account.label),
        table=render.status_rows(takeover.hosts, progress.statuses),
        description=render.gate_description(stage, progress.gate),
    )


def publish_summary(takeover: Takeover, outcome: str) -> None:
    table = {name: progress.statuses for name, progress in takeover.progress.items() if progress.statuses}
    create_markdown_artifact(
        key=artifact_key("summary", takeover.run.account.label),
        markdown=render.summary_markdown(
            takeover.run.account.label,
            takeover.run.id,
            outcome,
            takeover.hosts,
            table,
            takeover.not_judged_together(),
        ),
        description=f"{outcome}: {takeover.run.account.label}",
    )


def publish_undo(undoing: Undoing, outcome: str) -> None:
    create_markdown_artifact(
        key=artifact_key("undo", undoing.run.account.label),
        markdown=render.undo_markdown(
            undoing.of, undoing.run.account.label, outcome, undoing.steps, undoing.hosts, undoing.approved_by
        ),
        description=f"{outcome}: run {undoing.of} of {undoing.run.account.label}",
    )


def publish_retry(account: str, decided: Sequence[Decision]) -> None:
    """Which held hosts are tried again, what changed since, and why the others are left alone."""
    create_table_artifact(
        key=artifact_key("retry", account),
        table=[
            {
                "host": one.host,
                "stage": one.stage.value,
                "code": one.reason,
                "what": one.action,
                "changed since": render.plain("; ".join(one.changed)),
                "why": render.plain(one.why),
                "what to do": render.plain(one.remedy),
            }
            for one in decided
        ],
        description=f"Retry of {account}: {sum(one.retried for one in decided)} of {len(decided)} held hosts",
    )


def publish_recheck(
    account: str, come: Standing, later: Sequence[Mapping[str, str]], left: Sequence[Left]
) -> None:
    """Which waiting hosts are looked at again, which on what day, and which once a person names them."""
    create_table_artifact(
        key=artifact_key("recheck", account),
        table=[
            *(
                {"host": one.host, "stage": one.stage.value, "code": one.reason, "what": "leave"}
                | {"why": render.plain(one.why), "what to do": one.remedy}
                for one in left
            ),
            *(
                {"host": host, "stage": stage.value, "code": status.reason, "what": "look again"}
                | {"why": "Its date has come.", "what to do": ""}
                for host, (stage, status) in come.items()
            ),
            *(
                {"host": one["host"], "stage": one["stage"], "code": one["reason"], "what": "wait"}
                | {"why": f"Its next check is at {one['next_check']}.", "what to do": ""}
                for one in later
            ),
        ],
        description=f"Recheck of {account}: {len(come)} due, {len(left)} left alone",
    )


def publish_onboarding(results: Sequence[Mapping[str, Any]]) -> None:
    """How each account's first run ended, and which are begun no more unasked."""
    create_table_artifact(
        key=artifact_key("onboard", "accounts"),
        table=[
            {
                "account": one["account"],
                "outcome": one["outcome"],
                "run": one.get("run") or "",
                "why": render.plain(one.get("error", "")),
            }
            for one in results
        ],
        description=f"Onboarding of {len(results)} account(s)",
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
            key=artifact_key("account", account.label),
            markdown=standing_markdown(standing, run.ledger.hosts(account.id), datetime.now(UTC)),
            description=standing.sentence,
        )
    except Exception as error:
        log.warning("the page of %s could not be published: %s", account.label, error)
