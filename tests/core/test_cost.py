"""What changes cost: from what is known, between a lowest and a highest, and unknown where it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haltuun import cost
from haltuun.model import Change, Cost, Plan, Reach, StageName, Unknown
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.discover.parse_ec2 import NOT_LISTED, parse_ec2
from tests.stages.discover.test_parse import HOST, instance, region, view

UNSEEN = Unknown(unknown="ACCESS_DENIED: ec2:DescribeVolumes")


def amounts(made: Cost | Unknown | None) -> tuple[float, float]:
    assert isinstance(made, Cost)
    return made.low, made.high


def test_a_backup_costs_what_its_volumes_and_its_nights_take() -> None:
    # 100 GiB at 0.054: a fifth to all of it written; 35 nights of 0.5 to 5 % changed
    assert amounts(cost.full_backup("eu-central-1", 100)) == pytest.approx((1.08, 5.4))
    assert amounts(cost.nightly_backups("eu-central-1", 100, 35)) == pytest.approx((0.945, 9.45))


def test_logs_are_paid_when_they_come_and_while_they_are_kept() -> None:
    once = amounts(cost.shipped_logs("us-east-1", ["system"], 30))
    kept = amounts(cost.shipped_logs("us-east-1", ["system"], 365))
    # 10 MB a day are 0.304 GB a month at 0.50, and twelve months of a fifth of it at 0.03
    assert kept[1] == pytest.approx(0.304 * 0.5 + 0.304 * 0.2 * 365 / 30.4 * 0.03, abs=0.001)
    assert once[0] < kept[0] and once[1] < kept[1]
    busy = amounts(cost.shipped_logs("us-east-1", ["system", "nginx"], 365))
    assert busy[1] > 5 * kept[1]


def test_a_region_that_is_not_named_has_a_wider_span_and_china_none() -> None:
    known, other = (cost.full_backup(name, 100) for name in ("us-east-1", "me-south-1"))
    assert amounts(other)[0] == amounts(known)[0] and amounts(other)[1] > amounts(known)[1]
    china = cost.full_backup("cn-north-1", 100)
    assert isinstance(china, Unknown) and "CNY" in china.unknown


@pytest.mark.parametrize(
    "made", [cost.full_backup("us-east-1", UNSEEN), cost.nightly_backups("x", UNSEEN, 9)]
)
def test_an_unknown_size_is_an_unknown_cost(made: Cost | Unknown) -> None:
    assert made == UNSEEN


def test_a_parameter_costs_from_four_kilobytes_on() -> None:
    assert cost.parameter("us-east-1", "x" * 4096) is None
    assert amounts(cost.parameter("us-east-1", "x" * 4095 + "ä")) == (0.05, 0.05)


def test_an_endpoint_and_a_gateway_cost_what_their_hours_do() -> None:
    for made, told in (
        (cost.interface_endpoint("eu-central-1"), "about 8.8 USD a month"),
        (cost.nat_gateway("eu-central-1"), "about 38 USD a month"),
        (cost.interface_endpoint("sa-east-1"), "about 7.3–15 USD a month"),
    ):
        assert isinstance(made, Cost) and cost.say(made) == told
    assert isinstance(cost.nat_gateway("cn-north-1"), Unknown)


def test_a_total_names_what_it_does_not_know() -> None:
    known = cost.full_backup("us-east-1", 100)
    assert cost.say_total([]) == cost.say_total([None]) == ""
    assert cost.say_total([known, None]) == "about 1–5 USD a month"
    assert cost.say_total([known, known, UNSEEN]) == (
        "about 2–10 USD a month, without 1 change whose cost is unknown"
    )
    assert cost.say_total([UNSEEN, UNSEEN]) == "unknown (2 changes whose cost is unknown)"


@given(st.floats(0, 1e7), st.floats(0, 1e7))
def test_an_amount_is_short_and_never_told_as_nothing(one: float, other: float) -> None:
    said = cost.say(Cost(low=min(one, other), high=max(one, other), currency="USD", basis=""))
    assert said.endswith(" USD a month") and len(said) < 40
    assert " 0 " not in said and "e+" not in said


def change(monthly_cost: Cost | Unknown | None) -> Change:
    return Change(
        stage=StageName.backup,
        kind="backup.job",
        region="us-east-1",
        target="i-1",
        hosts=("i-1",),
        before=None,
        after={"backup": "started"},
        reach=Reach.irreversible,
        summary="Back up.",
        no_undo="It stays.",
        monthly_cost=monthly_cost,
    )


def test_the_cost_is_told_and_is_no_part_of_what_is_approved() -> None:
    known = cost.full_backup("us-east-1", 100)
    made = [change(one) for one in (known, UNSEEN, None)]
    assert len({one.id for one in made}) == 1
    assert len({Plan(account="1", changes=(one,)).hash for one in made}) == 1
    public = [one.public()["monthly_cost"] for one in made]
    assert public[0].keys() == {"low", "high", "currency", "basis"}
    assert "100 GiB" in public[0]["basis"] and "us-east-1" in public[0]["basis"]
    assert public[1:] == [{"unknown": UNSEEN.unknown}, None]
    for one in made:
        assert Change.model_validate_json(one.model_dump_json()) == one


def test_the_prices_say_of_when_and_of_where_they_are() -> None:
    prices = cost.price_file()
    assert prices.as_of.isoformat() in cost.basis() and prices.currency in cost.basis()
    assert prices.source
    assert all(cost.ELSEWHERE in regions for regions in prices.prices.values())
    for low, high in (s for regions in prices.prices.values() for s in regions.values()):
        assert 0 < low <= high
    for low, high in dict(prices.assumptions).values():
        assert 0 < low < high


VOLUMES = [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeId": f"vol-{n}"}} for n in (1, 2)]


@pytest.mark.parametrize(
    ("volumes", "expected"),
    [
        ([{"VolumeId": "vol-1", "Size": 8}, {"VolumeId": "vol-2", "Size": 500}], 508),
        ([{"VolumeId": "vol-1", "Size": 8}], "EC2 gives no size for vol-2"),
        ([{"VolumeId": "vol-1", "Size": 8}, {"VolumeId": "vol-2"}], "EC2 gives no size for vol-2"),
        (UNSEEN, UNSEEN.unknown),
    ],
)
def test_the_size_of_a_hosts_volumes(volumes: object, expected: int | str) -> None:
    raw = region(instances=[instance(BlockDeviceMappings=VOLUMES)], volumes=volumes)
    seen = DiscoverFacts(**parse_ec2(view(), HOST, raw)).volumes_gib
    assert (seen.unknown if isinstance(seen, Unknown) else seen) == expected


def test_the_size_of_a_host_that_is_not_listed_is_unknown() -> None:
    seen = DiscoverFacts(**parse_ec2(view(), HOST, region(instances=NOT_LISTED))).volumes_gib
    assert isinstance(seen, Unknown)
