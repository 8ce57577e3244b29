"""One host's facts: what its role may do, whether it gets through, and what it sees itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from haltuun.model import Host, Json, Unknown, is_true
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.discover.lines import Lines
from haltuun.stages.discover.parse_inside import parse_box, parse_clock
from haltuun.stages.verify.facts import Credentials, RoleFacts, VerifyFacts
from haltuun.stages.verify.needs import needs_fallback
from haltuun.stages.verify.parse_account import agent_version, discovered, role_of, verified

METADATA_ADDRESS = "169.254.169.254"
# AWS refuses signatures that are five minutes off (SigV4); a minute is left for drift.
MAX_SKEW_S = 240.0
# The agent asks for metadata with a session token only from here on (amazon-ssm-agent RELEASENOTES).
TOKEN_ONLY_SINCE = (3, 2, 1041)
BY_NODE = "managed node"


def parse_host(view: View, host: Host, raw: Json, host_raw: Json | Unknown) -> VerifyFacts:
    seen = discovered(view, host.instance_id)
    online = seen is not None and seen.ssm_status == "Online"
    inside = unseen(host_raw) if isinstance(host_raw, Unknown) else parse_inside(view, host, seen, host_raw)
    if online and inside["right_box"] is not False:
        inside = follow_from_online(inside)
    role = parse_permissions(view, host, seen, online)
    egress = parse_egress(view, host, online or is_true(inside["tcp_ok"]))
    compromise = parse_compromise(seen, inside["source"])
    return VerifyFacts(observed_at=view.now, compromise=compromise, **role, **egress, **inside)


def parse_compromise(
    seen: DiscoverFacts | None, source: str | Unknown
) -> Literal["none seen", "seen", "no way in"] | Unknown:
    """As discover saw it. Where nobody gets in, nobody looked; where somebody does, somebody has to."""
    if seen is None:
        return Unknown(unknown="nothing was discovered of the host")
    if not isinstance(seen.suspect, Unknown):
        return "seen" if seen.suspect else "none seen"
    got_in = isinstance(seen.way, str) or source == "host"
    return seen.suspect if got_in else "no way in"


# -- permissions -----------------------------------------------------------------------------------


def parse_permissions(view: View, host: Host, seen: DiscoverFacts | None, online: bool) -> dict[str, Any]:
    account = verified(view)
    name, source = role_of(view, host)
    facts: dict[str, Any] = {
        "profile_arn": account.profile_of.get(host.instance_id) if account else name,
        "role_name": name,
        "credentials": name if isinstance(name, Unknown) else _credentials(source),
    }
    if isinstance(name, Unknown):
        return facts | {"ssm_allowed": _effect(name, online), "denied_actions": name, "logs_allowed": name}
    if name is None:
        why = ("no role",)
        return facts | {"ssm_allowed": False, "denied_actions": why, "logs_allowed": False}
    role = account.roles.get(name, Unknown(unknown="the role was not asked")) if account else None
    if not isinstance(role, RoleFacts):
        unknown = role if isinstance(role, Unknown) else Unknown(unknown="the role was not asked")
        return facts | {
            "ssm_allowed": _effect(unknown, online),
            "denied_actions": unknown,
            "logs_allowed": unknown,
        }
    version = agent_version(seen) if seen else None
    denied = _all_denied(role, needs_fallback(version, host.region))
    logs = role.denied_logs
    return facts | {
        "ssm_allowed": _effect(denied, online) if isinstance(denied, Unknown) else not denied,
        "denied_actions": denied,
        "logs_allowed": logs if isinstance(logs, Unknown) else not logs,
    }


def _credentials(source: str) -> Credentials:
    if source == "instance role":
        return "instance role"
    return "default host management" if source == "default host management" else "none"


def _all_denied(role: RoleFacts, with_fallback: bool) -> tuple[str, ...] | Unknown:
    if isinstance(role.denied, Unknown) or isinstance(role.denied_fallback, Unknown):
        return role.denied if isinstance(role.denied, Unknown) else role.denied_fallback
    return role.denied + (role.denied_fallback if with_fallback else ())


def _effect(unknown: Unknown, online: bool) -> bool | Unknown:
    """Whoever is Online under its own id was allowed to report and to open its channel."""
    return True if online else unknown


# -- network ---------------------------------------------------------------------------------------


def parse_egress(view: View, host: Host, works: bool) -> dict[str, Any]:
    """By the account's configuration; where the host was seen to get through, that decides."""
    account = verified(view)
    endpoints = account.endpoints.get(host.instance_id) if account else None
    if not isinstance(endpoints, tuple):
        why = endpoints if isinstance(endpoints, Unknown) else Unknown(unknown="the network was not asked")
        return {
            "endpoints": why,
            "egress_ok": True if works else why,
            "egress_reason": "seen to work" if works else why,
        }
    required = [endpoint for endpoint in endpoints if endpoint.required]
    closed = next((e for e in required if e.reachable is False), None)
    unsure = next((e for e in required if isinstance(e.reachable, Unknown)), None)
    first = closed or unsure
    if first is None:
        return {"endpoints": endpoints, "egress_ok": True, "egress_reason": ""}
    said = f"{first.service}: {first.reason}"
    if works:
        said = f"seen to work, although by the configuration: {said}"
        return {"endpoints": endpoints, "egress_ok": True, "egress_reason": said}
    return {"endpoints": endpoints, "egress_ok": first.reachable, "egress_reason": said}


