"""ssm-cli: answers from the disk, not from the running agent (agent/cli/cliutil.go:116-131)."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from ..netkit import imds
from ..netkit.aws import endpoint_of
from ..netkit.web import SendFailed, Timeouts, send
from .identity import Identity, NoIdentity, load_runtime_config, select_identity, take_onprem
from .logfile import Log
from .settings import Settings
from .vault import REGISTRATION_KEY, VaultError, hybrid_vault, load_registration
from .version import VERSION

CHECK_TIMEOUTS = Timeouts(connect_s=3.0, read_s=3.0)  # connectivity_check.go:39
SERVICES = ("ssm", "ec2messages", "ssmmessages", "s3", "kms", "logs", "monitoring")


class _Silent(Log):
    """ssm-cli writes no agent log."""

    def _write(self, level: str, text: str) -> None:
        return

    def within(self, part: str) -> Log:
        return self

    def at_root(self, part: str = "") -> Log:
        return self

    def error(self, text: str, source: str) -> None:
        return


def find_identity() -> Identity | None:
    """The disk's identity: what the core wrote down if it still holds, else the default order."""
    log = _Silent()
    config = load_runtime_config()
    if config is not None and config.kind == "OnPrem":
        identity = take_onprem(log)
        if identity is not None and identity.instance_id == config.instance_id:
            return identity
    try:
        return select_identity(log, Settings(), threading.Event())
    except NoIdentity:
        return None


def get_instance_information() -> int:
    """Print id, region and release."""
    identity = find_identity()
    if identity is None:
        sys.stderr.write("failed to load instance info from vault or metadata service\n")
        return 1
    answer = {"instance-id": identity.instance_id, "region": identity.region, "release-version": VERSION}
    print(json.dumps(answer, indent=4))
    return 0


def _check(name: str, status: str, note: str) -> dict[str, str]:
    return {"Check": name, "Status": status, "Note": note}


def _check_hybrid() -> tuple[dict[str, str], bool]:
    try:
        known = load_registration(hybrid_vault(), REGISTRATION_KEY)
    except VaultError as error:
        return _check("Hybrid instance registration", "Failed", str(error)), False
    if not known.is_complete:
        return _check(
            "Hybrid instance registration", "Skipped", "Instance does not have hybrid registration"
        ), False
    note = f"Hybrid registered with instance id {known.instance_id} in region {known.region}"
    return _check("Hybrid instance registration", "Success", note), True


def _check_imds(is_hybrid: bool) -> dict[str, str]:
    if is_hybrid:
        return _check("EC2 IMDS", "Skipped", "Instance has hybrid registration")
    try:
        note = f"IMDS is accessible and has instance id {imds.instance_id()} in region {imds.region()}"
    except imds.ImdsError as error:
        return _check("EC2 IMDS", "Failed", f"Failed to connect to IMDS: {error}")
    return _check("EC2 IMDS", "Success", note)


def _check_endpoint(service: str, region: str) -> dict[str, str]:
    name = f"Connectivity to {service} endpoint"
    host = endpoint_of(service, region)
    try:
        send("GET", f"https://{host}/", {}, b"", CHECK_TIMEOUTS)
    except SendFailed as error:
        return _check(name, "Failed", f"{host} is not reachable: {error}")
    return _check(name, "Success", f"{host} is reachable")


def diagnose() -> list[dict[str, str]]:
    """The checks that tell most about identity and reach."""
    hybrid, is_hybrid = _check_hybrid()
    checks = [_check_imds(is_hybrid), hybrid]
    identity = find_identity()
    if identity is not None:
        checks += [_check_endpoint(service, identity.region) for service in SERVICES]
    checks.append(_check("SSM Agent version", "Success", f"SSM Agent version is {VERSION}"))
    return checks


def get_diagnostics() -> int:
    """Print the checks; root only (getdiagnostics.go:289)."""
    if os.geteuid() != 0:
        sys.stderr.write("get-diagnostics requires root permissions\n")
        return 1
    answer: dict[str, Any] = {"DiagnosticsOutput": diagnose()}
    print(json.dumps(answer, indent=4))
    return 0


def main(argv: list[str]) -> int:
    """ssm-cli COMMAND."""
    command = next((word for word in argv if not word.startswith("-")), "")
    if command == "get-instance-information":
        return get_instance_information()
    if command == "get-diagnostics":
        return get_diagnostics()
    sys.stderr.write("usage: ssm-cli <command>\n  get-diagnostics\n  get-instance-information\n")
    return 1
