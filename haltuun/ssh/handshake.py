"""From an address to a connection whose server is who it should be; nobody is logged in yet."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import paramiko

from haltuun.config import SshConfig
from haltuun.errors import (
    BannerTimeout,
    ConnectionClosed,
    ConnectionRefused,
    ConnectTimeout,
    HostKeyChanged,
    HostKeyUnknown,
    Unreachable,
)
from haltuun.hostkeys import HostKey, KnownHosts, Trust, known_name, prefer
from haltuun.ssh.keys import public_part

# Old hosts look the client's name up in a DNS that does not answer before they answer themselves.
AUTH_TIMEOUT_S = 30.0
# Keeps the state of firewalls and NAT gateways on the way (350 s of silence end it there).
KEEPALIVE_S = 15
# OpenSSH before 7.2 knows RSA signatures with SHA-1 only.
SHA2 = ("rsa-sha2-512", "rsa-sha2-256")

# Its ERROR records carry tracebacks of what is an expected outcome here.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class Memory(Protocol):
    """What is remembered between runs, by key."""

    def recall(self, key: str) -> str | None: ...

    def remember(self, key: str, value: str) -> None: ...


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens and who may get in."""

    id: str  # what it is remembered by: an instance id, never an address
    label: str
    address: str
    port: int
    users: tuple[str, ...]  # likeliest first
    key_hint: str | None = None  # EC2's KeyName
    key_files: tuple[Path, ...] = ()  # beside those that the configuration names, or the ssh-agent's


class Client(paramiko.Transport):
    """Keeps the server's list of host key algorithms, which tells its age."""

    offered_algorithms: tuple[str, ...] = ()
    server_extensions: dict[str, bytes]

    def _really_parse_kex_init(self, m: Any, ignore_first_byte: bool = False) -> dict[str, Any]:
        parsed: dict[str, Any] = super()._really_parse_kex_init(m, ignore_first_byte)  # type: ignore[misc]
        self.offered_algorithms = tuple(parsed["server_key_algo_list"])
        return parsed

    @property
    def ancient(self) -> bool:
        """The host key algorithms are those of OpenSSH before 7.2."""
        return "ssh-rsa" in self.offered_algorithms and not set(SHA2) & set(self.offered_algorithms)

    @property
    def signature_algorithms(self) -> tuple[str, ...] | None:
        """The server's server-sig-algs (RFC 8308), None where it sends none; complete after auth_none."""
        sent = self.server_extensions.get("server-sig-algs")
        return None if sent is None else tuple(bytes(sent).decode("ascii", "replace").split(","))


def handshake(endpoint: Endpoint, ssh: SshConfig, memory: Memory, bastion: Client | None) -> Client:
    """A connection over which the server has proved to hold a host key that is trusted.

    Raises:
        ConnectionRefused, ConnectTimeout, BannerTimeout, HostKeyUnknown, HostKeyChanged, Unreachable.
    """
    known = KnownHosts.read(ssh.known_hosts)
    remembered = _remembered_key(endpoint, ssh, memory)
    sock = _dial_through(endpoint, ssh, bastion) if bastion else _dial(endpoint, ssh)
    client: Client | None = None
    started = time.monotonic()
    try:
        client = Client(sock)
        client.banner_timeout = ssh.connect_timeout_s
        client.handshake_timeout = ssh.connect_timeout_s
        client.auth_timeout = AUTH_TIMEOUT_S
        options = client.get_security_options()
        algorithms = known.algorithms(endpoint.address, endpoint.port)
        if not algorithms and remembered:
            algorithms = (remembered.algorithm,)
        options.key_types = prefer(tuple(options.key_types), algorithms)
        client.start_client(timeout=2 * ssh.connect_timeout_s)
        # paramiko returns without a word when this timeout passes.
        if not client.initial_kex_done:
            raise EOFError
        _verify(endpoint, ssh, memory, known, remembered, public_part(client.get_remote_server_key()))
        client.set_keepalive(KEEPALIVE_S)
        return client
    except (paramiko.SSHException, EOFError, OSError) as error:
        _shut(client, sock)
        raise _no_handshake(endpoint, ssh, error, time.monotonic() - started) from error
    except BaseException:
        _shut(client, sock)
        raise


def _no_handshake(endpoint: Endpoint, ssh: SshConfig, error: Exception, took_s: float) -> Unreachable:
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return Unreachable(
            f"the server's algorithms are not supported ({error}).",
            subject=endpoint.label,
            remedy="It is very old or locked down: allow more in its sshd_config, or use Run Command.",
            code="SSH_INCOMPATIBLE",
        )
    # A margin for the clock: paramiko counts its timeouts in steps of a tenth of a second.
    if took_s >= 0.9 * ssh.connect_timeout_s:
        return BannerTimeout(
            f"the port opens, but sshd stays silent for {took_s:.0f} s.",
            subject=endpoint.label,
            remedy="The machine hangs or is out of memory: look at its console output; restart it.",
        )
    return ConnectionClosed(
        "the port opens, but the connection is closed before SSH begins.",
        subject=endpoint.label,
        remedy="See hosts.deny, MaxStartups and fail2ban on the host, or what else listens at that port.",
    )


