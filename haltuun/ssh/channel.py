"""One command over a connection: bytes in, frames out, and a deadline on every read and write."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import paramiko

from haltuun.envelope import Frame

_CHUNK = 32_768
# Room in the channel's window cannot be waited for, only looked at again.
_LOOK_AGAIN_S = 0.02
# After the connection's thread ended, or sshd said goodbye, what is still on its way.
_GOODBYE_S = 2.0


class DeadlinePassed(Exception):
    pass


@contextmanager
def cut_off_after(client: paramiko.Transport, timeout_s: float) -> Iterator[None]:
    """Closes the connection a second after the deadline.

    paramiko waits without end for an answer to a request, and for a socket that takes no more.
    """
    timer = threading.Timer(timeout_s + 1, client.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass
class Spoken:
    """How a command ended. `lost`: it did not, the connection did."""

    lost: bool
    exit_status: int  # -1: a signal ended it


def converse(
    client: paramiko.Transport,
    channel: paramiko.Channel,
    text: bytes,
    out: Frame,
    err: Frame,
    deadline: float,
    *,
    merged: bool = False,
) -> Spoken:
    """Send `text`, read both streams until both frames are closed or the command ends.

    `merged`: over a terminal, which carries both in one and has no end of input. `deadline` counts by
    time.monotonic().

    Raises:
        DeadlinePassed: the channel is left open.
    """
    channel.settimeout(0.0)
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    unsent = memoryview(text)
    closed_input = False
    while True:
        if time.monotonic() >= deadline:
            raise DeadlinePassed
        moved = _read(channel, out, err, merged)
        if out.ended and err.ended:
            return Spoken(lost=False, exit_status=0)
        if unsent and channel.send_ready():
            try:
                sent = channel.send(bytes(unsent[:_CHUNK]))
            except (OSError, EOFError):
                # The other side closed; its last words are still to be read.
                sent, unsent = 0, unsent[:0]
            unsent = unsent[sent:]
            moved = True
        if not unsent and not closed_input and not merged:
            closed_input = True
            _close_input(channel)
        if moved:
            continue
        if channel.closed or (channel.eof_received and channel.exit_status_ready()):
            return _ended(client, channel, out, err, merged)
        remaining_s = max(0.0, deadline - time.monotonic())
        poll.poll(1000 * min(remaining_s, _LOOK_AGAIN_S if unsent else 1.0))


def _read(channel: paramiko.Channel, out: Frame, err: Frame, merged: bool) -> bool:
    moved = False
    if channel.recv_ready():
        data = channel.recv(_CHUNK)
        out.feed(data)
        if merged:
            err.feed(data)
        moved = True
    if channel.recv_stderr_ready():
        err.feed(channel.recv_stderr(_CHUNK))
        moved = True
    return moved


def _close_input(channel: paramiko.Channel) -> None:
    try:
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException):
        return  # already closed: the reads say what became of it


def _ended(
    client: paramiko.Transport, channel: paramiko.Channel, out: Frame, err: Frame, merged: bool
) -> Spoken:
    give_up = time.monotonic() + _GOODBYE_S
    # A closing channel and a closing connection look alike for a moment.
    while not channel.exit_status_ready() and client.is_active() and time.monotonic() < give_up:
        channel.status_event.wait(0.05)
    while _read(channel, out, err, merged):
        pass
    out.finish()
    err.finish()
    status = channel.exit_status
    lost = status == -1 and not client.is_active()
    if status == -1 and not lost:
        # sshd's child was killed together with its connection: the end of it comes a moment later.
        client.join(0.5)
        lost = not client.is_active()
    return Spoken(lost=lost, exit_status=status)
