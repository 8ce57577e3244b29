"""probe.sh's output, recorded on lab hosts, and the odd files that people leave."""

from __future__ import annotations

import subprocess
from importlib import resources
from pathlib import Path

import pytest

from haltuun.model import Unknown
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.parse import parse_agent, parse_config

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


@pytest.mark.parametrize("shell", ["dash", "mksh", "busybox sh"])
def test_redaction(shell: str) -> None:
    host = resources.files("haltuun.stages.repair").joinpath("host.sh").read_text()
    said = "https_proxy: http://user:secret@proxy:3128 key AKIAIOSFODNN7EXAMPLE"
    result = subprocess.run(
        [*shell.split(), "-c", f"{host}\necho '{said}' | redact"], capture_output=True, text=True, check=True
    )
    assert result.stdout == "https_proxy: http://***@proxy:3128 key AKIA***\n"
