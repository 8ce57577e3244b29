"""`haltuun ui`: the local Prefect server, for looking at what was done."""

from __future__ import annotations

import os
import time
from pathlib import Path

import typer

from haltuun.cli import server
from haltuun.config import load_config


def serve(config_path: Path, *, detach: bool, stop: bool) -> None:
    """Start (or stop) the server of the configuration's state folder; without one, of this folder's."""
    folder = load_config(config_path).state_dir if config_path.is_file() else Path(".haltuun")
    if stop:
        typer.echo("Stopped." if server.stop(folder) else "It was not running.")
        return
    shared = os.environ.get("PREFECT_API_URL")
    if shared:
        typer.echo(f"PREFECT_API_URL is set; the run history is at {server.ui_address(shared)}")
        return
    ours = server.running(folder) is None
    typer.echo(f"Run history: {server.ui_address(server.start(folder))}", nl=True)
    if detach:
        typer.echo("It stays up; stop it with 'haltuun ui --stop'.")
        return
    typer.echo("Ctrl-C ends it." if ours else "It was up already and stays; Ctrl-C ends this command only.")
    try:
        while server.running(folder):
            time.sleep(1)
    except KeyboardInterrupt:
        if ours:
            server.stop(folder)
