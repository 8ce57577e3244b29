"""HTTP(S) with the environment's proxy and the error texts of Go's net/http."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from .hostfs import at
from .pace import scaled_s
from .resolve import LookupFailed, is_address, resolve_host

CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
# Seen with 3.3.1142.0: a blocked connect gives up after 128 s, all tries together.
CONNECT_TIMEOUT_S = 128.0


class SendFailed(OSError):
    """A request got no answer; the text is what Go prints after `Post "URL": `."""


@dataclass(frozen=True)
class Response:
    """A complete answer."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeouts:
    """Seconds of this lab, not of the real agent."""

    connect_s: float
    read_s: float


def aws_timeouts(read_s: float = 20.0) -> Timeouts:
    """Waits of an AWS call: the real 128 s to connect, scaled."""
    return Timeouts(connect_s=scaled_s(CONNECT_TIMEOUT_S, at_least_s=2.0), read_s=read_s)


def _setting(name: str) -> str:
    return os.environ.get(name.lower()) or os.environ.get(name.upper()) or ""


def proxy_settings() -> dict[str, str]:
    """https_proxy, http_proxy and no_proxy as the process got them."""
    return {name: _setting(name) for name in ("https_proxy", "http_proxy", "no_proxy")}


def _bypasses_proxy(host: str) -> bool:
    # golang.org/x/net/http/httpproxy: loopback and localhost are never proxied.
    if host == "localhost" or host.startswith("127."):
        return True
    for item in _setting("no_proxy").split(","):
        rule = item.strip().lower()
        if rule == "*" or (rule and (host == rule.lstrip(".") or host.endswith("." + rule.lstrip("*.")))):
            return True
    return False


def proxy_for(url: str) -> str:
    """The proxy that a request to `url` takes, or an empty string."""
    parts = urlsplit(url)
    if _bypasses_proxy((parts.hostname or "").lower()):
        return ""
    return _setting("https_proxy" if parts.scheme == "https" else "http_proxy")


def _dial(host: str, port: int, timeout_s: float, prefix: str = "") -> socket.socket:
    try:
        address = resolve_host(host)
    except LookupFailed as error:
        raise SendFailed(f"{prefix}dial tcp: {error}") from error
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect((address, port))
    except OSError as error:
        sock.close()
        raise SendFailed(f"{prefix}dial tcp {address}:{port}: {_dial_reason(error)}") from error
    return sock


def _dial_reason(error: OSError) -> str:
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return "i/o timeout"
    return f"connect: {os.strerror(error.errno).lower() if error.errno else error}"


def _tls_reason(error: ssl.SSLError) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"remote error: {error.reason or error}"
    # X509_V_ERR_*: 10 certificate expired, 62 hostname mismatch; the rest are chains that end nowhere.
    if error.verify_code == 10:
        why = "certificate has expired or is not yet valid"
    elif error.verify_code == 62:
        why = f"certificate is not valid for the requested name: {error.verify_message}"
    else:
        why = "certificate signed by unknown authority"
    return f"tls: failed to verify certificate: x509: {why}"


def _tls_context() -> ssl.SSLContext:
    bundle = at(CA_FILE)
    if not bundle.is_file():
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found = bundle.stat()
    return _trusting(str(bundle), found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=1)
def _trusting(bundle: str, size: int, changed_ns: int, inode: int) -> ssl.SSLContext:
    """As long as the bundle is the same: reading it is most of what a connection costs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if size:
        context.load_verify_locations(cafile=bundle)
    return context


def _wrap(sock: socket.socket, host: str) -> socket.socket:
    try:
        return _tls_context().wrap_socket(sock, server_hostname=host)
    except ssl.SSLError as error:
        sock.close()
        raise SendFailed(_tls_reason(error)) from error
    except TimeoutError as error:
        sock.close()
        raise SendFailed("net/http: TLS handshake timeout") from error
    except OSError as error:
        sock.close()
        raise SendFailed("EOF") from error


def _tunnel(proxy: str, host: str, port: int, timeout_s: float) -> socket.socket:
    sock = _open_proxy(proxy, timeout_s)
    try:
        sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = sock.recv(4096)
            if not chunk:
                raise SendFailed("unexpected EOF")
            head += chunk
    except TimeoutError as error:
        sock.close()
        raise SendFailed(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        ) from error
    except OSError:
        sock.close()
        raise
    status_line = head.split(b"\r\n", 1)[0].decode(errors="replace")
    if " 200" not in status_line:
        sock.close()
        raise SendFailed(status_line.split(" ", 2)[-1])
    return sock


def _open_proxy(proxy: str, timeout_s: float) -> socket.socket:
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return _dial(parts.hostname or "", parts.port or 80, timeout_s, prefix="proxyconnect tcp: ")


def connect(url: str, timeouts: Timeouts) -> tuple[socket.socket, str]:
    """A connected socket and the request target to send over it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    proxy = proxy_for(url)
    if parts.scheme == "https":
        port = parts.port or 443
        raw = (
            _tunnel(proxy, host, port, timeouts.connect_s) if proxy else _dial(host, port, timeouts.connect_s)
        )
        return _wrap(raw, host), path
    if proxy:
        return _open_proxy(proxy, timeouts.connect_s), url
    return _dial(host, parts.port or 80, timeouts.connect_s), path


def send(method: str, url: str, headers: dict[str, str], body: bytes, timeouts: Timeouts) -> Response:
    """One request on a connection of its own; raises SendFailed when no answer came."""
    parts = urlsplit(url)
    sock, target = connect(url, timeouts)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.sock = sock
    try:
        sock.settimeout(timeouts.read_s)
        connection.request(method, target, body=body, headers={"Host": parts.netloc, **headers})
        answer = connection.getresponse()
        return Response(answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()})
    except TimeoutError as error:
        reason = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        raise SendFailed(reason) from error
    except (OSError, http.client.HTTPException) as error:
        raise SendFailed("EOF") from error
    finally:
        connection.close()


def peer_of(url: str) -> str:
    """`address:port` that `url` leads to, for the log."""
    host = urlsplit(url).hostname or ""
    return f"{host if is_address(host) else resolve_host(host)}:{urlsplit(url).port or 443}"
