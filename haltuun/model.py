"""The words of the domain as types. Pure: no I/O, nothing of AWS, SSH or Prefect."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, NoReturn, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Json = Any  # what json.dumps takes: dict, list, str, int, float, bool, None


class StageName(StrEnum):
    """The six stages, in the order in which they run."""

    discover = "discover"
    verify = "verify"
    repair = "repair"
    patch = "patch"
    backup = "backup"
    logs = "logs"


class Verdict(StrEnum):
    """What a gate says of one host. `pending` is before the gate."""

    pending = "pending"
    passed = "passed"
    held = "held"
    waiting = "waiting"
    excluded = "excluded"
    unknown = "unknown"
    waived = "waived"


class Reach(StrEnum):
    """Who is concerned by a change."""

    host = "host"
    shared = "shared"
    account = "account"
    irreversible = "irreversible"


class Severity(StrEnum):
    info = "info"
    low = "low"
    medium = "medium"
    high = "high"
    critical = "critical"


class Frozen(BaseModel):
    """Immutable value, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    _computed_once: ClassVar[tuple[str, ...]] = ()  # cached properties

    def model_post_init(self, context: Any, /) -> None:
        _share_names(self)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        for name in self._computed_once:
            copied.__dict__.pop(name, None)  # what was computed is the original's
        _share_names(copied)
        return copied


_NAMES: dict[frozenset[str], set[str]] = {}


def _share_names(value: BaseModel) -> None:
    """One set for equal names of given fields: one each was 40 % of what a large account's run held."""
    names = value.model_fields_set
    shared = _NAMES.setdefault(frozenset(names), names)
    object.__setattr__(value, "__pydantic_fields_set__", shared)


class Unknown(Frozen):
    """Could not be observed, and why. Never False, 0 or empty: it refuses to be a truth value."""

    unknown: str

    def __bool__(self) -> NoReturn:
        raise TypeError(f"unknown is neither true nor false ({self.unknown}); ask known() first")


def known(value: object) -> bool:
    """True when `value` was observed."""
    return not isinstance(value, Unknown)


def is_true(value: object) -> bool:
    """True only when observed and true; unknown is not."""
    return known(value) and bool(value)


def is_false(value: object) -> bool:
    """True only when observed and false; unknown is not."""
    return known(value) and not value


class Host(Frozen):
    """One EC2 instance. Addresses and names are attributes, never identity: clones share both."""

    account: str
    region: str
    instance_id: str
    name: str = ""

    @property
    def label(self) -> str:
        """`i-0abc… web-01`, as people see it."""
        return f"{self.instance_id} {self.name}".rstrip()


class Facts(Frozen):
    """What one stage observed of one host. Subclasses add fields of type `T | Unknown`.

    `row()` is the host's row in the gate's table: scalars as they are, unknown as None (the not-null
    twin of a check then finds it), everything composed as JSON text.
    """

    observed_at: datetime | None = None

    def row(self) -> dict[str, str | int | float | bool | None]:
        return {
            name: _scalar(getattr(self, name)) for name in type(self).model_fields if name != "observed_at"
        }


def _scalar(value: object) -> str | int | float | bool | None:
    if isinstance(value, Unknown):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value if not isinstance(value, StrEnum) else value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    return json.dumps(value, default=_jsonable, sort_keys=True)


def _jsonable(value: object) -> Json:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, set | frozenset | tuple):
        return sorted(value) if isinstance(value, set | frozenset) else list(value)
    raise TypeError(f"not data: {type(value).__name__}")


def canonical(value: Json) -> str:
    """One spelling for equal data, so that equal data has equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_jsonable)


class Finding(Frozen):
    """A judged fact. `host` is an instance id, or None for the account's."""

    code: str
    severity: Severity
    message: str
    host: str | None = None
    evidence: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def not_judged_together(self) -> bool:
        """Whether it tells of a stage that could not judge its hosts together."""
        return self.host is None and self.code == "INTERNAL"


class Cost(Frozen):
    """What a change costs a month, to an order of magnitude: somewhere between `low` and `high`."""

    low: float
    high: float
    currency: str
    basis: str  # of what amounts and prices


class Undo(Frozen):
    """The inverse of a change: performed by the same kind of code, on the same target."""

    kind: str
    after: Json


# A host or an interface, however it is called beside its id: `i-0abc… web-01 (SUSPECT)`.
_WHO = re.compile(r"(?:i|mi|eni)-[0-9a-f]+\b")
# Interfaces that AWS makes anew as it likes, by the words that name their user: a load balancer, a function.
# Others' words do not tell one user from the next ("RDSNetworkInterface").
_USER = re.compile(r"eni-[0-9a-f]+ \(((?:ELB |AWS Lambda VPC ENI-).+)\)")
_OF_ONE_INTERFACE = re.compile(r"-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=, of |$)")


