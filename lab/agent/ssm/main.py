"""Entry of the three binaries of the package."""

from __future__ import annotations

import sys


def main() -> int:
    """`main.py NAME ARGS…`: NAME is the binary that was called."""
    name, argv = sys.argv[1], sys.argv[2:]
    if name == "ssm-agent-worker":
        from .worker import run_worker

        return run_worker()
    if name == "ssm-cli":
        from . import cli

        return cli.main(argv)
    from . import command

    return command.main(argv)
