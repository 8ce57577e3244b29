"""What a change costs a month, to an order of magnitude: from amounts, prices.yaml and its assumptions.

Pure, beside the price file that is read once. What is not known stays Unknown: it is never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field

from haltuun.model import Cost, Frozen, Unknown

# Parameter Store, "Managing parameter tiers": a standard parameter holds up to 4 KB.
STANDARD_PARAMETER_BYTES = 4096
DAYS_A_MONTH = 30.4
HOURS_A_MONTH = 730
MB_A_GB = 1000
ELSEWHERE = "elsewhere"
LEAST = 0.01
SYSTEM_LOGS = frozenset({"system", "auth"})


def _pair(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value, value)


Amount = Annotated[float, Field(ge=0)]
Span = Annotated[tuple[Amount, Amount], BeforeValidator(_pair)]  # lowest, highest


class Assumptions(Frozen):
    volume_written: Span
    changed_a_day: Span
    system_log_mb_a_day: Span
    service_log_mb_a_day: Span
    log_compressed_to: Span
    session_log_mb_a_month: Span


class PriceFile(Frozen):
    currency: str
    as_of: date
    source: str
    prices: dict[str, dict[str, Span]]  # what → region → price
    unpriced: dict[str, str]
    assumptions: Assumptions


class Total(Frozen):
    """Of several changes: what is known together, and how many are unknown."""

    low: float = 0.0
    high: float = 0.0
    currency: str = ""
    known: int = 0
    unknown: int = 0


@cache
def price_file() -> PriceFile:
    text = Path(__file__).with_name("prices.yaml").read_text(encoding="utf-8")
    return PriceFile.model_validate(yaml.safe_load(text))


def full_backup(region: str, gib: int | Unknown) -> Cost | Unknown:
    """A first copy of volumes of `gib` together; later ones share what has not changed."""
    span = price_file().assumptions.volume_written
    return _priced(region, gib, "snapshot_gib_month", span, f"{gib} GiB of volumes, {_percent(span)} written")


def nightly_backups(region: str, gib: int | Unknown, days: int) -> Cost | Unknown:
    """What changes from night to night, each kept for `days`."""
    low, high = changed = price_file().assumptions.changed_a_day
    basis = f"{gib} GiB of volumes, {_percent(changed)} changed a night, kept {days} days"
    return _priced(region, gib, "snapshot_gib_month", (low * days, high * days), basis)


def shipped_logs(region: str, services: Sequence[str], days: int) -> Cost | Unknown:
    """One log file for each of `services`, what it ships kept for `days`."""
    assumed = price_file().assumptions
    spans = [
        assumed.system_log_mb_a_day if s in SYSTEM_LOGS else assumed.service_log_mb_a_day for s in services
    ]
    span = (sum(low for low, _ in spans), sum(high for _, high in spans))
    basis = f"{len(services)} log files with {_number(span[0])}–{_number(span[1])} MB a day, kept {days} days"
    return _logged(region, (span[0] * DAYS_A_MONTH, span[1] * DAYS_A_MONTH), days, basis)


def session_logs(region: str, days: int) -> Cost | Unknown:
    """All Session Manager sessions of a region."""
    span = price_file().assumptions.session_log_mb_a_month
    basis = f"{_number(span[0])}–{_number(span[1])} MB of sessions a month, kept {days} days"
    return _logged(region, span, days, basis)


def parameter(region: str, text: str) -> Cost | Unknown | None:
    """A parameter of the tier that its text needs; a standard one costs nothing."""
    if len(text.encode()) <= STANDARD_PARAMETER_BYTES:
        return None
    return _priced(region, 1, "advanced_parameter_month", (1.0, 1.0), "an advanced parameter")


def interface_endpoint(region: str) -> Cost | Unknown:
    """In one zone."""
    hours = (HOURS_A_MONTH, HOURS_A_MONTH)
    return _priced(region, 1, "interface_endpoint_hour", hours, "an interface endpoint in one zone")


def nat_gateway(region: str) -> Cost | Unknown:
    hours = (HOURS_A_MONTH, HOURS_A_MONTH)
    return _priced(region, 1, "nat_gateway_hour", hours, "a NAT gateway, without what goes through it")


def total(costs: Iterable[Cost | Unknown | None]) -> Total:
    some = list(costs)
    known = [cost for cost in some if isinstance(cost, Cost)]
    return Total(
        low=sum(cost.low for cost in known),
        high=sum(cost.high for cost in known),
        currency=price_file().currency,
        known=len(known),
        unknown=sum(1 for cost in some if isinstance(cost, Unknown)),
    )


def say(cost: Cost | Total) -> str:
    """`about 3–12 USD a month`: no more digits than are known."""
    low, high = _number(cost.low), _number(cost.high)
    if cost.high < LEAST:
        amount = f"under {LEAST}"
    elif cost.low < LEAST:
        amount = f"up to {high}"
    else:
        amount = f"about {low}" + (f"–{high}" if high != low else "")
    return f"{amount} {cost.currency} a month"


def say_total(costs: Iterable[Cost | Unknown | None]) -> str:
    """`about 3–12 USD a month, without 2 changes whose cost is unknown`; "" where nothing costs anything."""
    of = total(costs)
    unknown = f"{of.unknown} change{'s' if of.unknown > 1 else ''} whose cost is unknown"
    if not of.unknown:
        return say(of) if of.known else ""
    return f"{say(of)}, without {unknown}" if of.known else f"unknown ({unknown})"


def basis() -> str:
    """What all amounts rest on, in one sentence."""
    prices = price_file()
    return (
        f"Costs are orders of magnitude: {prices.currency} list prices as of {prices.as_of.isoformat()},"
        " not the account's contract."
    )


def _logged(region: str, mb: tuple[float, float], days: int, basis: str) -> Cost | Unknown:
    """Ingested once, then stored compressed for as long as it is kept."""
    gb = (mb[0] / MB_A_GB, mb[1] / MB_A_GB)
    ingested = _priced(region, 1, "log_ingestion_gb", gb, basis)
    low, high = price_file().assumptions.log_compressed_to
    months = days / DAYS_A_MONTH
    stored = _priced(region, 1, "log_storage_gb_month", (gb[0] * low * months, gb[1] * high * months), basis)
    if isinstance(ingested, Unknown) or isinstance(stored, Unknown):
        return ingested
    low, high = ingested.low + stored.low, ingested.high + stored.high
    return ingested.model_copy(update={"low": round(low, 4), "high": round(high, 4)})


def _priced(
    region: str, amount: int | Unknown, what: str, factor: tuple[float, float], basis: str
) -> Cost | Unknown:
    if isinstance(amount, Unknown):
        return amount
    prices = price_file()
    for beginning, why in prices.unpriced.items():
        if region.startswith(beginning):
            return Unknown(unknown=f"{region}: {why}")
    regions = prices.prices[what]
    low, high = regions.get(region, regions[ELSEWHERE])
    told = f"{low:g}" if low == high else f"{low:g}–{high:g}"
    return Cost(
        low=round(amount * factor[0] * low, 4),
        high=round(amount * factor[1] * high, 4),
        currency=prices.currency,
        basis=f"{basis}; {what} {told} ({region}, {prices.as_of.isoformat()})",
    )


def _percent(span: tuple[float, float]) -> str:
    return f"{span[0] * 100:g}–{span[1] * 100:g} %"


def _number(value: float) -> str:
    """With two digits at most."""
    two = round(float(f"{value:.2g}"), 2)
    return f"{two:,.0f}" if two >= 10 else f"{two:g}"
