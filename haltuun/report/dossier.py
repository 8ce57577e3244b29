"""The takeover report: one HTML file that names no outside address, and its tables as CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from haltuun.config import AccountConfig
from haltuun.errors import HaltuunError
from haltuun.gates import evaluate_plainly
from haltuun.ledger import Ledger
from haltuun.model import HostStatus, StageName, Verdict
from haltuun.report.render import last_word, plain
from haltuun.stages.order import STAGES

# The four questions with which a takeover begins, and the stages that answer them.
NEEDS = (
    ("Are security updates current, and do they come by themselves?", StageName.patch),
    ("Do we know what runs there, and can we reach it?", StageName.repair),
    ("Is it backed up?", StageName.backup),
    ("Do we get its logs?", StageName.logs),
)

Row = Mapping[str, Any]


def write(ledger: Ledger, account: AccountConfig, out: Path) -> Path:
    """Write report.html, hosts.csv, changes.csv and report.json into `out`; returns the HTML's path.

    Raises:
        HaltuunError: nothing is known of the account, or the folder cannot be written.
    """
    data = collect(ledger, account)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(data, indent=1, default=str), encoding="utf-8")
        _csv(
            out / "hosts.csv",
            data["hosts"],
            ("instance_id", "name", "region", *(s.value for s in StageName), "why"),
        )
        _csv(out / "changes.csv", data["changes"], ("at", "run", "id", "event", "target", "summary", "undo"))
        page = (
            _environment().get_template("report.html.j2").render(**data, stages=[s.value for s in StageName])
        )
        path = out / "report.html"
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise HaltuunError(
            f"the report cannot be written ({error.strerror}).",
            subject=str(out),
            remedy="Choose another folder.",
        ) from error
    return path


def collect(ledger: Ledger, account: AccountConfig) -> dict[str, Any]:
    """All that the report says, as data."""
    hosts, status, runs = ledger.hosts(account.id), ledger.status(account.id), ledger.runs(account.id)
    if not runs:
        raise HaltuunError(
            "the ledger knows nothing of this account yet.",
            subject=account.label,
            remedy=f"Run 'haltuun plan {account.label}' first.",
            code="NO_RUN",
        )
    by_stage = {s: {h: stages[s] for h, stages in status.items() if s in stages} for s in StageName}
    events = ledger.change_events(account.id)
    return {
        "account": account.id,
        "alias": account.label,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": [
            {"run": r.run, "started_at": r.started_at, "mode": r.mode, "outcome": r.outcome} for r in runs
        ],
        "needs": [
            _need(question, _met_before(ledger, account.id, stage), by_stage[stage], len(hosts))
            for question, stage in NEEDS
        ],
        "hosts": [
            {
                "instance_id": instance_id,
                "name": plain(host.name),
                "region": host.region,
                **{s.value: _verdict(by_stage[s].get(instance_id)) for s in StageName},
                "why": _why(last_word(instance_id, by_stage)),
                "facts": _facts(ledger, account.id, instance_id),
                "proofs": [
                    {"kind": p.kind, "at": p.observed_at, "evidence": plain(p.evidence)}
                    for p in ledger.proofs(account.id, instance_id)
                ],
            }
            for instance_id, host in hosts.items()
        ],
        "left_alone": [
            {"host": hosts[h].label if h in hosts else h, "why": plain(one.message)}
            for h, one in by_stage[StageName.discover].items()
            if one.verdict is Verdict.excluded
        ],
        "changes": [
            {
                "at": event.at,
                "run": event.run,
                "id": event.change_id,
                "event": event.event,
                "target": plain(event.change.target),
                "hosts": list(event.change.hosts),
                "summary": plain(event.change.summary),
                "undo": event.change.undo.kind if event.change.undo else f"none: {event.change.no_undo}",
            }
            for event in events
            if event.event in ("confirmed", "failed", "not_taken", "stale", "unknown")
        ],
    }


def _need(question: str, before: int, statuses: Mapping[str, HostStatus], hosts: int) -> Row:
    now = sum(1 for status in statuses.values() if status.verdict is Verdict.passed)
    return {
        "question": question,
        "before": f"shown for {before} of {hosts}",
        "after": f"proven for {now} of {hosts}",
    }


def _met_before(ledger: Ledger, account: str, stage: StageName) -> int:
    """How many hosts met the stage's demands when Haltuun saw them first."""
    of = next(one for one in STAGES if one.name is stage)
    rows = {
        host: of.host_facts.model_validate(facts).row()
        for host, facts in ledger.first_seen(account, stage).items()
    }
    gate = evaluate_plainly(list(rows), rows, of.checks)
    return sum(1 for one in gate.verdicts.values() if one.verdict is Verdict.passed)


def _verdict(status: HostStatus | None) -> str:
    return status.verdict.value if status else ""


def _why(word: tuple[StageName, HostStatus] | None) -> str:
    if word is None:
        return ""
    stage, status = word
    return plain(f"{stage.value} {status.reason}: {status.message} {status.remedy}")


def _facts(ledger: Ledger, account: str, instance_id: str) -> list[Row]:
    rows: list[Row] = []
    for stage, (at, facts) in ledger.observations(account, instance_id).items():
        for name, value in facts.items():
            if name == "observed_at" or value in (None, "", [], {}):
                continue
            unknown = value.get("unknown") if isinstance(value, dict) else None
            text = (
                f"unknown: {unknown}" if unknown else value if isinstance(value, str) else json.dumps(value)
            )
            rows.append({"stage": stage.value, "fact": name, "value": plain(text)[:400], "at": at})
    return rows


def _csv(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({key: _cell(row.get(key)) for key in columns} for row in rows)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    # A spreadsheet takes these for a formula, and host names come from machines nobody knows.
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("haltuun.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
