"""Families and facts from recorded answers: one file a case under tests/cases/patch."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from haltuun.config import AccountConfig, Config
from haltuun.model import Host, StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.patch.families import FAMILIES, approval_rules, family_of
from haltuun.stages.patch.kinds import TASK_VALUE, baseline_value, rules_hash
from haltuun.stages.patch.parse import parse_host

CASES = sorted((Path(__file__).parents[2] / "cases" / "patch").glob("*.json"))
HOST = Host(account="111122223333", region="eu-central-1", instance_id="i-0abc1234def567890")
NOW = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)


def view(discover: DiscoverFacts) -> View:
    account = AccountConfig(id=HOST.account)
    return View(
        account=account,
        config=Config(accounts=[account]),
        account_id=HOST.account,
        partition="aws",
        now=NOW,
        run_id="r",
        hosts={HOST.instance_id: HOST},
        entering=(HOST.instance_id,),
        facts={StageName.discover: {HOST.instance_id: discover}},
        account_facts={},
    )


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case: dict[str, Any] = json.loads(path.read_text())
    raw = {name: {HOST.region: case[name]} for name in ("tags", "states")}
    facts = parse_host(view(DiscoverFacts.model_validate(case["discover"])), HOST, raw, None)
    row = facts.row()
    assert {name: row[name] for name in case["row"]} == case["row"]


@pytest.mark.parametrize(
    ("os_id", "version", "platform", "family"),
    [
        ("ubuntu", "14.04", "", "ubuntu"),
        ("debian", "12", "", "debian"),
        ("amzn", "2", "", "amazon-linux-2"),
        ("amzn", "2023", "", "amazon-linux-2023"),
        ("amzn", "2018.03", "", "amazon-linux"),
        ("", "2", "Amazon Linux", "amazon-linux-2"),
        ("", "7.9", "Red Hat Enterprise Linux Server", "rhel"),
        ("", "10.0.17763", "Microsoft Windows Server 2019 Datacenter", "windows"),
        ("sles", "12.5", "", "suse"),
        ("alpine", "3.20", "", None),
    ],
)
def test_family(os_id: str, version: str, platform: str, family: str | None) -> None:
    found = family_of(os_id, version, platform)
    assert (found.slug if found else None) == family


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_botocore_knows_what_a_baseline_asks_for(family: Any) -> None:
    service = botocore.session.get_session().get_service_model("ssm")
    assert family.operating_system in service.shape_for("OperatingSystem").enum
    keys = service.shape_for("PatchFilterKey").enum
    for rule in approval_rules(family)["PatchRules"]:
        assert set(rule) <= set(service.shape_for("PatchRule").members)
        assert {f["Key"] for f in rule["PatchFilterGroup"]["PatchFilters"]} <= set(keys)
        assert family.apt == ("ApproveAfterDays" not in rule)


def test_the_same_rules_have_the_same_hash_however_aws_spells_them() -> None:
    ours = approval_rules(FAMILIES["rhel"])
    theirs = json.loads(json.dumps(ours))
    rule = theirs["PatchRules"][0]
    rule["PatchFilterGroup"]["PatchFilters"].reverse()
    rule["EnableNonSecurity"] = False
    assert rules_hash(theirs) == rules_hash(ours)
    rule["ApproveAfterDays"] = 8
    assert rules_hash(theirs) != rules_hash(ours)


def test_what_is_wanted_decides_the_id_of_a_change() -> None:
    assert baseline_value(FAMILIES["rhel"]) != baseline_value(FAMILIES["centos"])
    assert TASK_VALUE["parameters"]["RebootOption"] == ["NoReboot"]


def test_what_could_not_be_read_is_unknown_and_not_false() -> None:
    denied = Unknown(unknown="ACCESS_DENIED: ssm:DescribeInstancePatchStates")
    raw = {"tags": {HOST.region: {}}, "states": {HOST.region: denied}}
    facts = parse_host(view(DiscoverFacts(os_id="ubuntu", os_version="22.04")), HOST, raw, None)
    assert facts.scanned == denied
    assert facts.row()["scanned"] is None
    assert facts.row()["prereq_ok"] is None
