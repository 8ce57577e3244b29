"""The host's side → causes. Pure; works on any subset of the files."""

from __future__ import annotations

from haltuun.model import Frozen, Severity, Unknown
from haltuun.stages.repair.facts import Agent, Cause, Identity, LogLine
from haltuun.stages.repair.rules import RULES, unexplained, versions_of
from haltuun.stages.repair.situation import Situation, identity_taken, situation_of
from haltuun.stages.repair.wording import WORDING


class Diagnosis(Frozen):
    """Identity of the last start (None: it took none, or no start is `shown`), its id, the causes found.

    `unexplained`: a line of a fault that still holds, where nothing tells its cause.
    """

    shown: bool
    identity: Identity | None
    instance_id: str | None
    connected: bool
    causes: tuple[Cause, ...]
    unexplained: LogLine | None = None

    def has(self, *codes: str) -> bool:
        return any(cause.code in codes for cause in self.causes)


def diagnose(agent: Agent) -> Diagnosis:
    """Judge the host's side alone."""
    s = situation_of(agent)
    live = not isinstance(agent.processes, Unknown)
    versions = versions_of(s)
    causes = []
    for rule in RULES:
        evidence = tuple(rule.find(s)) if rule.holds_for(versions) else ()
        if evidence:
            wording = WORDING[rule.code]
            message = wording.message if live else wording.of_files or wording.message
            causes.append(Cause(code=rule.code, message=message, remedy=wording.remedy, evidence=evidence))
    identity = identity_taken(s)
    explained = any(WORDING[cause.code].severity is not Severity.low for cause in causes)
    return Diagnosis(
        shown=s.log is not None and s.log.has_start,
        identity=identity,
        instance_id=_identity_id(s, identity),
        connected=s.log is not None and s.log.connected is not None,
        causes=tuple(causes),
        unexplained=None if explained else unexplained(s),
    )


def _identity_id(s: Situation, identity: Identity | None) -> str | None:
    config = s.agent.identity_config
    if (
        identity is not None
        and not isinstance(config, Unknown)
        and config is not None
        and config.identity_type == identity
    ):
        return config.instance_id or None
    vault = s.agent.vault
    if identity == "OnPrem" and not isinstance(vault, Unknown) and vault.instance_id:
        return vault.instance_id
    if identity == "EC2" and not isinstance(s.agent.imds_instance_id, Unknown):
        return s.agent.imds_instance_id or None
    return s.log.instance_id if s.log is not None and s.log.identity == identity else None
