"""Where the host and AWS say different things of one agent: both are told, and what that means. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from haltuun.model import Finding, Severity, StageName, Unknown, is_false, is_true, known
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.repair.agentlog import read_log
from haltuun.stages.repair.facts import Agent, NodeRow, RepairFacts
from haltuun.stages.verify.facts import VerifyFacts
from haltuun.stages.verify.faults import metadata_options

# A clock that is no further off signs well: AWS allows five minutes.
CLOCK_OK_S = 60.0


@dataclass(frozen=True)
class Sides:
    """What is known of one host from both sides. verify and discover may not have looked."""

    repair: RepairFacts
    discover: DiscoverFacts | None
    verify: VerifyFacts | None


def sides_of(view: View, instance_id: str, facts: RepairFacts) -> Sides:
    discover = view.facts.get(StageName.discover, {}).get(instance_id)
    verify = view.facts.get(StageName.verify, {}).get(instance_id)
    return Sides(
        repair=facts,
        discover=discover if isinstance(discover, DiscoverFacts) else None,
        verify=verify if isinstance(verify, VerifyFacts) else None,
    )


# -- of a cause that the host shows: what AWS says against it ------------------------------------------------


def _gone(s: Sides) -> str:
    node = s.repair.vault_node
    if not isinstance(node, NodeRow):
        return ""
    return (
        f"AWS lists {node.node_id} in {node.region} of this account ({node.ping_status}): the agent asked"
        " another account or region, or it was registered anew since"
    )


def _mismatch(s: Sides) -> str:
    node = s.repair.vault_node
    if not isinstance(node, NodeRow) or node.ping_status != "Online":
        return ""
    return (
        f"AWS has {node.node_id} Online from {node.computer_name or 'a machine'} ({node.ip_address}): another"
        " machine holds the registration that is refused here"
    )


def _role(s: Sides) -> str:
    arn = s.discover.profile_arn if s.discover else None
    if s.verify is not None and known(s.verify.profile_arn):
        arn = s.verify.profile_arn
    if not isinstance(arn, str) or not arn:
        return ""
    return f"EC2 shows the instance profile {arn.rpartition('/')[2]}: attached since, and the agent sleeps"


def _allowed(s: Sides) -> str:
    # Where its policies are not known, that an Online host may is a conclusion: it may lack the channel.
    if s.verify is None or not is_true(s.verify.ssm_allowed) or s.verify.denied_actions != ():
        return ""
    return f"by its policies the role {s.verify.role_name} may do it now: allowed since, or denied elsewhere"


def _reached(s: Sides) -> str:
    seen = s.verify is not None and s.verify.source == "host" and is_true(s.verify.tls_ok)
    return "from the host Systems Manager answers now: mended since, and the agent sleeps" if seen else ""


def _metadata(s: Sides) -> str:
    if isinstance(s.repair.agent, Agent) and is_true(s.repair.agent.imds_instance_id):
        return "the host's own call for them is answered now: mended since, and the agent has not tried again"
    if s.discover is None or s.discover.imds_endpoint != "enabled":
        return ""
    return "EC2 shows them switched on: what is in the way is on the host (a firewall, a lost route, a proxy)"


def _tokens(s: Sides) -> str:
    if s.discover is None or s.discover.imds_tokens != "optional":
        return ""
    return "EC2 asks for none now (HttpTokens=optional): changed since, and the agent has not tried again"


def _awake(s: Sides) -> str:
    if is_true(s.repair.online_as_self):
        return "Systems Manager has it Online: it has woken since, or another machine has its id"
    return _allowed(s)


def _clock(s: Sides) -> str:
    offset = s.discover.clock_offset_s if s.discover else None
    if not isinstance(offset, int | float) or abs(offset) > CLOCK_OK_S:
        return ""
    return f"its clock is {offset:.0f} s off AWS's now: set since, and the agent has not tried again"


AGAINST: dict[str, Callable[[Sides], str]] = {
    "HYBRID_GONE": _gone,
    "FINGERPRINT_MISMATCH": _mismatch,
    "ROLE_MISSING": _role,
    "ROLE_DENIED": _allowed,
    "EGRESS_BLOCKED": _reached,
    "DNS_FAILS": _reached,
    "ENDPOINT_REFUSED": _reached,
    "TLS_UNTRUSTED": _reached,
    "TLS_FAILS": _reached,
    "CLOCK_SKEW": _clock,
    "IMDS_UNREACHABLE": _metadata,
    "IMDS_TOKENS_REQUIRED": _tokens,
    "MESSAGES_DENIED": _allowed,
    "MESSAGES_UNREACHABLE": _reached,
    "HIBERNATING": _awake,
}


def against(code: str, s: Sides) -> str:
    """AWS's side where it differs from what the cause says; "" where it does not, or is not known."""
    return AGAINST[code](s) if code in AGAINST else ""


