"""Facts → findings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

from haltuun.model import Finding, Host, Severity, StageName, Unknown, is_true
from haltuun.stages.base import View
from haltuun.stages.discover.console import Console
from haltuun.stages.discover.eol import term, terms
from haltuun.stages.discover.facts import DiscoverAccount, DiscoverFacts, RegionFacts

# Names of what is ours, or comes with the service, begin so.
NOT_LEFT_BEHIND = ("haltuun", "AWS-", "aws/", "Default")


def judge(view: View) -> Sequence[Finding]:
    account = view.account_facts.get(StageName.discover)
    found: list[Finding] = []
    if isinstance(account, DiscoverAccount):
        for region, facts in account.regions.items():
            found.extend(judge_scope(region, facts))
            found.extend(judge_leftovers(region, facts))
    for instance_id, host_facts in view.facts.get(StageName.discover, {}).items():
        if isinstance(host_facts, DiscoverFacts) and instance_id in view.hosts:
            found.extend(judge_host(view.hosts[instance_id], host_facts, view.now.date()))
    return found


def judge_scope(region: str, facts: RegionFacts) -> Iterator[Finding]:
    """What could not be asked is said, never taken for none."""
    for name in RegionFacts.model_fields:
        value = getattr(facts, name)
        if isinstance(value, Unknown):
            yield Finding(
                code="SCOPE_UNKNOWN",
                severity=Severity.high if name == "instances" else Severity.medium,
                message=f"{name.replace('_', ' ')} of {region} could not be asked: unknown, not none.",
                evidence=(value.unknown,),
                remedy="Allow the operation for the role that Haltuun uses, then run again.",
            )


def judge_leftovers(region: str, facts: RegionFacts) -> Iterator[Finding]:
    left = list(_leftovers(facts))
    if left:
        yield Finding(
            code="PREDECESSOR",
            severity=Severity.info,
            message=f"In {region} there is already something of what Haltuun sets up; it is left as it is.",
            evidence=tuple(left),
            remedy="Compare it with the plan: what does the same job twice can be retired by hand.",
        )
    if isinstance(facts.dhmc_role, str):
        yield Finding(
            code="DHMC_ON",
            severity=Severity.info,
            message=f"Default host management is on in {region}, with the role {facts.dhmc_role}.",
            remedy="Hosts without an instance profile depend on it: do not switch it off.",
        )


def _leftovers(facts: RegionFacts) -> Iterator[str]:
    lists = {
        "patch baseline": _names(facts.baselines, "name"),
        "patch group": _names(facts.patch_groups, "group"),
        "maintenance window": _names(facts.windows, "name"),
        "association": _names(facts.associations, "name", "document"),
        "backup plan": _names(facts.backup_plans, "name"),
        "backup vault": _names(facts.backup_vaults, "name"),
    }
    for what, names in lists.items():
        for name in names:
            if not name.startswith(NOT_LEFT_BEHIND):
                yield f"{what} {name}"
    if isinstance(facts.session_preferences, str) and "/haltuun/" not in facts.session_preferences:
        yield "session preferences SSM-SessionManagerRunShell"


def _names(rows: object, *fields: str) -> list[str]:
    if isinstance(rows, Unknown) or not isinstance(rows, tuple):
        return []
    named = [next((getattr(row, field) for field in fields if getattr(row, field)), "") for row in rows]
    return sorted({name for name in named if name})


def judge_host(host: Host, facts: DiscoverFacts, today: date) -> Iterator[Finding]:
    yield from judge_compromise(host, facts)
    yield from judge_eol(host, facts, today)
    if facts.right_box is False:
        yield Finding(
            code="WRONG_BOX",
            severity=Severity.high,
            host=host.instance_id,
            message="Another machine answers at this instance's address; what it says is ignored.",
            evidence=_why(facts.hostname),
            remedy="Correct the host's address or port in haltuun.yaml.",
        )
    if not isinstance(facts.same_box_nodes, Unknown) and facts.same_box_nodes:
        nodes = ", ".join(facts.same_box_nodes)
        cleared = facts.ssm_status == "Online"
        yield Finding(
            code="SAME_BOX",
            severity=Severity.low if cleared else Severity.high,
            host=host.instance_id,
            message=f"Online as itself, and Systems Manager still lists its address or name as {nodes}."
            if cleared
            else f"Same box, wrong identity: Systems Manager has its address or name as {nodes}.",
            evidence=(f"as {host.instance_id} it is {_said(facts.ssm_status)}",),
            remedy="Deregister what nothing uses any more; what Haltuun has cleared, it plans to deregister."
            if cleared
            else "Whoever owns that registration may run commands on it; the stage 'repair' clears it.",
        )
    if is_true(facts.ssh_legacy):
        yield Finding(
            code="LEGACY_SSH",
            severity=Severity.medium,
            host=host.instance_id,
            message="Its OpenSSH knows RSA signatures with SHA-1 only.",
            remedy="Upgrade the system; until then modern clients must be told to accept ssh-rsa.",
        )
    yield from judge_config_management(host, facts)
    yield from judge_origin(host, facts)
    yield from judge_from_outside(host, facts)


def judge_compromise(host: Host, facts: DiscoverFacts) -> Iterator[Finding]:
    if facts.is_suspect:
        yield Finding(
            code="SUSPECT",
            severity=Severity.critical,
            host=host.instance_id,
            message="There are strong signs of a compromise; nothing on this host is changed.",
            evidence=facts.suspect if isinstance(facts.suspect, tuple) else (),
            remedy="Isolate it, keep a snapshot as evidence, and let a person decide.",
        )
    if isinstance(facts.signs_unlooked, tuple) and facts.signs_unlooked and not facts.is_suspect:
        yield Finding(
            code="SIGN_NOT_LOOKED_FOR",
            severity=Severity.medium,
            host=host.instance_id,
            message=f"{len(facts.signs_unlooked)} strong sign(s) of a compromise could not be looked for.",
            evidence=facts.signs_unlooked,
            remedy="Look for them by hand, or install what the host lacks and run again.",
        )
    if isinstance(facts.weak_signs, tuple) and facts.weak_signs:
        yield Finding(
            code="WEAK_SIGN",
            severity=Severity.medium,
            host=host.instance_id,
            message="Something unusual that can have a good reason.",
            evidence=facts.weak_signs,
            remedy="Ask the owner of the host about it.",
        )


def judge_eol(host: Host, facts: DiscoverFacts, today: date) -> Iterator[Finding]:
    if is_true(facts.eol):
        name = facts.os_guess if isinstance(facts.os_name, Unknown) else facts.os_name
        yield _eol(host, f"{name} has had no free security updates since {facts.eol_since}.", "")
        return
    if isinstance(facts.eol, Unknown) and facts.os_guess:
        words = facts.os_guess.lower().split()
        system = "amzn" if words[0] == "amazon" else words[0]
        found = term(system, words[-1])
        if not isinstance(found, Unknown) and found.free < today:
            yield _eol(
                host,
                f"It is probably {facts.os_guess}, without free security updates since {found.free}.",
                facts.os_guess_source,
            )


def _eol(host: Host, message: str, source: str) -> Finding:
    checked = next(iter(terms().values())).checked
    return Finding(
        code="EOL",
        severity=Severity.high if not source else Severity.medium,
        host=host.instance_id,
        message=message,
        evidence=(*((f"guessed from {source}",) if source else ()), f"end-of-life dates as of {checked}"),
        remedy="Plan its replacement or upgrade; a paid extension counts only when it is proven on the host.",
    )


def judge_origin(host: Host, facts: DiscoverFacts) -> Iterator[Finding]:
    traces = []
    if is_true(facts.image_imported):
        traces.append(f"its image {_said(facts.image_id)} came in through VM Import")
    if isinstance(facts.lifted, tuple) and "vmware-tools" in facts.lifted:
        traces.append("VMware's tools are installed")
    if traces:
        if isinstance(facts.lifted, tuple) and "no-cloud-init" in facts.lifted:
            traces.append("there is no cloud-init")
        yield Finding(
            code="IMPORTED_IMAGE",
            severity=Severity.low,
            host=host.instance_id,
            message="The machine was brought from elsewhere; what was registered there may be baked in.",
            evidence=tuple(traces),
            remedy="Clean the image too, or every new instance of it comes with the same faults.",
        )
    if isinstance(facts.managed_by, tuple) and facts.managed_by:
        yield Finding(
            code="MANAGED_ELSEWHERE",
            severity=Severity.low,
            host=host.instance_id,
            message=f"It belongs to {', '.join(facts.managed_by)}, which may replace it or revert a change.",
            remedy="Change the image or launch template that it comes from.",
        )


def judge_from_outside(host: Host, facts: DiscoverFacts) -> Iterator[Finding]:
    """What EC2 itself says of the machine, and what it last printed."""
    if isinstance(facts.checks, str) and "impaired" in facts.checks:
        below = facts.checks.startswith("system impaired")
        yield Finding(
            code="CHECKS_FAIL",
            severity=Severity.high,
            host=host.instance_id,
            message=f"EC2's own status checks fail: {facts.checks}.",
            evidence=("DescribeInstanceStatus",),
            remedy="What is below the instance fails: stopping and starting it moves it to other hardware."
            if below
            else "The system does not answer: read its console, then reboot it.",
        )
    if isinstance(facts.events, tuple) and facts.events:
        yield Finding(
            code="EC2_EVENT",
            severity=Severity.high,
            host=host.instance_id,
            message=f"EC2 will act on it: {facts.events[0]}.",
            evidence=facts.events,
            remedy="Stop and start it before that day (an EBS-backed instance moves), or replace it.",
        )
    # Of Windows the stage repair tells it, with all else that AWS shows.
    if isinstance(facts.console, Console) and facts.console.signs and facts.platform != "windows":
        meanings = "; ".join(sign.partition(" (")[0] for sign in facts.console.signs)
        yield Finding(
            code="CONSOLE_SAYS",
            severity=Severity.high,
            host=host.instance_id,
            message=f"It is silent, and its console says: {meanings}.",
            evidence=facts.console.signs,
            remedy="Use the EC2 serial console, or attach its volume to another instance to repair it; what"
            " to do for each sign stands in the runbook of CONSOLE_SAYS.",
        )


def judge_config_management(host: Host, facts: DiscoverFacts) -> Iterator[Finding]:
    if isinstance(facts.config_management, Unknown) or not facts.config_management:
        return
    tools = ", ".join(sorted({line.partition(":")[0] for line in facts.config_management}))
    acting = any("is there" not in line for line in facts.config_management)
    yield Finding(
        code="CONFIG_MANAGED",
        severity=Severity.medium if acting else Severity.low,
        host=host.instance_id,
        message=f"{tools} {'manages' if acting else 'has managed'} this host and may revert what is changed.",
        evidence=facts.config_management,
        remedy="Make the same change there, or stop it here: what it registers comes back.",
    )


def _said(value: object) -> str:
    return "unknown" if isinstance(value, Unknown) else str(value)


def _why(value: object) -> tuple[str, ...]:
    return (value.unknown,) if isinstance(value, Unknown) else ()
