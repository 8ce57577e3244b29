"""Facts from recorded answers: one file a case under tests/cases/backup."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from haltuun.config import AccountConfig, Config
from haltuun.gates import evaluate_plainly
from haltuun.model import Host, StageName, Unknown
from haltuun.stages.backup import STAGE
from haltuun.stages.backup.kinds import keeps_vault
from haltuun.stages.backup.parse import parse_host
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts

CASES = sorted((Path(__file__).parents[2] / "cases" / "backup").glob("*.json"))
HOST = Host(account="111122223333", region="eu-central-1", instance_id="i-0abc1234def567890")


def test_a_vault_whose_points_could_not_be_read_is_unknown_and_not_kept() -> None:
    aws: Any = SimpleNamespace(ask=lambda question: Unknown(unknown="THROTTLED"))
    run, back = SimpleNamespace(aws=aws), SimpleNamespace(after=None)
    why = keeps_vault(run, back)  # type: ignore[arg-type]
    assert isinstance(why, Unknown) and "THROTTLED" in why.unknown
    again = SimpleNamespace(after={"vault": "haltuun"})
    assert keeps_vault(run, again) == "", "one that is made again holds none"  # type: ignore[arg-type]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case: dict[str, Any] = json.loads(path.read_text())
    account = AccountConfig(id=HOST.account)
    view = View(
        account=account,
        config=Config(accounts=[account]),
        account_id=HOST.account,
        partition="aws",
        now=datetime(2026, 11, 23, 18, 0, tzinfo=UTC),
        run_id="r",
        hosts={HOST.instance_id: HOST},
        entering=(HOST.instance_id,),
        facts={StageName.discover: {HOST.instance_id: DiscoverFacts.model_validate(case["discover"])}},
        account_facts={},
    )
    names = ("tags", "points", "jobs", "protected", "snapshots")
    raw: dict[str, Any] = {name: {HOST.region: case.get(name, {})} for name in names}
    raw["armed_before"] = case.get("armed_before", [])
    row = parse_host(view, HOST, raw, None).row()
    assert {name: row[name] for name in case["row"]} == case["row"]
    verdict = evaluate_plainly([HOST.instance_id], {HOST.instance_id: row}, STAGE.checks).verdicts
    found = verdict[HOST.instance_id]
    assert [found.verdict.value, found.code] == case["verdict"]
