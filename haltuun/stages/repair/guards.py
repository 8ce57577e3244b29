"""Why a host is not repaired here: each guard a small function, first one that speaks decides. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from haltuun.model import Barred, Change, Host, Json, StageName, Unknown, Verdict, is_false, is_true, known
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverAccount, DiscoverFacts
from haltuun.stages.repair.agentlog import is_older
from haltuun.stages.repair.facts import Agent, NodeRow, RepairAccount, RepairFacts
from haltuun.stages.repair.leftovers import own_identities_cut
from haltuun.stages.repair.rules import TOKENS_FIRST_SINCE, TOKENS_SINCE
from haltuun.stages.repair.state import state_of
from haltuun.stages.repair.wording import WORDING
from haltuun.stages.verify.faults import metadata_options

# "Connection lost" that no step on the host mends was seen once to end by itself, after 30 days, and is
# documented nowhere; after half as long again it is a case for AWS's support.
WAITING_LIMIT = timedelta(days=45)
# Short of a day: the daily recheck (06:30) must not come before what yesterday's run set.
LOOK_AGAIN = timedelta(hours=20)
# An agent reports every five minutes: one that did so lately is likely on its way back (seen in the lab
# when a role was given back to a host).
JUST_NOW, LOOK_SOON = timedelta(hours=1), timedelta(minutes=15)
SPARE_KB = 10_000
SNAP_REMEDY = "Make the host reachable over SSH for this step (key, address, security group)."


@dataclass(frozen=True)
class Case:
    """One host with all that a guard or a step may look at."""

    view: View
    host: Host
    facts: RepairFacts
    found: DiscoverFacts | None
    account: RepairAccount
    prepared: tuple[Change, ...]  # verify's changes for this host

    @property
    def agent(self) -> Agent:
        assert isinstance(self.facts.agent, Agent)
        return self.facts.agent

    @cached_property
    def state(self) -> dict[str, Json]:
        """The agent's present state in the words of a change."""
        return state_of(self.host, self.agent)

    def has(self, *codes: str) -> bool:
        causes = self.facts.causes
        return not isinstance(causes, Unknown) and any(code in causes for code in codes)

    def barred(self, code: str, message: str, remedy: str, verdict: Verdict = Verdict.held) -> Barred:
        return Barred(host=self.host.instance_id, code=code, message=message, remedy=remedy, verdict=verdict)

    def barred_by(self, code: str) -> Barred:
        evidence = next((c.evidence for c in self.facts.found if c.code == code), ())
        where = f" ({evidence[-1].file}: {evidence[-1].text})" if evidence else ""
        return self.barred(code, f"{WORDING[code].message}{where[:300]}", WORDING[code].remedy)


Guard = Callable[[Case], Barred | None]


def first(case: Case, guards: tuple[Guard, ...]) -> Barred | None:
    return next((barred for guard in guards if (barred := guard(case)) is not None), None)


# -- may it be touched at all --------------------------------------------------------------------------


def _excluded(case: Case) -> Barred | None:
    why = case.found.exclude if case.found else None
    if why is None:
        return None
    return case.barred(
        "EXCLUDED",
        f"Left alone: {why}.",
        "Remove the exclusion from haltuun.yaml or the tag haltuun:exclude.",
        Verdict.excluded,
    )


def _stopped(case: Case) -> Barred | None:
    if case.found is None or not isinstance(case.found.state, str) or case.found.state == "running":
        return None
    return case.barred(
        "INSTANCE_STOPPED", f"The instance is {case.found.state}.", "Start it, then retry; or retire it."
    )


def _windows(case: Case) -> Barred | None:
    if case.found is None or case.found.platform != "windows":
        return None
    return case.barred(
        "WINDOWS_BY_HAND",
        "Haltuun does not repair the agent on Windows hosts.",
        "Repair it by hand (service AmazonSSMAgent, see the runbook), then retry.",
    )


def _suspect(case: Case) -> Barred | None:
    if case.found is None or not case.found.is_suspect:
        return None
    return case.barred(
        "SUSPECT",
        "A strong sign of compromise: nothing is changed here before a person has looked.",
        "Look at the evidence snapshot and the finding; isolate or rebuild the host.",
    )


