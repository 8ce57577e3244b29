"""One document on exactly these hosts, by Run Command, and how it ended on each.

State Manager's StartAssociationsOnce would run it on all targets of an association: also on hosts
that a run is not about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from haltuun.aws import chunks
from haltuun.errors import AwsError, NoCredentials
from haltuun.model import Unknown
from haltuun.run import Run

# SendCommand takes 50 ids (botocore 1.44).
BATCH = 50
FINAL = frozenset({"Success", "Failed", "TimedOut", "Cancelled"})
# How long a host's agent may take to fetch the command.
DELIVERY_S = 120

Parameters = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]


def send(
    run: Run, region: str, ids: Sequence[str], document: str, parameters: Parameters, comment: str
) -> dict[str, str | Unknown]:
    """Instance id → the command that it was sent, or why it was sent none.

    `parameters` are made for the ids of each command. SendCommand refuses all its targets for one that
    is no managed node any more (InvalidInstanceId): the batch is halved until that one stands alone.
    """
    sent: dict[str, str | Unknown] = {}
    waiting = [list(some) for some in chunks(sorted(ids), BATCH)]
    while waiting:
        some = waiting.pop(0)
        try:
            answer = run.aws.call(
                "ssm",
                "SendCommand",
                region,
                DocumentName=document,
                InstanceIds=some,
                Comment=comment,
                TimeoutSeconds=DELIVERY_S,
                Parameters={name: list(values) for name, values in parameters(some).items()},
            )
        except NoCredentials:
            raise
        except AwsError as error:
            if error.code == "InvalidInstanceId" and len(some) > 1:
                half = len(some) // 2
                waiting[:0] = [some[:half], some[half:]]
            else:
                why = Unknown(unknown=f"{error.code}: {error.subject}: {error.message}")
                sent.update(dict.fromkeys(some, why))
            continue
        sent.update(dict.fromkeys(some, str(answer["Command"]["CommandId"])))
    return sent


def get_invocation(run: Run, region: str, command: str, instance_id: str) -> dict[str, Any] | Unknown:
    return run.aws.ask(
        lambda: run.aws.call("ssm", "GetCommandInvocation", region, CommandId=command, InstanceId=instance_id)
    )


def ending(run: Run, region: str, command: str | Unknown, instance_id: str) -> tuple[bool, str]:
    """Is it over, and why it did not end well ("" where it did, or while it runs)."""
    if isinstance(command, Unknown):
        return True, command.unknown
    seen = get_invocation(run, region, command, instance_id)
    # The invocation appears a moment after SendCommand's answer.
    status = "" if isinstance(seen, Unknown) else str(seen.get("Status"))
    if isinstance(seen, Unknown) or status not in FINAL:
        return False, ""
    return True, "" if status == "Success" else str(seen.get("StatusDetails") or status)