def beside(code: str, s: Sides) -> tuple[str, ...]:
    """What AWS shows that bears on the cause, and what of it nobody could see."""
    if code in ("IMDS_UNREACHABLE", "IMDS_TOKENS_REQUIRED"):
        return metadata_options(s.discover)
    return _end_untold(s.repair.agent) if code in ("AGENT_STOPPED", "AGENT_CRASHES") else ()


def _end_untold(agent: Agent | Unknown) -> tuple[str, ...]:
    """Only the journal has the words of a runtime that dies. An agent that said goodbye did not die."""
    if isinstance(agent, Unknown) or not isinstance(agent.died, Unknown):
        return ()
    if not isinstance(agent.log, Unknown) and read_log(agent.log).ended is not None:
        return ()
    return (f"how the agent ended is not known: {agent.died.unknown.partition(': ')[2]}",)


# -- of the agent as a whole --------------------------------------------------------------------------------


def _dead_yet_online(s: Sides) -> str:
    dead = is_false(s.repair.running)
    if not dead or not is_true(s.repair.online_as_self):
        return ""
    return (
        "the host runs no agent; Systems Manager has it Online: it stopped minutes ago, or another machine"
        " has its id"
    )


def _hybrid_yet_online(s: Sides) -> str:
    if s.repair.identity != "OnPrem" or not is_true(s.repair.online_as_self):
        return ""
    return (
        f"the host's agent runs as {s.repair.identity_id}; Systems Manager has the instance Online: it"
        " changed minutes ago, or another machine has its id"
    )


def _channel_yet_lost(s: Sides) -> str:
    if s.repair.identity != "EC2" or not is_true(s.repair.connected) or not is_false(s.repair.online_as_self):
        return ""
    return f"the host's agent has an open channel as itself; Systems Manager says '{s.repair.ssm_status}'"


def _version(s: Sides) -> str:
    there = s.discover.ssm_agent_version if s.discover else None
    here = s.repair.version
    if not is_true(s.repair.online_as_self) or not isinstance(there, str) or not isinstance(here, str):
        return ""
    if not there or here in ("", "unknown", there):
        return ""
    return f"the host has agent {here}; Systems Manager reports {there}: not restarted since its update"


WHOLE: tuple[Callable[[Sides], str], ...] = (
    _dead_yet_online,
    _hybrid_yet_online,
    _channel_yet_lost,
    _version,
)


def judge_sides(instance_id: str, s: Sides) -> Iterator[Finding]:
    said = [told for find in WHOLE if (told := find(s))]
    if said:
        yield Finding(
            code="SIDES_DISAGREE",
            severity=Severity.medium,
            host=instance_id,
            message=f"Host and AWS disagree: {said[0]}.",
            evidence=tuple(said),
            remedy="Look again in some minutes; if it stays so, compare the instance id that the host's"
            " metadata service gives with AWS's.",
        )


def judge_authenticates(instance_id: str, s: Sides, account_id: str) -> Iterator[Finding]:
    """Whose registration can run commands on the host as root."""
    facts = s.repair
    causes = facts.causes if not isinstance(facts.causes, Unknown) else ()
    if "STALE_HYBRID" not in causes or not _gets_in(facts):
        return
    node = facts.vault_node
    evidence = [f"its agent has an open channel as {facts.identity_id}"] if is_true(facts.connected) else []
    owner = f"its owner is not account {account_id}, and is not known here"
    if isinstance(node, Unknown):
        owner = f"whose it is could not be asked ({node.unknown})"
    elif isinstance(node, NodeRow):
        owner = f"it is registered in account {account_id}, {node.region}"
        evidence.append(
            f"{node.node_id} is {node.ping_status} from {node.computer_name} ({node.ip_address}), agent"
            f" {node.agent_version or 'unknown'}"
        )
        if node.activation_id:
            since = f" on {node.registered_at:%Y-%m-%d}" if node.registered_at else ""
            evidence.append(
                f"registered{since} by activation {node.activation_id}, role {node.iam_role or '?'}"
            )
    yield Finding(
        code="HYBRID_AUTHENTICATES",
        severity=Severity.critical,
        host=instance_id,
        message=f"The registration {facts.vault_instance_id} still authenticates from this host: {owner}, and"
        " whoever may send commands there runs them here as root.",
        evidence=tuple(evidence),
        remedy="Look through that node's command history and /var/log/amazon/ssm/audits on the host; the"
        " repair takes the registration off.",
    )


def _gets_in(facts: RepairFacts) -> bool:
    """By the host's own log: Online alone may be another machine with the same registration."""
    return facts.identity == "OnPrem" and is_true(facts.connected)
