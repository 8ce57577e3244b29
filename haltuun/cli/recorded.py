"""Whether the Prefect server has written everything down that a finished run told it."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from haltuun.cli.server import POLL_S, opener
from haltuun.errors import ServerUnreachable

# A recorder that is behind shows progress several times a second: this long without any, it is done.
CALM_S = 1.5
UNFINISHED = ("SCHEDULED", "PENDING", "RUNNING")


def await_recorded(url: str, flow_run_id: str, *, deadline_s: float = 120.0) -> bool:
    """Wait until the server has every task run of a finished flow run, and of its subflows, in an end state.

    The server writes task runs down from events, some 65 a second on SQLite (measured), so it is behind
    when a run ends: stopped at once, it would lose the rest. False when the deadline passes first.
    """
    deadline, calm_since, seen = time.monotonic() + deadline_s, time.monotonic(), -1
    while time.monotonic() < deadline:
        family = _with_subflows(url, flow_run_id)
        recorded, unfinished = (_count_task_runs(url, family, states) for states in (None, UNFINISHED))
        if recorded != seen or unfinished:
            seen, calm_since = recorded, time.monotonic()
        elif time.monotonic() - calm_since >= CALM_S:
            return True
        time.sleep(POLL_S)
    return False


def _with_subflows(url: str, flow_run_id: str) -> list[str]:
    family, fresh = [flow_run_id], [flow_run_id]
    while fresh:
        found = _post(url, "flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": fresh}}})
        fresh = [row["id"] for row in found]
        family += fresh
    return family


def _count_task_runs(url: str, flow_run_ids: list[str], states: Sequence[str] | None) -> int:
    body: dict[str, Any] = {"flow_runs": {"id": {"any_": flow_run_ids}}}
    if states:
        body["task_runs"] = {"state": {"type": {"any_": list(states)}}}
    return int(_post(url, "task_runs/count", body))


def _post(url: str, path: str, body: Mapping[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{url.rstrip('/')}/{path}", json.dumps(body).encode(), headers)
    try:
        with opener(url).open(request, timeout=30) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        raise ServerUnreachable(
            f"the Prefect server does not answer: {error}.", subject=url, remedy="Start it again: haltuun ui"
        ) from error
