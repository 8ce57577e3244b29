"""Logging in to one endpoint: the users and keys in their order, and no more offers than allowed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import paramiko

from haltuun.config import SshConfig
from haltuun.errors import (
    AuthRefused,
    BannerTimeout,
    CommandTimeout,
    ConnectionClosed,
    ConnectionLost,
    NoSudo,
    Unreachable,
)
from haltuun.ssh.handshake import AUTH_TIMEOUT_S, SHA2, Client, Endpoint, Memory, handshake
from haltuun.ssh.keys import Login, likeliest_first, load_keys


class NoShell(Unreachable):
    """Logged in, but the account runs no shell."""

    code = "NO_SHELL"


def login_memory(endpoint_id: str) -> str:
    """The name under which the login that worked is remembered."""
    return f"ssh.login/{endpoint_id}"


@dataclass
class Connection:
    """One connection, whom it logs in, and the bastion that it goes through."""

    client: Client
    login: Login
    legacy: bool  # only SHA-1 signatures: the server's key or the login
    bastion: Connection | None = None

    def close(self) -> None:
        self.client.close()
        if self.bastion is not None:
            self.bastion.close()


class Door:
    """Logs in to one endpoint; refused offers are counted for all of a run, in `memory`."""

    def __init__(
        self, endpoint: Endpoint, ssh: SshConfig, memory: Memory, run_id: str, bastion: Door | None = None
    ) -> None:
        self.endpoint = endpoint
        self.ssh = ssh
        self.memory = memory
        self.bastion = bastion
        # In the ledger, so that a run which is killed and taken up again does not count anew.
        self._refused_key = f"ssh.refused/{run_id}/{endpoint.id}"
        self._login_key = login_memory(endpoint.id)

    def enter(self, accept: Callable[[Connection], None], only: Login | None = None) -> Connection:
        """A connection that is logged in and that `accept` raises nothing for.

        Raises:
            Unreachable: or a subclass; of several refusals the one that got furthest.
        """
        connection: Connection | None = None
        furthest: Unreachable | None = None
        useless: set[str] = set()
        tried: list[str] = []
        offered = broken = False  # on this connection; on an earlier one, before it had an answer
        logins = deque([only] if only else self._logins())
        while logins:
            login = logins.popleft()
            if login.user in useless:
                continue
            if self._refused() >= self.ssh.max_attempts:
                break
            # sshd ends a connection on which the user changes.
            if connection and (connection.login.user != login.user or not connection.client.is_active()):
                connection.close()
                connection = None
            if connection is None:
                connection, offered = self._knock(login), False
                if not self._takes_keys(connection):
                    useless.add(login.user)
                    connection.close()
                    connection = None
                    continue
            connection.login = login
            refused = self._refused()
            if not self._offer(connection):
                # paramiko calls an end of the connection a refusal, too. sshd ends it as a refusal only
                # after several offers, or again and again where one is enough for it (MaxAuthTries).
                if not offered and not broken and not connection.client.is_active():
                    broken = True
                    self.memory.remember(self._refused_key, str(refused))
                    logins.appendleft(login)
                    continue
                if only is not None and not connection.client.is_active():
                    # This login worked before.
                    raise ConnectionLost(
                        "the connection broke while logging in.",
                        subject=self.endpoint.label,
                        remedy="Retry; if it breaks again, see sshd's log and the host's load.",
                    )
                offered = True
                tried.append(f"{login.user} with {login.name}")
                continue
            try:
                accept(connection)
            except (NoSudo, NoShell, ConnectionLost, CommandTimeout) as error:
                furthest = error
                useless.add(login.user)
                connection.close()
                connection = None
                continue
            except BaseException:
                connection.close()
                raise
            if self.memory.recall(self._login_key) != login.id:
                self.memory.remember(self._login_key, login.id)
            return connection
        if connection is not None:
            connection.close()
        raise furthest or self._nobody(tried)

    def _logins(self) -> list[Login]:
        endpoint = self.endpoint
        last = self.memory.recall(self._login_key)
        logins = likeliest_first(
            endpoint.users, load_keys(self.ssh, endpoint.key_files), last=last, hint=endpoint.key_hint
        )
        if not logins:
            raise AuthRefused(
                "there is no key to log in with: no 'key_files' are configured and ssh-agent holds none.",
                subject=endpoint.label,
                remedy="Name the key pair's file in ssh.key_files, or load it with ssh-add.",
            )
        return logins

    def _refused(self) -> int:
        return int(self.memory.recall(self._refused_key) or 0)

    def _nobody(self, tried: Sequence[str]) -> AuthRefused:
        if tried:
            message = f"no key opens it; refused: {', '.join(tried)}."
        elif self._refused() >= self.ssh.max_attempts:
            message = f"{self._refused()} offers were refused in this run, no more are made (max_attempts)."
        else:
            message = "the server takes no keys (publickey is not among its methods)."
        return AuthRefused(
            message,
            subject=self.endpoint.label,
            remedy="Add the right key file or user under ssh (or hosts: <id>: user), or raise max_attempts.",
        )

    def _knock(self, login: Login) -> Connection:
        bastion = self.bastion.enter(lambda connection: None) if self.bastion else None
        try:
            client = handshake(self.endpoint, self.ssh, self.memory, bastion.client if bastion else None)
        except BaseException:
            if bastion is not None:
                bastion.close()
            raise
        return Connection(client, login, legacy=client.host_key_type == "ssh-rsa", bastion=bastion)

    def _takes_keys(self, connection: Connection) -> bool:
        """Whether keys are taken from the user; asking also brings the server's signature algorithms."""
        try:
            connection.client.auth_none(connection.login.user)
        except paramiko.BadAuthenticationType as error:
            return "publickey" in error.allowed_types
        except (paramiko.SSHException, EOFError, OSError) as error:
            connection.close()
            raise self._cut_off(error) from error
        return True

    def _offer(self, connection: Connection) -> bool:
        client = connection.client
        if client.is_authenticated():
            return True
        signatures = client.signature_algorithms
        rsa = connection.login.key.get_name() == "ssh-rsa"
        # Both signs at once leave no doubt, and an offer is saved. They are the server's own word:
        # its key is verified, and the exchange is signed with it.
        if rsa and client.ancient and signatures is None:
            return self._offer_once(connection, sha1=True)
        if self._offer_once(connection, sha1=False):
            return True
        may = signatures is None or (client.ancient and "ssh-rsa" in signatures)
        if not rsa or not may or not client.is_active() or self._refused() >= self.ssh.max_attempts:
            return False
        return self._offer_once(connection, sha1=True)

    def _offer_once(self, connection: Connection, *, sha1: bool) -> bool:
        client, login = connection.client, connection.login
        client.disabled_algorithms = {"pubkeys": SHA2} if sha1 else {}
        started = time.monotonic()
        try:
            missing = client.auth_publickey(login.user, login.key)
        except paramiko.AuthenticationException:
            missing = ["publickey"]
        except (paramiko.SSHException, EOFError, OSError) as error:
            connection.close()
            raise self._cut_off(error) from error
        if not missing:
            connection.legacy = connection.legacy or sha1
            return True
        self.memory.remember(self._refused_key, str(self._refused() + 1))
        if time.monotonic() - started >= AUTH_TIMEOUT_S:
            connection.close()
            raise BannerTimeout(
                f"sshd does not answer to a key within {AUTH_TIMEOUT_S:g} s.",
                subject=self.endpoint.label,
                remedy="The machine hangs, or waits for a name server or directory: see its console output.",
            )
        return False

    def _cut_off(self, error: Exception) -> Unreachable:
        return ConnectionClosed(
            f"the connection ends while logging in ({error or type(error).__name__}).",
            subject=self.endpoint.label,
            remedy="See sshd's log on the host.",
        )
