"""What the lab writes for the one who works on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.box.keys import KeyPair
from lab.workspace import write_workspace


def test_to_source_its_environment_is_all_that_a_shell_needs(tmp_path: Path) -> None:
    out = tmp_path / "a lab's folder"
    (tmp_path / "agent.deb").write_bytes(b"deb")
    env = write_workspace(
        out,
        account_id="111122223333",
        alias="acme",
        region="eu-central-1",
        endpoint_url="http://127.0.0.1:9",
        key=KeyPair("private", "ssh-rsa AAAA comment"),
        hosts=[],
        agent_deb=tmp_path / "agent.deb",
        agent_version="1",
    )
    # Only what is exported reaches the programs that the shell starts.
    told = subprocess.run(
        ["sh", "-c", '. "$0" && exec env', str(out / "env")],
        env={},
        check=True,
        capture_output=True,
        text=True,
    )
    assert {f"{name}={value}" for name, value in env.items()} <= set(told.stdout.splitlines())
