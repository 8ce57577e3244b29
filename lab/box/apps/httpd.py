"""The web server of a lab host: answers on port 80 and logs as Debian's Apache does.

usage: httpd.py VERSION
"""

import http.server
import os
import sys
import time

VERSION = sys.argv[1]
LOGS = "/var/log/apache2"
ADM = 4  # Debian's group for those who may read logs
PAGE = b"<html><head><title>Blog</title><meta name='generator' content='WordPress 5.8'></head></html>\n"


def log(name: str, line: str) -> None:
    path = f"{LOGS}/{name}"
    with open(path, "a", encoding="utf-8") as stream:
        if stream.tell() == 0:
            os.chmod(path, 0o640)
            os.chown(path, 0, ADM)
        stream.write(f"{line}\n")


def log_error(module: str, code: str, text: str) -> None:
    now = time.time()
    moment = time.strftime("%a %b %d %H:%M:%S", time.gmtime(now))
    stamp = f"{moment}.{int(now % 1 * 1e6):06d} {time.strftime('%Y', time.gmtime(now))}"
    log("error.log", f"[{stamp}] [{module}:notice] [pid {os.getpid()}] {code}: {text}")


def log_access(client: str, request: str, status: int, size: int, agent: str) -> None:
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    log("access.log", f'{client} - - [{stamp}] "{request}" {status} {size} "-" "{agent}"')


class Handler(http.server.BaseHTTPRequestHandler):
    server_version = f"Apache/{VERSION} (Ubuntu)"
    sys_version = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    do_HEAD = do_GET

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        agent = self.headers.get("User-Agent", "-") if hasattr(self, "headers") else "-"
        log_access(self.client_address[0], self.requestline, int(code), len(PAGE), agent)

    def log_message(self, pattern: str, *values: object) -> None:
        """Errors of a client are in the access log already."""


os.makedirs(LOGS, exist_ok=True)
server = http.server.ThreadingHTTPServer(("0.0.0.0", 80), Handler)
log_error("mpm_prefork", "AH00163", f"Apache/{VERSION} (Ubuntu) configured -- resuming normal operations")
log_error("core", "AH00094", "Command line: '/usr/sbin/apache2'")
# Apache wakes its children so, and every access log has it.
log_access("::1", "OPTIONS * HTTP/1.0", 200, 126, f"Apache/{VERSION} (Ubuntu) (internal dummy connection)")
server.serve_forever()
