"""What the message services say to an agent and hear from it: commands as jobs, replies as reports.

Shapes from aws/amazon-ssm-agent: SendCommandPayload and SendReplyPayload in
agent/runcommand/contracts/model.go at 3301c65, AgentJobPayload, AgentJobAck, AgentJobReplyContent and
AgentJobReplyAckContent in agent/session/contracts/model.go, Message in the vendored ssmmds/api.go; the form
of a message's id is what GetCommandID reads. A job of ssmmessages and a message of ec2messages carry the
same payload.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lab.agent.netkit.agentmessage import JOB, JOB_REPLY_ACK, AgentMessage, message_of
from lab.cloud import clock

Message = dict[str, Any]
Report = dict[str, Any]
TOPIC = "aws.ssm.sendCommand"
# What AgentJobAck says of a job that the agent took (mgsinteractor.go, ackSkipCodes).
TAKEN = "200"
# AWS-RunShellScript as AWS publishes it; an agent does not know documents by name, it runs what it is sent.
RUN_SHELL_SCRIPT: dict[str, Any] = {
    "schemaVersion": "1.2",
    "description": "Run a shell script or specify the commands to run.",
    "parameters": {
        "commands": {"type": "StringList", "description": "The commands to run.", "minItems": 1},
        "workingDirectory": {"type": "String", "default": ""},
        "executionTimeout": {"type": "String", "default": "3600"},
    },
    "runtimeConfig": {
        "aws:runShellScript": {
            "properties": [
                {
                    "id": "0.aws:runShellScript",
                    "runCommand": "{{ commands }}",
                    "workingDirectory": "{{ workingDirectory }}",
                    "timeoutSeconds": "{{ executionTimeout }}",
                }
            ]
        }
    },
}
# The other documents of AWS need its buckets and packages; the stand-in knows them by name.
NO_STEPS: dict[str, Any] = {"schemaVersion": "2.2", "description": "Not in this lab.", "mainSteps": []}
LISTS = frozenset({"commands"})


def message_id(command_id: str, node_id: str) -> str:
    return f"aws.ssm.{command_id}.{node_id}"


def command_id_of(job_id: str) -> str:
    """The command in a message's id; as it stands when it has another form."""
    parts = str(job_id).split(".")
    return parts[-2] if len(parts) >= 4 else str(job_id)


def payload_of(message: Message) -> str:
    """SendCommandPayload; of a document's parameters only lists are lists there."""
    name = str(message["DocumentName"])
    parameters = {
        key: values if key in LISTS or not isinstance(values, list) else ",".join(map(str, values))
        for key, values in (message.get("Parameters") or {}).items()
    }
    of_aws = RUN_SHELL_SCRIPT if name.rsplit("/", 1)[-1] == "AWS-RunShellScript" else NO_STEPS
    return json.dumps(
        {
            "Parameters": parameters,
            "DocumentContent": message.get("Content") or of_aws,
            "CommandId": message["CommandId"],
            "DocumentName": name,
            "OutputS3KeyPrefix": "",
            "OutputS3BucketName": "",
            "CloudWatchLogGroupName": "",
            "CloudWatchOutputEnabled": "false",
        }
    )


def job_of(message: Message, node_id: str) -> AgentMessage:
    """The command as the control channel carries it."""
    content = {
        "Content": payload_of(message),
        "JobId": message_id(message["CommandId"], node_id),
        "Topic": TOPIC,
        "SchemaVersion": 1,
    }
    return message_of(JOB, content)


def delivery_of(message: Message, node_id: str) -> dict[str, str]:
    """The command as GetMessages of ec2messages carries it."""
    payload = payload_of(message)
    return {
        "CreatedDate": clock.now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        "Destination": node_id,
        "MessageId": message_id(message["CommandId"], node_id),
        "Payload": payload,
        "PayloadDigest": hashlib.sha256(payload.encode()).hexdigest(),
        "Topic": f"{TOPIC}.{node_id}",
    }


def report_of(job_id: str, payload: dict[str, Any]) -> Report:
    """A SendReplyPayload in the terms of the account: a document's one status and its plugins' output."""
    plugins = [plugin for plugin in (payload.get("runtimeStatus") or {}).values() if plugin]
    return {
        "CommandId": command_id_of(job_id),
        "Status": str(payload.get("documentStatus") or "Failed"),
        "ResponseCode": max((int(plugin.get("code") or 0) for plugin in plugins), default=-1),
        "StandardOutput": "".join(str(p.get("standardOutput") or "") for p in plugins),
        "StandardError": "".join(str(p.get("standardError") or "") for p in plugins)
        or str(payload.get("documentTraceOutput") or ""),
        "Plugins": [
            {
                "Name": name,
                "Status": str(plugin.get("status")),
                "ResponseCode": int(plugin.get("code") or 0),
                "StandardOutput": str(plugin.get("standardOutput") or ""),
                "StandardError": str(plugin.get("standardError") or ""),
            }
            for name, plugin in (payload.get("runtimeStatus") or {}).items()
            if plugin
        ],
    }


def reply_in(message: AgentMessage) -> Report:
    """The report in an agent_job_reply."""
    content = message.content()
    return report_of(str(content.get("jobId", "")), json.loads(content.get("content") or "{}"))


def refusal_in(message: AgentMessage) -> Report | None:
    """The report that an agent_job_ack is when it refuses the job."""
    content = message.content()
    if str(content.get("statusCode")) == TAKEN:
        return None
    refused = {"documentStatus": "Failed", "documentTraceOutput": str(content.get("errorMessage", ""))}
    return report_of(str(content.get("jobId", "")), refused)


def thanks_for(message: AgentMessage) -> AgentMessage:
    """The acknowledgement without which an agent sends a reply again."""
    job_id = message.content().get("jobId", "")
    return message_of(JOB_REPLY_ACK, {"jobId": job_id, "acknowledgedMessageId": str(message.id)})
