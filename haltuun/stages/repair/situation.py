"""What the rules look at, and the two questions that several of them ask. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from haltuun.model import Unknown, is_true
from haltuun.stages.repair.agentlog import AgentLog, is_older, read_log
from haltuun.stages.repair.entries import Entry
from haltuun.stages.repair.facts import Agent, Identity

# agent/appconfig/constants.go:293-295
DEFAULT_ORDER = ("OnPrem", "EC2", "CustomIdentity")
# Older agents know no other order, whatever is configured (RELEASENOTES).
ORDERS_SINCE = (3, 0, 1295)


@dataclass(frozen=True)
class Situation:
    """What a rule may look at."""

    agent: Agent
    log: AgentLog | None  # None: no log at hand

    @cached_property
    def open_entries(self) -> tuple[Entry, ...]:
        """What no sign of being online ends."""
        return self.log.since_connected() if self.log else ()

    @cached_property
    def refused_entries(self) -> tuple[Entry, ...]:
        """Of these, what no call that Systems Manager took ends."""
        return self.log.since_accepted() if self.log else ()

    @property
    def now(self) -> datetime | None:
        """The host's clock; of files alone, when the agent last wrote."""
        if not isinstance(self.agent.clock, Unknown):
            return self.agent.clock
        return self.log.newest if self.log else None


def situation_of(agent: Agent) -> Situation:
    lines = [line for part in (agent.log, agent.died) if not isinstance(part, Unknown) for line in part]
    return Situation(agent=agent, log=read_log(lines) if lines else None)


def identity_taken(s: Situation) -> Identity | None:
    """What the last start in the log took; identity_config.json only where the log does not tell
    (it can be older than that)."""
    if s.log is not None and s.log.has_start and not s.log.unsaid:
        return s.log.identity
    config = s.agent.identity_config
    if not isinstance(config, Unknown) and config is not None:
        if config.identity_type in ("EC2", "OnPrem", "CustomIdentity"):
            return config.identity_type  # type: ignore[return-value]
        return None
    return s.log.identity if s.log is not None else None


def will_take_onprem(agent: Agent) -> bool | Unknown:
    """What the next start would do, by the vault and the order; Unknown without the vault."""
    if isinstance(agent.vault, Unknown):
        return agent.vault
    order: tuple[str, ...] = DEFAULT_ORDER
    version = agent.version
    by_default = not isinstance(version, Unknown) and is_true(is_older(version, ORDERS_SINCE))
    if not by_default and not isinstance(agent.config, Unknown) and agent.config.consumption_order:
        order = agent.config.consumption_order
    if "OnPrem" not in order or ("EC2" in order and order.index("EC2") < order.index("OnPrem")):
        return False
    return agent.vault.complete
