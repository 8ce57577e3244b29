"""Looks at one host from inside: one connection, one script, read only."""

from __future__ import annotations

from haltuun.errors import Unreachable
from haltuun.model import Host, Json, StageName, Unknown
from haltuun.run import Run
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverAccount, Standing
from haltuun.stages.discover.lines import script

PROBE_TIMEOUT_S = 120.0
WINDOWS = Unknown(unknown="WINDOWS_BY_HAND: Haltuun does not look into Windows hosts")
# There is no call for several at once, and what is common to many shows on some.
CONSOLES_A_RUN = 20
# Nothing of the machine answers, or it hangs. Where it refuses a key its console says nothing of that.
SILENT = ("SSH_UNREACHABLE", "SSH_REFUSED", "SSH_TIMEOUT", "SSH_HANGS", "SSH_CLOSED", "CONNECTION_LOST")


def standing_of(view: View, instance_id: str) -> Standing | None:
    account = view.account_facts.get(StageName.discover)
    return account.standing.get(instance_id) if isinstance(account, DiscoverAccount) else None


def no_way_in(standing: Standing | None) -> Unknown | None:
    """Why nobody should connect to the host, or None."""
    if standing is None:
        return Unknown(unknown="HOST_UNKNOWN: EC2 did not list the instance")
    if standing.exclude is not None:
        return Unknown(unknown=f"EXCLUDED: left alone, because {standing.exclude}")
    if standing.state != "running":
        return Unknown(unknown=f"INSTANCE_STOPPED: the instance is {standing.state}")
    if standing.platform == "windows":
        return WINDOWS
    return None


def probe_host(run: Run, host: Host, view: View) -> Json | Unknown:
    """{"way", "legacy", "asked_at", "answered_at", "stdout"}, the times as epoch seconds of the account; of a
    host that should answer and is silent {"closed": why, "console": its text or Unknown}.

    Raises:
        Unreachable: it answers, and does not let Haltuun in.
    """
    standing = standing_of(view, host.instance_id)
    online = standing is not None and standing.ssm_status == "Online"
    closed = no_way_in(standing)
    if closed is not None:
        silent = closed == WINDOWS and not online
        return {"closed": closed, "console": get_console(run, host)} if silent else closed
    try:
        return _look_inside(run, host)
    except Unreachable as error:
        if online or error.code not in SILENT:
            raise
        return {"closed": Unknown(unknown=f"{error.code}: {error}"), "console": get_console(run, host)}


def get_console(run: Run, host: Host) -> str | Unknown:
    """What the host last printed on its console; EC2 keeps the newest 64 KB."""
    if not run.spend("consoles", CONSOLES_A_RUN):
        return Unknown(unknown=f"NOT_ASKED: the consoles of {CONSOLES_A_RUN} hosts were read in this run")
    answer = run.aws.ask(
        lambda: run.aws.call("ec2", "GetConsoleOutput", host.region, InstanceId=host.instance_id)
    )
    return answer if isinstance(answer, Unknown) else str(answer.get("Output") or "")


def _look_inside(run: Run, host: Host) -> Json:
    transport = run.open(host)
    try:
        asked_at = run.now().timestamp()
        result = transport.run(
            script(__package__ or "", "common.sh", "suspect.sh", "probe.sh"), timeout_s=PROBE_TIMEOUT_S
        )
        return {
            "way": transport.way,
            "legacy": getattr(transport, "legacy", None),
            "asked_at": asked_at,
            "answered_at": run.now().timestamp(),
            "stdout": result.stdout,
        }
    finally:
        transport.close()
