"""`systemctl` and upstart's commands, as thin as can be: PID 1 knows everything.

usage: client.py PROGRAM ARGUMENT…
"""

import json
import os
import socket
import sys


def main() -> int:
    program, *arguments = sys.argv[1:]
    program = os.path.basename(program)
    if program not in ("systemctl", "initctl"):
        arguments.insert(0, program)
    link = socket.socket(socket.AF_UNIX)
    link.connect("/run/lab/init.sock")
    link.sendall(json.dumps({"argv": arguments}).encode() + b"\n")
    reply = json.loads(link.makefile("rb").readline())
    sys.stdout.write(reply["out"])
    sys.stderr.write(reply["err"])
    return int(reply["code"])


if __name__ == "__main__":
    sys.exit(main())
