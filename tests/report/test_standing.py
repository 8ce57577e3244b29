"""One look at the ledger: what status, artifact and report tell is the same, and in its order."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from haltuun.cli.show import show_host, show_status
from haltuun.config import AccountConfig, PolicyConfig
from haltuun.effects import effects
from haltuun.errors import EXIT_HELD
from haltuun.ledger import Ledger
from haltuun.model import Change, Finding, HostStatus, Plan, Severity, StageName, Undo, Verdict
from haltuun.report.changes import in_effect
from haltuun.report.dossier import write
from haltuun.report.page import approval_line, standing_markdown
from haltuun.report.render import summary_markdown
from haltuun.report.rows import read
from haltuun.report.standing import Place, Standing, judge, place, standing_of
from haltuun.report.waits import DECISIONS
from tests.report import kit
from tests.report.kit import (
    ACCOUNT,
    ASKING,
    FIRST,
    FULL,
    FULLER,
    HOSTS,
    LABEL,
    LAST,
    LEFT,
    NEW,
    NOW,
    OPEN,
    PATIENT,
    PLAN,
    SOUND,
    SUSPECT,
    UNSURE,
)

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"


def look(ledger: Ledger) -> Standing:
    return standing_of(ledger, AccountConfig(id=ACCOUNT, alias=LABEL), PolicyConfig())


def test_every_host_is_in_one_place_and_the_numbers_are_their_count(ledger: Ledger) -> None:
    standing = look(ledger)
    assert standing.places == {
        SOUND: Place.custody,
        FULL: Place.held,
        FULLER: Place.held,
        UNSURE: Place.unknown,
        PATIENT: Place.waiting,
        ASKING: Place.approval,
        SUSPECT: Place.held,
        LEFT: Place.excluded,
        NEW: Place.custody,
        OPEN: Place.open,
    }
    assert standing.numbers == {
        "hosts": 10,
        "custody": 2,
        "held": 3,
        "unknown": 1,
        "waiting": 1,
        "approval": 1,
        "excluded": 1,
        "open": 1,
        "suspect": 1,
        "worse": 5,
    }
    assert sum(standing.numbers[one.value] for one in Place) == standing.numbers["hosts"]


def test_what_got_worse_and_what_is_new_since_the_run_before(ledger: Ledger) -> None:
    standing = look(ledger)
    assert standing.compared_with == FIRST and standing.run and standing.run.run == LAST
    assert {(one.host, one.stage, one.now, one.code) for one in standing.worse} == {
        (FULL, StageName.repair, Verdict.held, "DISK_FULL"),
        (FULLER, StageName.repair, Verdict.held, "DISK_FULL"),
        (UNSURE, StageName.verify, Verdict.unknown, "DNS_FAILS"),
        (PATIENT, StageName.repair, Verdict.waiting, "WAITING_SERVICE"),
        (SUSPECT, StageName.discover, Verdict.held, "SUSPECT"),
    }
    assert {(one.host, one.code) for one in standing.appeared} == {(NEW, ""), (SUSPECT, "SUSPECT")}
    # A third run that looks at one host and finds the same has nothing new to tell of it; what got worse
    # elsewhere stays to be told.
    verdicts = {FULL: HostStatus(verdict=Verdict.held, reason="DISK_FULL")}
    ledger.start_run(ACCOUNT, "third", {"mode": "apply"}, NOW)
    ledger.judged(ACCOUNT, "third", StageName.repair, verdicts, NOW)
    again = look(ledger)
    assert (again.compared_with, again.appeared) == (LAST, ())
    assert {one.host for one in again.worse} == {FULLER, UNSURE, PATIENT, SUSPECT}


def test_the_age_is_that_of_the_oldest_of_the_newest_looks(ledger: Ledger) -> None:
    age = look(ledger).age
    assert age is not None
    assert (age.host, age.oldest_at) == (OPEN, kit.THEN)


def test_causes_stand_together_with_one_remedy(ledger: Ledger) -> None:
    standing = look(ledger)
    (full,) = standing.holds
    assert (full.code, full.hosts) == ("DISK_FULL", (FULL, FULLER))
    assert full.remedy == "Free it: ssh each host" and [one.message for one in full.said] == [
        "each host is full."
    ]
    assert [(cause.code, cause.hosts) for cause in standing.decisions] == [("SUSPECT", (SUSPECT,))]
    assert [(cause.code, cause.hosts) for cause in standing.unknown] == [("DNS_FAILS", (UNSURE,))]
    assert [(cause.code, cause.hosts) for cause in standing.left_alone] == [("EXCLUDED", (LEFT,))]
    assert [(one.host, one.next_check) for one in standing.waiting] == [(PATIENT, kit.NEXT_CHECK)]
    assert [(node.node_id, node.host) for node in standing.foreign] == [("mi-0123456789abcdef0", FULL)]
    assert [one.signs for one in standing.suspects] == [("/tmp/<b>x</b>",)]


def test_a_cause_of_one_host_is_told_in_its_own_words(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/one.db")
    ledger.start_run(ACCOUNT, "run", {"mode": "apply"}, NOW)
    ledger.saw_hosts("run", [HOSTS[FULL]])
    ledger.judged(ACCOUNT, "run", StageName.repair, {FULL: kit.ENDS[FULL][1]}, NOW)
    (cause,) = look(ledger).holds
    assert cause.remedy == f"Free it: ssh {FULL}" and cause.said[0].message == f"{FULL} is full."


def test_what_waits_for_approval_is_what_nobody_approved_and_is_not_in_effect(ledger: Ledger) -> None:
    approval = look(ledger).approval
    assert approval is not None
    assert approval.command == f"haltuun takeover {LABEL} --plan {PLAN.hash}"
    assert [like.ids for like in approval.changes] == [(kit.WAITS.id,)] and approval.hosts == (ASKING,)
    ledger.approved(LAST, kit.PLAN, "me", "plan hash", NOW)
    assert look(ledger).approval is None


@pytest.mark.parametrize(
    ("narrowed", "waits"),
    [
        ({"stages": ["discover"]}, True),
        ({"hosts": [SOUND]}, True),
        ({"stages": ["discover"], "hosts": [ASKING]}, True),
        ({"stages": [kit.WAITS.stage.value]}, False),
        ({"hosts": [ASKING]}, False),
        ({}, False),
    ],
)
def test_a_later_plan_hides_what_waits_only_where_it_looked(
    ledger: Ledger, narrowed: dict[str, Any], waits: bool
) -> None:
    nothing = Plan(account=ACCOUNT)
    ledger.start_run(ACCOUNT, "later", {"mode": "plan", **narrowed}, NOW)
    ledger.planned("later", nothing, NOW)
    ledger.end_run(ACCOUNT, "later", "Planned", {"plan_hash": nothing.hash}, NOW)
    approval = look(ledger).approval
    assert (approval is not None) == waits
    if approval is not None:
        assert approval.command == f"haltuun takeover {LABEL} --plan {PLAN.hash}"
        assert [like.ids for like in approval.changes] == [(kit.WAITS.id,)]


def _planned(ledger: Ledger, run: str, *changes: Change, **narrowed: list[str]) -> Plan:
    plan = Plan(account=ACCOUNT, changes=changes)
    ledger.start_run(ACCOUNT, run, {"mode": "plan", **narrowed}, NOW)
    ledger.planned(run, plan, NOW)
    ledger.end_run(ACCOUNT, run, "Planned", {"plan_hash": plan.hash}, NOW)
    return plan


def test_what_waits_elsewhere_is_counted_where_a_later_plan_has_its_own(ledger: Ledger) -> None:
    other = kit.WAITS.model_copy(update={"target": "other-role", "hosts": (SOUND,)})
    _planned(ledger, "whole", kit.WAITS, other)
    narrow = _planned(ledger, "narrow", other, hosts=[SOUND])
    approval = look(ledger).approval
    assert approval is not None and approval.plan_hash == narrow.hash
    assert (approval.count, approval.elsewhere) == (1, 1)
    assert approval_line(approval).endswith("1 more in other plans, told here once this one is settled.")


def test_all_is_told_that_a_plans_hash_approves(ledger: Ledger) -> None:
    other = kit.WAITS.model_copy(update={"target": "other-role", "hosts": (SOUND,)})
    whole = _planned(ledger, "whole", kit.WAITS, other)
    narrow = _planned(ledger, "narrow", hosts=[ASKING])  # there the change is not needed any more
    approval = look(ledger).approval
    assert approval is not None and narrow.changes == ()
    assert (approval.plan_hash, approval.elsewhere) == (whole.hash, 0)
    assert {change for like in approval.changes for change in like.ids} == {kit.WAITS.id, other.id}


def test_what_was_done_and_did_not_last_waits_again_where_it_is_planned_anew(ledger: Ledger) -> None:
    ledger.journal(LAST, ACCOUNT, kit.WAITS, "confirmed", NOW)
    assert look(ledger).approval is None
    later = NOW + timedelta(minutes=1)
    plan = Plan(account=ACCOUNT, changes=(kit.WAITS,))
    ledger.start_run(ACCOUNT, "anew", {"mode": "plan"}, later)
    ledger.planned("anew", plan, later)
    ledger.end_run(ACCOUNT, "anew", "Planned", {"plan_hash": plan.hash}, later)
    approval = look(ledger).approval
    assert approval is not None and approval.plan_hash == plan.hash
    ledger.journal("anew", ACCOUNT, kit.WAITS, "confirmed", later + timedelta(minutes=1))
    assert look(ledger).approval is None


def test_what_was_taken_back_and_given_back_since_it_was_planned_waits_for_nobody(ledger: Ledger) -> None:
    change = kit.WAITS
    inverse = change.model_copy(
        update={"before": change.after, "after": change.before, "undoes": change.id, "undo": None}
    )
    again = change.model_copy(update={"undoes": inverse.id})
    minutes = [NOW + timedelta(minutes=n) for n in range(4)]
    ledger.journal(LAST, ACCOUNT, change, "confirmed", minutes[0])
    plan = Plan(account=ACCOUNT, changes=(change,))
    ledger.start_run(ACCOUNT, "anew", {"mode": "plan"}, minutes[1])
    ledger.planned("anew", plan, minutes[1])
    ledger.end_run(ACCOUNT, "anew", "Planned", {"plan_hash": plan.hash}, minutes[1])
    ledger.journal("undo", ACCOUNT, inverse, "confirmed", minutes[2])
    assert look(ledger).approval is not None
    ledger.journal("undo-undo", ACCOUNT, again, "confirmed", minutes[3])
    assert look(ledger).approval is None


def test_what_was_approved_in_a_narrower_run_waits_for_nobody(ledger: Ledger) -> None:
    _planned(ledger, "whole", kit.WAITS)
    approved = _planned(ledger, "narrow", kit.WAITS, hosts=[ASKING])
    assert look(ledger).approval is not None
    ledger.approved("narrow", approved, "me", "plan hash", NOW)  # and found to be so already
    assert look(ledger).approval is None


def test_the_command_that_approves_is_as_narrow_as_the_plan_was(ledger: Ledger) -> None:
    ledger.start_run(ACCOUNT, "narrow", {"mode": "plan", "stages": ["patch"], "hosts": [FULL]}, NOW)
    ledger.planned("narrow", kit.PLAN, NOW)
    ledger.end_run(ACCOUNT, "narrow", "Planned", {"plan_hash": PLAN.hash}, NOW)
    approval = look(ledger).approval
    assert approval is not None
    assert approval.command == f"haltuun takeover {LABEL} --stage patch --host {FULL} --plan {PLAN.hash}"
    assert (
        f"`plan_hash` = `{PLAN.hash}`, `stages` = `patch`, `hosts` = `{FULL}`, and your name"
        in standing_markdown(look(ledger), HOSTS, NOW)
    )


def test_changes_in_effect_have_their_proof_and_their_way_back(ledger: Ledger) -> None:
    standing = look(ledger)
    (work,) = standing.work
    assert (work.run, work.undo, work.count) == (FIRST, f"haltuun undo {FIRST}", 2)
    told = {like.ids: (like.proof, like.proven, like.of, like.no_undo) for like in work.changes}
    assert told == {
        (kit.TAG.id,): ("recovery point", 1, 1, ""),
        (kit.SNAPSHOT.id,): ("recovery point", 1, 1, "A recovery point stays."),
    }
    (undone,) = standing.undone
    assert (undone.run, undone.count, undone.undo) == (LAST, 1, "")
    assert [one.why for one in undone.stays] == ["There is no undo."]
    assert [one.change_id for one in standing.unresolved] == [kit.SENT.id]


def test_an_undo_is_undone_and_done_again(ledger: Ledger) -> None:
    there, undone = in_effect(ledger.change_events(ACCOUNT)), effects(ledger.change_events(ACCOUNT))[1]
    assert kit.TAKEN_BACK.id not in there and kit.INVERSE.id not in there
    assert [(event.change_id, by) for event, by in undone] == [(kit.TAKEN_BACK.id, LAST)]
    for event in ("intended", "sent", "confirmed"):
        ledger.journal("later", ACCOUNT, kit.TAKEN_BACK, event, NOW)
    there = in_effect(ledger.change_events(ACCOUNT))
    assert there[kit.TAKEN_BACK.id].run == "later"


@pytest.mark.parametrize("missing", list(StageName))
def test_custody_wants_all_six_stages(missing: StageName) -> None:
    whole = {stage: kit.PASSED for stage in StageName}
    assert place(whole) is Place.custody
    assert place({stage: status for stage, status in whole.items() if stage is not missing}) is Place.open
    assert place({}) is Place.open


@pytest.mark.parametrize("code", sorted(DECISIONS))
def test_what_wants_a_decision_has_a_page(code: str) -> None:
    assert (RUNBOOKS / f"{code}.md").is_file()


# -- the same everywhere ------------------------------------------------------------------------------


def test_status_artifact_and_report_tell_the_same(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    config = kit.config(tmp_path)
    standing = look(ledger)
    assert show_status(config, LABEL, as_json=True) == EXIT_HELD
    document = json.loads(capsys.readouterr().out)
    assert {"account", "run", "hosts"} <= document.keys() and document["run"] == LAST
    assert document["standing"] == json.loads(standing.model_dump_json())
    assert show_status(config, LABEL, as_json=False) == EXIT_HELD
    text = capsys.readouterr().out
    page = standing_markdown(standing, HOSTS, NOW)
    folder = tmp_path / "report"
    write(ledger, config.accounts[0], config.policy, folder)
    report = json.loads((folder / "report.json").read_text())
    assert report["standing"] == document["standing"]
    html = (folder / "report.html").read_text()
    for told in (text, page, html):
        assert standing.sentence in told
        for host in (FULL, SUSPECT, PATIENT, UNSURE):
            assert host in told or HOSTS[host].name in told
        for code in ("DISK_FULL", "SUSPECT", "WAITING_SERVICE", "DNS_FAILS", "EXCLUDED"):
            assert code in told
        assert PLAN.hash in told and f"haltuun undo {FIRST}" in told
    # And the table hosts × stages, which the numbers count.
    cells = [status["status"] for host in document["hosts"] for status in host["stages"].values()]
    assert cells.count("held") == standing.numbers["held"]
    assert cells.count("unknown") == standing.numbers["unknown"]


def test_the_page_is_in_its_order(ledger: Ledger) -> None:
    page = standing_markdown(look(ledger), HOSTS, NOW)
    assert re.findall(r"^## (.*)$", page, re.M) == [
        "Got worse since the last run",
        "Age of the data",
        "Signs of a compromise, and hybrid registrations",
        "Waits for a person",
        "Changed by us",
        "Held, by cause",
        "Waits for a date",
        "Unknown, and why",
        "Left alone, and why",
    ]
    assert page.startswith(f"# 🔴 {LABEL}: needs attention\n\n**2 of 10 hosts are in custody; 3 held")
    # One remedy a cause, however many hosts it holds.
    held = page.partition("## Held, by cause")[2].partition("## ")[0]
    assert held.count("→") == held.count("DISK_FULL") == 1 and "2 hosts" in held


@pytest.mark.parametrize(
    ("verdict", "outcome", "level", "mark"),
    [
        (Verdict.passed, "Done", "good", "🟢"),
        (Verdict.waived, "Done", "good", "🟢"),
        (Verdict.held, "PartiallyDone", "bad", "🔴"),
        (Verdict.unknown, "PartiallyDone", "bad", "🔴"),
        (Verdict.waiting, "PartiallyDone", "open", "🟡"),
        (Verdict.pending, "AwaitingApproval", "open", "🟡"),
        (Verdict.passed, "GateBlocked", "bad", "🔴"),
        (Verdict.passed, "Failed", "bad", "🔴"),
        (Verdict.passed, "Stopped", "open", "🟡"),
        (Verdict.passed, "", "open", "🟡"),  # it runs still, or was killed
        (Verdict.held, "", "bad", "🔴"),
    ],
)
def test_only_a_clean_account_looks_clean(
    tmp_path: Path, verdict: Verdict, outcome: str, level: str, mark: str
) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/one.db")
    ledger.start_run(ACCOUNT, "run", {"mode": "apply"}, NOW)
    ledger.saw_hosts("run", [HOSTS[SOUND]])
    for stage in StageName:
        status = kit.PASSED if stage is not StageName.logs else HostStatus(verdict=verdict, reason="X")
        ledger.judged(ACCOUNT, "run", stage, {SOUND: status}, NOW)
    if outcome:
        ledger.end_run(ACCOUNT, "run", outcome, {}, NOW)
    standing = look(ledger)
    assert standing.level == level
    assert (f"ended as {outcome}" if outcome else "has not ended") in standing.sentence
    assert standing_markdown(standing, HOSTS, NOW).startswith(f"# {mark} {LABEL}")
    summary = summary_markdown(
        LABEL, "run", outcome, {SOUND: HOSTS[SOUND]}, {StageName.logs: {SOUND: status}}
    )
    assert summary.startswith("# 🟢") == (level == "good")


def test_what_could_not_be_judged_together_is_told_and_is_not_good(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/one.db")
    ledger.start_run(ACCOUNT, "run", {"mode": "apply"}, NOW)
    ledger.saw_hosts("run", [HOSTS[SOUND]])
    for stage in StageName:
        ledger.judged(ACCOUNT, "run", stage, {SOUND: kit.PASSED}, NOW)
    ledger.observed(ACCOUNT, "run", StageName.repair, "result", {"": HOSTS[SOUND]}, NOW)
    said = Finding(code="INTERNAL", severity=Severity.high, message="KeyError while repair was judged.")
    ledger.found(ACCOUNT, "run", StageName.repair, "result", [said])
    ledger.end_run(ACCOUNT, "run", "PartiallyDone", {}, NOW)
    standing = look(ledger)
    assert standing.level == "bad" and standing.not_judged_together == ("KeyError while repair was judged.",)
    assert "KeyError while repair was judged" in standing_markdown(standing, HOSTS, NOW)
    summary = summary_markdown(LABEL, "run", "PartiallyDone", {}, {}, ["KeyError while repair was judged."])
    assert "KeyError while repair was judged" in summary


def test_names_that_mean_harm_are_words_on_the_page(ledger: Ledger) -> None:
    page = standing_markdown(look(ledger), HOSTS, NOW)
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", page)  # without what is escaped
    for harm in ("<", "](", "://", "\x1b", "\x07", "\u202e"):
        assert harm not in bare, harm
    # No name adds a column, a line or a code span to a table.
    rows = [row for row in page.splitlines() if row.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


def test_an_empty_ledger_is_told_as_that(tmp_path: Path) -> None:
    standing = look(Ledger(f"sqlite:///{tmp_path}/empty.db"))
    assert (standing.level, standing.sentence, standing.run) == ("open", "No host is known yet.", None)
    assert "Nothing was looked at yet" in standing_markdown(standing, {}, NOW)


def test_proofs_grow_old(ledger: Ledger) -> None:
    later = judge(read(ledger, ACCOUNT), LABEL, PolicyConfig().approve, kit.NEXT_CHECK)
    assert [like.expired for like in later.work[0].changes] == [1, 1]
    row = "| backup | 2 | 2 | {} | recovery point | 1 |"
    assert row.format(2) in standing_markdown(later, HOSTS, kit.NEXT_CHECK)
    assert row.format(0) in standing_markdown(look(ledger), HOSTS, NOW)


def undo_of_first(ledger: Ledger, run: str, **left: str) -> None:
    """Another undo of the first run, that left changes for these reasons."""
    ledger.start_run(ACCOUNT, run, {"mode": "undo", "undoes": FIRST}, NOW)
    ledger.end_run(ACCOUNT, run, "Undone", {"undoes": FIRST, "left": left}, NOW)


def told_of_work(ledger: Ledger, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Status, page and report, of what the first run changed."""
    config = kit.config(folder)
    show_status(config, LABEL, as_json=False)
    show_host(config, SOUND, as_json=False)
    write(ledger, config.accounts[0], config.policy, folder / "report")
    page = standing_markdown(look(ledger), HOSTS, NOW)
    return capsys.readouterr().out + page + (folder / "report" / "report.html").read_text()


