"""Cause × init × package × how Systems Manager sees the host: the least step, or a refusal that says why."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from haltuun.model import StagePlan, Unknown
from haltuun.stages.repair import STAGE
from haltuun.stages.repair import facts as f
from tests.stages.repair.plan_kit import (
    AS_EC2,
    AS_ONPREM,
    CORE,
    EMPTY_VAULT,
    IID,
    MI,
    START,
    agent,
    log,
    node,
    plan,
    stale,
)

RUNBOOKS = Path(__file__).parents[3] / "docs" / "runbooks"
DEB, SNAP = "/usr/bin/amazon-ssm-agent", "/snap/amazon-ssm-agent/current/amazon-ssm-agent"
PACKAGES: dict[str, dict[str, Any]] = {
    "deb": {"packages": {"deb": "3.3.1142.0-1"}, "binary": DEB},
    "rpm": {"packages": {"rpm": "3.3.1142.0-1"}, "binary": DEB, "dpkg_arch": ""},
    "snap": {"packages": {"snap": "3.3.1142.0"}, "binary": SNAP},
    "snap and deb": {"packages": {"snap": "3.3.1142.0", "deb": "3.3.1142.0-1"}, "binary": DEB},
    "gone": {"packages": {}, "binary": ""},
}
INITS = ("systemd", "upstart", "sysv")
NODES = {"never": (), "online": (node(IID),), "lost": (node(IID, "ConnectionLost"),), "mi": (node(MI),)}

REFUSED = "[CredentialRefresher] Retrieve credentials produced error: MachineFingerprintDoesNotMatch: "
NO_ROLE = "EC2RoleProvider Failed: EC2RoleRequestError: no EC2 instance role found"
NO_IMDS = "[EC2Identity] Failed to get instance info from IMDS. Err: timeout"
ORPHAN = f.Process(comm="ssm-agent-worke", pid=99, started=10)
CLEAR, ASIDE = ("agent.clear", "agent.vault_aside"), ("agent.vault_aside", "agent.install")
RESTART, INSTALL = ("agent.restart",), ("agent.install",)

# Cause → the agent, what mends it where a package is installed, and where none is.
CAUSES: dict[str, tuple[Callable[..., f.Agent], tuple[str, ...] | str, tuple[str, ...] | str]] = {
    "none": (agent, "WAITING_SERVICE", INSTALL),
    "stale": (stale, CLEAR, ASIDE),
    "refused": (lambda **more: stale(log=log(*AS_ONPREM, REFUSED), **more), CLEAR, ASIDE),
    "half repaired": (lambda **more: stale(registration_file=False, **more), CLEAR, ASIDE),
    "not restarted": (lambda **more: stale(vault=EMPTY_VAULT, **more), RESTART, INSTALL),
    "orphan": (lambda **more: agent(processes=(ORPHAN, CORE), **more), RESTART, INSTALL),
    "stopped": (lambda **more: agent(processes=(), **more), RESTART, INSTALL),
    "disabled": (lambda **more: agent(enabled=False, **more), ("agent.state",), INSTALL),
    "asleep": (lambda **more: agent(log=log(*AS_EC2, NO_ROLE), **more), RESTART, INSTALL),
    "no metadata": (
        lambda **more: agent(
            imds_instance_id=Unknown(unknown="IMDS_UNREACHABLE: no answer"), log=log(*START, NO_IMDS), **more
        ),
        "IMDS_UNREACHABLE",
        "IMDS_UNREACHABLE",
    ),
    "broken json": (
        lambda **more: agent(processes=(), config=f.AgentConfig(state="broken", problem="x"), **more),
        "CONFIG_BROKEN",
        "CONFIG_BROKEN",
    ),
    "custom identity": (
        lambda **more: agent(config=f.AgentConfig(state="ok", custom_identities=("x",)), **more),
        "CUSTOM_IDENTITY",
        "CUSTOM_IDENTITY",
    ),
    "full disk": (lambda **more: stale(disk_free_kb=100, **more), "DISK_FULL", "DISK_FULL"),
}
# These change nothing, so it matters neither what manages services nor what is installed.
FINDINGS_ONLY = ("IMDS_UNREACHABLE", "CONFIG_BROKEN", "CUSTOM_IDENTITY", "DISK_FULL")
# Online as itself with the right identity: whatever else is said of the host, nothing is to be mended.
WELL = ("none", "orphan", "asleep", "custom identity")


def expected(cause: str, init: str, package: str, seen: str) -> tuple[str, ...] | str:
    _, step, where_gone = CAUSES[cause]
    if seen == "online" and cause in WELL:
        return ()
    if step in FINDINGS_ONLY:
        return step
    if package == "snap and deb":
        return "SNAP_AND_DEB"
    if init == "sysv":
        return "INIT_UNKNOWN"
    return where_gone if package == "gone" else step


def found(made: StagePlan) -> tuple[str, ...] | str:
    if made.barred:
        (barred,) = made.barred
        assert made.changes == (), "a host that is barred is not changed"
        assert barred.message and barred.remedy and (RUNBOOKS / f"{barred.code}.md").exists()
        return barred.code
    return tuple(change.kind for change in made.changes)


@pytest.mark.parametrize("cause", CAUSES)
def test_the_least_step_or_why_none(cause: str) -> None:
    build = CAUSES[cause][0]
    for init, package, seen in itertools.product(INITS, PACKAGES, NODES):
        made = plan(build(init=init, **PACKAGES[package]), nodes=NODES[seen])
        assert found(made) == expected(cause, init, package, seen), (init, package, seen)
        for change in made.changes:
            assert change.kind in STAGE.kinds and change.hosts == (IID,), change.summary
            assert (change.undo is not None) != bool(change.no_undo), change.summary
        steps = {change.id: change for change in made.changes}
        for change in made.changes:
            # The higher step is one that is taken only where the lower took nothing.
            assert change.only_if_failed is None or steps[change.only_if_failed].kind == "agent.clear"
        again = plan(build(init=init, **PACKAGES[package]), nodes=NODES[seen])
        assert again == made, "the same facts give the same plan"
