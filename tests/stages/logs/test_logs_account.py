"""logs over an emulated account: from the configuration to the marker line, and what stays untouched."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from moto.logs.responses import LogsResponse
from moto.ssm.exceptions import AccessDeniedException

from haltuun.ledger import ChangeEvent
from haltuun.model import Host, StageName, Unknown
from haltuun.stages.commands import send
from haltuun.stages.discover.facts import LogFile
from haltuun.stages.logs import STAGE
from haltuun.stages.logs.kinds import get_parameter
from haltuun.stages.logs.names import SESSIONS_DOCUMENT
from haltuun.stages.polling import poll
from haltuun.stages.tags import LOGS, tag_change
from haltuun.stages.verify.facts import RoleFacts, VerifyAccount, VerifyFacts
from haltuun.undo import Undoing, open_undo, plan_undo
from lab.cloud.extensions import ssm_associations
from lab.cloud.state import ssm_state
from tests.stages.account_kit import ACCOUNT, LABEL, REGION, World, take_back, ubuntu, world
from tests.stages.account_state import differences
from tests.stages.cloudwatch_kit import put_agent, tree

pytestmark = pytest.mark.slow

# The package exports the function of that name; its deadline is the module's.
PROVE = import_module("haltuun.stages.logs.prove")
BACK = import_module("haltuun.stages.logs.back")
NOBODY: Any = lambda run, host: None  # noqa: E731
NOTED = "var/lib/haltuun/logs/configuration"
PACKAGE, SHELL = "aws:configurePackage", "aws:runShellScript"
STEPS = [SHELL, PACKAGE, SHELL]
NGINX = (LogFile(path="/var/log/nginx/access.log", service="nginx"),)


@pytest.fixture
def account(tmp_path: Any, monkeypatch: Any) -> Iterator[World]:
    with world(tmp_path, monkeypatch, ubuntu(), ubuntu(log_files=NGINX)) as made:
        yield made


def statuses(takeover: Any) -> dict[str, tuple[str, str]]:
    found = takeover.progress[StageName.logs].statuses
    return {i: (status.verdict.value, status.reason) for i, status in found.items()}


def test_a_line_written_on_each_host_arrives(account: World) -> None:
    takeover = account.take(STAGE)
    assert set(statuses(takeover).values()) == {("passed", "")}
    logs = account.client("logs")
    events = logs.filter_log_events(logGroupName=f"/haltuun/{LABEL}/marker")["events"]
    found = {event["logStreamName"]: event["message"] for event in events}
    assert found == {i: f"haltuun {takeover.run.id} {i}" for i in account.facts}
    for instance_id, node in account.nodes.items():
        assert takeover.run.valid_proof(StageName.logs, "marker", instance_id)
        assert [step for step in node.ran if step.startswith("aws:")] == STEPS
        assert (node.root / NOTED).read_text().split() == node.configs


def test_a_second_run_plans_mutates_and_writes_nothing(account: World) -> None:
    account.take(STAGE)
    ran = {i: list(node.ran) for i, node in account.nodes.items()}
    again = account.take(STAGE)
    assert again.plan is not None
    assert again.plan.changes == ()
    assert [call for call in again.run.aws.calls if call.mutating] == []
    assert {i: list(node.ran) for i, node in account.nodes.items()} == ran
    assert set(statuses(again).values()) == {("passed", "")}


def test_groups_are_made_for_what_runs_and_keep_as_configured(account: World) -> None:
    account.take(STAGE)
    groups = account.client("logs").describe_log_groups(logGroupNamePrefix="/haltuun/")["logGroups"]
    kinds = {group["logGroupName"].rpartition("/")[2]: group["retentionInDays"] for group in groups}
    assert kinds == dict.fromkeys(("system", "auth", "nginx", "marker", "sessions"), 365)


def test_hosts_with_the_same_logs_share_a_configuration(tmp_path: Any, monkeypatch: Any) -> None:
    with world(tmp_path, monkeypatch, ubuntu(), ubuntu(), ubuntu(log_files=NGINX)) as account:
        takeover = account.start(STAGE, mode="plan")
        assert takeover.plan is not None
        parameters = [c for c in takeover.plan.changes if c.kind == "ssm.parameter"]
        assert sorted(len(c.hosts) for c in parameters) == [1, 2]
        assert all(c.target.startswith("AmazonCloudWatch-haltuun-") for c in parameters)


def test_sessions_are_logged_where_no_preferences_were(account: World) -> None:
    account.take(STAGE)
    document = account.client("ssm").get_document(Name=SESSIONS_DOCUMENT)
    inputs = json.loads(document["Content"])["inputs"]
    assert inputs["cloudWatchLogGroupName"] == f"/haltuun/{LABEL}/sessions"
    assert (inputs["cloudWatchStreamingEnabled"], inputs["cloudWatchEncryptionEnabled"]) == (True, False)


def test_a_predecessors_session_preferences_stay(account: World) -> None:
    theirs = {"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": {"idleSessionTimeout": "5"}}
    ssm = account.client("ssm")
    ssm.create_document(
        Name=SESSIONS_DOCUMENT, Content=json.dumps(theirs), DocumentType="Session", DocumentFormat="JSON"
    )
    takeover = account.take(STAGE)
    assert json.loads(ssm.get_document(Name=SESSIONS_DOCUMENT)["Content"]) == theirs
    assert "SESSIONS_NOT_LOGGED" in {f.code for f in takeover.progress[StageName.logs].findings}
    assert set(statuses(takeover).values()) == {("passed", "")}


def test_an_agent_that_cannot_be_installed_holds_its_host_alone(account: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(PROVE, "PATIENCE_S", 0.5)
    first, second = account.facts
    account.nodes[first].ends.update(dict.fromkeys((PACKAGE, "configure"), "Failed"))
    takeover = account.take(STAGE)
    assert statuses(takeover) == {first: ("held", "LOGS_NOT_CONFIGURED"), second: ("passed", "")}
    message = takeover.progress[StageName.logs].statuses[first].message
    assert "aws:configurePackage was told to fail" in message, message
    assert account.nodes[first].ran.count(PACKAGE) == 2, "by State Manager, and once more as that failed"
    account.nodes[first].ends.clear()
    again = account.take(STAGE)
    assert set(statuses(again).values()) == {("passed", "")}
    assert again.plan is not None and again.plan.changes == ()


@pytest.mark.parametrize("comes_through", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_a_host_that_state_manager_still_works_on_is_not_said_to_lack_its_configuration(
    account: World, monkeypatch: Any, comes_through: bool
) -> None:
    monkeypatch.setattr(PROVE, "PATIENCE_S", 0.0)
    monkeypatch.setattr(PROVE, "CONFIGURE_S", 30 if comes_through else 3)
    first, second = account.facts
    state = ssm_state(ACCOUNT, REGION)
    respond, held = state.responder, []

    def slow(message: dict[str, Any], node_id: str) -> dict[str, Any] | None:
        """State Manager's run goes on until the one that was sent has failed."""
        if node_id != first or not message["DocumentName"].startswith("haltuun-"):
            return respond(message, node_id)
        held.append(message)
        if len(held) == 1:
            return None
        if comes_through:
            threading.Timer(0.5, lambda: state.reply(first, respond(held[0], first))).start()
        return {"CommandId": message["CommandId"], "Status": "Failed", "ResponseCode": 3}

    state.responder = slow
    takeover = account.take(STAGE)
    assert len(held) == 2
    expected = ("passed", "") if comes_through else ("unknown", "LOGS_NOT_CONFIGURED")
    assert statuses(takeover) == {first: expected, second: ("passed", "")}
    if not comes_through:
        assert "State Manager says" in takeover.progress[StageName.logs].statuses[first].message


