"""The documents that this agent can run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..netkit.aws import RequestError, ServiceError, endpoint_of
from ..netkit.hostfs import at
from ..netkit.imds import ImdsError
from ..netkit.web import SendFailed, aws_timeouts, send
from .inventory import gather_inventory
from .layout import STATE
from .messages import Command
from .patching import run_patch_baseline
from .session import Session

DEFAULT_TIMEOUT_S = 3600
# InstallState of configurePackage's localpackages.go.
NOT_INSTALLED, INSTALLED = 0, 8
PACKAGES = {"AmazonCloudWatchAgent": "amazon-cloudwatch-agent"}


@dataclass(frozen=True)
class Result:
    """How a document ended."""

    status: str
    response_code: int
    output: str = ""
    error: str = ""
    steps: tuple[tuple[str, Result], ...] = ()  # by name, of a document that has several


# A list of strings, or the one string of a parameter that is no list.
Parameters = dict[str, Any]
Document = Callable[[str, Parameters, Session], Result]


def first(parameters: Parameters, name: str, default: str = "") -> str:
    """First value of a parameter, or the default."""
    values = parameters.get(name) or [default]
    return str(values[0]) if isinstance(values, list) else str(values)


def _finish(process: subprocess.Popen[str], timeout_s: float) -> Result:
    try:
        output, error = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, error = process.communicate()
        return Result("TimedOut", 137, output, error + "\nfailed to run commands: exit status 137")
    if process.returncode == 0:
        return Result("Success", 0, output, error)
    error = f"{error}failed to run commands: exit status {process.returncode}"
    return Result("Failed", process.returncode, output, error)


def run_program(argv: list[str], cwd: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> Result:
    """Run a program as root in a session of its own and wait for it."""
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Result("Failed", 1, "", f"failed to run commands: {error}")
    return _finish(process, timeout_s)


def _run_shell_script(command_id: str, parameters: Parameters, session: Session) -> Result:
    folder = f"{STATE}/{session.identity.instance_id}/document/orchestration/{command_id}/awsrunShellScript"
    script = at(f"{folder}/0.awsrunShellScript/_script.sh")
    try:
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("\n".join(parameters.get("commands") or []) + "\n")
    except OSError as error:
        return Result("Failed", 1, "", f"failed to write script: {os.strerror(error.errno or 0).lower()}")
    cwd = first(parameters, "workingDirectory") or None
    timeout_s = float(first(parameters, "executionTimeout") or DEFAULT_TIMEOUT_S)
    return run_program(["/bin/sh", str(script)], cwd=cwd, timeout_s=timeout_s)


def _gather(_command_id: str, parameters: Parameters, session: Session) -> Result:
    count = gather_inventory(session)
    return Result(
        "Success",
        0,
        f"Inventory policy has been successfully applied and collected inventory data "
        f"has been uploaded to SSM ({count} types)",
    )


def _patch(_command_id: str, parameters: Parameters, session: Session) -> Result:
    operation = first(parameters, "Operation", "Scan")
    output = run_patch_baseline(session, operation, first(parameters, "SnapshotId") or str(uuid.uuid4()))
    return Result("Success", 0, output)


def _install_state(folder: Path) -> int:
    try:
        return int(json.loads((folder / "installstate").read_text())["state"])
    except (OSError, ValueError, KeyError):
        return NOT_INSTALLED


def _set_install_state(folder: Path, state: int) -> None:
    (folder / "installstate").write_text(json.dumps({"name": folder.name, "state": state}))


def _uninstall(name: str, package: str, folder: Path) -> Result:
    """By the agent's own account of packages: what stands there as not installed is well and left alone. The
    version's folder goes, its state stays (configurepackage.go, configurepackage_execute.go).
    """
    if _install_state(folder) != INSTALLED:
        return Result("Success", 0)
    done = run_program(["dpkg", "-r", package])
    if done.status != "Success":
        return done
    shutil.rmtree(folder / "latest", ignore_errors=True)
    _set_install_state(folder, NOT_INSTALLED)
    return Result("Success", 0, f"{done.output}Successfully uninstalled {name}\n")


def _configure_package(_command_id: str, parameters: Parameters, session: Session) -> Result:
    name, action = first(parameters, "name"), first(parameters, "action", "Install")
    package = PACKAGES.get(name)
    if package is None:
        return Result("Failed", 1, "", f"failed to download manifest - Package {name} could not be found")
    folder = at(f"{STATE}/packages/{name}")
    if action == "Uninstall":
        return _uninstall(name, package, folder)
    if _install_state(folder) == INSTALLED:
        return Result("Success", 0, f"{name} is already installed\n")
    region = session.region
    host = session.settings.endpoints.get("s3") or endpoint_of("s3", region)
    url = f"https://{host}/lab-packages-{region}/{package}.deb"
    try:
        answer = send("GET", url, {}, b"", aws_timeouts(read_s=60.0))
    except SendFailed as error:
        return Result(
            "Failed", 1, "", f'failed to download installation package reliably: Get "{url}": {error}'
        )
    if answer.status != 200:
        return Result(
            "Failed", 1, "", f"failed to download installation package reliably: status {answer.status}"
        )
    target = folder / "latest" / f"{package}.deb"
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.write_bytes(answer.body)
    done = run_program(["dpkg", "-i", str(target)])
    if done.status != "Success":
        return done
    _set_install_state(folder, INSTALLED)
    return Result("Success", 0, f"Initiating {name} install\n{done.output}Successfully installed {name}\n")


DOCUMENTS: dict[str, Document] = {
    "AWS-RunShellScript": _run_shell_script,
    "AWS-GatherSoftwareInventory": _gather,
    "AWS-RunPatchBaseline": _patch,
    "AWS-RunPatchBaselineAssociation": _patch,
    "AWS-ConfigureAWSPackage": _configure_package,
}


# What a step of a document of schema 2.2 may ask for.
ACTIONS: dict[str, Document] = {
    "aws:runShellScript": _run_shell_script,
    "aws:configurePackage": _configure_package,
}


def _with_values(value: Any, parameters: Parameters) -> Any:
    """The inputs of a step with the command's parameters in them."""
    if isinstance(value, list):
        return [_with_values(one, parameters) for one in value]
    for name in parameters:
        value = str(value).replace(f"{{{{ {name} }}}}", first(parameters, name))
    return value


