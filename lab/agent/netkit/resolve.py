"""Name lookup that fails with the words of Go's resolver, which glibc's error codes cannot give."""

from __future__ import annotations

import ipaddress
import random
import socket
import struct

from .hostfs import read_text
from .pace import scaled_s

# net.Resolver's default: 5 s a try, two tries (resolv.conf(5) timeout, attempts).
LOOKUP_TIMEOUT_S = 10.0


class LookupFailed(OSError):
    """The text that Go prints after `dial tcp: `."""


def is_address(host: str) -> bool:
    """Whether `host` needs no lookup."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _from_hosts_file(host: str) -> str | None:
    for line in (read_text("/etc/hosts") or "").splitlines():
        words = line.partition("#")[0].split()
        if host in words[1:] and ":" not in words[0]:
            return words[0]
    return None


def _name_server() -> str:
    for line in (read_text("/etc/resolv.conf") or "").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            return words[1]
    return "127.0.0.1"


def _question(query_id: int, host: str) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in host.rstrip(".").split("."))
    return struct.pack(">HHHHHH", query_id, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def _skip_name(message: bytes, offset: int) -> int:
    while True:
        length = message[offset]
        if length >= 0xC0:
            return offset + 2
        if length == 0:
            return offset + 1
        offset += 1 + length


def _first_address(message: bytes) -> str | None:
    questions, answers = struct.unpack(">HH", message[4:8])
    offset = 12
    for _ in range(questions):
        offset = _skip_name(message, offset) + 4
    for _ in range(answers):
        offset = _skip_name(message, offset)
        kind, _, _, size = struct.unpack(">HHIH", message[offset : offset + 10])
        offset += 10
        if kind == 1 and size == 4:
            return socket.inet_ntoa(message[offset : offset + 4])
        offset += size
    return None


def _ask(host: str, server: str) -> bytes:
    query_id = random.randrange(65536)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(scaled_s(LOOKUP_TIMEOUT_S, at_least_s=1.0))
        here = "0.0.0.0:0"
        try:
            sock.connect((server, 53))
            here = "{}:{}".format(*sock.getsockname())
            sock.send(_question(query_id, host))
            while True:
                answer = sock.recv(4096)
                if len(answer) >= 12 and answer[:2] == struct.pack(">H", query_id):
                    return answer
        except TimeoutError as error:
            reason = f"read udp {here}->{server}:53: i/o timeout"
            raise LookupFailed(f"lookup {host} on {server}:53: {reason}") from error
        except ConnectionRefusedError as error:
            reason = f"read udp {here}->{server}:53: read: connection refused"
            raise LookupFailed(f"lookup {host} on {server}:53: {reason}") from error
        except OSError as error:
            reason = f"dial udp {server}:53: connect: {(error.strerror or str(error)).lower()}"
            raise LookupFailed(f"lookup {host} on {server}:53: {reason}") from error


def resolve_host(host: str) -> str:
    """IPv4 address of `host`: as it stands, from /etc/hosts, or asked of the name server."""
    if is_address(host):
        return host
    listed = _from_hosts_file(host)
    if listed:
        return listed
    server = _name_server()
    answer = _ask(host, server)
    code = answer[3] & 0x0F
    address = _first_address(answer) if code == 0 else None
    if address:
        return address
    reason = "server misbehaving" if code == 2 else "no such host"
    raise LookupFailed(f"lookup {host} on {server}:53: {reason}")
