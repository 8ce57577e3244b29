"""Managed nodes, the agents' own calls, and who may make them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from lab.cloud.seed import seed
from lab.scenario import Scenario
from tests.lab.cloud_kit import REGION, Account, emulated_account, small_scenario, until

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


def node_ids(account: Account, **asked: object) -> list[str]:
    pages = account.client("ssm").get_paginator("describe_instance_information").paginate(**asked)
    return [row["InstanceId"] for page in pages for row in page["InstanceInformationList"]]


def test_a_ping_makes_an_instance_a_managed_node(account: Account, demo: Scenario) -> None:
    web = demo.host("web-01").instance_id
    assert web not in node_ids(account)
    assert account.machine(web, ROLE).ping(ComputerName="web-01") == (200, {})
    found = account.client("ssm").describe_instance_information(
        Filters=[{"Key": "InstanceIds", "Values": [web]}, {"Key": "PingStatus", "Values": ["Online"]}]
    )["InstanceInformationList"]
    assert [(row["ComputerName"], row["ResourceType"]) for row in found] == [("web-01", "EC2Instance")]


def test_hybrid_nodes_carry_their_registration(account: Account, demo: Scenario) -> None:
    clone = demo.host("web-02")
    rows = account.client("ssm").describe_instance_information(
        Filters=[{"Key": "ResourceType", "Values": ["ManagedInstance"]}]
    )["InstanceInformationList"]
    mine = next(row for row in rows if row["InstanceId"] == clone.mi_id)
    assert mine["IamRole"] == "acme-hybrid-service-role"
    assert mine["PingStatus"] == "ConnectionLost"
    assert mine["RegistrationDate"] < clone.launched


def test_an_id_that_the_account_does_not_own_is_an_error(account: Account, demo: Scenario) -> None:
    with pytest.raises(ClientError, match="InvalidInstanceId"):
        node_ids(account, Filters=[{"Key": "InstanceIds", "Values": ["i-0aaaaaaaaaaaaaaaa"]}])
    unmanaged = demo.host("blog-01").instance_id
    assert node_ids(account, Filters=[{"Key": "InstanceIds", "Values": [unmanaged]}]) == []


def test_pages_hold_what_was_asked_for(account: Account, demo: Scenario) -> None:
    for number in range(12):
        account.steer("node", region=REGION, id=f"mi-{number:017x}", simulated=True)
    ssm = account.client("ssm")
    page = ssm.describe_instance_information(MaxResults=5)
    assert len(page["InstanceInformationList"]) == 5
    assert page["NextToken"]
    assert len(node_ids(account, PaginationConfig={"PageSize": 5})) == len(set(node_ids(account)))
    with pytest.raises(ClientError, match="InvalidNextToken"):
        ssm.describe_instance_information(NextToken="nonsense")


def test_a_stopped_instance_is_not_listed(account: Account, demo: Scenario) -> None:
    web = demo.host("web-01").instance_id
    account.machine(web, ROLE).ping()
    assert web in node_ids(account)
    account.client("ec2").stop_instances(InstanceIds=[web])
    assert web not in node_ids(account)


def test_a_role_without_permission_is_refused_until_it_has_it(account: Account, demo: Scenario) -> None:
    web = demo.host("web-01").instance_id
    iam = account.client("iam")
    arn = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
    iam.detach_role_policy(RoleName="acme-ec2-managed", PolicyArn=arn)
    machine = account.machine(web, ROLE)
    status, error = machine.ping()
    assert (status, error["__type"]) == (400, "AccessDeniedException")
    assert "is not authorized to perform: ssm:UpdateInstanceInformation" in error["message"]
    iam.attach_role_policy(RoleName="acme-ec2-managed", PolicyArn=arn)
    assert machine.ping()[0] == 200


def test_a_boundary_takes_away_what_the_policy_gives(account: Account, demo: Scenario) -> None:
    web = demo.host("web-01").instance_id
    account.client("iam").put_role_permissions_boundary(
        RoleName="acme-ec2-managed", PermissionsBoundary="arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
    )
    status, error = account.machine(web, ROLE).ping()
    assert status == 400
    assert "no permissions boundary allows" in error["message"]


def test_the_identity_role_may_register_and_nothing_else(account: Account, demo: Scenario) -> None:
    web = demo.host("web-01").instance_id
    machine = account.machine(web)
    asked = {"Fingerprint": web, "PublicKey": "k", "PublicKeyType": "Rsa"}
    assert machine.ssm("RegisterManagedInstance", **asked) == (200, {"InstanceId": web})
    assert machine.ping()[1]["__type"] == "AccessDeniedException"


def test_a_machine_speaks_only_for_itself(account: Account, demo: Scenario) -> None:
    machine = account.machine(demo.host("web-01").instance_id, ROLE)
    machine.node_id = demo.host("web-02").instance_id
    assert machine.ping()[1]["__type"] == "AccessDeniedException"


def test_unknown_credentials_make_no_node(account: Account, demo: Scenario) -> None:
    machine = account.machine(demo.host("web-01").instance_id, ROLE)
    machine.access_key = "ASIAUNKNOWN000000000"
    assert machine.ping()[1]["__type"] == "UnrecognizedClientException"


def test_a_wrong_clock_is_refused_with_the_words_of_aws(account: Account, demo: Scenario) -> None:
    machine = account.machine(demo.host("web-01").instance_id, ROLE)
    status, error = machine.ssm("UpdateInstanceInformation", skew_s=-900, InstanceId=machine.node_id)
    assert (status, error["__type"]) == (400, "InvalidSignatureException")
    assert error["message"].startswith("Signature expired: ")


def test_a_baked_in_registration_authenticates_by_its_fingerprint(account: Account, demo: Scenario) -> None:
    clone = demo.host("web-02")
    machine = account.machine(clone.mi_id)
    machine.access_key = clone.mi_id
    status, found = machine.ssm("RequestManagedInstanceRoleToken", Fingerprint=clone.fingerprint)
    assert status == 200
    machine.access_key = found["AccessKeyId"]
    assert machine.ping()[0] == 200
    assert clone.mi_id in node_ids(account, Filters=[{"Key": "PingStatus", "Values": ["Online"]}])
    status, error = machine.ssm("RequestManagedInstanceRoleToken", Fingerprint="another")
    assert error == {"__type": "MachineFingerprintDoesNotMatch", "message": ""}


def test_a_deregistered_node_no_longer_exists(account: Account, demo: Scenario) -> None:
    clone, ssm = demo.host("web-02"), account.client("ssm")
    ssm.deregister_managed_instance(InstanceId=clone.mi_id)
    machine = account.machine(clone.mi_id)
    _status, error = machine.ssm("RequestManagedInstanceRoleToken", Fingerprint=clone.fingerprint)
    assert error["Message"] == f"Not existing InstanceId {clone.mi_id}"
    with pytest.raises(ClientError, match="InvalidInstanceId"):
        ssm.deregister_managed_instance(InstanceId=clone.mi_id)


def test_default_host_management_needs_its_setting(account: Account, demo: Scenario) -> None:
    machine = account.machine(demo.host("batch-01").instance_id)
    _status, error = machine.ssm("RequestManagedInstanceRoleToken", Fingerprint="x")
    assert error["Message"].endswith("instance management role is not configured for account: 111122223333")
    setting = "/ssm/managed-instance/default-ec2-instance-management-role"
    ssm = account.client("ssm")
    assert ssm.get_service_setting(SettingId=setting)["ServiceSetting"]["Status"] == "Default"
    ssm.update_service_setting(SettingId=setting, SettingValue="acme-hybrid-service-role")
    assert machine.ssm("RequestManagedInstanceRoleToken", Fingerprint="x")[0] == 200
    assert ssm.reset_service_setting(SettingId=setting)["ServiceSetting"]["SettingValue"] == "$None"


def test_a_stuck_node_pings_and_stays_lost(account: Account, demo: Scenario) -> None:
    web = demo.host("web-01").instance_id
    account.machine(web, ROLE).ping()
    account.steer("node", region=REGION, id=web, stuck=True)
    assert web in node_ids(account, Filters=[{"Key": "PingStatus", "Values": ["ConnectionLost"]}])
    account.steer("node", region=REGION, id=web, stuck=False)
    assert web in node_ids(account, Filters=[{"Key": "PingStatus", "Values": ["Online"]}])


def test_the_channel_needs_its_permission_and_shows_in_the_connection_status(
    account: Account, demo: Scenario
) -> None:
    web = demo.host("web-01").instance_id
    machine = account.machine(web, ROLE)
    machine.ping()
    ssm = account.client("ssm")
    with machine.channel():
        until(lambda: ssm.get_connection_status(Target=web)["Status"] == "connected")
    until(lambda: ssm.get_connection_status(Target=web)["Status"] == "notconnected")
    allow = '{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"ssmmessages:*","Resource":"*"}}'
    account.client("iam").put_role_policy(
        RoleName="acme-ec2-managed", PolicyName="no-messages", PolicyDocument=allow
    )
    status, error = machine.create_channel()
    assert status == 400
    assert error["text"].startswith("<AccessDeniedException>\n  <Message>User: arn:aws:sts::")
    assert "explicit deny" in error["text"]


def test_activations_are_listed_without_their_code(account: Account) -> None:
    ssm = account.client("ssm")
    made = ssm.create_activation(IamRole="acme", DefaultInstanceName="branch", RegistrationLimit=2)
    listed = ssm.describe_activations()["ActivationList"]
    assert [row["ActivationId"] for row in listed] == [made["ActivationId"]]
    assert "ActivationCode" not in listed[0]
    account.steer("clock", offset_s=86400 * 2)
    try:
        assert ssm.describe_activations()["ActivationList"][0]["Expired"]
    finally:
        account.steer("clock", offset_s=0)
