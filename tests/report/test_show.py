"""`haltuun show HOST` and `haltuun status`, as a tired person reads them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from haltuun.cli.hostview import print_host
from haltuun.cli.show import show_host, show_status
from haltuun.config import AccountConfig
from haltuun.errors import EXIT_OK
from haltuun.ledger import Ledger
from haltuun.model import Finding, Severity, StageName
from haltuun.report.changes import made
from haltuun.report.host import describe
from tests.report import kit
from tests.report.kit import ACCOUNT, FIRST, FULL, FULLER, HOSTS, LABEL, LAST, NEW, SOUND, UNSURE


def shown(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str) -> str:
    assert show_host(kit.config(tmp_path), host, as_json=False) == EXIT_OK
    return capsys.readouterr().out


def part(text: str, title: str) -> list[str]:
    """The lines below a title, up to the next empty line before a title."""
    return text.partition(f"\n{title}\n")[2].partition("\n\n")[0].splitlines()


def test_one_line_a_change_with_its_end_and_its_way_back(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = part(shown(ledger, tmp_path, capsys, SOUND), "Changed by us")
    assert lines[0] == f"  Run {FIRST}  to take it back: haltuun undo {FIRST}"
    assert len(lines) == 3 and all("  done  " in line for line in lines[1:])
    assert lines[2].endswith("No undo: A recovery point stays.")
    failed = part(shown(ledger, tmp_path, capsys, FULLER), "Changed by us")
    assert failed[0] == f"  Run {LAST}  nothing of it can be taken back"
    assert "failed" in failed[1] and failed[1].endswith("(the disk is full)")
    assert "nobody knows" in "".join(part(shown(ledger, tmp_path, capsys, FULL), "Changed by us"))
    assert "taken back since" in "".join(part(shown(ledger, tmp_path, capsys, NEW), "Changed by us"))


def test_where_it_stands_what_was_found_and_what_runs_there(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(ledger, tmp_path, capsys, FULL)
    stages = part(text, "Stages")
    assert [line.split()[0] for line in stages] == [
        "discover",
        "verify",
        "repair",
        "→",
        "patch",
        "backup",
        "logs",
    ]
    assert "HELD" in stages[2] and "DISK_FULL" in stages[2] and "since" in stages[2]
    assert part(text, "Findings") == ["  high     EOL  Too old.", "           → Upgrade."]
    services = [line.split() for line in part(text, "What runs there")]
    assert ["80/tcp", "nginx", kit.HTML, "nginx.service", "0.0.0.0,", "::"] in services
    assert ["3306/tcp", "mysqld", "?", "?", "this", "host", "only"] in services
    assert "too old since" in "".join(part(text, "Proofs"))
    assert "disk free" in text and "12.5 %" in text
    assert '{"' not in text and "{'" not in text


def test_what_is_unknown_is_told_once_a_reason(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(ledger, tmp_path, capsys, UNSURE)
    assert part(text, "What runs there") == ["  Not known: SSH_REFUSED: it refuses"]
    assert " ".join(text.split()).count(": not asked yet") == 1


@pytest.mark.parametrize("host", list(HOSTS))
def test_no_name_reaches_the_terminal_as_more_than_words(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    text = shown(ledger, tmp_path, capsys, host)
    show_status(kit.config(tmp_path), LABEL, as_json=False)
    text += capsys.readouterr().out
    assert not [harm for harm in ("\x1b", "\x07", "\u202e") if harm in text]
    assert host in text


def test_a_narrow_terminal_cuts_nothing_off(ledger: Ledger) -> None:
    found = [Finding(code="EOL", severity=Severity.high, message="word " * 40, remedy="remedy " * 40)]
    dossier = describe(
        HOSTS[FULL],
        stages=ledger.status(ACCOUNT)[FULL],
        findings=[(StageName.discover, finding) for finding in found],
        made=made(ledger.change_events(ACCOUNT), ledger.runs(ACCOUNT)),
        proofs=ledger.proofs(ACCOUNT, FULL),
        observations=ledger.observations(ACCOUNT, FULL),
        now=kit.NOW,
    )
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    print_host(out, dossier, AccountConfig(id=ACCOUNT, alias=LABEL))
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    assert "…" not in text and text.count("word") == text.count("remedy") == 40
    assert f"haltuun undo {FIRST}\n" in text


def test_the_document_of_a_host_keeps_its_keys(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_host(kit.config(tmp_path), FULL, as_json=True) == EXIT_OK
    document = json.loads(capsys.readouterr().out)
    keys = {"account", "instance_id", "region", "name", "stages", "changes", "proofs", "facts"}
    assert keys <= document.keys() and document["account"] == ACCOUNT
    assert [finding["code"] for finding in document["findings"]] == ["EOL"]


def test_status_says_below_the_table_what_waits(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    show_status(kit.config(tmp_path), LABEL, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("2 of 10 hosts are in custody; 3 held, 1 unknown, ")
    commands = [line.split("   ")[2] for line in lines if line.startswith("      haltuun ")]
    assert commands == [f"haltuun takeover {LABEL} --plan {kit.PLAN.hash}", f"haltuun undo {FIRST}"]
    heads = [line.split()[0] for line in lines if line[:1].strip() and "DISK_FULL" in line]
    assert heads.count("HELD") == 1 and heads.count("worse") == 2
