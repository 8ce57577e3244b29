"""The binary frames of the control channel.

Facts from aws/amazon-ssm-agent, agent/session/contracts/agentmessage.go at commit 9f17bfd (names of messages:
model.go there, 3f309df): numbers are big-endian, the type is padded (the agent with blanks, to 31 of its 32
bytes; zero bytes are trimmed too), the halves of the message's UUID change places, and the payload begins
HeaderLength + 4 bytes into the frame.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

JOB, JOB_ACK = "agent_job", "agent_job_ack"
JOB_REPLY, JOB_REPLY_ACK = "agent_job_reply", "agent_job_reply_ack"

# HeaderLength, MessageType, SchemaVersion, CreatedDate, SequenceNumber, Flags, MessageId, PayloadDigest,
# PayloadType; PayloadLength follows, and is not counted by HeaderLength.
_HEADER = struct.Struct(">I32sIQqQ16s32sI")
_LENGTH = struct.Struct(">I")
TYPE_LENGTH = 31


class NotAMessage(ValueError):
    """The bytes are no frame of the control channel."""


def _now_ms() -> int:
    return int(time.time() * 1000)


def _swapped(half_and_half: bytes) -> bytes:
    return half_and_half[8:] + half_and_half[:8]


@dataclass(frozen=True)
class AgentMessage:
    """One frame; `created_ms` is the epoch in milliseconds."""

    type: str
    payload: bytes
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    created_ms: int = field(default_factory=_now_ms)
    schema_version: int = 1
    sequence_number: int = 0
    flags: int = 0
    payload_type: int = 0

    def pack(self) -> bytes:
        """The frame's bytes."""
        header = _HEADER.pack(
            _HEADER.size,
            self.type.encode().ljust(TYPE_LENGTH),
            self.schema_version,
            self.created_ms,
            self.sequence_number,
            self.flags,
            _swapped(self.id.bytes),
            hashlib.sha256(self.payload).digest(),
            self.payload_type,
        )
        return header + _LENGTH.pack(len(self.payload)) + self.payload

    def content(self) -> dict[str, Any]:
        """The payload, which is a JSON object in every message of the control channel."""
        try:
            found = json.loads(self.payload)
        except ValueError as error:
            raise NotAMessage(f"the payload of {self.type} is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise NotAMessage(f"the payload of {self.type} is no JSON object")
        return found


def unpack(data: bytes) -> AgentMessage:
    """The message in a frame; NotAMessage where the agent's Validate, or a digest, would refuse it."""
    if len(data) < _HEADER.size + _LENGTH.size:
        raise NotAMessage(f"{len(data)} bytes are shorter than a header")
    header = _HEADER.unpack_from(data)
    length, kind, schema, created, sequence, flags, message_id, digest, payload_type = header
    (payload_length,) = _LENGTH.unpack_from(data, _HEADER.size)
    payload = data[length + _LENGTH.size :]
    name = kind.strip(b"\0").decode("utf-8", "replace").strip()
    if not length or not name or not created:
        raise NotAMessage("header length, type or date is missing")
    if len(payload) != payload_length or hashlib.sha256(payload).digest() != digest:
        raise NotAMessage(f"the payload of {name} is not what its header says")
    message_uuid = uuid.UUID(bytes=_swapped(message_id))
    return AgentMessage(name, payload, message_uuid, created, schema, sequence, flags, payload_type)


def message_of(kind: str, content: dict[str, Any]) -> AgentMessage:
    """A new message with a JSON payload."""
    return AgentMessage(kind, json.dumps(content).encode())
