"""The takeover report: whole, harmless, and of this machine alone."""

from __future__ import annotations

import csv
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from haltuun.cli.show import write_report
from haltuun.errors import HaltuunError
from haltuun.ledger import Ledger
from haltuun.model import Host, HostStatus, StageName, Unknown, Verdict
from haltuun.report.dossier import collect, write
from haltuun.report.facts import services, stage_facts
from haltuun.stages.backup.facts import BackupFacts
from haltuun.stages.discover.facts import DiscoverFacts
from tests.report import kit
from tests.report.kit import ACCOUNT, FORMULA, FULL, HOSTS, LEFT, NOW, SOUND, UNSURE

TABLES = ("hosts", "services", "findings", "changes", "proofs", "facts", "needs")


class Page(HTMLParser):
    """Elements, what they point to, and the words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.points_to: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "action", "srcset", "data", "poster", "background"):
                self.points_to.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def folder(ledger: Ledger, tmp_path: Path) -> Path:
    config = kit.config(tmp_path)
    return write(ledger, config.accounts[0], config.policy, tmp_path / "out").parent


def rows(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_page_points_to_nothing_outside_and_runs_nothing(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.points_to and all(target.startswith("#") for target in page.points_to)
    assert not page.tags & {"script", "iframe", "object", "embed", "link", "base", "form", "img"}
    assert "url(" not in text and "@import" not in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    # Every jump within the page arrives.
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    assert {target.removeprefix("#") for target in page.points_to} <= ids


def test_every_host_and_every_change_is_there(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    words = " ".join(" ".join(Page(text).words).split())
    for host in HOSTS:
        assert f'<section class="host" id="{host}">' in text
    for change in (kit.TAG, kit.SNAPSHOT, kit.SENT, kit.FAILED, kit.TAKEN_BACK, kit.INVERSE, kit.WAITS):
        assert change.summary.split(HOSTS[SOUND].label)[0].split(" i-")[0] in words
    for change in (kit.TAG, kit.SNAPSHOT, kit.SENT, kit.FAILED, kit.TAKEN_BACK):
        assert change.id in words
    assert "done, and taken back since" in words and "failed: the disk is full" in words
    assert f"To take it back: haltuun undo {kit.FIRST}" in words and "none: A recovery point stays." in words
    assert "Left alone, and why" in words and "EXCLUDED" in words and "Not ours." in words


def test_the_page_answers_the_four_needs_and_shows_each_host_by_stage_with_its_evidence(folder: Path) -> None:
    text = (folder / "report.html").read_text()

    def part(begins: str, ends: str) -> str:
        return " ".join(" ".join(Page(text.partition(begins)[2].partition(ends)[0]).words).split())

    needs = part('<h2 id="needs">', '<h2 id="hosts">')
    assert needs.startswith("The four acute needs need when we came now not yet")
    for row in rows(folder, "needs"):
        before = f"{row['before']} of {row['of']}" if row["before"] else "nobody knew"
        assert f"{row['question']} {row['measure']}." in needs and row["missing"]
        told = needs.partition(row["question"])[2]
        assert told.index(before) < told.index(f"{row['now']} of {row['of']}")
    grid = part('<h2 id="hosts">', '<h2 id="open">')
    assert " ".join(StageName) in grid
    of_full = grid.partition(FULL)[2].partition(" i-")[0]
    assert "passed passed held DISK_FULL passed" in of_full
    for host, evidence in ((kit.SUSPECT, "/tmp/<b>x</b>"), (SOUND, kit.TAG.id), (LEFT, "EXCLUDED Not ours.")):
        assert evidence in part(f'<section class="host" id="{host}">', "</section>"), host


def test_who_approved_an_undo_stands_beside_its_run(ledger: Ledger, tmp_path: Path) -> None:
    config = kit.config(tmp_path)
    body = {"mode": "undo", "undoes": kit.FIRST, "approved_by": "<b>Jane</b>\x1b"}
    ledger.start_run(ACCOUNT, "undo", body, NOW)
    runs = collect(ledger, config.accounts[0], config.policy, NOW).runs
    assert {row["run"]: row["approved_by"] for row in runs}["undo"] == "<b>Jane</b>"
    text = write(ledger, config.accounts[0], config.policy, tmp_path / "out").read_text()
    assert "<td>&lt;b&gt;Jane&lt;/b&gt;</td>" in text


def test_tables_hold_the_same_as_csv_and_json(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    ids = [one["host"]["instance_id"] for one in report["hosts"]]
    hosts = rows(folder, "hosts")
    assert [row["instance_id"] for row in hosts] == ids and sorted(ids) == sorted(HOSTS)
    assert {row["instance_id"]: row["repair"] for row in hosts}[FULL] == "held"
    changes = rows(folder, "changes")
    assert [(row["run"], row["id"], row["state"]) for row in changes] == [
        (one["run"], one["id"], one["state"]) for one in report["changes"]
    ]
    listening = [row for row in rows(folder, "services") if row["instance_id"] == SOUND]
    assert [(row["port"], row["process"], row["unit"], row["listens_on"]) for row in listening] == [
        ("22", "sshd", "ssh.service", "0.0.0.0"),
        ("80", "nginx", "nginx.service", "0.0.0.0 ::"),
        ("3306", "mysqld", "", "127.0.0.1"),
    ]
    needs = {row["question"]: (row["before"], row["now"], row["of"]) for row in rows(folder, "needs")}
    assert needs == {
        "Are security updates current, and do they come by themselves?": ("0", "9", "10"),
        "What runs there, and is it needed?": ("", "8", "10"),
        "Is it backed up?": ("0", "9", "10"),
        "Do we get its logs?": ("0", "9", "10"),
    }


def test_what_was_waived_is_no_need_that_is_met(ledger: Ledger, tmp_path: Path) -> None:
    waived = HostStatus(verdict=Verdict.waived, reason="EOL", message="Waived in haltuun.yaml: why.")
    ledger.judged(ACCOUNT, kit.LAST, StageName.patch, {SOUND: waived}, NOW)
    config = kit.config(tmp_path)
    folder = write(ledger, config.accounts[0], config.policy, tmp_path / "out").parent
    (updates,) = [row for row in rows(folder, "needs") if row["question"].startswith("Are security updates")]
    assert updates["now"] == "8" and SOUND in updates["missing"]


def test_before_counts_who_met_it_first_and_still_is_there(ledger: Ledger, tmp_path: Path) -> None:
    """A host that was backed up before anybody came, one found without, and one that is gone."""
    met = BackupFacts(observed_at=NOW, backup_tag="daily", recovery_point=True, recovery_point_age_h=3.0)
    unmet = met.model_copy(update={"recovery_point": False, "recovery_point_age_h": None})
    gone = Host(account=ACCOUNT, region=kit.REGION, instance_id="i-0ffffffffffffffff", name="gone")
    ledger.saw_hosts(kit.FIRST, [gone])
    for run, facts in (
        (kit.FIRST, {SOUND: met, FULL: unmet, gone.instance_id: met}),
        (kit.LAST, {FULL: met}),
    ):
        ledger.observed(ACCOUNT, run, StageName.backup, "plan", facts, NOW)
    config = kit.config(tmp_path)

    def backed_up(folder: str) -> tuple[str, str]:
        out = write(ledger, config.accounts[0], config.policy, tmp_path / folder).parent
        (need,) = [row for row in rows(out, "needs") if row["question"] == "Is it backed up?"]
        return need["before"], need["of"]

    assert backed_up("while all are there") == ("2", "11")
    ledger.saw_hosts(kit.LAST, [], gone=[gone])
    assert backed_up("since one is gone") == ("1", "10")


@pytest.mark.parametrize("table", TABLES)
def test_no_cell_is_a_formula(folder: Path, table: str) -> None:
    cells = [cell for row in rows(folder, table) for cell in row.values()]
    assert cells and not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_a_formula_as_a_name_stays_readable(folder: Path) -> None:
    assert f"'{FORMULA}" in {row["name"] for row in rows(folder, "hosts")}


def test_an_account_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    config = kit.config(tmp_path)
    with pytest.raises(HaltuunError, match="knows nothing of this account") as told:
        write(Ledger(config.ledger_url), config.accounts[0], config.policy, tmp_path / "out")
    assert told.value.code == "NO_RUN" and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(ledger: Ledger, tmp_path: Path) -> None:
    config = kit.config(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(HaltuunError, match="cannot be written"):
        write(ledger, config.accounts[0], config.policy, tmp_path / "file" / "out")


def test_facts_have_units_and_what_is_unknown_its_reason() -> None:
    facts = DiscoverFacts(
        disk_free_percent=12.5, clock_offset_s=0.0, agent_running=False, os_id=Unknown(unknown="no login")
    )
    told = stage_facts(StageName.discover, NOW, json.loads(facts.model_dump_json()))
    assert {fact.words: fact.value for fact in told.known} == {
        "disk free": "12.5 %",
        "clock offset": "0 s",
        "agent running": "no",
    }
    by_reason = {one.reason: one.words for one in told.unknown}
    assert by_reason["no login"] == ("os id",) and "os version" in by_reason["not asked yet"]


def test_why_nobody_knows_what_runs_is_told(ledger: Ledger) -> None:
    _, seen = ledger.observations(ACCOUNT, UNSURE)[StageName.discover]
    assert services(seen) == "SSH_REFUSED: it refuses"
    assert services({}) == "not looked at"


def test_it_is_its_owners_alone_also_where_an_earlier_one_was_anybodys(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = os.umask(0o022)
    try:
        out = tmp_path / "new"
        write_report(kit.config(tmp_path), kit.LABEL, out)
        made = [out, *out.iterdir()]
        assert {path.name: path.stat().st_mode & 0o077 for path in made} == {path.name: 0 for path in made}
        told = capsys.readouterr()
        assert told.out == f"{out / 'report.html'}\n" and str(out) in told.err
        shared = tmp_path / "shared"
        shared.mkdir(mode=0o755)
        (shared / "hosts.csv").write_text("an earlier one")
        write_report(kit.config(tmp_path), kit.LABEL, shared)
    finally:
        os.umask(old)
    assert shared.stat().st_mode & 0o777 == 0o755  # somebody's own
    assert {path.stat().st_mode & 0o777 for path in shared.iterdir()} == {0o600}
