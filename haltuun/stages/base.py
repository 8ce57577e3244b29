"""The shape of a stage. Six packages beside this one fill it; the engine runs it.

probe_account, probe_host   look (I/O); never change anything
parse_account, parse_host   raw → facts (pure)
judge                       facts → findings (pure)
plan                        facts → changes as data (pure)
kinds                       how each kind of change is looked at and performed (I/O)
prove                       look for the effect (I/O; may leave a marker)
checks                      what the gate demands of a host's row, as data
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from haltuun.config import AccountConfig, Config
from haltuun.gates import Check
from haltuun.model import Change, Facts, Finding, Frozen, Host, Json, Proof, StageName, StagePlan, Unknown

if TYPE_CHECKING:
    from haltuun.run import Run


@dataclass(frozen=True)
class View:
    """All that a pure function of a stage may look at.

    `facts[stage][instance_id]` and `account_facts[stage]` are of the stages observed so far (its own
    included). `entering` are the hosts expected to enter the stage if all earlier changes are made:
    a plan is for these. `planned` are the changes of earlier stages.
    """

    account: AccountConfig
    config: Config
    account_id: str
    partition: str
    now: datetime
    run_id: str
    hosts: Mapping[str, Host]
    entering: tuple[str, ...]
    facts: Mapping[StageName, Mapping[str, Facts]]
    account_facts: Mapping[StageName, Frozen]
    planned: tuple[Change, ...] = ()

    def changes_of(self, stage: StageName) -> tuple[Change, ...]:
        return tuple(change for change in self.planned if change.stage is stage)


@dataclass(frozen=True)
class Kind:
    """How one kind of change is looked at and performed.

    `look` returns the present value in the terms of `Change.before` and `Change.after` (compared for
    equality), or Unknown when it cannot be seen. `apply` performs `change.after`; it must be safe to
    call again. Undo goes through the same two functions with an inverse change.
    """

    name: str
    look: Callable[[Run, Change], Json | Unknown]
    apply: Callable[[Run, Change], Json]  # what to keep in the ledger beside the change: ids, output
    on_host: bool = False  # performed on the host itself: the host's own lock and wave apply
    # Why the target of an undo must stay although what it was is still there; "" when it need not, Unknown
    # when that cannot be seen. Of what is not of one host alone, `hosts` are those whose own changes build on
    # it and have yet to go back.
    keeps: Callable[[Run, Change], str | Unknown] | None = None
    # Of an undo: what goes with what the summary names, said before it is done.
    goes: Callable[[Change], str] | None = None
    # Of an undo: it is performed on the host through Systems Manager, so what made the host reachable there
    # goes back after it, and so does what the change's detail names.
    by_ssm: bool = False


@dataclass(frozen=True)
class Proven:
    """What `prove` saw of one host: columns to put into its facts, and proofs for the ledger."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    proofs: tuple[Proof, ...] = ()


def no_proof(run: Run, hosts: Sequence[Host], view: View) -> Mapping[str, Proven]:
    """For stages whose probe already is the proof."""
    return {}


def _nothing_kept() -> None:
    return None


@dataclass(frozen=True)
class Stage:
    name: StageName
    needs: tuple[StageName, ...]
    account_facts: type[Frozen]
    host_facts: type[Facts]
    probe_account: Callable[[Run, Sequence[Host]], Json]
    parse_account: Callable[[View, Json], Frozen]
    probe_host: Callable[[Run, Host, View], Json] | None
    parse_host: Callable[[View, Host, Json, Json | Unknown], Facts]  # account's raw, host's raw
    judge: Callable[[View], Sequence[Finding]]
    plan: Callable[[View], StagePlan]
    kinds: Mapping[str, Kind]
    prove: Callable[[Run, Sequence[Host], View], Mapping[str, Proven]]
    checks: tuple[Check, ...]
    forget: Callable[[], None] = _nothing_kept  # called when what was read has been parsed
