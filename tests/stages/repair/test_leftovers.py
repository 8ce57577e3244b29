"""What a predecessor left is shown as the change that a person would make, and no secret is in it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from haltuun.stages.repair.facts import LogLine
from haltuun.stages.repair.leftovers import (
    LEFT,
    config_diff,
    parse_proxy_lines,
    shown,
    sparing_metadata,
    without_proxies,
)
from haltuun.stages.repair.parse import parse_config
from haltuun.stages.repair.probe import script
from tests.stages.repair.plan_kit import agent

DROP_IN = "/etc/systemd/system/amazon-ssm-agent.service.d/proxy.conf"
CONFIG = {
    "Agent": {"Region": "us-east-1", "ContainerMode": False},
    "ssm": {"endpoint": "vpce-1.ssm.example", "HealthFrequencyMinutes": 5},
    "Mgs": {"Endpoint": "vpce-2.ssmmessages.example"},
    "Identity": {"ConsumptionOrder": ["OnPrem"], "CustomIdentities": [{"InstanceID": "mi-1"}]},
}


@pytest.mark.parametrize(
    ("code", "gone"),
    [
        ("ENDPOINT_OVERRIDE", {"vpce-1.ssm.example", "vpce-2.ssmmessages.example"}),
        ("REGION_PINNED", {"us-east-1"}),
        ("IDENTITY_ORDER_OVERRIDE", {"OnPrem"}),
        ("CUSTOM_IDENTITY", {"mi-1"}),
    ],
)
def test_only_what_the_cause_names_goes(code: str, gone: set[str]) -> None:
    diff = config_diff(json.dumps(CONFIG), LEFT[code])
    removed = [line for line in diff if line.startswith("-") and not line.startswith("---")]
    assert all(any(word in line for line in removed) for word in gone)
    others = {"vpce-1", "vpce-2", "us-east-1", "OnPrem", "mi-1", "ContainerMode", "HealthFrequency"}
    kept = {word for word in others if not any(word in one or one in word for one in gone)}
    for word in kept:
        assert sum(word in line for line in removed) == sum(
            f"+{line[1:]}" in diff for line in removed if word in line
        )
    assert shown(code, agent(config=parse_config(json.dumps(CONFIG)))) == diff


def test_a_file_that_is_none_or_holds_nothing_of_it_has_no_diff() -> None:
    for text in ("", "[", "[]", "{}", '{"Agent": 7}', "[" * 100_000):
        assert config_diff(text, LEFT["REGION_PINNED"]) == ()
    assert shown("STALE_HYBRID", agent()) == ()


def test_the_whole_file_is_neither_in_the_ledger_nor_in_a_row() -> None:
    seen = agent(config=parse_config(json.dumps({"Agent": {"Region": "us-east-1"}, "Own": "words"})))
    assert "words" not in seen.model_dump_json()


SYSTEMD = ('Environment="https_proxy=http://proxy:3128"', 'Environment="http_proxy=http://proxy:3128"')


def lines(*texts: str, file: str = DROP_IN) -> tuple[LogLine, ...]:
    return tuple(LogLine(file=file, line=n, text=text) for n, text in enumerate(texts, 2))


def test_a_dead_proxy_is_taken_out_of_its_unit() -> None:
    diff = without_proxies(lines(*SYSTEMD))
    assert diff[:2] == (f"--- {DROP_IN}", f"+++ {DROP_IN}")
    assert [line for line in diff if line[0] == "-" and line[1] != "-"] == [f"-{text}" for text in SYSTEMD]
    assert not [line for line in diff if line[0] == "+" and line[1] != "+"]


@pytest.mark.parametrize(
    ("texts", "file", "new"),
    [
        (SYSTEMD, DROP_IN, '+Environment="no_proxy=169.254.169.254"'),
        (
            ("env http_proxy=http://proxy:3128",),
            "/etc/init/amazon-ssm-agent.override",
            "+env no_proxy=169.254.169.254",
        ),
    ],
)
def test_a_proxy_that_takes_the_metadata_gets_an_exception(
    texts: tuple[str, ...], file: str, new: str
) -> None:
    diff = sparing_metadata(lines(*texts, file=file))
    assert new in diff
    assert f" {texts[-1]}" in diff
    assert not [line for line in diff if line[0] == "-" and line[1] != "-"]


def test_what_the_probe_prints_of_a_unit_has_no_password(tmp_path: Path) -> None:
    """The look itself, over a drop-in of this test."""
    drop_in = tmp_path / "amazon-ssm-agent.service.d" / "proxy.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(
        '[Service]\n# Environment="http_proxy=http://old"\n'
        'Environment="HTTPS_PROXY=http://ops:s3cr3t@proxy:3128" "no_proxy=169.254.169.254"\n'
    )
    whole = script("host.sh", "probe.sh").replace("units=/etc/systemd/system", f"units={tmp_path}")
    functions = whole.partition("\nwait_for_job\nsay root")[0]
    done = subprocess.run(["sh", "-c", f"{functions}\nlook_at_proxy_files"], capture_output=True, text=True)
    assert "s3cr3t" not in done.stdout
    (line,) = parse_proxy_lines([one.partition("=")[2] for one in done.stdout.splitlines()])
    assert (line.file, line.line) == (str(drop_in), 3)
    assert line.text.startswith("Environment=") and "proxy:3128" in line.text
