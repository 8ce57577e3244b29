"""What agents of all ages say of one fault (cases/repair/wordings.txt), and what the rules make of it."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haltuun.stages.repair import logtail
from haltuun.stages.repair.agentlog import FILE
from haltuun.stages.repair.diagnose import Diagnosis, diagnose
from haltuun.stages.repair.facts import Agent, AgentConfig, LogLine, Process, RootCredentials, Vault
from haltuun.stages.repair.logtail import LogTail
from haltuun.stages.repair.rules import RULES

WORDINGS = Path(__file__).parents[2] / "cases" / "repair" / "wordings.txt"
LEVEL = re.compile(r"(DEBUG|INFO|WARN|ERROR) ")
STARTS = ["INFO Proxy environment variables:", *(f"INFO {name}: " for name in ("https_proxy", "http_proxy"))]
CHECK = "INFO Checking if agent identity type {} can be assumed"
TAKES = "INFO Agent will take identity from {}"
COMMON = {
    "@start": STARTS,
    "@as EC2": [*STARTS, CHECK.format("OnPrem"), CHECK.format("EC2"), TAKES.format("EC2")],
    "@as OnPrem": [*STARTS, CHECK.format("OnPrem"), TAKES.format("OnPrem")],
    "@online": [
        "INFO [ssm-agent-worker] ssm-agent-worker - v3.3.1142.0",
        "INFO [ssm-agent-worker] [MessageService] [MGSInteractor] Set up control channel successfully",
    ],
    "@no identity": [
        "ERROR Agent failed to assume any identity",
        "ERROR Error occurred when starting amazon-ssm-agent: failed to get identity: failed to find agent"
        " identity",
    ],
}


def _cases() -> Iterator[tuple[str, set[str], str]]:
    for block in WORDINGS.read_text().split("\n== ")[1:]:
        head, _, text = block.partition("\n")
        name, _, codes = head.partition(":")
        yield name, set(codes.split()), text.partition("\n\n#")[0].strip("\n")


CASES = {name: (codes, text) for name, codes, text in _cases()}


def _rows(text: str) -> list[str]:
    """An entry a minute."""
    lines = [line for row in text.split("\n") for line in COMMON.get(row, [row])]
    minute, rows = 0, []
    for line in lines:
        if LEVEL.match(line):
            minute += 1
            line = f"2026-11-23 {6 + minute // 60:02d}:{minute % 60:02d}:00.1234 {line}"
        rows.append(line)
    return rows


def _read(text: str, **more: object) -> Diagnosis:
    log = tuple(LogLine(file=FILE, line=n, text=row) for n, row in enumerate(_rows(text), 1))
    return diagnose(Agent.model_validate({"log": log, **more}))


def _codes(*entries: str, **more: object) -> set[str]:
    return {cause.code for cause in _read("\n".join(entries), **more).causes}


@pytest.mark.parametrize("name", CASES)
def test_wording(name: str) -> None:
    codes, text = CASES[name]
    assert _codes(text) == codes


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([name for name, (_, text) in CASES.items() if "agent - v" not in text]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([0, 1, 2]),
    st.integers(0, 3000),
)
def test_a_rule_finds_nothing_of_an_agent_that_is_older_than_it_holds_for(
    name: str, major: int, minor: int, build: int
) -> None:
    codes, text = CASES[name]
    holds = {rule.code for rule in RULES if (major, minor, build, 0) >= rule.versions.since}
    found = _codes(text, packages={"deb": f"{major}.{minor}.{build}.0-1"})
    assert found - {"AGENT_OLD"} == codes & holds - {"AGENT_OLD"}


@pytest.mark.parametrize(
    ("version", "codes"), [("3.0.1209.0-1", {"STALE_HYBRID"}), ("3.0.1295.0-1", {"IDENTITY_ORDER_OVERRIDE"})]
)
def test_an_order_of_identities_says_nothing_to_an_agent_older_than_it(version: str, codes: set[str]) -> None:
    found = diagnose(
        Agent(
            packages={"deb": version},
            config=AgentConfig(state="ok", consumption_order=("EC2",)),
            vault=Vault(
                manifest=True, key_file=True, instance_id="mi-0123456789abcdef0", region="x", private_key=True
            ),
        )
    )
    assert {cause.code for cause in found.causes} == codes


@pytest.mark.parametrize(
    "said",
    [
        "WARN EC2RoleProvider Failed to connect to Systems Manager with instance profile role credentials."
        " Skipping default host management fallback: retrieved credentials failed to report to ssm. Error:"
        " InternalServerError: An error occurred on the server side.",
        "ERROR [amazon-ssm-agent] [LongRunningWorkerContainer] [WorkerProvider] failed to start worker"
        " ssm-agent-worker, fork/exec /usr/bin/ssm-agent-worker: permission denied",
    ],
)
def test_what_no_rule_knows_is_shown_until_it_is_over(said: str) -> None:
    found = _read(f"@as EC2\n{said}")
    assert found.causes == () and found.unexplained is not None and said in found.unexplained.text
    ready = "INFO EC2RoleProvider Successfully connected with instance profile role credentials"
    assert _read(f"@as EC2\n{said}\n{ready}\n@online").unexplained is None


def test_a_worker_that_cannot_be_started_is_told_with_the_reason() -> None:
    provider = "[amazon-ssm-agent] [LongRunningWorkerContainer] [WorkerProvider]"
    tries = f"INFO {provider} Worker ssm-agent-worker is not running, starting worker process"
    fails = (
        f"ERROR {provider} failed to start worker ssm-agent-worker, fork/exec /usr/bin/x: permission denied"
    )
    (cause,) = _read("\n".join(["@as EC2", *(tries, fails) * 3])).causes
    assert cause.code == "AGENT_CRASHES"
    assert any("permission denied" in line.text for line in cause.evidence)


def _csv(entry: str, n: int) -> str:
    return f"2026-11-23 06:00:{n % 60:02d}.000,{entry}"


def _quoted(entry: str, n: int) -> str:
    return f'{n},"{entry.replace(chr(34), chr(34) * 2)}"'


def _json(entry: str, n: int) -> str:
    return json.dumps({"timestamp": n, "message": entry})


def _coloured(entry: str, n: int) -> str:
    return "\n".join(f"\x1b[3{n % 8}m{row}\x1b[0m" for row in entry.split("\n"))


# Of two, what the last line's closing quotes stand behind decides.
@pytest.mark.parametrize(
    ("form", "not_told"),
    [
        (_csv, ()),
        (_json, ()),
        (_coloured, ()),
        (_quoted, ("refused, closed", "endpoint of somebody's own, by the log")),
    ],
)
def test_a_log_says_the_same_in_whatever_carries_it(
    form: Callable[[str, int], str], not_told: tuple[str, ...]
) -> None:
    """Insights of CloudWatch Logs give the newest entry first. How it died is no line of the agent's own."""
    for name, (codes, text) in CASES.items():
        if "AGENT_CRASHES" in codes or "started too often" in name or name in not_told:
            continue
        entries = re.split(r"\n(?=2026-11-23 )", "\n".join(_rows(text)))
        carried = [form(entry, n) for n, entry in enumerate(entries)]
        for rows in (carried, carried[::-1] if form is not _coloured else carried):
            tail = LogTail("/export.csv")
            tail.feed(io.BytesIO("\n".join(rows).encode()))
            assert {cause.code for cause in diagnose(Agent(log=tail.lines())).causes} == codes, name


