"""The files that make a copy of the base image one particular machine."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from lab.box.keys import KeyPair
from lab.errors import LabError

# What OpenSSH 6.6 (Ubuntu 14.04) offers; no rsa-sha2-*, which came with 7.2.
OPENSSH_6_6 = """\
KexAlgorithms curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,\
diffie-hellman-group-exchange-sha256,diffie-hellman-group-exchange-sha1,diffie-hellman-group14-sha1
HostKeyAlgorithms ssh-rsa,ecdsa-sha2-nistp256,ssh-ed25519
PubkeyAcceptedAlgorithms ssh-rsa,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,ssh-ed25519
Ciphers aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com,\
chacha20-poly1305@openssh.com,aes128-cbc,aes192-cbc,aes256-cbc
MACs hmac-sha1,umac-64@openssh.com,umac-128@openssh.com,hmac-sha2-256,hmac-sha2-512,\
umac-64-etm@openssh.com,umac-128-etm@openssh.com,hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,\
hmac-sha1-etm@openssh.com
"""
SSHD_CONFIG = """\
Port 22
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
"""
UPSTART_SSH = """\
description     "OpenSSH server"
start on runlevel [2345]
stop on runlevel [!2345]
respawn
respawn limit 10 5
umask 022
pre-start script
    mkdir -p -m0755 /var/run/sshd
end script
exec /usr/sbin/sshd -D
"""
# Ubuntu release → what its /etc/debian_version says
UBUNTU_BASES = {
    "14.04": "jessie/sid",
    "16.04": "stretch/sid",
    "18.04": "buster/sid",
    "20.04": "bullseye/sid",
    "22.04": "bookworm/sid",
    "24.04": "trixie/sid",
}
CLIENT = "#!/opt/lab/bin/labpy /opt/lab/lib/init/client.py\n"
# Ubuntu 14.04's `service` asks upstart first; Debian's of today knows systemd and init.d only.
UPSTART_SERVICE = """\
#!/bin/sh
name=$1 verb=$2
case $verb in
start | stop | restart | status) exec /sbin/initctl "$verb" "$name" ;;
*) exec "/etc/init.d/$name" "$verb" ;;
esac
"""

# Bash and csh read it alike; csh cannot write to the other stream by itself.
GREETING = """\
echo Welcome. All that you do here is recorded.
sh -c 'echo the disk is almost full >&2'
"""
SUDO = {
    "passwordless": "ALL=(ALL) NOPASSWD:ALL",
    "asks": "ALL=(ALL) ALL",
    "requiretty": "ALL=(ALL) NOPASSWD:ALL\nDefaults:{user} requiretty",
}


@dataclass(frozen=True)
class Machine:
    """One box, as the files in it say."""

    name: str
    private_ip: str
    os_release: str
    init: str = "systemd"  # systemd | upstart
    openssh: str = "modern"  # modern | 6.6
    user: str = "ubuntu"
    authorized_key: str = ""
    host_keys: dict[str, KeyPair] = field(default_factory=dict)
    machine_id: str = "0123456789abcdef0123456789abcdef"
    patches_missing: list[dict[str, str]] = field(default_factory=list)
    shell: str = "bash"  # bash | csh | rbash
    noisy: bool = False
    sudo: str = "passwordless"  # passwordless | asks | requiretty
    tmp: str = "plain"  # plain | noexec


def put(path: Path, text: str, mode: int = 0o644, owner: int = 0) -> None:
    """Write a file with its folders; whatever was there, a symlink included, is replaced."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in missing if owner else []:
        os.chown(folder, owner, owner)
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    if owner:
        os.chown(path, owner, owner)


