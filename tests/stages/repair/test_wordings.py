"""What agents of all ages say of one fault (cases/repair/wordings.txt), and what the rules make of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from haltuun.stages.repair.agentlog import FILE
from haltuun.stages.repair.diagnose import Diagnosis, diagnose
from haltuun.stages.repair.facts import Agent, AgentConfig, LogLine

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


def _read(text: str, **more: object) -> Diagnosis:
    """An entry a minute."""
    lines = [line for row in text.split("\n") for line in COMMON.get(row, [row])]
    minute, rows = 0, []
    for line in lines:
        if LEVEL.match(line):
            minute += 1
            line = f"2026-11-23 {6 + minute // 60:02d}:{minute % 60:02d}:00.1234 {line}"
        rows.append(line)
    log = tuple(LogLine(file=FILE, line=n, text=row) for n, row in enumerate(rows, 1))
    return diagnose(Agent.model_validate({"log": log, **more}))


def _codes(*entries: str, **more: object) -> set[str]:
    return {cause.code for cause in _read("\n".join(entries), **more).causes}


@pytest.mark.parametrize("name", CASES)
def test_wording(name: str) -> None:
    codes, text = CASES[name]
    assert _codes(text) == codes


def test_what_the_agent_cannot_load_though_it_is_json() -> None:
    broken = "ERROR Error occurred when starting amazon-ssm-agent: app config could not be loaded - "
    fine = {"config": AgentConfig(state="ok")}
    assert _codes("@start", broken + "json: cannot unmarshal string into Go", **fine) == {"CONFIG_BROKEN"}
    assert _codes("@start", broken + "unexpected end of JSON input", **fine) == set()  # mended since


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
