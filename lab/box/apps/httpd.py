"""The web server of a lab host: answers on port 80 and writes an access log."""

import http.server
import os
import time

ACCESS_LOG = "/var/log/apache2/access.log"
PAGE = b"<html><head><title>Blog</title><meta name='generator' content='WordPress 5.8'></head></html>\n"


class Handler(http.server.BaseHTTPRequestHandler):
    server_version = "Apache/2.4.41 (Ubuntu)"
    sys_version = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    do_HEAD = do_GET

    def log_message(self, pattern: str, *values: object) -> None:
        stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
        with open(ACCESS_LOG, "a", encoding="utf-8") as log:
            log.write(f"{self.client_address[0]} - - [{stamp}] {pattern % values}\n")


os.makedirs(os.path.dirname(ACCESS_LOG), exist_ok=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 80), Handler).serve_forever()