@pytest.mark.parametrize(
    ("begins_s", "expected"),
    [(600.0, ("unknown", "LOGS_NOT_CONFIGURED")), (0.0, ("held", "LOGS_NOT_CONFIGURED"))],
)
def test_state_manager_is_given_its_time_to_begin_on_a_host_where_the_document_failed(
    account: World, monkeypatch: Any, begins_s: float, expected: tuple[str, str]
) -> None:
    monkeypatch.setattr(PROVE, "PATIENCE_S", 0.0)
    monkeypatch.setattr(PROVE, "CONFIGURE_S", 3)
    monkeypatch.setattr(PROVE, "ARRIVES_S", 1.0)
    monkeypatch.setattr(PROVE, "BEGINS_S", begins_s)
    first, second = account.facts
    due = ssm_associations._due
    monkeypatch.setattr(ssm_associations, "_due", lambda of, node, now: node != first and due(of, node, now))
    account.nodes[first].ends.update(dict.fromkeys(STEPS, "Failed"))
    takeover = account.take(STAGE)
    assert statuses(takeover) == {first: expected, second: ("passed", "")}
    message = takeover.progress[StageName.logs].statuses[first].message
    assert ("State Manager has not begun its own run there yet" in message) == (begins_s > 0)


def test_a_line_that_does_not_arrive_is_no_proof(account: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(PROVE, "ARRIVES_S", 2.0)
    first, second = account.facts
    account.nodes[first].ships = False
    takeover = account.take(STAGE)
    assert statuses(takeover) == {first: ("held", "MARKER_MISSING"), second: ("passed", "")}
    note = takeover.run.facts[StageName.logs][first].marker_note  # type: ignore[attr-defined]
    assert note == "it was written on the host, and did not arrive"


def test_the_script_writes_nothing_on_another_box(account: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(PROVE, "ARRIVES_S", 2.0)
    first, second = account.facts
    account.nodes[first].metadata = account.nodes[second].metadata
    # The second host's id is asked for in the same command, so the first asks alone.
    del account.facts[second]
    takeover = account.take(STAGE)
    assert statuses(takeover) == {first: ("held", "MARKER_MISSING")}
    assert "WRONG_BOX" in takeover.run.facts[StageName.logs][first].marker_note  # type: ignore[attr-defined]
    assert not (account.nodes[first].root / "var/log/haltuun/marker.log").exists()


def test_an_agent_that_was_there_keeps_its_configuration(tmp_path: Any, monkeypatch: Any) -> None:
    before = ubuntu(cloudwatch_config=True)
    with world(tmp_path, monkeypatch, before) as account:
        takeover = account.take(STAGE)
        (instance_id,) = account.facts
        assert account.tags(instance_id)["haltuun:logs"].endswith("-add")
        listed = account.client("ssm").list_associations()["Associations"]
        ours = next(a for a in listed if a["AssociationName"].endswith("-add"))
        described = account.client("ssm").describe_association(AssociationId=ours["AssociationId"])
        assert described["AssociationDescription"]["Parameters"]["action"] == ["append-config"]
        assert set(statuses(takeover).values()) == {("passed", "")}
        again = account.start(STAGE, mode="plan")
        assert again.plan is not None and again.plan.changes == ()


def test_a_proof_is_asked_for_again_after_a_week(account: World) -> None:
    takeover = account.take(STAGE)
    for instance_id in account.facts:
        proof = takeover.run.valid_proof(StageName.logs, "marker", instance_id)
        assert proof is not None
        assert proof.valid_until - proof.observed_at == timedelta(days=7)


def test_what_an_earlier_run_installed_is_not_installed_again(account: World, monkeypatch: Any) -> None:
    """A proof that has run out asks for a line, not for another installation, however long that takes."""
    first = account.take(STAGE)
    monkeypatch.setattr(PROVE, "PATIENCE_S", 0.0)
    account.ledger.withdraw_proofs(
        ACCOUNT, "test", StageName.logs, list(account.facts), "gone", first.run.now()
    )
    again = account.take(STAGE)
    assert set(statuses(again).values()) == {("passed", "")}
    for node in account.nodes.values():
        assert [step for step in node.ran if step.startswith("aws:")] == STEPS


def test_a_host_that_lost_its_configuration_is_given_it_again_by_its_own_word(account: World) -> None:
    """A root volume was replaced: the tag is there, the proof has run out, State Manager has had its turn."""
    first, second = account.facts
    taken = account.take(STAGE)
    account.ledger.withdraw_proofs(ACCOUNT, "test", StageName.logs, [first, second], "gone", taken.run.now())
    (account.nodes[first].root / NOTED).unlink()
    assert set(statuses(account.take(STAGE)).values()) == {("passed", "")}
    assert [account.nodes[i].ran.count(PACKAGE) for i in (first, second)] == [2, 1]


def test_an_association_that_somebody_changed_is_not_sent_to_a_host(account: World) -> None:
    first = next(iter(account.facts))
    taken = account.take(STAGE)
    account.ledger.withdraw_proofs(ACCOUNT, "test", StageName.logs, [first], "gone", taken.run.now())
    tag, ssm = account.tags(first)["haltuun:logs"], account.client("ssm")
    named = [{"key": "AssociationName", "value": f"haltuun-logs-{tag}"}]
    (ours,) = ssm.list_associations(AssociationFilterList=named)["Associations"]
    ssm.update_association(
        AssociationId=ours["AssociationId"],
        AssociationName=ours["AssociationName"],
        Name=ours["Name"],
        Targets=ours["Targets"],
        Parameters={"configuration": ["AmazonCloudWatch-haltuun-ffff"], "action": ["fetch-config"]},
    )
    (account.nodes[first].root / NOTED).unlink()
    ran = len(account.nodes[first].ran)
    takeover = account.start(STAGE)
    account.pass_through(takeover)  # nobody approves that the association is set right
    note = takeover.run.facts[StageName.logs][first].marker_note  # type: ignore[attr-defined]
    assert "was changed, and is not what Haltuun would run" in note
    assert account.nodes[first].ran[ran:] == ["AWS-RunShellScript"]
    takeover.end("Done")


def test_an_agent_that_is_there_is_configured_though_its_package_is_refused(
    account: World, monkeypatch: Any
) -> None:
    """Another installation goes on, or it is a system that the package does not know."""
    monkeypatch.setattr(PROVE, "PATIENCE_S", 0.0)
    first = next(iter(account.facts))
    put_agent(account.nodes[first].root)
    account.nodes[first].ends[PACKAGE] = "Failed"
    assert set(statuses(account.take(STAGE)).values()) == {("passed", "")}


def test_a_log_group_that_cannot_be_read_says_nothing_of_the_hosts(account: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(PROVE, "ARRIVES_S", 1.0)

    def refuse(self: LogsResponse) -> None:
        raise AccessDeniedException("logs:FilterLogEvents is not allowed")

    monkeypatch.setattr(LogsResponse, "filter_log_events", refuse)
    takeover = account.take(STAGE)
    assert set(statuses(takeover).values()) == {("unknown", "MARKER_MISSING")}
    (message,) = {status.message for status in takeover.progress[StageName.logs].statuses.values()}
    assert "its log group could not be read" in message and "FilterLogEvents" in message


def test_a_document_that_another_runs_association_runs_stays_and_is_named(account: World) -> None:
    first, second = account.facts
    theirs = account.facts.pop(second)
    taken = account.start(STAGE)
    account.go(taken)
    taken.end(taken.outcome())
    account.facts[second] = theirs
    later = account.take(STAGE)
    account.facts.pop(second)
    undoing = account.undo(taken, STAGE)
    (step,) = [step for step in undoing.steps if step.change.kind == "ssm.document"]
    assert (step.status, undoing.outcome()) == ("needed", "PartlyUndone"), "the other's host goes back by it"
    assert f"Run {later.run.id} goes back by it, and first" in step.message
    ssm = account.client("ssm")
    (left,) = ssm.list_associations()["Associations"]
    assert left["AssociationName"].endswith(account.tags(second)["haltuun:logs"])
    assert "haltuun:logs" not in account.tags(first)
    account.client("ec2").delete_tags(Resources=[second], Tags=[{"Key": "haltuun:logs"}])
    undoing = take_back(account.config(), account.ledger, taken.run.id, [STAGE])
    (step,) = [step for step in undoing.steps if step.change.kind == "ssm.document"]
    assert (step.status, undoing.outcome()) == ("failed", "PartlyUndone")
    assert "it stays while an association runs it" in step.message
    assert ssm.get_document(Name=step.change.target)["Name"] == step.change.target
    take_back(account.config(), account.ledger, later.run.id, [STAGE])
    again = take_back(account.config(), account.ledger, taken.run.id, [STAGE])
    assert [s.status for s in again.steps if s.change.kind == "ssm.document"] == ["done"]


def test_a_line_of_another_configuration_is_no_proof(account: World) -> None:
    account.take(STAGE)
    second = list(account.facts)[1]
    tag = account.tags(second)["haltuun:logs"]
    account.facts[second] = ubuntu(log_files=(LogFile(path="/var/log/redis/redis.log", service="redis"),))
    again = account.take(STAGE)
    events = account.client("logs").filter_log_events(logGroupName=f"/haltuun/{LABEL}/marker")["events"]
    fresh = {e["logStreamName"] for e in events if again.run.id in e["message"]}
    assert fresh == {second}
    assert set(statuses(again).values()) == {("passed", "")}
    undoing = take_back(account.config(), account.ledger, again.run.id, [STAGE])
    assert (undoing.outcome(), on_hosts(undoing)) == ("Undone", {second: ("done", "")})
    assert account.tags(second)["haltuun:logs"] == tag
    assert account.nodes[second].configs[-1] == f"AmazonCloudWatch-haltuun-{tag}", "the earlier one is back"


def test_one_host_that_is_gone_costs_no_other_its_command(account: World) -> None:
    first = next(iter(account.facts))
    takeover = account.start(STAGE)
    gone = "i-0000000000000dead"
    lines = {"commands": ["echo first >&2; echo https://me:secret@proxy refuses >&2; exit 3"]}
    sent = send(takeover.run, REGION, [first, gone], "AWS-RunShellScript", lambda some: lines, "test")
    assert set(sent.commands) == {first}
    assert "InvalidInstanceId" in sent.refused[gone].unknown
    endings = poll(lambda: sent.look(takeover.run), lambda seen: len(seen) == 2, 20)
    assert endings[first] == "https://***@proxy refuses", "what it said last"
    assert "InvalidInstanceId" in endings[gone]
    takeover.end("Done")


def test_a_host_that_hangs_holds_up_no_others_ending(account: World) -> None:
    first, second = account.facts
    takeover = account.start(STAGE)
    hangs = account.nodes[second].root / "go-on"
    lines = [f'[ "$HALTUUN_ROOT" = {account.nodes[second].root} ] || exit 7', f"until [ -e {hangs} ]"]
    lines.append("do sleep 0.1; done")
    ids = [first, second]
    sent = send(takeover.run, REGION, ids, "AWS-RunShellScript", lambda some: {"commands": lines}, "test")
    assert len(set(sent.commands.values())) == 1
    endings = poll(lambda: dict(sent.look(takeover.run)), bool, 20)
    assert endings == {first: "Failed"}
    hangs.touch()
    assert poll(lambda: sent.look(takeover.run), lambda seen: len(seen) == 2, 20)[second] == ""
    takeover.end("Done")


def test_a_document_that_somebody_changed_is_not_run(account: World) -> None:
    takeover = account.start(STAGE)
    assert takeover.plan is not None
    (wanted,) = [c for c in takeover.plan.changes if c.kind == "ssm.document"]
    takeover.end("Done")
    theirs = {"schemaVersion": "2.2", "mainSteps": []}
    ssm = account.client("ssm")
    ssm.create_document(Name=wanted.target, Content=json.dumps(theirs), DocumentType="Command")
    again = account.start(STAGE, mode="plan")
    assert again.plan is not None
    assert {b.code for b in again.plan.barred["logs"]} == {"NAME_TAKEN"}
    assert not [c for c in again.plan.changes if c.target.startswith("i-")]


def test_a_parameter_of_our_name_with_other_content_is_ours_by_its_tag_only(account: World) -> None:
    takeover = account.start(STAGE)
    assert takeover.plan is not None
    wanted = next(c for c in takeover.plan.changes if c.kind == "ssm.parameter")
    ssm = account.client("ssm")
    ssm.put_parameter(Name=wanted.target, Value="{}", Type="String")
    assert get_parameter(takeover.run, REGION, wanted.target).state == "foreign"  # type: ignore[union-attr]
    takeover.end("Done")
    again = account.start(STAGE, mode="plan")
    assert again.plan is not None
    assert {b.code for b in again.plan.barred["logs"]} == {"NAME_TAKEN"}
    tags = [{"Key": "haltuun:managed", "Value": "true"}]
    ssm.add_tags_to_resource(ResourceType="Parameter", ResourceId=wanted.target, Tags=tags)
    edited = account.start(STAGE, mode="plan")
    assert edited.plan is not None
    change = next(c for c in edited.plan.changes if c.target == wanted.target)
    assert change.undo is None and "history" in change.no_undo


def test_whose_sessions_stay_unlogged_is_said(tmp_path: Any, monkeypatch: Any) -> None:
    with world(tmp_path, monkeypatch, ubuntu(ssm_status="Online"), ubuntu(ssm_status="never")) as account:
        first = next(iter(account.facts))
        takeover = account.start(STAGE, mode="plan")
        assert takeover.plan is not None
        (change,) = [c for c in takeover.plan.changes if c.kind == "ssm.session_preferences"]
        assert [first in text for text in change.concerns] == [True]


def trees(account: World) -> dict[str, dict[str, str]]:
    return {i: tree(node.root) for i, node in account.nodes.items()}


def on_hosts(undoing: Undoing) -> dict[str, tuple[str, str]]:
    """Host → status and message of what takes its configuration back."""
    steps = (step for step in undoing.steps if step.change.kind == "logs.configure")
    return {step.change.target: (step.status, step.message) for step in steps}


def lay(account: World) -> None:
    """What any host has."""
    for node in account.nodes.values():
        for folder in ("etc/systemd/system", "opt", "var/lib", "var/log"):
            (node.root / folder).mkdir(parents=True)


def test_all_but_the_logs_can_be_undone_on_the_hosts_too_and_that_undone_in_turn(account: World) -> None:
    lay(account)
    before, hosts = account.state(), trees(account)
    takeover = account.start(STAGE)
    account.go(takeover)
    takeover.end(takeover.outcome())
    there = trees(account)
    looking = open_undo(
        account.config(),
        takeover.run.id,
        approved=False,
        stages=[STAGE],
        opener=NOBODY,
        ledger=account.ledger,
    )
    looking.begin("test")
    looking.preview([step.change.id for step in looking.steps])
    assert {status for status, _ in on_hosts(looking).values()} == {"ready"}
    (said,) = {message for _, message in on_hosts(looking).values()}
    assert said.startswith("By a command on the host: the CloudWatch agent, its files and its user go")
    assert trees(account) == there and [c for c in looking.run.aws.calls if c.mutating] == []
    undoing = take_back(account.config(), account.ledger, takeover.run.id, [STAGE])
    assert undoing.outcome() == "Undone", [step.message for step in undoing.steps]
    assert set(on_hosts(undoing).values()) == {("done", "")}
    assert trees(account) == hosts
    left = differences(before, account.state())
    assert left and all(name.startswith("logs:/haltuun/") for name in left)
    kept = {step.change.target for step in undoing.steps if step.status == "kept"}
    assert {f"logs:{target}" for target in kept} == set(left)
    groups = account.client("logs").describe_log_groups()["logGroups"]
    assert all(group["retentionInDays"] for group in groups), "what stays does not stay for ever"
    again = take_back(account.config(), account.ledger, undoing.run.id, [STAGE])
    assert again.outcome() == "Undone", [step.message for step in again.steps]
    poll(lambda: trees(account), lambda seen: all(NOTED in one for one in seen.values()), 20)
    assert {i: set(one) - set(hosts[i]) for i, one in trees(account).items()} == {
        i: {path for path in set(one) - set(hosts[i]) if not path.startswith("var/log/haltuun")}
        for i, one in there.items()
    }


def test_what_an_earlier_version_did_goes_back_as_it_said_then() -> None:
    """Its tag alone: no host noted how it was."""
    said = "The tag goes back; the agent stays installed."
    host = Host(account=ACCOUNT, region=REGION, instance_id="i-0123456789abcdef0")
    kind = "logs.configure"
    change = tag_change(StageName.logs, host, LOGS, None, "0123abcd", "", kind=kind, no_undo=said)
    at = datetime(2026, 11, 23, tzinfo=UTC)
    event = ChangeEvent(run="1", change_id=change.id, event="confirmed", at=at, change=change)
    (step,) = plan_undo([event], "1", {StageName.logs: STAGE.kinds})
    assert step.inverse and step.in_part == f"In part: {said}"
    undone = STAGE.kinds[step.inverse.kind]
    assert (undone.name, undone.goes, undone.by_ssm) == ("ec2.tag", None, False)


def test_a_host_that_does_not_go_back_is_named_and_the_next_undo_goes_on_with_it(account: World) -> None:
    lay(account)
    hosts, state = trees(account), ssm_state(ACCOUNT, REGION)
    first, second = account.facts
    taken = account.take(STAGE)
    tag = account.tags(second)["haltuun:logs"]
    state.nodes[first].stuck = True
    account.nodes[second].ends["AWS-RunShellScript"] = "Failed"
    calls = account.nodes[first].ran[:]
    undoing = take_back(account.config(), account.ledger, taken.run.id, [STAGE])
    said = on_hosts(undoing)
    assert undoing.outcome() == "PartlyUndone"
    assert [status for status, _ in said.values()] == ["failed", "failed"]
    assert "is not Online in Systems Manager and cannot be told to go back" in said[first][1]
    assert "its tag is off, so that nothing is brought to it again, but the host has not" in said[second][1]
    assert account.tags(first)["haltuun:logs"] and account.nodes[first].ran == calls
    assert account.tags(second)["haltuun:logs"] == f"leaving-{tag}"
    assert {s.status for s in undoing.steps if s.change.kind == "ssm.association"} == {"waits"}
    state.nodes[first].stuck = False
    account.nodes[second].ends.clear()
    account.nodes[second].ends["install"] = "Failed"
    plan = account.start(STAGE, mode="plan").plan
    (change,) = [c for c in plan.changes if c.kind == "logs.configure"] if plan else []
    assert (change.before, change.after) == ({"haltuun:logs": f"leaving-{tag}"}, {"haltuun:logs": tag})
    assert change.undo and change.undo.after == {"haltuun:logs": None}, "not to what was cut short"
    undoing = take_back(account.config(), account.ledger, taken.run.id, [STAGE])
    assert on_hosts(undoing) == {first: ("done", ""), second: ("failed", on_hosts(undoing)[second][1])}
    assert "could not be uninstalled: aws:configurePackage was told to fail" in on_hosts(undoing)[second][1]
    account.nodes[second].ends.clear()
    undoing = take_back(account.config(), account.ledger, taken.run.id, [STAGE])
    assert undoing.outcome() == "Undone" and on_hosts(undoing)[second] == ("done", "")
    assert trees(account) == hosts
    assert "haltuun:logs" not in account.tags(second)


def test_nothing_goes_back_while_something_is_being_brought(account: World, monkeypatch: Any) -> None:
    """By State Manager, or by a command that a run sent which was stopped then."""
    monkeypatch.setattr(BACK, "BUSY_S", 0.0)
    monkeypatch.setattr(BACK, "BACK_S", 90.0)
    first, second = account.facts
    taken, state = account.take(STAGE), ssm_state(ACCOUNT, REGION)
    ran_there = [e.invocations for a in state.associations.values() for e in a.executions]
    run = [invocations[first] for invocations in ran_there if first in invocations][-1]
    run.status = "InProgress"
    association = next(iter(state.associations.values()))
    respond = state.responder
    state.responder = lambda message, node_id: (
        None if message["DocumentName"] == association.name else respond(message, node_id)
    )
    sent = account.client("ssm").send_command(
        DocumentName=association.name,
        InstanceIds=[second],
        Parameters=association.parameters,
    )["Command"]["CommandId"]
    tags, ran = account.tags(second), account.nodes[second].ran[:]
    undoing = take_back(account.config(), account.ledger, taken.run.id, [STAGE])
    said = on_hosts(undoing)
    assert [status for status, _ in said.values()] == ["failed", "failed"]
    assert "State Manager is still at work on it ('InProgress')" in said[first][1]
    assert "a command that an earlier run sent to it is still at work on it" in said[second][1]
    assert (account.tags(second), account.nodes[second].ran) == (tags, ran)
    state.responder = respond
    run.status = state.commands[sent].invocations[second].status = "Success"
    undoing = take_back(account.config(), account.ledger, taken.run.id, [STAGE])
    assert undoing.outcome() == "Undone", on_hosts(undoing)


def test_a_host_that_logs_to_the_journal_alone_is_held_before_an_agent_is_installed(
    tmp_path: Any, monkeypatch: Any
) -> None:
    own = LogFile(path="/var/log/amazon/ssm/amazon-ssm-agent.log", service="amazon-ssm-agent")
    with world(tmp_path, monkeypatch, ubuntu(os_id="debian", log_files=(own,))) as account:
        takeover = account.take(STAGE)
        assert set(statuses(takeover).values()) == {("held", "LOGS_NOTHING_TO_SHIP")}
        (status,) = takeover.progress[StageName.logs].statuses.values()
        assert "rsyslog" in status.remedy
        assert takeover.plan is not None and takeover.plan.changes == ()
        account.facts.update(dict.fromkeys(account.facts, ubuntu()))  # rsyslog was installed
        assert set(statuses(account.take(STAGE)).values()) == {("passed", "")}


def test_windows_is_named_and_held(tmp_path: Any, monkeypatch: Any) -> None:
    with world(tmp_path, monkeypatch, ubuntu(platform="windows")) as account:
        takeover = account.take(STAGE)
        assert set(statuses(takeover).values()) == {("held", "LOGS_UNSUPPORTED")}
        assert takeover.plan is not None and takeover.plan.changes == ()


def test_a_host_that_nobody_looked_into_is_named_and_nothing_is_guessed(
    tmp_path: Any, monkeypatch: Any
) -> None:
    unseen = Unknown(unknown="PLAN_NEEDS_SSH: only Run Command reaches it")
    with world(tmp_path, monkeypatch, ubuntu(log_files=unseen, units=unseen, listeners=unseen)) as account:
        takeover = account.start(STAGE, mode="plan")
        assert takeover.plan is not None and takeover.plan.changes == ()
        assert [f.code for f in takeover.plan.findings if f.host].count("LOGS_NOT_PLANNED") == 1


@pytest.mark.parametrize(
    ("credentials", "beyond", "code"),
    [
        ("default host management", (), "LOGS_NO_ROLE"),
        ("instance role", ("logs:PutLogEvents (by a service control policy)",), "LOGS_DENIED"),
        ("instance role", ("s3:GetObject (by an explicit deny)",), None),
    ],
)
def test_no_agent_is_installed_where_its_calls_are_refused(
    account: World, credentials: Any, beyond: tuple[str, ...], code: str | None
) -> None:
    first, second = account.facts
    role = RoleFacts(role_name="web", beyond=beyond)
    verified = VerifyFacts(credentials=credentials, role_name="web", logs_allowed=False)
    takeover = account.start(STAGE, mode="plan")
    takeover.run.facts[StageName.verify] = {first: verified}
    takeover.run.account_facts[StageName.verify] = VerifyAccount(roles={"web": role})
    planned = takeover.plan_stage(StageName.logs)
    assert [(bar.host, bar.code) for bar in planned.barred] == ([(first, code)] if code else [])
    tagged = {change.target for change in planned.changes if change.target.startswith("i-")}
    assert tagged == ({second} if code else {first, second})
