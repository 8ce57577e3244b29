"""What the gate demands of a host before anything of its agent is touched."""

from __future__ import annotations

from haltuun.gates import Check


def _yes(column: str, code: str, message: str, remedy: str) -> Check:
    return Check(column=column, op="in_set", values=(True,), code=code, message=message, remedy=remedy)


CHECKS = (
    Check(
        column="compromise",
        op="in_set",
        values=("none seen", "no way in"),
        code="SUSPECT_UNKNOWN",
        message="Whether the host is compromised could not be looked for, so nothing is changed on it.",
        remedy="Retry it; if that fails again, look for the signs by hand (runbook SUSPECT).",
    ),
    Check(
        column="credentials",
        op="in_set",
        values=("instance role", "default host management"),
        code="ROLE_MISSING",
        message="The host has no instance role.",
        remedy="Attach an instance profile whose role may do what the SSM agent needs.",
    ),
    _yes(
        "ssm_allowed",
        "ROLE_DENIED",
        "Its role may not do all that the SSM agent needs.",
        "Approve the planned inline policy, or allow the actions by hand.",
    ),
    _yes(
        "right_box",
        "WRONG_BOX",
        "Another machine answers at the instance's address.",
        "Give the host's right address and port in haltuun.yaml.",
    ),
    _yes(
        "proxy_ok",
        "PROXY_INTERCEPTS_IMDS",
        "The agent's proxy also catches the instance metadata.",
        "Add no_proxy=169.254.169.254 to the agent's environment and restart it.",
    ),
    _yes(
        "imds_ok",
        "IMDS_UNREACHABLE",
        "The host gets no instance metadata with a session token.",
        "Look at its routes and firewall for 169.254.169.254 and at its metadata options.",
    ),
    Check(
        column="role_on_host",
        op="in_set",
        values=("yes", "not needed"),
        code="ROLE_MISSING",
        message="The host's metadata does not hand out the role that it should have.",
        remedy="It can take minutes after a role was attached: retry the host.",
    ),
    _yes(
        "clock_ok",
        "CLOCK_SKEW",
        "The host's clock is so far off that AWS refuses its signatures.",
        "Set it by chrony or ntpd from 169.254.169.123.",
    ),
    _yes(
        "egress_ok",
        "EGRESS_BLOCKED",
        "By the account's configuration the host does not get through to Systems Manager.",
        "Approve the planned egress rule, or open the way that the finding names.",
    ),
    _yes(
        "dns_ok",
        "DNS_FAILS",
        "The host does not resolve the names of Systems Manager.",
        "Look at its /etc/resolv.conf and at the VPC's DNS attributes.",
    ),
    _yes(
        "tcp_ok",
        "EGRESS_BLOCKED",
        "The host does not get through to Systems Manager on port 443.",
        "Look at its own firewall and routes, then at security groups and network ACLs.",
    ),
    _yes(
        "tls_ok",
        "TLS_UNTRUSTED",
        "The host does not come to a trusted TLS connection with Systems Manager.",
        "Update ca-certificates; where nothing on the host can try it, install curl.",
    ),
)
