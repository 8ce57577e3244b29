"""The database server of a lab host: greets on port 3306 and refuses everybody."""

import os
import socketserver
import time

ERROR_LOG = "/var/log/mysql/error.log"
# Protocol 10: version, connection id, salt, capabilities; then error 1045 to whatever the client says.
GREETING = b"\x0a5.5.62-0ubuntu0.14.04.1\0\1\0\0\0saltsalt\0\xff\xf7\x08\2\0" + b"\0" * 13 + b"saltsaltsalt\0"
DENIED = b"\xff\x15\x04#28000Access denied"


def packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(packet(0, GREETING))
        if self.request.recv(4096):
            self.request.sendall(packet(2, DENIED))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


os.makedirs(os.path.dirname(ERROR_LOG), exist_ok=True)
with open(ERROR_LOG, "a", encoding="utf-8") as log:
    stamp = time.strftime("%y%m%d %H:%M:%S")
    log.write(f"{stamp} [Note] /usr/sbin/mysqld: ready for connections.\n")
Server(("0.0.0.0", 3306), Handler).serve_forever()
