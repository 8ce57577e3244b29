"""`haltuun lab`: the practice account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from haltuun.errors import HaltuunError
from lab import api
from lab.errors import LabError


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
    for key, value in state.items():
        typer.echo(f"{key}: {value}")
