"""Connections to AWS's names: ended where the machine behind one is gone without a word."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from lab.cloud.tlsfront import TlsFront, server_context
from tests.lab.agent_world import make_certificate

TCP_REPAIR = 19  # linux/tcp.h: while it is set, a close sends nothing


@pytest.mark.lab  # the option is root's
def test_the_connection_of_a_machine_that_lost_its_power_is_ended(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as cloud, socket.create_server(("127.0.0.1", 0)) as front:
        plain = socket.create_connection(front.getsockname())
        front_side = front.accept()[0]
        serving = threading.Thread(
            target=TlsFront(f"http://127.0.0.1:{cloud.getsockname()[1]}").serve,
            args=("ssmmessages", front_side, server_context(certificate, key)),
        )
        serving.start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        machine = context.wrap_socket(plain)
        upstream = cloud.accept()[0]
        with upstream:
            upstream.settimeout(60)
            # Nothing may be left to be acknowledged: that would be answered that nobody is there.
            machine.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            for one, other in ((machine, upstream), (upstream, machine)):
                one.sendall(b"x")
                assert other.recv(1) == b"x"
            machine.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            machine.close()
            assert upstream.recv(1) == b""
        serving.join(60)
        assert not serving.is_alive()
