"""Hosts say whatever they like: what cannot be read is unknown, and nobody's neighbours notice."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import haltuun.stages
from haltuun.config import AccountConfig, Config
from haltuun.engine import open_run
from haltuun.errors import HaltuunError, Unreachable
from haltuun.ledger import Ledger
from haltuun.model import Change, Host, Reach, StageName
from haltuun.simulated import SimulatedTransport
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.discover.parse_inside import parse_inside as parse_discovered
from haltuun.stages.logs.agent_config import wanted_config
from haltuun.stages.patch.probe import family_from
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.kinds import KINDS, concluded
from haltuun.stages.repair.parse import parse_agent, parse_config
from haltuun.stages.verify.facts import VerifyFacts
from haltuun.stages.verify.needs import needs_fallback
from haltuun.stages.verify.parse_host import parse_inside as parse_verified
from haltuun.transport import Result

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOST = Host(account="111122223333", region="eu-central-1", instance_id="i-0abc1234def567890", name="web-01")
KEY = re.compile(r'(?:(?:first|rows|number|whole|_one|_yes|_number)\((?:lines, )?|lines\[)"([^"]+)"')
SOURCES = Path(haltuun.stages.__file__).parent
PROBES = Path(__file__).parents[1] / "cases" / "repair" / "probe"

# What a host may print instead of a value: numbers that are none, escapes, markup, very long, nothing.
ODD = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        (
            *(
                "",
                "nan",
                "inf",
                "-1e999",
                "1e400",
                "9" * 5000,
                "²",
                "0x10",
                "1.2.3.4:99999",
                "::",
                "yes",
                "ok",
            ),
            *("\x1b[2J", "\x00", "\ufffd", "<script>", "[red]", "=cmd()", "../../x", "[" * 5000, '{"a":'),
        )
    ),
)


def keys_of(*packages: str) -> list[str]:
    """The words by which a stage's parsers find a line, from their source."""
    found: set[str] = set()
    for package in packages:
        for source in (*(SOURCES / package).glob("parse*.py"), *(SOURCES / package).glob("listeners.py")):
            found.update(
                re.findall(
                    r'(?:first|rows|number|whole|_one|_yes|_number)\((?:lines, )?"([^"]+)"',
                    source.read_text(),
                )
            )
            found.update(re.findall(r'lines\["([^"]+)"\]', source.read_text()))
    assert len(found) > 5, packages
    return sorted(found)


def printed(keys: list[str], between: str) -> st.SearchStrategy[str]:
    line = st.builds(
        lambda key, fields: key + between + between.join(fields),
        st.one_of(st.sampled_from(keys), ODD),
        st.lists(ODD, min_size=1, max_size=5),
    )
    return st.lists(line, max_size=30).map("\n".join)


def view() -> View:
    account = AccountConfig(id=HOST.account, alias="acme")
    return View(
        account=account,
        config=Config(accounts=[account]),
        account_id=HOST.account,
        partition="aws",
        now=NOW,
        run_id="r",
        hosts={HOST.instance_id: HOST},
        entering=(),
        facts={},
        account_facts={},
    )


def raw(text: str) -> dict[str, Any]:
    return {"stdout": text, "way": "ssh", "asked_at": NOW.timestamp(), "answered_at": NOW.timestamp() + 1}


@settings(max_examples=60)
@given(printed(keys_of("discover"), "\t"))
def test_discover_reads_anything(text: str) -> None:
    heads = "probe\t1\nimds.instance-id\t" + HOST.instance_id + "\ndone\tlisteners\ndone\tlogs\n"
    facts = DiscoverFacts(observed_at=NOW, **parse_discovered(HOST, HOST.account, {}, raw(heads + text)))
    json.loads(facts.model_dump_json())
    json.dumps(facts.row(), allow_nan=False)
    # These look at all hosts of the account together.
    family_from(facts)
    assert wanted_config("acme", facts, text[:20]).mode


@settings(max_examples=60)
@given(printed(keys_of("verify"), "\t"))
def test_verify_reads_anything(text: str) -> None:
    columns = parse_verified(view(), HOST, None, raw("verify\t1\n" + text))
    facts = VerifyFacts(observed_at=NOW, **columns)
    json.loads(facts.model_dump_json())
    json.dumps(facts.row(), allow_nan=False)


@settings(max_examples=60)
@given(printed(keys_of("repair"), "="), st.sampled_from(sorted(PROBES.glob("*.txt"))))
def test_repair_reads_anything_or_says_that_it_cannot(text: str, probe: Path) -> None:
    lines = probe.read_text().splitlines()
    whole = "\n".join([*lines[:-1], text, lines[-1]])
    try:
        agent = parse_agent(whole)
    except ValueError:
        return
    json.loads(agent.model_dump_json())
    assert all(cause.evidence for cause in diagnose(agent).causes)


