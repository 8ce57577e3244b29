"""`haltuun lab`: the practice account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from haltuun.errors import HaltuunError
from lab import api
from lab.errors import LabError

_SENTENCES = {
    "down": "There is no lab. Bring it up with haltuun lab up.",
    "dead": "The lab's process was killed. Use haltuun lab up to start anew, or haltuun lab down.",
    "starting": "The lab is coming up: {step}.",
    "failed": "The lab failed: {step}. End it with haltuun lab down.",
    "ready": "The lab is up.",
}


@contextmanager
def _as_ours() -> Iterator[None]:
    try:
        yield
    except LabError as error:
        raise HaltuunError(error.message, subject="lab", remedy=error.remedy, code="LAB") from error


def up(scenario: Path | None, seed: int, agent_deb: Path | None, out: Path) -> None:
    with _as_ours():
        info = api.up(
            scenario or api.DEMO_SCENARIO,
            out=out,
            seed=seed,
            agent_deb=agent_deb,
            progress=lambda step: typer.echo(step, err=True),
        )
    for name, host in info.hosts.items():
        typer.echo(f"{host['instance_id']}  {name:24} {host['address']}:{host['port']}")
    typer.echo("\nTo work on it:\n")
    for key, value in info.env.items():
        typer.echo(f"export {key}={value}")


def down() -> None:
    with _as_ours():
        typer.echo("The lab is down." if api.down() else "There was no lab.")


def status(as_json: bool) -> None:
    with _as_ours():
        state = api.status()
    if as_json:
        typer.echo(json.dumps(state, default=str))
        return
    typer.echo(_SENTENCES[state["state"]].format(step=state.get("step", "")))
    info = state.get("info")
    if info:
        typer.echo(f"Account {info['account_id']} in {info['region']} at {info['endpoint_url']}\n")
        _hosts(info["hosts"], state.get("boxes", {}))
        typer.echo(f"\nIts configuration: {info['config_path']}")


def _hosts(hosts: dict[str, dict[str, Any]], boxes: dict[str, dict[str, Any]]) -> None:
    rows = [("host", "instance", "ssh", "state", "faults")]
    for name, host in hosts.items():
        ssh = f"{host['address']}:{host['port']}" if host["address"] else "-"
        box = boxes.get(name, {})
        runs = "running" if box.get("running") else "ended" if box else "stopped"
        rows.append((name, host["instance_id"], ssh, runs, ", ".join(box.get("faults", [])) or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
