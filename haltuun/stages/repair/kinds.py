"""How each kind of change to an agent is looked at and performed: one job on the host each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

from haltuun.config import PackagePin
from haltuun.errors import HaltuunError, PlanStale, Unreachable, WrongBox
from haltuun.jobs import INTERRUPTED
from haltuun.model import Change, Host, Json, Unknown, is_true
from haltuun.run import Run
from haltuun.stages.base import Kind
from haltuun.stages.repair.agentlog import FILE
from haltuun.stages.repair.deregister import DEREGISTER
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.facts import Agent, LogLine
from haltuun.stages.repair.guards import SNAP_REMEDY
from haltuun.stages.repair.leftovers import CONFIG_FILE, digest_of, own_identities_cut
from haltuun.stages.repair.package import get_package, pin_of
from haltuun.stages.repair.parse import parse_agent, parse_clock, right_box
from haltuun.stages.repair.probe import get_output, script
from haltuun.stages.repair.state import (
    PROOF_LATER,
    SERVICE_WORDS,
    UNKNOWN,
    WAKEABLE,
    as_planned,
    state_of,
)
from haltuun.transport import Result, Transport

# A closed network is silent for about 128 s, so less proves nothing.
AGENT_WAIT_S = 180
# A service that its neighbour's restart takes along is given this time to come back by itself.
LISTEN_WAIT_S = 30
# Stopping, saving, four restarts, the proof's deadline and giving back.
JOB_TIMEOUT_S = 900.0
# unattended-upgrades may hold dpkg's lock for that long; what follows has JOB_TIMEOUT_S.
LOCK_WAIT_S = 900
# Beyond it a shell tells the signal that ended it.
SIGNALLED = 128
JOB_SCRIPTS = (
    "host.sh",
    "job.sh",
    "listening.sh",
    "service.sh",
    "saved.sh",
    "package.sh",
    "token.sh",
    "repair.sh",
)
_NUMBER = re.compile(r"[0-9]{1,18}")
# A job killed on the host (kill -9, reboot) is begun once more: each action continues where it was.
ATTEMPTS = 2


def look(run: Run, change: Change) -> Json | Unknown:
    """The agent's state in the change's words, through the same probe that the plan was made on."""
    try:
        agent = parse_agent(get_output(run, _host(run, change)))
    except Unreachable as error:
        return Unknown(unknown=f"{error.code}: {error}")
    except ValueError as error:
        return Unknown(unknown=f"PROBE_UNREADABLE: {error}")
    box = right_box(run.account.id, _host(run, change), agent)
    if not is_true(box):
        # Nothing is laid on a machine that is not, or not provably, the one that was meant.
        return box if isinstance(box, Unknown) else Unknown(unknown="WRONG_BOX: another machine answers")
    state = state_of(_host(run, change), agent)
    unseen = sorted(key for key in change.after if state.get(key) == UNKNOWN and change.after[key] != UNKNOWN)
    if unseen:
        return Unknown(unknown=f"NOT_SHOWN: the host did not say {', '.join(unseen)}")
    return as_planned(state, change, agent.cut_off)


def _apply(action: str) -> Callable[[Run, Change], Json]:
    def apply(run: Run, change: Change) -> Json:
        return concluded(change, _job(run, change, action))

    return apply


def _apply_install(run: Run, change: Change) -> Json:
    """Where the plan's way back is the former package, that goes along: it is laid back without proof."""
    pin = pin_of(run.config.agent, change.after["sha256"])
    name = f"amazon-ssm-agent.{pin.format}"
    files = {name: get_package(run.config.agent, pin, _arch(run, change, pin))}
    env = {
        "PACKAGE_FILE": name,
        "PACKAGE_FORMAT": pin.format,
        "PACKAGE_SHA256": pin.sha256,
        "PACKAGE_VERSION": change.after["version"],
        "LOCK_WAIT_S": str(LOCK_WAIT_S),
    }
    if change.undo is not None and change.undo.kind == change.kind:
        former = pin_of(run.config.agent, change.undo.after["sha256"])
        name = f"former.{former.format}"
        files[name] = get_package(run.config.agent, former, _arch(run, change, former))
        env |= {
            "FORMER_FILE": name,
            "FORMER_SHA256": former.sha256,
            "FORMER_VERSION": str(change.undo.after["version"]),
        }
    timeout_s = LOCK_WAIT_S + JOB_TIMEOUT_S
    return concluded(change, _job(run, change, "install", env, files, timeout_s=timeout_s))


