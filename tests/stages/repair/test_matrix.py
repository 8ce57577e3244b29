"""Cause × init × package × first state × what Systems Manager says: the least step, or why there is none.

And what is never done, whatever the cause."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from haltuun.config import HostConfig
from haltuun.model import Change, Reach, StageName, StagePlan, Unknown, is_false, is_true
from haltuun.stages.repair import STAGE
from haltuun.stages.repair import facts as f
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.parse import parse_agent
from haltuun.stages.repair.rules import RULES
from haltuun.stages.repair.state import WAKEABLE
from haltuun.stages.verify import STAGE as VERIFY
from tests.stages.repair.plan_kit import (
    AS_EC2,
    AS_ONPREM,
    CHANNEL,
    CORE,
    EMPTY_VAULT,
    IID,
    MI,
    NO_TOKEN,
    STALE_VAULT,
    START,
    WORKER,
    agent,
    log,
    node,
    plan,
    verify_change,
)

RUNBOOKS = Path(__file__).parents[3] / "docs" / "runbooks"
UNSEEN = Unknown(unknown="NOT_SHOWN: the host did not say")

# -- the hosts ------------------------------------------------------------------------------------------

_ROLE = "EC2RoleProvider Failed to connect to Systems Manager with instance profile role credentials. Err: "
_SENT = "[Registrar] failed to register identity: RequestError: send request failed caused by: "
_POST = 'Post "https://ssm.eu-central-1.amazonaws.com/": '
_MGS = 'Post "https://ssmmessages.eu-central-1.amazonaws.com/v1/control-channel/i-0": dial tcp 10.0.0.9:443: '
_PROXIED = ("Proxy environment variables:", "http_proxy: http://proxy:3128")
_NO_IMDS = (
    "[EC2Identity] Failed to get instance info from IMDS. Err: failed to get identity instance id."
    " Error: EC2MetadataError: failed to get IMDSv2 token"
)
TOKEN = f.RootCredentials(present=True, sections=("default",), default_kind="temporary", of_agent=True)


def _up(*said: str) -> dict[str, Any]:
    """Came up as the instance, and says this since."""
    return {"log": log(*AS_EC2, *said)}


def _stale(*said: str, **more: Any) -> dict[str, Any]:
    """Runs as mi- by its vault, and says this."""
    return {
        "vault": STALE_VAULT,
        "registration_file": True,
        "hybrid_dirs": (MI,),
        "identity_config": f.IdentityConfig(identity_type="OnPrem", instance_id=MI),
        "log": log(*AS_ONPREM, *said),
        **more,
    }


def _config(**more: Any) -> dict[str, Any]:
    return {"config": f.AgentConfig(**{"state": "ok", **more})}


# Cause → what is special about a host that shows it.
FAULTS: dict[str, dict[str, Any]] = {
    "WAITING_SERVICE": {},
    "STALE_HYBRID": _stale(CHANNEL),
    "FINGERPRINT_MISMATCH": _stale(
        "[CredentialRefresher] Retrieve credentials produced error: MachineFingerprintDoesNotMatch: "
    ),
    "HYBRID_GONE": _stale(
        f"Retrieve credentials produced error: InvalidInstanceId: Not existing InstanceId {MI}"
    ),
    "HALF_REPAIRED": _stale(CHANNEL, registration_file=False),
    "CLEARED_NOT_RESTARTED": _stale(CHANNEL, vault=EMPTY_VAULT),
    "ORPHAN_WORKER": {"processes": (CORE, WORKER.model_copy(update={"started": 10}))},
    "CREDENTIALS_SHADOWED": {"credentials": TOKEN, "hybrid_dirs": (MI,)},
    "ROLE_MISSING": _up(f"{_ROLE}EC2RoleRequestError: no EC2 instance role found"),
    "ROLE_DENIED": _up(
        f"{_ROLE}AccessDeniedException: User: arn:aws:sts::1:assumed-role/app/i-0 is not authorized to"
        " perform: ssm:UpdateInstanceInformation"
    ),
    "THROTTLED": _up(f"{_ROLE}ThrottlingException: Rate exceeded"),
    "TOKEN_EXPIRED": _up(f"{_ROLE}ExpiredTokenException: the security token included in it is expired"),
    "CLOCK_SKEW": _up(f"{_ROLE}InvalidSignatureException: Signature expired: 20261123T1 is now earlier"),
    "MESSAGES_DENIED": _up(
        "Failed to get controlchannel token, error: createControlChannel request failed: unexpected response"
        " from the service <AccessDeniedException>"
    ),
    "MESSAGES_UNREACHABLE": _up(f"[MGSInteractor] Failed to open control channel: {_MGS}i/o timeout"),
    "IMDS_UNREACHABLE": {"log": log(*START, _NO_IMDS), "imds_instance_id": UNSEEN},
    "IMDS_TOKENS_REQUIRED": {"log": log(*START, NO_TOKEN), "packages": {"deb": "2.3.701.0-1"}},
    "PROXY_INTERCEPTS_IMDS": {"log": log(*_PROXIED, _NO_IMDS)},
    "PROXY_CONFIGURED": _up(
        f"{_SENT}{_POST}proxyconnect tcp: dial tcp 10.0.0.8:3128: connect: connection refused"
    ),
    "DNS_FAILS": _up(f"{_SENT}{_POST}dial tcp: lookup ssm.eu-central-1.amazonaws.com: no such host"),
    "EGRESS_BLOCKED": _up(f"{_SENT}{_POST}dial tcp 10.0.0.9:443: i/o timeout"),
    "ENDPOINT_REFUSED": _up(f"{_SENT}{_POST}dial tcp 10.0.0.9:443: connect: connection refused"),
    "TLS_UNTRUSTED": _up(f"{_SENT}{_POST}tls: failed to verify certificate: x509: unknown authority"),
    "TLS_FAILS": _up(f"{_SENT}{_POST}remote error: tls: handshake failure"),
    "ENDPOINT_OVERRIDE": _config(endpoints=("Ssm.Endpoint=vpce-1.ssm",)),
    "REGION_PINNED": _config(region="us-east-1"),
    "IDENTITY_ORDER_OVERRIDE": _config(consumption_order=("OnPrem",)),
    "CUSTOM_IDENTITY": _config(custom_identities=("i-0",)),
    "CONFIG_BROKEN": _config(state="broken", problem="not valid JSON"),
    "HIBERNATING": _up("[ssm-agent-worker] Entering SSM Agent hibernate - AccessDeniedException: "),
    "AGENT_MISSING": {"packages": {}, "binary": ""},
    "AGENT_CRASHES": _up("core Agent crashed with message runtime error: index out of range!"),
    "AGENT_STOPPED": {"processes": ()},
    "AGENT_OLD": {"packages": {"deb": "2.2.24.0-1"}},
    "SNAP_AND_DEB": {"packages": {"snap": "3.3.1142.0", "deb": "3.3.1142.0-1"}},
    "DISK_FULL": {"disk_free_kb": 100},
}
INITS: dict[str, Any] = {"systemd": "systemd", "upstart": "upstart", "sysv": "sysv", "unknown": UNSEEN}
DEB, SNAP = "/usr/bin/amazon-ssm-agent", "/snap/amazon-ssm-agent/current/amazon-ssm-agent"
PACKAGES: dict[str, dict[str, Any]] = {
    "deb": {"packages": {"deb": "3.3.1142.0-1"}, "binary": DEB},
    "rpm": {"packages": {"rpm": "3.3.1142.0-1"}, "binary": DEB, "dpkg_arch": ""},
    "snap": {"packages": {"snap": "3.3.1142.0"}, "binary": SNAP},
    "by hand": {"packages": {}, "binary": DEB},
    "none": {"packages": {}, "binary": ""},
    "none, and no dpkg": {"packages": {}, "binary": "", "dpkg_arch": ""},
    "unknown": {"packages": UNSEEN},
}
STATES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "stopped": {"processes": ()},
    "stopped and disabled": {"processes": (), "enabled": False},
    "disabled": {"enabled": False},
    "unknown": {"processes": UNSEEN, "enabled": UNSEEN},
}
NODES = {"not Online": (), "Online": (node(IID),)}
# Where no step can be taken it is all the same what Systems Manager says.
SIGHTS = [*itertools.product(INITS, ["not Online"]), ("systemd", "Online"), ("upstart", "Online")]


# -- what an expert expects -------------------------------------------------------------------------------

# Nobody but a person mends these; in the order in which they are to be mended.
BY_HAND = (
    "IMDS_UNREACHABLE",
    "PROBE_UNREADABLE",
    "CONFIG_BROKEN",
    "CUSTOM_IDENTITY",
    "PROXY_INTERCEPTS_IMDS",
    "PROXY_CONFIGURED",
    "DISK_FULL",
    "REGION_PINNED",
    "IDENTITY_ORDER_OVERRIDE",
    "ENDPOINT_OVERRIDE",
    "SNAP_AND_DEB",
    "INIT_UNKNOWN",
)
# Each rung and what it mends besides the one before it, the least first (facts/ssm-agent.md §2, §3, §5).
ENABLE, RESTART, CLEAR = ("agent.state",), ("agent.restart",), ("agent.clear", "agent.vault_aside")
INSTALL, ASIDE_AND_INSTALL = ("agent.install",), ("agent.vault_aside", "agent.install")
WOKEN = {"not connected", "CLEARED_NOT_RESTARTED", "ORPHAN_WORKER", "AGENT_STOPPED", *WAKEABLE}
STALE = {"STALE_HYBRID", "FINGERPRINT_MISMATCH", "HYBRID_GONE", "HALF_REPAIRED"}
LADDER: tuple[tuple[tuple[str, ...], set[str]], ...] = (
    ((), set()),
    (ENABLE, {"disabled"}),
    (RESTART, WOKEN),
    (CLEAR, STALE),
)
WITHOUT_AGENT = ((INSTALL, {"disabled", *WOKEN}), (ASIDE_AND_INSTALL, STALE))
TOKEN_ASIDE = ("agent.credentials_aside",)
TAKES_THE_TOKEN_ALONG = (CLEAR, ASIDE_AND_INSTALL)


def expected(seen: f.Agent, found: frozenset[str], online: bool) -> tuple[str, ...] | str:
    """The kinds of the least sufficient steps; or the code of what a person has to mend first."""
    said = [line.text for line in seen.log] if not isinstance(seen.log, Unknown) else []
    comes_up = is_true(seen.running) and any("identity from EC2" in text for text in said)
    faults = set(found & (WOKEN | STALE))
    if is_false(seen.enabled):
        faults.add("disabled")
    if online and comes_up:
        faults -= WOKEN
    elif not (comes_up and any(CHANNEL in text for text in said)):
        faults.add("not connected")
    token = "CREDENTIALS_SHADOWED" in found
    if online and comes_up and not faults and not token:
        return ()
    for code in BY_HAND:
        if code in found - WOKEN or code in _not_to_be_told(seen):
            return code
    if "AGENT_MISSING" in found and not seen.dpkg_arch:
        return "AGENT_MISSING"  # pinned is a deb
    step: tuple[str, ...] = ()
    for rung, mends in WITHOUT_AGENT if "AGENT_MISSING" in found else LADDER:
        if faults & mends or (rung == INSTALL and not faults & STALE):
            step = rung
    if step == RESTART and "IMDS_TOKENS_REQUIRED" in found:
        step = INSTALL  # its agent would say the same again
    if token and step not in TAKES_THE_TOKEN_ALONG:
        return (*TOKEN_ASIDE, *step) if step == ENABLE else (*step, *TOKEN_ASIDE)
    if online or token or step:
        return step
    # What a newer agent would say is not known; nothing else is left to try.
    return INSTALL if "AGENT_OLD" in found else "WAITING_SERVICE"


def _not_to_be_told(seen: f.Agent) -> Iterator[str]:
    if isinstance(seen.imds_instance_id, Unknown):
        yield "IMDS_UNREACHABLE"
    if isinstance(seen.processes, Unknown) or isinstance(seen.packages, Unknown):
        yield "PROBE_UNREADABLE"
    if seen.init not in ("systemd", "upstart"):
        yield "INIT_UNKNOWN"


def planned(made: StagePlan) -> tuple[str, ...] | str:
    if made.barred:
        assert made.changes == (), "a host that is barred is not changed"
        (barred,) = made.barred
        assert barred.message and barred.remedy and (RUNBOOKS / f"{barred.code}.md").exists(), barred
        return barred.code
    return tuple(change.kind for change in made.changes)


def is_sound(change: Change) -> bool:
    """Of this host alone, by a kind that is looked at and proven, and back again by another."""
    kind = STAGE.kinds[change.kind]
    assert kind.on_host or change.permissions, "root on the host, or an IAM action"
    gone = change.kind == "agent.install" and "not pinned" in change.no_undo
    assert (change.hosts, change.target) == ((IID,), IID)
    assert change.reach is (Reach.irreversible if gone else Reach.host)
    assert change.before != change.after and set(change.before) <= set(change.after), "nothing is forgotten"
    if change.undo is None:
        return bool(change.no_undo)
    assert change.undo.kind in STAGE.kinds and not change.no_undo
    there = {key: value for key, value in change.undo.after.items() if key != "saved"}
    assert there and there.items() <= change.before.items(), "it goes back to what was there"
    saved = change.undo.after.get("saved")
    return saved is None or saved.endswith(f"/{change.id}")


def hosts_with(cause: str) -> Iterator[tuple[tuple[str, ...], f.Agent]]:
    """Every package and first state that the cause can come with."""
    special = FAULTS[cause]
    packages = {"its own": {}} if "packages" in special else PACKAGES
    for package, state in itertools.product(packages, STATES):
        yield (package, state), agent(**{**special, **packages[package], **STATES[state]})


def test_every_cause_is_here() -> None:
    assert set(FAULTS) == {"WAITING_SERVICE", *(rule.code for rule in RULES)}
    for cause in set(FAULTS) - {"WAITING_SERVICE"}:
        assert cause in {found.code for found in diagnose(agent(**FAULTS[cause])).causes}, cause


@pytest.mark.parametrize("cause", FAULTS)
def test_the_least_step_or_why_none(cause: str) -> None:
    for which, host in hosts_with(cause):
        found = frozenset(cause.code for cause in diagnose(host).causes)  # no rule looks at the init
        for init, sight in SIGHTS:
            seen = host.model_copy(update={"init": INITS[init]})
            made = plan(seen, nodes=NODES[sight])
            got = planned(made)
            assert got == expected(seen, found, sight == "Online"), (init, *which, sight)
            for change in made.changes:
                assert is_sound(change), (init, *which, sight)
                # The next rung is tried only where the one below took nothing.
                is_next = got[:2] == CLEAR and change.kind == "agent.vault_aside"
                assert change.only_if_failed == (made.changes[0].id if is_next else None)


# -- what is never done -----------------------------------------------------------------------------------

ELSEWHERE = (node(MI, ip="192.168.50.20", name="appsrv01"),)
DENIED = Unknown(unknown="ACCESS_DENIED: no")
DHMC = {"profile_arn": None, "dhmc": "AWSSystemsManagerDefaultEC2InstanceManagementRole"}
Given = tuple[dict[str, Any], dict[str, Any]]
# Nothing at all is changed: what is special about the host, and about what else is known of it → the code.
NEVER_TOUCHED: dict[str, Given] = {
    "IMDS_UNREACHABLE": ({"imds_instance_id": UNSEEN}, {}),
    "WRONG_BOX": ({"imds_instance_id": "i-0ffffffffffffffff"}, {}),
    "WRONG_BOX of another account": ({"imds_account": "999999999999"}, {}),
    "NO_SUDO": ({"root": False}, {}),
    "PROBE_UNREADABLE": ({"root": UNSEEN}, {}),
    "PROBE_UNREADABLE for room": ({"disk_free_kb": UNSEEN}, {}),
    "PROBE_UNREADABLE for processes": ({"processes": UNSEEN}, {}),
    "PROBE_UNREADABLE for packages": ({"packages": UNSEEN}, {}),
    "PROBE_UNREADABLE for configuration": ({"config": UNSEEN}, {}),
    "SUSPECT": ({}, {"suspect": ("runs from /tmp",)}),
    "SUSPECT_UNKNOWN": ({}, {"suspect": UNSEEN}),
    "ASG_MEMBER": ({}, {"asg": "web"}),
    "MANAGED_MEMBER": ({}, {"managed_by": ("spot",)}),
    "MEMBERSHIP_UNKNOWN": ({}, {"asg": DENIED, "managed_by": DENIED}),
    "INSTANCE_STOPPED": ({}, {"state": "stopped"}),
    "WINDOWS_BY_HAND": ({}, {"platform": "windows"}),
    "EXCLUDED": ({}, {"exclude": "belongs to finance"}),
    "INIT_UNKNOWN": ({"init": "sysv"}, {}),
    "DISK_FULL": ({"disk_free_kb": 100}, {}),
    "DISK_FULL of inodes": ({"inodes_free": 3}, {}),
    "SNAP_AND_DEB": ({"packages": {"snap": "3.3", "deb": "3.3"}}, {}),
}
# No registration is taken away: on a wanted one, where it may be the credential, where it could not be saved.
NEVER_CLEARED: dict[str, Given] = {
    "DELIBERATE_HYBRID": ({}, {"host": HostConfig(deliberate_hybrid=True)}),
    "DELIBERATE_HYBRID by its threshold": (
        {"vault": STALE_VAULT.model_copy(update={"similarity_threshold": -1})},
        {},
    ),
    "HYBRID_IN_USE": ({}, {"nodes": ELSEWHERE}),
    "HYBRID_SOURCE": ({}, {"nodes": (node(MI, source_type="AWS::IoT::Thing"),)}),
    "HYBRID_IN_USE perhaps": (
        {"vault": STALE_VAULT.model_copy(update={"region": "eu-west-1"})},
        {"asked": DENIED},
    ),
    "DHMC_GUARD": ({}, DHMC),
    "DHMC_GUARD perhaps": ({}, {**DHMC, "dhmc": DENIED}),
    "DISK_FULL": ({"disk_free_kb": 30_000, "state_kb": 25_000}, {}),
    "SNAP_NEEDS_SSH": (PACKAGES["snap"], {"way": "run-command"}),
}
TAKES_AWAY = {"agent.clear", "agent.vault_aside"}


@pytest.mark.parametrize("guard", NEVER_TOUCHED)
def test_never_touched_whatever_the_cause(guard: str) -> None:
    host, known = NEVER_TOUCHED[guard]
    for cause, special in FAULTS.items():
        made = plan(agent(**{**special, **host}), **known)
        assert made.changes == (), cause
        assert planned(made) in {guard.partition(" ")[0], cause if cause in BY_HAND else ""}, cause


@pytest.mark.parametrize("guard", NEVER_CLEARED)
def test_never_cleared_whatever_the_cause(guard: str) -> None:
    host, known = NEVER_CLEARED[guard]
    for cause, special in FAULTS.items():
        made = plan(agent(**{**special, **host}), **known)
        assert not {change.kind for change in made.changes} & TAKES_AWAY, cause
        if cause in STALE:
            assert planned(made) == guard.partition(" ")[0], cause


def test_role_way_proxy_clock_and_metadata_are_good_first() -> None:
    """verify's gate holds a host of which one of them is not; what verify is to change comes before."""
    demanded = {check.column for check in VERIFY.checks}
    assert StageName.verify in STAGE.needs
    assert demanded >= {"credentials", "ssm_allowed", "role_on_host", "imds_ok", "proxy_ok", "clock_ok"}
    assert demanded >= {"egress_ok", "dns_ok", "tcp_ok", "tls_ok", "right_box"}
    for cause, special in FAULTS.items():
        for change in plan(agent(**special), prepared=(verify_change(),)).changes:
            assert verify_change().id in change.depends_on, cause


# What the host may leave unsaid, by its script's own words.
UNSAID = [
    name for name in f.Agent.model_fields if isinstance(getattr(parse_agent("end=yes\n"), name), Unknown)
]


@pytest.mark.parametrize("unsaid", UNSAID)
def test_what_is_not_known_is_no_reason_to_do_more(unsaid: str) -> None:
    """Nor to take another step than with the knowledge."""
    for cause, special in FAULTS.items():
        host = agent(**special)
        steps, without = plan(host), plan(host.model_copy(update={unsaid: UNSEEN}))
        assert {c.kind for c in without.changes} <= {c.kind for c in steps.changes}, cause
