"""What keeps a host's agent from its work, one fault after the other, and which of them Haltuun can mend.
Findings, plan and held hosts all speak of these. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from haltuun.model import Frozen, Host, Severity, StageName, Unknown, Verdict, is_false, is_true
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.verify.account import dhmc_role
from haltuun.stages.verify.facts import Endpoint, RoleFacts, VerifyFacts
from haltuun.stages.verify.needs import OWN_ROLE, POLICY_NAME, is_own_policy
from haltuun.stages.verify.parse_account import discovered, verified

Mend = Literal["", "policy", "profile", "egress"]


class Fault(Frozen):
    code: str
    message: str
    remedy: str
    severity: Severity = Severity.high
    mend: Mend = ""  # which kind of change mends it; "" is none
    verdict: Verdict = Verdict.held


def faults_of(view: View, host: Host, facts: VerifyFacts) -> list[Fault]:
    """In the order in which they matter. Of a host that cannot be looked into, only that."""
    seen = discovered(view, host.instance_id)
    closed = closed_to_us(host, seen, facts)
    if closed is not None:
        return [closed]
    if isinstance(facts.compromise, Unknown):
        return [_suspect_unknown(facts.compromise)]
    return [
        *permission_faults(view, host, seen, facts),
        *metadata_faults(host, seen, facts),
        *network_faults(facts),
    ]


def closed_to_us(host: Host, seen: DiscoverFacts | None, facts: VerifyFacts) -> Fault | None:
    if seen is not None and isinstance(seen.state, str) and seen.state != "running":
        return Fault(
            code="INSTANCE_STOPPED",
            message=f"The instance is {seen.state}, so nothing can be looked at or repaired in it.",
            remedy=f"Start it (aws ec2 start-instances --instance-ids {host.instance_id}), then retry it.",
        )
    if facts.right_box is False:
        why = facts.source.unknown if isinstance(facts.source, Unknown) else ""
        return Fault(
            code="WRONG_BOX",
            message=f"{_sentence(why.removeprefix('WRONG_BOX: ') or 'Another machine answers')}.",
            remedy=f"Give the right address and port of {host.instance_id} in haltuun.yaml, then retry it.",
        )
    if not isinstance(facts.source, Unknown):
        return None
    if seen is not None and seen.platform == "windows":
        return Fault(
            code="WINDOWS_BY_HAND",
            message="It is a Windows host that is not Online, and Haltuun repairs Linux only.",
            remedy="Bring its agent Online by hand (runbook WINDOWS_BY_HAND), then retry it.",
        )
    return _unreachable(host, facts.source)


def _suspect_unknown(why: Unknown) -> Fault:
    return Fault(
        code="SUSPECT_UNKNOWN",
        message=f"Signs of a compromise could not be looked for ({why.unknown.rstrip('.')}), and nothing is"
        " given to a host of which that is not known.",
        remedy="Retry it; if that fails again, look for the signs by hand (runbook SUSPECT).",
        verdict=Verdict.unknown,
    )


def _unreachable(host: Host, why: Unknown) -> Fault:
    """The engine hands the error of the connection over as "CODE: sentence. remedy"."""
    code, _, text = why.unknown.partition(": ")
    if not code.replace("_", "").isupper() or not text:
        code, text = "HOST_UNSEEN", why.unknown
    sentence, _, remedy = text.removeprefix(f"{host.label}: ").partition(". ")
    return Fault(
        code=code,
        message=_sentence(sentence.removesuffix(".")) + ".",
        remedy=remedy or "Correct the host's address, port or key in haltuun.yaml, then retry it.",
    )


# -- permissions -----------------------------------------------------------------------------------


def permission_faults(
    view: View, host: Host, seen: DiscoverFacts | None, facts: VerifyFacts
) -> Iterator[Fault]:
    account = verified(view)
    if facts.credentials == "none" and account is not None:
        yield _role_missing(view, host, seen, facts)
        return
    name = facts.role_name
    role = account.roles.get(name) if account is not None and isinstance(name, str) else None
    if not isinstance(role, RoleFacts):
        return
    if is_false(role.trusts_ec2) and facts.credentials == "instance role":
        yield Fault(
            code="ROLE_DENIED",
            message=f"The role {role.role_name} does not trust EC2, so the host gets no credentials.",
            remedy=f"Let ec2.amazonaws.com assume {role.role_name} in its trust policy.",
        )
    denied = facts.denied_actions
    if not is_false(facts.ssm_allowed) or not isinstance(denied, tuple):
        return
    beyond = [text for text in role.beyond if text.split(" ")[0] in denied]
    listed = ", ".join(denied[:3]) + (f" and {len(denied) - 3} more" if len(denied) > 3 else "")
    message = f"The role {role.role_name} may not {listed}."
    if beyond:
        yield Fault(
            code="ROLE_DENIED",
            message=f"{message} Denied beyond the role's own policies: {beyond[0]}.",
            remedy="Change that policy, boundary or service control policy: no added policy outweighs it.",
        )
    elif facts.credentials == "default host management":
        yield Fault(
            code="ROLE_DENIED",
            message=message,
            remedy="Attach AmazonSSMManagedEC2InstanceDefaultPolicy to the role of default host management.",
        )
    elif role.inline_policy is not None and not is_own_policy(role.inline_policy):
        yield _name_taken(f"the inline policy {POLICY_NAME} of the role {role.role_name}")
    else:
        yield Fault(
            code="ROLE_DENIED",
            message=message,
            remedy=f"Approve the planned inline policy {POLICY_NAME} on {role.role_name}.",
            mend="policy",
        )


def _role_missing(view: View, host: Host, seen: DiscoverFacts | None, facts: VerifyFacts) -> Fault:
    account = verified(view)
    assert account is not None
    if isinstance(facts.profile_arn, str):
        name = facts.profile_arn.rsplit("/", 1)[-1]
        return Fault(
            code="ROLE_MISSING",
            message=f"Its instance profile {name} holds no role, or is gone.",
            remedy=f"Add a role to {name} (aws iam add-role-to-instance-profile), or detach it, then retry.",
        )
    lacks = "It has no instance role"
    if dhmc_role(view.account_facts.get(StageName.discover), host.region):
        lacks += " and an agent too old for default host management, which is on (it needs 3.2.582.0)"
    if seen is not None and isinstance(seen.asg, str):
        return Fault(
            code="ROLE_MISSING",
            message=f"{lacks}, and is a member of the Auto Scaling group {seen.asg}.",
            remedy="Put an instance profile into the group's launch template and replace its instances.",
        )
    if "foreign" in (account.own_role, account.own_profile):
        return _name_taken(f"the role or instance profile {OWN_ROLE}")
    return Fault(
        code="ROLE_MISSING",
        message=f"{lacks}, so its agent may do nothing.",
        remedy=f"Approve the planned instance profile {OWN_ROLE}.",
        mend="profile",
    )


def _name_taken(what: str) -> Fault:
    return Fault(
        code="NAME_TAKEN",
        message=f"There is already {what}, and Haltuun did not make it.",
        remedy="Rename or remove it, then retry.",
    )


# -- metadata, clock, proxy ------------------------------------------------------------------------


def metadata_options(seen: DiscoverFacts | None) -> tuple[str, ...]:
    """What EC2 shows of the instance's metadata that may keep an agent from them."""
    if seen is None:
        return ()
    if seen.imds_endpoint == "disabled":
        return ("EC2 shows the instance's metadata switched off (HttpEndpoint=disabled)",)
    said = []
    if seen.imds_tokens == "required":
        said.append(
            "EC2 wants a session token (HttpTokens=required), which agents before 2.3.814.0 cannot use"
        )
    if seen.imds_hop_limit == 1:
        said.append("EC2 lets tokens go one hop (HttpPutResponseHopLimit=1): they do not reach containers")
    return tuple(said)


