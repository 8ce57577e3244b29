"""The takeover report: one HTML file that names no outside address, and its tables as CSV and JSON."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import jinja2

from haltuun.config import AccountConfig, PolicyConfig
from haltuun.errors import HaltuunError
from haltuun.gates import evaluate_plainly
from haltuun.ledger import Ledger
from haltuun.model import Finding, Frozen, Host, Severity, StageName, Verdict
from haltuun.report import page
from haltuun.report.causes import without_host
from haltuun.report.changes import Made, made
from haltuun.report.facts import Service
from haltuun.report.host import Dossier, describe
from haltuun.report.render import plain
from haltuun.report.rows import read
from haltuun.report.standing import WORDS, Place, Standing, host_label, host_name, judge
from haltuun.stages.order import STAGES

SERIOUS = (Severity.critical, Severity.high)
# They are on every host, and no reason to keep one.
EVERYWHERE = frozenset(
    {"sshd", "systemd-resolve", "systemd-network", "chronyd", "ntpd", "dhclient", "rpcbind", "snapd"}
)

Row = Mapping[str, Any]


class Need(Frozen):
    """One of the four questions with which a takeover begins."""

    question: str
    measure: str  # what is counted
    before: int | None  # hosts, when Haltuun saw them first; None: nobody had counted
    now: int
    of: int
    missing: tuple[str, ...]  # hosts that are not there yet
    note: str = ""


class Risk(Frozen):
    """A serious finding, with the hosts that it was found on."""

    severity: Severity
    code: str
    message: str
    hosts: tuple[str, ...]  # none: the account's
    remedy: str


class Report(Frozen):
    account: str
    label: str
    made_at: datetime
    standing: Standing
    runs: tuple[dict[str, Any], ...]
    needs: tuple[Need, ...]
    hosts: tuple[Dossier, ...]
    changes: tuple[Made, ...]
    risks: tuple[Risk, ...]
    idle_hosts: tuple[str, ...]  # nothing but what every host has listens there


def write(ledger: Ledger, account: AccountConfig, policy: PolicyConfig, out: Path) -> Path:
    """Write report.html, report.json and a CSV file a table into `out`; returns the HTML's path.

    They tell where an account is weak: its owner alone may read them. A folder that is there keeps its mode.

    Raises:
        HaltuunError: nothing is known of the account, or the folder cannot be written.
    """
    report = collect(ledger, account, policy, datetime.now(UTC))
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _private(out / "report.json") as file:
            file.write(json.dumps(document(report), indent=1))
        for name, rows in tables(report).items():
            _csv(out / f"{name}.csv", rows)
        path = out / "report.html"
        with _private(path) as file:
            file.write(html(report))
    except OSError as error:
        raise HaltuunError(
            f"the report cannot be written ({error.strerror}).",
            subject=str(out),
            remedy="Choose another folder.",
        ) from error
    return path


def collect(ledger: Ledger, account: AccountConfig, policy: PolicyConfig, now: datetime) -> Report:
    """All that the report says, as data."""
    rows = read(ledger, account.id)
    if not rows.runs:
        raise HaltuunError(
            "the ledger knows nothing of this account yet.",
            subject=account.label,
            remedy=f"Run 'haltuun plan {account.label}' first.",
            code="NO_RUN",
        )
    changes = made(rows.events, rows.runs)
    who = {one.run: one.who for one in rows.approvals}
    findings, proofs, of_host = (defaultdict[str, list[Any]](list) for _ in range(3))
    for item in rows.findings:
        findings[item[1].host or ""].append(item)
    for proof in rows.proofs:
        proofs[proof.host].append(proof)
    for change in changes:
        for instance_id in change.hosts:
            of_host[instance_id].append(change)
    hosts = tuple(
        describe(
            host,
            stages=rows.status.get(instance_id, {}),
            findings=findings[instance_id],
            made=of_host[instance_id],
            proofs=proofs[instance_id],
            observations=ledger.observations(account.id, instance_id),
            now=now,
        )
        for instance_id, host in rows.hosts.items()
    )
    return Report(
        account=account.id,
        label=account.label,
        made_at=now,
        standing=judge(rows, account.label, policy.approve, now),
        runs=tuple(
            {
                "run": run.run,
                "mode": run.mode,
                "started_at": run.started_at,
                "ended_at": run.ended_at,
                "outcome": run.outcome,
                "approved_by": plain(who.get(run.run) or str(run.body.get("approved_by", ""))),
            }
            for run in rows.runs
        ),
        needs=_needs(ledger, account.id, hosts),
        hosts=hosts,
        changes=changes,
        risks=_risks(rows.findings, rows.hosts),
        idle_hosts=tuple(one.host.instance_id for one in hosts if _is_idle(one)),
    )


# -- the four needs ----------------------------------------------------------------------------------


def _needs(ledger: Ledger, account: str, hosts: Sequence[Dossier]) -> tuple[Need, ...]:
    def need(question: str, measure: str, stage: StageName, note: str = "") -> Need:
        missing = [one.host.instance_id for one in hosts if not _passed(one, stage)]
        return Need(
            question=question,
            measure=measure,
            before=_met_before(ledger, account, stage, ids),
            now=len(hosts) - len(missing),
            of=len(hosts),
            missing=tuple(missing),
            note=note,
        )

    ids = frozenset(one.host.instance_id for one in hosts)
    unseen = tuple(one.host.instance_id for one in hosts if isinstance(one.services, str))
    managed = sum(1 for one in hosts if _passed(one, StageName.repair))
    found = sum(len(one.services) for one in hosts if not isinstance(one.services, str))
    return (
        need(
            "Are security updates current, and do they come by themselves?",
            "hosts with a patch group, a scan younger than a day and a supported system",
            StageName.patch,
        ),
        Need(
            question="What runs there, and is it needed?",
            measure="hosts whose listening services are listed with process, package and unit",
            before=None,
            now=len(hosts) - len(unseen),
            of=len(hosts),
            missing=unseen,
            note=(
                f"{found} listening ports were found. Online under its own id, and answering a command:"
                f" {_met_before(ledger, account, StageName.repair, ids)} hosts before, {managed} now."
            ),
        ),
        need(
            "Is it backed up?",
            "hosts with a recovery point completed in the last day or so",
            StageName.backup,
        ),
        need("Do we get its logs?", "hosts whose marker line arrived in a log group", StageName.logs),
    )


def _passed(dossier: Dossier, stage: StageName) -> bool:
    status = dossier.stages.get(stage)
    return status is not None and status.verdict is Verdict.passed


def _met_before(ledger: Ledger, account: str, stage: StageName, ids: Collection[str]) -> int:
    """How many of these hosts met the stage's demands when Haltuun saw them first: the same that are counted
    now, so that one which is gone counts on neither side."""
    of = next(one for one in STAGES if one.name is stage)
    rows = {
        host: of.host_facts.model_validate(facts).row()
        for host, facts in ledger.first_seen(account, stage).items()
        if host in ids
    }
    gate = evaluate_plainly(list(rows), rows, of.checks)
    return sum(1 for one in gate.verdicts.values() if one.verdict is Verdict.passed)


def _is_idle(dossier: Dossier) -> bool:
    services = dossier.services
    return not isinstance(services, str) and not [
        one for one in services if one.outside and one.process not in EVERYWHERE
    ]


def _risks(findings: Iterable[tuple[StageName, Finding]], hosts: Mapping[str, Host]) -> tuple[Risk, ...]:
    """The serious findings of the newest looks, like ones together, the most severe first."""
    groups: dict[tuple[Severity, str, str], list[Finding]] = {}
    for _, finding in findings:
        if finding.severity in SERIOUS:
            text = plain(finding.message)
            if finding.host is not None and finding.host in hosts:
                text = without_host(text, hosts[finding.host])
            groups.setdefault((finding.severity, finding.code, text), []).append(finding)
    risks = [
        Risk(
            severity=severity,
            code=code,
            message=text if len(members) > 1 else plain(members[0].message),
            hosts=tuple(dict.fromkeys(one.host for one in members if one.host)),
            remedy=plain(members[0].remedy),
        )
        for (severity, code, text), members in groups.items()
    ]
    return tuple(sorted(risks, key=lambda risk: (SERIOUS.index(risk.severity), -len(risk.hosts))))


# -- as files ------------------------------------------------------------------------------------------


def document(report: Report) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(report.model_dump_json())
    return data


def tables(report: Report) -> dict[str, list[Row]]:
    """File name → rows; every row of a table has the same columns."""
    hosts = {one.host.instance_id: one.host for one in report.hosts}
    return {
        "hosts": [
            {
                "instance_id": one.host.instance_id,
                "name": one.host.name,
                "region": one.host.region,
                "system": one.system,
                "state": _state(one.place),
                **{s.value: one.stages[s].verdict.value if s in one.stages else "" for s in StageName},
                "why": why(one),
            }
            for one in report.hosts
        ],
        "services": [
            {
                "instance_id": one.host.instance_id,
                "name": one.host.name,
                "port": service.port,
                "protocol": service.protocol,
                "process": service.process,
                "package": service.package,
                "unit": service.unit,
                "listens_on": " ".join(service.addresses),
            }
            for one in report.hosts
            for service in _listed(one.services)
        ],
        "findings": [
            {
                "instance_id": one.host.instance_id,
                "name": one.host.name,
                "stage": stage.value,
                "severity": finding.severity.value,
                "code": finding.code,
                "message": finding.message,
                "evidence": "; ".join(finding.evidence),
                "remedy": finding.remedy,
            }
            for one in report.hosts
            for stage, finding in one.findings
        ],
        "changes": [
            {
                "at": change.at.isoformat(timespec="seconds"),
                "run": change.run,
                "id": change.id,
                "stage": change.stage.value,
                "reach": change.reach.value,
                "target": change.target,
                "hosts": " ".join(change.hosts),
                "summary": change.summary,
                "state": change.state,
                "undo": _way_back(change),
            }
            for change in report.changes
        ],
        "proofs": [
            {
                "instance_id": one.host.instance_id,
                "name": one.host.name,
                "stage": proof.stage.value,
                "kind": proof.kind,
                "observed_at": proof.observed_at.isoformat(timespec="seconds"),
                "valid_until": proof.valid_until.isoformat(timespec="seconds"),
                "evidence": proof.evidence,
            }
            for one in report.hosts
            for proof in one.proofs
        ],
        "facts": [
            {
                "instance_id": one.host.instance_id,
                "name": one.host.name,
                "stage": facts.stage.value,
                "fact": words,
                "value": value,
                "seen_at": facts.at.isoformat(timespec="seconds"),
            }
            for one in report.hosts
            for facts in one.facts
            for words, value in (
                *((fact.words, fact.value) for fact in facts.known),
                *((word, f"unknown: {n.reason}") for n in facts.unknown for word in n.words),
            )
        ],
        "needs": [
            {
                "question": need.question,
                "measure": need.measure,
                "before": "" if need.before is None else need.before,
                "now": need.now,
                "of": need.of,
                "missing": " ".join(host_label(hosts, host) for host in need.missing),
            }
            for need in report.needs
        ],
    }


def _way_back(change: Made) -> str:
    """The command, and what it leaves; why there is none."""
    if change.no_undo:
        return f"none: {change.no_undo}"
    return "; ".join(filter(None, (change.undo, f"in part: {change.in_part}" if change.in_part else "")))


def why(dossier: Dossier) -> str:
    """The first stage that keeps a host from being through, and what it says."""
    order = (Verdict.held, Verdict.unknown, Verdict.waiting, Verdict.excluded, Verdict.pending)
    for verdict in order:
        for stage, status in dossier.stages.items():
            if status.verdict is verdict:
                return plain(f"{stage.value} {status.reason}: {status.message} {status.remedy}")
    return ""


def html(report: Report) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("haltuun.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever came from a machine that nobody knows is one harmless line.
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    environment.filters |= {"when": page.when, "state": _state, "why": why, "is_list": _is_list}
    hosts = {one.host.instance_id: one.host for one in report.hosts}
    return environment.get_template("report.html.j2").render(
        report=report,
        standing=report.standing,
        stages=list(StageName),
        labels={host: host_label(hosts, host) for host in hosts},
        names={host: host_name(hosts, host) for host in hosts},
        age=page.age_line(report.standing, hosts, report.made_at),
        proof_words=lambda like: page.proof_words(like, hosts),
        work_line=page.work_line,
        undone_line=page.undone_line,
        part_line=page.part_line,
        stays_line=page.stays_line,
        left_line=page.left_line,
        nothing_goes_back=page.NOTHING_GOES_BACK,
        approval_line=page.approval_line,
        appeared_line=lambda one: page.appeared_line(one, hosts),
    )


def _state(place: Place) -> str:
    return "in custody" if place is Place.custody else WORDS[place]


def _is_list(services: tuple[Service, ...] | str) -> bool:
    return not isinstance(services, str)


def _listed(services: tuple[Service, ...] | str) -> tuple[Service, ...]:
    return () if isinstance(services, str) else services


def _private(path: Path) -> TextIO:
    """For writing, and only its owner's: from the beginning, and where an earlier report was anybody's."""

    def opener(name: str, flags: int) -> int:
        handle = os.open(name, flags, 0o600)
        if os.fstat(handle).st_uid == os.geteuid():
            os.fchmod(handle, 0o600)
        return handle

    return open(path, "w", newline="", encoding="utf-8", opener=opener)


def _csv(path: Path, rows: Sequence[Row]) -> None:
    with _private(path) as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value: Any) -> str:
    text = plain(str(value))
    # A spreadsheet takes these for a formula, and host names come from machines nobody knows.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