CHANGE = Change(
    stage=StageName.repair,
    kind="agent.config",
    region=HOST.region,
    target=HOST.instance_id,
    hosts=(HOST.instance_id,),
    before={"config": "a"},
    after={"config": "b"},
    reach=Reach.host,
    summary="Mend its configuration.",
    no_undo="A test's.",
)
OUTCOMES = ("done", "not_taken", "not_proven", "silenced", "wrong_box", "stale", "refused", "failed", "")
REPORTED = [
    *("changed", "reason", "restored", "hint", "clock", "box", "silenced", "still_silenced"),
    *("log", "log=1:2026-11-23 10:00:00 ERROR x\nlog", "log=x:foo\nlog", "result"),
]


@settings(max_examples=60)
@given(st.sampled_from(OUTCOMES), printed(REPORTED, "="), st.integers(0, 255), ODD)
def test_a_jobs_report_of_anything_is_its_result_or_a_sentence_with_a_code(
    outcome: str, text: str, code: int, errors: str
) -> None:
    """Else it would be a fault of Haltuun's, and the host worse after a change that changed nothing."""
    result = Result(exit_code=code, stdout=f"{text}\nchanged=no\nresult={outcome}\n", stderr=errors)
    try:
        json.dumps(concluded(CHANGE, result))
        assert outcome == "done"
    except HaltuunError as error:
        assert outcome != "done" and error.message and error.remedy
        assert error.unchanged == (outcome != "silenced")


@pytest.mark.parametrize("number", ["x", "²", "9" * 5000, "", "-1"])
def test_a_line_without_its_number_takes_none_of_the_others_along(number: str) -> None:
    told = (
        "2026-11-23 10:00:00 ERROR EC2RoleProvider Failed to connect to Systems Manager with instance profile"
    )
    printed = f"log={number}:foo\nlog=7:{told} role credentials. NoCredentialProviders\nchanged=no\n"
    with pytest.raises(HaltuunError) as raised:
        concluded(CHANGE, Result(exit_code=1, stdout=printed + "result=not_proven\n", stderr=""))
    assert raised.value.code == "NOT_PROVEN" and raised.value.unchanged


def _gone(script: str, env: object, files: object) -> Result:
    raise Unreachable("it went away.", subject=HOST.instance_id, remedy="Look.")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda script, env, files: Result(exit_code=0, stdout="root=yes\n", stderr=""), "PROBE_UNREADABLE"),
        (_gone, "SSH_UNREACHABLE"),
    ],
)
def test_what_fails_at_the_look_before_a_job_is_known_to_have_changed_nothing(
    answer: Any, code: str, tmp_path: Path
) -> None:
    account = AccountConfig(id=HOST.account, alias="acme", regions=[HOST.region])
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    config = Config(accounts=[account])
    run = open_run(config, "acme", "apply", lambda run, host: SimulatedTransport(answer), ledger=ledger)
    with pytest.raises(HaltuunError) as raised:
        KINDS[CHANGE.kind].apply(run, CHANGE)
    assert raised.value.code == code and raised.value.unchanged and raised.value.remedy


NO_NUMBERS = ("²", "9" * 5000, "", "-1", "٣", "0x10", "nan")


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_what_counts_as_digits_and_is_no_number_spoils_nothing_else(number: str) -> None:
    """str.isdigit() says yes to the first, and int() to neither of the first two."""
    shown = f"listener\ttcp\t0.0.0.0\t{number}\t1\nlistener\ttcp\t0.0.0.0\t22\t1\ndone\tlisteners\n"
    shown += f"process\t1\tsshd\t/usr/sbin/sshd\t\t{number}\ndisk\t/\t{number}\t{number}\n"
    shown += f"openssh\tOpenSSH_{number}.{number}\nrelease\t{number}.{number}\n"
    columns = parse_discovered(HOST, HOST.account, {}, raw(f"probe\t1\n{shown}"))
    facts = DiscoverFacts(observed_at=NOW, **columns)
    assert isinstance(facts.listeners, tuple) and 22 in {one.port for one in facts.listeners}
    # Of the account all hosts are looked up together: a version that is none must not end that.
    assert needs_fallback(f"3.{number}.1", HOST.region) in (True, False)
    inside = parse_verified(
        view(), HOST, facts, raw(f"verify\t1\nimds.v2\tno\nimds.instance-id\t{HOST.instance_id}")
    )
    assert VerifyFacts(observed_at=NOW, **inside).observed_at == NOW


@pytest.mark.parametrize("text", ["[" * 100_000, '{"identity":' * 20_000, "\x00", "[]", "7"])
def test_a_configuration_that_is_no_object_is_broken(text: str) -> None:
    assert parse_config(text).state == "broken"
