"""Which way is taken to a host. AWS is moto with the lab's operations, SSH a real sshd or a closed port."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest

from haltuun.aws import Aws
from haltuun.clock import Clock
from haltuun.config import AccountConfig, Config, HostConfig, SshConfig
from haltuun.errors import ConfigError, ConnectionRefused, Unreachable
from haltuun.ledger import Ledger
from haltuun.model import Host
from haltuun.reach import (
    Whereabouts,
    bastion_of,
    endpoint_of,
    hop_of,
    likely_users,
    open_host,
    said_of,
    whereabouts,
)
from haltuun.run import Run
from haltuun.ssh import Said, load_keys
from lab.cloud.extensions import apply_extensions
from lab.cloud.state import SsmState, ssm_state
from tests.sshd_fixtures import Sshd, free_port, keygen, ssh_agent

ACCOUNT, REGION = "123456789012", "eu-central-1"


@pytest.fixture(scope="module")
def cloud() -> Iterator[SsmState]:
    apply_extensions()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        # A fresh one loads thousands of images: once a module, not once a test.
        with moto.mock_aws():
            yield ssm_state(ACCOUNT, REGION)


@pytest.fixture(autouse=True)
def account(cloud: SsmState) -> SsmState:
    cloud.nodes.clear()
    cloud.commands.clear()
    cloud.responder = None
    return cloud


@pytest.fixture(scope="module")
def host(cloud: SsmState) -> Host:
    ec2 = boto3.client("ec2", region_name=REGION)
    image = ec2.register_image(Name="legacy", Architecture="x86_64", RootDeviceName="/dev/sda1")["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]
    return Host(account=ACCOUNT, region=REGION, instance_id=made["InstanceId"], name="web-01")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return keygen(tmp_path / "acme")


@pytest.fixture
def sshd(tmp_path: Path, key: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "a")
    server.allow(key, "ubuntu")
    yield server.start()
    server.stop()


def online(account: SsmState, host: Host) -> None:
    def agent(message: dict[str, Any], node_id: str) -> dict[str, Any]:
        text = "\n".join(message["Parameters"]["commands"])
        done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True)
        return {
            "CommandId": message["CommandId"],
            "Status": "Success",
            "StandardOutput": done.stdout,
            "StandardError": done.stderr,
        }

    account.put_node(host.instance_id, simulated=True)
    account.responder = agent


def run_over(host: Host, key: Path, tmp_path: Path, port: int, *, mode: str = "apply") -> Run:
    ssh = SshConfig(key_files=[key], known_hosts=tmp_path / "known", connect_timeout_s=20)
    own = HostConfig(address="127.0.0.1", port=port, user="ubuntu")
    account = AccountConfig(id=ACCOUNT, regions=[REGION], ssh=ssh, hosts={host.instance_id: own})
    config = Config(accounts=[account], state_dir=tmp_path)
    clock = Clock()
    aws = Aws(account, clock, read_only=mode == "plan")
    return Run("run-1", config, account, mode, aws, clock, Ledger(config.ledger_url), open_host)


def sent(run: Run) -> int:
    return sum(call.operation == "SendCommand" for call in run.aws.calls)


def test_online_without_a_login_that_worked_is_run_command(
    account: SsmState, host: Host, key: Path, tmp_path: Path
) -> None:
    online(account, host)
    run = run_over(host, key, tmp_path, free_port())
    transport = run.open(host)
    assert transport.way == "run-command"
    assert transport.run("echo there", timeout_s=20).stdout == "there\n"


@pytest.mark.lab
def test_not_online_is_ssh(account: SsmState, host: Host, key: Path, tmp_path: Path, sshd: Sshd) -> None:
    sshd.known_hosts(tmp_path / "known")
    run = run_over(host, key, tmp_path, sshd.port)
    transport = run.open(host)
    assert transport.way == "ssh"
    assert transport.run("id -u", timeout_s=20).stdout == "0\n"
    transport.close()


@pytest.mark.lab
def test_online_with_a_login_that_worked_is_ssh_and_sends_nothing(
    account: SsmState, host: Host, key: Path, tmp_path: Path, sshd: Sshd
) -> None:
    sshd.known_hosts(tmp_path / "known")
    run = run_over(host, key, tmp_path, sshd.port, mode="plan")
    run.open(host).close()
    online(account, host)
    again = run_over(host, key, tmp_path, sshd.port)
    transport = again.open(host)
    assert (transport.way, sent(again)) == ("ssh", 0)
    transport.close()


@pytest.mark.lab
def test_when_run_command_fails_ssh_is_taken(
    account: SsmState, host: Host, key: Path, tmp_path: Path, sshd: Sshd
) -> None:
    sshd.known_hosts(tmp_path / "known")
    online(account, host)
    run = run_over(host, key, tmp_path, sshd.port)
    transport = run.open(host)
    account.nodes.pop(host.instance_id)
    assert transport.run("id -u", timeout_s=20).stdout == "0\n"
    assert transport.way == "ssh"
    transport.close()


def test_when_ssh_fails_that_worked_before_run_command_is_taken(
    account: SsmState, host: Host, key: Path, tmp_path: Path
) -> None:
    online(account, host)
    run = run_over(host, key, tmp_path, free_port())
    run.ledger.remember(ACCOUNT, f"ssh.login/{host.instance_id}", "{}")
    assert run.open(host).way == "run-command"


def test_a_plan_goes_over_ssh_alone_and_says_so(
    account: SsmState, host: Host, key: Path, tmp_path: Path
) -> None:
    online(account, host)
    run = run_over(host, key, tmp_path, free_port(), mode="plan")
    with pytest.raises(Unreachable, match="a plan reaches hosts over SSH alone") as caught:
        run.open(host)
    assert caught.value.code == "PLAN_NEEDS_SSH"
    assert account.commands == {}


def test_neither_way(account: SsmState, host: Host, key: Path, tmp_path: Path) -> None:
    online(account, host)
    run = run_over(host, key, tmp_path, free_port())
    transport = run.open(host)
    account.nodes.pop(host.instance_id)
    with pytest.raises(ConnectionRefused, match="Before that: Run Command is refused"):
        transport.run("true", timeout_s=20)


def test_without_an_address_in_the_configuration_ec2_is_asked(
    account: SsmState, host: Host, key: Path, tmp_path: Path
) -> None:
    online(account, host)
    run = run_over(host, key, tmp_path, free_port())
    run.account = run.account.model_copy(update={"hosts": {}})
    where = whereabouts(run, host)
    described = boto3.client("ec2", region_name=REGION).describe_instances(InstanceIds=[host.instance_id])
    assert where.private_ip == described["Reservations"][0]["Instances"][0]["PrivateIpAddress"]
    assert where.ssm_status == "Online"


def test_the_images_default_user_goes_first() -> None:
    users = ["ubuntu", "ec2-user", "admin"]
    assert likely_users(users, "amzn2-ami-hvm-2.0") == ("ec2-user", "ubuntu", "admin")
    assert likely_users(users, "debian-12-amd64") == ("admin", "ubuntu", "ec2-user")
    assert likely_users(users, "acme-golden-2016") == tuple(users)
    assert likely_users(users, None) == tuple(users)


def test_the_address_is_the_configured_or_the_wanted_one() -> None:
    host = Host(account=ACCOUNT, region=REGION, instance_id="i-0123456789abcdef0")
    where = Whereabouts(private_ip="10.0.0.5", public_ip="192.0.2.5", key_name="acme")
    plain = AccountConfig(id=ACCOUNT)
    assert endpoint_of(plain, host, where).address == "10.0.0.5"
    public = AccountConfig(id=ACCOUNT, ssh=SshConfig(address="public", port=2222))
    endpoint = endpoint_of(public, host, where)
    assert (endpoint.address, endpoint.port) == ("192.0.2.5", 2222)
    own = HostConfig(address="127.0.0.5", port=2205, user="me")
    endpoint = endpoint_of(AccountConfig(id=ACCOUNT, hosts={host.instance_id: own}), host, where)
    assert (endpoint.address, endpoint.port, endpoint.users) == ("127.0.0.5", 2205, ("me",))
    with pytest.raises(Unreachable, match="no public address"):
        endpoint_of(AccountConfig(id=ACCOUNT, ssh=SshConfig(address="public")), host, Whereabouts())


# An image's own user is tried after the one that the person named.
EC2_USERS = ("ubuntu", "ec2-user", "admin")
SSH_CONFIG = """\
Host i-0123456789abcdef0
  HostName 192.0.2.9
  Port 2299
