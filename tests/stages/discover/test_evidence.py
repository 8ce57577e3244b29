"""A set of snapshots is made once, whatever becomes of the answer. The account is moto's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.exceptions import ReadTimeoutError
from moto import mock_aws
from urllib3 import HTTPResponse

from haltuun.config import AccountConfig, Config
from haltuun.engine import open_run
from haltuun.ledger import Ledger
from haltuun.model import Change, Reach, StageName
from haltuun.perform import Performer
from haltuun.run import Run
from haltuun.stages import polling
from haltuun.stages.discover import STAGE
from haltuun.stages.discover.plan import EVIDENCE

ACCOUNT, REGION = "123456789012", "eu-central-1"  # the first is moto's
FAILED = b"""<Response><Errors><Error><Code>InternalError</Code><Message>An internal error</Message>
</Error></Errors><RequestID>1</RequestID></Response>"""
NONE_YET = b"""<DescribeSnapshotsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><snapshotSet/>
</DescribeSnapshotsResponse>"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(polling, "FIRST_WAIT_S", 0.01)
    config = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=[REGION])])
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with mock_aws():
        yield open_run(config, "acme", "apply", lambda run, host: None, ledger=ledger)  # type: ignore[arg-type,return-value]
    ledger.close()


def _answered(status: int, body: bytes) -> Callable[..., AWSResponse]:
    def answer(request: AWSRequest, **_: Any) -> AWSResponse:
        return AWSResponse(request.url, status, {}, HTTPResponse(BytesIO(body), preload_content=False))

    return answer


def _never_answered(request: AWSRequest, **_: Any) -> None:
    raise ReadTimeoutError(endpoint_url=request.url)


@pytest.mark.parametrize("lost", ["a server's error", "no answer"])
@pytest.mark.parametrize("seen_at_once", [True, False])
def test_a_set_whose_answer_was_lost_is_found_and_not_made_again(
    run: Run, lost: str, seen_at_once: bool
) -> None:
    ec2 = boto3.client("ec2", region_name=REGION)
    made = ec2.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    for once in (True, False):
        events = run.aws._client("ec2", REGION, once=once).meta.events
        # moto takes the call all the same: each handler is asked, and the first answer holds.
        if lost == "no answer":
            events.register_last("before-send", _only("CreateSnapshots", _never_answered))
        else:
            events.register("before-send.ec2.CreateSnapshots", _answered(500, FAILED))
    if not seen_at_once:
        # The look before the call, and the first one after it.
        looks = [_answered(200, NONE_YET)] * 2
        events.register(
            "before-send.ec2.DescribeSnapshots", lambda **given: looks.pop()(**given) if looks else None
        )
    change = Change(
        stage=StageName.discover,
        kind=EVIDENCE,
        region=REGION,
        target=made,
        hosts=(made,),
        before={"kept": False},
        after={"kept": True},
        reach=Reach.irreversible,
        summary="Keep it.",
    )
    performer = Performer(run, {StageName.discover: STAGE})
    assert [performer.perform(change).status for _ in range(2)] == ["done", "already"]
    kept = ec2.describe_snapshots(Filters=[{"Name": "tag:haltuun:evidence", "Values": [made]}])["Snapshots"]
    assert len(kept) == 1
    assert run.ledger.change_events(ACCOUNT)[-1].event == "confirmed"


def _only(operation: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    def of_that(request: AWSRequest, event_name: str, **given: Any) -> Any:
        return handler(request, **given) if event_name.endswith(operation) else None

    return of_that
