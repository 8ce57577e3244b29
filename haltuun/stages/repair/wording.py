"""What each cause is called in one sentence, how grave it is, and what to do by hand."""

from __future__ import annotations

from haltuun.model import Frozen, Severity


class Wording(Frozen):
    """`of_files`: the message where nothing but files is at hand, if they do not tell as much."""

    severity: Severity
    message: str
    remedy: str
    of_files: str = ""


def _w(severity: Severity, message: str, remedy: str, of_files: str = "") -> Wording:
    return Wording(severity=severity, message=message, remedy=remedy, of_files=of_files)


_HIGH, _MEDIUM, _LOW = Severity.high, Severity.medium, Severity.low
_CRITICAL = Severity.critical

WORDING: dict[str, Wording] = {
    "STALE_HYBRID": _w(
        _CRITICAL,
        "The agent takes a hybrid identity (mi-…) from its vault although this is an EC2 instance.",
        "Unless this registration is wanted: see that the instance has a role; stop the agent, run"
        " 'amazon-ssm-agent -register -clear' as root, start it.",
        of_files="The agent takes a hybrid identity (mi-…) from its vault: wrong if this is an EC2 instance.",
    ),
    "CLEARED_NOT_RESTARTED": _w(
        _HIGH,
        "The hybrid registration was cleared, but the running agent still is mi-….",
        "Restart the agent.",
    ),
    "FINGERPRINT_MISMATCH": _w(
        _HIGH,
        "Systems Manager refuses the hybrid identity: the machine changed since it registered.",
        "Clear the hybrid registration; do not lower the similarity threshold.",
    ),
    "HYBRID_GONE": _w(
        _HIGH,
        "Systems Manager no longer knows the hybrid identity that the agent uses.",
        "Clear the hybrid registration on the host; nothing is to be deregistered.",
    ),
    "HALF_REPAIRED": _w(
        _MEDIUM,
        "Somebody removed the file 'registration' and left the vault, which alone decides.",
        "Clear the hybrid registration with 'amazon-ssm-agent -register -clear'.",
    ),
    "ORPHAN_WORKER": _w(
        _MEDIUM,
        "A worker of a killed agent is, or was, still running under its old identity.",
        "Stop the agent, end the worker by its pid, start the agent.",
    ),
    "CREDENTIALS_SHADOWED": _w(
        _MEDIUM,
        "The hybrid agent's token stands as root's [default] AWS profile, ahead of the instance's role.",
        "Move the [default] section out of /root/.aws/credentials once the agent has the EC2 identity, unless"
        " it is a person's.",
        of_files="A temporary key, the hybrid agent's token or a person's, stands as root's [default] AWS"
        " profile, ahead of the instance's role.",
    ),
    "ROLE_MISSING": _w(
        _HIGH,
        "The instance has no role that the agent could use.",
        "Attach an instance profile with AmazonSSMManagedInstanceCore, then restart the agent: by itself it"
        " looks again after half an hour.",
    ),
    "ROLE_DENIED": _w(
        _HIGH,
        "The instance's role may not do what the agent needs.",
        "Allow the action that the line names, in the policy that it blames (the role's own, a boundary, an"
        " SCP or a VPC endpoint's), then restart the agent.",
    ),
    "THROTTLED": _w(_MEDIUM, "Systems Manager throttles the agent's calls.", "Wait; stagger restarts."),
    "TOKEN_EXPIRED": _w(
        _MEDIUM,
        "The agent's credentials have expired and were not renewed.",
        "Restart the agent; check the clock.",
    ),
    "CLOCK_SKEW": _w(
        _HIGH,
        "The host's clock is too far from AWS's: its signatures are refused.",
        "See how far it is off ('date -u', 'chronyc tracking'); let chrony or ntpd follow 169.254.169.123 as"
        " docs/runbooks/CLOCK_SKEW.md says for each system, then restart the agent.",
    ),
    "MESSAGES_DENIED": _w(
        _MEDIUM,
        "The role may not open the control channel (ssmmessages): no Session Manager.",
        "Allow ssmmessages:CreateControlChannel, OpenControlChannel, CreateDataChannel and OpenDataChannel.",
    ),
    "MESSAGES_UNREACHABLE": _w(
        _MEDIUM,
        "The host does not reach ssmmessages: no Session Manager.",
        "Open 443 to ssmmessages, or give the VPC its interface endpoint.",
    ),
    "IMDS_UNREACHABLE": _w(
        _HIGH,
        "The agent does not reach the instance metadata: it has no identity, or no credentials.",
        "Enable the metadata service (IMDSv2) and let the host reach 169.254.169.254.",
    ),
    "IMDS_TOKENS_REQUIRED": _w(
        _HIGH,
        "The instance metadata answer the agent with 401: they want a session token, and it sent none.",
        "Agents before 2.3.814.0 cannot use tokens, those before 3.0.413.0 first ask without: install a newer"
        " one (or pin it in agent.packages of haltuun.yaml and plan again), or let calls without a token"
        " through (HttpTokens=optional). A newer one asked for a token and got none: see the hop limit and"
        " what stands between.",
    ),
    "PROXY_INTERCEPTS_IMDS": _w(
        _HIGH,
        "A proxy without no_proxy for 169.254.169.254 takes the agent's metadata calls.",
        "Set no_proxy=169.254.169.254 beside the proxy of the agent's unit, then restart it.",
    ),
    "PROXY_CONFIGURED": _w(
        _HIGH,
        "The agent's calls fail through the proxy that its unit sets.",
        "Remove the proxy from the agent's unit or repair it, then restart the agent.",
    ),
    "DNS_FAILS": _w(
        _HIGH,
        "The host does not resolve Systems Manager's names.",
        "Repair the resolver, or the VPC's DNS attributes.",
    ),
    "EGRESS_BLOCKED": _w(
        _HIGH,
        "The host's calls to Systems Manager time out.",
        "Open 443 outwards (security group, NACL, route) or give the VPC interface endpoints.",
    ),
    "ENDPOINT_REFUSED": _w(
        _HIGH,
        "Something refuses the host's connections to Systems Manager.",
        "Check host firewall, endpoint addresses and /etc/hosts.",
    ),
    "TLS_UNTRUSTED": _w(
        _HIGH,
        "The host does not trust the certificate that it sees for Systems Manager.",
        "See who signed it ('openssl s_client -connect'): Amazon, then update ca-certificates; another, then"
        " add that authority. docs/runbooks/TLS_UNTRUSTED.md has both for each system, old ones too. Then"
        " restart the agent. If the certificate counts as expired, perhaps only the clock is ahead: set it.",
    ),
    "TLS_FAILS": _w(
        _HIGH,
        "TLS with Systems Manager does not come about.",
        "Look at what stands between the host and AWS and inspects TLS or speaks an old version of it.",
    ),
    "ENDPOINT_OVERRIDE": _w(
        _MEDIUM,
        "amazon-ssm-agent.json sends the agent to another endpoint than its region's.",
        "Remove the endpoint from amazon-ssm-agent.json unless it is meant.",
    ),
    "REGION_PINNED": _w(
        _MEDIUM,
        "amazon-ssm-agent.json pins the agent's region.",
        "Remove Agent.Region from amazon-ssm-agent.json unless it is meant.",
    ),
    "IDENTITY_ORDER_OVERRIDE": _w(
        _MEDIUM,
        "amazon-ssm-agent.json changes the order in which the agent chooses its identity.",
        "Unless it is meant: see that the vault holds no mi-… any more, save the file"
        " ('cp -p /etc/amazon/ssm/amazon-ssm-agent.json'), take Identity.ConsumptionOrder out of it, restart"
        " the agent; docs/runbooks/IDENTITY_ORDER_OVERRIDE.md.",
    ),
    "CUSTOM_IDENTITY": _w(
        _HIGH,
        "amazon-ssm-agent.json pins an identity for the agent.",
        "Remove Identity.CustomIdentities from amazon-ssm-agent.json.",
    ),
    "CONFIG_BROKEN": _w(
        _HIGH,
        "amazon-ssm-agent.json is not valid JSON, or not the agent's: the agent does not start.",
        "Correct the file, or move it away (the agent's defaults are good), then start the agent.",
    ),
    "WAITING_SERVICE": _w(
        _MEDIUM,
        "Right identity, running agent, open control channel, and still not Online: no step applies here.",
        "Nothing to do on the host; 'haltuun recheck' looks at it again once its date has come. One host came"
        " back by itself after 30 days; AWS documents no such wait.",
    ),
    "HIBERNATING": _w(
        _MEDIUM,
        "The agent's first call failed with credentials in hand; it sleeps and backs off.",
        "Remove the cause of the refused call, then restart the agent.",
    ),
    "AGENT_MISSING": _w(
        _HIGH,
        "The Systems Manager agent is not installed, or not whole.",
        "Set agent.package_source and pin its package in haltuun.yaml, or install it by hand.",
    ),
    "AGENT_STOPPED": _w(
        _HIGH, "The Systems Manager agent is installed and does not run.", "Start and enable the agent."
    ),
    "AGENT_CRASHES": _w(
        _HIGH,
        "The agent dies by a fault of its own, or is killed.",
        "Look at what the lines blame (a lack of memory, a full state folder, a fault of this version); then"
        " restart the agent, and if it dies again install another version of amazon-ssm-agent.",
    ),
    "AGENT_OLD": _w(
        _LOW, "The agent is older than Session Manager (2.3.68.0).", "Install a newer amazon-ssm-agent."
    ),
    "SNAP_AND_DEB": _w(
        _MEDIUM,
        "The agent is installed as snap and as deb; the two fight over one state folder.",
        "Keep one; stop and disable the other ('systemctl disable --now amazon-ssm-agent' for the deb,"
        " 'snap stop --disable amazon-ssm-agent' for the snap), then restart the one that is kept.",
    ),
    "DISK_FULL": _w(
        _HIGH,
        "The host's disk is full, or out of inodes.",
        "See what is full, room or inodes ('df -h /var/lib', 'df -i /var/lib'), make room (what of the"
        " agent's own may go, and what never: docs/runbooks/DISK_FULL.md), then run again.",
    ),
    "HYBRID_FOREIGN": _w(
        _CRITICAL,
        "The saved registration belongs to another account or region: its owner can run commands as root.",
        "Find out who owns it; look through /var/log/amazon/ssm/audits for what was done with it.",
    ),
}