def test_an_undo_is_offered_only_while_it_would_take_something_back(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    offer = f"haltuun undo {FIRST}"
    assert told_of_work(ledger, tmp_path, capsys).count(offer) >= 4
    # An undo that left the tag: the next one may find it otherwise, so it is offered on.
    undo_of_first(ledger, "undo-1", **{kit.TAG.id: "It holds 2 recovery points."})
    (work,) = look(ledger).work
    assert work.undo == offer
    assert {one.why: len(one.changes) for one in work.left} == {"It holds 2 recovery points.": 1}
    told = told_of_work(ledger, tmp_path, capsys)
    assert told.count(offer) >= 4
    assert told.count("It holds 2 recovery points.") >= 4
    assert told.count("At the last undo: ") >= 4
    # A later one that left nothing clears the reason.
    undo_of_first(ledger, "undo-2", **{kit.TAG.id: ""})
    assert (look(ledger).work[0].undo, look(ledger).work[0].left) == (offer, ())
    # What the journal itself says stays: of the run only that is there.
    inverse = kit.TAG.model_copy(update={"before": kit.TAG.after, "after": None, "undoes": kit.TAG.id})
    for event in ("intended", "sent", "confirmed"):
        ledger.journal("undo-3", ACCOUNT, inverse, event, NOW)
    (work,) = look(ledger).work
    assert (work.undo, {one.why for one in work.stays}) == ("", {"A recovery point stays."})
    told = told_of_work(ledger, tmp_path, capsys)
    assert offer not in told and told.count("A recovery point stays.") >= 4


def test_what_goes_back_in_part_is_told_of_what_is_there_and_of_what_was_taken_back(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    why = "The agent stays installed."
    shipped = kit.tag(SOUND, "shipped").model_copy(update={"no_undo": why})
    inverse = shipped.model_copy(
        update={
            "before": shipped.after,
            "after": shipped.before,
            "undoes": shipped.id,
            "undo": Undo(kind="ec2.tag", after=shipped.after),
            "no_undo": "",
        }
    )
    told = []
    for run, change in (("ship", shipped), ("back", inverse)):
        for event in ("intended", "sent", "confirmed"):
            ledger.journal(run, ACCOUNT, change, event, NOW)
        rows = tmp_path / "report" / "changes.csv"
        told += [told_of_work(ledger, tmp_path, capsys), rows.read_text()]
    before, csv, after, _ = told
    # Of the host; of the page's list; of the report's two tables, of the runs' and of the host's.
    assert f"Undo in part: {why}" in before
    assert f"; undo in part: {why}" in before.partition("They can be undone in part:")[2]
    assert f">in part: {why}<" in before and f"can be undone in part: {why}" in before
    assert f"haltuun undo ship; in part: {why}" in csv
    # Of what an undo took back: status, page and report.
    line = f"Taken back in part: Tag {HOSTS[SOUND].label} backup=shipped. {why}"
    assert after.count(line) == 3


def test_what_a_later_run_builds_on_is_offered_only_once_that_run_is_taken_back(ledger: Ledger) -> None:
    later = kit.tag(SOUND, "weekly", before="daily")
    for event in ("intended", "sent", "confirmed"):
        ledger.journal("later", ACCOUNT, later, event, NOW)
    newest, first = look(ledger).work
    assert (newest.run, newest.undo, first.run, first.undo) == ("later", "haltuun undo later", FIRST, "")
    assert any("Run later builds on it" in one.why for one in first.stays)
    inverse = later.model_copy(
        update={
            "before": later.after,
            "after": later.before,
            "undoes": later.id,
            "undo": Undo(kind="t", after=None),
        }
    )
    for event in ("intended", "sent", "confirmed"):
        ledger.journal("undo", ACCOUNT, inverse, event, NOW)
    standing = look(ledger)
    assert [work.undo for work in standing.work] == [f"haltuun undo {FIRST}"]
    # What the undo of that run took back can be had again, and that is said, too.
    assert [(one.run, one.undo) for one in standing.undone] == [(LAST, ""), ("undo", "haltuun undo undo")]
    page = standing_markdown(standing, HOSTS, NOW)
    assert "Run undo took 1 change(s) back. To have it again: haltuun undo undo." in page
    assert "took 1 change(s) back. It is not undone in turn:" in page
