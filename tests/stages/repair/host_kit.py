"""Repair alone on the hosts of a lab: look, plan, perform one change, as the engine does it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haltuun.config import load_config
from haltuun.engine import open_run
from haltuun.model import Change, Facts, Frozen, Host, Json, StageName, StagePlan, Unknown
from haltuun.reach import open_host
from haltuun.run import Run
from haltuun.stages.base import Kind, Proven, View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.repair import STAGE
from haltuun.stages.repair.probe import look_at
from lab import api

# Where a script could leave something; a login's own traces are in /var/log and /run.
_KEPT = ("etc", "home", "root", "tmp", "var/lib", "var/spool", "usr/local")


@dataclass
class Hosts:
    """The lab's hosts by name, and runs over them."""

    info: api.LabInfo

    def host(self, name: str) -> Host:
        found = self.info.hosts[name]
        return Host(
            account=self.info.account_id,
            region=self.info.region,
            instance_id=found["instance_id"],
            name=name,
        )

    def file(self, name: str, path: str) -> Path:
        """A file of the host, seen from outside."""
        return Path(f"/proc/{self.info.hosts[name]['pid']}/root{path}")

    def tree(self, name: str) -> dict[str, str]:
        """Every file of the host in the places that keep something, with mode and checksum."""
        root = self.file(name, "/")
        return {
            f"/{path.relative_to(root)}": f"{path.stat().st_mode:o} "
            + hashlib.sha256(path.read_bytes()).hexdigest()
            for kept in _KEPT
            for path in sorted((root / kept).rglob("*"))
            if path.is_file() and not path.is_symlink()
        }


@dataclass
class Bench:
    """One run over one host."""

    hosts: Hosts
    run: Run
    host: Host
    facts: dict[StageName, Mapping[str, Facts]]
    account_facts: dict[StageName, Frozen]

    def view(self, *, prepared: tuple[Change, ...] = ()) -> View:
        return View(
            account=self.run.account,
            config=self.run.config,
            account_id=self.run.account.id,
            partition="aws",
            now=self.run.now(),
            run_id=self.run.id,
            hosts={host.instance_id: host for host in map(self.hosts.host, self.hosts.info.hosts)},
            entering=(self.host.instance_id,),
            facts=self.facts,
            account_facts=self.account_facts,
            planned=prepared,
        )

    def look(self) -> Any:
        raw = STAGE.probe_account(self.run, [self.host])
        self.account_facts[StageName.repair] = STAGE.parse_account(self.view(), raw)
        host_raw: Json | Unknown = look_at(self.run, self.host, self.view())
        facts = STAGE.parse_host(self.view(), self.host, raw, host_raw)
        self.facts[StageName.repair] = {self.host.instance_id: facts}
        return facts

    def plan(self) -> StagePlan:
        self.look()
        return STAGE.plan(self.view())

    def kind(self, change: Change) -> Kind:
        return STAGE.kinds[change.kind]

    def perform(self, change: Change) -> Json:
        """Look, apply, and look again."""
        kind = self.kind(change)
        assert kind.look(self.run, change) == change.before
        note = kind.apply(self.run, change)
        assert kind.look(self.run, change) == change.after
        return note

    def undo(self, change: Change) -> None:
        assert change.undo is not None
        back = change.model_copy(
            update={"kind": change.undo.kind, "before": change.after, "after": change.undo.after}
        )
        self.perform(back)

    def prove(self) -> Proven:
        self.look()
        return STAGE.prove(self.run, [self.host], self.view())[self.host.instance_id]


def discovered(hosts: Hosts) -> dict[str, DiscoverFacts]:
    return {
        known["instance_id"]: DiscoverFacts(
            state="running",
            platform="linux",
            private_ip=known["private_ip"],
            profile_arn=f"arn:aws:iam::{hosts.info.account_id}:instance-profile/there",
            hostname=hostname,
            asg=None,
            managed_by=(),
            suspect=(),
        )
        for hostname, known in hosts.info.hosts.items()
    }


@contextmanager
def bench(hosts: Hosts, name: str, mode: str = "apply") -> Iterator[Bench]:
    config = load_config(hosts.info.config_path)
    run = open_run(config, hosts.info.account_id, mode, open_host)
    facts: dict[StageName, Mapping[str, Facts]] = {StageName.discover: discovered(hosts)}
    run.facts = facts
    yield Bench(hosts=hosts, run=run, host=hosts.host(name), facts=facts, account_facts={})


@contextmanager
def lab_of(scenario: str, folder: Path, name: str) -> Iterator[Hosts]:
    file = folder / "scenario.yaml"
    file.write_text(scenario)
    info = api.up(file, out=folder / "out", name=name, seed=3)
    before = dict(os.environ)
    os.environ.update(info.env)
    try:
        yield Hosts(info)
    finally:
        os.environ.clear()
        os.environ.update(before)
        api.down(name)
