"""All of Systems Manager that the lab adds."""

from __future__ import annotations

from moto.ssm.responses import SimpleSystemManagerResponse

from lab.cloud.extensions import ssm_windows
from lab.cloud.extensions.base import graft
from lab.cloud.extensions.ssm_agent import SsmAgent
from lab.cloud.extensions.ssm_associations import SsmAssociations
from lab.cloud.extensions.ssm_commands import SsmCommands
from lab.cloud.extensions.ssm_inventory import SsmInventory
from lab.cloud.extensions.ssm_nodes import SsmNodes
from lab.cloud.extensions.ssm_patch import SsmPatch
from lab.cloud.extensions.ssm_windows import SsmWindows


def apply() -> None:
    parts = (SsmNodes, SsmCommands, SsmAgent, SsmAssociations, SsmInventory, SsmPatch, SsmWindows)
    for part in parts:
        graft(part, SimpleSystemManagerResponse)
    ssm_windows.apply()