def _suspect_unknown(case: Case) -> Barred | None:
    """Who was let in and could not look for the signs must not repair; without a way in `_unseen` speaks."""
    if case.found is None or not isinstance(case.found.suspect, Unknown):
        return None
    if isinstance(case.facts.agent, Unknown):
        return None
    return case.barred(
        "SUSPECT_UNKNOWN",
        f"Signs of compromise could not be looked for ({case.found.suspect.unknown}): nothing is changed here"
        " before they were.",
        "Retry; if it stays so, see why the look at the host does not end (load, hanging disks).",
        Verdict.unknown,
    )


def _asg_member(case: Case) -> Barred | None:
    if case.found is None:
        return None
    groups = [case.found.asg] if isinstance(case.found.asg, str) and case.found.asg else []
    owners = case.found.managed_by if not isinstance(case.found.managed_by, Unknown) else ()
    if groups or any(owner.startswith("asg") for owner in owners):
        name = groups[0] if groups else owners[0].partition(":")[2]
        return case.barred(
            "ASG_MEMBER",
            f"Member of the Auto Scaling group {name}: a repair in place lasts until it is replaced.",
            "Repair the image of its launch template, then refresh the group's instances.",
            Verdict.excluded,
        )
    if isinstance(case.found.managed_by, Unknown) or isinstance(case.found.asg, Unknown):
        return case.barred(
            "MEMBERSHIP_UNKNOWN",
            "Whether an Auto Scaling group or a cluster replaces this instance could not be seen: a repair in"
            " place might not last.",
            "Allow autoscaling:DescribeAutoScalingInstances for the role that Haltuun uses, then retry.",
            Verdict.unknown,
        )
    if owners:
        return case.barred(
            "MANAGED_MEMBER",
            f"Made and replaced by {', '.join(owners)}: it is not repaired in place.",
            "Repair the image or the node group it comes from.",
            Verdict.excluded,
        )
    return None


def _unseen(case: Case) -> Barred | None:
    agent = case.facts.agent
    if not isinstance(agent, Unknown):
        return None
    code, _, rest = agent.unknown.partition(": ")
    return case.barred(
        code if rest else "NOT_LOOKED",
        f"The agent could not be looked at: {rest or code}",
        "Make the host reachable (see the code's page), then retry.",
        Verdict.unknown,
    )


def _no_root(case: Case) -> Barred | None:
    if not is_false(case.agent.root):
        return None
    return case.barred(
        "NO_SUDO", "The login is not root and sudo does not make it root.", "Allow sudo for the user."
    )


# Without one of these nobody can tell the least step, or whether it is safe.
_DECIDE = ("root", "packages", "binary", "processes", "config", "log", "disk_free_kb")


def _seen_in_part(case: Case) -> Barred | None:
    unseen = [name for name in _DECIDE if isinstance(getattr(case.agent, name), Unknown)]
    if not unseen:
        return None
    return case.barred(
        "PROBE_UNREADABLE",
        f"What decides on a repair was not shown by the host: {', '.join(unseen)}.",
        "Log in by hand and look why the host does not show it, then retry.",
        Verdict.unknown,
    )


def _wrong_box(case: Case) -> Barred | None:
    if not is_false(case.facts.right_box):
        return None
    agent = case.agent
    return case.barred(
        "WRONG_BOX",
        f"The machine that answers is {agent.imds_instance_id}, not {case.host.instance_id}.",
        "Correct the host's address in haltuun.yaml, or the network between.",
    )


def _imds(case: Case) -> Barred | None:
    if is_true(case.facts.right_box):
        return None
    said = "The host gets no answer from its metadata service: an agent without it has no identity at all"
    return case.barred(
        "IMDS_UNREACHABLE",
        f"{'; '.join((said, *metadata_options(case.found)))}.",
        WORDING["IMDS_UNREACHABLE"].remedy,
    )


UNTOUCHABLE: tuple[Guard, ...] = (
    _excluded,
    _stopped,
    _windows,
    _suspect,
    _suspect_unknown,
    _asg_member,
    _unseen,
    _no_root,
    _wrong_box,
    _imds,
    _seen_in_part,
)


