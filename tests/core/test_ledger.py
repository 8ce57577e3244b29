"""The ledger on SQLite and PostgreSQL: leases, status as a view, errors in a sentence."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event

import pytest
import sqlalchemy as sa

from haltuun.errors import HaltuunError, LeaseHeld, LeaseLost
from haltuun.ledger import Ledger, database, leases
from haltuun.model import Change, Host, HostStatus, Plan, Proof, Reach, StageName, Verdict

ACCOUNT = "111122223333"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    return request.getfixturevalue("postgres_url") if request.param == "postgres" else sqlite(tmp_path)


@pytest.fixture
def ledger(url):
    made = Ledger(url)
    yield made
    made.close()


def sqlite(folder):
    return f"sqlite:///{folder}/ledger.db"


def test_since_is_when_a_status_became_what_it_is(ledger):
    held = HostStatus(verdict=Verdict.held, reason="A")
    for minute, status in enumerate([held, held, HostStatus(verdict=Verdict.passed)]):
        ledger.judged(ACCOUNT, "r", StageName.repair, {"i-1": status}, NOW + timedelta(minutes=minute))
        seen = ledger.status(ACCOUNT)["i-1"][StageName.repair]
        assert seen.since == NOW + timedelta(minutes=2 if minute == 2 else 0)


def test_the_lease_of_a_killed_process_is_free_at_once(url, ledger):
    script = (
        "import os; from haltuun.ledger import Ledger;"
        f"Ledger({url!r}).take_lease({ACCOUNT!r}, 'dead'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    lease = ledger.take_lease(ACCOUNT, "next")
    assert lease.fence == 2


def test_a_lease_that_ran_out_mutates_nothing_and_does_not_come_back(ledger, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_S", -1)
    lease = ledger.take_lease(ACCOUNT, "slept")
    with pytest.raises(LeaseLost):
        ledger.check_lease(lease)
    monkeypatch.setattr(leases, "LEASE_S", 90)
    later = ledger.take_lease(ACCOUNT, "later")
    with pytest.raises(LeaseLost):
        ledger.renew_lease(lease)
    with pytest.raises(LeaseHeld, match="later"):
        ledger.take_lease(ACCOUNT, "third")
    ledger.release_lease(later)
    assert ledger.take_lease(ACCOUNT, "third").fence == 3


def test_accounts_do_not_hinder_each_other(ledger):
    ledger.take_lease(ACCOUNT, "a")
    assert ledger.take_lease("444455556666", "b").fence == 1


def test_a_proof_is_valid_until_its_time(ledger):
    proof = Proof(
        host="i-1",
        stage=StageName.repair,
        kind="echo",
        evidence="haltuun",
        observed_at=NOW,
        valid_until=NOW + timedelta(hours=24),
    )
    ledger.proved(ACCOUNT, "r", [proof])
    args = (ACCOUNT, StageName.repair, "echo", "i-1")
    assert ledger.valid_proof(*args, NOW + timedelta(hours=23)) == proof
    assert ledger.valid_proof(*args, NOW + timedelta(hours=24)) is None


def test_the_newest_name_of_a_host_counts(ledger):
    for name in ("old", "new"):
        ledger.saw_hosts("r", [Host(account=ACCOUNT, region="r", instance_id="i-1", name=name)])
    assert ledger.hosts(ACCOUNT)["i-1"].name == "new"


@pytest.mark.parametrize(
    "url", ["sqlite:////proc/nowhere/l.db", "postgresql+psycopg://u:secret@127.0.0.1:1/x", "nonsense"]
)
def test_a_ledger_that_cannot_be_opened_is_one_sentence_without_its_password(url):
    with pytest.raises(HaltuunError) as caught:
        Ledger(url)
    assert caught.value.code == "LEDGER"
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nobody_else_reads_it(tmp_path):
    folder = tmp_path / "state"
    made = Ledger(f"sqlite:///{folder}/ledger.db")
    made.remember(ACCOUNT, "name", "value")
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (folder, *folder.iterdir())}
    made.close()
    assert len(modes) == 4 and modes.pop("state") == "0o700" and set(modes.values()) == {"0o600"}, modes


def test_several_that_open_a_new_one_at_once_open_the_same(url):
    at_once = Barrier(6)

    def opened(_):
        at_once.wait()
        made = Ledger(url)
        made.close()
        return made.id

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(opened, range(6)))) == 1


class Refused(sqlite3.Cursor):
    """Tells when it was refused once."""

    once = Event()

    def execute(self, *given):
        try:
            return super().execute(*given)
        except sqlite3.OperationalError:
            self.once.set()
            raise


def test_a_new_one_is_waited_for_while_another_one_makes_it(tmp_path):
    path = tmp_path / "ledger.db"
    opened = sqlite3.connect(path, check_same_thread=False)
    with closing(sqlite3.connect(path, isolation_level=None)) as maker, closing(opened):
        maker.execute("BEGIN IMMEDIATE")  # before the file keeps a journal that lets others in
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(database._use_wal, opened.cursor(Refused))
            assert Refused.once.wait(30)
            maker.execute("COMMIT")
            opening.result()
        assert opened.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_another_versions_ledger_is_refused_and_left_as_it_is(url, monkeypatch):
    Ledger(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE proofs"))  # which the other version has not
    monkeypatch.setattr(database, "SCHEMA", database.SCHEMA + 1)
    with pytest.raises(HaltuunError, match="another version"):
        Ledger(url)
    assert "proofs" not in sa.inspect(engine).get_table_names()
    engine.dispose()


def test_a_takeover_that_failed_or_was_killed_is_no_beginning(ledger):
    for run, outcome in (("planned", "Planned"), ("broken", "Failed"), ("killed", None)):
        ledger.start_run(ACCOUNT, run, {"mode": "plan" if outcome == "Planned" else "apply"}, NOW)
        if outcome:
            ledger.end_run(ACCOUNT, run, outcome, {}, NOW)
    assert not ledger.was_begun(ACCOUNT)
    ledger.end_run(ACCOUNT, "killed", "PartiallyDone", {}, NOW)
    assert ledger.was_begun(ACCOUNT)


def test_a_plans_changes_one_by_one_are_those_of_the_plan(ledger):
    changes = tuple(
        Change(
            stage=StageName.patch,
            kind="tag",
            region="eu-central-1",
            target=target,
            hosts=("i-1",),
            before=None,
            after={"list": [1, [2]], "text": target},
            reach=Reach.host,
            summary=f"Set {target}.",
        )
        for target in ('"changes":[', "]},{[", "ä\n\u2028", "plain")
    )
    for some in (changes, changes[:1], ()):
        plan = Plan(account=ACCOUNT, changes=some)
        ledger.planned("r", plan, NOW)
        told = list(ledger.planned_changes(ACCOUNT, plan.hash))
        assert tuple(told) == plan.changes and [one.id for one in told] == [one.id for one in plan.changes]
    assert list(ledger.planned_changes(ACCOUNT, "")) == []


def test_more_rows_than_are_written_at_once_are_all_there(ledger):
    hosts = [Host(account=ACCOUNT, region="eu-central-1", instance_id=f"i-{n:017x}") for n in range(450)]
    ledger.saw_hosts("r", hosts)
    assert set(ledger.hosts(ACCOUNT)) == {host.instance_id for host in hosts}
    with pytest.raises(ZeroDivisionError):
        ledger.saw_hosts(
            "r", (Host(account=ACCOUNT, region="x", instance_id=f"i-{1 // (n < 300)}") for n in range(900))
        )
    assert len(ledger.hosts(ACCOUNT)) == 450, "all or none"


@pytest.fixture
def file_ledger(tmp_path):
    made = Ledger(sqlite(tmp_path))
    yield made
    made.close()


def modes(folder):
    return {path.name: f"{path.stat().st_mode & 0o777:o}" for path in folder.iterdir()}


def test_a_ledger_that_others_could_read_is_made_private_and_that_is_told_once(file_ledger, tmp_path, caplog):
    file_ledger.remember(ACCOUNT, "a", "b")  # its companions -wal and -shm are there
    assert set(modes(tmp_path)) == {"ledger.db", "ledger.db-wal", "ledger.db-shm"}
    for path in tmp_path.iterdir():
        path.chmod(0o644)
    Ledger(sqlite(tmp_path)).close()
    assert set(modes(tmp_path).values()) == {"600"}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and all("mode 0644" in one and "0600" in one for one in said)
    Ledger(sqlite(tmp_path)).close()
    assert len(caplog.records) == 3
    assert file_ledger.recall(ACCOUNT, "a") == "b"


def test_a_ledger_that_a_group_writes_stays_the_groups(file_ledger, tmp_path, caplog):
    file_ledger.remember(ACCOUNT, "a", "b")
    for path in tmp_path.iterdir():
        path.chmod(0o664)
    Ledger(sqlite(tmp_path)).close()
    assert set(modes(tmp_path).values()) == {"660"}
    caplog.clear()
    Ledger(sqlite(tmp_path)).close()
    assert set(modes(tmp_path).values()) == {"660"} and not caplog.records


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_ledger_of_another_user_is_opened_and_left_as_it_is(file_ledger, tmp_path, caplog):
    database = tmp_path / "ledger.db"
    os.chown(database, 65534, 65534)
    for found, wanted in ((0o644, "600"), (0o664, "660")):
        database.chmod(found)
        Ledger(sqlite(tmp_path)).close()
        assert modes(tmp_path)["ledger.db"] == f"{found:o}"
        assert f"belongs to another user: let that user run 'chmod {wanted}'" in caplog.text