def metadata_faults(host: Host, seen: DiscoverFacts | None, facts: VerifyFacts) -> Iterator[Fault]:
    if is_false(facts.proxy_ok):
        yield Fault(
            code="PROXY_INTERCEPTS_IMDS",
            message=f"The agent's proxy {facts.proxy} also catches the instance metadata.",
            remedy="Add no_proxy=169.254.169.254 to the agent's environment and restart it.",
        )
    if is_false(facts.imds_ok):
        on = seen is not None and seen.imds_endpoint == "enabled"
        yield Fault(
            code="IMDS_UNREACHABLE",
            message="The host gets no instance metadata with a session token, so the agent has no identity.",
            remedy="Look at the host's routes and firewall for 169.254.169.254: EC2 shows it switched on."
            if on
            else "Look at the host's routes and firewall for 169.254.169.254, and switch it on: aws ec2"
            f" modify-instance-metadata-options --instance-id {host.instance_id} --http-endpoint enabled",
        )
    if is_false(facts.clock_ok):
        yield Fault(
            code="CLOCK_SKEW",
            message=f"The host's clock is {facts.clock_offset_s} s off, and AWS refuses its signatures.",
            remedy="Set it by chrony or ntpd from 169.254.169.123; stop databases before a large step.",
        )


# -- network ---------------------------------------------------------------------------------------


def network_faults(facts: VerifyFacts) -> Iterator[Fault]:
    endpoints = facts.endpoints if isinstance(facts.endpoints, tuple) else ()
    closed = [e for e in endpoints if e.required and e.reachable is False]
    # What worked minutes ago (Online is told that late) does not outweigh what the host says now.
    cut_off = is_false(facts.tcp_ok) and any(
        str(facts.tcp_reason).startswith(f"{e.service}.") for e in closed
    )
    if closed and (cut_off or not is_true(facts.egress_ok)):
        for endpoint in closed:
            if not (endpoint.obstacle == "group" and endpoint.open_to):
                yield _blocked(endpoint)
        if all(e.obstacle == "group" and e.open_to for e in closed):
            yield _blocked(closed[0], mend="egress")
        return
    if is_false(facts.dns_ok):
        yield Fault(
            code="DNS_FAILS",
            message="The host does not resolve the names of Systems Manager.",
            remedy="Look at /etc/resolv.conf and the VPC's resolver; the VPC's own is at 169.254.169.253.",
        )
    elif is_false(facts.tcp_ok):
        yield Fault(
            code="ENDPOINT_REFUSED" if "refused" in str(facts.tcp_reason) else "EGRESS_BLOCKED",
            message=f"The host does not get through to {facts.tcp_reason}.",
            remedy="The account's configuration seems to let it: look at the host's own firewall and routes.",
        )
    if is_false(facts.tls_ok):
        untrusted = "untrusted" in str(facts.tls_reason)
        yield Fault(
            code="TLS_UNTRUSTED" if untrusted else "TLS_FAILS",
            message=f"TLS does not come about: {facts.tls_reason}.",
            remedy="Update the package ca-certificates; where TLS is inspected, add the inspector's CA."
            if untrusted
            else "Update OpenSSL and ca-certificates, and look at what stands between host and AWS.",
        )


def _blocked(endpoint: Endpoint, mend: Mend = "") -> Fault:
    return Fault(
        code="DNS_FAILS" if endpoint.obstacle == "vpc_dns" else "EGRESS_BLOCKED",
        message=f"{endpoint.service} is out of reach: {endpoint.reason}.",
        remedy=endpoint.remedy,
        mend=mend,
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