def _dial(endpoint: Endpoint, ssh: SshConfig) -> socket.socket:
    where = known_name(endpoint.address, endpoint.port)
    try:
        return socket.create_connection((endpoint.address, endpoint.port), timeout=ssh.connect_timeout_s)
    except ConnectionRefusedError as error:
        raise ConnectionRefused(
            f"{where} refuses connections.",
            subject=endpoint.label,
            remedy="sshd does not run there or listens on another port: see ssh.port and the console output.",
        ) from error
    except TimeoutError as error:
        raise ConnectTimeout(
            f"{where} does not answer within {ssh.connect_timeout_s:g} s.",
            subject=endpoint.label,
            remedy="See the security group, the route and the VPN, or set ssh.bastion.",
        ) from error
    # A name that is none (a label of over 63 characters) fails in the codec, not in the network.
    except (OSError, UnicodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or error
        raise Unreachable(
            f"{where} cannot be reached ({why}).",
            subject=endpoint.label,
            remedy="See the address and the route to it, or set ssh.bastion.",
        ) from error


def _dial_through(endpoint: Endpoint, ssh: SshConfig, bastion: Client) -> paramiko.Channel:
    where = known_name(endpoint.address, endpoint.port)
    try:
        return bastion.open_channel(
            "direct-tcpip",
            (endpoint.address, endpoint.port),
            ("127.0.0.1", 0),
            timeout=ssh.connect_timeout_s,
        )
    except paramiko.ChannelException as error:
        # RFC 4254 §5.1: 1 is "administratively prohibited", 2 "connect failed".
        if error.code == 1:
            raise Unreachable(
                f"the bastion {ssh.bastion} does not forward connections.",
                subject=endpoint.label,
                remedy="Set AllowTcpForwarding (and PermitOpen) in the bastion's sshd_config.",
                code="BASTION_REFUSES",
            ) from error
        raise ConnectionRefused(
            f"the bastion {ssh.bastion} cannot connect to {where}.",
            subject=endpoint.label,
            remedy="See the security group, the route and sshd of the host, as seen from the bastion.",
        ) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise ConnectTimeout(
            f"{where} does not answer through the bastion {ssh.bastion}.",
            subject=endpoint.label,
            remedy="See the security group and the route between bastion and host.",
        ) from error


def _remembered_key(endpoint: Endpoint, ssh: SshConfig, memory: Memory) -> HostKey | None:
    if ssh.host_keys == "strict":
        return None
    return HostKey.from_line(memory.recall(_key_memory(endpoint)) or "")


def _key_memory(endpoint: Endpoint) -> str:
    """The name under which the host key of the first contact is remembered."""
    return f"ssh.host-key/{endpoint.id}"


def trusting_none_new(endpoint: Endpoint, ssh: SshConfig, memory: Memory) -> SshConfig:
    """`ssh` with which only a host key is accepted that is known already."""
    if memory.recall(_key_memory(endpoint)) is not None:
        return ssh
    return ssh.model_copy(update={"host_keys": "strict"})


def _verify(
    endpoint: Endpoint,
    ssh: SshConfig,
    memory: Memory,
    known: KnownHosts,
    remembered: HostKey | None,
    offered: HostKey,
) -> None:
    """Raises HostKeyChanged or HostKeyUnknown."""
    name, source = known_name(endpoint.address, endpoint.port), str(ssh.known_hosts)
    trust = known.judge(endpoint.address, endpoint.port, offered)
    if trust is Trust.unknown and ssh.host_keys == "trust-first":
        if remembered is None:
            memory.remember(_key_memory(endpoint), offered.line)
        trust = Trust.known if remembered in (None, offered) else Trust.changed
        source = "the ledger, from the first contact"
    if trust is Trust.known:
        return
    if trust is Trust.unknown:
        raise HostKeyUnknown(
            f"the host key of {name} is not known: {offered.algorithm} {offered.fingerprint}.",
            subject=endpoint.label,
            remedy=(
                f"Compare it with the instance's console output and add it to {source} (ssh-keyscan), "
                "or set ssh.host_keys: trust-first."
            ),
        )
    word = "revoked" if trust is Trust.revoked else "not the one that is known"
    raise HostKeyChanged(
        f"the host key of {name} is {word} ({source}): {offered.algorithm} {offered.fingerprint}.",
        subject=endpoint.label,
        remedy=(
            "Another machine may answer there: compare it with the instance's console output, and only if "
            "the host was rebuilt replace the old key."
        ),
    )


def _shut(client: Client | None, sock: socket.socket | paramiko.Channel) -> None:
    if client is not None:
        client.close()
    sock.close()