@pytest.mark.parametrize("form", [_csv, _quoted, _json])
def test_of_an_export_that_has_the_newest_first_the_last_start_counts(
    form: Callable[[str, int], str],
) -> None:
    """However many are before it, and though core and worker may be a second at odds."""
    stale = "@as OnPrem\n@online\nINFO [ssm-agent-worker] Bye.\nINFO [amazon-ssm-agent] Bye.\n"
    rows = _rows(stale * (logtail.STARTS + 4) + "@as EC2\n@online")
    rows[-2], rows[-1] = rows[-1], rows[-2]
    tail = LogTail("/export.csv")
    tail.feed(io.BytesIO("\n".join(form(row, n) for n, row in enumerate(rows)).encode()))
    backwards = LogTail("/export.csv")
    backwards.feed(io.BytesIO("\n".join(form(row, n) for n, row in enumerate(rows[::-1])).encode()))
    for one in (tail, backwards):
        found = diagnose(Agent(log=one.lines()))
        assert (found.identity, found.connected, found.causes) == ("EC2", True, ())


def test_what_grep_puts_before_a_line_that_names_the_agent_makes_no_journal_of_it() -> None:
    rows = _rows("@start\n@no identity")
    assert rows[-1].endswith(
        "when starting amazon-ssm-agent: failed to get identity: failed to find agent identity"
    )
    for before in ("12:", "/var/log/amazon/ssm/amazon-ssm-agent.log:"):
        tail = LogTail("/grep.txt")
        tail.feed(io.BytesIO("\n".join(before + row for row in rows).encode()))
        assert [cause.code for cause in diagnose(Agent(log=tail.lines())).causes] == ["IMDS_UNREACHABLE"]


