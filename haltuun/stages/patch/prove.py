"""The proof of patch: a scan younger than a day has come in from each host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from haltuun.model import Host, Proof, StageName, Unknown
from haltuun.run import Run
from haltuun.stages.associations import send_once
from haltuun.stages.base import Proven, View
from haltuun.stages.pages import one_of
from haltuun.stages.patch.facts import SCAN_MAX_AGE_H
from haltuun.stages.patch.parse import state_columns
from haltuun.stages.patch.plan import SCAN_VALUE
from haltuun.stages.patch.probe import SCAN, get_patch_states
from haltuun.stages.polling import poll
from haltuun.stages.tags import SCAN as SCAN_TAG
from haltuun.stages.tags import get_instance_tags, ids_by_region

# A scan takes one to a few minutes; apt on a small, old instance longer.
DEADLINE_S = 600.0


def prove(run: Run, hosts: Sequence[Host], view: View) -> Mapping[str, Proven]:
    """Start the scan where no fresh one is there, and wait for all hosts together."""
    proven: dict[str, Proven] = {}
    by_id = {host.instance_id: host for host in hosts}
    tags = get_instance_tags(run, hosts)
    for region, ids in ids_by_region(hosts).items():
        here = tags[region]
        tagged = [i for i in ids if not isinstance(here, Unknown) and here[i].get(SCAN_TAG) == "daily"]
        columns, failed = _wait_for_scans(run, region, ids, tagged)
        for instance_id in ids:
            row = columns[instance_id]
            if instance_id in failed:
                row = {**row, "scan_note": failed[instance_id]}
            fields = {**row, **({"prereq_ok": True} if _fresh(row) else {})}
            proven[instance_id] = Proven(fields=fields, proofs=_proof(run, by_id[instance_id], row))
    return proven


def _wait_for_scans(
    run: Run, region: str, ids: Sequence[str], tagged: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The hosts' scan columns, and those of `tagged` whose scan ended badly with the reason."""
    columns = _columns(run, region, ids)
    seen = [i for i in tagged if not isinstance(columns[i]["scanned"], Unknown)]
    waiting = [i for i in seen if not _fresh(columns[i])]
    failed: dict[str, str] = {}
    if not waiting:
        return columns, failed
    sent = send_once(run, region, SCAN, SCAN_VALUE, waiting)

    def late() -> list[str]:
        return [i for i in waiting if not _fresh(columns[i]) and i not in failed]

    def look() -> bool:
        """The states only of hosts whose scan is over: asking for all each time costs a call for fifty."""
        endings = sent.look(run)
        over = late() if sent.unread else [i for i in late() if i in endings]
        columns.update(_columns(run, region, over))
        failed.update({i: why for i in late() if (why := endings.get(i))})
        return not late()

    if not poll(look, bool, DEADLINE_S, gives_way=True):
        columns.update(_columns(run, region, late()))
        ended_well = "the scan ended well, and no new state of the host came"
        failed.update({i: ended_well if i in sent.endings else sent.why_open() for i in late()})
    return columns, failed


def _columns(run: Run, region: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    states = get_patch_states(run, region, ids)
    now = run.now()
    if isinstance(states, Unknown):
        return {i: state_columns(states, now) for i in ids}
    seen = {i: one_of(states, i) for i in ids}
    return {i: state_columns({} if one is None else one, now) for i, one in seen.items()}


def _fresh(columns: Mapping[str, Any]) -> bool:
    age = columns["scan_age_h"]
    return isinstance(age, float) and age <= SCAN_MAX_AGE_H


def _proof(run: Run, host: Host, columns: Mapping[str, Any]) -> tuple[Proof, ...]:
    at = columns["scan_at"]
    if not _fresh(columns) or not isinstance(at, datetime):
        return ()
    if run.valid_proof(StageName.patch, "scan", host.instance_id):
        return ()
    return (
        Proof(
            host=host.instance_id,
            stage=StageName.patch,
            kind="scan",
            evidence=f"{at.isoformat()}, {columns['missing']} missing, baseline {columns['baseline_id']}",
            observed_at=run.now(),
            valid_until=at + timedelta(hours=SCAN_MAX_AGE_H),
        ),
    )
