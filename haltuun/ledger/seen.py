"""Runs, what they saw and judged, and what happened to hosts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from haltuun.ledger.database import Database
from haltuun.ledger.rows import HostEvent, Judgement, RunRow
from haltuun.ledger.tables import (
    FINDINGS,
    HOST_EVENTS,
    HOSTS,
    OBSERVATIONS,
    RUNS,
    VERDICTS,
)
from haltuun.model import (
    Facts,
    Finding,
    Frozen,
    Host,
    HostStatus,
    Json,
    StageName,
    Verdict,
    canonical,
)


class Seen(Database):
    """Status is a view over the newest rows."""

    # -- runs --------------------------------------------------------------------------------

    def start_run(self, account: str, run: str, body: Mapping[str, Json], at: datetime) -> None:
        self._insert(
            RUNS, [{"account": account, "run": run, "event": "started", "at": at, "body": canonical(body)}]
        )

    def end_run(self, account: str, run: str, outcome: str, body: Mapping[str, Json], at: datetime) -> None:
        full = {**body, "outcome": outcome}
        self._insert(
            RUNS, [{"account": account, "run": run, "event": "ended", "at": at, "body": canonical(full)}]
        )

    def runs(self, account: str) -> list[RunRow]:
        """Oldest first."""
        rows = self._select(sa.select(RUNS).where(RUNS.c.account == account).order_by(RUNS.c.seq))
        ended = {row.run: row for row in rows if row.event == "ended"}
        result = []
        for row in rows:
            if row.event != "started":
                continue
            body, end = json.loads(row.body), ended.get(row.run)
            end_body = json.loads(end.body) if end else {}
            result.append(
                RunRow(
                    run=row.run,
                    account=account,
                    started_at=row.at,
                    ended_at=end.at if end else None,
                    mode=body.get("mode", ""),
                    outcome=end_body.get("outcome", "not ended"),
                    body={**body, **end_body},
                )
            )
        return result

    def was_begun(self, account: str) -> bool:
        """Whether a takeover came to an end of its own: one that failed or was killed is no beginning."""
        runs = [run for run in self.runs(account) if run.mode == "apply"]
        return any(run.outcome not in ("Failed", "not ended") for run in runs)

    # -- what was seen and judged ----------------------------------------------------------------

    def saw_hosts(self, run: str, hosts: Iterable[Host], gone: Iterable[Host] = ()) -> None:
        """`gone`: known from before, and no longer in the account."""
        self._insert(
            HOSTS,
            (
                {
                    "account": h.account,
                    "run": run,
                    "region": h.region,
                    "host": h.instance_id,
                    "name": h.name,
                    "there": there,
                }
                for some, there in ((hosts, True), (gone, False))
                for h in some
            ),
        )

    def hosts(self, account: str, without: Collection[str] = ()) -> dict[str, Host]:
        """Every host that was seen and is not known to be gone; `without` what these runs saw."""
        rows = self._newest_hosts(account, without)
        return {
            row.host: Host(account=account, region=row.region, instance_id=row.host, name=row.name)
            for row in rows.values()
            if row.there
        }

    def _newest_hosts(self, account: str, without: Collection[str] = ()) -> dict[str, sa.Row[Any]]:
        rows = self._each(
            sa.select(HOSTS)
            .where(HOSTS.c.account == account, HOSTS.c.run.notin_(without))
            .order_by(HOSTS.c.seq)
        )
        return {row.host: row for row in rows}

    def observed(
        self, account: str, run: str, stage: StageName, phase: str, facts: Mapping[str, Frozen], at: datetime
    ) -> None:
        """`facts` by instance id, "" for the account's own."""
        self._insert(
            OBSERVATIONS,
            (
                {
                    "account": account,
                    "run": run,
                    "host": host,
                    "stage": stage.value,
                    "phase": phase,
                    "at": (value.observed_at if isinstance(value, Facts) else None) or at,
                    "body": value.model_dump_json(),
                }
                for host, value in facts.items()
            ),
        )

    def observations(self, account: str, host: str) -> dict[StageName, tuple[datetime, Mapping[str, Any]]]:
        """The newest facts of each stage of one host, as data."""
        rows = self._each(
            sa.select(OBSERVATIONS)
            .where(OBSERVATIONS.c.account == account, OBSERVATIONS.c.host == host)
            .order_by(OBSERVATIONS.c.seq)
        )
        return {StageName(row.stage): (row.at, json.loads(row.body)) for row in rows}

    def looked_at(self, account: str) -> dict[tuple[str, StageName], datetime]:
        """(Instance id or "", stage) → when it was last looked at."""
        rows = self._each(
            sa.select(OBSERVATIONS.c.host, OBSERVATIONS.c.stage, sa.func.max(OBSERVATIONS.c.at).label("at"))
            .where(OBSERVATIONS.c.account == account)
            .group_by(OBSERVATIONS.c.host, OBSERVATIONS.c.stage)
        )
        return {(row.host, StageName(row.stage)): row.at for row in rows}

    def first_seen(self, account: str, stage: StageName) -> dict[str, Mapping[str, Any]]:
        """Instance id → the oldest facts of this stage: how Haltuun found the host."""
        rows = self._each(
            sa.select(OBSERVATIONS)
            .where(
                OBSERVATIONS.c.account == account,
                OBSERVATIONS.c.stage == stage.value,
                OBSERVATIONS.c.phase == "plan",
                OBSERVATIONS.c.host != "",
            )
            .order_by(OBSERVATIONS.c.seq.desc())
        )
        return {row.host: json.loads(row.body) for row in rows}

    def found(
        self, account: str, run: str, stage: StageName, phase: str, findings: Sequence[Finding]
    ) -> None:
        self._insert(
            FINDINGS,
            (
                {
                    "account": account,
                    "run": run,
                    "stage": stage.value,
                    "phase": phase,
                    "host": finding.host or "",
                    "body": finding.model_dump_json(),
                }
                for finding in findings
            ),
        )

    def findings(self, account: str, without: Collection[str] = ()) -> list[tuple[StageName, Finding]]:
        """What was found when each host, and the account itself, was last looked at in each stage.

        `without` these runs: as it was before them.
        """
        newest = (
            sa.select(sa.func.max(OBSERVATIONS.c.seq))
            .where(OBSERVATIONS.c.account == account, OBSERVATIONS.c.run.notin_(without))
            .group_by(OBSERVATIONS.c.host, OBSERVATIONS.c.stage)
        )
        o = OBSERVATIONS.c
        looks = {
            (row.run, row.stage, row.phase, row.host)
            for row in self._each(sa.select(o.run, o.stage, o.phase, o.host).where(o.seq.in_(newest)))
        }
        # Matched here: as a join it took minutes for two thousand hosts (measured with SQLite).
        rows = self._each(
            sa.select(FINDINGS)
            .where(FINDINGS.c.account == account, FINDINGS.c.run.in_({run for run, *_ in looks}))
            .order_by(FINDINGS.c.seq)
        )
        return [
            (StageName(row.stage), Finding.model_validate_json(row.body))
            for row in rows
            if (row.run, row.stage, row.phase, row.host) in looks
        ]

    def judged(
        self, account: str, run: str, stage: StageName, verdicts: Mapping[str, HostStatus], at: datetime
    ) -> None:
        self._insert(
            VERDICTS,
            (
                {
                    "account": account,
                    "run": run,
                    "host": host,
                    "stage": stage.value,
                    "at": at,
                    "body": status.model_dump_json(),
                }
                for host, status in verdicts.items()
            ),
        )

    def status(self, account: str) -> dict[str, dict[StageName, HostStatus]]:
        """Instance id → stage → the newest verdict; `since` is when it became what it is."""
        rows = self._each(sa.select(VERDICTS).where(VERDICTS.c.account == account).order_by(VERDICTS.c.seq))
        table: dict[str, dict[StageName, HostStatus]] = {}
        for row in rows:
            stage, new = StageName(row.stage), HostStatus.model_validate_json(row.body)
            old = table.setdefault(row.host, {}).get(stage)
            same = old is not None and (old.verdict, old.reason) == (new.verdict, new.reason)
            since = old.since if old is not None and same else row.at
            table[row.host][stage] = new.model_copy(update={"since": since})
        gone = {host for host, row in self._newest_hosts(account).items() if not row.there}
        return {host: stages for host, stages in table.items() if host not in gone}

    def status_before(self, account: str) -> dict[str, dict[StageName, HostStatus]]:
        """Instance id → stage → the verdict of the run before the one that judged this host last."""
        rows = self._each(sa.select(VERDICTS).where(VERDICTS.c.account == account).order_by(VERDICTS.c.seq))
        newest: dict[tuple[str, str], sa.Row[Any]] = {}
        before: dict[tuple[str, str], sa.Row[Any]] = {}
        for row in rows:
            last = newest.get((row.host, row.stage))
            if last is not None and last.run != row.run:
                before[row.host, row.stage] = last
            newest[row.host, row.stage] = row
        table: dict[str, dict[StageName, HostStatus]] = {}
        for (host, stage), row in before.items():
            table.setdefault(host, {})[StageName(stage)] = HostStatus.model_validate_json(row.body)
        return table

    def judgements(self, account: str) -> dict[tuple[str, StageName], Judgement]:
        """(instance id, stage) → the newest verdict and its run."""
        rows = self._each(sa.select(VERDICTS).where(VERDICTS.c.account == account).order_by(VERDICTS.c.seq))
        newest = {(row.host, StageName(row.stage)): row for row in rows}
        return {
            key: Judgement(run=row.run, at=row.at, status=HostStatus.model_validate_json(row.body))
            for key, row in newest.items()
        }

    def observed_in(self, account: str, run: str) -> dict[tuple[str, StageName, str], Mapping[str, Any]]:
        """(instance id, stage, phase) → the facts that this run saw, as data."""
        rows = self._each(
            sa.select(OBSERVATIONS)
            .where(OBSERVATIONS.c.account == account, OBSERVATIONS.c.run == run, OBSERVATIONS.c.host != "")
            .order_by(OBSERVATIONS.c.seq)
        )
        return {(row.host, StageName(row.stage), row.phase): json.loads(row.body) for row in rows}

    def found_in(self, account: str, run: str) -> list[tuple[StageName, str, Finding]]:
        """(stage, phase, finding) of this run, the account's own left out."""
        rows = self._each(
            sa.select(FINDINGS)
            .where(FINDINGS.c.account == account, FINDINGS.c.run == run, FINDINGS.c.host != "")
            .order_by(FINDINGS.c.seq)
        )
        return [(StageName(r.stage), r.phase, Finding.model_validate_json(r.body)) for r in rows]

    # -- worse, and tried again ------------------------------------------------------------------

    def went_worse(
        self, account: str, run: str, host: str, stage: StageName, body: Mapping[str, Json], at: datetime
    ) -> None:
        """A change that was made on the host did not come right."""
        self._host_event(account, run, host, stage, "worse", body, at)

    def tried(self, account: str, run: str, host: str, stage: StageName, cause: str, at: datetime) -> None:
        """The host was worked on again although it was held; `cause` tells one reason from another."""
        self._host_event(account, run, host, stage, "tried", {"cause": cause}, at)

    def _host_event(
        self,
        account: str,
        run: str,
        host: str,
        stage: StageName,
        event: str,
        body: Mapping[str, Json],
        at: datetime,
    ) -> None:
        row = {"account": account, "run": run, "host": host, "stage": stage.value, "event": event, "at": at}
        self._insert(HOST_EVENTS, [{**row, "body": canonical(body)}])

    def host_events(self, account: str, event: str) -> list[HostEvent]:
        """Oldest first."""
        rows = self._each(
            sa.select(HOST_EVENTS)
            .where(HOST_EVENTS.c.account == account, HOST_EVENTS.c.event == event)
            .order_by(HOST_EVENTS.c.seq)
        )
        return [
            HostEvent(
                run=row.run,
                host=row.host,
                stage=StageName(row.stage),
                event=row.event,
                at=row.at,
                body=json.loads(row.body),
            )
            for row in rows
        ]

    def worse(self, account: str) -> dict[tuple[str, StageName], HostEvent]:
        """(instance id, stage) → the last time it was worse after a change, unless it passed since."""
        newest = {(event.host, event.stage): event for event in self.host_events(account, "worse")}
        return {(event.host, event.stage): event for event in self._unpassed(account, newest.values())}

    def tries(self, account: str) -> list[HostEvent]:
        """Each time a held host was worked on again, and did not pass then or since."""
        return self._unpassed(account, self.host_events(account, "tried"))

    def _unpassed(self, account: str, events: Collection[HostEvent]) -> list[HostEvent]:
        """Those after which the host has not passed their stage.

        "After" goes by the order of the runs, not by their clocks: a stage's gate comes after its changes.
        """
        if not events:
            return []  # the common case, and all verdicts ever given need not be read
        order = {row.run: n for n, row in enumerate(self.runs(account))}
        passed = {
            (row.host, row.stage): order[row.run]
            for row in self._each(
                sa.select(VERDICTS).where(VERDICTS.c.account == account).order_by(VERDICTS.c.seq)
            )
            if HostStatus.model_validate_json(row.body).verdict is Verdict.passed
        }
        return [one for one in events if passed.get((one.host, one.stage), -1) < order[one.run]]
