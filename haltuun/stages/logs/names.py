"""Names of what logs sets up. The instance role's policy allows just these (see stage verify)."""

from __future__ import annotations

from typing import Literal

# Log group: /haltuun/<alias or account>/<kind of log>.
GROUP_PREFIX = "/haltuun/"
# AWS's own policy for the agent allows parameters of this beginning, and so does ours.
PARAMETER_PREFIX = "AmazonCloudWatch-haltuun-"
ASSOCIATION_PREFIX = "haltuun-logs-"
DOCUMENT_PREFIX = "haltuun-ship-logs-"
SESSIONS_DOCUMENT = "SSM-SessionManagerRunShell"
MARKER_KIND = "marker"
SESSIONS_KIND = "sessions"
MARKER_FILE = "/var/log/haltuun/marker.log"
# A host that already had a configured agent keeps its configuration: ours is added to it.
ADDED = "-add"

# What the tag begins with while a host goes back: no association has it for its target.
LEAVING = "leaving-"

Mode = Literal["replace", "add"]


def group_name(label: str, kind: str) -> str:
    return f"{GROUP_PREFIX}{label}/{kind}"


def parameter_name(config_hash: str) -> str:
    return f"{PARAMETER_PREFIX}{config_hash}"


def tag_value(config_hash: str, mode: Mode) -> str:
    return config_hash + (ADDED if mode == "add" else "")


def leaving(tag: str) -> str:
    return LEAVING + tag
