"""Is an operating system past its free security updates? From the dated file eol.yaml. Pure."""

from __future__ import annotations

import calendar
from datetime import date
from functools import cache
from importlib import resources

import yaml

from haltuun.model import Frozen, Unknown


class Term(Frozen):
    """`free` and `paid` are the last days of security updates; `checked` is the file's own date."""

    free: date
    paid: date | None
    checked: date


@cache
def terms() -> dict[tuple[str, str], Term]:
    """(os-release ID, version) → term."""
    text = resources.files(__package__ or "").joinpath("eol.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    return {
        (system, str(version)): Term(
            free=last_day(str(row["free"])),
            paid=last_day(str(row["paid"])) if "paid" in row else None,
            checked=data["checked"],
        )
        for system, versions in data["systems"].items()
        for version, row in versions.items()
    }


def last_day(month: str) -> date:
    """2019-04 → 2019-04-30."""
    year, number = (int(part) for part in month.split("-"))
    return date(year, number, calendar.monthrange(year, number)[1])


def term(os_id: str, version: str) -> Term | Unknown:
    """The term of a system as os-release names it; "7.9" also answers to "7", "2018.03" of amzn to "1"."""
    if os_id == "amzn" and version[:4] in {str(year) for year in range(2010, 2019)}:
        version = "1"
    for name in (version, version.split(".")[0]):
        if (os_id, name) in terms():
            return terms()[os_id, name]
    return Unknown(unknown=f"eol.yaml has no entry for {os_id} {version}")