# -- the host itself -------------------------------------------------------------------------------

INSIDE = (
    "source",
    "right_box",
    "imds_ok",
    "imds_v1",
    "role_on_host",
    "clock_ok",
    "clock_offset_s",
    "proxy",
    "proxy_ok",
    "dns_ok",
    "tcp_ok",
    "tcp_reason",
    "tls_ok",
    "tls_reason",
)


def unseen(why: Unknown) -> dict[str, Any]:
    return {name: why for name in INSIDE}


def follow_from_online(inside: Mapping[str, Any]) -> dict[str, Any]:
    """A managed node that is Online as this instance has its metadata, clock, names, TCP and TLS right;
    it takes the place of what was not observed, never of what was.
    """
    known = {
        "source": BY_NODE,
        "right_box": True,
        "imds_ok": True,
        "role_on_host": "yes",
        "clock_ok": True,
        "proxy_ok": True,
        "dns_ok": True,
        "tcp_ok": True,
        "tcp_reason": "",
        "tls_ok": True,
        "tls_reason": "",
    }
    return {
        name: known[name] if isinstance(value, Unknown) and name in known else value
        for name, value in inside.items()
    }


def parse_inside(view: View, host: Host, seen: DiscoverFacts | None, raw: Json) -> dict[str, Any]:
    lines = Lines(raw["stdout"])
    if lines.first("verify") is None:
        return unseen(Unknown(unknown="PROBE_FAILED: the host's script printed nothing"))
    box = parse_box(lines, host, view.account_id, seen.private_ip if seen else None)
    if box["right_box"] is False:
        return {**unseen(Unknown(unknown=f"WRONG_BOX: {box['why']}")), "right_box": False}
    offset = parse_clock(lines.number("epoch"), raw["asked_at"], raw["answered_at"])
    tcp_ok, tcp_reason = parse_each(lines, "tcp", {"open"})
    tls_ok, tls_reason = parse_each(lines, "tls", {"ok"})
    return {
        "source": "host",
        "right_box": box["right_box"],
        "imds_ok": parse_imds(lines, agent_version(seen) if seen else None),
        "imds_v1": _imds_v1(lines.first("imds.v1")),
        "role_on_host": parse_role_on_host(lines, role_of(view, host)[1]),
        "clock_offset_s": offset,
        "clock_ok": offset if isinstance(offset, Unknown) else abs(offset) <= MAX_SKEW_S,
        "proxy": lines.whole("proxy", lambda: lines.first("proxy") or None),
        "proxy_ok": lines.whole("proxy", lambda: parse_proxy_ok(lines)),
        "dns_ok": parse_each(lines, "dns", {"ok"})[0],
        "tcp_ok": tcp_ok,
        "tcp_reason": tcp_reason,
        "tls_ok": tls_ok,
        "tls_reason": tls_reason,
    }


def parse_imds(lines: Lines, version: str | None) -> bool | Unknown:
    """What the agent needs: a session token; agents before 3.2.1041.0 do without. One that is too old for a
    token where it has to send one is repair's matter: that may install a newer (IMDS_TOKENS_REQUIRED)."""
    answer = lines.first("imds.v2")
    found = bool(lines.first("imds.instance-id"))
    if answer == "yes":
        return found
    numbers = tuple(int(part) for part in re.findall(r"\d{1,9}", version or "")[:3])
    if found and answer == "no":
        return bool(numbers) and numbers < TOKEN_ONLY_SINCE
    if answer == "no":
        return False
    return Unknown(unknown=answer or "the host's script did not come to it")


def _imds_v1(status: str | None) -> bool | Unknown:
    if status == "000" or not status:
        return Unknown(unknown="the instance metadata did not answer")
    return status == "200"


def parse_role_on_host(lines: Lines, source: str) -> Literal["yes", "no", "not needed"] | Unknown:
    if source == "default host management":
        return "not needed"
    if not lines.first("imds.instance-id"):
        return Unknown(unknown="the instance metadata did not answer")
    return "yes" if lines.first("role") else "no"


def parse_proxy_ok(lines: Lines) -> bool:
    """A proxy for plain HTTP takes the metadata requests too, unless no_proxy names their address."""
    if lines.first("proxy.http") != "yes":
        return True
    names = re.split(r"[,\s]+", lines.first("proxy.except") or "")
    return METADATA_ADDRESS in names or "*" in names


def parse_each(lines: Lines, key: str, good: set[str]) -> tuple[bool | Unknown, str | Unknown]:
    """Over all names: True when each is good, False with the first that is bad, else unknown."""
    rows = lines.rows(key, 2)
    if not rows:
        missing = lines.reason(key)
        return missing, missing
    for name, state in rows:
        if state not in good | {"cannot", "closed"}:
            return False, f"{name}: {state}"
    for name, state in rows:
        if state == "cannot":
            why = Unknown(unknown=f"{name}: the host has no tool to try it with")
            return why, why
        if state == "closed":
            why = Unknown(unknown=f"{name}: no connection to try it over")
            return why, why
    return True, ""
