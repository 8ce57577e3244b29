"""PID 1 of a box: `systemd` or `init` by name, as much of either as a repair can notice.

usage: init.py systemd|upstart
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time

import world

SOCKET = "/run/lab/init.sock"
PR_SET_NAME = 15
FACILITY_AUTH = (4, 10)


def set_name(name: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def serve(connection: socket.socket, answer) -> None:
    with connection, contextlib.suppress(OSError, ValueError):
        request = json.loads(connection.makefile("rb").readline())
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("3i", credentials)
        reply = answer(request["argv"], uid == 0)
        body = {
            "out": "".join(f"{line}\n" for line in reply.out),
            "err": "".join(f"{line}\n" for line in reply.err),
            "code": reply.code,
        }
        connection.sendall(json.dumps(body).encode() + b"\n")


def write_syslog(datagram: bytes, host: str) -> None:
    """What a syslog daemon would do: auth facilities to auth.log, the rest to syslog."""
    text = datagram.decode("utf-8", "replace").rstrip("\0\n")
    facility = 1
    if text.startswith("<") and ">" in text[:6]:
        number, _, text = text[1:].partition(">")
        facility = int(number) >> 3 if number.isdigit() else 1
    path = "/var/log/auth.log" if facility in FACILITY_AUTH else "/var/log/syslog"
    stamped = len(text) > 15 and text[3] == " " and text[9] == ":"
    message = text[16:] if stamped else text
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as stream:
        stream.write(f"{time.strftime('%b %e %H:%M:%S')} {host} {message}\n")


def listen(path: str, kind: int) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(path)
    os.chmod(path, 0o666)
    if kind == socket.SOCK_STREAM:
        made.listen(64)
    made.setblocking(False)
    return made


def main(flavour: str) -> None:
    if flavour == "systemd":
        set_name("systemd")
        os.makedirs("/run/systemd/system", exist_ok=True)
        import systemctl as service_manager
    else:
        set_name("init")
        import initctl as service_manager
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.makedirs("/run/lab", mode=0o755, exist_ok=True)
    clients, messages = listen(SOCKET, socket.SOCK_STREAM), listen("/dev/log", socket.SOCK_DGRAM)
    selector = selectors.DefaultSelector()
    for source in (reader, clients, messages):
        selector.register(source, selectors.EVENT_READ)
    host = socket.gethostname()
    threading.Thread(target=service_manager.boot, daemon=True).start()
    while True:
        for key, _ in selector.select(timeout=0.25):
            with contextlib.suppress(OSError):
                if key.fileobj is clients:
                    connection, _ = clients.accept()
                    threading.Thread(
                        target=serve, args=(connection, service_manager.answer), daemon=True
                    ).start()
                elif key.fileobj is messages:
                    write_syslog(messages.recv(65536), host)
                else:
                    os.read(reader, 4096)
        world.reap()
        world.run_timers()


if __name__ == "__main__":
    main(sys.argv[1])
