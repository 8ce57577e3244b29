"""The gate's promises: the verdicts partition the hosts, and a plain evaluator agrees with GX."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from haltuun import gates
from haltuun.gates import Check, evaluate, evaluate_plainly
from haltuun.model import Verdict


def check(column: str, op: str, **more: object) -> Check:
    return Check(
        column=column, op=op, code=f"NOT_{column.upper()}", message="is {value}", remedy="do", **more
    )


CHECKS = (
    check("online", "in_set", values=(True,)),
    check("state", "in_set", values=("running", "stopped")),
    check("age_h", "between", low=0, high=24),
    check("version", "match", pattern=r"\d+\.\d+"),
)

ROWS = st.fixed_dictionaries(
    {
        "online": st.sampled_from([True, False, None]),
        "state": st.sampled_from(["running", "stopped", "terminated", "", None]),
        "age_h": st.one_of(st.none(), st.integers(-5, 50), st.floats(-5, 50, allow_nan=False)),
        "version": st.sampled_from(["3.3", "x", "3", "", None]),
    }
)


@given(
    table=st.dictionaries(st.sampled_from([f"i-{n:08x}" for n in range(12)]), ROWS, max_size=12),
    absent=st.integers(0, 2),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
def test_gx_and_the_plain_evaluator_agree_and_partition(table, absent):
    entered = [*table, *(f"i-absent{n}" for n in range(absent))]
    ours, plain = evaluate(entered, table, CHECKS), evaluate_plainly(entered, table, CHECKS)
    assert ours == plain
    assert set(ours.verdicts) == set(entered)


def test_an_empty_table_passes_nobody():
    result = evaluate(["i-1"], {}, CHECKS)
    assert result.verdicts["i-1"].verdict is Verdict.unknown
    assert result.blocked


def test_null_is_unknown_and_not_passed():
    result = evaluate(["i-1"], {"i-1": {"online": None}}, [CHECKS[0]])
    assert result.verdicts["i-1"].verdict is Verdict.unknown


def test_a_definite_failure_wins_over_a_doubt():
    row = {"online": None, "state": "terminated"}
    result = evaluate(["i-1"], {"i-1": row}, CHECKS[:2])
    assert (result.verdicts["i-1"].verdict, result.verdicts["i-1"].code) == (Verdict.held, "NOT_STATE")
    assert result.verdicts["i-1"].message == "is terminated"


@pytest.mark.parametrize("row", [{"age_h": "seven"}, {"other": 1}])
def test_a_check_that_cannot_be_made_blocks_the_stage_and_makes_its_hosts_unknown(row):
    result = evaluate(["i-1"], {"i-1": row}, [CHECKS[2]])
    assert result.verdicts["i-1"].verdict is Verdict.unknown
    assert "age_h" in result.blocked


def test_what_is_only_taken_along_is_imported_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    gates._when_used("colorsys")
    later = sys.modules["colorsys"]
    assert "hls_to_rgb" not in vars(later)
    assert later.rgb_to_hls(1.0, 1.0, 1.0) == (0.0, 1.0, 0.0)
    assert sys.modules["colorsys"] is not later
    assert vars(sys.modules["colorsys"])["__file__"]
