"""Hosts with the same trouble and the same remedy stand together. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from haltuun.model import Host, StageName, Verdict
from haltuun.report.render import plain

EACH = "each host"


@dataclass(frozen=True)
class Trouble:
    """Why one host is not through."""

    host: str
    stage: StageName
    verdict: Verdict
    code: str
    message: str
    remedy: str


@dataclass
class Group:
    """Troubles of one verdict, code and remedy; `said` is message → hosts."""

    first: Trouble
    said: dict[str, list[str]] = field(default_factory=dict)

    @property
    def hosts(self) -> list[str]:
        return list(dict.fromkeys(host for hosts in self.said.values() for host in hosts))


def grouped(troubles: Iterable[Trouble]) -> list[Group]:
    groups: dict[tuple[str, ...], Group] = {}
    for one in troubles:
        key = (one.verdict.value, one.stage.value, one.code, plain(one.remedy))
        group = groups.setdefault(key, Group(one))
        group.said.setdefault(plain(one.message), []).append(one.host)
    return list(groups.values())


def without_host(text: str, host: Host) -> str:
    """The text as it reads of any host, so that like things can be told once."""
    if host.name:
        text = text.replace(host.label, EACH).replace(f"{host.name} ({host.instance_id})", EACH)
        text = text.replace(f"{host.instance_id} ({host.name})", EACH)
    return text.replace(host.instance_id, EACH)
