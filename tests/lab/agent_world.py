"""A host for the stand-in agents' tests: a folder for its files, a network namespace, its processes."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.agent.build import build_agent_deb
from tests.lab.agent_cloud import REGION, AwsHandler, Cloud, ImdsHandler, Server, wait_until

SERVICE_ADDRESS = "10.99.0.10"
IMDS_ADDRESS = "169.254.169.254"
HOST_ADDRESS = "10.20.0.5"
_CLONE_NEWNET = 0x40000000


def put_interpreter(tree: Path) -> None:
    """This interpreter in the place of the lab's."""
    # Readable without root, unlike an interpreter below /root.
    interpreter = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    launcher = tree / "opt/lab/bin/labpy"
    launcher.parent.mkdir(parents=True, exist_ok=True)
    launcher.write_text(f'#!/bin/sh\nexec "{interpreter}" "$@"\n')
    launcher.chmod(0o755)


def unpack_agent(folder: Path) -> Path:
    """Build the agent's package and unpack it; the folder that stands for /."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "-x", str(build_agent_deb(folder)), str(tree)], check=True)
    put_interpreter(tree)
    return tree


class Namespace:
    """A network namespace whose unknown addresses swallow packets."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "300"])
        own = os.stat("/proc/self/ns/net").st_ino
        wait_until(lambda: os.stat(self.path).st_ino != own, "a namespace of its own")
        self.run("ip link set lo up")
        self.run("ip link add eth0 address 02:00:00:00:00:05 type veth peer name sink0")
        self.run(f"ip addr add {HOST_ADDRESS}/24 dev eth0")
        self.run("ip link set eth0 up")
        self.run("ip link set sink0 up")
        self.run("ip route add default via 10.20.0.1")
        self.run("ip neigh add 10.20.0.1 lladdr 02:00:00:00:00:01 dev eth0")

    @property
    def path(self) -> str:
        return f"/proc/{self._holder.pid}/ns/net"

    def prefix(self) -> list[str]:
        return ["nsenter", f"--net={self.path}"]

    def run(self, command: str) -> None:
        subprocess.run([*self.prefix(), *command.split()], check=True, capture_output=True)

    def listen(self, address: str, port: int) -> socket.socket:
        """A listening socket inside, made by a thread that enters the namespace and ends."""
        made: list[socket.socket] = []

        def enter() -> None:
            with open(self.path) as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(64)
            made.append(sock)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return made[0]

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for the region's names, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    now = datetime.now(UTC)
    names = [x509.DNSName(f"*.{REGION}.amazonaws.com")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


class World:
    """A host's files in a folder, its network, its account, and the agent's processes."""

    def __init__(self, root: Path, package_tree: Path, certificate: tuple[Path, Path]) -> None:
        self.root = root
        self.cloud = Cloud()
        self.network = Namespace()
        self._servers: list[Server] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.environment: dict[str, str] = {}
        shutil.copytree(package_tree, root, dirs_exist_ok=True, symlinks=True)
        self._make_root(certificate[0])
        self._certificate = certificate
        self.open_imds()
        self.open_services()

    def _make_root(self, ca: Path) -> None:
        self.write("/etc/os-release", 'NAME="Debian GNU/Linux"\nVERSION_ID="12"\n')
        self.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        hosts = ("ssm", "ssmmessages", "ec2messages", "logs", "s3")
        lines = [f"{SERVICE_ADDRESS} {name}.{REGION}.amazonaws.com" for name in hosts]
        self.write("/etc/hosts", "\n".join(lines))
        self.write("/etc/resolv.conf", "nameserver 127.0.0.53\n")
        self.write("/etc/ssl/certs/ca-certificates.crt", ca.read_text())

    def open_imds(self) -> None:
        self.network.run(f"ip addr add {IMDS_ADDRESS}/32 dev lo")
        self._servers.append(Server(self.network.listen(IMDS_ADDRESS, 80), ImdsHandler, self.cloud))

    def open_services(self) -> None:
        self.network.run(f"ip addr add {SERVICE_ADDRESS}/32 dev lo")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, self._certificate))
        sock = self.network.listen(SERVICE_ADDRESS, 443)
        secure = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._servers.append(Server(secure, AwsHandler, self.cloud))

    def close_address(self, address: str) -> None:
        """From now on packets to `address` vanish."""
        self.network.run(f"ip addr del {address}/32 dev lo")

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def _environment(self) -> dict[str, str]:
        base = {"PATH": os.environ["PATH"], "LAB_ROOT": str(self.root), "LAB_TIME_SCALE": "200"}
        return {**base, **self.environment}

    def command(self, *argv: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of the package's programs on the host and return what it did."""
        as_user = ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []
        full = [*self.network.prefix(), *as_user, str(self.path(argv[0])), *argv[1:]]
        return subprocess.run(full, capture_output=True, text=True, env=self._environment(), timeout=30)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the core, as the init system would."""
        return self.start_program("/usr/bin/amazon-ssm-agent")

    def start_program(self, name: str) -> subprocess.Popen[bytes]:
        """Start a program of the host in the background."""
        argv = [*self.network.prefix(), str(self.path(name))]
        process = subprocess.Popen(argv, env=self._environment(), start_new_session=True)
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """Stop the core as the init system would, and wait for it."""
        process = self._processes[-1]
        process.terminate()
        process.wait(20)

    def pids(self, comm: str) -> list[int]:
        """Processes of this host with that name."""
        mark = f"LAB_ROOT={self.root}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                named = entry.name.isdigit() and (entry / "comm").read_text().strip() == comm
                if named and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def log(self, name: str = "amazon-ssm-agent.log") -> str:
        path = self.path(f"/var/log/amazon/ssm/{name}")
        return path.read_text() if path.exists() else ""

    def wait_log(self, text: str, count: int = 1, deadline_s: float = 15.0) -> None:
        what = f"{text!r} {count} times in the log, which is:\n{self.log()}"
        end = time.monotonic() + deadline_s
        while self.log().count(text) < count:
            if time.monotonic() > end:
                raise AssertionError(what + self.log())
            time.sleep(0.02)

    def wait_online(self, instance_id: str, count: int = 1) -> None:
        """Until the control channel of that identity is open after `count` set-ups."""
        self.wait_log("Set up control channel successfully", count)
        wait_until(lambda: self.cloud.is_connected(instance_id), f"an open channel as {instance_id}")

    def taken_identity(self) -> str:
        text = self.path("/var/lib/amazon/ssm/runtimeconfig/identity_config.json").read_text()
        return str(json.loads(text)["InstanceId"])

    def close(self) -> None:
        self.cloud.close()
        for comm in ("amazon-ssm-agen", "ssm-agent-worke", "amazon-cloudwat"):
            for pid in self.pids(comm):
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
        for process in self._processes:
            process.kill()
            process.wait()
        for server in self._servers:
            server.close()
        self.network.close()
