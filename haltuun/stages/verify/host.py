"""Looks from inside one host at what its agent needs: one connection, one script, read only."""

from __future__ import annotations

from haltuun.model import Host, Json, StageName, Unknown, is_true
from haltuun.run import Run
from haltuun.stages.base import View
from haltuun.stages.discover.host import no_way_in, standing_of
from haltuun.stages.discover.lines import script
from haltuun.stages.verify.needs import host_name, required_services
from haltuun.stages.verify.parse_account import agent_version, discovered, role_of, verified
from haltuun.stages.verify.plan import ASSOCIATE

PROBE_TIMEOUT_S = 150.0
# What the account has, but has not come to the host yet, is waited for so long: a rule takes a moment,
# and EC2 hands a newly attached role to the metadata within seconds, at times a minute.
SETTLE_REACH_S = 20
SETTLE_ROLE_S = 60


def probe_host(run: Run, host: Host, view: View) -> Json | Unknown:
    """{"way", "asked_at", "answered_at", "stdout"}, or why nobody looked.

    Raises:
        Unreachable: or a subclass.
    """
    closed = no_way_in(standing_of(view, host.instance_id))
    if closed is not None:
        return closed
    seen = discovered(view, host.instance_id)
    if seen is None:
        return Unknown(unknown="HOST_UNKNOWN: nothing is known of the host")
    if seen.is_suspect:
        return Unknown(unknown="SUSPECT: the host looks compromised, so nobody logs in again")
    if seen.right_box is False:
        return Unknown(unknown=seen.hostname.unknown if isinstance(seen.hostname, Unknown) else "WRONG_BOX")
    account = verified(view)
    endpoints = account.endpoints.get(host.instance_id) if account else None
    should_reach = isinstance(endpoints, tuple) and all(is_true(e.reachable) for e in endpoints if e.required)
    role, source = role_of(view, host)
    wants_role = (isinstance(role, str) and source == "instance role") or _just_attached(run, host)
    services = required_services(agent_version(seen), host.region)
    names = " ".join(host_name(service, host.region, view.partition) for service in services)
    text = script("haltuun.stages.discover", "common.sh") + "\n" + script(__package__ or "", "verify.sh")
    transport = run.open(host)
    try:
        asked_at = run.now().timestamp()
        result = transport.run(
            text,
            timeout_s=PROBE_TIMEOUT_S,
            env={
                "NAMES": names,
                "WAIT_REACH_S": str(SETTLE_REACH_S if should_reach else 0),
                "WAIT_ROLE_S": str(SETTLE_ROLE_S if wants_role else 0),
            },
        )
        answered_at = run.now().timestamp()
    finally:
        transport.close()
    return {
        "way": transport.way,
        "asked_at": asked_at,
        "answered_at": answered_at,
        "stdout": result.stdout,
    }


def _just_attached(run: Run, host: Host) -> bool:
    """Whether this run gave the host its profile: the account was looked at before that."""
    return (StageName.verify, ASSOCIATE, "confirmed") in run.did(host.instance_id)