# -- faults that a person mends ------------------------------------------------------------------------


def _by_hand(case: Case) -> Barred | None:
    codes = ("CONFIG_BROKEN", "CUSTOM_IDENTITY", "PROXY_INTERCEPTS_IMDS", "PROXY_CONFIGURED", "DISK_FULL")
    mended = {"CUSTOM_IDENTITY"} if own_identities(case) is not None else set()
    code = next((code for code in codes if case.has(code) and code not in mended), None)
    return case.barred_by(code) if code else None


def own_identities(case: Case) -> str | None:
    """The configuration without custom identities that are but the stale registration's, if they are."""
    config, vault = case.agent.config, case.agent.vault
    if not case.has("STALE_HYBRID") or isinstance(config, Unknown) or isinstance(vault, Unknown):
        return None
    return own_identities_cut(config, vault)


def _pinned_elsewhere(case: Case) -> Barred | None:
    config = case.agent.config
    if isinstance(config, Unknown):
        return None
    if config.region and config.region != case.host.region:
        return case.barred_by("REGION_PINNED")
    if config.consumption_order and "EC2" not in config.consumption_order:
        return case.barred_by("IDENTITY_ORDER_OVERRIDE")
    if config.endpoints:
        return case.barred_by("ENDPOINT_OVERRIDE")
    return None


def _two_packages(case: Case) -> Barred | None:
    """How their services are has to be seen: snapd needs systemd."""
    if not case.has("SNAP_AND_DEB"):
        return None
    if case.agent.init != "systemd" or len(case.agent.services) < 2:
        return case.barred_by("SNAP_AND_DEB")
    if case.found is not None and case.found.way == "run-command":
        return case.barred(
            "SNAP_NEEDS_SSH",
            "The agent is there as snap and as deb, and one of them is itself the only way in: stopping it"
            " would end the repair half-way.",
            SNAP_REMEDY,
        )
    return None


def _no_service_manager(case: Case) -> Barred | None:
    if case.agent.init in ("systemd", "upstart"):
        return None
    return case.barred(
        "INIT_UNKNOWN",
        "The host runs neither systemd nor upstart: Haltuun does not know how to restart the agent.",
        "Restart or repair the agent by hand, then retry.",
    )


BY_HAND: tuple[Guard, ...] = (_by_hand, _pinned_elsewhere, _two_packages, _no_service_manager)


# -- before a registration is taken away -----------------------------------------------------------------


def _deliberate(case: Case) -> Barred | None:
    settings = case.view.account.host(case.host.instance_id)
    if settings.deliberate_hybrid:
        return case.barred(
            "DELIBERATE_HYBRID",
            "The configuration says that this host is registered as hybrid on purpose.",
            "Nothing to do; take 'deliberate_hybrid' out of haltuun.yaml to have it repaired.",
            Verdict.excluded,
        )
    if "deliberate_hybrid" in settings.model_fields_set:
        return None  # a person has said that it is not meant
    if is_true(case.facts.deliberate):
        return case.barred(
            "DELIBERATE_HYBRID",
            f"{case.facts.vault_instance_id} was registered with similarity threshold -1:"
            " somebody wanted this hybrid registration.",
            "Say in haltuun.yaml for this host 'deliberate_hybrid: true' (leave it) or 'false' (repair it).",
        )
    return None


def _of_another_kind(case: Case) -> Barred | None:
    """What made such a node goes on needing its registration, or makes it again."""
    node = case.facts.vault_node
    if "deliberate_hybrid" in case.view.account.host(case.host.instance_id).model_fields_set:
        return None
    if not isinstance(node, NodeRow) or not node.of_another_kind:
        return None
    return case.barred(
        "HYBRID_SOURCE",
        f"{node.node_id} in {node.region} is no machine that was registered by an activation: its source type"
        f" is {node.source_type}, so it is another cloud's, or a Greengrass device's.",
        "See what made it and whether that still needs it; to have it cleared here, say 'deliberate_hybrid:"
        " false' for this host in haltuun.yaml.",
    )


