"""Promise 10: every code that can hold a host has a page that says what it means and what to do."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from haltuun import errors
from haltuun.stages.order import STAGES
from haltuun.stages.repair.guards import WAITING_LIMIT
from haltuun.stages.repair.wording import WORDING

PROJECT = Path(__file__).parents[2]
RUNBOOKS = PROJECT / "docs" / "runbooks"
# What ends a command or a run before any host is judged: never a host's reason.
NOT_A_HOSTS = {
    "APPROVER_UNKNOWN",
    "AWS",
    "CONFIG",
    "ERROR",
    "LAB",
    "LEASE_HELD",
    "LEASE_LOST",
    "LEDGER",
    "NO_CREDENTIALS",
    "NO_RUN",
    "NOT_TAKEN",
    "PLAN_NEEDS_SSH",
    "PREFECT_SERVER",
    "PREFECT_UNREACHABLE",
    "READ_ONLY",
    "ROLE_NOT_ASSUMED",
    "STATE_DIR",
    "TOOL_MISSING",
    "UNKNOWN_ACCOUNT",
    "UNKNOWN_HOST",
    "UNKNOWN_PLAN",
    "UNKNOWN_RUN",
    "USAGE",
    "WRONG_ACCOUNT",
    "WRONG_REGION",
}
SECTIONS = ["How Haltuun knows", "What Haltuun does", "What to do by hand", "Source"]
PAGES = sorted(RUNBOOKS.glob("*.md"))
# By hand on old systems: what each of these pages has to name.
BY_HAND = {
    "CLOCK_SKEW": ("Ubuntu 14.04", "Debian", "Amazon Linux 1", "Amazon Linux 2", "CentOS 6", "CentOS 7"),
    "TLS_UNTRUSTED": ("Ubuntu 14.04", "Debian", "Amazon Linux 1", "Amazon Linux 2023", "CentOS 6", "vault"),
    "DISK_FULL": ("df -i", "orchestration", "never", "Vault", "/var/lib/haltuun"),
    "IDENTITY_ORDER_OVERRIDE": ("ConsumptionOrder", "RegistrationKey", "json.tool"),
}
RESTARTS = ("systemctl restart amazon-ssm-agent", "snap restart amazon-ssm-agent", "initctl restart")
# bash itself goes through the blocks that it is given, and runs nothing of them.
CHECK_EACH = 'status=0; for block; do bash -n -c "$block" || status=1; done; exit $status'


def _written(path: Path) -> Iterator[str]:
    """Codes that the file gives to errors, bars and statuses, as literals."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        given = [word.value for word in node.keywords if word.arg in ("code", "reason")]
        codes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if codes and "inding" not in ast.unparse(node.func):
            yield from codes


def _codes() -> set[str]:
    found = {check.code for stage in STAGES for check in stage.checks}
    found |= {check.in_doubt.code for stage in STAGES for check in stage.checks if check.in_doubt}
    found |= {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.HaltuunError)
    }
    for path in (PROJECT / "haltuun").rglob("*.py"):
        if "cli" not in path.parts:
            found |= set(_written(path))
    return {code for code in found if code.isupper()} - NOT_A_HOSTS


def test_each_code_that_can_hold_a_host_has_a_page() -> None:
    missing = {code for code in _codes() | {"AWS_REFUSED"} if not (RUNBOOKS / f"{code}.md").is_file()}
    assert missing == set(), "write docs/runbooks/CODE.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_what_its_reader_looks_for(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem}\n")
    head, *sections = re.split(r"^## ", text, flags=re.M)
    assert head.partition("\n")[2].strip(), "what it means"
    assert [section.partition("\n")[0] for section in sections] == SECTIONS
    assert [section for section in sections if not section.partition("\n")[2].strip()] == []


def test_every_shell_block_can_be_pasted() -> None:
    blocks = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = re.findall(r"^```sh\n(.*?)^```$", text, re.S | re.M)
        assert 2 * len(found) == text.count("```"), f"{page.stem}: a fence that is not sh, or is open"
        blocks += [f"# {page.stem}\n{block}" for block in found]
    assert blocks
    done = subprocess.run(["bash", "-c", CHECK_EACH, "bash", *blocks], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_remedy_tells_to_run_stands_on_the_page() -> None:
    told = {
        (code, command)
        for code, wording in WORDING.items()
        for command in re.findall(r"(?<!\w)'([a-z][^']*)'(?!\w)", wording.remedy)
    }
    assert {code for code, _ in told} >= {"STALE_HYBRID", "DISK_FULL", "CLOCK_SKEW", "TLS_UNTRUSTED"}
    assert [(code, command) for code, command in sorted(told) if command not in _page(code)] == []


@pytest.mark.parametrize("code", BY_HAND)
def test_what_haltuun_leaves_to_people_is_told_for_old_systems_too(code: str) -> None:
    text = _page(code)
    assert [word for word in (*BY_HAND[code], *RESTARTS) if word not in text] == []
    assert f"docs/runbooks/{code}.md" in WORDING[code].remedy


def test_the_long_wait_is_told_as_what_was_seen_once() -> None:
    days = "30 days"
    for text in (WORDING["WAITING_SERVICE"].remedy, _page("WAITING_SERVICE")):
        (sentence,) = [one for one in re.split(r"(?<=[.;]) ", text.replace("\n", " ")) if days in one]
        assert "One host" in sentence
        assert "AWS documents no such wait" in text
    assert f"{WAITING_LIMIT.days} days" in _page("WAITING_SERVICE")
    assert f"{WAITING_LIMIT.days} days" in _page("WAITING_LIMIT")


def _page(code: str) -> str:
    return (RUNBOOKS / f"{code}.md").read_text(encoding="utf-8")
