"""What the stand-in agent logs and does when its role, network or configuration is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from haltuun.stages.repair.bundle import read_bundle
from haltuun.stages.repair.diagnose import diagnose
from haltuun.stages.repair.offline import read_agent
from tests.lab.agent_cloud import EC2_ID, PROFILE_KEY, REGION, Refused, wait_until
from tests.lab.agent_world import IMDS_ADDRESS, SERVICE_ADDRESS, World, make_certificate, unpack_agent

pytestmark = pytest.mark.lab

CONFIG = "/etc/amazon/ssm/amazon-ssm-agent.json"
SSM_URL = f"https://ssm.{REGION}.amazonaws.com/"
NOT_REGISTERED = (
    "ERROR [Registrar] failed to register identity: error calling RegisterManagedInstance API: "
    "RequestError: send request failed\ncaused by: Post "
)
NO_IMDS = (
    "EC2MetadataError: failed to get IMDSv2 token and fallback to IMDSv1 is disabled\n"
    "caused by: : \n\tstatus code: 0, request id: \n"
    "caused by: RequestError: send request failed\n"
    'caused by: Put "http://169.254.169.254/latest/api/token": '
)
NO_ANSWER = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)\n"
STARTING = "ERROR Error occurred when starting amazon-ssm-agent: "
GIVES_UP = f"{STARTING}failed to get identity: failed to find agent identity"


@pytest.fixture(scope="module")
def package_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_agent(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def world(tmp_path: Path, package_tree: Path, certificate: tuple[Path, Path]) -> Iterator[World]:
    made = World(tmp_path / "root", package_tree, certificate)
    yield made
    made.close()


def test_role_without_the_permission(world: World) -> None:
    world.cloud.denied = {"UpdateInstanceInformation"}
    world.start()
    world.wait_log("before retrying retrieve credentials")
    assert "Error: AccessDeniedException: User: arn:aws:sts::111122223333:assumed-role/" in world.log()
    assert "not authorized to perform: ssm:UpdateInstanceInformation" in world.log()
    assert "[minLog @ credentialrefresher.go.280] [CredentialRefresher] Retrieve" in world.log("errors.log")


def test_default_host_management_without_a_profile(world: World) -> None:
    world.cloud.has_role = False
    world.cloud.dhmc = True
    world.start()
    world.wait_online(EC2_ID)
    assert "EC2RoleProvider Successfully connected with SSM role credentials" in world.log()
    assert world.path("/var/lib/amazon/ssm/credentials").exists()


def test_throttling_skips_default_host_management(world: World) -> None:
    world.cloud.broken["UpdateInstanceInformation"] = Refused("ThrottlingException", "Rate exceeded")
    world.start()
    world.wait_log("Sleeping for 5m0s before retrying retrieve credentials")
    assert "Skipping default host management fallback: retrieved credentials failed to report" in world.log()
    assert "Error: ThrottlingException: Rate exceeded\n" in world.log()
    assert world.cloud.called("RequestManagedInstanceRoleToken") == 0
    world.cloud.broken.clear()
    world.wait_online(EC2_ID)


def test_hibernates_when_the_first_ping_is_denied(world: World) -> None:
    world.start()
    world.wait_online(EC2_ID)
    world.stop()
    world.cloud.denied = {"UpdateInstanceInformation"}
    world.start()
    world.wait_log("INFO [ssm-agent-worker] Entering SSM Agent hibernate - AccessDeniedException: User:")
    wait_until(
        lambda: "INFO Agent is in hibernate mode. Reducing logging." in world.log("hibernate.log"),
        "its own log",
    )
    assert "hibernate" not in world.log("errors.log")
    world.cloud.denied = set()
    world.wait_online(EC2_ID, count=2)


def test_blocked_egress_times_out(world: World) -> None:
    world.close_address(SERVICE_ADDRESS)
    world.start()
    world.wait_log(f'{NOT_REGISTERED}"{SSM_URL}": dial tcp {SERVICE_ADDRESS}:443: i/o timeout\n')
    world.wait_log(
        "retrieved credentials failed to report to ssm. Error: RequestError: send request failed\n"
    )


def test_name_lookup_refused(world: World) -> None:
    world.write("/etc/hosts", "127.0.0.1 localhost\n")
    world.start()
    world.wait_log(
        f'{NOT_REGISTERED}"{SSM_URL}": dial tcp: lookup ssm.{REGION}.amazonaws.com on 127.0.0.53:53: '
    )
    assert "127.0.0.53:53: read: connection refused\n" in world.log()


def test_unknown_authority(world: World) -> None:
    world.write("/etc/ssl/certs/ca-certificates.crt", "")
    world.start()
    reason = "tls: failed to verify certificate: x509: certificate signed by unknown authority\n"
    world.wait_log(f'{NOT_REGISTERED}"{SSM_URL}": {reason}')


def test_endpoint_override_refuses(world: World) -> None:
    world.write(CONFIG, '{"Ssm": {"Endpoint": "127.0.0.9"}}')
    world.start()
    refused = 'Post "https://127.0.0.9/": dial tcp 127.0.0.9:443: connect: connection refused\n'
    world.wait_log(f"caused by: {refused}")


def test_imds_gone_ends_the_core(world: World) -> None:
    world.close_address(IMDS_ADDRESS)
    process = world.start()
    assert process.wait(20) == 1
    assert f"{NO_IMDS}{NO_ANSWER}" in world.log()
    assert world.log().count("ERROR Agent failed to assume any identity") == 3
    assert GIVES_UP in world.log()
    assert "[run @ agent.go.153] Error occurred" in world.log("errors.log")


def test_an_agent_that_knows_no_tokens_is_refused_by_metadata_that_want_one(world: World) -> None:
    version = "/usr/lib/amazon-ssm-agent/standin/ssm/version.py"
    world.write(version, world.path(version).read_text().replace('"3.3.1142.0"', '"2.3.50.0"'))
    assert world.start().wait(20) == 1
    assert "Data from vault is empty. EC2MetadataError: failed to make EC2Metadata request" in world.log()
    found = diagnose(read_agent(read_bundle(world.path("/var/log/amazon/ssm/amazon-ssm-agent.log"))))
    assert [cause.code for cause in found.causes] == ["IMDS_TOKENS_REQUIRED"]


def test_proxy_without_no_proxy_looks_the_same(world: World) -> None:
    world.environment = {"http_proxy": "http://192.168.50.1:3128", "https_proxy": "http://192.168.50.1:3128"}
    process = world.start()
    assert process.wait(20) == 1
    assert "INFO http_proxy: http://192.168.50.1:3128\n" in world.log()
    assert f"{NO_IMDS}{NO_ANSWER}" in world.log()


def test_proxy_with_no_proxy_reaches_imds_only(world: World) -> None:
    world.environment = {"https_proxy": "http://192.168.50.1:3128", "no_proxy": IMDS_ADDRESS}
    world.start()
    world.wait_log("proxyconnect tcp: dial tcp 192.168.50.1:3128: i/o timeout")
    assert "Agent will take identity from EC2" in world.log()


def test_broken_configuration(world: World) -> None:
    world.write(CONFIG, "{\n")
    assert world.start().wait(20) == 1
    assert "app config could not be loaded - unexpected end of JSON input\n" in world.log()


def test_order_with_onprem_only_finds_nothing(world: World) -> None:
    world.write(CONFIG, '{"Identity": {"ConsumptionOrder": ["OnPrem"]}}')
    assert world.start().wait(20) == 1
    assert GIVES_UP in world.log()
    assert "identity type EC2" not in world.log()


def test_custom_identity(world: World) -> None:
    identity = '{"InstanceID": "i-0feedfacefeedface", "Region": "us-east-1"}'
    order = '"ConsumptionOrder": ["CustomIdentity"]'
    world.write(CONFIG, f'{{"Identity": {{{order}, "CustomIdentities": [{identity}]}}}}')
    world.start()
    world.wait_log("Agent will take identity from CustomIdentity")
    wait_until(lambda: world.cloud.called("UpdateInstanceInformation", "i-0feedfacefeedface") > 0, "its ping")


def test_region_pin_decides_where_it_calls(world: World) -> None:
    world.write(CONFIG, '{"Agent": {"Region": "eu-west-9"}}')
    world.start()
    world.wait_log("lookup ssm.eu-west-9.amazonaws.com")


def test_messages_denied_leaves_ec2messages(world: World) -> None:
    world.cloud.broken["CreateControlChannel"] = Refused("AccessDeniedException", "not authorized")
    world.start()
    world.wait_log("SSM Connection channel status is set to ec2messages")
    assert "unexpected response from the service <AccessDeniedException>" in world.log()
    reply = world.cloud.send_command("AWS-RunShellScript", {"commands": ["echo by the other way"]})
    assert reply["StandardOutput"] == "by the other way\n"
    assert world.cloud.called("GetMessages", EC2_ID) > 0
    assert ("UpdateInstanceInformation", EC2_ID, PROFILE_KEY) in world.cloud.calls