def _in_use_elsewhere(case: Case) -> Barred | None:
    """The mi- is Online from a machine that is none of this account's: its living original. Or perhaps so."""
    if "deliberate_hybrid" in case.view.account.host(case.host.instance_id).model_fields_set:
        return None
    mi = case.facts.vault_instance_id
    if not isinstance(mi, str):
        return None
    node = case.facts.vault_node
    if isinstance(node, Unknown):
        return case.barred(
            "HYBRID_IN_USE",
            f"Whether {mi} is in use elsewhere could not be seen in region {case.facts.vault_region}:"
            f" {node.unknown}",
            "Allow ssm:DescribeInstanceInformation there, then retry; or say 'deliberate_hybrid: false' for"
            " this host in haltuun.yaml to have it cleared.",
            Verdict.unknown,
        )
    if node is None or node.ping_status != "Online" or _is_ours(case, node):
        return None
    source = f" (source type {node.source_type})" if node.source_type else ""
    return case.barred(
        "HYBRID_IN_USE",
        f"{mi}{source} is Online from {node.computer_name or 'a machine'} ({node.ip_address}) in"
        f" {node.region}, which is no instance known here: this host may be a copy of a machine that still"
        " lives.",
        "If so, say 'deliberate_hybrid: false' for this host in haltuun.yaml to have its copy cleared.",
    )


def _is_ours(case: Case, node: NodeRow) -> bool:
    """Clones share a registration: Online from this host or a clone of its image is no living original.

    Private addresses come again in every network, the original's too: an address alone says nothing.
    """
    for instance_id, facts in case.view.facts.get(StageName.discover, {}).items():
        there = case.view.hosts.get(instance_id)
        if not isinstance(facts, DiscoverFacts) or there is None or there.region != node.region:
            continue
        if node.ip_address and node.ip_address not in (facts.private_ip, facts.public_ip):
            continue
        if _same_name(facts.hostname, node.computer_name) or (
            node.ip_address and there != case.host and _same_image(case.found, facts)
        ):
            return True
    return False


def _same_name(hostname: str | Unknown, computer_name: str) -> bool:
    """The agent reports the full name, the host its short one."""
    if isinstance(hostname, Unknown) or not hostname or not computer_name:
        return False
    return hostname.partition(".")[0].lower() == computer_name.partition(".")[0].lower()


def _same_image(one: DiscoverFacts | None, other: DiscoverFacts) -> bool:
    return one is not None and isinstance(one.image_id, str) and one.image_id == other.image_id


def _dhmc(case: Case) -> Barred | None:
    """Under default host management the vault is the credential: without a profile, a purge may leave the
    host without any (AWS: default host management, "remove the instance profile")."""
    if has_profile(case):
        return None
    account = case.view.account_facts.get(StageName.discover)
    region = account.regions.get(case.host.region) if isinstance(account, DiscoverAccount) else None
    role = region.dhmc_role if region is not None else Unknown(unknown="not asked")
    if known(role) and not role:
        return case.barred_by("ROLE_MISSING")
    said = f"not readable ({role.unknown})" if isinstance(role, Unknown) else f"on ({role})"
    return case.barred(
        "DHMC_GUARD",
        f"The host has no instance profile and default host management is {said}:"
        " clearing its vault could leave it without any credentials.",
        "Attach an instance profile with the agent's permissions, then retry.",
    )


def has_profile(case: Case) -> bool:
    """Now, or after verify's planned changes."""
    arn = case.found.profile_arn if case.found is not None else None
    attached = isinstance(arn, str) and bool(arn)
    return attached or any("profile" in change.kind for change in case.prepared)


def sends_no_token(case: Case) -> bool:
    """The metadata want a session token, and the agent is too old for one: by EC2 and its version, or by its
    log, where a newer one would have asked with a token first. No restart changes that."""
    wanted = case.found.imds_tokens if case.found is not None else Unknown(unknown="not asked")
    if wanted == "optional":
        return False
    refused = case.has("IMDS_TOKENS_REQUIRED")
    version, than = case.agent.version, TOKENS_FIRST_SINCE if refused else TOKENS_SINCE
    older = is_older(version, than) if isinstance(version, str) else version
    return refused if isinstance(older, Unknown) else older and (refused or wanted == "required")


