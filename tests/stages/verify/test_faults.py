"""What verify makes of a host's facts: the faults, in words that fit what EC2 shows. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from haltuun.model import Host
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.verify.facts import VerifyFacts
from haltuun.stages.verify.faults import metadata_faults
from haltuun.stages.verify.judge import evidence_of

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
