"""Facts → findings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from haltuun.model import Finding, Host, Severity, StageName, is_false, is_true
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.verify.facts import VerifyFacts
from haltuun.stages.verify.faults import faults_of, metadata_options
from haltuun.stages.verify.parse_account import discovered

# Of hosts that nobody looks into on purpose: stated by their status, no finding.
STATED = ("INSTANCE_STOPPED", "EXCLUDED", "SUSPECT")


def judge(view: View) -> Sequence[Finding]:
    seen = {
        view.hosts[instance_id]: facts
        for instance_id, facts in view.facts.get(StageName.verify, {}).items()
        if isinstance(facts, VerifyFacts) and instance_id in view.hosts
    }
    found = [finding for host, facts in seen.items() for finding in judge_host(view, host, facts)]
    return [*found, *judge_together(seen)]


def judge_together(seen: Mapping[Host, VerifyFacts]) -> Iterator[Finding]:
    """What would be the same sentence for many hosts."""
    loose = [host.label for host, facts in seen.items() if is_true(facts.imds_v1)]
    if loose:
        yield Finding(
            code="IMDS_V1",
            severity=Severity.low,
            message=f"On {len(loose)} host(s) the instance metadata answers without a session token.",
            evidence=tuple(loose),
            remedy="Where no program needs that any more, require tokens (IMDSv2).",
        )
    silent: dict[str, list[str]] = {}
    for host, facts in seen.items():
        if is_false(facts.logs_allowed) and is_true(facts.ssm_allowed) and isinstance(facts.role_name, str):
            silent.setdefault(facts.role_name, []).append(host.label)
    for role, labels in sorted(silent.items()):
        yield Finding(
            code="LOGS_DENIED",
            severity=Severity.low,
            message=f"The role {role} may not write to Haltuun's log groups.",
            evidence=tuple(labels),
            remedy="Approve the inline policy where one is planned; else see what the stage 'logs' says.",
        )


def judge_host(view: View, host: Host, facts: VerifyFacts) -> Iterator[Finding]:
    seen = discovered(view, host.instance_id)
    for fault in faults_of(view, host, facts):
        if fault.code not in STATED:
            yield Finding(
                code=fault.code,
                severity=fault.severity,
                host=host.instance_id,
                message=fault.message,
                evidence=evidence_of(seen, facts, fault.code),
                remedy=fault.remedy,
            )
    if is_true(facts.proxy):
        yield Finding(
            code="PROXY_CONFIGURED",
            severity=Severity.low,
            host=host.instance_id,
            message=f"The agent goes through the proxy {facts.proxy}.",
            remedy="Keep it reachable, and keep 169.254.169.254 out of it.",
        )
    if facts.credentials == "default host management" and (seen is None or seen.ssm_status != "Online"):
        yield Finding(
            code="DHMC_HOST",
            severity=Severity.medium,
            host=host.instance_id,
            message="It has no instance profile and depends on default host management.",
            remedy="Attach an instance profile before its agent's state is touched.",
        )


def evidence_of(seen: DiscoverFacts | None, facts: VerifyFacts, code: str) -> tuple[str, ...]:
    if code == "IMDS_UNREACHABLE":
        return metadata_options(seen)
    if code == "ROLE_DENIED" and isinstance(facts.denied_actions, tuple):
        return facts.denied_actions
    if code in ("EGRESS_BLOCKED", "ENDPOINT_REFUSED", "DNS_FAILS"):
        said = [text for text in (facts.egress_reason, facts.tcp_reason) if isinstance(text, str) and text]
        return tuple(said)
    if code in ("TLS_UNTRUSTED", "TLS_FAILS") and isinstance(facts.tls_reason, str):
        return (facts.tls_reason,)
    return ()
