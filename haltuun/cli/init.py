"""`haltuun init`: a configuration to begin with, and the role for the account."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import typer

from haltuun.errors import ConfigError


def write_templates(config_path: Path) -> None:
    """Write haltuun.yaml and haltuun-role.yaml beside it; never over an existing file."""
    role_path = config_path.with_name("haltuun-role.yaml")
    for path in (config_path, role_path):
        if path.exists():
            raise ConfigError(
                "is there already and is not overwritten.",
                subject=str(path),
                remedy="Move it away, or name another place with --config.",
            )
    templates = resources.files("haltuun.cli") / "templates"
    for path, name in ((config_path, "haltuun.yaml"), (role_path, "haltuun-role.yaml")):
        try:
            path.write_text((templates / name).read_text(encoding="utf-8"), encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot be written ({error.strerror}).", subject=str(path), remedy="Choose another folder."
            ) from error
        typer.echo(f"wrote {path}")
    typer.echo("Next: deploy the role's stack in the account, fill in the file, then 'haltuun doctor'.")
