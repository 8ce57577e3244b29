"""What people see: hostile and long names, narrow terminals, like things told once."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from haltuun.cli.groups import Trouble, tell
from haltuun.cli.planview import print_plan, waiting
from haltuun.cli.tables import names_of, status_table
from haltuun.cli.takeover import ids_of
from haltuun.config import AccountConfig, PolicyConfig
from haltuun.cost import full_backup
from haltuun.errors import ConfigError
from haltuun.ledger import Approval, Ledger, Shown
from haltuun.model import Barred, Change, Host, HostStatus, Plan, Reach, StageName, Undo, Unknown, Verdict
from haltuun.report.render import plan_markdown, undo_markdown
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.undo import Step

ACCOUNT, REGION = "111122223333", "eu-central-1"
REACHES = PolicyConfig().approve
EVIL = "\x1b[31m[bold red]evil[/]\x1b]8;;http://x\x07\u202e\nnext"
NAMES = ("web-01", EVIL, "x" * 256, "", "twin", "twin", "[/]", "日本" * 40)
LONGEST = "TOO_LARGE_FOR_RUN_COMMAND"
HOSTS = {
    f"i-{n:017x}": Host(account=ACCOUNT, region=REGION, instance_id=f"i-{n:017x}", name=name)
    for n, name in enumerate(NAMES)
}


def console(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def text_of(made: Console) -> str:
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    now = datetime.now(UTC)
    made.start_run(ACCOUNT, "run", {"mode": "apply"}, now)
    made.saw_hosts("run", HOSTS.values())
    held = HostStatus(verdict=Verdict.held, reason=LONGEST, message="m", remedy="r")
    for stage in StageName:
        made.judged(ACCOUNT, "run", stage, {host: held for host in HOSTS}, now)
    return made


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_name_breaks_the_table_and_every_stage_and_code_is_whole(ledger: Ledger, width: int) -> None:
    out = console(width)
    out.print(status_table(ledger, ACCOUNT, width=width))
    printed = text_of(out)
    assert "\x1b" not in printed and "\u202e" not in printed and "\x07" not in printed
    lines = printed.splitlines()
    assert all(cell_len(line) <= width for line in lines)
    # A line a host: no name makes another, and no code is broken.
    assert len([line for line in lines if " HELD " in line]) == len(HOSTS)
    assert len([line for line in lines if line.strip()]) == 2 + len(HOSTS)
    for stage in StageName:
        assert stage.value in printed
    assert printed.count("HELD") == len(HOSTS) * len(StageName)
    assert printed.count(LONGEST) == len(HOSTS)
    assert ("i-00000000000000000" in printed) == (width >= 120)


def test_several_codes_are_folded_between_them(ledger: Ledger) -> None:
    host = "i-00000000000000000"
    other = HostStatus(verdict=Verdict.unknown, reason="PROXY_INTERCEPTS_IMDS")
    ledger.judged(ACCOUNT, "run", StageName.logs, {host: other}, datetime.now(UTC))
    out = console(80)
    out.print(status_table(ledger, ACCOUNT, width=80))
    lines = [line.rstrip() for line in text_of(out).splitlines()]
    assert lines[2].endswith(f" {LONGEST}") and lines[3].strip() == "PROXY_INTERCEPTS_IMDS"


def test_hosts_of_one_name_and_of_none_are_told_apart() -> None:
    names = names_of(HOSTS)
    assert len(set(names.values())) == len(HOSTS)
    assert names["i-00000000000000003"] == "i-00000000000000003"
    assert names["i-00000000000000004"] == "twin …000004"
    narrow = names_of(HOSTS, 16)
    assert len(set(narrow.values())) == len(HOSTS)
    assert max(map(cell_len, narrow.values())) <= 16


def tag(number: int, key: str) -> Change:
    host = HOSTS[f"i-{number:017x}"]
    return Change(
        stage=StageName.backup,
        kind="ec2.tag",
        region=REGION,
        target=host.instance_id,
        hosts=(host.instance_id,),
        before=None,
        after={"key": key, "value": "yes"},
        reach=Reach.host,
        summary=f"Tag {host.label} {key}=yes.",
        undo=Undo(kind="ec2.tag", after=None),
    )


def test_like_changes_share_a_row_and_their_ids_are_there_when_asked_for() -> None:
    changes = tuple(tag(number, key) for key in ("a", "b") for number in range(len(HOSTS)))
    plan = Plan(account=ACCOUNT, changes=changes)
    short, full = console(100), console(140)
    print_plan(short, plan, HOSTS, "acme", approve=REACHES)
    print_plan(full, plan, HOSTS, "acme", approve=REACHES, full=True)
    told = text_of(short)
    assert told.count("Tag each host a=yes.") == told.count("Tag each host b=yes.") == 1
    assert f"all {len(HOSTS)} hosts" in told and f"the same {len(HOSTS)}" in told
    assert f"{len(changes)} changes" in told and plan.hash in told and "--full" in told
    assert not [change for change in changes if change.id in told]
    assert all(change.id in text_of(full) for change in changes)
    assert "\x1b" not in told and "\x1b" not in text_of(full)


def test_hosts_with_the_same_trouble_are_told_about_once() -> None:
    out = console(120)
    troubles = [
        Trouble(host, StageName.verify, Verdict.held, "SSH_REFUSED", "It refuses.", "See ssh.port.")
        for host in HOSTS
    ]
    troubles.append(
        Trouble("i-00000000000000000", StageName.patch, Verdict.held, "EOL", "Too old.", "Migrate.")
    )
    tell(out, troubles, HOSTS)
    told = text_of(out)
    assert told.count("SSH_REFUSED") == told.count("It refuses.") == told.count("See ssh.port.") == 1
    assert f"{len(HOSTS)} hosts: web-01" in told
    assert told.count("EOL") == told.count("Migrate.") == 1
    assert "\x1b" not in told


def test_barred_hosts_stand_in_the_plan_with_their_remedy() -> None:
    barred = Barred(host="i-00000000000000001", code="EOL", message="Too old [/].", remedy="Migrate [bold].")
    out = console(80)
    print_plan(out, Plan(account=ACCOUNT, barred={"patch": (barred,)}), HOSTS, "acme", approve=REACHES)
    told = text_of(out)
    assert "patch EOL" in told and "Too old [/]." in told and "→ Migrate [bold]." in told


def priced(number: int, reach: Reach, depends_on: tuple[str, ...] = (), **more: Any) -> Change:
    return tag(number, "a").model_copy(update={"reach": reach, "depends_on": depends_on, **more})


@pytest.mark.parametrize("width", [80, 120])
def test_a_plan_tells_its_cost_and_what_waits_and_stays_within_the_terminal(width: int) -> None:
    role = priced(0, Reach.account, target="role", concerns=("i-9 db-01",))
    cost = full_backup("us-east-1", 100)
    unseen = Unknown(unknown="ACCESS_DENIED: ec2:DescribeVolumes")
    one = priced(4, Reach.host, (role.id,), monthly_cost=cost)
    two = priced(5, Reach.host, (one.id,), monthly_cost=unseen)
    free = priced(6, Reach.host)
    plan = Plan(account=ACCOUNT, changes=(role, one, two, free))
    assert waiting(plan, REACHES) == [role, one, two]
    short, full = console(width), console(width)
    print_plan(short, plan, HOSTS, "acme", approve=REACHES)
    print_plan(full, plan, HOSTS, "acme", approve=REACHES, full=True)
    broad = console(400)
    print_plan(broad, plan, HOSTS, "acme", approve=REACHES)
    told = " ".join(text_of(broad).split())
    assert "Together about 1–5 USD a month, without 1 change whose cost is unknown." in told
    assert "Also concerned: i-9 db-01." in told
    assert "3 wait for approval; 1 are made without: haltuun takeover acme." in told
    narrow = console(400)
    print_plan(narrow, plan, HOSTS, "acme", approve=REACHES, stages=[StageName.patch], only_hosts=["i-1"])
    closing = " ".join(text_of(narrow).split())
    assert f"Approve it with haltuun takeover acme --stage patch --host i-1 --plan {plan.hash};" in closing
    assert "1 are made without: haltuun takeover acme --stage patch --host i-1." in closing
    assert "Cost in all: about 1–5 USD a month" in told and "list prices as of" in told
    # The closing lines are for copying: a terminal breaks them itself.
    table = text_of(short).partition("\nPlan ")[0] + text_of(full).partition("\nPlan ")[0]
    assert all(cell_len(line) <= width for line in table.splitlines())
    whole = " ".join(text_of(full).split())
    assert "permissions none of AWS" in whole and "undo takes it away" in whole
    assert f"needs {role.id}" in whole and "Cost unknown (ACCESS_DENIED: ec2:DescribeVolumes)." in whole


def test_a_plan_of_no_host_says_that_there_is_none() -> None:
    out = console(120)
    print_plan(out, Plan(account=ACCOUNT), {}, "acme", approve=REACHES)
    assert "acme: there is no instance in the regions that were looked at." in text_of(out)


def test_hosts_are_typed_by_id_or_by_a_name_that_only_one_has(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = AccountConfig(id=ACCOUNT, alias="acme")
    first = next(iter(HOSTS))
    looked = datetime(2026, 11, 25, 2, tzinfo=UTC)
    assert ids_of(ledger, of, ["web-01"]) == [first]
    assert capsys.readouterr().err == f"web-01 is {first}, as the ledger has it.\n"
    ledger.observed(
        ACCOUNT, "r", StageName.discover, "plan", {first: DiscoverFacts(observed_at=looked)}, looked
    )
    assert ids_of(ledger, of, ["web-01", first, "i-0123456789abcdef0"]) == [first, "i-0123456789abcdef0"]
    for name, said in (
        ("twin", "2 hosts have this name"),
        ("web-9", "no host had this name when Haltuun looked last. See 'haltuun status acme'"),
        ("", "no host had"),
    ):
        with pytest.raises(ConfigError, match=said):
            ids_of(ledger, of, [name])
    told = capsys.readouterr()
    # Of an id there is nothing to say; with --json it must not be on stdout.
    assert (told.out, told.err) == ("", f"web-01 is {first}, as seen on 2026-11-25 02:00 UTC.\n")
    with pytest.raises(ConfigError, match="run 'haltuun plan acme' first"):
        ids_of(Ledger(f"sqlite:///{tmp_path}/empty.db"), of, ["web-01"])


def test_the_artifact_of_an_undo_says_it_in_the_words_of_the_command(ledger: Ledger) -> None:
    change = tag(0, "a")
    steps = [Step(change, None, "ready"), Step(change, None, "kept", "It is | data.")]
    told = undo_markdown("run", "acme", "AwaitingApproval", steps, HOSTS)
    assert "## Goes back\n\n- backup, web-01: " in told
    assert "can be undone in turn" not in told
    steps = [
        Step(change, change.model_copy(update={"undo": again, "no_undo": "It is judged anew."}), "ready")
        for again in (change.undo, None)
    ]
    in_turn = undo_markdown("run", "acme", "AwaitingApproval", steps, HOSTS)
    assert (
        "1 of what goes back can be undone in turn" in in_turn
        and "Not undone in turn: It is judged anew." in in_turn
    )
    assert told.index("## Goes back") < told.index("## Stays") and "It is \\| data." in told
    assert "\n|" not in told
    assert "your name as `approved_by`" in told and "Approved by" not in told
    done = undo_markdown("run", "acme", "Undone", [Step(change, None, "done")], HOSTS, "<b>me</b>")
    assert "Approved by \\<b\\>me\\</b\\>." in done


def test_the_plan_artifact_tells_cost_approval_and_what_is_stale() -> None:
    change = priced(0, Reach.irreversible, monthly_cost=full_backup("us-east-1", 100), undo=None)
    change = change.model_copy(update={"no_undo": "It stays | for good."})
    plan = Plan(account=ACCOUNT, changes=(change,))
    approval = Approval(
        run="r2",
        plan_hash=plan.hash,
        at=datetime(2026, 11, 25, 2, tzinfo=UTC),
        who="<b>me</b>",
        how="plan hash",
    )
    shown = Shown(plan_run="r1", changes=plan.changes)
    told = plan_markdown(
        plan, HOSTS, "acme", [], approval=approval, shown=shown, stale={change.id: "it concerns <b>"}
    )
    assert "; costs about 1–5 USD a month" in told and "Cost in all: about 1–5 USD a month." in told
    assert "undo: none: It stays \\| for good;" in told
    # An approver must see all of it: Prefect's pages cut wide tables off.
    assert "\n|" not in told
    assert "2026-11-25 02:00 UTC: plan hash" in told and "as run r1 showed it; 1 of these changes" in told
    assert "<b>" not in told
    assert f"PLAN_STALE, not what was approved: {change.id} (it concerns \\<b\\>)." in told


def test_who_approves_can_see_every_host_and_all_who_are_concerned() -> None:
    hosts = {
        f"i-{n:017x}": Host(account=ACCOUNT, region="r", instance_id=f"i-{n:017x}", name=f"box-{n}")
        for n in range(40)
    }
    others = tuple(f"role of team {n}" for n in range(30))
    wide = tag(0, "a").model_copy(
        update={"hosts": tuple(hosts), "concerns": others, "reach": Reach.shared, "kind": "wide"}
    )
    second = wide.model_copy(update={"kind": "wide2", "concerns": ()})
    twins = tag(0, "b").model_copy(update={"hosts": tuple(hosts)[:2]})
    same = {host: one.model_copy(update={"name": "clone"}) for host, one in hosts.items()}
    told = plan_markdown(Plan(account=ACCOUNT, changes=(wide, second)), hosts, "acme", [wide, second])
    for host in hosts.values():
        assert told.count(host.label) == 1
    assert all(told.count(other) == 1 for other in (f"{one}," for one in others[:-1]))
    assert told.count("for 40 hosts, all in list 1 at the end") == 2
    assert "also concerned: 30 more, all in list 2 at the end" in told
    assert "## List 1: 40 hosts" in told and "## List 2: 30 more" in told
    told = plan_markdown(Plan(account=ACCOUNT, changes=(twins,)), same, "acme", [twins])
    assert all(host in told for host in twins.hosts)  # clones share their name
    steps = [Step(wide, None, "ready")]
    told = undo_markdown("run", "acme", "AwaitingApproval", steps, hosts)
    assert all(host in told for host in hosts)
