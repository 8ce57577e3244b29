"""The VPC resolver of one host: AWS's names of the lab's services, private host names, nothing else."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Mapping

TYPE_A, CLASS_IN = 1, 1
NO_ERROR, FORMAT_ERROR, NAME_ERROR = 0, 1, 3
TTL_S = 5
SERVICE_NAME = re.compile(
    r"^(?:[a-z0-9.-]+\.)?(?P<service>[a-z0-9]+)\.(?P<region>[a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com$"
)
GLOBAL_NAME = re.compile(r"^(?:[a-z0-9.-]+\.)?(?P<service>s3|sts|ec2)\.amazonaws\.com$")
PRIVATE_NAME = re.compile(r"^ip-(?P<address>\d+-\d+-\d+-\d+)\.(?:[a-z0-9-]+\.compute|ec2)\.internal$")


def address_of(name: str, services: Mapping[str, str]) -> str | None:
    """IPv4 address of a name; only S3 has names below its own."""
    name = name.rstrip(".").lower()
    found = SERVICE_NAME.match(name) or GLOBAL_NAME.match(name)
    if found:
        plain = name.startswith(f"{found['service']}.")
        return services.get(found["service"]) if plain or found["service"] == "s3" else None
    private = PRIVATE_NAME.match(name)
    return private["address"].replace("-", ".") if private else None


def _question(message: bytes) -> tuple[str, int, int]:
    """(name, type, end of the question section)."""
    labels, offset = [], 12
    while message[offset]:
        length = message[offset]
        if length > 63:
            raise ValueError("a compressed name in a question")
        labels.append(message[offset + 1 : offset + 1 + length].decode("ascii"))
        offset += 1 + length
    kind, _ = struct.unpack(">HH", message[offset + 1 : offset + 5])
    return ".".join(labels), kind, offset + 5


def answer_to(message: bytes, services: Mapping[str, str]) -> bytes | None:
    """The answer to one query; None for what is no query at all."""
    if len(message) < 12:
        return None
    number, flags = struct.unpack(">HH", message[:4])
    if flags & 0x8000:
        return None
    try:
        name, kind, end = _question(message)
    except (IndexError, ValueError, struct.error):
        return struct.pack(">HHHHHH", number, 0x8180 | FORMAT_ERROR, 0, 0, 0, 0)
    address = address_of(name, services)
    code = NO_ERROR if address else NAME_ERROR
    records = b""
    if address and kind == TYPE_A:
        records = struct.pack(">HHHIH", 0xC00C, TYPE_A, CLASS_IN, TTL_S, 4) + socket.inet_aton(address)
    head = struct.pack(">HHHHHH", number, 0x8180 | code, 1, 1 if records else 0, 0, 0)
    return head + message[12:end] + records