def wants_tokens(case: Case) -> Barred:
    """Of an agent that sends none: what its log shows, else what EC2 and its version do."""
    if case.has("IMDS_TOKENS_REQUIRED"):
        return case.barred_by("IMDS_TOKENS_REQUIRED")
    wording = WORDING["IMDS_TOKENS_REQUIRED"]
    return case.barred("IMDS_TOKENS_REQUIRED", f"{_wants_tokens(case)}.", wording.remedy)


def _wants_tokens(case: Case) -> str:
    return (
        f"The instance metadata want session tokens (IMDSv2), and the agent ({case.agent.version}) sends none"
    )


def _without_tokens(case: Case) -> Barred | None:
    """Without its registration such an agent would have no identity at all."""
    if case.has("AGENT_MISSING") or not sends_no_token(case):
        return None
    newer = ".".join(map(str, TOKENS_FIRST_SINCE))
    return case.barred(
        "IMDS_TOKENS_REQUIRED",
        f"{_wants_tokens(case)}: without its registration it would have no identity.",
        "Let calls without a token through ('aws ec2 modify-instance-metadata-options --region"
        f" {case.host.region} --instance-id {case.host.instance_id} --http-tokens optional'), or install"
        f" agent {newer} or newer by hand over the old one{_over_it(case)}; then retry: the registration is"
        " cleared then. Haltuun replaces no agent under a stale registration.",
    )


_OVER = {
    "deb": "dpkg -i amazon-ssm-agent.deb",
    "rpm": "rpm -U amazon-ssm-agent.rpm",
    "snap": "snap refresh amazon-ssm-agent",
}


def _over_it(case: Case) -> str:
    package = case.agent.package
    how = None if isinstance(package, Unknown) else _OVER.get(package)
    return f" ('{how}'; docs/runbooks/IMDS_TOKENS_REQUIRED.md says from where)" if how else ""


def _room_to_save(case: Case) -> Barred | None:
    free, state = case.agent.disk_free_kb, case.agent.state_kb
    if isinstance(free, Unknown) or isinstance(state, Unknown) or free > state + SPARE_KB:
        return None
    return case.barred(
        "DISK_FULL",
        f"{free} KiB are free in /var/lib: the agent's state ({state} KiB) could not be saved first.",
        WORDING["DISK_FULL"].remedy,
    )


def _snap_over_run_command(case: Case) -> Barred | None:
    """snapd stops a service with its whole control group, and Run Command's scripts are in the agent's."""
    if case.agent.package != "snap" or case.found is None or case.found.way != "run-command":
        return None
    return case.barred(
        "SNAP_NEEDS_SSH",
        "The agent is a snap, and it is itself the only way in: stopping it would end the repair half-way.",
        SNAP_REMEDY,
    )


BEFORE_RESTARTING: tuple[Guard, ...] = (_snap_over_run_command,)
BEFORE_CLEARING: tuple[Guard, ...] = (
    _deliberate,
    _of_another_kind,
    _in_use_elsewhere,
    _dhmc,
    _without_tokens,
    _room_to_save,
    *BEFORE_RESTARTING,
)


# -- nothing to do but wait ------------------------------------------------------------------------------


def waiting(case: Case) -> Barred:
    """Right identity, running agent, open channel, and still not Online."""
    now = case.view.now
    last = case.facts.ssm_last_ping_at
    if not isinstance(last, Unknown) and last is not None and now - last > WAITING_LIMIT:
        return case.barred(
            "WAITING_LIMIT",
            f"Not Online since {last:%Y-%m-%d} although nothing is wrong on the host.",
            "Open a case with AWS's support, with the agent's debug log (docs/runbooks/WAITING_LIMIT.md: how"
            " to make, redact and bundle one); or replace the instance.",
        )
    wording = WORDING["WAITING_SERVICE"]
    lately = not isinstance(last, Unknown) and last is not None and now - last < JUST_NOW
    return Barred(
        host=case.host.instance_id,
        code="WAITING_SERVICE",
        message=wording.message,
        remedy=wording.remedy,
        verdict=Verdict.waiting,
        next_check=now + (LOOK_SOON if lately else LOOK_AGAIN),
    )