def test_the_lines_that_a_long_log_lets_go_of_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("RAW_BYTES", "OLDER_BYTES", "RAW_LINES", "HEAD_LINES", "TAIL_LINES"):
        monkeypatch.setattr(logtail, bound, 1)
    let_go = 0
    for name, (codes, text) in CASES.items():
        rows = _rows(text)
        noted = [f"{row[:25]}INFO nothing of note\n{row}" if row[:4] == "2026" else row for row in rows]
        tail = LogTail("/log")
        tail.feed(io.BytesIO("\n".join(noted).encode()))
        found, whole = diagnose(Agent(log=tail.lines())), _read(text)
        assert {cause.code for cause in found.causes} == codes, name
        assert (found.identity, found.connected) == (whole.identity, whole.connected), name
        let_go += len(noted) + sum("nothing of note" in row for row in noted) - len(tail.lines())
    assert let_go > len(CASES)


def test_what_the_agent_cannot_load_though_it_is_json() -> None:
    broken = "ERROR Error occurred when starting amazon-ssm-agent: app config could not be loaded - "
    typed = broken + "json: cannot unmarshal string into Go"
    fine = {"config": AgentConfig(state="ok")}
    assert _codes("@start", typed, **fine) == {"CONFIG_BROKEN"}
    assert _codes("@start", typed, **fine, processes=RUNS) == {"CONFIG_BROKEN"}
    assert _codes("@start", typed, **fine, processes=()) == {"AGENT_STOPPED"}  # mended since, it may be
    assert _codes("@start", typed, config=AgentConfig(state="absent")) == set()
    assert _codes("@start", broken + "unexpected end of JSON input", **fine) == set()  # mended since


def test_a_registration_without_metadata_is_meant_only_as_far_as_files_tell() -> None:
    text = CASES["no instance of EC2"][1]
    assert _codes(text) == set()
    assert _codes(text, processes=RUNS) == {"STALE_HYBRID"}  # what it is, the account tells


def test_where_the_log_does_not_tell_the_proxies_the_running_agent_does() -> None:
    late = CASES["proxy that answers too late"][1].partition("INFO Agent will take")[2]
    rows = f"INFO Agent will take{late}"
    proxy = "https_proxy=http://10.0.0.8:3128"
    assert _codes(rows) == {"EGRESS_BLOCKED"}
    assert _codes(rows, processes=RUNS, proxy=(proxy,)) == {"PROXY_CONFIGURED"}
    assert _codes(rows, processes=RUNS, proxy=(proxy, "NO_PROXY=.amazonaws.com")) == {"EGRESS_BLOCKED"}
    assert _codes("@start", rows, processes=RUNS, proxy=(proxy,)) == {"EGRESS_BLOCKED"}  # set since


def test_the_core_gives_up_and_not_its_worker() -> None:
    failed = "error occurred when starting amazon-ssm-agent: x"
    by_worker = f"ERROR [ssm-agent-worker] {failed}"
    core = "INFO [amazon-ssm-agent] Starting Core Agent: amazon-ssm-agent - v3.0.529.0"
    again = f"INFO [ssm-agent-worker] [instanceID={EC2}] Starting Agent: amazon-ssm-agent - v3.0.529.0"
    for rows in ([by_worker, again], [by_worker, again, "@online"], [f"ERROR {failed}", again, "@online"]):
        found = _read("\n".join(["@start", core, *rows]))
        assert (found.identity, found.instance_id) == ("EC2", EC2)
    assert _read(f"@start\n{core}\nERROR {failed}\n{again}").identity is None


SENT = (
    "DEBUG [ssm-document-worker] [0f1e] received output: starting the shop",
    "DEBUG [ssm-session-worker] [jane] output: $ ./shop",
    "INFO [ssm-agent-worker] Sending reply {",
)
DEATHS = (
    "panic: password=hunter2\n\ngoroutine 1 [running]:",
    "Jan 03 03:00:00 web systemd[1]: amazon-ssm-agent.service: Main process exited, code=killed, status=9/K\n"
    "Jan 03 03:00:00 web systemd[1]: amazon-ssm-agent.service: Failed with result 'oom-kill'.",
    "Jan 03 03:00:00 web amazon-ssm-agent[7]: panic: password=hunter2\ngoroutine 1 [running]:",
)


