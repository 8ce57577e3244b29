"""Which agent package the table of experiments runs on: the stand-in's, or what --agent-deb names."""

from __future__ import annotations

import subprocess
from pathlib import Path

NAME = "amazon-ssm-agent"


class WrongPackage(Exception):
    """The file is no package of the agent for this machine; the message says why."""


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise WrongPackage((done.stderr.strip() or "it could not be read").splitlines()[-1])
    return done.stdout.strip()


def check_package(path: Path) -> Path:
    """The package, by its absolute path; WrongPackage where the table cannot run on it."""
    if not path.is_file():
        raise WrongPackage(f"--agent-deb {path}: there is no such file.")
    try:
        name = _said("dpkg-deb", "-f", str(path), "Package")
        architecture = _said("dpkg-deb", "-f", str(path), "Architecture")
    except WrongPackage as error:
        raise WrongPackage(f"--agent-deb {path}: no Debian package ({error}).") from error
    if name != NAME:
        raise WrongPackage(f"--agent-deb {path}: holds {name or 'a package without a name'}, not {NAME}.")
    own = _said("dpkg", "--print-architecture")
    if architecture != own:
        raise WrongPackage(f"--agent-deb {path}: is for {architecture}, and this machine is {own}.")
    return path.resolve()