Host 10.0.*
  User deploy
  IdentityFile {key}
  IdentityFile ~/.ssh/not-there
  ProxyJump hop
Host hop
  HostName fd00::1
  User ops
  Port 2022
  IdentityFile {key}
Host web-*
  HostName 10.9.9.9
Host *
  User everybody
"""


def said(folder: Path, instance_id: str, text: str = SSH_CONFIG, **ssh: Any) -> tuple[Any, Any]:
    """(endpoint, bastion) of the host of that id, at 10.0.0.5 and named web-01."""
    host = Host(account=ACCOUNT, region=REGION, instance_id=instance_id, name="web-01")
    file = folder / "ssh_config"
    file.write_text(text.format(key=folder / "key"))
    account = AccountConfig(id=ACCOUNT, ssh=SshConfig(config=file, **ssh))
    where = Whereabouts(private_ip="10.0.0.5", image_name="ubuntu-22.04")
    told = said_of(account, host, where)
    return endpoint_of(account, host, where, told), bastion_of(account.ssh) or hop_of(told, account.ssh)


ONE, OTHER = "i-0123456789abcdef0", "i-0fedcba9876543210"


def test_the_persons_ssh_configuration_says_how_to_reach_a_host(tmp_path: Path) -> None:
    key = keygen(tmp_path / "key")
    endpoint, hop = said(tmp_path, OTHER)
    assert (endpoint.address, endpoint.port, endpoint.users) == ("10.0.0.5", 22, ("deploy", *EC2_USERS))
    assert endpoint.key_files == (key,)
    assert (hop.address, hop.port, hop.users, hop.key_files) == ("fd00::1", 2022, ("ops",), (key,))
    by_id, hop = said(tmp_path, ONE)
    assert (by_id.address, by_id.port, by_id.users, hop) == (
        "192.0.2.9",
        2299,
        ("everybody", *EC2_USERS),
        None,
    )


def test_its_keys_are_offered_beside_the_agents_and_not_beside_configured_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, mine = keygen(tmp_path / "theirs"), keygen(tmp_path / "mine")
    with ssh_agent(keygen(tmp_path / "held"), monkeypatch):
        assert [name for name, _ in load_keys(SshConfig(), [theirs])] == ["theirs", "held"]
    assert [name for name, _ in load_keys(SshConfig(key_files=[mine]), [theirs])] == ["mine"]


def test_what_haltuun_yaml_says_goes_before_it(tmp_path: Path) -> None:
    keygen(tmp_path / "key")
    chain = "Host *\n  ProxyJump a,b\n"
    _, hop = said(tmp_path, OTHER, chain, bastion="me@other.example")
    assert hop.address == "other.example"
    by_id, _ = said(tmp_path, ONE, port=22)
    assert by_id.port == 22


@pytest.mark.parametrize(
    ("named", "address", "port", "users"),
    [
        ("ssh://ops@b.example:2200", "b.example", 2200, ("ops",)),
        ("b.example", "b.example", 22, ("x",)),
        ("[fd00::2]:2200", "fd00::2", 2200, ("x",)),
    ],
)
def test_ways_to_name_a_hop(
    tmp_path: Path, named: str, address: str, port: int, users: tuple[str, ...]
) -> None:
    _, hop = said(tmp_path, OTHER, f"Host *\n  User x\n  ProxyJump {named}\n")
    assert (hop.address, hop.port, hop.users) == (address, port, users)


def test_a_hop_does_not_go_through_itself(tmp_path: Path) -> None:
    assert said(tmp_path, OTHER, "Host *\n  ProxyJump 10.0.0.5\n")[1] is None
    assert said(tmp_path, OTHER, "Host *\n  ProxyJump none\n")[1] is None


def test_without_such_a_file_nothing_is_said(tmp_path: Path) -> None:
    account = AccountConfig(id=ACCOUNT, ssh=SshConfig(config=None))
    host = Host(account=ACCOUNT, region=REGION, instance_id="i-0123456789abcdef0")
    assert said_of(account, host, Whereabouts()) == Said()
    account = AccountConfig(id=ACCOUNT, ssh=SshConfig(config=tmp_path / "none"))
    assert said_of(account, host, Whereabouts()) == Said()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Host *\n  ProxyJump a,b\n", "more than one host"),
        ("Host *\n  Port many\n", "cannot be followed"),
        ("Match nonsense\n", "cannot be followed"),
        ('Host "unclosed\n', "cannot be followed"),
    ],
)
def test_what_cannot_be_followed_is_said(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        said(tmp_path, OTHER, text)
    assert caught.value.remedy


def test_a_command_in_it_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    never = tmp_path / "never"
    lines = (
        f"Match host 10.0.0.5 exec 'touch {never}'",
        "  User x",
        "Include other",
        "CanonicalizeHostname yes",
        "Match host web-exec-01",
        "  User y",
        "Host 10.*",
        "  User deploy",
    )
    endpoint, _ = said(tmp_path, OTHER, "\n".join(lines))
    assert endpoint.users == ("deploy", *EC2_USERS)
    assert not never.exists()
    passed_over = [record.getMessage() for record in caplog.records]
    assert len(passed_over) == 3 and not any("web-exec" in line for line in passed_over)


@pytest.mark.lab
def test_a_host_is_entered_by_it(
    account: SsmState, host: Host, key: Path, tmp_path: Path, sshd: Sshd
) -> None:
    sshd.known_hosts(tmp_path / "known")
    config = tmp_path / "ssh_config"
    lines = ("HostName 127.0.0.1", f"Port {sshd.port}", "User ubuntu", f"IdentityFile {key}")
    config.write_text("\n  ".join((f"Host {host.instance_id}", *lines)))
    run = run_over(host, key, tmp_path, free_port())
    ssh = SshConfig(known_hosts=tmp_path / "known", connect_timeout_s=20, config=config)
    run.account = run.account.model_copy(update={"hosts": {}, "ssh": ssh})
    transport = run.open(host)
    assert transport.run("id -u", timeout_s=20).stdout == "0\n"
    transport.close()


@pytest.mark.parametrize(
    ("text", "address", "port", "users"),
    [
        ("ops@bastion.example:2222", "bastion.example", 2222, ("ops",)),
        ("bastion.example", "bastion.example", 22, ("ubuntu",)),
        ("ops@[2001:db8::1]:22", "2001:db8::1", 22, ("ops",)),
    ],
)
def test_a_bastions_name(text: str, address: str, port: int, users: tuple[str, ...]) -> None:
    found = bastion_of(SshConfig(bastion=text, users=["ubuntu"]))
    assert found is not None
    assert (found.address, found.port, found.users) == (address, port, users)


def test_what_is_no_bastions_name() -> None:
    with pytest.raises(ConfigError, match=r"Write it as user@host:port"):
        bastion_of(SshConfig(bastion="a b:c:d"))
