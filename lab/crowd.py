"""An account with as many hosts as wanted, none of which is a machine: to see what a large one costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import yaml

from haltuun.errors import BannerTimeout
from haltuun.model import Host
from haltuun.run import Run
from haltuun.simulated import SimulatedTransport
from haltuun.transport import Result
from lab.answers import AGENT_VERSION, discover_answer, repair_answer, verify_answer
from lab.cloud.seeding import OPERATOR_KEY, steer
from lab.scenario import OPERATING_SYSTEMS

ALIAS, REGION, ROLE = "crowd", "eu-central-1", "acme-ec2-managed"
RUN_AT_ONCE = 50
BACKUP_S = 45.0  # longer than a host's own turn waits for it, as it is outside
STEERED_AT_ONCE = 1000
_INSIDE = (
    f"agent.package\tdeb\t{AGENT_VERSION}",
    "agent.process\t56\tamazon-ssm-agen",
    "agent.enabled\tenabled",
    "python3\t3.10.12",
    "log\t/var/log/syslog\tsyslog",
    "log\t/var/log/auth.log\tauth",
    "done\tcloudwatch",
    "done\tconfig-management",
)
# Of each fifty hosts one answers nobody, one has a system out of support, one has no role, and one is
# somebody else's by now.
SHARE, SILENT, OLD, BARE, SEIZED = 50, 11, 12, 13, 14
SIGN = "/tmp/.x/kdevtmpfsi (pid 4711)"


@dataclass(frozen=True)
class Crowd:
    """`numbers` are the hosts', by id: they decide what a host is like."""

    endpoint_url: str
    account_id: str
    numbers: Mapping[str, int]

    @property
    def env(self) -> dict[str, str]:
        """Of a worker: what points boto3 at the account, and what a deployment sets."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": OPERATOR_KEY,
            "AWS_SECRET_ACCESS_KEY": "lab",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "MALLOC_ARENA_MAX": "2",  # as prefect.yaml gives it to a worker
        }

    def write(self, folder: Path) -> Path:
        """The configuration, and who is who for `open_crowd_host`."""
        config = {
            "state_dir": "state",
            "accounts": [{"id": self.account_id, "alias": ALIAS, "regions": [REGION]}],
            "policy": {"max_held_percent": 100},
        }
        path = folder / "haltuun.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        (folder / "crowd.json").write_text(json.dumps(self.numbers), encoding="utf-8")
        return path


@contextmanager
def cloud_of(account_id: str) -> Iterator[str]:
    """The account in a process of its own; its address."""
    command = [sys.executable, "-m", "lab.cloud.server", "--account-id", account_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def make_crowd(endpoint_url: str, account_id: str, count: int, first: int = 0) -> Crowd:
    """Instances with a role that serves, in a network with a way out, and their managed nodes; numbered from
    `first`."""
    clients = {
        name: boto3.client(
            name,
            endpoint_url=endpoint_url,
            region_name=REGION,
            aws_access_key_id=OPERATOR_KEY,
            aws_secret_access_key="lab",
        )
        for name in ("ec2", "iam")
    }
    steer(endpoint_url, "backup", completed_after_s=BACKUP_S)
    place = _network(clients["ec2"])
    _role(clients["iam"])
    ids: list[str] = []
    while len(ids) < count:
        some = min(RUN_AT_ONCE, count - len(ids))
        made = clients["ec2"].run_instances(
            MinCount=some,
            MaxCount=some,
            InstanceType="t3.small",
            BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}}],
            MetadataOptions={"HttpTokens": "optional", "HttpEndpoint": "enabled"},
            **place,
        )
        ids += [instance["InstanceId"] for instance in made["Instances"]]
    numbers = {instance_id: n for n, instance_id in enumerate(ids, first)}
    known = {"platform_name": "Ubuntu", "platform_version": "22.04", "agent_version": AGENT_VERSION}
    _steer(endpoint_url, "crowd", [one for one, n in numbers.items() if n % SHARE != SILENT], **known)
    _steer(endpoint_url, "profile", [one for one, n in numbers.items() if n % SHARE != BARE], profile=ROLE)
    return Crowd(endpoint_url, account_id, numbers)


def _steer(endpoint_url: str, what: str, ids: Sequence[str], **given: str) -> None:
    for start in range(0, len(ids), STEERED_AT_ONCE):
        steer(endpoint_url, what, region=REGION, ids=ids[start : start + STEERED_AT_ONCE], **given)


def _network(ec2: Any) -> dict[str, Any]:
    """RunInstances' words for one subnet with a way out."""
    vpc = ec2.create_vpc(CidrBlock="10.64.0.0/16")["Vpc"]["VpcId"]
    for attribute in ("EnableDnsSupport", "EnableDnsHostnames"):
        ec2.modify_vpc_attribute(VpcId=vpc, **{attribute: {"Value": True}})
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.64.0.0/16")["Subnet"]["SubnetId"]
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    group = ec2.create_security_group(GroupName="acme", Description="servers", VpcId=vpc)["GroupId"]
    image = ec2.register_image(
        Name="ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20230115",
        Description="Canonical, Ubuntu 22.04 LTS, amd64",
        Architecture="x86_64",
        RootDeviceName="/dev/sda1",
    )
    return {"ImageId": image["ImageId"], "SubnetId": subnet, "SecurityGroupIds": [group]}


def _role(iam: Any) -> None:
    from lab.cloud.seed import CORE_POLICY, trust  # and moto with it, a hundred megabytes: not for a worker

    iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=trust("ec2.amazonaws.com"))
    iam.create_instance_profile(InstanceProfileName=ROLE)
    iam.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)
    iam.attach_role_policy(RoleName=ROLE, PolicyArn=CORE_POLICY)


class CrowdDoor:
    """Opens the hosts of a crowd: an Opener, in the place of SSH and Run Command."""

    def __init__(self, folder: Path) -> None:
        self._number = json.loads((folder / "crowd.json").read_text(encoding="utf-8"))

    def __call__(self, run: Run, host: Host) -> SimulatedTransport:
        number = self._number[host.instance_id]
        if number % SHARE == SILENT:
            remedy = "Restart sshd over the serial console."
            raise BannerTimeout("sshd accepts and never speaks.", subject=host.label, remedy=remedy)
        system = OPERATING_SYSTEMS["ubuntu-14.04" if number % SHARE == OLD else "ubuntu-22.04"]

        def answer(script: str, env: Mapping[str, str], files: Mapping[str, bytes]) -> Result:
            if "NAMES" in env:
                text = verify_answer(host, env["NAMES"].split(), ROLE)
            elif "BUSY_WAIT_S" in env:
                text = repair_answer(host, system.init)
            else:
                signs = (SIGN,) if number % SHARE == SEIZED else ()
                name = f"host-{number:05}"
                text = discover_answer(host, name, system.init, system.os_release, signs, _INSIDE)
            return Result(exit_code=0, stdout=text, stderr="")

        return SimulatedTransport(answer)
