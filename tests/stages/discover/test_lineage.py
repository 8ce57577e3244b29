"""What images were made of, asked of AWS. Its answers are those of the API reference: moto has none."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from urllib3 import HTTPResponse

from haltuun.aws import Aws
from haltuun.clock import Clock
from haltuun.config import AccountConfig
from haltuun.errors import AccessDenied
from haltuun.model import Unknown
from haltuun.stages.discover.account import LINEAGES, get_lineage
from haltuun.stages.discover.parse_account import parse_region
from tests.stages.discover.test_parse import ACCOUNT, REGION
from tests.stages.discover.test_parse import region as answers

MADE = {"ImageId": "ami-2", "SourceImageId": "ami-gone"}
SOLD = {"ImageId": "ami-3", "SourceImageId": "ami-4", "ImageOwnerAlias": "amazon"}
OWN = {"ImageId": "ami-5"}
ANCESTRY = b"""<GetImageAncestryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<imageAncestryEntrySet>
<item><imageId>ami-2</imageId><sourceImageId>ami-gone</sourceImageId></item>
<item><imageId>ami-gone</imageId><sourceImageId>ami-1</sourceImageId></item>
<item><imageId>ami-1</imageId><imageOwnerAlias>amazon</imageOwnerAlias></item>
</imageAncestryEntrySet></GetImageAncestryResponse>"""
DENIED = b"""<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors>
<RequestID>1</RequestID></Response>"""


def ec2(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes) -> tuple[Aws, list[Any]]:
    """An account whose EC2 answers so, and what it is asked."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    aws = Aws(AccountConfig(id=ACCOUNT, regions=[REGION]), Clock(), read_only=True)
    asked: list[Any] = []

    def answer(request: AWSRequest, **_: Any) -> AWSResponse:
        asked.append(request.body)
        return AWSResponse(request.url, status, {}, HTTPResponse(BytesIO(body), preload_content=False))

    aws._client("ec2", REGION).meta.events.register("before-send.ec2", answer)
    return aws, asked


def test_the_lineage_of_private_images_that_may_be_kin_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    aws, asked = ec2(monkeypatch, 200, ANCESTRY)
    assert get_lineage(aws, REGION, [MADE, SOLD]) == {} and asked == [], "nothing that it may be kin to"
    assert get_lineage(aws, REGION, [MADE, SOLD, OWN]) == {"ami-2": ["ami-gone", "ami-1"]}
    assert len(asked) == 1
    many = get_lineage(aws, REGION, [{**MADE, "ImageId": f"ami-{n}"} for n in range(LINEAGES + 1)])
    assert isinstance(many, Unknown) and len(asked) == 1, "a call each"


def test_one_who_may_not_ask_goes_by_what_describe_images_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    aws, asked = ec2(monkeypatch, 403, DENIED)
    with pytest.raises(AccessDenied):
        get_lineage(aws, REGION, [MADE, {**MADE, "ImageId": "ami-6"}])
    assert len(asked) == 1, "not again for each image"
    unknown = Unknown(unknown="ACCESS_DENIED: ec2:GetImageAncestry")
    for lineage, expected in (({"ami-2": ["ami-gone", "ami-1"]}, ("ami-gone", "ami-1")), (unknown, unknown)):
        images = parse_region(answers(images=[MADE], lineage=lineage)[REGION]).images
        assert not isinstance(images, Unknown)
        assert (images[0].source_image, images[0].lineage) == ("ami-gone", expected)