def _arch(run: Run, change: Change, pin: PackagePin) -> str:
    """The host's, where the package's address depends on it."""
    if pin.arch != "any" or "://" not in (run.config.agent.package_source or ""):
        return ""
    return _agent_now(run, change).managers.get(pin.format, "")


def _apply_config(run: Run, change: Change) -> Json:
    """What is written is made anew from what the host shows now, and has to be what was planned."""
    agent = _agent_now(run, change)
    cut = None
    if not isinstance(agent.config, Unknown) and not isinstance(agent.vault, Unknown):
        cut = own_identities_cut(agent.config, agent.vault)
    if cut is None or digest_of(cut) != change.after["config"]:
        raise PlanStale(f"{CONFIG_FILE} has changed.", subject=change.target, remedy="Plan again.")
    env = {"CONFIG_SUM": str(change.before["config"]), "WANT_SUM": str(change.after["config"])}
    files = {CONFIG_FILE.rpartition("/")[2]: cut.encode()}
    return concluded(change, _job(run, change, "config", env, files))


def _agent_now(run: Run, change: Change) -> Agent:
    """Looked at before anything is sent: whatever fails here has changed nothing."""
    try:
        return parse_agent(get_output(run, _host(run, change)))
    except Unreachable as error:
        error.unchanged = True
        raise
    except ValueError as error:
        raise HaltuunError(
            f"not begun: what the host said of its agent could not be read ({error}).",
            subject=change.target,
            remedy="Look at what the host prints at a login without a terminal, then retry.",
            code="PROBE_UNREADABLE",
            unchanged=True,
        ) from error


def _apply_service(run: Run, change: Change) -> Json:
    """`after` names one or both of two packages: {"deb_service": "stopped, disabled"}."""
    env = {}
    for word in SERVICE_WORDS:
        kind = word.partition("_")[0].upper()
        env[f"{kind}_SERVICE"] = str(change.after.get(word, ""))
        env[f"WAS_{kind}"] = str(change.before.get(word, ""))
    env["PROOF_LATER"] = "yes" if change.after.get("proof") == PROOF_LATER else "no"
    return concluded(change, _job(run, change, "service", env))


def _host(run: Run, change: Change) -> Host:
    return Host(account=run.account.id, region=change.region, instance_id=change.target)


def _job(
    run: Run,
    change: Change,
    action: str,
    env: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
    timeout_s: float = JOB_TIMEOUT_S,
) -> Result:
    text = script(*JOB_SCRIPTS)
    transport = _reach(run, _host(run, change))
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                result = transport.run_job(
                    f"{change.id}-{run.id}-{attempt}",
                    text,
                    timeout_s=timeout_s,
                    env={**_env(run, change, action), "WAY": transport.way, **(env or {})},
                    files=files,
                    before_start=run.aws.before_mutation,
                )
            except HaltuunError as error:
                # Whatever became of this attempt: the one before was cut off in the middle.
                error.unchanged = error.unchanged and attempt == 1
                raise
            if _has_ended(result):
                break
        return result
    finally:
        transport.close()


def _reach(run: Run, host: Host) -> Transport:
    try:
        return run.open(host)
    except Unreachable as error:
        error.unchanged = True
        raise


def _has_ended(result: Result) -> bool:
    """By itself: it was neither killed with all its job nor alone (kill -9, out of memory)."""
    if result.exit_code == INTERRUPTED or result.exit_code >= SIGNALLED:
        return False
    return "result" in _read_report(result.stdout)[0]


def _env(run: Run, change: Change, action: str) -> dict[str, str]:
    after = change.after if isinstance(change.after, dict) else {}
    return {
        "ACTION": action,
        "CHANGE_ID": change.id,
        "RUN_ID": run.id,
        "TARGET_INSTANCE_ID": change.target,
        "TARGET_ACCOUNT": run.account.id,
        "TARGET_REGION": change.region,
        "EXPECT_VAULT": str(after.get("registration") or ""),
        "FOREIGN": "yes" if after.get("unproven") == "stays off" else "no",
        "MOVE_TOKEN": "yes" if after.get("token") == "goes with it" else "no",
        "UNDOES": change.undoes,
        "CREDENTIALS_SUM": str(after.get("file") or ""),
        "UNFINISHED": str(after.get("unfinished") or ""),
        "SAVED_FROM": str(after.get("saved") or ""),
        "WANT_RUNNING": _yes_no(after.get("running")),
        "WANT_ENABLED": _yes_no(after.get("enabled")),
        **_pace(),
    }


