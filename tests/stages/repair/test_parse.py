"""probe.sh's output, recorded on lab hosts, and the odd files that people leave."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest

from haltuun.ledger import Ledger
from haltuun.model import Change, Host, StageName, Unknown
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.facts import Agent, RepairFacts
from haltuun.stages.repair.parse import parse_agent, parse_config
from haltuun.stages.repair.probe import script
from haltuun.stages.repair.state import UNKNOWN, as_planned, state_of
from tests.stages.fakehost import SHELLS, fake_host, metadata_service

PROBES = Path(__file__).parents[2] / "cases" / "repair" / "probe"

EXPECTED = {
    "healthy": ("EC2", set(), "deb", True),
    "stale-half": ("OnPrem", {"STALE_HYBRID", "HALF_REPAIRED", "CREDENTIALS_SHADOWED"}, "deb", True),
    "stale-refused": (
        "OnPrem",
        {"STALE_HYBRID", "FINGERPRINT_MISMATCH", "CREDENTIALS_SHADOWED"},
        "deb",
        True,
    ),
    "no-agent": (None, {"AGENT_MISSING"}, "none", False),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_recorded_probe(case: str) -> None:
    agent = parse_agent((PROBES / f"{case}.txt").read_text())
    found = diagnose(agent)
    seen = (found.identity, {cause.code for cause in found.causes}, agent.package, agent.running)
    assert seen == EXPECTED[case]


def test_a_cut_output_is_no_fact() -> None:
    whole = (PROBES / "healthy.txt").read_text()
    with pytest.raises(ValueError, match="ends too early"):
        parse_agent(whole[: len(whole) // 2])


def test_what_the_host_does_not_say_is_unknown() -> None:
    agent = parse_agent("root=yes\nend=yes\n")
    assert isinstance(agent.enabled, Unknown)
    assert isinstance(agent.imds_instance_id, Unknown)
    assert isinstance(agent.init, Unknown)


def test_an_id_that_is_none_is_not_passed_on() -> None:
    vault = parse_agent("vault_instance_id=$(reboot)\nend=yes\n").vault
    assert not isinstance(vault, Unknown)
    assert vault.instance_id == "malformed"


@pytest.mark.parametrize(
    ("saved", "registration"), [("mi-0123eb6450bf5617b", "mi-0123eb6450bf5617b"), ("", "")]
)
def test_an_unfinished_repair(saved: str, registration: str) -> None:
    said = f"unfinished=0123456789ab no 2026-11-23 11:00:00 {saved}\nend=yes\n"
    unfinished = parse_agent(said).unfinished
    assert not isinstance(unfinished, Unknown)
    (left,) = unfinished
    assert (left.change_id, left.foreign, left.registration) == ("0123456789ab", False, registration)


@pytest.mark.parametrize(
    ("text", "state", "order", "endpoints"),
    [
        ("", "broken", (), ()),
        ("[]", "broken", (), ()),
        ("{}", "ok", (), ()),
        ('{"Identity": {"ConsumptionOrder": ["EC2"]}}', "ok", ("EC2",), ()),
        ('{"identity": {"consumptionorder": ["OnPrem"]}}', "ok", ("OnPrem",), ()),
        ('{"Ssm": {"Endpoint": "vpce-1.ssm"}}', "ok", (), ("Ssm.Endpoint=vpce-1.ssm",)),
        ('{"Agent": {"ServiceDomain": "corp"}}', "ok", (), ("Agent.ServiceDomain=corp",)),
    ],
)
def test_configuration(text: str, state: str, order: tuple[str, ...], endpoints: tuple[str, ...]) -> None:
    config = parse_config(text)
    assert (config.state, config.consumption_order, config.endpoints) == (state, order, endpoints)


SAID = {
    "https_proxy: http://user:secret@proxy:3128 key AKIAIOSFODNN7EXAMPLE": (
        "https_proxy: http://***@proxy:3128 key AKIA***"
    ),
    "https_proxy=bob:hunter2@proxy:3128": "https_proxy=***@proxy:3128",
    "HTTP_PROXY=http://bob:hun/ter2@proxy": "HTTP_PROXY=http://***@proxy",
    "http_proxy=bob:p@ss@proxy:3128": "http_proxy=***@proxy:3128",
    "https_proxy=http://bob:two words@proxy": "https_proxy=http://***@proxy",
    "2026-11-23 11:00:00 INFO https_proxy: bob:p@ss@proxy": "2026-11-23 11:00:00 INFO https_proxy: ***@proxy",
    'proxyconnect tcp: dial "http://bob:hun/ter2@proxy:3128/": refused': (
        'proxyconnect tcp: dial "http://***@proxy:3128/": refused'
    ),
    "parse bob:hunter2@proxy: first path segment": "parse ***@proxy: first path segment",
    '"Endpoint": "https://me:pw@ssm/", "Region": "x"': '"Endpoint": "https://***@ssm/", "Region": "x"',
    'Post "https://ssm.eu-west-1.amazonaws.com/": dial tcp 10.0.0.1:443: i/o timeout': (
        'Post "https://ssm.eu-west-1.amazonaws.com/": dial tcp 10.0.0.1:443: i/o timeout'
    ),
}


@pytest.mark.parametrize("shell", ["dash", "mksh", "busybox sh"])
@pytest.mark.parametrize("said", SAID)
def test_redaction(shell: str, said: str) -> None:
    host = resources.files("haltuun.stages.repair").joinpath("host.sh").read_text()
    command = [*shell.split(), "-c", f"{host}\nredact"]
    result = subprocess.run(command, input=f"{said}\n", capture_output=True, text=True, check=True)
    assert result.stdout == f"{SAID[said]}\n"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("https_proxy=bob:hunter2@proxy:3128", "https_proxy=***@proxy:3128"),
        ("http_proxy=http://bob:p@s/s@proxy", "http_proxy=http://***@proxy"),
        ("no_proxy=169.254.169.254", "no_proxy=169.254.169.254"),
    ],
)
def test_no_password_of_a_proxy_becomes_a_fact(said: str, kept: str) -> None:
    assert parse_agent(f"proxy={said}\nend=yes\n").proxy == (kept,)


def test_credentials_that_were_not_shown_are_not_none() -> None:
    agent = parse_agent("end=yes\n")
    assert isinstance(agent.credentials, Unknown)
    host = Host(account="1", region="r", instance_id="i-1")
    assert state_of(host, agent)["credentials"] == UNKNOWN
    assert state_of(host, Agent())["vault"] == UNKNOWN


def test_the_ledger_keeps_the_evidence_and_not_the_agents_log(tmp_path: Path) -> None:
    canary = "hunter2-typed-in-a-session"
    output = (PROBES / "stale-refused.txt").read_text()
    # A cause's words beside the canary do not make evidence of it.
    said = f"curl -u me:{canary} # dial tcp 10.0.0.1:443: i/o timeout, MachineFingerprintDoesNotMatch"
    texts = (
        f"DEBUG [ssm-agent-worker] [MessageService] [MGSInteractor] Sending reply: {said}",
        f"TRACE [ssm-session-worker] [s-1] [DataBackend] {said}",
        f"ERROR [ssm-document-worker] [c-1] command ended: {said}",
        f"INFO [ssm-agent-worker] [MessageService] [MGSInteractor] Parsing AgentMessage 1, Payload: {said}",
        f"DEBUG [ssm-session-worker] two lines:\nlog=9005:{said}",
    )
    lines = "".join(f"log={9000 + n}:2026-11-23 19:02:00.0000 {text}\n" for n, text in enumerate(texts))
    seen = parse_agent(output.replace("\nend=", f"\n{lines}end="))
    found = diagnose(seen).causes
    assert canary in str(seen.log)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    now = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
    facts = RepairFacts(observed_at=now, agent=seen, found=found)
    ledger.observed("111122223333", "run", StageName.repair, "before", {"i-1": facts}, now)
    _, kept = ledger.observations("111122223333", "i-1")[StageName.repair]
    ledger.close()
    assert "MachineFingerprintDoesNotMatch" in str(kept["found"])
    assert kept["agent"]["packages"]
    assert canary not in str(kept)
    assert canary.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("shell", SHELLS)
def test_pythons_question_to_the_metadata_service_is_laid_in_no_file(shell: str, tmp_path: Path) -> None:
    """Older shells keep a here-document in a temporary file: here python3 refuses any standard input."""
    host = fake_host(tmp_path)
    nothing = '[ "$(readlink /proc/self/fd/0)" = /dev/null ] || exit 3'
    host.tool("python3", f'{nothing}\nexec {sys.executable} "$@"')
    with metadata_service("i-0abc1234def567890", tokens="required") as address:
        name, _, port = address.partition(":")
        asked = script().replace('"169.254.169.254", 80', f'"{name}", {port}')
        done = host.run(shell, f'{asked}\nlook_at_imds\necho "$IMDS_ACCOUNT $IMDS_REGION"')
    assert (done.stdout, done.stderr) == ("111122223333 eu-central-1\n", "")


CLEARED = {"identity": "EC2", "instance_id": "i-1", "vault": None}
WAS = {"identity": "OnPrem", "instance_id": "mi-1", "vault": "mi-1"}
STOPPED = {"running": False, "identity": "none", "instance_id": None, "vault": None}


def taking_back(**more: object) -> Change:
    known = {"before": CLEARED, "after": WAS, "undoes": "c", **more}
    return Change.model_validate(
        {
            "stage": "repair",
            "kind": "agent.restore",
            "region": "eu-west-1",
            "target": "i-1",
            "hosts": ["i-1"],
            "reach": "host",
            "summary": "back",
            **known,
        }
    )


def test_an_undo_that_was_cut_off_on_the_host_is_begun_again_wherever_it_has_got_to() -> None:
    back = taking_back()
    for state in (STOPPED, {"running": False, **WAS}):  # before and after its files are back
        assert as_planned(state, back, [back.id]) == CLEARED
    person = as_planned(STOPPED, back, ["other"])
    assert person not in (CLEARED, WAS), "somebody else stopped it"
    assert as_planned({"running": True, **WAS}, back) == WAS
    repair = taking_back(undoes="")
    assert as_planned(STOPPED, repair, [repair.id]) != CLEARED
    config = taking_back(before={"config": "b"}, after={"config": "a"})
    assert as_planned({"config": "other", "running": True}, config, [config.id]) == {"config": "other"}


def test_who_was_cut_off_is_read() -> None:
    said = "cut_off=4b5e4142364e\ncut_off=e3fe5a175b96\nend=yes\n"
    assert parse_agent(said).cut_off == ("4b5e4142364e", "e3fe5a175b96")
