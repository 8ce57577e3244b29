"""Run Command and State Manager: documents that really travel to a machine and back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from websockets.exceptions import ConnectionClosed

from lab.cloud import messages
from lab.cloud.seed import seed
from lab.scenario import Scenario
from tests.lab.cloud_kit import (
    Account,
    Machine,
    emulated_account,
    reply_payload,
    small_scenario,
    token_in,
    until,
)

pytestmark = pytest.mark.slow

ROLE = "arn:aws:iam::111122223333:role/acme-ec2-managed"


@pytest.fixture
def account() -> Iterator[Account]:
    with emulated_account() as found:
        yield found


@pytest.fixture
def demo(account: Account) -> Scenario:
    scenario = small_scenario()
    seed(account.endpoint_url, scenario)
    return scenario


@pytest.fixture
def web(account: Account, demo: Scenario) -> Machine:
    machine = account.machine(demo.host("web-01").instance_id, ROLE)
    machine.ping()
    return machine


def run(account: Account, *ids: str, **more: Any) -> str:
    asked = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["echo hello"]}} | more
    return str(account.client("ssm").send_command(InstanceIds=list(ids), **asked)["Command"]["CommandId"])


def test_a_command_is_delivered_and_its_output_read(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    command = run(account, web.node_id)
    asked = {"CommandId": command, "InstanceId": web.node_id}
    assert ssm.get_command_invocation(**asked)["Status"] == "Pending"
    message = web.poll()[0]
    assert (message["CommandId"], message["DocumentName"]) == (command, "AWS-RunShellScript")
    assert message["Parameters"] == {"commands": ["echo hello"]}
    assert "aws:runShellScript" in message["DocumentContent"]["runtimeConfig"]
    assert ssm.get_command_invocation(**asked)["Status"] == "InProgress"
    web.reply(command, output="hello\n")
    found = ssm.get_command_invocation(**asked)
    assert (found["Status"], found["StandardOutputContent"], found["ResponseCode"]) == (
        "Success",
        "hello\n",
        0,
    )
    listed = ssm.list_command_invocations(CommandId=command, Details=True)["CommandInvocations"]
    assert listed[0]["CommandPlugins"][0]["Output"] == "hello\n"
    assert ssm.list_commands(CommandId=command)["Commands"][0]["Status"] == "Success"


def test_long_output_is_cut_as_the_reference_says(account: Account, web: Machine) -> None:
    command = run(account, web.node_id)
    web.serve_once(output="x" * 30_000)
    found = account.client("ssm").get_command_invocation(CommandId=command, InstanceId=web.node_id)
    assert len(found["StandardOutputContent"]) == 24_000


def test_more_than_fifty_ids_are_throttled(account: Account, web: Machine) -> None:
    with pytest.raises(ClientError, match="ThrottlingException"):
        run(account, *[f"i-{number:017x}" for number in range(51)])


def test_an_instance_that_is_no_node_is_refused(account: Account, demo: Scenario, web: Machine) -> None:
    with pytest.raises(ClientError, match="not in a valid state for account 111122223333"):
        run(account, web.node_id, demo.host("blog-01").instance_id)


def test_an_unknown_document_is_refused(account: Account, web: Machine) -> None:
    with pytest.raises(ClientError, match="InvalidDocument"):
        run(account, web.node_id, DocumentName="AWS-RunNothing")


def test_what_is_not_delivered_can_be_cancelled_and_times_out(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    cancelled, late = run(account, web.node_id), run(account, web.node_id, TimeoutSeconds=60)
    ssm.cancel_command(CommandId=cancelled)
    account.steer("clock", offset_s=120)
    try:
        found = ssm.get_command_invocation(CommandId=late, InstanceId=web.node_id)
        assert (found["Status"], found["StatusDetails"]) == ("TimedOut", "DeliveryTimedOut")
        assert web.poll(0) == []
    finally:
        account.steer("clock", offset_s=0)
    found = ssm.get_command_invocation(CommandId=cancelled, InstanceId=web.node_id)
    assert found["Status"] == "Cancelled"


def test_ec2messages_carries_commands_too(account: Account, web: Machine) -> None:
    command = run(account, web.node_id)

    def ask(operation: str, **body: Any) -> dict[str, Any]:
        status, found = web.ask(
            "ec2messages", body=body, target=f"EC2WindowsMessageDeliveryService.{operation}"
        )
        assert status == 200
        return found

    found = ask("GetMessages", Destination=web.node_id, MessagesRequestId="1" * 16)
    message = found["Messages"][0]
    assert found["Destination"] == message["Destination"] == web.node_id
    assert message["MessageId"] == f"aws.ssm.{command}.{web.node_id}"
    assert message["Topic"].startswith("aws.ssm.sendCommand.")
    assert json.loads(message["Payload"])["CommandId"] == command
    ask("AcknowledgeMessage", MessageId=message["MessageId"])
    payload = json.dumps(reply_payload("Failed", error="no", code=3))
    ask("SendReply", MessageId=message["MessageId"], Payload=payload, ReplyId="2" * 16)
    found = account.client("ssm").get_command_invocation(CommandId=command, InstanceId=web.node_id)
    assert (found["Status"], found["ResponseCode"], found["StandardErrorContent"]) == ("Failed", 3, "no")


def test_what_an_agent_cannot_read_it_fails(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    by_channel, by_poll = run(account, web.node_id), run(account, web.node_id)
    with web.channel() as channel:
        channel.command(status="51406")
        asked = {"CommandId": by_channel, "InstanceId": web.node_id}
        until(lambda: ssm.get_command_invocation(**asked)["Status"] == "Failed")
        assert ssm.get_command_invocation(**asked)["StandardErrorContent"] == "InvalidDocument"
    body = {"MessageId": f"aws.ssm.{by_poll}.{web.node_id}", "FailureType": "InternalHandlerException"}
    web.poll()
    web.ask("ec2messages", body=body, target="EC2WindowsMessageDeliveryService.FailMessage")
    assert ssm.get_command_invocation(CommandId=by_poll, InstanceId=web.node_id)["Status"] == "Failed"


def test_what_an_agent_did_not_acknowledge_comes_again(account: Account, web: Machine) -> None:
    command = run(account, web.node_id)
    with web.channel() as channel:
        job = channel.receive()
        assert job is not None and job.content()["JobId"] == f"aws.ssm.{command}.{web.node_id}"
    assert web.serve_once(output="here")["CommandId"] == command


def test_a_channel_opens_with_a_token_of_its_own_once(account: Account, web: Machine) -> None:
    token = token_in(web.create_channel()[1])
    with web.channel(token) as channel:
        assert channel.receive(0.2) is None
    for wrong in (token, "forged"):
        with web.channel(wrong) as channel, pytest.raises(ConnectionClosed):
            channel.receive()


def test_a_channel_ends_when_its_permission_does(
    account: Account, web: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "LOOK_S", 0.1)
    with web.channel() as channel:
        assert channel.receive(0.3) is None
        deny = (
            '{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"ssmmessages:*","Resource":"*"}}'
        )
        account.client("iam").put_role_policy(
            RoleName="acme-ec2-managed", PolicyName="no-messages", PolicyDocument=deny
        )
        with pytest.raises(ConnectionClosed):
            channel.receive()


def test_targets_by_tag_reach_the_nodes_that_carry_it(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    command = ssm.send_command(
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ["true"]},
        Targets=[{"Key": "tag:Environment", "Values": ["production"]}],
    )["Command"]
    assert command["TargetCount"] == 1
    assert web.serve_once()["CommandId"] == command["CommandId"]


def associate(account: Account, **more: Any) -> str:
    asked = {
        "Name": "AWS-RunPatchBaseline",
        "AssociationName": "scan",
        "Parameters": {"Operation": ["Scan"]},
        "Targets": [{"Key": "tag:haltuun:managed", "Values": ["yes"]}],
        "ScheduleExpression": "rate(1 day)",
    } | more
    made = account.client("ssm").create_association(**asked)
    return str(made["AssociationDescription"]["AssociationId"])


def test_an_association_runs_on_targets_that_appear_later(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    association = associate(account)
    assert ssm.describe_association_executions(AssociationId=association)["AssociationExecutions"] == []
    account.client("ec2").create_tags(
        Resources=[web.node_id], Tags=[{"Key": "haltuun:managed", "Value": "yes"}]
    )
    message = web.serve_once()
    assert message["DocumentName"] == "AWS-RunPatchBaseline"
    found = ssm.describe_association(AssociationId=association)["AssociationDescription"]
    assert found["Overview"]["AssociationStatusAggregatedCount"] == {"Success": 1}
    execution = ssm.describe_association_executions(AssociationId=association)["AssociationExecutions"][0]
    targets = ssm.describe_association_execution_targets(
        AssociationId=association, ExecutionId=execution["ExecutionId"]
    )["AssociationExecutionTargets"]
    assert [(row["ResourceId"], row["Status"]) for row in targets] == [(web.node_id, "Success")]
    status = ssm.describe_instance_associations_status(InstanceId=web.node_id)
    assert status["InstanceAssociationStatusInfos"][0]["Status"] == "Success"


def test_it_runs_again_when_told_when_changed_and_when_due(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    association = associate(account, Targets=[{"Key": "InstanceIds", "Values": [web.node_id]}])
    web.serve_once()
    ssm.start_associations_once(AssociationIds=[association])
    web.serve_once()
    ssm.update_association(
        AssociationId=association,
        Parameters={"Operation": ["Install"]},
        Targets=[{"Key": "InstanceIds", "Values": [web.node_id]}],
        ScheduleExpression="rate(1 day)",
    )
    assert web.serve_once()["Parameters"] == {"Operation": "Install"}
    assert web.poll(2.0) == []
    account.steer("clock", offset_s=90_000)
    try:
        assert web.serve_once()["Parameters"] == {"Operation": "Install"}
    finally:
        account.steer("clock", offset_s=0)


def test_associations_are_listed_filtered_and_deleted(account: Account, web: Machine) -> None:
    ssm = account.client("ssm")
    association = associate(account)
    asked = [{"key": "AssociationName", "value": "scan"}]
    listed = ssm.list_associations(AssociationFilterList=asked)["Associations"]
    assert [row["AssociationId"] for row in listed] == [association]
    asked = [{"key": "AssociationName", "value": "other"}]
    assert ssm.list_associations(AssociationFilterList=asked)["Associations"] == []
    with pytest.raises(ClientError, match="AssociationAlreadyExists"):
        associate(account)
    ssm.delete_association(AssociationId=association)
    with pytest.raises(ClientError, match="AssociationDoesNotExist"):
        ssm.describe_association(AssociationId=association)


def test_a_poll_waits_for_its_message(account: Account, web: Machine) -> None:
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(web.serve_once(output="late")))
    thread.start()
    ssm = account.client("ssm")
    until(lambda: ssm.get_connection_status(Target=web.node_id)["Status"] == "connected")
    command = run(account, web.node_id)
    thread.join()
    assert taken[0]["CommandId"] == command