def _pace() -> dict[str, str]:
    """Shorter waits where a lab's agents are quicker than real ones."""
    wait_s = os.environ.get("HALTUUN_AGENT_WAIT_S")
    return {
        "LOG_WAIT_S": wait_s or str(AGENT_WAIT_S),
        "LISTEN_WAIT_S": str(min(int(wait_s or LISTEN_WAIT_S), LISTEN_WAIT_S)),
    }


def _yes_no(value: Json) -> str:
    return {True: "yes", False: "no"}.get(value, "") if isinstance(value, bool) else ""


# -- what came of it -------------------------------------------------------------------------------------


def concluded(change: Change, result: Result) -> Json:
    """The job's report for the ledger.

    Raises:
        HaltuunError: NOT_TAKEN (no effect: the ladder goes on), a cause's code (no proof), WRONG_BOX, …
    """
    report, lines = _read_report(result.stdout)
    outcome = report.get("result", "")
    if outcome == "done":
        return report
    error = _ERRORS.get(outcome, _interrupted)(change, report, lines, result)
    error.unchanged = (report.get("changed") == "no" and outcome != "silenced") or outcome == "wrong_box"
    raise error


def _read_report(stdout: str) -> tuple[dict[str, str], tuple[LogLine, ...]]:
    """A host prints what it likes: what is no line of the log with its number is left out."""
    report: dict[str, str] = {}
    lines: list[LogLine] = []
    for line in stdout.splitlines():
        key, equals, value = line.partition("=")
        if key == "log":
            number, _, text = value.partition(":")
            if _NUMBER.fullmatch(number):
                lines.append(LogLine(file=FILE, line=int(number), text=text))
        elif equals:
            report[key] = value
    return report, tuple(lines)


Report = Mapping[str, str]


def _not_taken(change: Change, report: Report, lines: tuple[LogLine, ...], result: Result) -> HaltuunError:
    return HaltuunError(
        f"tried without effect: {report.get('reason', 'the agent did not change')}.{_fate(report)}",
        subject=change.target,
        remedy="See the runbook of STALE_HYBRID for the steps by hand.",
        code="NOT_TAKEN",
    )


def _not_proven(change: Change, report: Report, lines: tuple[LogLine, ...], result: Result) -> HaltuunError:
    causes = diagnose(Agent(log=lines, clock=parse_clock(report.get("clock", "")))).causes
    cause = next((cause for cause in causes if cause.code in WAKEABLE), None)
    why = cause.message if cause else f"{report.get('reason', 'no proof')}."
    return HaltuunError(
        f"the agent did not come up as {change.target}: {why}{_fate(report)}",
        subject=change.target,
        remedy=cause.remedy if cause else "Look at /var/log/amazon/ssm/amazon-ssm-agent.log on the host.",
        code=cause.code if cause else "NOT_PROVEN",
    )


def _fate(report: Report) -> str:
    return {
        "yes": " The saved state was put back.",
        "removed": " The agent that Haltuun installed was removed again.",
        "former": " The package that was there before was put back.",
        "foreign": " The other owner's registration stays off.",
        "failed": " What was there before could not be put back.",
        "services": " The services of both packages are as they were again.",
    }.get(report.get("restored", ""), "")


def _silenced(change: Change, report: Report, lines: tuple[LogLine, ...], result: Result) -> HaltuunError:
    ports = ", ".join(f"{port}/tcp" for port in report.get("silenced", "").split()) or "a port"
    left = report.get("still_silenced", "").split()
    after = f" Still silent: {', '.join(f'{port}/tcp' for port in left)}." if left else " It listens again."
    return HaltuunError(
        f"after the repair nothing listened on {ports} any more, where something did.{_fate(report)}{after}",
        subject=change.target,
        remedy="Start what is silent on the host and read its log: it hangs together with the agent.",
        code="SERVICE_SILENCED",
    )


