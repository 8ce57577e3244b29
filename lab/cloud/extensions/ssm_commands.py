"""Run Command: commands that are really delivered to the agents, and what came back."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from moto.core.responses import ActionResult
from moto.ssm.responses import SimpleSystemManagerResponse

from lab.cloud import clock
from lab.cloud.errors import CloudError
from lab.cloud.extensions.base import answer, paged, request_of, state_of
from lab.cloud.state import FINAL, Command, Invocation, SsmState

# Documents of AWS that an agent of the lab executes, with the plugin that GetCommandInvocation names.
AWS_DOCUMENTS = {
    "AWS-RunShellScript": "aws:runShellScript",
    "AWS-RunPatchBaseline": "PatchLinux",
    "AWS-RunPatchBaselineAssociation": "PatchLinux",
    "AWS-ConfigureAWSPackage": "configurePackage",
    "AWS-GatherSoftwareInventory": "aws:softwareInventory",
    "AWS-UpdateSSMAgent": "aws:updateSsmAgent",
}
# botocore #993: 51 ids are answered with a throttle, not with a validation error.
MAX_INSTANCE_IDS = 50
STDOUT_LIMIT = 24_000
STDERR_LIMIT = 8_000
LISTED_OUTPUT_LIMIT = 2_500


def document_exists(state: SsmState, name: str) -> bool:
    bare = name.rsplit("document/", 1)[-1]
    return bare in AWS_DOCUMENTS or bare in state.backend._documents


def send(state: SsmState, request: dict[str, Any]) -> Command:
    """Make a command and queue it for its nodes."""
    ids = [str(found) for found in request.get("InstanceIds") or []]
    targets = request.get("Targets") or []
    document = str(request.get("DocumentName"))
    if len(ids) > MAX_INSTANCE_IDS:
        raise CloudError("ThrottlingException", "Rate exceeded")
    if not document_exists(state, document):
        raise CloudError("InvalidDocument", f"Document with name {document} does not exist.")
    timeout_s = int(request.get("TimeoutSeconds") or 3600)
    if not 30 <= timeout_s <= 2_592_000:
        raise CloudError("ValidationException", "TimeoutSeconds must be between 30 and 2592000.")
    managed = {node.id for node in state.managed()}
    invalid = [found for found in ids if found not in managed]
    if invalid or not (ids or targets):
        listed = ", ".join(invalid)
        raise CloudError(
            "InvalidInstanceId", f"Instances [[{listed}]] not in a valid state for account {state.account_id}"
        )
    nodes = list(dict.fromkeys([*ids, *(node.id for node in state.matching(targets))]))
    output = request.get("CloudWatchOutputConfig") or {}
    command = Command(
        id=str(uuid.uuid4()),
        document=document,
        parameters=request.get("Parameters") or {},
        comment=str(request.get("Comment") or ""),
        instance_ids=ids,
        targets=targets,
        timeout_s=timeout_s,
        requested=clock.now(),
        max_concurrency=str(request.get("MaxConcurrency") or "50"),
        max_errors=str(request.get("MaxErrors") or "0"),
        log_group=str(output.get("CloudWatchLogGroupName") or ""),
        log_enabled=bool(output.get("CloudWatchOutputEnabled")),
    )
    for node_id in nodes:
        command.invocations[node_id] = state.invocation(
            document, node_id, command.parameters, id=command.id, timeout_s=timeout_s
        )
    with state.changed:
        state.commands[command.id] = command
    for invocation in command.invocations.values():
        state.send(invocation)
    return command


def describe_command(command: Command) -> dict[str, Any]:
    rows = list(command.invocations.values())
    for row in rows:
        row.expire()
    return {
        "CommandId": command.id,
        "DocumentName": command.document,
        "DocumentVersion": "$DEFAULT",
        "Comment": command.comment,
        "ExpiresAfter": command.requested + timedelta(seconds=command.timeout_s + 3600),
        "Parameters": command.parameters,
        "InstanceIds": command.instance_ids,
        "Targets": command.targets,
        "RequestedDateTime": command.requested,
        "Status": command.status,
        "StatusDetails": command.status,
        "MaxConcurrency": command.max_concurrency,
        "MaxErrors": command.max_errors,
        "TargetCount": len(rows),
        "CompletedCount": sum(row.status in FINAL for row in rows),
        "ErrorCount": sum(row.status == "Failed" for row in rows),
        "DeliveryTimedOutCount": sum(row.detail == "DeliveryTimedOut" for row in rows),
        "TimeoutSeconds": command.timeout_s,
        "CloudWatchOutputConfig": {
            "CloudWatchLogGroupName": command.log_group,
            "CloudWatchOutputEnabled": command.log_enabled,
        },
    }


def _elapsed(invocation: Invocation) -> str:
    if invocation.started is None or invocation.ended is None:
        return ""
    return f"PT{(invocation.ended - invocation.started).total_seconds():.3f}S"


def _stamp(moment: Any) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z" if moment else ""


def describe_invocation(command: Command, invocation: Invocation) -> dict[str, Any]:
    invocation.expire()
    return {
        "CommandId": command.id,
        "InstanceId": invocation.node_id,
        "Comment": command.comment,
        "DocumentName": command.document,
        "DocumentVersion": "$DEFAULT",
        "PluginName": AWS_DOCUMENTS.get(command.document, "aws:runShellScript"),
        "ResponseCode": invocation.response_code,
        "ExecutionStartDateTime": _stamp(invocation.started),
        "ExecutionElapsedTime": _elapsed(invocation),
        "ExecutionEndDateTime": _stamp(invocation.ended),
        "Status": invocation.status,
        "StatusDetails": invocation.detail,
        "StandardOutputContent": invocation.stdout[:STDOUT_LIMIT],
        "StandardOutputUrl": "",
        "StandardErrorContent": invocation.stderr[:STDERR_LIMIT],
        "StandardErrorUrl": "",
        "CloudWatchOutputConfig": {
            "CloudWatchLogGroupName": command.log_group,
            "CloudWatchOutputEnabled": command.log_enabled,
        },
    }


def _both_streams(stdout: str, stderr: str) -> str:
    """As the agent puts them together (amazon-ssm-agent, TruncateOutput)."""
    errors = f"\n----------ERROR-------\n{stderr}" if stderr else ""
    return (stdout + errors)[:LISTED_OUTPUT_LIMIT]


def _listed_invocation(command: Command, invocation: Invocation, details: bool) -> dict[str, Any]:
    full = describe_invocation(command, invocation)
    row = {
        "CommandId": command.id,
        "InstanceId": invocation.node_id,
        "InstanceName": "",
        "Comment": command.comment,
        "DocumentName": command.document,
        "RequestedDateTime": command.requested,
        "Status": invocation.status,
        "StatusDetails": invocation.detail,
        "CommandPlugins": [],
    }
    if details:
        whole = {
            "Name": full["PluginName"],
            "Status": invocation.status,
            "ResponseCode": invocation.response_code,
            "StandardOutput": invocation.stdout,
            "StandardError": invocation.stderr,
        }
        row["CommandPlugins"] = [
            {
                "Name": plugin["Name"],
                "Status": plugin["Status"],
                "StatusDetails": plugin["Status"],
                "ResponseCode": plugin["ResponseCode"],
                "ResponseStartDateTime": invocation.started,
                "ResponseFinishDateTime": invocation.ended,
                "Output": _both_streams(plugin["StandardOutput"], plugin["StandardError"]),
            }
            for plugin in invocation.plugins or [whole]
        ]
    return row


def _passes(request: dict[str, Any], command: Command, status: str) -> bool:
    for row in request.get("Filters") or []:
        key, value = row.get("key"), row.get("value")
        if key == "Status" and status != value:
            return False
        if key == "DocumentName" and command.document != value:
            return False
        stamp = command.requested.strftime("%Y-%m-%dT%H:%M:%SZ")
        if (key == "InvokedAfter" and stamp < str(value)) or (key == "InvokedBefore" and stamp > str(value)):
            return False
    return True


def _asked(state: SsmState, request: dict[str, Any]) -> list[Command]:
    asked = request.get("CommandId")
    if asked and asked not in state.commands:
        raise CloudError("InvalidCommandId", f"Command {asked} does not exist.")
    found = (
        [state.commands[asked]]
        if asked
        else sorted(state.commands.values(), key=lambda command: command.requested, reverse=True)
    )
    node = request.get("InstanceId")
    return [command for command in found if not node or node in command.invocations]


class SsmCommands(SimpleSystemManagerResponse):
    def send_command(self) -> ActionResult:
        return answer(Command=describe_command(send(state_of(self), request_of(self))))

    def list_commands(self) -> ActionResult:
        request = request_of(self)
        found = [c for c in _asked(state_of(self), request) if _passes(request, c, c.status)]
        return paged("Commands", [describe_command(command) for command in found], request)

    def list_command_invocations(self) -> ActionResult:
        request = request_of(self)
        rows = [
            _listed_invocation(command, invocation, bool(request.get("Details")))
            for command in _asked(state_of(self), request)
            for invocation in command.invocations.values()
            if request.get("InstanceId") in (None, invocation.node_id)
            and _passes(request, command, invocation.status)
        ]
        return paged("CommandInvocations", rows, request)

    def get_command_invocation(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        command = state.commands.get(str(request.get("CommandId")))
        invocation = command.invocations.get(str(request.get("InstanceId"))) if command else None
        if command is None or invocation is None:
            raise CloudError(
                "InvocationDoesNotExist",
                "The command ID and managed node ID you specified didn't match any invocations.",
            )
        row = describe_invocation(command, invocation)
        if request.get("PluginName") not in (None, row["PluginName"]):
            raise CloudError("InvalidPluginName", "The plugin name isn't valid.")
        return ActionResult(row)

    def cancel_command(self) -> ActionResult:
        """Only what was not delivered yet is surely cancelled; a running script goes on."""
        state, request = state_of(self), request_of(self)
        command = state.commands.get(str(request.get("CommandId")))
        if command is None:
            raise CloudError("InvalidCommandId", f"Command {request.get('CommandId')} does not exist.")
        with state.changed:
            for node_id, invocation in command.invocations.items():
                if invocation.status == "Pending" and (request.get("InstanceIds") or [node_id]).count(
                    node_id
                ):
                    invocation.finish("Cancelled")
        return answer()