@pytest.mark.parametrize("dies", DEATHS)
@pytest.mark.parametrize("sent", SENT)
def test_a_program_of_people_s_that_dies_is_not_the_agent(sent: str, dies: str) -> None:
    assert _codes("@as EC2", "@online", sent, dies) == set()
    assert _codes("@as EC2", "@online", "INFO x", dies) == {"AGENT_CRASHES"}


@pytest.mark.parametrize("dies", DEATHS)
def test_what_a_death_continues_may_have_been_cut_out_of_the_agent_s_log(dies: str) -> None:
    """The live look takes the last start's first lines, and the newest."""
    rows = [*COMMON["@as EC2"], *COMMON["@online"]]
    head = [f"2026-11-23 06:00:00.1234 {row}" for row in rows]
    for first, more in ((len(head) + 900, head), (1, [])):
        cut = [LogLine(file=FILE, line=n, text=row) for n, row in enumerate(more, 1)]
        cut += [LogLine(file=FILE, line=n, text=row) for n, row in enumerate(dies.split("\n"), first)]
        cut.append(LogLine(file=FILE, line=first + 5, text="2026-11-23 06:00:01.1234 INFO x"))
        assert not diagnose(Agent(log=tuple(cut))).causes


def test_a_death_in_the_journal_stands_behind_whatever_was_sent() -> None:
    said = "Jan 03 03:00:00 web amazon-ssm-agent[7]: 2026-11-23 06:00:00.1234 "
    rows = [said + row for row in (*COMMON["@as EC2"], *SENT)] + DEATHS[1].split("\n")
    log = tuple(LogLine(file="/var/log/syslog", line=n, text=row) for n, row in enumerate(rows, 1))
    assert {cause.code for cause in diagnose(Agent(log=log)).causes} == {"AGENT_CRASHES"}


def test_words_that_repeat_are_looked_at_once() -> None:
    line = "no EC2 instance role found " * 50
    began = time.process_time()
    assert _codes("@as EC2", "WARN EC2RoleProvider " + "\n".join([line] * 99)) == {"ROLE_MISSING"}
    assert time.process_time() - began < 5  # a hundredth; tried from each of them, a minute


RUNS = (Process(comm="amazon-ssm-agen", pid=1), Process(comm="ssm-agent-worke", pid=2))
MGS = "INFO [ssm-agent-worker] [MessageService] [MGSInteractor] "
MI, EC2 = "mi-0aa11bb22cc33dd44", "i-0a1b2c3d"


@pytest.mark.parametrize(
    ("entry", "identity", "instance_id"),
    [
        (f"{MGS}Setting up websocket for controlchannel for instance: {MI}, requestId: 1", "OnPrem", MI),
        (f"INFO [instanceID={EC2}] Starting Agent: amazon-ssm-agent - v2.3.634.0", "EC2", EC2),
        (f"ERROR AccessDeniedException: User: arn:aws-cn:sts::1:assumed-role/r/{EC2} is not", "EC2", EC2),
        ("INFO [ssm-agent-worker] Agent will take identity from OnPrem", "OnPrem", None),
        (f"INFO [ssm-agent-worker] [instanceID={MI}] core manager stop requested. timeout: 5s", None, None),
    ],
)
def test_a_log_without_a_start_tells_who_the_agent_is(
    entry: str, identity: str | None, instance_id: str | None
) -> None:
    found = _read(entry)
    assert (found.identity, found.instance_id) == (identity, instance_id)


def test_an_orphan_s_channel_is_not_the_agent_s() -> None:
    text = CASES["an orphan's channel is not the new core's"][1]
    assert not _read(text).connected
    assert _read(f"{text}\nINFO [CredentialRefresher] Credentials ready\n@online").connected
    assert not _read(f"{text}\nINFO [ssm-agent-worker] ssm-agent-worker - v3.3.1142.0").connected


SKEWED = (
    "2027-05-01 06:00:00.1 ERROR [Registrar] failed to register identity: error calling"
    " RegisterManagedInstance API: InvalidSignatureException: Signature not yet current: 20270501T060100Z"
)
BLOCKED = (
    "2026-11-20 06:00:00.1 ERROR [Registrar] failed to register identity: RequestError: send request failed",
    'caused by: Post "https://ssm.sa-east-1.amazonaws.com/": dial tcp 10.1.1.1:443: i/o timeout',
)


