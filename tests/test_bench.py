"""What `make bench` says of a run over a large account that does not keep the promises."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from bench.measure import compare
from bench.scale import LOOKED_IN, Sample, broken, scale
from haltuun.model import StageName

HOSTS = ("i-0", "i-1")
KEPT = Sample(
    hosts=2,
    seconds=20.0,
    cpu_s=10.0,
    peak_mb=1023.0,
    state="AwaitingApproval",
    task_runs=Counter(COMPLETED=19, FAILED=1),
    looked={stage.value: Counter(HOSTS) for stage in LOOKED_IN},
    judged={stage.value: Counter(HOSTS) for stage in StageName},
)


def test_a_run_that_keeps_them_is_not_complained_of() -> None:
    assert broken(KEPT) == []
    assert broken(KEPT, replace(KEPT, hosts=1, cpu_s=5.0)) == []


@pytest.mark.parametrize(
    ("otherwise", "told"),
    [
        ({"state": "Failed"}, "ended as Failed"),
        ({"task_runs": Counter(COMPLETED=19, RUNNING=1)}, "1 of 20 task runs are not recorded as ended"),
        ({"looked": {**KEPT.looked, "repair": Counter(["i-0"])}}, "repair has 1 task runs"),
        ({"looked": {**KEPT.looked, "repair": Counter([*HOSTS, "i-0"])}}, "repair has 3 task runs"),
        ({"looked": {**KEPT.looked, "repair": Counter(["i-0", "i-0"])}}, "of 1 hosts"),
        ({"judged": {}}, "judged"),
        ({"held": {"discover": 0, "repair": 1}}, "repair holds 1"),
        ({"peak_mb": 1024.0}, "took 1024 MB"),
    ],
)
def test_what_is_not_kept_is_a_sentence(otherwise: dict[str, Any], told: str) -> None:
    assert any(told in line for line in broken(replace(KEPT, **otherwise)))


def test_time_that_grows_faster_than_the_hosts_is_not_linear() -> None:
    (line,) = broken(KEPT, replace(KEPT, hosts=1, cpu_s=2.5))
    assert "slope 2.00" in line


@pytest.mark.parametrize(
    ("reads", "told"),
    [(42, []), (43, ["From 2 to 52 hosts fifty more cost 13.0 AWS reads; 12 are promised."])],
)
def test_reads_that_grow_with_each_host_are_not_batched(reads: int, told: list[str]) -> None:
    lines = broken(replace(KEPT, hosts=52, reads=reads), replace(KEPT, reads=30))
    assert [line for line in lines if "AWS reads" in line] == told


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_real_run_keeps_them() -> None:
    (sample,) = scale([50])
    assert broken(sample) == []


def test_two_ways_are_timed_in_turns() -> None:
    turns: list[str] = []
    figure = compare(
        "ours",
        lambda: turns.append("ours"),
        "a loop",
        lambda: turns.append("peer"),
        rounds=2,
        amount=1,
        unit="MB",
    )
    assert turns == ["ours", "peer"] * 3, "once to warm up"
    assert figure.ours_s > 0 and figure.peer_s > 0 and figure.rate(figure.ours_s).endswith("/s")
