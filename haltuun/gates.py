"""The data check after a stage: one Great Expectations validation over its table, a row a host.

Facts go in as columns, never a ready-made "ok". Traps of Great Expectations that shape this module
(tried with 1.24): an empty batch passes; a null passes in-set, between and regex; an expectation
that raises (missing column, mixed types) carries no rows. Hence the row count, the not-null twin of
each check, and the rule that a check which could not be made makes its hosts unknown.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

from haltuun.importing import uncollected
from haltuun.model import Frozen, Verdict

ROW_COUNT = "expect_table_row_count_to_equal"
Row = Mapping[str, str | int | float | bool | None]


class Doubt(Frozen):
    """What a host is told whose value is unknown, where that calls for another remedy."""

    code: str
    message: str
    remedy: str


class Check(Frozen):
    """One demand on one column. `code`, `message` and `remedy` are what a failing host is told.

    `in_set`: value is one of `values` · `between`: low <= value <= high (either may be None) ·
    `match`: text matches `pattern` from its beginning (re.match) · `because`: the column that says why.
    """

    column: str
    op: Literal["in_set", "between", "match"]
    code: str
    message: str
    remedy: str
    values: tuple[str | int | float | bool, ...] = ()
    low: float | None = None
    high: float | None = None
    pattern: str = ""
    because: str = ""
    in_doubt: Doubt | None = None

    def told(self, row: Row) -> str:
        """`message`, with what was seen of the host in it."""
        why = row.get(self.because) if self.because else ""
        message = self.message.replace("{value}", str(row.get(self.column)))
        return f"{message.removesuffix('.')}: {why.rstrip('.')}." if why and isinstance(why, str) else message

    def demand(self) -> str:
        """The check as people read it in the run history."""
        if self.op == "in_set":
            return f"{self.column} in {{{', '.join(str(value) for value in self.values)}}}"
        if self.op == "match":
            return f"{self.column} matches {self.pattern}"
        low = "" if self.low is None else f"{self.low:g} ≤ "
        high = "" if self.high is None else f" ≤ {self.high:g}"
        return f"{low}{self.column}{high}"


class CheckResult(Frozen):
    """One check over the table: which hosts failed it, which could not be judged by it."""

    check: Check
    failed: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    raised: str = ""


class HostVerdict(Frozen):
    verdict: Verdict
    code: str = ""
    message: str = ""
    remedy: str = ""


class GateResult(Frozen):
    """The verdicts partition the hosts that entered. `blocked` says why the stage as a whole stops."""

    verdicts: Mapping[str, HostVerdict]
    checks: tuple[CheckResult, ...] = ()
    blocked: str = ""


def evaluate(entered: Sequence[str], rows: Mapping[str, Row], checks: Sequence[Check]) -> GateResult:
    """Judge `rows` (instance id → row) of the hosts that `entered` by `checks`, with GX."""
    present = [host for host in entered if host in rows]
    results, complete = _validate(present, len(entered), rows, checks) if present else ((), not entered)
    return _verdicts(entered, rows, results, complete)


def evaluate_plainly(entered: Sequence[str], rows: Mapping[str, Row], checks: Sequence[Check]) -> GateResult:
    """The same judgement without GX: the second opinion that a property test holds against it."""
    present = [host for host in entered if host in rows]
    results = tuple(_check_plainly(check, present, rows) for check in checks) if present else ()
    return _verdicts(entered, rows, results, len(present) == len(entered))


def _verdicts(
    entered: Sequence[str], rows: Mapping[str, Row], results: Sequence[CheckResult], complete: bool
) -> GateResult:
    verdicts: dict[str, HostVerdict] = {}
    why_held: dict[str, Check] = {}  # the first check that a host failed
    why_unknown: dict[str, CheckResult] = {}
    for result in reversed(results):
        why_held.update(dict.fromkeys(result.failed, result.check))
        why_unknown.update(dict.fromkeys(result.unknown, result))
    for host in entered:
        if host not in rows:
            verdicts[host] = HostVerdict(
                verdict=Verdict.unknown,
                code="NO_FACTS",
                message="Nothing was observed of this host in this stage.",
                remedy="Run the stage again for this host.",
            )
            continue
        failed, doubt = why_held.get(host), why_unknown.get(host)
        if failed is not None:
            verdicts[host] = HostVerdict(
                verdict=Verdict.held,
                code=failed.code,
                message=failed.told(rows[host]),
                remedy=failed.remedy,
            )
        elif doubt is not None and doubt.check.in_doubt is not None and not doubt.raised:
            verdicts[host] = HostVerdict(verdict=Verdict.unknown, **doubt.check.in_doubt.model_dump())
        elif doubt is not None:
            seen = rows[host].get(doubt.check.because) if doubt.check.because else ""
            why = f"the check raised: {doubt.raised}" if doubt.raised else seen or "it could not be observed"
            verdicts[host] = HostVerdict(
                verdict=Verdict.unknown,
                code=doubt.check.code,
                message=f"Not known: {doubt.check.demand()} ({why}).",
                remedy=doubt.check.remedy,
            )
        else:
            verdicts[host] = HostVerdict(verdict=Verdict.passed)
    raised = [r for r in results if r.raised]
    blocked = ""
    if raised:
        blocked = f"{len(raised)} check(s) could not be made: {raised[0].check.demand()}: {raised[0].raised}"
    elif not complete:
        missing = sum(1 for host in entered if host not in rows)
        blocked = f"{missing} of {len(entered)} hosts are missing from the table."
    return GateResult(verdicts=verdicts, checks=tuple(results), blocked=blocked)


def _check_plainly(check: Check, hosts: Sequence[str], rows: Mapping[str, Row]) -> CheckResult:
    column = {host: rows[host].get(check.column) for host in hosts}
    if all(check.column not in rows[host] for host in hosts):
        return CheckResult(check=check, unknown=tuple(hosts), raised="no such column")
    unknown = tuple(host for host in hosts if _null(column[host]))
    seen = {host: value for host, value in column.items() if not _null(value)}
    if any(not _fits(check, value) for value in seen.values()):
        return CheckResult(check=check, unknown=tuple(hosts), raised="values of a type it cannot judge")
    failed = tuple(host for host, value in seen.items() if not _meets(check, value))
    return CheckResult(check=check, failed=failed, unknown=unknown)


def _null(value: object) -> bool:
    return value is None or value != value  # NaN is how a data frame spells null


def _fits(check: Check, value: object) -> bool:
    if check.op == "between":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if check.op == "match":
        return isinstance(value, str)
    kinds = {type(allowed) for allowed in check.values}
    return type(value) in kinds


def _meets(check: Check, value: Any) -> bool:
    if check.op == "in_set":
        return value in check.values
    if check.op == "match":
        return re.match(check.pattern, value) is not None
    return (check.low is None or value >= check.low) and (check.high is None or value <= check.high)


def _validate(
    hosts: Sequence[str], promised: int, rows: Mapping[str, Row], checks: Sequence[Check]
) -> tuple[tuple[CheckResult, ...], bool]:
    """The result of each check, and whether the table has as many rows as were promised."""
    gx, pandas = _libraries()
    # A check whose column holds a type that it cannot judge is taken out before: pandas would
    # compare what is not comparable, or find True in {1}.
    bad = {i: _check_plainly(check, hosts, rows) for i, check in enumerate(checks)}
    bad = {i: result for i, result in bad.items() if result.raised}
    columns = {check.column: [rows[host].get(check.column) for host in hosts] for check in checks}
    frame = pandas.DataFrame({"host": list(hosts), **columns}, dtype=object)
    batch = _facts_of_a_stage().get_batch({"dataframe": frame})
    wanted: list[Any] = [gx.expectations.ExpectTableRowCountToEqual(value=promised)]
    for i, check in enumerate(checks):
        if i not in bad:
            twin = {"check": i, "twin": True}
            wanted += (
                _expectation(gx, check, i),
                gx.expectations.ExpectColumnValuesToNotBeNull(column=check.column, meta=twin),
            )
    outcome = batch.validate(
        gx.ExpectationSuite(name="stage", expectations=wanted),
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": ["host"],
            "return_unexpected_index_query": False,
        },
    )
    results = tuple(
        bad.get(i) or _result_of(check, i, hosts, outcome.results) for i, check in enumerate(checks)
    )
    counts = [r.success for r in outcome.results if r.expectation_config.type == ROW_COUNT]
    return results, counts == [True]


def _result_of(check: Check, index: int, hosts: Sequence[str], results: Sequence[Any]) -> CheckResult:
    failed: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    raised = ""
    for result in results:
        meta = result.expectation_config.meta or {}
        if meta.get("check") != index:
            continue
        info = result.exception_info or {}
        if info.get("raised_exception", False) or any(
            isinstance(value, dict) and value.get("raised_exception") for value in info.values()
        ):
            raised = "Great Expectations could not evaluate it"
            continue
        wrong = tuple(entry["host"] for entry in result.result.get("unexpected_index_list") or ())
        if meta.get("twin"):
            unknown = wrong
        else:
            failed = wrong
    if raised:
        return CheckResult(check=check, unknown=tuple(hosts), raised=raised)
    order = {host: position for position, host in enumerate(hosts)}
    return CheckResult(
        check=check,
        failed=tuple(sorted(set(failed) - set(unknown), key=order.__getitem__)),
        unknown=tuple(sorted(unknown, key=order.__getitem__)),
    )


def _expectation(gx: Any, check: Check, index: int) -> Any:
    meta = {"check": index, "code": check.code}
    e = gx.expectations
    if check.op == "in_set":
        return e.ExpectColumnValuesToBeInSet(column=check.column, value_set=list(check.values), meta=meta)
    if check.op == "match":
        return e.ExpectColumnValuesToMatchRegex(column=check.column, regex=check.pattern, meta=meta)
    return e.ExpectColumnValuesToBeBetween(
        column=check.column, min_value=check.low, max_value=check.high, meta=meta
    )


_LOCAL = threading.local()  # a data context is not made for several threads


def _facts_of_a_stage() -> Any:
    """What data frames are validated through; made once a thread, which costs as much as a gate."""
    if not hasattr(_LOCAL, "definition"):
        gx, _ = _libraries()
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}
        asset = context.data_sources.add_pandas("facts").add_dataframe_asset("stage")
        _LOCAL.definition = asset.add_batch_definition_whole_dataframe("all")
    return _LOCAL.definition


def _libraries() -> tuple[Any, Any]:
    # Imported here: 3 to 4.5 s, which `haltuun status` must not pay.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with uncollected(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _when_used("scipy.stats")
        _when_used("altair")
        import great_expectations as gx
        import pandas
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    return gx, pandas


class _WhenUsed(ModuleType):
    """A module that is imported once something of it is used.

    Great Expectations takes statistics and charts along for demands on distributions, which are none of ours:
    a third of its import (measured: scipy 1.5 s and altair 0.7 s of 5.9). importlib's LazyLoader is of no use
    for a package: before Python 3.12, `import package` alone has it loaded.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _when_used(name: str) -> None:
    if name in sys.modules or importlib.util.find_spec(name) is None:
        return
    module = sys.modules[name] = _WhenUsed(name)
    package, _, own = name.rpartition(".")
    if package:
        setattr(sys.modules[package], own, module)
