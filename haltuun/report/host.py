"""One host, whole: for `show` and for its part of the report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from haltuun.model import Finding, Frozen, Host, HostStatus, Proof, Severity, StageName
from haltuun.report.changes import Made
from haltuun.report.facts import Service, StageFacts, idle_units, services, stage_facts
from haltuun.report.render import plain
from haltuun.report.standing import Place, place


class ShownProof(Frozen):
    stage: StageName
    kind: str
    evidence: str
    observed_at: datetime
    valid_until: datetime
    valid: bool


class Dossier(Frozen):
    host: Host
    place: Place
    stages: dict[StageName, HostStatus]
    findings: tuple[tuple[StageName, Finding], ...]  # the most severe first
    changes: tuple[Made, ...]
    proofs: tuple[ShownProof, ...]  # the newest of each stage and kind
    services: tuple[Service, ...] | str  # or why they are not known
    idle_units: tuple[str, ...]
    facts: tuple[StageFacts, ...]
    system: str  # "Ubuntu 14.04.6 LTS", "" when not known


def describe(
    host: Host,
    *,
    stages: Mapping[StageName, HostStatus],
    findings: Sequence[tuple[StageName, Finding]],
    made: Sequence[Made],
    proofs: Sequence[Proof],
    observations: Mapping[StageName, tuple[datetime, Mapping[str, Any]]],
    now: datetime,
) -> Dossier:
    """`findings`, `made` and `proofs` are those of this host."""
    discovered = observations.get(StageName.discover, (None, {}))[1]
    newest = {(proof.stage, proof.kind): proof for proof in proofs}
    severities = list(reversed(Severity))
    return Dossier(
        host=host,
        place=place(stages),
        stages={stage: stages[stage] for stage in StageName if stage in stages},
        findings=tuple(sorted(findings, key=lambda item: severities.index(item[1].severity))),
        changes=tuple(made),
        proofs=tuple(
            ShownProof(
                stage=proof.stage,
                kind=proof.kind.replace("_", " "),
                evidence=plain(proof.evidence),
                observed_at=proof.observed_at,
                valid_until=proof.valid_until,
                valid=proof.valid_until > now,
            )
            for proof in newest.values()
        ),
        services=services(discovered),
        idle_units=idle_units(discovered),
        facts=tuple(stage_facts(stage, *observations[stage]) for stage in StageName if stage in observations),
        system=_system(discovered),
    )


def _system(discovered: Mapping[str, Any]) -> str:
    for name in ("os_name", "os_guess"):
        value = discovered.get(name)
        if isinstance(value, str) and value:
            return plain(value if name == "os_name" else f"probably {value}")
    return ""
