"""What verify makes of a host's facts: the faults, in words that fit what EC2 shows. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from haltuun.config import AccountConfig, AgentConfig, Config
from haltuun.model import Host, StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverAccount, DiscoverFacts, RegionFacts
from haltuun.stages.verify.facts import VerifyAccount, VerifyFacts
from haltuun.stages.verify.faults import faults_of, metadata_faults
from haltuun.stages.verify.judge import evidence_of
from haltuun.stages.verify.parse_account import role_of
from haltuun.stages.verify.parse_host import parse_permissions

HOST = Host(account="111122223333", region="eu-central-1", instance_id="i-0abc", name="web-01")


@pytest.mark.parametrize(
    ("options", "remedy", "evidence"),
    [
        ({"imds_endpoint": "disabled"}, "--http-endpoint enabled", "HttpEndpoint=disabled"),
        ({"imds_endpoint": "enabled"}, "EC2 shows it switched on", ""),
        ({"imds_endpoint": "enabled", "imds_hop_limit": 1}, "switched on", "HttpPutResponseHopLimit=1"),
        ({}, "--http-endpoint enabled", ""),
    ],
)
def test_metadata_that_do_not_answer(options: dict[str, Any], remedy: str, evidence: str) -> None:
    """Nobody is told to switch on what is on."""
    seen, facts = DiscoverFacts(**options), VerifyFacts(imds_ok=False, proxy_ok=True, clock_ok=True)
    (fault,) = metadata_faults(HOST, seen, facts)
    assert fault.code == "IMDS_UNREACHABLE"
    assert remedy in fault.remedy
    assert ("--http-endpoint enabled" in fault.remedy) is (options.get("imds_endpoint") != "enabled")
    assert evidence in " ".join(evidence_of(seen, facts, fault.code))


# -- default host management -----------------------------------------------------------------------

ROLE = "AWSSystemsManagerDefaultEC2InstanceManagementRole"
NONE = {"agent_package": "none", "agent_version": None, "agent_running": False}


def _view(seen: DiscoverFacts, pinned: str = "") -> View:
    """Of an account with default host management, and a host without a profile."""
    pin = {"package_source": "/packages", "version": pinned, "sha256": "a" * 64} if pinned else {}
    return View(
        account=AccountConfig(id=HOST.account),
        config=Config(agent=AgentConfig(**pin)),
        account_id=HOST.account,
        partition="aws",
        now=None,  # type: ignore[arg-type]
        run_id="r",
        hosts={HOST.instance_id: HOST},
        entering=(HOST.instance_id,),
        facts={StageName.discover: {HOST.instance_id: seen}},
        account_facts={
            StageName.discover: DiscoverAccount(
                regions={HOST.region: RegionFacts(dhmc_role=f"service-role/{ROLE}")}
            ),
            StageName.verify: VerifyAccount(profile_of={HOST.instance_id: None}),
        },
    )


@pytest.mark.parametrize(
    ("known", "pinned", "credentials"),
    [
        ({"agent_version": "3.2.582.0"}, "", "default host management"),
        ({"agent_version": "3.1.1732.0-1"}, "", "none"),
        ({"agent_version": "3.1.1732.0"}, "3.3.1142.0", "none"),
        ({"agent_version": Unknown(unknown="x"), "ssm_agent_version": "3.1.1732.0"}, "", "none"),
        ({}, "", "unknown"),
        ({"agent_version": "of ours"}, "", "unknown"),
        # Online without a profile: it works, whatever the version is said to be.
        ({"ssm_status": "Online"}, "", "default host management"),
        ({"ssm_status": "Online", "agent_version": "3.1.1732.0"}, "", "default host management"),
        # Installed later by repair, if at all.
        (NONE, "", "default host management"),
        (NONE, "3.3.1142.0", "default host management"),
        ({**NONE, "ssm_agent_version": "3.1.1732.0"}, "3.3.1142.0", "default host management"),
        (NONE, "3.1.1732.0", "none"),
        ({**NONE, "agent_running": True}, "", "unknown"),
    ],
)
def test_default_host_management_is_for_new_agents(
    known: dict[str, Any], pinned: str, credentials: str
) -> None:
    seen = DiscoverFacts(agent_package="deb", agent_running=True).model_copy(update=known)
    view = _view(seen, pinned)
    said = parse_permissions(view, HOST, seen, seen.ssm_status == "Online")["credentials"]
    assert isinstance(said, Unknown) if credentials == "unknown" else said == credentials, said
    # Its metadata need not hand out a role that it does not have.
    assert role_of(view, HOST)[1] == ("none" if credentials == "none" else "default host management")


def test_an_agent_too_old_for_it_is_to_get_a_profile_and_is_told_why() -> None:
    seen = DiscoverFacts(state="running", agent_version="3.1.1732.0", asg=None)
    view = _view(seen)
    facts = VerifyFacts(
        source="host", right_box=True, compromise="none seen", **parse_permissions(view, HOST, seen, False)
    )
    (fault,) = faults_of(view, HOST, facts)
    assert (fault.code, fault.mend) == ("ROLE_MISSING", "profile")
    assert "3.2.582.0" in fault.message
