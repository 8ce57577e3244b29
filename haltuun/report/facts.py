"""Facts as people read them: words, units, and what is unknown with its reason. Pure.

They come from the ledger as data, so what an earlier version wrote is told too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from haltuun.model import Frozen, StageName
from haltuun.report.render import plain

UNITS = {"_percent": "%", "_kb": "kB", "_age_h": "h", "_s": "s", "_h": "h", "_days": "days"}
# In tables of their own, or details that the other facts are drawn from.
LEFT_OUT = frozenset(
    {"observed_at", "listeners", "agent", "found", "vault_node", "units", "agent_processes", "signs_unlooked"}
)
LOOPBACK = ("127.", "::1", "localhost", "[::1]")
EMPTY: tuple[Any, ...] = (None, "", [], {})
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)$")


class Fact(Frozen):
    name: str  # as in the ledger
    words: str  # "disk free"
    value: str  # "98 %"


class NotKnown(Frozen):
    """Facts that are unknown for the same reason."""

    reason: str
    words: tuple[str, ...]


class StageFacts(Frozen):
    """What was last seen of a host in one stage; what is empty is left out."""

    stage: StageName
    at: datetime
    known: tuple[Fact, ...]
    unknown: tuple[NotKnown, ...]


class Service(Frozen):
    """One listening port; "" where the host could not say."""

    protocol: str
    port: int
    process: str
    package: str
    unit: str
    addresses: tuple[str, ...]
    outside: bool  # it listens on more than the loopback


def stage_facts(stage: StageName, at: datetime, facts: Mapping[str, Any]) -> StageFacts:
    known, reasons = [], dict[str, list[str]]()
    for name, value in facts.items():
        if name in LEFT_OUT or value in EMPTY:
            continue
        words, unit = _words(name)
        reason = why_unknown(value)
        if reason is not None:
            reasons.setdefault(reason, []).append(words)
        else:
            text = _text(value)
            known.append(Fact(name=name, words=words, value=f"{text} {unit}" if unit else text))
    unknown = tuple(NotKnown(reason=reason, words=tuple(words)) for reason, words in reasons.items())
    return StageFacts(stage=stage, at=at, known=tuple(known), unknown=unknown)


def why_unknown(value: Any) -> str | None:
    """Why a fact is unknown; None when it is known."""
    if isinstance(value, Mapping) and set(value) == {"unknown"}:
        return plain(str(value["unknown"]))
    return None


def services(discovered: Mapping[str, Any]) -> tuple[Service, ...] | str:
    """What listens on a host, by port, from its facts of discover; or why that is not known."""
    listeners = discovered.get("listeners")
    if listeners is None:
        return "not looked at"
    if (reason := why_unknown(listeners)) is not None:
        return reason
    found: dict[tuple[Any, ...], list[str]] = {}
    for one in listeners:
        behind = (plain(str(one.get(part) or "")) for part in ("process", "package", "unit"))
        key = (plain(str(one.get("protocol") or "")), int(one.get("port") or 0), *behind)
        found.setdefault(key, []).append(plain(str(one.get("address") or "")))
    return tuple(
        Service(
            protocol=protocol,
            port=port,
            process=process,
            package=package,
            unit=unit,
            addresses=tuple(sorted(set(addresses))),
            outside=not all(address.startswith(LOOPBACK) for address in addresses),
        )
        for (protocol, port, process, package, unit), addresses in sorted(
            found.items(), key=lambda item: (item[0][1], item[0])
        )
    )


def idle_units(discovered: Mapping[str, Any]) -> tuple[str, ...]:
    """The units that run and listen nowhere."""
    units, listening = discovered.get("units"), services(discovered)
    if not isinstance(units, list) or isinstance(listening, str):
        return ()
    return tuple(plain(unit) for unit in units if plain(unit) not in {one.unit for one in listening})


def _words(name: str) -> tuple[str, str]:
    """("disk free", "%")"""
    for suffix, unit in UNITS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix if suffix != "_age_h" else "_h").replace("_", " "), unit
    return name.replace("_", " "), ""


def _text(value: Any) -> str:
    if value in EMPTY:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    if isinstance(value, Mapping):
        return _told(value)
    text = plain(str(value))
    return _TIME.sub(r"\1 \2 UTC", text)


def _told(value: Mapping[str, Any]) -> str:
    """Some composed facts have a shape that people know; others are named part by part."""
    if (reason := why_unknown(value)) is not None:
        return f"unknown ({reason})"
    if "path" in value and "service" in value:
        return f"{_text(value['path'])} ({_text(value['service'])})"
    if "service" in value and "reachable" in value:
        if value["reachable"] is True:
            return _text(value["service"]) + (f" by {_text(value['way'])}" if value.get("way") else "")
        said = why_unknown(value["reachable"]) or _text(value.get("reason") or "out of reach")
        return f"{_text(value['service'])} not: {said}"
    if "files" in value and "mode" in value:
        return _text(value["files"]) + (f", {value['left_out']} left out" if value.get("left_out") else "")
    return "; ".join(
        f"{part.replace('_', ' ')} {_text(one)}" for part, one in value.items() if one not in EMPTY
    )