class Change(Frozen):
    """One planned mutation as data; see DESIGN's words.

    `before` and `after` hold only what decides (no times, no counters): they make the id, and a
    change is performed only while `before` still holds. `detail` helps `apply` and is no part of it, and
    neither is what it costs: prices and sizes move, what is approved stays the same.
    """

    stage: StageName
    kind: str  # names the Kind that performs it, e.g. "iam.role.policy"
    region: str
    target: str  # what is changed: a role name, an instance id, a document name
    hosts: tuple[str, ...]  # instance ids that need it
    before: Json
    after: Json
    reach: Reach
    summary: str  # one sentence, for the person who approves
    permissions: tuple[str, ...] = ()  # IAM actions of the operator
    undo: Undo | None = None
    no_undo: str = ""  # why there is none
    concerns: tuple[str, ...] = ()  # who else is concerned, by name
    depends_on: tuple[str, ...] = ()  # change ids that must be in effect first
    only_if_failed: str | None = None  # a ladder's next step: the change id that must have failed
    undoes: str = ""  # the id of the change that this one takes back
    detail: Json = None
    monthly_cost: Cost | Unknown | None = None  # None: it causes none by itself

    _computed_once: ClassVar[tuple[str, ...]] = ("id",)

    @cached_property
    def id(self) -> str:
        decided = [self.kind, self.region, self.target, self.before, self.after, self.reach.value]
        return hashlib.sha256(canonical(decided).encode()).hexdigest()[:12]

    @property
    def concerned(self) -> frozenset[str]:
        """Whom it concerns so that an approval depends on it: ids where there are some, else as told.

        Those that need it, too, but not where it is the account's: it is the same thing for one more of them.
        """
        needing = () if self.reach is Reach.account else self.hosts
        return frozenset((*needing, *map(_counted, self.concerns)))

    def public(self) -> dict[str, Json]:
        """The stable face of `plan --json`."""
        return {
            "id": self.id,
            "stage": self.stage.value,
            "kind": self.kind,
            "hosts": list(self.hosts),
            "region": self.region,
            "target": self.target,
            "summary": self.summary,
            "permissions": list(self.permissions),
            "reach": self.reach.value,
            "undo": self.undo.model_dump(mode="json") if self.undo else None,
            "no_undo": self.no_undo,
            "concerns": list(self.concerns),
            "before": self.before,
            "after": self.after,
            "depends_on": list(self.depends_on),
            "only_if_failed": self.only_if_failed,
            "monthly_cost": self.monthly_cost.model_dump(mode="json")
            if self.monthly_cost is not None
            else None,
        }


def _counted(who: str) -> str:
    if user := _USER.fullmatch(who):
        return _OF_ONE_INTERFACE.sub("", user[1])
    match = _WHO.match(who)
    return match.group() if match else who


# What is the same in one kind of change on every host, or nearly.
_PARTS = ("before", "after", "permissions", "undo", "no_undo", "depends_on", "detail", "monthly_cost")


def share_parts(changes: Iterable[Change]) -> None:
    """One object for the equal parts of many hosts' changes: each with its own is nearly half of a plan."""
    known: dict[tuple[str, str, str], Any] = {}
    for change in changes:
        for name in _PARTS:
            value = getattr(change, name)
            # Text of their data tells True from 1; equality does not.
            change.__dict__[name] = known.setdefault((change.kind, name, canonical(value)), value)


class Barred(Frozen):
    """Why a host cannot pass a stage as things stand, even if all planned changes are made."""

    host: str
    code: str
    message: str
    remedy: str
    verdict: Verdict = Verdict.held
    next_check: datetime | None = None


class StagePlan(Frozen):
    """What a stage wants to change, and whom that will not help."""

    changes: tuple[Change, ...] = ()
    barred: tuple[Barred, ...] = ()
    notes: tuple[Finding, ...] = ()  # what is named and not done: too wide, or not ours to change


class Plan(Frozen):
    """All stages' changes of one run. The hash is over what a person decides on, in any order: the ids, and
    whom a change concerns beyond its own host."""

    account: str
    changes: tuple[Change, ...] = ()
    findings: tuple[Finding, ...] = ()
    barred: Mapping[str, tuple[Barred, ...]] = Field(default_factory=dict)

    _computed_once: ClassVar[tuple[str, ...]] = ("hash",)

    @cached_property
    def hash(self) -> str:
        decided = {
            change.id if change.reach is Reach.host else " ".join((change.id, *sorted(change.concerned)))
            for change in self.changes
        }
        return hashlib.sha256("\n".join(sorted(decided)).encode()).hexdigest()[:16]


class Depends(Protocol):
    """A change, or what is told of one."""

    @property
    def id(self) -> str: ...
    @property
    def depends_on(self) -> tuple[str, ...]: ...
    @property
    def only_if_failed(self) -> str | None: ...


C = TypeVar("C", bound=Depends)


def held_back(changes: Sequence[C], asked: Collection[str]) -> list[C]:
    """Of `changes` those whose approval is asked for, by id, and all that build on them."""
    held = set(asked)
    grown = True
    while grown:
        more = {c.id for c in changes if held & {*c.depends_on, c.only_if_failed}} - held
        held |= more
        grown = bool(more)
    return [change for change in changes if change.id in held]


def command(verb: str, account: str, stages: Sequence[str], hosts: Sequence[str]) -> str:
    """`haltuun takeover acme --stage patch`: as narrow as a run is."""
    narrowed = [f"--stage {stage}" for stage in stages] + [f"--host {host}" for host in hosts]
    return " ".join([f"haltuun {verb} {account}", *narrowed])


def approval_command(account: str, plan_hash: str, stages: Sequence[str], hosts: Sequence[str]) -> str:
    """Narrowed as the plan was: what nobody looked at is not changed along with it."""
    return f"{command('takeover', account, stages, hosts)} --plan {plan_hash}"


class Proof(Frozen):
    """An observation that shows an effect."""

    host: str
    stage: StageName
    kind: str  # "echo", "marker", "recovery_point", "scan"
    evidence: str
    observed_at: datetime
    valid_until: datetime


class HostStatus(Frozen):
    """One cell of the table hosts × stages."""

    verdict: Verdict
    reason: str = ""  # a code
    message: str = ""
    remedy: str = ""
    since: datetime | None = None
    next_check: datetime | None = None
