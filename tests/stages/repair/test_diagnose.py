"""Every real log of the case files: what must be found, what must not, and who the agent is."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from haltuun.model import Unknown
from haltuun.stages.repair.agentlog import FILE, covers
from haltuun.stages.repair.bundle import read_bundle
from haltuun.stages.repair.diagnose import Diagnosis, diagnose
from haltuun.stages.repair.facts import Agent, LogLine
from haltuun.stages.repair.offline import read_agent
from haltuun.stages.repair.rules import RULES, VERSIONS

CASES = Path(__file__).parents[2] / "cases" / "repair" / "ssm-agent"
IDENTITY = {"OnPrem": "mi", "CustomIdentity": "mi", "EC2": "i", None: None}


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_real_log(case: str) -> None:
    expected = json.loads((CASES / case / "expected.json").read_text())
    found = diagnose(read_agent(read_bundle(CASES / case)))
    codes = {cause.code for cause in found.causes}
    assert set(expected["must"]) <= codes
    assert not set(expected["never"]) & codes
    assert IDENTITY[found.identity] == expected["identity"]
    assert all(cause.evidence and cause.message and cause.remedy for cause in found.causes)


@pytest.mark.parametrize("case", ["C1-register-clear", "D1-del-RegistrationKey", "L0-clean-ok", "H-mv-aside"])
def test_a_host_that_came_up_has_no_cause(case: str) -> None:
    found = diagnose(read_agent(read_bundle(CASES / case)))
    assert found.causes == ()
    assert found.connected


METADATA, SERVICE = ("169.254.169.254", 80), ("ssm.eu-west-1.amazonaws.com", 443)


@pytest.mark.parametrize(
    ("no_proxy", "call", "spared"),
    [
        ("169.254.169.254", METADATA, True),
        ("localhost, 169.254.169.254:80", METADATA, True),
        ("169.254.0.0/16", METADATA, True),
        ("*", METADATA, True),
        ("localhost,10.0.0.0/8", METADATA, False),
        ("", METADATA, False),
        (".amazonaws.com", SERVICE, True),
        ("169.254.169.254, *.Amazonaws.com", SERVICE, True),
        ("amazonaws.com:443", SERVICE, True),
        ("ssm.eu-west-1.amazonaws.com", SERVICE, True),
        ("ssm.us-east-1.amazonaws.com,xssm.eu-west-1.amazonaws.com", SERVICE, False),
        ("aws.com,10.0.0.0/8", SERVICE, False),
        ("169.254.169.254,", SERVICE, False),
    ],
)
def test_no_proxy_as_go_reads_it(no_proxy: str, call: tuple[str, int], spared: bool) -> None:
    assert covers(no_proxy, *call) is spared


START = (
    "2026-11-23 06:00:00.0000 INFO Proxy environment variables:",
    "2026-11-23 06:00:00.0001 INFO https_proxy: {proxy}",
    "2026-11-23 06:00:01.0000 INFO Agent will take identity from EC2",
)
CHANNEL = "2026-11-23 06:00:09.0000 INFO [ssm-agent-worker] [MessageService] [MGSInteractor] "
UP = CHANNEL + "Set up control channel successfully"
TIMED_OUT = (
    "2026-11-23 07:00:00.0000 ERROR [ssm-agent-worker] [MessageService] [MGSInteractor] Failed to get"
    " controlchannel token, error: CreateControlChannel failed with error: createControlChannel request"
    ' failed: failed to make http client call: Post "https://ssmmessages.us-east-1.amazonaws.com/v1/'
    'control-channel/i-0abc1234def567890": dial tcp 10.98.0.9:443: {error}'
)
REOPENED = (
    "2026-11-23 07:05:00.0000 INFO [ssm-agent-worker] [MessageService] [MGSInteractor] Successfully opened"
    " websocket connection to: 10.99.0.10:443"
)
SENT = (
    "2026-11-23 07:00:00.0000 ERROR [ssm-agent-worker] [HealthCheck] error when calling AWS APIs. error"
    " details - RequestError: send request failed",
    'caused by: Post "https://ssm.us-east-1.amazonaws.com/": {error}',
)
PROXY_DOWN = "proxyconnect tcp: dial tcp 10.0.0.8:3128: connect: connection refused"
REFUSED = (
    "2026-11-23 07:05:00.0000 WARN EC2RoleProvider Failed to connect to Systems Manager with instance profile"
    " role credentials. Err: retrieved credentials failed to report to ssm. Error: AccessDeniedException:"
    " User: arn:aws:sts::111122223333:assumed-role/r/i-0abc1234def567890 is not authorized to perform:"
    " ssm:UpdateInstanceInformation"
)


def _codes(*lines: str, clock: str = "07:10", proxy: str = "", free: int | Unknown | None = None) -> set[str]:
    texts = [*(line.format(proxy=proxy) for line in START), *lines]
    log = tuple(LogLine(file=FILE, line=n, text=text) for n, text in enumerate(texts, 1))
    at = datetime.fromisoformat(f"2026-11-23 {clock}:00")
    agent = Agent(log=log, clock=at, **({} if free is None else {"disk_free_kb": free}))
    return {cause.code for cause in diagnose(agent).causes}


@pytest.mark.parametrize("error", ["i/o timeout", "connect: connection refused"])
def test_a_channel_that_cannot_be_opened_is_named(error: str) -> None:
    assert _codes(UP, TIMED_OUT.format(error=error)) == {"MESSAGES_UNREACHABLE"}


def test_a_channel_that_was_opened_again_is_no_finding() -> None:
    assert _codes(UP, TIMED_OUT.format(error="i/o timeout"), REOPENED) == set()


def test_old_lines_of_a_full_disk_do_not_count_beside_free_space() -> None:
    line = "2026-11-23 06:30:00.0000 ERROR write /var/lib/amazon/ssm/x: no space left on device"
    assert _codes(line) == {"DISK_FULL"}
    assert _codes(line, free=100) == {"DISK_FULL"}
    assert _codes(line, free=50_000_000) == set()


@pytest.mark.parametrize("error", [PROXY_DOWN, "EOF"])
def test_a_proxy_is_to_blame_only_while_calls_fail(error: str) -> None:
    proxy = "http://10.0.0.8:3128"
    failed = tuple(line.format(error=error) for line in SENT)
    assert _codes(UP, *failed, proxy=proxy) == {"PROXY_CONFIGURED"}
    assert _codes(*failed, clock="23:00", proxy=proxy) == {"PROXY_CONFIGURED"}  # no channel: it may sleep
    assert _codes(UP, *failed, clock="23:00", proxy=proxy) == set()
    assert _codes(*failed, REFUSED, proxy=proxy) == {"ROLE_DENIED"}


def test_a_refusal_that_has_become_a_debug_line_still_counts() -> None:
    line = "2026-11-23 07:05:00.0000 {level} {by}Error: EC2RoleRequestError: no EC2 instance role found"
    assert _codes(line.format(level="DEBUG", by="EC2RoleProvider ")) == {"ROLE_MISSING"}
    assert _codes(line.format(level="DEBUG", by="[ssm-agent-worker] reply: ")) == set()


MGS = "2026-11-23 06:00:{:02d}.0000 ERROR [ssm-agent-worker] [MessageService] [MGSInteractor] "
CHANNEL_DENIED = (
    MGS.format(8) + "Failed to get controlchannel token, error: CreateControlChannel failed with error:"
    " createControlChannel request failed: unexpected response from the service <AccessDeniedException>"
    "<Message>User: arn:aws:sts::111122223333:assumed-role/r/i-0abc1234def567890 is not authorized</Message>"
)
POLLS = CHANNEL + "SSM Connection channel status is set to ec2messages"
POLLING_FAILS = (
    "2026-11-23 06:02:00.0000 ERROR [ssm-agent-worker] [MessageService] [MDSInteractor] error when calling"
    " AWS APIs. error details - GetMessages Error: RequestError: send request failed",
    'caused by: Post "https://ec2messages.cn-north-1.amazonaws.com.cn/": dial tcp 10.0.0.9:443: i/o timeout',
)
# Agents 2.x: one process, the instance's id in every line.
OLD_HYBRID = (
    "2019-02-11 04:05:12 INFO [instanceID=mi-0123456789abcdef0] Starting Agent: amazon-ssm-agent - v2.2.24.0",
    "2019-02-11 04:05:12 INFO [instanceID=mi-0123456789abcdef0] OS: linux, Arch: amd64",
)
OLD_IMDS = (
    "2021-01-29 09:29:40 ERROR error fetching the instanceID, Failed to fetch instance ID."
    " Data from vault is empty. RequestError: send request failed",
    "caused by: Get http://169.254.169.254/latest/meta-data/instance-id: net/http: request canceled while"
    " waiting for connection (Client.Timeout exceeded while awaiting headers)",
)
THROTTLED = (
    "2026-11-23 06:30:00.0000 ERROR [ssm-agent-worker] [HealthCheck] error when calling AWS APIs."
    " error details - UpdateInstanceInformation Error: ThrottlingException: Rate exceeded"
)
CHATTER = "2026-11-23 09:00:00.0000 INFO [ssm-agent-worker] [HealthCheck] HealthCheck reporting agent health."


def _offline(*lines: str) -> Diagnosis:
    texts = [line.format(proxy="") if line in START else line for line in lines]
    return diagnose(
        Agent(log=tuple(LogLine(file=FILE, line=n, text=text) for n, text in enumerate(texts, 1)))
    )


def _found(*lines: str) -> set[str]:
    return {cause.code for cause in _offline(*lines).causes}


def test_polling_in_place_of_a_refused_channel_is_online_and_the_refusal_stays() -> None:
    found = _offline(*START, CHANNEL_DENIED, POLLS)
    assert (found.connected, {cause.code for cause in found.causes}) == (True, {"MESSAGES_DENIED"})
    assert _found(*START, CHANNEL_DENIED, POLLS, REOPENED) == set()


def test_polling_matters_only_where_there_is_no_channel() -> None:
    assert _found(*START, UP, *POLLING_FAILS) == set()
    assert _found(*START, *POLLING_FAILS) == {"EGRESS_BLOCKED"}
    assert _found(*START, CHANNEL_DENIED, POLLS, *POLLING_FAILS) == {"MESSAGES_DENIED", "EGRESS_BLOCKED"}


def test_polls_that_go_on_failing_matter_to_agents_that_get_their_commands_by_nothing_else() -> None:
    def found(version: str, *more: str) -> set[str]:
        said = CHANNEL.partition("[ssm-")[0] + f"[amazon-ssm-agent] amazon-ssm-agent - v{version}"
        return _found(*START, said, UP, *more)

    assert found("3.1.804.0", *POLLING_FAILS * 3) == {"EGRESS_BLOCKED"}
    assert found("3.1.821.0", *POLLING_FAILS * 3) == set()
    assert found("3.3.40.0", *POLLING_FAILS * 3) == set()


def test_a_poll_that_failed_once_beside_an_open_channel_is_nothing() -> None:
    said = CHANNEL.partition("[ssm-")[0] + "[amazon-ssm-agent] amazon-ssm-agent - v2.3.1644.0"
    earlier = [
        tuple(row.replace("06:02:", f"{hour:02d}:02:") for row in POLLING_FAILS) for hour in (6, 9, 12, 15)
    ]
    assert _found(*START, said, UP, *POLLING_FAILS) == set()
    assert _found(*START, said, UP, *(row for fails in earlier for row in fails)) == set()


def test_what_was_said_long_ago_beside_an_open_channel_is_over_without_a_clock_too() -> None:
    assert _found(*START, UP, THROTTLED) == {"THROTTLED"}
    assert _found(*START, UP, THROTTLED, CHATTER) == set()
    assert _found(*START, THROTTLED, CHATTER) == {"THROTTLED"}


@pytest.mark.parametrize(
    ("code", "since"),
    [
        ("IMDS_UNREACHABLE", "3.2.1041"),
        ("IMDS_TOKENS_REQUIRED", "2.3.814"),
        ("TLS_FAILS", "3.3.987"),
        ("MESSAGES_DENIED", "3.3.40"),
        ("MESSAGES_UNREACHABLE", "3.3.40"),
        ("CUSTOM_IDENTITY", "3.0.1295"),
        ("IDENTITY_ORDER_OVERRIDE", "3.0.1295"),
    ],
)
def test_a_rule_says_which_version_changed_what_it_rests_on(code: str, since: str) -> None:
    assert f" {since} " in VERSIONS[code]


def test_a_rule_says_from_which_version_on_it_holds() -> None:
    for rule in RULES:
        first = ".".join(map(str, rule.versions.since)) or "of every version"
        assert rule.versions.said.startswith(f"agents {first}")


def test_agents_of_one_process() -> None:
    found = _offline(*OLD_HYBRID)
    assert found.identity == "OnPrem"
    assert {cause.code for cause in found.causes} == {"STALE_HYBRID", "AGENT_OLD"}
    assert _found(*OLD_IMDS) == {"IMDS_UNREACHABLE"}


def test_the_journal_s_words_before_the_agents_do_not_hide_them() -> None:
    journal = "2025-08-14T10:53:16-04:00 host amazon-ssm-agent.amazon-ssm-agent[346444]: "
    plain = (*START, REFUSED)
    assert _found(*(journal + line for line in plain)) == _found(*plain) == {"ROLE_DENIED"}


def test_a_worker_that_speaks_before_the_new_core_has_started_one_is_an_orphan() -> None:
    health = (
        "2026-11-23 06:04:00.0000 INFO [ssm-agent-worker] [HealthCheck] HealthCheck reporting agent health."
    )
    begins = "2026-11-23 06:03:00.0000 INFO [ssm-agent-worker] ssm-agent-worker - v3.3.1142.0"
    waits = "2026-11-23 06:02:00.0000 ERROR [CredentialRefresher] Retrieve credentials produced error: none"
    assert _found(*START, REFUSED, waits, health) == {"ROLE_DENIED", "ORPHAN_WORKER"}
    assert _found(*START, REFUSED, waits, begins, health) == {"ROLE_DENIED"}
    assert _found(*START, REFUSED, waits) == {"ROLE_DENIED"}
    assert _found(*START, begins, UP, health) == set()


def test_a_role_that_does_not_trust_ec2_is_denied_and_not_missing() -> None:
    line = (
        "2026-11-23 06:01:00.0000 WARN EC2RoleProvider Failed to connect to Systems Manager with instance"
        " profile role credentials. Err: AssumeRoleUnauthorizedAccess: EC2 cannot assume the role app"
    )
    assert _found(*START, line) == {"ROLE_DENIED"}
