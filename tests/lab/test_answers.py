"""A simulated host says all that a repair is decided by: else a crowd would only show how hosts are held."""

from __future__ import annotations

import pytest

from haltuun.model import Host
from haltuun.stages.repair.parse import parse_agent
from lab.answers import repair_answer


@pytest.mark.parametrize("init", ["systemd", "upstart"])
def test_nothing_of_a_simulated_hosts_agent_is_unknown(init: str) -> None:
    host = Host(account="111122223333", region="eu-west-1", instance_id="i-0123456789abcdef0")
    agent = parse_agent(repair_answer(host, init))
    assert '"unknown"' not in agent.model_dump_json()
    assert agent.init == init and agent.services == {"deb": "running, enabled"}
