"""Fills an emulated account with what a scenario describes, through the ordinary AWS API where it can."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lab.cloud.seed_leftovers import make_leftovers
from lab.cloud.seed_network import make_network
from lab.cloud.seeding import Seeding, steer
from lab.cloud.state import DHMC_SETTING
from lab.scenario import Host, Scenario

CORE_POLICY = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
DHMC_POLICY = "arn:aws:iam::aws:policy/AmazonSSMManagedEC2InstanceDefaultPolicy"
DHMC_ROLE = "AWSSystemsManagerDefaultEC2InstanceManagementRole"
HYBRID_ROLE = "acme-hybrid-service-role"
OK_PROFILE, WEAK_PROFILE = "acme-ec2-managed", "acme-app"
KEY_NAME = "acme-legacy"

__all__ = ["seed", "steer"]


def trust(*services: str) -> str:
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": list(services)}, "Action": "sts:AssumeRole"}
            ],
        }
    )


def seed(
    endpoint_url: str,
    scenario: Scenario,
    boxes: Mapping[str, Mapping[str, str]] | None = None,
    *,
    public_key: str = "",
    cloudwatch_deb: Path | None = None,
) -> dict[str, str]:
    """Make the account; returns host name → instance id.

    `boxes` may give {host: {"private_ip": …}} where a box has another address than the scenario;
    `public_key` is the OpenSSH public key of the key pair that the hosts were launched with.
    """
    work = Seeding(endpoint_url, scenario, public_key)
    _account(work)
    make_network(work)
    _roles(work)
    _images(work)
    for host in scenario.hosts:
        _instance(work, host, (boxes or {}).get(host.name, {}))
    _groups(work)
    baked: set[str] = set()
    for host in sorted(scenario.hosts, key=lambda host: host.launched or datetime.max.replace(tzinfo=UTC)):
        if host.mi_id not in baked:
            _node(work, host)
        if host.mi_id:
            baked.add(host.mi_id)
    make_leftovers(work)
    _packages(work, cloudwatch_deb)
    for operation in scenario.operator_denied:
        work.steer("fault", operation=operation, error="AccessDeniedException")
    return {host.name: host.instance_id for host in scenario.hosts}


def _account(work: Seeding) -> None:
    work.client("iam").create_account_alias(AccountAlias=work.scenario.alias)
    ec2 = work.client("ec2")
    if work.public_key:
        ec2.import_key_pair(KeyName=KEY_NAME, PublicKeyMaterial=work.public_key.encode())
    else:
        ec2.create_key_pair(KeyName=KEY_NAME)


def _profiles(scenario: Scenario) -> dict[str, str | None]:
    """Profile name → managed policy of its role."""
    names = {"ok": OK_PROFILE, "no-permissions": WEAK_PROFILE}
    wanted = {host.profile for host in scenario.hosts} - {"none"}
    return {
        names.get(known, known): None if known == "no-permissions" else CORE_POLICY
        for known in sorted(wanted)
    }


def profile_name(host: Host) -> str | None:
    return {"none": None, "ok": OK_PROFILE, "no-permissions": WEAK_PROFILE}.get(host.profile, host.profile)


def _roles(work: Seeding) -> None:
    iam = work.client("iam")
    for name, policy in _profiles(work.scenario).items():
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust("ec2.amazonaws.com"))
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        if policy:
            iam.attach_role_policy(RoleName=name, PolicyArn=policy)
        else:
            allow = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "arn:aws:s3:::acme-assets/*"}
            text = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
            iam.put_role_policy(RoleName=name, PolicyName="read-assets", PolicyDocument=text)
    if any(host.is_hybrid for host in work.scenario.hosts):
        iam.create_role(RoleName=HYBRID_ROLE, AssumeRolePolicyDocument=trust("ssm.amazonaws.com"))
        iam.attach_role_policy(RoleName=HYBRID_ROLE, PolicyArn=CORE_POLICY)
    if work.scenario.dhmc:
        iam.create_role(
            Path="/service-role/", RoleName=DHMC_ROLE, AssumeRolePolicyDocument=trust("ssm.amazonaws.com")
        )
        iam.attach_role_policy(RoleName=DHMC_ROLE, PolicyArn=DHMC_POLICY)
        work.client("ssm").update_service_setting(
            SettingId=DHMC_SETTING, SettingValue=f"service-role/{DHMC_ROLE}"
        )


def _images(work: Seeding) -> None:
    scenario, ec2 = work.scenario, work.client("ec2")
    for key in dict.fromkeys(scenario.image_of(host) for host in scenario.hosts):
        host = next(host for host in scenario.hosts if scenario.image_of(host) == key)
        image, system = scenario.images.get(key), host.operating_system
        image_id = scenario.made_id("ami", key)
        name, text, owner = f"acme/{key}", f"{system.pretty} of {key}", scenario.account_id
        if image and image.source == "vmware":
            name, text = f"import-ami-{image_id[4:]}", image.description
        elif image is None and host.platform == "windows":
            name, text, owner = (
                "Windows_Server-2016-English-Full-Base-2023.01.11",
                system.pretty,
                "801119661308",
            )
        elif image is None:
            name = (
                f"ubuntu/images/hvm-ssd/{system.id}-{system.codename}-{system.version}-amd64-server-20230115"
            )
            text, owner = f"Canonical, {system.pretty}, amd64", "099720109477"
        work.steer("wanted-ids", images=[image_id])
        made = ec2.register_image(
            Name=name, Description=text, Architecture="x86_64", RootDeviceName="/dev/sda1"
        )
        work.ids[f"image-{key}"] = made["ImageId"]
        platform = "windows" if host.platform == "windows" else None
        work.steer("image", region=scenario.region, id=made["ImageId"], owner=owner, platform=platform)


def _instance(work: Seeding, host: Host, box: Mapping[str, str]) -> None:
    scenario, ec2 = work.scenario, work.client("ec2")
    work.steer("wanted-ids", instances=[host.instance_id])
    tags = [{"Key": "Name", "Value": host.name}]
    tags += [{"Key": key, "Value": value} for key, value in host.tags.items()]
    asked: dict[str, Any] = {
        "ImageId": work.ids[f"image-{scenario.image_of(host)}"],
        "MinCount": 1,
        "MaxCount": 1,
        "InstanceType": "t3.small",
        "KeyName": KEY_NAME,
        "SubnetId": work.ids["private" if host.network == "closed-with-endpoints" else "public"],
        "SecurityGroupIds": [work.ids["sg-open" if host.network == "open" else "sg-closed"]],
        "PrivateIpAddress": box.get("private_ip") or host.private_ip,
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8, "VolumeType": "gp3"}}],
        "MetadataOptions": {
            "HttpTokens": "optional",
            "HttpEndpoint": "enabled",
            "HttpPutResponseHopLimit": 1,
        },
        "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}],
    }
    profile = profile_name(host)
    if profile:
        asked["IamInstanceProfile"] = {"Name": profile}
    made = ec2.run_instances(**asked)["Instances"][0]
    if made["InstanceId"] != host.instance_id:
        raise RuntimeError(f"{host.name} got {made['InstanceId']} instead of {host.instance_id}")
    if host.launched:
        work.steer(
            "instance", region=scenario.region, id=host.instance_id, launched=host.launched.isoformat()
        )
    if host.state == "stopped":
        ec2.stop_instances(InstanceIds=[host.instance_id])


def _groups(work: Seeding) -> None:
    members: dict[str, list[Host]] = {}
    for host in work.scenario.hosts:
        if host.asg:
            members.setdefault(host.asg, []).append(host)
    for name, hosts in members.items():
        image = work.ids[f"image-{work.scenario.image_of(hosts[0])}"]
        work.client("ec2").create_launch_template(
            LaunchTemplateName=f"{name}-template",
            LaunchTemplateData={"ImageId": image, "InstanceType": "t3.small"},
        )
        autoscaling = work.client("autoscaling")
        autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=name,
            MinSize=0,
            MaxSize=4,
            DesiredCapacity=0,
            LaunchTemplate={"LaunchTemplateName": f"{name}-template", "Version": "$Latest"},
            VPCZoneIdentifier=work.ids["public"],
        )
        autoscaling.attach_instances(
            AutoScalingGroupName=name, InstanceIds=[host.instance_id for host in hosts]
        )


def _node(work: Seeding, host: Host) -> None:
    """What Systems Manager remembers of a host before its agent says anything."""
    now = datetime.now(UTC)
    known: dict[str, Any] = {
        "platform_name": host.operating_system.name,
        "platform_version": host.operating_system.version,
        "platform_type": "Linux",
        "agent_version": "3.1.1732.0",
        "computer_name": host.name,
        "ip_address": host.private_ip,
    }
    if host.is_hybrid:
        registered = (host.launched or now) - timedelta(days=200)
        work.steer(
            "node",
            region=host.mi_region,
            id=host.mi_id,
            iam_role=HYBRID_ROLE,
            fingerprint=host.fingerprint,
            registered=registered.isoformat(),
            last_ping=(now - timedelta(days=400)).isoformat(),
            activation_id=work.scenario.made_uuid("activation", host.mi_id),
            **known,
        )
    elif host.agent in ("stopped", "disabled", "connection-lost"):
        stuck = host.agent == "connection-lost"
        last = now - timedelta(days=33)
        work.steer(
            "node",
            region=work.scenario.region,
            id=host.instance_id,
            stuck=stuck,
            last_ping=last.isoformat(),
            **known,
        )


def _packages(work: Seeding, cloudwatch_deb: Path | None) -> None:
    region, s3 = work.scenario.region, work.client("s3")
    bucket = f"lab-packages-{region}"
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=bucket, ACL="public-read", **place)
    if cloudwatch_deb:
        body = cloudwatch_deb.read_bytes()
        s3.put_object(Bucket=bucket, Key="amazon-cloudwatch-agent.deb", Body=body, ACL="public-read")
