"""SSH as a Transport: one verified connection to one host, scripts as root over it.

The only package that imports paramiko.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import paramiko

from haltuun import jobs
from haltuun.config import SshConfig
from haltuun.envelope import Frame, Mode, errors_nonce, host_script, new_nonce, wrap
from haltuun.errors import CommandTimeout, ConnectionLost, NoSudo
from haltuun.ssh.channel import DeadlinePassed, Spoken, converse, cut_off_after
from haltuun.ssh.door import Connection, Door, NoShell, login_memory
from haltuun.ssh.handshake import Endpoint, Memory, trusting_none_new
from haltuun.ssh.keys import Login, load_key, load_keys
from haltuun.ssh.userconfig import Said, ask
from haltuun.transport import Result

__all__ = [
    "Endpoint",
    "Memory",
    "NoShell",
    "Said",
    "SshTransport",
    "ask",
    "load_key",
    "load_keys",
    "log_in",
    "open_ssh",
    "remembered_login",
]

ROOT_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 8.0
# Single quotes, no "!" and no newline: every login shell takes it alike, csh and fish too. The text
# comes over stdin, because arguments show in `ps` and end at 128 KiB (MAX_ARG_STRLEN).
_AS_ROOT = """exec /bin/sh -c 'eval "$(cat)"'"""
_BY_SUDO = """exec env LC_ALL=C sudo -n /bin/sh -c 'eval "$(cat)"'"""
# For a sudo that wants a terminal. Raw, because a cooked one echoes, and cuts lines at 4096 bytes;
# a raw one has no end of input, so the length is said.
_BY_SUDO_TTY = (
    "exec /bin/sh -c 'stty raw -echo; printf %s-ready {nonce}; "
    'exec env LC_ALL=C sudo -n /bin/sh -c "eval \\"\\$(head -c {length})\\""\''
)
# The server itself as root, and not sshd's subsystem: that one is the login's, and could not write into a
# root-only folder. Debian and Ubuntu, Red Hat and Amazon Linux, SUSE; none: 127 and the end of the stream.
_SFTP = (
    "umask 077; for server in /usr/lib/openssh /usr/libexec/openssh /usr/lib/ssh; do"
    " test -x $server/sftp-server && exec $server/sftp-server; done; exit 127"
)
_SFTP_AS_ROOT = f"exec /bin/sh -c '{_SFTP}'"
_SFTP_BY_SUDO = f"exec env LC_ALL=C sudo -n /bin/sh -c '{_SFTP}'"
# One chunk of a file in one script; the host's shell holds it in memory a few times.
_CHUNK_BYTES = 1_000_000


def open_ssh(
    endpoint: Endpoint, ssh: SshConfig, memory: Memory, run_id: str, bastion: Endpoint | None = None
) -> SshTransport:
    """Logged in to `endpoint`, root at hand.

    Raises:
        ConfigError: a key file or known_hosts cannot be used.
        Unreachable: one of its subclasses.
    """
    through = Door(bastion, ssh, memory, run_id) if bastion else None
    return SshTransport(Door(endpoint, ssh, memory, run_id, through))


def log_in(
    endpoint: Endpoint, ssh: SshConfig, memory: Memory, run_id: str, bastion: Endpoint | None = None
) -> str:
    """Log in and leave: no command is run, and no host key is trusted that was not before.

    Returns `user with key`.

    Raises:
        ConfigError, Unreachable: as open_ssh, apart from what needs a shell or root.
    """
    through = Door(bastion, trusting_none_new(bastion, ssh, memory), memory, run_id) if bastion else None
    door = Door(endpoint, trusting_none_new(endpoint, ssh, memory), memory, run_id, through)
    connection = door.enter(lambda connection: None)
    connection.close()
    return f"{connection.login.user} with {connection.login.name}"


def remembered_login(memory: Memory, endpoint_id: str) -> bool:
    """Whether a login to the endpoint worked before."""
    return memory.recall(login_memory(endpoint_id)) is not None


class SshTransport:
    """See transport.Transport. `legacy`: the host knows only SHA-1 signatures (OpenSSH before 7.2)."""

    way = "ssh"

    def __init__(self, door: Door) -> None:
        self._door = door
        self._label = door.endpoint.label
        self._tty = False
        self._noisy = False  # the login shell prints of its own: nothing binary comes through it
        self._connection: Connection = door.enter(self._become_root)

    @property
    def legacy(self) -> bool:
        return self._connection.legacy

    @property
    def user(self) -> str:
        return self._connection.login.user

    def run(self, script: str, *, timeout_s: float, env: Mapping[str, str] | None = None) -> Result:
        return self._run(self._connection, script, timeout_s, env)

    def run_job(
        self,
        job_id: str,
        script: str,
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        before_start: Callable[[], None] | None = None,
    ) -> Result:
        job = jobs.Job(job_id, script, env=env or {}, files=files or {}, chunk_bytes=_CHUNK_BYTES)
        return jobs.run_job(
            job,
            self.run,
            self._again,
            timeout_s=timeout_s,
            subject=self._label,
            put=self._put,
            before_start=before_start,
        )

    def close(self) -> None:
        self._connection.close()

    # -- below -----------------------------------------------------------------------------

    def _again(self) -> None:
        """A new connection, with the login that worked: no other key is offered."""
        login: Login = self._connection.login
        self._connection.close()
        self._connection = self._door.enter(self._become_root, only=login)

    def _become_root(self, connection: Connection) -> None:
        """Raises NoSudo or NoShell."""
        try:
            result = self._run(connection, "id -u", ROOT_TIMEOUT_S, None)
        except _WantsTerminal:
            self._tty = True
            result = self._run(connection, "id -u", ROOT_TIMEOUT_S, None)
        uid = result.stdout.strip()
        if uid != "0":
            raise self._no_sudo(connection.login.user, f"the user id is {uid or 'not said'}")

    def _run(
        self, connection: Connection, script: str, timeout_s: float, env: Mapping[str, str] | None
    ) -> Result:
        deadline = time.monotonic() + timeout_s
        nonce = new_nonce()
        tty = self._tty and connection.login.user != "root"
        out, err = Frame(nonce), Frame(errors_nonce(nonce) if tty else nonce)
        text = wrap(script, nonce, env, Mode.merged if tty else Mode.plain).encode()
        try:
            with cut_off_after(connection.client, timeout_s), _session(connection, timeout_s) as channel:
                if tty:
                    channel.get_pty(width=200)
                channel.exec_command(_command(connection.login.user, tty, nonce, len(text)))
                if tty:
                    self._wait_ready(connection, channel, nonce, deadline)
                spoken = converse(connection.client, channel, text, out, err, deadline, merged=tty)
        except paramiko.ChannelException as error:
            raise NoShell(
                f"the server opens no session ({error.text}).",
                subject=self._label,
                remedy="See MaxSessions and the account's restrictions in sshd_config and authorized_keys.",
            ) from error
        except (DeadlinePassed, paramiko.SSHException, EOFError, OSError) as error:
            if time.monotonic() < deadline:
                raise self._lost() from error
            raise self._late(timeout_s) from error
        finally:
            if time.monotonic() >= deadline and not out.ended:
                self._stop(connection, out)
        return self._result(connection.login.user, spoken, out, err)

    def _put(self, path: str, data: bytes, *, timeout_s: float) -> bool:
        """Write a file over SFTP as root; False where that is not to be had, whatever the reason.

        Scripts carry it then, and say what is wrong if they cannot either.

        Raises:
            ConnectionLost, CommandTimeout.
        """
        if self._tty or self._noisy:
            return False
        connection, deadline = self._connection, time.monotonic() + timeout_s
        try:
            with cut_off_after(connection.client, timeout_s), _session(connection, timeout_s) as channel:
                channel.settimeout(timeout_s)
                channel.exec_command(_SFTP_AS_ROOT if connection.login.user == "root" else _SFTP_BY_SUDO)
                paramiko.SFTPClient(channel).putfo(io.BytesIO(data), path)
        except (paramiko.SSHException, EOFError, OSError) as error:
            if time.monotonic() >= deadline:
                raise self._late(timeout_s) from error
            if not connection.client.is_active():
                raise self._lost() from error
            return False
        return True

    def _wait_ready(
        self, connection: Connection, channel: paramiko.Channel, nonce: str, deadline: float
    ) -> None:
        heard = b""
        ready = f"{nonce}-ready".encode()
        while not heard.endswith(ready):
            channel.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                # One byte: what follows is the conversation's.
                byte = channel.recv(1)
            except TimeoutError as error:
                raise DeadlinePassed from error
            if not byte:
                raise NoShell(
                    f"the account {connection.login.user} runs no shell: {_said(heard)}.",
                    subject=self._label,
                    remedy="Name another user for the host.",
                )
            heard = (heard + byte)[-400:]

    def _result(self, user: str, spoken: Spoken, out: Frame, err: Frame) -> Result:
        if spoken.lost:
            raise self._lost()
        if not out.begun:
            raise self._refusal(user, out.noise + b"\n" + err.noise)
        self._noisy = bool(out.noise.strip())
        code = out.exit_code if out.exit_code is not None else spoken.exit_status
        return Result(
            exit_code=code,
            stdout=out.text,
            stderr=err.text,
            truncated=out.cut or err.cut,
        )

    def _late(self, timeout_s: float) -> CommandTimeout:
        return CommandTimeout(
            f"a command is not over after {timeout_s:g} s.",
            subject=self._label,
            remedy="The host is overloaded or a disk hangs: look at it, then retry.",
        )

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(
            "the connection broke in the middle of a command.",
            subject=self._label,
            remedy="Retry; if it breaks again, see sshd's log and the host's load.",
        )

    def _refusal(self, user: str, said: bytes) -> NoSudo | NoShell:
        text = said.decode("utf-8", "replace")
        if user != "root" and "you must have a tty to run sudo" in text and not self._tty:
            return _WantsTerminal("sudo wants a terminal.", subject=self._label)
        if user != "root" and "sudo" in text:
            return self._no_sudo(user, _said(said))
        return NoShell(
            f"logged in as {user}, but the account runs no shell: {_said(said)}.",
            subject=self._label,
            remedy="Name another user for the host (hosts: <id>: user).",
        )

    def _no_sudo(self, user: str, why: str) -> NoSudo:
        return NoSudo(
            f"logged in as {user}, but sudo is refused: {why}.",
            subject=self._label,
            remedy=f"Allow '{user} ALL=(ALL) NOPASSWD: ALL' in sudoers, or name a user who may.",
        )

    def _stop(self, connection: Connection, out: Frame) -> None:
        """End what the command left on the host: without a terminal, sshd does not."""
        if out.pid is None or self._tty or not connection.client.is_active():
            return
        nonce = new_nonce()
        script = host_script("stop.sh")
        text = wrap(script, nonce, {"haltuun_pid": str(out.pid)}).encode()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        with (
            suppress(paramiko.SSHException, EOFError, OSError, DeadlinePassed),
            cut_off_after(connection.client, STOP_TIMEOUT_S),
            _session(connection, STOP_TIMEOUT_S) as channel,
        ):
            channel.exec_command(_command(connection.login.user, False, nonce, len(text)))
            converse(connection.client, channel, text, Frame(nonce), Frame(nonce), deadline)


class _WantsTerminal(NoSudo):
    pass


@contextmanager
def _session(connection: Connection, timeout_s: float) -> Iterator[paramiko.Channel]:
    channel = connection.client.open_session(timeout=timeout_s)
    try:
        yield channel
    finally:
        with suppress(paramiko.SSHException, EOFError, OSError):
            channel.close()


def _command(user: str, tty: bool, nonce: str, length: int) -> str:
    if user == "root":
        return _AS_ROOT
    return _BY_SUDO_TTY.format(nonce=nonce, length=length) if tty else _BY_SUDO


def _said(noise: bytes) -> str:
    """The last line with words in it, fit for a sentence."""
    lines = [line.strip() for line in noise.decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines:
        return "it said nothing"
    last = next((line for line in reversed(lines) if "sudo" in line), lines[-1])
    return "".join(char for char in last if char.isprintable())[:200].rstrip(".")
