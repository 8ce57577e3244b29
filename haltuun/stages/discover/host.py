"""Looks at one host from inside: one connection, one script, read only."""

from __future__ import annotations

from haltuun.model import Host, Json, StageName, Unknown
from haltuun.run import Run
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverAccount, Standing
from haltuun.stages.discover.lines import script

PROBE_TIMEOUT_S = 120.0


def standing_of(view: View, instance_id: str) -> Standing | None:
    account = view.account_facts.get(StageName.discover)
    return account.standing.get(instance_id) if isinstance(account, DiscoverAccount) else None


def no_way_in(standing: Standing | None) -> Unknown | None:
    """Why nobody should connect to the host, or None."""
    if standing is None:
        return Unknown(unknown="HOST_UNKNOWN: EC2 did not list the instance")
    if standing.exclude is not None:
        return Unknown(unknown=f"EXCLUDED: left alone, because {standing.exclude}")
    if standing.state != "running":
        return Unknown(unknown=f"INSTANCE_STOPPED: the instance is {standing.state}")
    if standing.platform == "windows":
        return Unknown(unknown="WINDOWS_BY_HAND: Haltuun does not look into Windows hosts")
    return None


def probe_host(run: Run, host: Host, view: View) -> Json | Unknown:
    """{"way", "legacy", "asked_at", "answered_at", "stdout"}, the times as epoch seconds of the account.

    Raises:
        Unreachable: or a subclass.
    """
    closed = no_way_in(standing_of(view, host.instance_id))
    if closed is not None:
        return closed
    transport = run.open(host)
    try:
        asked_at = run.now().timestamp()
        result = transport.run(
            script(__package__ or "", "common.sh", "suspect.sh", "probe.sh"), timeout_s=PROBE_TIMEOUT_S
        )
        return {
            "way": transport.way,
            "legacy": getattr(transport, "legacy", None),
            "asked_at": asked_at,
            "answered_at": run.now().timestamp(),
            "stdout": result.stdout,
        }
    finally:
        transport.close()
