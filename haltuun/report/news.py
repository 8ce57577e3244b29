"""What an account's last run brought to light: what is new or worse, and who may have been there. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from haltuun.model import Frozen, Severity, StageName, Verdict
from haltuun.report.changes import FINE
from haltuun.report.render import plain
from haltuun.report.rows import Rows

NODE = re.compile(r"mi-[0-9a-f]{8,17}")


class Worse(Frozen):
    """A stage that a host had passed and passes no more."""

    host: str
    stage: StageName
    was: Verdict
    now: Verdict
    code: str
    message: str
    remedy: str


class Appeared(Frozen):
    """What the last run saw first: a host, or a critical finding ("" for the account's)."""

    host: str
    code: str  # "" for a new host
    message: str
    remedy: str = ""


class Age(Frozen):
    """The oldest of the newest observations: nothing that is told is older."""

    oldest_at: datetime
    newest_at: datetime
    host: str
    stage: StageName


class Suspect(Frozen):
    host: str
    signs: tuple[str, ...]
    since: datetime | None
    remedy: str


class ForeignNode(Frozen):
    """A hybrid registration (mi-…): `host` is the instance that bears it, "" when none is known."""

    node_id: str
    region: str
    ping_status: str
    computer_name: str
    host: str
    settled: bool  # its host is managed under its own id
    message: str


# -- what is new ---------------------------------------------------------------------------------


def worse(rows: Rows) -> tuple[Worse, ...]:
    return tuple(
        Worse(
            host=host,
            stage=stage,
            was=before.verdict,
            now=now.verdict,
            code=now.reason,
            message=plain(now.message),
            remedy=plain(now.remedy),
        )
        for host, stages in rows.status.items()
        for stage in StageName
        if (now := stages.get(stage)) is not None
        and now.verdict in (Verdict.held, Verdict.unknown, Verdict.waiting)
        and (before := rows.status_before.get(host, {}).get(stage)) is not None
        and before.verdict in FINE
    )


def appeared(rows: Rows) -> tuple[Appeared, ...]:
    if rows.before is None:
        return ()
    new = [
        Appeared(host=host, code="", message="Seen for the first time.")
        for host in rows.hosts
        if host not in rows.hosts_before
    ]
    known = {(finding.host, finding.code) for _, finding in rows.findings_before}
    told = {
        (finding.host, finding.code): Appeared(
            host=finding.host or "",
            code=finding.code,
            message=plain(finding.message),
            remedy=plain(finding.remedy),
        )
        for _, finding in rows.findings
        if finding.severity is Severity.critical and (finding.host, finding.code) not in known
    }
    return (*new, *told.values())


def age(rows: Rows) -> Age | None:
    looks = {key: at for key, at in rows.looked_at.items() if key[0] in rows.hosts}
    if not looks:
        return None
    host, stage = min(looks, key=lambda key: looks[key])
    return Age(oldest_at=looks[host, stage], newest_at=max(looks.values()), host=host, stage=stage)


# -- compromise and foreign registrations ----------------------------------------------------------


def suspects(rows: Rows) -> tuple[Suspect, ...]:
    found: dict[str, Suspect] = {}
    for _, finding in rows.findings:
        if finding.code == "SUSPECT" and finding.host:
            found[finding.host] = Suspect(
                host=finding.host,
                signs=tuple(plain(sign) for sign in finding.evidence),
                since=_since(rows, finding.host),
                remedy=plain(finding.remedy),
            )
    for host, stages in rows.status.items():
        held = next((s for s in stages.values() if s.reason == "SUSPECT" and s.verdict is Verdict.held), None)
        if held and host not in found:
            found[host] = Suspect(host=host, signs=(), since=held.since, remedy=plain(held.remedy))
    return tuple(found.values())


def _since(rows: Rows, host: str) -> datetime | None:
    times = [s.since for s in rows.status.get(host, {}).values() if s.reason == "SUSPECT" and s.since]
    return min(times, default=None)


def foreign(rows: Rows) -> tuple[ForeignNode, ...]:
    """Registrations of other accounts on hosts here, then the hybrid nodes of this account."""
    found: dict[tuple[str, str], ForeignNode] = {}
    for _, finding in rows.findings:
        if finding.code != "HYBRID_FOREIGN" or not finding.host:
            continue
        named = NODE.search(" ".join(finding.evidence))
        node_id = named[0] if named else "mi-…"
        host = rows.hosts.get(finding.host)
        found[node_id, finding.host] = ForeignNode(
            node_id=node_id,
            region=host.region if host else "",
            ping_status="",
            computer_name="",
            host=finding.host,
            settled=False,
            message=plain(finding.message),
        )
    _, facts = rows.account_facts.get(StageName.discover, (None, {}))
    bearer = {
        standing.get("private_ip"): host
        for host, standing in (facts.get("standing") or {}).items()
        if host in rows.hosts and standing.get("private_ip")
    }
    for region, seen in (facts.get("regions") or {}).items():
        for node in _rows(seen.get("hybrid_nodes")):
            host_id = bearer.get(node.get("ip_address"), "")
            key = (node["node_id"], host_id)
            if key not in found:
                found[key] = ForeignNode(
                    node_id=node["node_id"],
                    region=region,
                    ping_status=plain(node.get("ping_status", "")),
                    computer_name=plain(node.get("computer_name", "")),
                    host=host_id,
                    settled=_repaired(rows, host_id),
                    message=_of_node(host_id, _repaired(rows, host_id)),
                )
    return tuple(sorted(found.values(), key=lambda node: node.settled))


def _repaired(rows: Rows, host: str) -> bool:
    status = rows.status.get(host, {}).get(StageName.repair)
    return status is not None and status.verdict in FINE


def _of_node(host: str, settled: bool) -> str:
    if not host:
        return "No instance of this account has its address: a machine elsewhere, or one that is gone."
    if settled:
        return "It was baked into this host's image; the host is now managed under its own id."
    return "It has this host's address, and the host is not managed under its own id."


def _rows(value: Any) -> list[Mapping[str, Any]]:
    """A list of facts; what could not be asked is no list."""
    return list(value) if isinstance(value, list) else []