def _run_steps(command: Command, session: Session) -> Result:
    """One after the other; one that failed keeps the later ones from running only where it says so
    (onFailure), as with the real agent.
    """
    steps: list[tuple[str, Result]] = []
    for step in command.steps:
        given = {key: _with_values(value, command.parameters) for key, value in step["inputs"].items()}
        result = _run_step(command, str(step.get("action")), given, session)
        steps.append((str(step.get("name")), result))
        if result.status != "Success" and given.get("onFailure") == "exit":
            break
    worst = next((result for _, result in steps if result.status != "Success"), Result("Success", 0))
    return Result(worst.status, worst.response_code, steps=tuple(steps))


def _run_step(command: Command, name: str, given: Parameters, session: Session) -> Result:
    action = ACTIONS.get(name)
    if action is None:
        return Result("Failed", 1, "", f"Plugin with name {name} is not supported")
    renamed = {"runCommand": "commands", "timeoutSeconds": "executionTimeout"}
    return action(command.id, {renamed.get(key, key): value for key, value in given.items()}, session)


def run_document(command: Command, session: Session) -> Result:
    """Run what the command names; any failure is a result."""
    document = DOCUMENTS.get(command.document)
    try:
        if document is not None:
            return document(command.id, command.parameters, session)
        if command.steps:
            return _run_steps(command, session)
        return Result("Failed", 1, "", f"Document {command.document} is not supported by this agent")
    except (ServiceError, RequestError, ImdsError, OSError) as error:
        return Result("Failed", 1, "", str(error))
