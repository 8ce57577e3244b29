"""Whose is a thing under one of our names? By our tag or our words; what cannot be read is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import botocore.client
import botocore.exceptions
import pytest

from haltuun.aws import READS
from haltuun.config import AccountConfig, Config
from haltuun.engine import open_run
from haltuun.errors import AwsError
from haltuun.ledger import Ledger
from haltuun.model import Change, Reach, StageName, Unknown
from haltuun.stages.associations import ASSOCIATION, association_value
from haltuun.stages.base import Kind
from haltuun.stages.own import ABSENT, MADE_BY, Own, first_own, is_ours
from haltuun.stages.patch.kinds import BASELINE, MAINTENANCE_WINDOW

DENIED = Unknown(unknown="ACCESS_DENIED: ssm:ListTagsForResource")
OURS, THEIRS = Own(state="ours", id="1"), Own(state="foreign", id="2")


def test_unreadable_tags_make_nothing_ours() -> None:
    assert is_ours(DENIED) == DENIED
    assert is_ours(DENIED, "by hand") == DENIED
    assert is_ours(DENIED, f"{MADE_BY} A window.") is True
    assert is_ours({}) is False
    assert is_ours({"haltuun:managed": "true"}) is True


def test_of_several_of_one_name_a_doubt_outweighs_a_stranger() -> None:
    assert first_own([]) == ABSENT
    assert first_own([THEIRS]) == THEIRS
    assert first_own([THEIRS, DENIED]) == DENIED
    assert first_own([THEIRS, DENIED, OURS]) == OURS


MADE = association_value("AWS-RunPatchBaseline", ("tag:haltuun:scan", ["daily"]), {})
WINDOW = {"schedule": "rate(7 days)", "timezone": "UTC", "duration_h": 3, "cutoff_h": 1}


@pytest.mark.parametrize(
    ("kind", "after"),
    [
        (ASSOCIATION, None),
        (ASSOCIATION, MADE),
        (BASELINE, None),
        (MAINTENANCE_WINDOW, None),
        (MAINTENANCE_WINDOW, WINDOW),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else "gone" if value is None else "made",
)
def test_what_cannot_be_seen_right_before_is_not_said_to_be_gone_and_nothing_is_made_beside_it(
    kind: Kind, after: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    changed = []

    def throttled(self: Any, operation: str, parameters: Any) -> Any:
        if operation.startswith(READS):
            error = {"Code": "ThrottlingException", "Message": "Rate exceeded"}
            raise botocore.exceptions.ClientError({"Error": error}, operation)
        changed.append(operation)
        return {"AssociationDescription": {"AssociationId": "1"}, "WindowId": "mw-1"}

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", throttled)
    config = Config(accounts=[AccountConfig(id="123456789012", regions=["eu-central-1"])])
    nobody: Any = None
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    change = Change(
        stage=StageName.patch,
        kind=kind.name,
        region="eu-central-1",
        target="haltuun-scan",
        hosts=("i-0abc",),
        before={},
        after=after,
        reach=Reach.account,
        summary="as a test wants it",
    )
    with pytest.raises(AwsError, match="throttled beyond all retries") as raised:
        kind.apply(open_run(config, "123456789012", "apply", nobody, ledger=ledger), change)
    assert (raised.value.code, raised.value.unchanged, changed) == ("UNSEEN", True, [])
    ledger.close()
