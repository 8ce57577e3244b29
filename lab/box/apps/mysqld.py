"""The database server of a lab host: greets on port 3306 and refuses everybody.

usage: mysqld.py VERSION
"""

import os
import socketserver
import sys
import time

VERSION = sys.argv[1]
LOGS = "/var/log/mysql"
ADM = 4  # Debian's group for those who may read logs
# Protocol 10: version, connection id, salt, capabilities; then error 1045 to whatever the client says.
SALT = b"saltsalt\0\xff\xf7\x08\2\0" + b"\0" * 13 + b"saltsaltsalt\0"
GREETING = b"\x0a" + VERSION.encode() + b"\0\1\0\0\0" + SALT
DENIED = b"\xff\x15\x04#28000Access denied"
READY = "/usr/sbin/mysqld: ready for connections."
ABOUT = f"Version: '{VERSION}'  socket: '/var/run/mysqld/mysqld.sock'  port: 3306  (Ubuntu)"


def packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


def start_lines() -> list[str]:
    """Each series has its own form."""
    bound = "Server hostname (bind-address): '0.0.0.0'; port: 3306"
    if VERSION.startswith("5.5"):
        stamp = time.strftime("%y%m%d %H:%M:%S")
        return [f"{stamp} [Note] {bound}", f"{stamp} [Note] {READY}", ABOUT]
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    if VERSION.startswith("5.7"):
        return [f"{stamp} 0 [Note] {bound}", f"{stamp} 0 [Note] {READY}", ABOUT]
    begins = f"/usr/sbin/mysqld (mysqld {VERSION}) starting as process {os.getpid()}"
    return [
        f"{stamp} 0 [System] [MY-010116] [Server] {begins}",
        f"{stamp} 0 [System] [MY-010931] [Server] {READY} {ABOUT}.",
    ]


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(packet(0, GREETING))
        if self.request.recv(4096):
            self.request.sendall(packet(2, DENIED))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


os.makedirs(LOGS, exist_ok=True)
server = Server(("0.0.0.0", 3306), Handler)
with open(f"{LOGS}/error.log", "a", encoding="utf-8") as log:
    os.chmod(log.fileno(), 0o640)
    os.chown(log.fileno(), -1, ADM)
    log.writelines(f"{line}\n" for line in start_lines())
server.serve_forever()