def _wrong_box(change: Change, report: Report, lines: tuple[LogLine, ...], result: Result) -> HaltuunError:
    return WrongBox(
        f"the machine that answers is {report.get('box', 'unknown')}; nothing was written there.",
        subject=change.target,
        remedy="Correct the host's address in haltuun.yaml.",
    )


def _stale(change: Change, report: Report, lines: tuple[LogLine, ...], result: Result) -> HaltuunError:
    return PlanStale(
        f"{report.get('reason', 'the host has changed')}.", subject=change.target, remedy="Plan again."
    )


def _failed(change: Change, report: Report, lines: tuple[LogLine, ...], result: Result) -> HaltuunError:
    return HaltuunError(
        f"the repair stopped: {report.get('reason', 'no reason given')}.{_fate(report)}",
        subject=change.target,
        remedy="On the host see 'dpkg --audit' ('dpkg --configure -a' ends what was interrupted), then retry."
        if report.get("hint") == "dpkg"
        else "Remove the reason on the host, then retry.",
        code="REPAIR_FAILED",
    )


def _refused(change: Change, report: Report, lines: tuple[LogLine, ...], result: Result) -> HaltuunError:
    return HaltuunError(
        f"not begun: {report.get('reason', 'no reason given')}.",
        subject=change.target,
        remedy=SNAP_REMEDY,
        code="SNAP_NEEDS_SSH",
    )


def _interrupted(change: Change, report: Report, lines: tuple[LogLine, ...], result: Result) -> HaltuunError:
    said = [line for line in result.stderr.splitlines() if line.strip()]
    why = f" ({said[-1].strip()[:200]})" if said else ""
    return HaltuunError(
        f"the repair's script ended without a result, exit code {result.exit_code}{why}.",
        subject=change.target,
        remedy="Retry: it looks again and goes on from there.",
        code="REPAIR_INTERRUPTED",
    )


_ERRORS: Mapping[str, Callable[[Change, Report, tuple[LogLine, ...], Result], HaltuunError]] = {
    "not_taken": _not_taken,
    "not_proven": _not_proven,
    "silenced": _silenced,
    "wrong_box": _wrong_box,
    "stale": _stale,
    "refused": _refused,
    "failed": _failed,
}

_ACTIONS = {
    "agent.restart": "restart",
    "agent.clear": "clear",
    "agent.vault_aside": "aside",
    "agent.state": "state",
    "agent.remove": "remove",
    "agent.credentials_aside": "credentials",
    "agent.credentials_restore": "restore",
}


def keeps_off(run: Run, change: Change) -> str:
    """Another owner's registration is not put back: who holds it could run commands on the host as root. Nor
    is one that Haltuun has deregistered since: with it the host would be nobody's."""
    if not isinstance(change.before, dict):
        return ""
    saved = change.after.get("saved") if isinstance(change.after, dict) else None
    registration = change.before.get("registration") or change.before.get("registration_named")
    events = run.ledger.change_events(run.account.id, kinds=(DEREGISTER.name,)) if registration else []
    if any(event.event == "confirmed" and event.change.target == registration for event in events):
        return (
            f"{registration} was deregistered since, so it stays off; what was saved lies in {saved} there."
        )
    if change.before.get("unproven") != "stays off":
        return ""
    return (
        f"The registration is another owner's, so it stays off; what was saved lies in {saved} on the host."
    )


KINDS: Mapping[str, Kind] = {
    **{
        name: Kind(name=name, look=look, apply=_apply(action), on_host=True)
        for name, action in _ACTIONS.items()
    },
    "agent.restore": Kind(
        name="agent.restore", look=look, apply=_apply("restore"), on_host=True, keeps=keeps_off
    ),
    "agent.config_restore": Kind(
        name="agent.config_restore", look=look, apply=_apply("restore"), on_host=True, keeps=keeps_off
    ),
    DEREGISTER.name: DEREGISTER,
    "agent.install": Kind(name="agent.install", look=look, apply=_apply_install, on_host=True),
    "agent.config": Kind(name="agent.config", look=look, apply=_apply_config, on_host=True),
    "agent.service": Kind(name="agent.service", look=look, apply=_apply_service, on_host=True),
}
