"""Metadata, names and TLS as one host finds them; here on loopback instead of in a namespace."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.cloud.accountview import FRESH_FOR_S
from lab.cloud.addresses import SERVICE_ADDRESSES
from lab.cloud.ca import CaFiles, ensure_ca
from lab.cloud.hostservices import HostServices
from lab.cloud.seed import seed
from lab.scenario import Scenario
from tests.lab.cloud_kit import (
    REGION,
    Account,
    emulated_account,
    open_channel,
    small_scenario,
    token_in,
    until,
)

pytestmark = pytest.mark.slow

TOKEN = "X-aws-ec2-metadata-token"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CaFiles:
    return ensure_ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with emulated_account() as found:
        yield found


@pytest.fixture(scope="module")
def scenario(account: Account) -> Scenario:
    found = small_scenario()
    seed(account.endpoint_url, found)
    return found


@dataclass
class Inside:
    """What a program on the host would do."""

    services: HostServices
    ca: CaFiles
    changes: list[tuple[str, bool]] = field(default_factory=list)

    def metadata(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self.services.bound["imds"], timeout=10)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, f"/latest/{path}", headers=named)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def token(self) -> str:
        status, text = self.metadata("api/token", "PUT", **{TTL: "60"})
        assert status == 200
        return text

    def read(self, path: str) -> tuple[int, str]:
        return self.metadata(path, **{TOKEN: self.token()})

    def resolve(self, name: str) -> tuple[int, str | None]:
        question = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
        message = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + question + b"\0" + struct.pack(">HH", 1, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(2)
            sender.sendto(message, self.services.bound["dns"])
            answer = sender.recv(512)
        assert answer[:2] == message[:2]
        return answer[3] & 15, socket.inet_ntoa(answer[-4:]) if answer[7] else None

    def tls(self, service: str, timeout_s: float = 15.0) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.ca.authority))
        plain = socket.create_connection(self.services.bound[service], timeout=timeout_s)
        return context.wrap_socket(plain, server_hostname=f"{service}.{REGION}.amazonaws.com")

    def call(self, service: str, path: str, key: str, body: Any = None, target: str = "") -> tuple[int, Any]:
        connection = http.client.HTTPConnection(f"{service}.{REGION}.amazonaws.com")
        connection.sock = self.tls(service)
        scope = f"{key}/20260101/{REGION}/{service}/aws4_request"
        headers = {
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=lab",
            "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
        }
        if target:
            headers |= {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
        try:
            connection.request(
                "GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers
            )
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, text.decode() if text[:1] == b"<" else json.loads(text or "null")
        finally:
            connection.close()


def services_of(account: Account, instance_id: str, ca: CaFiles) -> Iterator[Inside]:
    changes: list[tuple[str, bool]] = []
    services = HostServices(
        netns_socket=socket.socket,
        instance_id=instance_id,
        region=REGION,
        endpoint_url=account.endpoint_url,
        ca_dir=ca.authority.parent,
        on_reach_change=lambda name, is_open: changes.append((name, is_open)),
        addresses={name: ("127.0.0.1", 0) for name in SERVICE_ADDRESSES},
    )
    services.start()
    try:
        yield Inside(services, ca, changes)
    finally:
        services.stop()


@pytest.fixture
def web(account: Account, scenario: Scenario, ca: CaFiles) -> Iterator[Inside]:
    yield from services_of(account, scenario.host("web-01").instance_id, ca)


@pytest.fixture
def roleless(account: Account, scenario: Scenario, ca: CaFiles) -> Iterator[Inside]:
    yield from services_of(account, scenario.host("batch-01").instance_id, ca)


def test_the_metadata_is_this_hosts_own(web: Inside, scenario: Scenario) -> None:
    host = scenario.host("web-01")
    assert web.read("meta-data/instance-id") == (200, host.instance_id)
    assert web.read("meta-data/placement/region") == (200, REGION)
    assert web.read("meta-data/local-ipv4") == (200, host.private_ip)
    document = json.loads(web.read("dynamic/instance-identity/document")[1])
    assert (document["accountId"], document["instanceId"]) == ("111122223333", host.instance_id)
    assert web.read("meta-data/placement/") == (200, "availability-zone\navailability-zone-id\nregion")
    assert web.read("meta-data/placement/availability-zone-id")[1].startswith("euc1-az")
    assert web.read("meta-data/nonsense")[0] == 404
    assert "dynamic/" in web.read("")[1]


def test_version_1_answers_unless_tokens_are_required(
    account: Account, web: Inside, scenario: Scenario
) -> None:
    assert web.metadata("meta-data/instance-id")[0] == 200
    assert web.metadata("meta-data/instance-id", **{TOKEN: "forged"})[0] == 401
    account.client("ec2").modify_instance_metadata_options(
        InstanceId=scenario.host("web-01").instance_id, HttpTokens="required"
    )
    until(lambda: web.metadata("meta-data/instance-id")[0] == 401)
    assert web.read("meta-data/instance-id")[0] == 200
    account.client("ec2").modify_instance_metadata_options(
        InstanceId=scenario.host("web-01").instance_id, HttpTokens="optional"
    )


def test_a_token_wants_a_lifetime_and_no_proxy(web: Inside) -> None:
    assert web.metadata("api/token", "PUT")[0] == 400
    assert web.metadata("api/token", "PUT", **{TTL: "21601"})[0] == 400
    assert web.metadata("api/token", "PUT", **{TTL: "60", "X-Forwarded-For": "10.0.0.1"})[0] == 403


def test_the_endpoint_can_be_disabled(account: Account, web: Inside, scenario: Scenario) -> None:
    account.client("ec2").modify_instance_metadata_options(
        InstanceId=scenario.host("web-01").instance_id, HttpEndpoint="disabled"
    )
    until(lambda: web.metadata("meta-data/instance-id")[0] == 403)
    account.client("ec2").modify_instance_metadata_options(
        InstanceId=scenario.host("web-01").instance_id, HttpEndpoint="enabled"
    )
    until(lambda: web.metadata("meta-data/instance-id")[0] == 200)


def test_credentials_are_the_roles_as_long_as_there_is_one(
    account: Account, roleless: Inside, scenario: Scenario
) -> None:
    listing = "meta-data/iam/security-credentials/"
    assert roleless.read(listing)[0] == 404
    assert roleless.read("meta-data/iam/info")[0] == 404
    ec2 = account.client("ec2")
    made = ec2.associate_iam_instance_profile(
        IamInstanceProfile={"Name": "acme-ec2-managed"}, InstanceId=scenario.host("batch-01").instance_id
    )
    until(lambda: roleless.read(listing) == (200, "acme-ec2-managed"))
    found = json.loads(roleless.read(f"{listing}acme-ec2-managed")[1])
    assert found["Code"] == "Success"
    again = json.loads(roleless.read(f"{listing}acme-ec2-managed")[1])
    assert again["AccessKeyId"] == found["AccessKeyId"]
    assert roleless.read(f"{listing}another")[0] == 404
    association = made["IamInstanceProfileAssociation"]["AssociationId"]
    ec2.disassociate_iam_instance_profile(AssociationId=association)
    until(lambda: roleless.read(listing)[0] == 404)


def test_the_identity_role_is_there_without_a_profile(roleless: Inside, scenario: Scenario) -> None:
    path = "meta-data/identity-credentials/ec2/security-credentials/ec2-instance"
    key = json.loads(roleless.read(path)[1])["AccessKeyId"]
    asked = {"Fingerprint": scenario.host("batch-01").instance_id, "PublicKey": "k", "PublicKeyType": "Rsa"}
    status, found = roleless.call("ssm", "/", key, asked, "AmazonSSM.RegisterManagedInstance")
    assert (status, found) == (200, {"InstanceId": asked["Fingerprint"]})


@pytest.mark.parametrize(
    ("name", "service"),
    [
        (f"ssm.{REGION}.amazonaws.com", "ssm"),
        (f"SSMMESSAGES.{REGION}.amazonaws.com", "ssmmessages"),
        ("ssm.us-east-1.amazonaws.com", "ssm"),
        (f"bucket.s3.{REGION}.amazonaws.com", "s3"),
        ("sts.amazonaws.com", "sts"),
        (f"x.ssm.{REGION}.amazonaws.com", None),
        (f"dynamodb.{REGION}.amazonaws.com", None),
        ("example.org", None),
    ],
)
def test_names_of_the_labs_services_and_no_others(web: Inside, name: str, service: str | None) -> None:
    code, address = web.resolve(name)
    assert (code, address) == ((0, "127.0.0.1") if service else (3, None))


def test_private_host_names_resolve(web: Inside) -> None:
    assert web.resolve(f"ip-10-20-0-10.{REGION}.compute.internal") == (0, "10.20.0.10")


def test_the_front_hands_a_call_to_the_account(web: Inside) -> None:
    key = json.loads(web.read("meta-data/iam/security-credentials/acme-ec2-managed")[1])["AccessKeyId"]
    me = web.read("meta-data/instance-id")[1]
    asked = {"InstanceId": me, "AgentVersion": "3.3.1142.0"}
    assert web.call("ssm", "/", key, asked, "AmazonSSM.UpdateInstanceInformation") == (200, {})


def test_a_control_channel_streams_through_the_front(account: Account, web: Inside) -> None:
    key = json.loads(web.read("meta-data/iam/security-credentials/acme-ec2-managed")[1])["AccessKeyId"]
    me = web.read("meta-data/instance-id")[1]
    web.call("ssm", "/", key, {"InstanceId": me}, "AmazonSSM.UpdateInstanceInformation")
    status, text = web.call("ssmmessages", f"/v1/control-channel/{me}", key, {"RequestId": "1"})
    assert status == 201
    plain = socket.create_connection(web.services.bound["ssmmessages"])
    trust = ssl.create_default_context(cafile=str(web.ca.authority))
    with open_channel(me, key, token_in({"text": text}), plain, trust) as channel:
        ssm = account.client("ssm")
        until(lambda: ssm.get_connection_status(Target=me)["Status"] == "connected")
        made = ssm.send_command(
            InstanceIds=[me], DocumentName="AWS-RunShellScript", Parameters={"commands": ["true"]}
        )
        command = channel.command()
        assert command is not None and command["CommandId"] == made["Command"]["CommandId"]
        web.services.set_fault("egress_closed", True)
        until(lambda: ssm.get_connection_status(Target=me)["Status"] == "notconnected")
        web.services.set_fault("egress_closed", False)


def test_what_the_account_closes_is_closed_within_a_tick(
    account: Account, web: Inside, scenario: Scenario
) -> None:
    assert dict(web.changes) == dict.fromkeys(SERVICE_ADDRESSES, True)
    web.changes.clear()
    ec2 = account.client("ec2")
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["acme-open"]}])
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    open_connection = web.tls("logs")
    ec2.revoke_security_group_egress(GroupId=groups["SecurityGroups"][0]["GroupId"], IpPermissions=everything)

    def closed() -> bool:
        web.services.tick()
        return dict(web.changes).get("ssm") is False

    until(closed, timeout_s=10 * FRESH_FOR_S)
    changed = {name for name, is_open in web.changes if not is_open}
    assert changed == set(SERVICE_ADDRESSES) - {"imds", "dns"}
    assert open_connection.recv(1) == b""
    open_connection.close()
    with pytest.raises(OSError, match=r"."):
        web.tls("ssm")
    ec2.authorize_security_group_egress(
        GroupId=groups["SecurityGroups"][0]["GroupId"], IpPermissions=everything
    )

    def opened() -> bool:
        web.services.tick()
        return dict(web.changes)["ssm"]

    until(opened, timeout_s=10 * FRESH_FOR_S)
    web.tls("ssm").close()


def test_faults_close_and_open_again(web: Inside) -> None:
    web.changes.clear()
    for fault, name in (("imds_off", "imds"), ("dns_off", "dns"), ("egress_closed", "ssm")):
        web.services.set_fault(fault, True)
        assert (name, False) in web.changes
        web.services.set_fault(fault, False)
        assert (name, True) in web.changes
    with pytest.raises(ValueError, match="no fault 'rain'"):
        web.services.set_fault("rain", True)


def test_an_unknown_authority_is_refused(web: Inside) -> None:
    web.services.set_fault("tls_untrusted", True)
    with pytest.raises(ssl.SSLCertVerificationError):
        web.tls("ssm")
    web.services.set_fault("tls_untrusted", False)
    web.tls("ssm").close()


def test_the_authoritys_files_are_made_once_and_keys_are_private(tmp_path: Path) -> None:
    files = ensure_ca(tmp_path)
    before = files.authority_pem
    assert ensure_ca(tmp_path).authority_pem == before
    assert files.key.stat().st_mode & 0o077 == 0
