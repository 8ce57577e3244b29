"""Facts to findings, and what the gate demands. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from haltuun.gates import Check
from haltuun.model import Finding, Host, Severity, StageName, Unknown, is_false
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverAccount
from haltuun.stages.logs.facts import LogsAccount, LogsFacts
from haltuun.stages.logs.names import GROUP_PREFIX, SESSIONS_DOCUMENT

NOTHING_TO_SHIP = "LOGS_NOTHING_TO_SHIP"
NOTHING_SAID = "No log file that could be shipped is on the host: it seems to log to the journal alone."
NOTHING_REMEDY = "Install rsyslog, which writes the journal to files in /var/log, then retry."

CHECKS = (
    Check(
        column="supported",
        op="in_set",
        values=(True,),
        code="LOGS_UNSUPPORTED",
        message="Haltuun configures log shipping on Linux only.",
        remedy="Configure the CloudWatch agent on this host by hand.",
    ),
    Check(
        column="files_seen",
        op="between",
        low=1,
        code=NOTHING_TO_SHIP,
        message=NOTHING_SAID,
        remedy=NOTHING_REMEDY,
    ),
    Check(
        column="configured",
        op="in_set",
        values=(True,),
        code="LOGS_NOT_CONFIGURED",
        message="The CloudWatch agent does not have the configuration for what runs on this host.",
        remedy="Mend what it names (way to S3, free space, a locked or broken package manager), then retry.",
        because="marker_note",
    ),
    Check(
        column="marker_found",
        op="in_set",
        values=(True,),
        code="MARKER_MISSING",
        message="No line of the host was found in its log group.",
        remedy="Mend what it names (free space, say); else read amazon-cloudwatch-agent.log on the host: its"
        " role and its way to 'logs' come first.",
        because="marker_note",
    ),
)


def judge(view: View) -> Sequence[Finding]:
    return (*_judge_sessions(view), *_judge_groups(view), *_judge_hosts(view))


def _judge_sessions(view: View) -> Iterator[Finding]:
    account = view.account_facts.get(StageName.logs)
    if not isinstance(account, LogsAccount):
        return
    for region, facts in sorted(account.regions.items()):
        if isinstance(facts.sessions, Unknown) or facts.sessions.state != "foreign":
            continue
        logged = not is_false(facts.sessions_logged)
        yield Finding(
            code="SESSION_PREFERENCES_KEPT" if logged else "SESSIONS_NOT_LOGGED",
            severity=Severity.info if logged else Severity.medium,
            message=f"{SESSIONS_DOCUMENT} in {region} is a predecessor's and is left as it is;"
            f" sessions are {'logged' if logged else 'not logged'} by it.",
            remedy="" if logged else "Set a log group in Session Manager's preferences.",
        )


def _judge_groups(view: View) -> Iterator[Finding]:
    """A predecessor's groups that keep everything: shown, not changed, for a retention deletes data."""
    account = view.account_facts.get(StageName.discover)
    if not isinstance(account, DiscoverAccount):
        return
    for region, facts in sorted(account.regions.items()):
        if not isinstance(facts.log_groups, tuple):
            continue
        forever = sorted(
            group.name
            for group in facts.log_groups
            if group.retention_days is None and not group.name.startswith(GROUP_PREFIX)
        )
        if forever:
            yield Finding(
                code="LOGS_KEPT_FOREVER",
                severity=Severity.low,
                message=f"{len(forever)} log group(s) of a predecessor in {region} have no retention.",
                evidence=tuple(forever[:20]),
                remedy="Set one where you may: Haltuun does not, because it deletes what is older.",
            )


def _judge_hosts(view: View) -> Iterator[Finding]:
    for instance_id, facts in view.facts.get(StageName.logs, {}).items():
        if isinstance(facts, LogsFacts) and instance_id in view.hosts:
            yield from _judge_host(view.hosts[instance_id], facts)


def _judge_host(host: Host, facts: LogsFacts) -> Iterator[Finding]:
    if isinstance(facts.wanted, Unknown):
        return
    if facts.wanted.left_out:
        yield Finding(
            code="LOGS_LEFT_OUT",
            severity=Severity.low,
            message=f"{facts.wanted.left_out} log file(s) do not fit into its agent's configuration.",
            host=host.instance_id,
            remedy="Bring them together under fewer names, or configure them by hand.",
        )
    if facts.wanted.mode == "add" and facts.logs_tag is None:
        yield Finding(
            code="LOGS_AGENT_BEFORE",
            severity=Severity.info,
            message="A configured CloudWatch agent is, or may be, there already; Haltuun's configuration is"
            " added to its own.",
            host=host.instance_id,
            remedy="If its own names a 'run_as_user', see that this user may read the system's logs.",
        )
