"""How the agent ended by a live host's journal: the script in each shell, and what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from haltuun.model import Unknown
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.facts import Agent, RepairFacts
from haltuun.stages.repair.judge import judge_host
from haltuun.stages.repair.parse import parse_agent
from haltuun.stages.repair.probe import script
from haltuun.stages.repair.sides import Sides
from tests.stages.fakehost import SHELLS, FakeHost, fake_host

FUNCTIONS = script("host.sh", "probe.sh").partition("\nwait_for_job\nsay root")[0]
START = "2026-11-23 06:00:01.0000 INFO Proxy environment variables:"
TOOK = "2026-11-23 06:00:02.0000 INFO Agent will take identity from EC2"
UP = "2026-11-23 06:00:03.0000 INFO [ssm-agent-worker] [MGSInteractor] Set up control channel successfully"
PANIC = (
    "panic: assignment to entry in nil map",
    "",
    "goroutine 44 [running]:",
    "main.run(0xc000)",
    "\t/go/x.go:9",
)
UNIT = "amazon-ssm-agent.service: "
EXITED = f"{UNIT}Main process exited, code=exited, status=2/INVALIDARGUMENT"


def printed(*lines: str) -> list[str]:
    """As `journalctl -o short-iso` has them."""
    at = "2026-11-23T06:00:09+0000 ip-10-0-0-5"
    by = (
        ("systemd[1]" if line.startswith(("amazon", "Unit", "start")) else "amazon-ssm-agent[812]")
        for line in lines
    )
    return [f"{at} {who}: {line}" for who, line in zip(by, lines, strict=True)]


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return fake_host(tmp_path)


def look(host: FakeHost, shell: str = "dash", init: str = "systemd") -> str:
    mine = f"PATH={host.bin}\nUPSTART_LOG={host.root}/upstart.log\ninit_system() {{ echo {init}; }}"
    done = host.run(shell, f"{FUNCTIONS}\n{mine}\nlook_at_journal\n")
    assert done.stderr == ""
    return done.stdout


def keeps(host: FakeHost, lines: Sequence[str], then: str = "exit 0") -> None:
    """The host's journalctl; it refuses options that it was not made for."""
    kept = host.root / "kept"
    kept.write_text("".join(f"{line}\n" for line in lines))
    asked = "-u amazon-ssm-agent -q --no-pager -n 2000 -o short-iso"
    host.tool("journalctl", f'[ "$*" = "{asked}" ] || exit 9\ncat {kept}\n{then}')


def agent(said: str, log: Sequence[str] = (START, TOOK, UP), *more: str) -> Agent:
    own = [f"log={n}:{line}" for n, line in enumerate(log, 1)]
    there = "yes" if log else "no"
    rest = (f"log_file={there}", f"log_read={there}", "binary=/usr/bin/amazon-ssm-agent", *more, "end=yes")
    return parse_agent("\n".join((*own, said, *rest)))


def codes(found: Agent) -> list[str]:
    return [cause.code for cause in diagnose(found).causes]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_runtimes_last_words_are_a_cause_on_a_live_host(host: FakeHost, shell: str) -> None:
    keeps(host, printed(START, TOOK, UP, *PANIC, EXITED))
    found = agent(look(host, shell))
    (cause,) = diagnose(found).causes
    assert cause.code == "AGENT_CRASHES"
    assert [(line.file, line.text) for line in cause.evidence] == [
        ("journalctl -u amazon-ssm-agent", PANIC[0]),
        ("journalctl -u amazon-ssm-agent", EXITED),
    ]
    assert codes(agent("")) == [], "the agent's own log does not have it"


@pytest.mark.parametrize("shell", SHELLS)
def test_upstart_keeps_what_the_agent_printed(host: FakeHost, shell: str) -> None:
    (host.root / "upstart.log").write_text("".join(f"{line}\n" for line in (START, TOOK, UP, "x", *PANIC)))
    assert codes(agent(look(host, shell, "upstart"))) == ["AGENT_CRASHES"]


# systemd before 220 has other words: Amazon Linux 2, CentOS 7.
OLD = f"{UNIT}main process exited, code=killed, status=11/SEGV"
AGAIN = START.replace("-23 06:", "-24 06:")


@pytest.mark.parametrize(
    ("journal", "log", "expected"),
    [
        ((START, TOOK, OLD), (START, TOOK), ["AGENT_CRASHES"]),
        ((START, TOOK, OLD, f"{UNIT[:-2]} holdoff time over, scheduling restart."), (START, TOOK), []),
        ((START, TOOK, f"{UNIT[:-2]} stop-sigterm timed out. Killing.", OLD), (START, TOOK), []),
        (
            (START, "start request repeated too quickly for amazon-ssm-agent.service"),
            (START,),
            ["AGENT_CRASHES"],
        ),
        ((START, *PANIC, EXITED), (), ["AGENT_CRASHES"]),  # before it could write a log
        ((START, *PANIC, EXITED, AGAIN, TOOK), (START, AGAIN, TOOK), []),
        ((START, *PANIC, EXITED), (START, AGAIN), []),  # what it prints is not kept since
        ((START, *PANIC, EXITED), (UP,), []),  # nothing tells which of the two was later
        ((START, TOOK, UP), (START, TOOK, UP), []),
    ],
)
def test_only_an_end_that_still_holds(
    host: FakeHost, journal: tuple[str, ...], log: tuple[str, ...], expected: list[str]
) -> None:
    keeps(host, printed(*journal))
    assert codes(agent(look(host), log)) == expected