def _at(*rows: str, file: str = FILE) -> set[str]:
    log = tuple(LogLine(file=file, line=n, text=row) for n, row in enumerate(rows, 1))
    return {cause.code for cause in diagnose(Agent(log=log)).causes}


def test_errors_from_before_the_clock_was_set_back_are_over() -> None:
    errors = FILE.replace("amazon-ssm-agent.log", "errors.log")
    assert _at(SKEWED, *BLOCKED, file=errors) == {"EGRESS_BLOCKED"}
    assert _at(*BLOCKED, SKEWED, file=errors) == {"CLOCK_SKEW"}


def test_what_was_said_in_a_time_to_come_gets_old_too() -> None:
    up = [f"2026-11-20 12:00:00.1 {row}" for row in (*COMMON["@as EC2"], *COMMON["@online"])]
    full = (
        "2026-11-20 12:00:01.1 ERROR [ssm-agent-worker] write /var/lib/amazon/ssm/x: no space left on device"
    )
    health = (
        "2026-11-20 {:02d}:00:00.1 INFO [ssm-agent-worker] [HealthCheck] HealthCheck reporting agent health."
    )
    assert _at(*up, full, health.format(7)) == {"DISK_FULL"}
    assert _at(*up, full, health.format(7), health.format(11)) == set()
    assert _at(*up, health.format(7), health.format(11), full) == {"DISK_FULL"}


REGISTERED = Vault(manifest=True, key_file=True, instance_id=MI, region="eu-west-3", private_key=True)


def test_a_registration_that_the_last_start_did_not_try_is_not_taken_as_far_as_its_log_tells() -> None:
    alone = (*STARTS, CHECK.format("EC2"), TAKES.format("EC2"), "@online")
    assert _codes(*alone, vault=REGISTERED) == {"IDENTITY_ORDER_OVERRIDE"}
    assert _codes(*alone, vault=REGISTERED, config=AgentConfig(state="ok")) == {"STALE_HYBRID"}  # since then
    assert _codes("@as EC2", "@online", vault=REGISTERED) == {"STALE_HYBRID"}
    assert _codes(TAKES.format("EC2"), "@online", vault=REGISTERED) == {"STALE_HYBRID"}


def test_of_files_alone_no_more_is_said_than_they_tell() -> None:
    key = RootCredentials(present=True, sections=("default", "prod"), default_kind="temporary")
    taken, *_, shadowed = _read("@as OnPrem\n@online", vault=REGISTERED, credentials=key).causes
    assert "if this is an EC2 instance" in taken.message
    assert "or a person's" in shadowed.message and "may be a person's" in shadowed.evidence[0].text
    live = _read("@as OnPrem\n@online", vault=REGISTERED, credentials=key, processes=RUNS).causes
    assert "although this is an EC2 instance" in live[0].message


def test_a_registration_of_any_machine_is_shown_to_be_one() -> None:
    anyone = REGISTERED.model_copy(update={"similarity_threshold": -1})
    for vault, shown in ((REGISTERED, False), (anyone, True)):
        (stale,) = _read("@as OnPrem\n@online", vault=vault).causes
        assert any("similarityThreshold=-1" in line.text for line in stale.evidence) is shown


def test_an_order_that_changes_nothing_is_no_other_order() -> None:
    short = AgentConfig(state="ok", consumption_order=("OnPrem", "EC2"))
    assert _codes("@as EC2", "@online", config=short) == set()
    assert _codes("@as EC2", "@online", config=short.model_copy(update={"custom_identities": (MI,)})) == {
        "IDENTITY_ORDER_OVERRIDE",
        "CUSTOM_IDENTITY",
    }
    alone = short.model_copy(update={"consumption_order": ("OnPrem",)})
    assert _codes("@as EC2", "@online", config=alone) == {"IDENTITY_ORDER_OVERRIDE"}


def test_a_certificate_that_has_expired_may_be_a_clock_that_is_ahead() -> None:
    text = (
        "ERROR [Registrar] failed to register identity: RequestError: send request failed\n"
        'caused by: Post "https://ssm.sa-east-1.amazonaws.com/": tls: failed to verify certificate: x509:'
        " certificate has expired or is not yet valid: current time 2046-01-01T00:00:10Z is after 2027-01-01"
    )
    (cause,) = _read(f"@as EC2\n{text}").causes
    assert cause.code == "TLS_UNTRUSTED" and "clock" in cause.remedy
