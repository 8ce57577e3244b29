"""The envelope around scripts, and known_hosts: pure, so without a server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haltuun.envelope import Frame, Mode, assignments, errors_nonce, wrap
from haltuun.hostkeys import HostKey, KnownHosts, Trust, prefer

NONCE = "0123456789abcdef0123456789abcdef"
BEGIN, END = f"--haltuun-{NONCE} begin ".encode(), f"\n--haltuun-{NONCE} end ".encode()
# Likely to collide with the marks.
PIECES = st.lists(
    st.sampled_from([b"\n", b"--haltuun-", b" begin 1\n", b" end 0\n", NONCE.encode()[:31], b"\xff\x00"])
    | st.binary(max_size=40),
    max_size=20,
).map(b"".join)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@given(noise=PIECES, body=PIECES, after=PIECES, code=st.integers(0, 255), cuts=st.lists(st.integers(0, 5000)))
def test_whatever_the_noise_and_the_pieces_the_body_comes_back(
    noise: bytes, body: bytes, after: bytes, code: int, cuts: list[int]
) -> None:
    stream = (
        noise
        + f"--haltuun-{NONCE} begin 123\n".encode()
        + body
        + f"\n--haltuun-{NONCE} end {code}\n".encode()
        + after
    )
    frame = Frame(NONCE)
    for piece in pieces(stream, cuts):
        frame.feed(piece)
    assert (frame.body, frame.exit_code, frame.pid, frame.cut) == (body, code, 123, False)
    assert noise.endswith(frame.noise)


@given(body=PIECES, limit=st.integers(0, 60), cuts=st.lists(st.integers(0, 5000)))
def test_a_stream_that_breaks_off_keeps_what_came(body: bytes, limit: int, cuts: list[int]) -> None:
    frame = Frame(NONCE, limit)
    for piece in pieces(f"--haltuun-{NONCE} begin 1\n".encode() + body, cuts):
        frame.feed(piece)
    frame.finish()
    assert not frame.ended
    assert frame.body == body[:limit]
    assert frame.cut == (len(body) > limit)


@pytest.mark.parametrize(
    ("before", "begun", "exit_code"),
    [
        (b"", False, None),
        (BEGIN, False, None),
        (BEGIN + b"1\nx", True, None),
        (BEGIN + b"1\nx" + END, True, -1),
    ],
    ids=["noise", "a mark that begins", "the body", "a mark that ends"],
)
def test_what_never_ends_its_line_takes_no_room(before: bytes, begun: bool, exit_code: int | None) -> None:
    """A host knows the nonce: it may begin a mark and go on for gigabytes."""
    frame, piece = Frame(NONCE, limit=1000), b"7" * 65536
    tracemalloc.start()
    try:
        frame.feed(before)
        for _ in range(256):
            frame.feed(piece)
        frame.finish()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * len(piece)
    assert (frame.begun, frame.exit_code) == (begun, exit_code)


@pytest.mark.parametrize("number", [b"", b"-1", b"0x1", b"7" * 5000, b"256 more"])
def test_a_number_that_is_none_ends_nothing_else(number: bytes) -> None:
    frame = Frame(NONCE)
    frame.feed(BEGIN + number + b"\nx" + END + number + b"\n")
    assert (frame.body, frame.exit_code) == (b"x", -1)
    assert frame.pid is None or number.split()[0] == b"256"


@given(noise=PIECES)
def test_noise_alone_is_no_answer(noise: bytes) -> None:
    frame = Frame(NONCE)
    frame.feed(noise)
    frame.finish()
    assert not frame.begun
    assert frame.noise == noise[-4000:]


@pytest.mark.parametrize("shell", [["dash"], ["bash", "--posix"], ["busybox", "sh"], ["mksh"]])
@pytest.mark.parametrize("mode", list(Mode))
def test_the_envelope_under_every_shell(shell: list[str], mode: Mode) -> None:
    script = "printf 'a\\nb'; cat; echo \"$WORD\" >&2; (exit 6)"
    text = wrap(script, NONCE, {"WORD": "it's"}, mode)
    done = subprocess.run([*shell, "-c", 'eval "$(cat)"'], input=text.encode(), capture_output=True)
    out, err = Frame(NONCE), Frame(errors_nonce(NONCE) if mode is Mode.merged else NONCE)
    out.feed(done.stdout)
    err.feed(done.stdout if mode is Mode.merged else done.stderr)
    body = out.body
    if out.packed:
        body = subprocess.run(["gzip", "-dc"], input=base64.b64decode(body), capture_output=True).stdout
    assert (body, err.text.strip(), out.exit_code, done.returncode) == (b"a\nb", "it's", 6, 6)
    assert out.packed == (mode is Mode.packed)


def test_only_names_are_assigned() -> None:
    with pytest.raises(ValueError, match="not a name"):
        assignments({"A;rm -rf": "x"})


# -- known_hosts ---------------------------------------------------------------------------

KEY = HostKey(algorithm="ssh-ed25519", blob=b"\0\0\0\x0bssh-ed25519" + bytes(36))
OTHER = HostKey(algorithm="ssh-rsa", blob=b"\0\0\0\x07ssh-rsa" + bytes(36))


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    ("entry", "port", "trust"),
    [
        (f"10.0.0.5 {KEY.line} comment", 22, Trust.known),
        (f"web,10.0.0.5 {KEY.line}", 22, Trust.known),
        (f"[10.0.0.5]:2205 {KEY.line}", 2205, Trust.known),
        (f"[10.0.0.5]:2205 {KEY.line}", 22, Trust.unknown),
        (f"10.0.0.5 {KEY.line}", 2205, Trust.known),
        (f"10.0.0.5 {OTHER.line}", 2205, Trust.unknown),
        (f"{hashed('10.0.0.5')} {KEY.line}", 22, Trust.known),
        (f"{hashed('[10.0.0.5]:2205')} {KEY.line}", 2205, Trust.known),
        (f"10.0.0.* {KEY.line}", 22, Trust.known),
        (f"10.0.0.*,!10.0.0.5 {KEY.line}", 22, Trust.unknown),
        (f"10.0.0.5 {OTHER.line}", 22, Trust.changed),
        (f"10.0.0.5 {OTHER.line}\n10.0.0.5 {KEY.line}", 22, Trust.known),
        (f"@revoked 10.0.0.5 {KEY.line}\n10.0.0.5 {KEY.line}", 22, Trust.revoked),
        (f"@cert-authority * {KEY.line}", 22, Trust.unknown),
        (f"# 10.0.0.5 {KEY.line}", 22, Trust.unknown),
        ("10.0.0.5 ssh-ed25519 ???", 22, Trust.unknown),
        ("", 22, Trust.unknown),
    ],
)
def test_what_known_hosts_says(entry: str, port: int, trust: Trust) -> None:
    assert KnownHosts(entry + "\n").judge("10.0.0.5", port, KEY) is trust


@given(st.text())
def test_no_text_breaks_known_hosts(text: str) -> None:
    KnownHosts(text).judge("10.0.0.5", 22, KEY)


def test_algorithms_of_known_keys_are_asked_for_first() -> None:
    offered = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")
    assert prefer(offered, ["ssh-rsa"])[:3] == ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")
    assert prefer(offered, []) == offered
