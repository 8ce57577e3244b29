"""The document of Systems Manager that the hosts' association runs: the agent first, then its configuration.

Both in one, because State Manager keeps no order between two associations of a target. AWS's own documents,
AWS-ConfigureAWSPackage and AmazonCloudWatch-ManageAgent, do the same in these two steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import json

from haltuun.model import Json
from haltuun.stages.discover.lines import script
from haltuun.stages.logs.names import DOCUMENT_PREFIX, PARAMETER_PREFIX
from haltuun.stages.own import MADE_BY

ACTIONS = {"replace": "fetch-config", "add": "append-config"}
_ON_LINUX = {"StringEquals": ["platformType", "Linux"]}


def document() -> Json:
    """Schema 2.2 with preconditions: agents from 2.0.790 on (release notes of amazon-ssm-agent). A failed
    first step does not keep the second from running: the agent may be there already.
    """
    given = ["configuration='{{ configuration }}'", "action='{{ action }}'"]
    parts = (script("haltuun.host", "process.sh", "lock.sh"), script("haltuun.stages.logs", "configure.sh"))
    lines = "\n".join(parts).splitlines()
    return {
        "schemaVersion": "2.2",
        "description": f"{MADE_BY} Installs the CloudWatch agent and gives it a configuration.",
        "parameters": {
            "configuration": {
                "type": "String",
                "description": "The parameter that holds it.",
                "allowedPattern": f"^{PARAMETER_PREFIX}[0-9a-f]+$",
            },
            "action": {
                "type": "String",
                "description": "Whether it takes the place of what is there, or is added to it.",
                "allowedValues": sorted(ACTIONS.values()),
            },
        },
        "mainSteps": [
            {
                "action": "aws:configurePackage",
                "name": "install",
                "precondition": _ON_LINUX,
                "inputs": {"name": "AmazonCloudWatchAgent", "action": "Install"},
            },
            {
                "action": "aws:runShellScript",
                "name": "configure",
                "precondition": _ON_LINUX,
                "inputs": {"timeoutSeconds": "900", "runCommand": [*given, *lines]},
            },
        ],
    }


def content() -> str:
    return json.dumps(document(), sort_keys=True)


def digest(text: str) -> str:
    """Of a document's content, however it is laid out; of what is no JSON too."""
    with contextlib.suppress(ValueError):
        text = json.dumps(json.loads(text), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def document_name() -> str:
    """Its name is its content's hash, so it is never changed: another version has another name."""
    return DOCUMENT_PREFIX + digest(content())[:8]
