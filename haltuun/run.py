"""One run over one account: what the functions of a stage are given to work with."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from haltuun.aws import Aws
from haltuun.clock import Clock
from haltuun.config import AccountConfig, Config
from haltuun.errors import Unreachable
from haltuun.model import Change, Facts, Frozen, Host, Json, Proof, StageName
from haltuun.sharing import SharedReads
from haltuun.transport import Transport

if TYPE_CHECKING:
    from haltuun.ledger import Ledger

Opener = Callable[["Run", Host], Transport]


@dataclass
class Run:
    """Thread-safe where hosts are worked side by side."""

    id: str
    config: Config
    account: AccountConfig
    mode: str  # "plan" or "apply"
    aws: Aws
    clock: Clock
    ledger: Ledger
    opener: Opener
    listed: set[str] = field(default_factory=set)  # regions whose hosts are all known
    fence: int = 0  # the lease's number; a host refuses a lower one than it has seen
    facts: dict[StageName, Mapping[str, Facts]] = field(default_factory=dict)
    account_facts: dict[StageName, Frozen] = field(default_factory=dict)
    shared: SharedReads = field(default_factory=SharedReads)
    _failed: dict[str, Unreachable] = field(default_factory=dict)
    _did: dict[str, dict[tuple[StageName, str, str], datetime]] = field(default_factory=dict)
    _spent: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, host: Host) -> Transport:
        """A fresh Transport to the host; the caller closes it.

        A host that could not be reached in this run is not tried again before `forget`: its error is
        raised at once, so a hanging host costs its deadline once and offers no key twice.

        Raises:
            Unreachable: or a subclass.
        """
        with self._lock:
            failed = self._failed.get(host.instance_id)
        if failed is not None:
            raise failed
        try:
            return self.opener(self, host)
        except Unreachable as error:
            with self._lock:
                self._failed[host.instance_id] = error
            raise

    def forget(self, instance_id: str) -> None:
        """Something changed that may make the host reachable: try again."""
        with self._lock:
            self._failed.pop(instance_id, None)

    def spend(self, what: str, limit: int) -> bool:
        """Whether this run may make one more of `what`: what nothing batches is done some times only."""
        with self._lock:
            self._spent[what] += 1
            return self._spent[what] <= limit

    def journal(self, change: Change, event: str, note: Json = None) -> None:
        """Into the ledger; `did` knows of it, too."""
        at = self.now()
        self.ledger.journal(self.id, self.account.id, change, event, at, note)
        with self._lock:
            for host in change.hosts:
                self._did.setdefault(host, {})[change.stage, change.kind, event] = at

    def did(self, instance_id: str) -> dict[tuple[StageName, str, str], datetime]:
        """(stage, kind, event) → when this run last journaled that of a change for the host."""
        with self._lock:
            return dict(self._did.get(instance_id, {}))

    def valid_proof(self, stage: StageName, kind: str, instance_id: str) -> Proof | None:
        """The newest proof of this kind that is still valid at the account's time."""
        return self.ledger.valid_proof(self.account.id, stage, kind, instance_id, self.clock.now())

    @property
    def ledger_id(self) -> str:
        """Whose numbers `fence` belongs to."""
        return self.ledger.id

    def now(self) -> datetime:
        return self.clock.now()
