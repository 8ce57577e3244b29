"""What the gate demands of a host before patching and logs may rely on Systems Manager."""

from __future__ import annotations

from haltuun.gates import Check

CHECKS = (
    Check(
        column="identity",
        op="in_set",
        values=("EC2",),
        code="IDENTITY_NOT_EC2",
        message="The agent's identity is {value}, not this EC2 instance.",
        remedy="See the host's findings for the cause: haltuun show.",
    ),
    Check(
        column="ssm_status",
        op="in_set",
        values=("Online",),
        code="NOT_ONLINE",
        message="Systems Manager says '{value}' of this instance.",
        remedy="See the host's findings for the cause; the proof is looked for again at the next run.",
    ),
    Check(
        column="online_as_self",
        op="in_set",
        values=(True,),
        code="NOT_ONLINE_AS_ITSELF",
        message="The host is not Online under its own instance id.",
        remedy="See the host's findings for the cause: haltuun show.",
    ),
    Check(
        column="echoed",
        op="in_set",
        values=(True,),
        code="NOT_ECHOED",
        message="The host is Online, and a command sent to it did not come back.",
        remedy="Check ssmmessages (role and endpoint) and the agent's log on the host, then retry.",
    ),
)
