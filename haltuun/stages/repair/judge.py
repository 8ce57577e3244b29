"""Facts → findings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from haltuun.model import Finding, Severity, StageName, Unknown, is_false, is_true
from haltuun.stages.base import View
from haltuun.stages.repair import activations
from haltuun.stages.repair.facts import Cause, NodeRow, RepairFacts
from haltuun.stages.repair.fleet import judge_fleet
from haltuun.stages.repair.leftovers import shown
from haltuun.stages.repair.orphans import judge_orphans
from haltuun.stages.repair.sides import Sides, against, beside, judge_authenticates, judge_sides, sides_of
from haltuun.stages.repair.windows import judge_windows
from haltuun.stages.repair.wording import WORDING


def judge(view: View) -> Sequence[Finding]:
    found: list[Finding] = [*judge_fleet(view), *judge_orphans(view)]
    by_activation = activations.registered(view)
    for instance_id, facts in view.facts.get(StageName.repair, {}).items():
        if isinstance(facts, RepairFacts):
            sides = sides_of(view, instance_id, facts)
            own = judge_host(instance_id, facts, sides)
            found.extend(_with_activation(view, facts, by_activation, own))
            found.extend(judge_sides(instance_id, sides))
            if not view.account.host(instance_id).deliberate_hybrid:
                found.extend(judge_authenticates(instance_id, sides, view.account_id))
                found.extend(judge_windows(instance_id, sides))
    return found


def _with_activation(
    view: View,
    facts: RepairFacts,
    by_activation: Mapping[str, Mapping[str, Sequence[str]]],
    found: Sequence[Finding],
) -> Iterator[Finding]:
    """What its registration is and came from belongs to the finding that names it, be it stale or wanted."""
    for finding in found:
        node = facts.vault_node
        if finding.code != "STALE_HYBRID" or not isinstance(node, NodeRow):
            yield finding
            continue
        more = (
            *(
                [f"{node.node_id} is a node of the source type {node.source_type}"]
                if node.source_type
                else []
            ),
            *activations.told(node),
            *activations.kin(view, node, by_activation.get(node.activation_id, {})),
        )
        remedy = finding.remedy + activations.remedy(node)
        yield finding.model_copy(update={"evidence": (*finding.evidence, *more), "remedy": remedy})


def judge_host(instance_id: str, facts: RepairFacts, sides: Sides) -> list[Finding]:
    found = [
        _of_cause(
            instance_id,
            cause,
            against(cause.code, sides),
            (*beside(cause.code, sides), *shown(cause.code, facts.agent)),
        )
        for cause in facts.found
    ]
    if is_true(facts.vault_foreign) and _has(facts, "STALE_HYBRID"):
        found.append(_foreign(instance_id, facts))
    if _is_waiting(facts):
        wording = WORDING["WAITING_SERVICE"]
        found.append(
            Finding(
                code="WAITING_SERVICE",
                severity=wording.severity,
                message=wording.message,
                host=instance_id,
                remedy=wording.remedy,
            )
        )
    return found


def _of_cause(instance_id: str, cause: Cause, against_it: str, more: Sequence[str]) -> Finding:
    """`against_it` is what AWS says otherwise, "" for nothing; `more` what else bears on it, and what a
    person would change."""
    return Finding(
        code=cause.code,
        severity=WORDING[cause.code].severity,
        message=f"{cause.message} But {against_it}." if against_it else cause.message,
        host=instance_id,
        evidence=(*(f"{line.file}:{line.line}: {line.text}" for line in cause.evidence), *more),
        remedy=cause.remedy,
    )


def _foreign(instance_id: str, facts: RepairFacts) -> Finding:
    wording = WORDING["HYBRID_FOREIGN"]
    return Finding(
        code="HYBRID_FOREIGN",
        severity=Severity.critical,
        message=wording.message,
        host=instance_id,
        evidence=(f"{facts.vault_instance_id} in {facts.vault_region} is no node of this account here",),
        remedy=wording.remedy,
    )


def _has(facts: RepairFacts, code: str) -> bool:
    return not isinstance(facts.causes, Unknown) and code in facts.causes


def _is_waiting(facts: RepairFacts) -> bool:
    return facts.identity == "EC2" and is_true(facts.connected) and is_false(facts.online_as_self)
