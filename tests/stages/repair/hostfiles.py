"""A folder laid out as on a host → Agent, so that rules meet real files. Absent files are unknown."""

from __future__ import annotations

import json
from pathlib import Path

from haltuun.model import Unknown
from haltuun.stages.repair.agentlog import FILE
from haltuun.stages.repair.facts import Agent, IdentityConfig, LogLine
from haltuun.stages.repair.parse import parse_config

_SSM = "var/lib/amazon/ssm"


def read_agent(root: Path) -> Agent:
    """What the files under `root` tell. Vault files are never in these folders."""
    state = root / _SSM
    fields: dict[str, object] = {}
    log = root / FILE.lstrip("/")
    if log.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        fields["log"] = tuple(LogLine(file=FILE, line=n, text=text) for n, text in enumerate(lines, 1))
    identity = state / "runtimeconfig/identity_config.json"
    if identity.exists():
        data = json.loads(identity.read_text())
        fields["identity_config"] = IdentityConfig(
            identity_type=data["IdentityType"],
            instance_id=data["InstanceId"],
            credential_source=data["CredentialSource"],
            expires_at=data["CredentialsExpiresAt"],
            share_file=data["ShareFile"],
        )
    if state.exists():
        fields["hybrid_dirs"] = tuple(sorted(path.name for path in state.glob("mi-*")))
        fields["registration_file"] = (
            (state / "registration").exists() if fields["hybrid_dirs"] else Unknown(unknown="no mi- folder")
        )
    config = root / "etc/amazon/ssm/amazon-ssm-agent.json"
    if config.exists():
        fields["config"] = parse_config(config.read_text())
    return Agent.model_validate(fields)