def test_whether_it_was_started_since_is_unknown_where_neither_tells(host: FakeHost) -> None:
    for journal, log in (((UP, *PANIC, EXITED), (START, TOOK)), ((START, *PANIC, EXITED), (UP,))):
        keeps(host, printed(*journal))
        assert isinstance(agent(look(host), log).died, Unknown)


def test_an_agent_that_is_gone_does_not_die(host: FakeHost) -> None:
    keeps(host, printed(START, *PANIC, EXITED))
    found = agent(look(host), ()).model_copy(update={"binary": "", "packages": {}})
    assert codes(found) == ["AGENT_MISSING"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_journal_that_is_not_whole_is_unknown(host: FakeHost, shell: str) -> None:
    assert isinstance(agent(look(host, shell)).died, Unknown), "no journalctl"
    keeps(host, [])
    assert isinstance(agent(look(host, shell)).died, Unknown), "no journal, or none that may be read"
    keeps(host, printed(START, TOOK, *PANIC), "exit 124")
    assert isinstance(agent(look(host, shell)).died, Unknown), "broken off"
    assert isinstance(agent(look(host, shell, "upstart")).died, Unknown)
    assert look(host, shell, "sysv") == ""
    keeps(host, printed(START, TOOK))
    assert agent(look(host, shell)).died == ()


def test_how_a_stopped_agent_ended_is_told_or_said_to_be_unknown(host: FakeHost) -> None:
    def told(seen: Agent) -> list[str]:
        stopped = seen.model_copy(update={"processes": (), "binary": "/usr/bin/amazon-ssm-agent"})
        facts = RepairFacts(agent=stopped, found=diagnose(stopped).causes)
        found = judge_host("i-0abc1234def567890", facts, Sides(facts, None, None))
        return [line for one in found for line in one.evidence if "how the agent ended" in line]

    unread = ["how the agent ended is not known: no journal of it is kept, or it could not be read"]
    assert told(agent(look(host), (START, TOOK))) == unread
    assert told(agent(look(host), (START, TOOK, "2026-11-23 06:00:04.0000 INFO Bye."))) == []
    keeps(host, printed(UP, *PANIC, EXITED))
    assert told(agent(look(host), (START, TOOK))) == [
        "how the agent ended is not known: whether the agent was started after it died"
    ]
    keeps(host, printed(START, TOOK))
    assert told(agent(look(host), (START, TOOK))) == []


def test_no_word_of_a_session_is_printed_and_a_program_in_it_is_not_the_agent(host: FakeHost) -> None:
    relayed = "2026-11-23 06:00:05.0000 DEBUG [ssm-agent-worker] Sending reply {"
    keeps(host, printed(START, TOOK, relayed, "password: hunter2-typed", *PANIC, "hunter2-again"))
    said = look(host)
    assert "hunter2" not in said and "Sending reply" in said
    assert codes(agent(said)) == []


@pytest.mark.parametrize("over", [5, 12, 15])
def test_a_proxys_password_stays_on_the_host(host: FakeHost, over: int) -> None:
    """Also where the password itself is cut: at 400 characters of a journal's line, and at 700 of a log's."""
    head, proxy = "2026-11-23 06:00:01.0000 INFO ", "https_proxy: http://bob:hunter2@proxy:3128"
    before = len(printed(head)[0])
    keeps(host, printed(START, head + proxy, head + proxy.rjust(400 + over - before)))
    said = look(host)
    assert "hunt" not in said and "proxy:3128" in said
    own = host.root / "agent.log"
    own.write_text(f"{START}\n{head}{proxy}\n{head}{proxy.rjust(700 + over - len(head))}\n")
    said = host.run("dash", f"{FUNCTIONS}\nPATH={host.bin}\nAGENT_LOG={own}\nlook_at_log").stdout
    assert "hunt" not in said and "proxy:3128" in said and max(map(len, said.splitlines())) <= 704


@pytest.mark.parametrize("shell", SHELLS)
def test_a_line_s_number_is_no_user_and_its_text_no_password(host: FakeHost, shell: str) -> None:
    own = host.root / "agent.log"
    own.write_text(f"{START}\ngit@github.com: Permission denied (publickey).\n")
    said = host.run(shell, f"{FUNCTIONS}\nPATH={host.bin}\nAGENT_LOG={own}\nlook_at_log").stdout
    found = parse_agent(f"{said}end=yes\n").log
    assert not isinstance(found, Unknown) and [line.line for line in found] == [1, 2]


def test_the_last_start_is_there_however_much_it_has_said_since(host: FakeHost) -> None:
    trace = [line for n in range(200) for line in (f"goroutine {n} [select]:", "main.wait()")]
    keeps(host, printed(START, TOOK, *[UP] * 1000, "fatal error: all is lost", *trace, EXITED))
    said = look(host)
    assert codes(agent(said)) == ["AGENT_CRASHES"]
    assert said.count("\njournal=") == 105 and said.count("goroutine") == 1
