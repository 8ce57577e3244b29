"""Logging in and running scripts, against real sshd on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import paramiko
import pytest

from haltuun.config import SshConfig
from haltuun.errors import (
    AuthRefused,
    BannerTimeout,
    CommandTimeout,
    ConfigError,
    ConnectionLost,
    ConnectionRefused,
    HostKeyChanged,
    HostKeyUnknown,
    NoSudo,
    Unreachable,
)
from haltuun.ssh import Endpoint, NoShell, load_keys, open_ssh
from haltuun.transport import MAX_OUTPUT_BYTES
from tests.sshd_fixtures import USERS, Book, Sshd, free_port, keygen, ssh_agent

pytestmark = pytest.mark.lab

LEGACY = (
    "HostKeyAlgorithms ssh-rsa",
    "PubkeyAcceptedAlgorithms ssh-rsa",
    "KexAlgorithms diffie-hellman-group14-sha1,diffie-hellman-group-exchange-sha1",
    "Ciphers aes128-ctr,aes128-cbc,3des-cbc",
    "MACs hmac-sha1",
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name, kind in (("acme.pem", "rsa"), ("other.pem", "ed25519"), ("third.pem", "ecdsa")):
        keygen(folder / name, kind, *(("-m", "PEM") if kind == "rsa" else ()))
        (folder / f"{name}.pub").rename((folder / name).with_suffix(".pub"))
    return folder


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd") / "a")
    server.allow(keys / "acme.pem", *USERS, "root")
    server.allow(keys / "other.pem", "forced", prefix='command="echo Please login as the user ubuntu" ')
    yield server.start()
    server.stop()


@pytest.fixture
def ssh(sshd: Sshd, keys: Path, tmp_path: Path) -> SshConfig:
    known = sshd.known_hosts(tmp_path / "known_hosts")
    return SshConfig(key_files=[keys / "acme.pem"], known_hosts=known, connect_timeout_s=20)


def with_(ssh: SshConfig, **changes: object) -> SshConfig:
    return ssh.model_copy(update=changes)


@pytest.mark.parametrize("user", ["ubuntu", "root", "busy", "seashell", "ttyonly"])
def test_runs_as_root_whatever_the_user_and_its_shell(sshd: Sshd, ssh: SshConfig, user: str) -> None:
    transport = sshd.connect(ssh, user)
    script = "id -u; printf '%s|' \"$ODD\"; cat; echo oops >&2; exit 3"
    result = transport.run(script, timeout_s=10, env={"ODD": "it's $HOME\n\"`x`"})
    transport.close()
    assert result.stdout == "0\nit's $HOME\n\"`x`|"
    assert result.stderr.strip() == "oops"
    assert (result.exit_code, result.truncated) == (3, False)


def test_what_a_login_shell_prints_is_not_the_scripts(sshd: Sshd, ssh: SshConfig) -> None:
    noisy = sshd.home("ubuntu") / ".bashrc"
    noisy.write_text("echo welcome to $HOSTNAME\necho disk almost full >&2\n")
    try:
        transport = sshd.connect(ssh)
        result = transport.run("printf fact; printf trouble >&2", timeout_s=10)
        transport.close()
    finally:
        noisy.unlink()
    assert (result.stdout, result.stderr, result.exit_code) == ("fact", "trouble", 0)


def test_a_script_with_a_syntax_error_is_a_result(sshd: Sshd, ssh: SshConfig) -> None:
    transport = sshd.connect(ssh)
    result = transport.run("echo ( ) ;;", timeout_s=10)
    transport.close()
    assert result.exit_code == 2
    assert "yntax error" in result.stderr


def test_the_script_stands_in_no_argument(sshd: Sshd, ssh: SshConfig) -> None:
    transport = sshd.connect(ssh)
    script = "tr '\\0' '\\n' </proc/[0-9]*/cmdline 2>/dev/null; cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"
    result = transport.run(script, timeout_s=10, env={"TOKEN": "very-secret-" + "token"})
    transport.close()
    assert "very-secret-token" not in result.stdout


@pytest.mark.parametrize("user", ["nosudo", "asked"])
def test_no_root_is_said(sshd: Sshd, ssh: SshConfig, user: str) -> None:
    with pytest.raises(NoSudo, match=f"as {user}, but sudo is refused: sudo: a password is required"):
        sshd.connect(ssh, user)


@pytest.mark.parametrize(("user", "said"), [("noshell", "currently not available"), ("caged", "restricted")])
def test_an_account_without_a_shell_is_said_and_the_next_user_tried(
    sshd: Sshd, ssh: SshConfig, user: str, said: str
) -> None:
    with pytest.raises(NoShell, match=said):
        sshd.connect(ssh, user)
    transport = sshd.connect(ssh, user, "nosudo", "admin")
    assert transport.user == "admin"
    transport.close()


def test_a_command_that_hangs_is_ended_on_the_host_too(sshd: Sshd, ssh: SshConfig) -> None:
    transport = sshd.connect(ssh)
    started = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"not over after 1 s"):
        transport.run("sleep 7771", timeout_s=1)
    assert time.monotonic() - started < 6
    left = transport.run("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '", timeout_s=10)
    transport.close()
    assert "sleep 7771" not in left.stdout


def test_endless_output_is_ended_at_the_deadline(sshd: Sshd, ssh: SshConfig) -> None:
    transport = sshd.connect(ssh)
    with pytest.raises(CommandTimeout):
        transport.run("while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done", timeout_s=1)
    transport.close()


def test_dripping_output_is_ended_at_the_deadline(sshd: Sshd, ssh: SshConfig) -> None:
    transport = sshd.connect(ssh)
    with pytest.raises(CommandTimeout):
        transport.run("while :; do echo y; sleep 0.1; done", timeout_s=1)
    transport.close()


def test_long_output_is_cut_and_said_to_be(sshd: Sshd, ssh: SshConfig) -> None:
    transport = sshd.connect(ssh)
    result = transport.run("head -c 3000000 /dev/zero | tr '\\0' x; exit 5", timeout_s=20)
    transport.close()
    assert len(result.stdout) == MAX_OUTPUT_BYTES
    assert (result.truncated, result.exit_code) == (True, 5)


def test_a_background_process_that_keeps_the_output_open_does_not_hold_the_result(
    sshd: Sshd, ssh: SshConfig
) -> None:
    transport = sshd.connect(ssh)
    script = "sleep 20 & echo started; it=$!; (sleep 3; kill $it) & exit 0"
    result = transport.run(script, timeout_s=15)
    transport.close()
    assert result.stdout == "started\n"


def test_a_connection_that_breaks_is_lost(sshd: Sshd, ssh: SshConfig) -> None:
    transport = sshd.connect(ssh)
    cutter = threading.Timer(0.7, sshd.cut)
    cutter.start()
    with pytest.raises(ConnectionLost):
        transport.run("sleep 6", timeout_s=20)
    cutter.join()
    transport.close()


def test_many_connections_leave_no_descriptor(sshd: Sshd, ssh: SshConfig) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        transport = sshd.connect(ssh)
        transport.run("true", timeout_s=10)
        transport.close()
    assert len(os.listdir("/proc/self/fd")) <= before


# -- ways not to get in --------------------------------------------------------------------


def endpoint(port: int, address: str = "127.0.0.1") -> Endpoint:
    return Endpoint("i-0123456789abcdef0", "i-0123456789abcdef0 web-01", address, port, ("ubuntu",))


def test_refused(ssh: SshConfig) -> None:
    with pytest.raises(ConnectionRefused) as caught:
        open_ssh(endpoint(free_port()), ssh, Book(), "run-1")
    assert caught.value.code == "SSH_REFUSED"
    assert caught.value.remedy


def test_an_address_that_no_name_server_is_asked_for_is_unreachable(ssh: SshConfig) -> None:
    with pytest.raises(Unreachable, match="cannot be reached") as caught:
        open_ssh(endpoint(22, f"{'x' * 64}.example"), ssh, Book(), "run-1")
    assert caught.value.remedy


def test_a_server_that_accepts_and_hangs(ssh: SshConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = time.monotonic()
        with pytest.raises(BannerTimeout):
            open_ssh(endpoint(listener.getsockname()[1]), with_(ssh, connect_timeout_s=1.0), Book(), "run-1")
    assert time.monotonic() - started < 5


def _serve_once(listener: socket.socket, said: bytes) -> None:
    with listener.accept()[0] as peer:
        peer.sendall(said)
        if said:
            peer.recv(64_000)
            time.sleep(4)


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [(b"SSH-2.0-OpenSSH_6.6\r\n", BannerTimeout, "SSH_HANGS"), (b"", Unreachable, "SSH_CLOSED")],
)
def test_a_server_that_says_hello_and_hangs_or_hangs_up(
    ssh: SshConfig, said: bytes, kind: type[Unreachable], code: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_serve_once, args=(listener, said))
        server.start()
        with pytest.raises(kind) as caught:
            open_ssh(endpoint(listener.getsockname()[1]), with_(ssh, connect_timeout_s=1.0), Book(), "run-1")
        server.join()
    assert caught.value.code == code


def test_an_unknown_host_key_is_refused_before_any_key_is_offered(sshd: Sshd, ssh: SshConfig) -> None:
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", str(sshd.folder / "host_key.pub")], check=True, capture_output=True, text=True
    ).stdout.split()[1]
    ssh.known_hosts.write_text("")
    before = sshd.log.read_text().count("userauth")
    with pytest.raises(HostKeyUnknown) as caught:
        sshd.connect(ssh)
    assert fingerprint in caught.value.message
    assert "trust-first" in caught.value.remedy
    assert sshd.log.read_text().count("userauth") == before


def test_a_changed_host_key_is_refused(sshd: Sshd, ssh: SshConfig, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other_host").with_suffix(".pub").read_text().split()
    ssh.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {other[0]} {other[1]}\n")
    for policy in ("strict", "trust-first"):
        with pytest.raises(HostKeyChanged):
            sshd.connect(with_(ssh, host_keys=policy))


def test_trust_first_remembers_in_the_ledger_and_not_in_the_users_file(sshd: Sshd, ssh: SshConfig) -> None:
    ssh = with_(ssh, host_keys="trust-first", known_hosts=ssh.known_hosts.with_name("none"))
    book = Book()
    sshd.connect(ssh, book=book).close()
    sshd.connect(ssh, book=book).close()
    assert not ssh.known_hosts.exists()
    remembered = "ssh.host-key/i-0123456789abcdef0"
    assert book.entries[remembered] == " ".join((sshd.folder / "host_key.pub").read_text().split()[:2])
    book.entries[remembered] = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZvcmdlZCBieSB0aGUgdGVzdCBvZiBoYWx0dXVu"
    with pytest.raises(HostKeyChanged, match="the ledger"):
        sshd.connect(ssh, book=book)


# -- keys ----------------------------------------------------------------------------------


def test_wrong_keys_are_refused_and_counted_over_the_run(sshd: Sshd, ssh: SshConfig, keys: Path) -> None:
    ssh = with_(ssh, key_files=[keys / "other.pem", keys / "third.pem"], max_attempts=3)
    book = Book()
    with pytest.raises(AuthRefused, match=r"ubuntu with other\.pem, ubuntu with third\.pem, admin"):
        sshd.connect(ssh, "ubuntu", "admin", book=book)
    before = sshd.log.read_text().count("Failed publickey")
    with pytest.raises(AuthRefused, match="3 offers were refused in this run"):
        sshd.connect(ssh, "ubuntu", "admin", book=book)
    assert sshd.log.read_text().count("Failed publickey") == before


# Who lists the user's keys ends the connection first, as often as `times` says.
CUTS = """#!/bin/sh
echo cut >>/var/lib/haltuun/cuts
[ "$(wc -l </var/lib/haltuun/cuts)" -gt {times} ] || kill -9 $PPID
cat /var/lib/haltuun/listed
"""


@pytest.mark.parametrize(("times", "refused"), [(1, False), (2, True)])
def test_a_connection_that_breaks_during_the_offer_is_no_refusal_at_once(
    tmp_path: Path, ssh: SshConfig, keys: Path, times: int, refused: bool
) -> None:
    command = "/bin/sh /var/lib/haltuun/list-keys"
    sshd = Sshd(tmp_path / "cuts", [f"AuthorizedKeysCommand {command}", "AuthorizedKeysCommandUser root"])
    (sshd.root / "listed").write_text((keys / "acme.pub").read_text())
    (sshd.root / "list-keys").write_text(CUTS.format(times=times))
    (sshd.root / "list-keys").chmod(0o700)
    sshd.start()
    ssh = with_(ssh, known_hosts=sshd.known_hosts(tmp_path / "known"), key_files=[keys / "acme.pem"])
    book = Book()
    try:
        if refused:
            with pytest.raises(AuthRefused, match=r"refused: ubuntu with acme\.pem"):
                sshd.connect(ssh, "ubuntu", book=book)
        else:
            sshd.connect(ssh, "ubuntu", book=book).close()
        assert int(book.entries.get("ssh.refused/run-1/i-0123456789abcdef0", 0)) == refused
    finally:
        sshd.stop()


def test_what_worked_is_offered_first_next_time(sshd: Sshd, ssh: SshConfig, keys: Path) -> None:
    ssh = with_(ssh, key_files=[keys / "other.pem", keys / "acme.pem"])
    book = Book()
    sshd.connect(ssh, "nobody", "ubuntu", book=book).close()
    refused = dict(book.entries)["ssh.refused/run-1/i-0123456789abcdef0"]
    assert refused == "3"
    sshd.connect(ssh, "nobody", "ubuntu", book=book).close()
    assert book.entries["ssh.refused/run-1/i-0123456789abcdef0"] == refused


def test_the_key_named_like_the_key_pair_goes_first(sshd: Sshd, ssh: SshConfig, keys: Path) -> None:
    ssh = with_(ssh, key_files=[keys / "third.pem", keys / "other.pem", keys / "acme.pem"])
    book = Book()
    here = Endpoint("i-0123456789abcdef0", "web", "127.0.0.1", sshd.port, ("ubuntu",), key_hint="acme")
    open_ssh(here, ssh, book, "run-1").close()
    assert not any(key.startswith("ssh.refused") for key in book.entries)


def test_a_missing_key_file_is_named(ssh: SshConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.pem: there is no such key file"):
        load_keys(with_(ssh, key_files=[tmp_path / "gone.pem"]))


@pytest.mark.parametrize("form", [(), ("-m", "PEM")])
def test_an_encrypted_key_is_said_to_be(ssh: SshConfig, tmp_path: Path, form: tuple[str, ...]) -> None:
    path = tmp_path / "locked.pem"
    command = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "secret", "-f", str(path), *form]
    subprocess.run(command, check=True)
    with pytest.raises(ConfigError, match="encrypted with a passphrase"):
        load_keys(with_(ssh, key_files=[path]))


@pytest.mark.parametrize("text", ["", "not a key\n", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_key_is_said_to_be(ssh: SshConfig, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.pem").write_text(text)
    with pytest.raises(ConfigError, match="not a private key"):
        load_keys(with_(ssh, key_files=[tmp_path / "x.pem"]))


def test_the_agent_is_asked_when_no_file_is_configured(
    sshd: Sshd, ssh: SshConfig, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(AuthRefused, match="no key to log in with"):
        sshd.connect(with_(ssh, key_files=None))
    with ssh_agent(keys / "acme.pem", monkeypatch):
        transport = sshd.connect(with_(ssh, key_files=None))
        assert transport.run("id -u", timeout_s=10).stdout == "0\n"
        transport.close()


# -- old servers and bastions ----------------------------------------------------------------


def test_a_server_with_old_algorithms_only_is_entered_and_said_to_be_one(
    tmp_path: Path, keys: Path, ssh: SshConfig
) -> None:
    server = Sshd(tmp_path / "old", options=LEGACY, host_key="rsa")
    server.allow(keys / "acme.pem", "ubuntu")
    server.start()
    try:
        ssh = with_(ssh, known_hosts=server.known_hosts(tmp_path / "known"))
        transport = server.connect(ssh)
        assert transport.legacy
        assert transport.run("id -u", timeout_s=10).stdout == "0\n"
        transport.close()
    finally:
        server.stop()


class _Ancient(paramiko.ServerInterface):
    """What OpenSSH 6.6 does: RSA with SHA-1 alone, and no word of signature algorithms (RFC 8308)."""

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_execute, args=(channel, command), daemon=True).start()
        return True


def _execute(channel: paramiko.Channel, command: bytes) -> None:
    text = channel.makefile("rb").read()
    done = subprocess.run(["/bin/sh", "-c", command.decode()], input=text, capture_output=True)
    channel.sendall(done.stdout)
    channel.sendall_stderr(done.stderr)
    channel.send_exit_status(done.returncode)
    channel.close()


def test_a_server_that_knows_sha1_alone_is_entered_with_one_offer(ssh: SshConfig, tmp_path: Path) -> None:
    host_key = paramiko.RSAKey.generate(2048)
    servers: list[paramiko.Transport] = []

    def serve(listener: socket.socket) -> None:
        sha2 = ["rsa-sha2-512", "rsa-sha2-256"]
        only = {"keys": sha2, "pubkeys": sha2}
        server = paramiko.Transport(listener.accept()[0], disabled_algorithms=only, server_sig_algs=False)
        server.add_server_key(host_key)
        servers.append(server)
        server.start_server(server=_Ancient())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        known = tmp_path / "ancient"
        known.write_text(f"[127.0.0.1]:{port} ssh-rsa {host_key.get_base64()}\n")
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        book = Book()
        as_root = Endpoint("i-0123456789abcdef0", "old", "127.0.0.1", port, ("root",))
        transport = open_ssh(as_root, with_(ssh, known_hosts=known), book, "run-1")
        thread.join()
        assert transport.legacy
        assert transport.run("id -u", timeout_s=10).stdout == "0\n"
        assert not any(key.startswith("ssh.refused") for key in book.entries)
        transport.close()
    servers[0].close()


class _Dying(_Ancient):
    """Lets somebody in once; later its connections die while the key is looked at."""

    def __init__(self, server: paramiko.Transport, *, dies: bool) -> None:
        self._server, self._dies = server, dies

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if self._dies:
            self._server.sock.close()
        return paramiko.AUTH_FAILED if self._dies else paramiko.AUTH_SUCCESSFUL


def test_a_connection_that_breaks_while_logging_in_again_is_no_refusal(
    ssh: SshConfig, tmp_path: Path
) -> None:
    host_key = paramiko.RSAKey.generate(2048)
    servers: list[paramiko.Transport] = []

    def serve(listener: socket.socket) -> None:
        for dies in (False, True, True):
            server = paramiko.Transport(listener.accept()[0])
            server.add_server_key(host_key)
            servers.append(server)
            with suppress(paramiko.SSHException, EOFError, OSError):
                server.start_server(server=_Dying(server, dies=dies))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        known = tmp_path / "dying"
        known.write_text(f"[127.0.0.1]:{port} ssh-rsa {host_key.get_base64()}\n")
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        as_root = Endpoint("i-0123456789abcdef0", "dying", "127.0.0.1", port, ("root",))
        transport = open_ssh(as_root, with_(ssh, known_hosts=known), Book(), "run-1")
        with pytest.raises(ConnectionLost, match="while logging in"):
            transport._again()
        thread.join()
    for server in servers:
        server.close()


def test_a_modern_server_is_no_legacy(sshd: Sshd, ssh: SshConfig) -> None:
    transport = sshd.connect(ssh)
    assert not transport.legacy
    transport.close()


def test_through_a_bastion_whose_key_is_verified_too(
    tmp_path: Path, sshd: Sshd, keys: Path, ssh: SshConfig
) -> None:
    bastion = Sshd(tmp_path / "bastion")
    bastion.allow(keys / "acme.pem", "admin")
    bastion.start()
    try:
        door = Endpoint("bastion:127.0.0.1", "bastion", "127.0.0.1", bastion.port, ("admin",))
        known = bastion.known_hosts(tmp_path / "b").read_text() + ssh.known_hosts.read_text()
        through = with_(ssh, known_hosts=tmp_path / "both", bastion="admin@127.0.0.1")
        (tmp_path / "both").write_text(known)
        transport = open_ssh(sshd.endpoint(), through, Book(), "run-1", door)
        assert transport.run("id -u", timeout_s=10).stdout == "0\n"
        transport.close()
        with pytest.raises(ConnectionRefused, match=r"the bastion admin@127\.0\.0\.1 cannot connect"):
            open_ssh(endpoint(free_port()), through, Book(), "run-1", door)
        with pytest.raises(HostKeyUnknown, match=f"127.0.0.1\\]:{bastion.port}"):
            open_ssh(sshd.endpoint(), with_(ssh, bastion="admin@127.0.0.1"), Book(), "run-1", door)
    finally:
        bastion.stop()
