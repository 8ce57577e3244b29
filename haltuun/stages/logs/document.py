"""The document of Systems Manager that the hosts' association runs: the agent first, then its configuration.

Both in one, because State Manager keeps no order between two associations of a target. AWS's own documents,
AWS-ConfigureAWSPackage and AmazonCloudWatch-ManageAgent, do the same in two steps. Before them the host notes
how it was. With UNINSTALL the document takes the package away and does nothing else (see back.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence

from haltuun.model import Json
from haltuun.stages.discover.lines import script
from haltuun.stages.logs.names import DOCUMENT_PREFIX, PARAMETER_PREFIX
from haltuun.stages.own import MADE_BY

ACTIONS = {"replace": "fetch-config", "add": "append-config"}
UNINSTALL = {"package": ["Uninstall"]}
PACKAGE_STEP = "install"
_ON_LINUX = {"StringEquals": ["platformType", "Linux"]}


def document() -> Json:
    """Schema 2.2 with preconditions: agents from 2.0.790 on (release notes of amazon-ssm-agent). A failed
    step does not keep the later ones from running: the agent may be there already.
    """
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
            "package": {
                "type": "String",
                "description": "Whether the agent comes, or goes again.",
                "allowedValues": ["Install", "Uninstall"],
                "default": "Install",
            },
        },
        "mainSteps": [
            # No agent comes where that was not noted, else the way back would take it for one that was there:
            # of SSM agents from 3.0.502 on (their release notes).
            _script("note", ("package",), "note.sh", {"onFailure": "exit"}),
            {
                "action": "aws:configurePackage",
                "name": PACKAGE_STEP,
                "precondition": _ON_LINUX,
                "inputs": {"name": "AmazonCloudWatchAgent", "action": "{{ package }}"},
            },
            _script("configure", ("package", "configuration", "action"), "configure.sh"),
        ],
    }


def _script(name: str, given: Sequence[str], file: str, more: Mapping[str, str] | None = None) -> Json:
    """A step that runs what both scripts share and then its own, with these parameters of the document."""
    lines = [*(f"{one}='{{{{ {one} }}}}'" for one in given), *_with_shared(file).splitlines()]
    return {
        "action": "aws:runShellScript",
        "name": name,
        "precondition": _ON_LINUX,
        "inputs": {"timeoutSeconds": "900", "runCommand": lines, **(more or {})},
    }


def back_script(account: str, region: str, instance_id: str, *, uninstalled: bool) -> str:
    """The way back for Run Command, for this host alone. `uninstalled`: the SSM agent has had its turn."""
    given = {
        "HALTUUN_ID": instance_id,
        "HALTUUN_PLACE": f"{account} {region}",
        "HALTUUN_UNINSTALLED": "yes" if uninstalled else "no",
    }
    head = [f"{name}={shlex.quote(value)}" for name, value in given.items()]
    return "\n".join((*head, _with_shared("back.sh")))


def _with_shared(file: str) -> str:
    parts = (
        script("haltuun.stages.discover", "common.sh"),
        script("haltuun.host", "process.sh", "lock.sh"),
        script("haltuun.stages.logs", "agent.sh", file),
    )
    return "\n".join(parts)


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
