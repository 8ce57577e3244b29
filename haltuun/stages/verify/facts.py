"""What verify knows: may this host's agent do what it needs, and does it get through."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from haltuun.model import Facts, Frozen, Json, Unknown

_NOT_ASKED = Unknown(unknown="not asked yet")

# What stands in the way to a service, by the account's configuration.
Obstacle = Literal["", "group", "acl", "route", "endpoint", "endpoint_group", "private_dns", "vpc_dns"]


class Endpoint(Frozen):
    """One AWS service as the host reaches it, by the account's configuration."""

    service: str  # "ssm", "ssmmessages", …
    required: bool
    reachable: bool | Unknown
    way: str = ""  # "vpce-…", "igw-…", "nat-…"
    obstacle: Obstacle = ""
    reason: str = ""  # why not, in one sentence
    remedy: str = ""
    open_to: tuple[str, ...] = ()  # what an egress rule of the host's group would have to name


class RoleFacts(Frozen):
    """What one role may do of what agent and log shipping need, by policy content."""

    role_name: str
    arn: str = ""
    denied: tuple[str, ...] | Unknown = _NOT_ASKED
    denied_fallback: tuple[str, ...] | Unknown = _NOT_ASKED  # ec2messages
    denied_logs: tuple[str, ...] | Unknown = _NOT_ASKED  # what shipping logs needs
    beyond: tuple[str, ...] = ()  # denied by a Deny, a boundary or an SCP: no added policy helps
    trusts_ec2: bool | Unknown = _NOT_ASKED
    other_services: tuple[str, ...] = ()  # who else may assume it, by its trust policy: services and ARNs
    inline_policy: Json | None = None  # the inline policy of our name, as it stands


class Interface(Frozen):
    """A network interface that has a security group, and what it belongs to."""

    interface_id: str
    groups: tuple[str, ...]
    instance_id: str = ""  # "" when it is no instance's: a database's, a function's, a load balancer's
    owner: str = ""  # as EC2 describes it


class VerifyAccount(Frozen):
    # By instance id. Asked anew here: this run may have attached a profile since discover.
    profile_of: dict[str, str | Unknown | None] = Field(default_factory=dict)  # ARN of its profile
    endpoints: dict[str, tuple[Endpoint, ...] | Unknown] = Field(default_factory=dict)
    profile_roles: dict[str, str | Unknown | None] = Field(default_factory=dict)  # profile ARN → role name
    roles: dict[str, RoleFacts | Unknown] = Field(default_factory=dict)  # by role name
    own_role: Literal["absent", "ours", "foreign"] | Unknown = _NOT_ASKED
    own_profile: Literal["absent", "ours", "empty", "foreign"] | Unknown = _NOT_ASKED
    own_inline: Json | Unknown = _NOT_ASKED  # the inline policy of our own role; None: it has none
    interfaces: dict[str, tuple[Interface, ...] | Unknown] = Field(default_factory=dict)  # by region


Credentials = Literal["instance role", "default host management", "none"]


class VerifyFacts(Facts):
    profile_arn: str | Unknown | None = _NOT_ASKED
    role_name: str | Unknown | None = _NOT_ASKED
    credentials: Credentials | Unknown = _NOT_ASKED
    ssm_allowed: bool | Unknown = _NOT_ASKED
    denied_actions: tuple[str, ...] | Unknown = _NOT_ASKED
    logs_allowed: bool | Unknown = _NOT_ASKED
    egress_ok: bool | Unknown = _NOT_ASKED  # by the account's configuration, or seen to work
    egress_reason: str | Unknown = _NOT_ASKED
    endpoints: tuple[Endpoint, ...] | Unknown = _NOT_ASKED

    # Unknown: somebody can log in, and yet nobody could look for signs of a compromise
    compromise: Literal["none seen", "seen", "no way in"] | Unknown = _NOT_ASKED

    # as the host sees it; of a host that is Online under its own id it follows from that
    source: Literal["host", "managed node"] | Unknown = _NOT_ASKED
    right_box: bool | Unknown = _NOT_ASKED
    imds_ok: bool | Unknown = _NOT_ASKED
    imds_v1: bool | Unknown = _NOT_ASKED
    role_on_host: Literal["yes", "no", "not needed"] | Unknown = _NOT_ASKED  # its metadata hands out the role
    clock_ok: bool | Unknown = _NOT_ASKED
    clock_offset_s: float | Unknown = _NOT_ASKED
    proxy: str | Unknown | None = _NOT_ASKED  # without user and password
    proxy_ok: bool | Unknown = _NOT_ASKED  # no proxy, or one that leaves the metadata address alone
    dns_ok: bool | Unknown = _NOT_ASKED
    tcp_ok: bool | Unknown = _NOT_ASKED
    tcp_reason: str | Unknown = _NOT_ASKED  # "ssm.… timeout"
    tls_ok: bool | Unknown = _NOT_ASKED
    tls_reason: str | Unknown = _NOT_ASKED
