"""Repair's own scripts in another root, beside stand-ins for package managers that this machine has not.

What is here is neither a host nor a package manager: the stand-ins (tests/cases/repair/packages/) answer with
what the real ones were recorded to say. It shows what the scripts do with that, no more.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from haltuun.config import AccountConfig, AgentConfig, Config, PackagePin
from haltuun.engine import open_run
from haltuun.model import Change, Host, Json
from haltuun.run import Run
from haltuun.simulated import SimulatedTransport
from haltuun.stages.repair import STAGE
from haltuun.stages.repair.facts import Agent
from haltuun.stages.repair.parse import parse_agent
from haltuun.stages.repair.probe import get_output
from haltuun.transport import Result
from tests.stages.repair.plan_kit import ACCOUNT, CHANNEL, HOST, IID, REGION, START

STAND_INS = Path(__file__).parents[2] / "cases" / "repair" / "packages"
KEY_FILE = "var/lib/amazon/ssm/Vault/Store/RegistrationKey"
# Where the scripts look, longest first; /dev and the tools stay this machine's.
MOVED = (
    "/var/log/amazon", "/run/systemd", "/etc/systemd", "/etc/amazon", "/etc/init", "/var/lib", "/root/.aws",
    "/snap/", "/proc/",
)  # fmt: skip
DOCUMENT = f'{{"accountId" : "{ACCOUNT}", "instanceId" : "{IID}", "region" : "{REGION}"}}'
TOOLS = {
    "curl": f"case $* in *PUT*) echo token ;; *) echo '{DOCUMENT}' ;; esac",
    "sleep": "exec /bin/sleep 0.02",
    "dpkg": "exit 1",
    "dpkg-query": 'cat "$ROOT/dpkg" 2>/dev/null',
}


@dataclass
class Moved:
    """`root` in the place of /. `shell` runs the scripts."""

    root: Path
    shell: str = "dash"
    tampered: bytes = b""  # what comes to be in a file on its way

    def __post_init__(self) -> None:
        for folder in (
            "bin",
            "usr/bin",
            "var/log/amazon/ssm",
            "var/lib",
            "run/systemd/system",
            "proc/1",
            "packages",
        ):
            (self.root / folder).mkdir(parents=True)
        (self.root / "start.log").write_text(
            "\n".join((*START, "Agent will take identity from EC2", CHANNEL)) + "\n"
        )
        (self.root / "var/log/amazon/ssm/amazon-ssm-agent.log").touch()
        for name, text in TOOLS.items():
            self.tool(name, f"#!/bin/sh\n{text}\n")
        self.stand_in("systemctl")

    def stand_in(self, name: str) -> None:
        text = (STAND_INS / f"{name}.sh").read_text()
        for called in ("dpkg", "dpkg-query", "dpkg-deb") if name == "dpkg" else (name,):
            self.tool(called, text)

    def tool(self, name: str, text: str) -> None:
        file = self.root / "bin" / name
        file.write_text(text)
        file.chmod(0o755)

    def package(self, kind: str, version: str, arch: str = "amd64", said: str = "x86_64") -> PackagePin:
        """A package that the stand-ins take for one, in the folder of packages."""
        file = self.root / "packages" / f"{version}-{arch}.{kind}"
        file.write_text(f"amazon-ssm-agent {version} {said}\n")
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        return PackagePin.model_validate({"format": kind, "arch": arch, "version": version, "sha256": sha256})

    def systemctl(self, *words: str) -> None:
        env = {"ROOT": str(self.root), "PATH": os.defpath}
        subprocess.run([str(self.root / "bin/systemctl"), *words], env=env, check=True)

    def registered(self, text: str = '{"instanceID":""}') -> Path:
        file = self.root / KEY_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def calls(self, name: str) -> list[str]:
        """What the stand-in was asked to change or check, in order."""
        file = self.root / "calls"
        said = file.read_text().splitlines() if file.exists() else []
        return [
            line
            for line in said
            if line.startswith(f"{name} ") and not any(word in line for word in (" -q", "--eval", "--print"))
        ]

    def saw(self, words: str) -> int:
        """How often a stand-in noted that."""
        file = self.root / "calls"
        return file.read_text().splitlines().count(words) if file.exists() else 0

    def silences(self) -> None:
        """Port 8080 listens, until a unit is started."""
        (self.root / "proc/net").mkdir()
        (self.root / "proc/net/tcp").write_text("  sl\n   0: 00000000:1F90 00000000:0000 0A\n")
        (self.root / "silences").touch()

    def answer(self, script: str, env: Mapping[str, str], files: Mapping[str, bytes]) -> Result:
        tools = f"PATH={self.root}/bin:{self.root}/usr/bin:/usr/bin:/bin"
        text = script.replace(
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin", tools
        )
        assert text != script, "the scripts set another PATH"
        for path in MOVED:
            text = text.replace(path, f"{self.root}{path}")
        job = self.root / "job"
        job.mkdir(exist_ok=True)
        for name, data in files.items():
            (job / name).write_bytes(data + self.tampered)
        done = subprocess.run(
            [*self.shell.split(), "-c", text],
            env={
                "PATH": os.defpath,
                "ROOT": str(self.root),
                "JOB_DIR": str(job),
                **env,
                "LISTEN_WAIT_S": "0",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Result(exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def run(self, pins: list[PackagePin], state: Path) -> Run:
        config = Config(
            state_dir=state,
            accounts=[AccountConfig(id=ACCOUNT)],
            agent=AgentConfig(package_source=str(self.root / "packages"), packages=pins),
        )

        def opener(run: Run, host: Host) -> SimulatedTransport:
            return SimulatedTransport(self.answer)

        return open_run(config, ACCOUNT, "apply", opener)

    def look(self, run: Run) -> Agent:
        return parse_agent(get_output(run, HOST))


def perform(run: Run, change: Change) -> Json:
    """As the engine does it: look, apply, and look again."""
    kind = STAGE.kinds[change.kind]
    assert kind.look(run, change) == change.before
    note = kind.apply(run, change)
    assert kind.look(run, change) == change.after
    return note


def undo(run: Run, change: Change) -> None:
    assert change.undo is not None
    perform(
        run,
        change.model_copy(
            update={
                "kind": change.undo.kind,
                "before": change.after,
                "after": change.undo.after,
                "undoes": change.id,
            }
        ),
    )
