"""Entry of the package's two binaries."""

from __future__ import annotations

import sys


def main() -> int:
    """`main.py NAME ARGS…`: NAME is the binary that was called."""
    name, argv = sys.argv[1], sys.argv[2:]
    if name == "amazon-cloudwatch-agent-ctl":
        from .control import main as control

        return control(argv)
    from .shipper import Shipper

    return Shipper().run()