def write_machine(root: Path, base: Path, machine: Machine) -> None:
    """Everything below `root` (the upper layer) that is this machine's own."""
    name = machine.name
    put(root / "etc/hostname", f"{name}\n")
    put(root / "etc/hosts", f"127.0.0.1 localhost\n{machine.private_ip} {name}\n")
    put(root / "etc/resolv.conf", "nameserver 169.254.169.253\noptions timeout:2 attempts:1\n")
    put(root / "etc/machine-id", f"{machine.machine_id}\n", 0o444)
    put(root / "usr/lib/os-release", machine.os_release)
    put(root / "etc/os-release", machine.os_release)
    put(root / "etc/lsb-release", _lsb_release(machine.os_release))
    put(root / "etc/debian_version", f"{_debian_version(machine.os_release)}\n")
    put(root / "etc/issue", f"{_os_value(machine.os_release, 'PRETTY_NAME')} \\n \\l\n")
    put(root / "var/lib/lab/patches.json", json.dumps({"missing": machine.patches_missing}, indent=1))
    _write_user(root, base, machine)
    _write_ssh(root, machine)
    _write_init(root, machine)
    (root / "var/log").mkdir(parents=True, exist_ok=True)
    put(root / "var/log/syslog", "", 0o640)
    put(root / "var/log/auth.log", "", 0o640)


def _os_value(os_release: str, key: str) -> str:
    for line in os_release.splitlines():
        if line.startswith(f"{key}="):
            return line.partition("=")[2].strip('"')
    return ""


def _debian_version(os_release: str) -> str:
    version = _os_value(os_release, "VERSION_ID")
    return UBUNTU_BASES.get(version, version)


def _lsb_release(os_release: str) -> str:
    rows = {"DISTRIB_ID": "NAME", "DISTRIB_RELEASE": "VERSION_ID", "DISTRIB_CODENAME": "VERSION_CODENAME"}
    lines = [f"{key}={_os_value(os_release, source)}" for key, source in rows.items()]
    return "\n".join([*lines, f'DISTRIB_DESCRIPTION="{_os_value(os_release, "PRETTY_NAME")}"']) + "\n"


def _write_user(root: Path, base: Path, machine: Machine) -> None:
    user, number = machine.user, 1000
    rows = {
        "passwd": f"{user}:x:{number}:{number}:{user}:/home/{user}:/bin/{machine.shell}\n",
        "group": f"{user}:x:{number}:\n",
        # `*` and not `!`: sshd without PAM takes `!` for a locked account and refuses its keys
        "shadow": f"{user}:*:19000:0:99999:7:::\n",
        "gshadow": f"{user}:!::\n",
    }
    for file, row in rows.items():
        text = (base / "etc" / file).read_text(encoding="utf-8")
        put(root / "etc" / file, text + row, 0o640 if "shadow" in file else 0o644)
    home = root / "home" / user
    (root / "home").mkdir(exist_ok=True)
    put(home / ".profile", "umask 022\n", 0o644, number)
    put(home / ".ssh/authorized_keys", f"{machine.authorized_key}\n", 0o600, number)
    (home / ".ssh").chmod(0o700)
    if machine.noisy:
        for file in (".bashrc", ".cshrc"):
            put(home / file, GREETING, 0o644, number)
    if machine.shell == "csh":
        _bring_csh(root)
    put(root / f"etc/sudoers.d/90-{user}", f"{user} {SUDO[machine.sudo].format(user=user)}\n", 0o440)


def _bring_csh(root: Path) -> None:
    """From this machine, whose release the base image is of: it needs what every Debian has."""
    program = shutil.which("tcsh")
    if program is None:
        raise LabError("A host's login shell is csh, which this machine lacks.", "Run: apt-get install tcsh")
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(program, root / "usr/bin/csh")


def write_host_keys(root: Path, keys: dict[str, KeyPair]) -> None:
    for kind, pair in keys.items():
        put(root / f"etc/ssh/ssh_host_{kind}_key", pair.private, 0o600)
        put(root / f"etc/ssh/ssh_host_{kind}_key.pub", f"{pair.public}\n")


def _write_ssh(root: Path, machine: Machine) -> None:
    config = SSHD_CONFIG + (OPENSSH_6_6 if machine.openssh == "6.6" else "")
    put(root / "etc/ssh/sshd_config", config)
    write_host_keys(root, machine.host_keys)


def _write_init(root: Path, machine: Machine) -> None:
    if machine.init == "systemd":
        put(root / "usr/bin/systemctl", CLIENT, 0o755)
        return
    for tool in ("initctl", "start", "stop", "restart", "status", "reload"):
        put(root / "usr/sbin" / tool, CLIENT, 0o755)
    put(root / "usr/sbin/service", UPSTART_SERVICE, 0o755)
    put(root / "etc/init/ssh.conf", UPSTART_SSH)
