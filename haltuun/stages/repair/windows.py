"""A Windows host that is not Online, judged from AWS's side alone: Haltuun never logs in there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from haltuun.model import Finding, Severity, Unknown, is_false
from haltuun.stages.discover.console import Console
from haltuun.stages.repair.sides import Sides

AS_ADMINISTRATOR = "In PowerShell as Administrator (RDP, or the EC2 serial console): "
AGENT = r'& "$env:ProgramFiles\Amazon\SSM\amazon-ssm-agent.exe"'
LOG = r"$env:ProgramData\Amazon\SSM\Logs\amazon-ssm-agent.log"


def judge_windows(instance_id: str, s: Sides) -> Iterator[Finding]:
    """The first likely cause from below upwards: hardware, system, role, network, identity, service."""
    found = s.discover
    if found is None or found.platform != "windows" or found.state != "running":
        return
    if not is_false(s.repair.online_as_self):
        return
    message, remedy = next(said for look in _CAUSES if (said := look(s)))
    yield Finding(
        code="WINDOWS_AGENT",
        severity=Severity.high,
        host=instance_id,
        message=f"Windows, and not Online: {message}.",
        evidence=tuple(_seen(s)),
        remedy=remedy,
    )


def _impaired(s: Sides) -> tuple[str, str] | None:
    checks = s.discover.checks if s.discover else None
    if not isinstance(checks, str) or "impaired" not in checks:
        return None
    return (
        f"EC2's own checks fail ({checks})",
        "Look at its screenshot (aws ec2 get-console-screenshot), reboot it, or stop and start it.",
    )


def _not_up(s: Sides) -> tuple[str, str] | None:
    console = _console(s)
    if console is None or console.ready or not console.signs:
        return None
    return (
        "by its console it did not come up",
        "Look at its screenshot (aws ec2 get-console-screenshot); repair its volume from another instance.",
    )


def _no_role(s: Sides) -> tuple[str, str] | None:
    credentials = s.verify.credentials if s.verify else None
    profile = s.discover.profile_arn if s.discover else None
    # Default host management serves hosts without a profile.
    has_none = credentials == "none" if isinstance(credentials, str) else profile is None
    if not has_none:
        return None
    return (
        "it has no role, so its agent has no credentials",
        "Attach one with AmazonSSMManagedInstanceCore; after half an hour, or a restart of the service"
        " (Restart-Service AmazonSSMAgent), it comes Online.",
    )


def _no_way_out(s: Sides) -> tuple[str, str] | None:
    if s.verify is None or not is_false(s.verify.egress_ok):
        return None
    reason = s.verify.egress_reason
    return (
        f"its way to Systems Manager is closed{'' if isinstance(reason, Unknown) else f' ({reason})'}",
        "Open 443 outwards, or give the VPC the endpoints of Systems Manager; see the stage verify.",
    )


def _stale(s: Sides) -> tuple[str, str] | None:
    nodes = s.discover.same_box_nodes if s.discover else ()
    if isinstance(nodes, Unknown) or not nodes:
        return None
    return (
        f"Systems Manager knows its address or name as {', '.join(nodes)}: perhaps an old hybrid registration"
        " (after a move Windows is always refused with one, for its hardware's id is another)",
        f"{AS_ADMINISTRATOR}Stop-Service AmazonSSMAgent; {AGENT} -register -clear; Start-Service"
        " AmazonSSMAgent. What it stood for is in $env:ProgramData\\Amazon\\SSM\\InstanceData\\Vault.",
    )


def _service(s: Sides) -> tuple[str, str] | None:
    agent = (_console(s) or Console()).agent
    unknown = [name for name, value in _LOOKED_AT if isinstance(value(s), Unknown)]
    fault = (
        f"no fault is seen, with {' and '.join(unknown)} unknown" if unknown else "role and network are good"
    )
    started = f", and its console shows agent {agent} at its last start" if agent else ""
    return (
        f"{fault}{started}: perhaps the service does not run, is old, or has another identity",
        f"{AS_ADMINISTRATOR}Get-Service AmazonSSMAgent; Get-Content -Tail 50 {LOG}. 'take identity from"
        f" OnPrem' there: Stop-Service AmazonSSMAgent; {AGENT} -register -clear; Start-Service"
        " AmazonSSMAgent. Not installed: install AmazonSSMAgentSetup.exe of its region.",
    )


# What the last cause rests on.
_LOOKED_AT: tuple[tuple[str, Callable[[Sides], object]], ...] = (
    ("the role", lambda s: s.discover.profile_arn if s.discover else None),
    ("the way out", lambda s: s.verify.egress_ok if s.verify else Unknown(unknown="not looked at")),
)
_CAUSES: tuple[Callable[[Sides], tuple[str, str] | None], ...] = (
    _impaired,
    _not_up,
    _no_role,
    _no_way_out,
    _stale,
    _service,
)


def _console(s: Sides) -> Console | None:
    console = s.discover.console if s.discover else None
    return console if isinstance(console, Console) else None


def _seen(s: Sides) -> Iterator[str]:
    """Each thing that was looked at, unknown ones too: what a person need not look up again."""
    assert s.discover is not None
    yield f"Systems Manager: {_said(s.repair.ssm_status)}"
    yield f"last report: {_said(s.repair.ssm_last_ping_at, 'never')}"
    yield f"status checks: {_said(s.discover.checks, 'none')}"
    yield f"instance profile: {_said(s.discover.profile_arn, 'none')}"
    yield f"way out: {_said(s.verify.egress_ok if s.verify else Unknown(unknown='not looked at'))}"
    yield f"console: {_printed(s.discover.console)}"


def _said(value: object, none: str = "none") -> str:
    if isinstance(value, Unknown):
        return f"unknown ({value.unknown})"
    if isinstance(value, bool):
        return "open" if value else "closed"
    return none if value is None else str(value)


def _printed(console: Console | Unknown | None) -> str:
    if isinstance(console, Unknown):
        return f"unknown ({console.unknown})"
    if console is None:
        return "not asked"
    up = "Windows came up" if console.ready else "no word that Windows came up"
    return "; ".join([up, *([f"agent {console.agent}"] if console.agent else []), *console.signs])
