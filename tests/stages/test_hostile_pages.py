"""AWS's answers hold what strangers typed: names, tags and descriptions of any text, and members left out.

The pages are made of botocore's own descriptions of the services.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any

import botocore.session
import pytest
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape
from hypothesis import given, settings
from hypothesis import strategies as st

from haltuun.model import Facts, StageName, Unknown
from haltuun.stages.backup import STAGE as BACKUP
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.discover.judge import judge
from haltuun.stages.discover.parse_account import parse_account
from haltuun.stages.discover.parse_host import parse_host
from haltuun.stages.logs import STAGE as LOGS
from haltuun.stages.logs.agent_config import wanted_config
from haltuun.stages.pages import member, moment, text
from haltuun.stages.patch import STAGE as PATCH
from haltuun.stages.repair import STAGE as REPAIR
from haltuun.stages.repair.facts import Activation
from haltuun.stages.repair.parse import parse_activation
from haltuun.stages.tags import ARMED, SCAN
from haltuun.stages.tags import BACKUP as BACKUP_TAG
from haltuun.stages.tags import LOGS as LOGS_TAG
from haltuun.stages.verify import STAGE as VERIFY
from tests.stages.test_hostile_hosts import HOST, NOW, ODD, PROBES, raw, view

# What `discover` asks: its name for the answer → service, operation, and the member that holds the rows.
PAGES = {
    "statuses": ("ec2", "DescribeInstanceStatus", "InstanceStatuses"),
    "images": ("ec2", "DescribeImages", "Images"),
    "volumes": ("ec2", "DescribeVolumes", "Volumes"),
    "evidence": ("ec2", "DescribeSnapshots", "Snapshots"),
    "nodes": ("ssm", "DescribeInstanceInformation", "InstanceInformationList"),
    "asg_instances": ("autoscaling", "DescribeAutoScalingInstances", "AutoScalingInstances"),
    "groups": ("autoscaling", "DescribeAutoScalingGroups", "AutoScalingGroups"),
    "launch_configurations": ("autoscaling", "DescribeLaunchConfigurations", "LaunchConfigurations"),
    "launch_templates": ("ec2", "DescribeLaunchTemplateVersions", "LaunchTemplateVersions"),
    "baselines": ("ssm", "DescribePatchBaselines", "BaselineIdentities"),
    "patch_groups": ("ssm", "DescribePatchGroups", "Mappings"),
    "windows": ("ssm", "DescribeMaintenanceWindows", "WindowIdentities"),
    "associations": ("ssm", "ListAssociations", "Associations"),
    "backup_plans": ("backup", "ListBackupPlans", "BackupPlansList"),
    "backup_vaults": ("backup", "ListBackupVaults", "BackupVaultList"),
    "log_groups": ("logs", "DescribeLogGroups", "logGroups"),
}
# Members without which a row would be none.
ALWAYS = ("State", "Key", "Value", "PatchGroup", "VersionNumber", "RuleNumber", "EvalDecision")
ALWAYS_ENDINGS = ("Id", "Name", "Identity", "Arn")
TIMES = ("2026-11-23T10:00:00+00:00", "1970-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00")
DEEPEST = 4
# What nobody types as he likes, as AWS checks it; and ids that make the parts of a network belong together.
CHECKED = {
    **dict.fromkeys(
        ("CidrIp", "CidrBlock", "DestinationCidrBlock"), ("0.0.0.0/0", "10.0.0.0/16", "10.0.1.5/32")
    ),
    **dict.fromkeys(("IpProtocol", "Protocol"), ("-1", "tcp", "6", "17")),
    "PrivateIpAddress": ("10.0.1.5", "10.0.0.9"),
    "VpcId": ("vpc-1",),
    "SubnetId": ("subnet-a", "subnet-b"),
    "GroupId": ("sg-1", "sg-2"),
    "NetworkInterfaceId": ("eni-1",),
    "ServiceName": ("com.amazonaws.eu-central-1.ssm", "com.amazonaws.eu-central-1.ssmmessages"),
    "VpcEndpointType": ("Interface", "Gateway"),
}
NETWORK = {
    name: ("ec2", f"Describe{member}", member)
    for name, member in {
        "groups": "SecurityGroups",
        "subnets": "Subnets",
        "acls": "NetworkAcls",
        "route_tables": "RouteTables",
        "endpoints": "VpcEndpoints",
        "interfaces": "NetworkInterfaces",
    }.items()
}
SESSION = botocore.session.Session()
STATES = SESSION.get_service_model("ec2").shape_for("InstanceStateName").enum


@dataclass(frozen=True)
class Pages:
    """Makes answers, the same for the same seed. (Hypothesis's strategies take seconds for one page.)"""

    dice: Random
    texts: Sequence[str]
    checked: Mapping[str, Sequence[str]] = field(default_factory=dict)  # member → what it can be
    whole: bool = True  # whether a row has at least what it would be none without

    def region(self) -> dict[str, Any]:
        """What discover's get_region gives: name → rows."""
        answers = {name: self.rows(*asked) for name, asked in PAGES.items()}
        reservations = self.rows("ec2", "DescribeInstances", "Reservations")
        instances = [instance for one in reservations for instance in one.get("Instances", ())]
        for instance in instances[: None if self.whole else 1]:
            instance["State"] = {"Name": self.dice.choice(STATES)}
        if instances:
            instances[0]["InstanceId"] = HOST.instance_id
        return answers | {
            "instances": instances,
            "lineage": {image.get("ImageId", ""): [self.text()] for image in answers["images"]},
            "ecs_instances": [self.text()],
            "dhmc": {"SettingValue": self.text()},
            "session_preferences": self.dice.choice((None, self.text())),
        }

    def rows(self, service: str, operation: str, member: str) -> list[Any]:
        output = SESSION.get_service_model(service).operation_model(operation).output_shape
        return list(self.made_of(output.members[member], ()))

    def roles_and_networks(self) -> dict[str, Any]:
        """What verify's probe of the account gives, of one region."""
        role = SESSION.get_service_model("iam").operation_model("GetRole").output_shape.members["Role"]

        def one() -> dict[str, Any]:
            made = self.made_of(role, ())
            principal = self.dice.choice((self.text(), {"Service": [self.text()]}, {"AWS": self.text()}))
            statement = {"Effect": "Allow", "Principal": principal}
            trust = self.dice.choice(
                (statement["Principal"], {"Statement": statement}, {"Statement": [statement]})
            )
            return {**made, "Arn": self.text(), "AssumeRolePolicyDocument": trust}

        simulated = self.rows("iam", "SimulatePrincipalPolicy", "EvaluationResults")
        network = {name: self.rows(*asked) for name, asked in NETWORK.items()}
        name, profile = self.text(), self.text()
        return {
            "profile_of": {HOST.instance_id: profile},
            "profiles": {profile: name},
            "roles": {name: {"role": one(), "inline": None, "simulated": simulated}},
            "own_role": self.dice.choice((None, one())),
            "own_profile": self.dice.choice((None, {"Roles": [{"RoleName": self.text()}], "Tags": []})),
            "own_inline": self.dice.choice((None, {"Statement": self.text()})),
            "network": {HOST.region: {**network, "dns": {"vpc-1": [True, True]}}},
            "members": {HOST.region: self.rows(*NETWORK["interfaces"])},
        }

    def _always(self, name: str) -> bool:
        return name in ALWAYS or name in self.checked or name.endswith(ALWAYS_ENDINGS)

    def text(self) -> str:
        return self.dice.choice(self.texts)

    def made_of(self, shape: Shape, above: tuple[str, ...]) -> Any:
        if isinstance(shape, StructureShape):
            if shape.name in above or len(above) > DEEPEST:
                return {}
            return {
                name: self.dice.choice(self.checked[name])
                if name in self.checked and isinstance(part, StringShape)
                else self.made_of(part, (*above, shape.name))
                for name, part in shape.members.items()
                if (self.whole and self._always(name)) or self.dice.random() < (0.5 if self.whole else 0.8)
            }
        if isinstance(shape, ListShape):
            return [self.made_of(shape.member, above) for _ in range(self.dice.randint(0, 2))]
        if isinstance(shape, MapShape):
            return {self.text(): self.made_of(shape.value, above) for _ in range(self.dice.randint(0, 2))}
        if isinstance(shape, StringShape) and shape.enum:
            return self.dice.choice(shape.enum)
        numbers = {"integer": (0, 1, 2**31 - 1), "long": (0, 2**63)}
        others = numbers | {"boolean": (True, False), "timestamp": TIMES}
        return self.dice.choice(others.get(shape.type_name, self.texts))


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.lists(ODD, min_size=1, max_size=8), st.booleans())
def test_discover_reads_any_page(seed: int, texts: list[str], whole: bool) -> None:
    pages = {HOST.region: Pages(Random(seed), texts, whole=whole).region()}
    account = parse_account(view(), pages)
    json.loads(account.model_dump_json())
    seen = replace(view(), account_facts={StageName.discover: account})
    facts = parse_host(seen, HOST, pages, raw(f"probe\t1\n{texts[0]}"))
    json.loads(facts.model_dump_json())
    json.dumps(facts.row(), allow_nan=False)
    seen = replace(seen, facts={StageName.discover: {HOST.instance_id: facts}})
    assert all(finding.message for finding in judge(seen))


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.lists(ODD, min_size=1, max_size=8), st.booleans())
def test_verify_reads_any_page(seed: int, texts: list[str], whole: bool) -> None:
    """Roles and networks that strangers named and described; what AWS checks itself is as AWS lets it be."""
    answers = Pages(Random(seed), texts, CHECKED, whole).roles_and_networks()
    place = {
        "vpc_id": "vpc-1",
        "subnet_id": "subnet-a",
        "security_groups": ("sg-1",),
        "private_ip": "10.0.1.5",
    }
    version = f"3.{texts[0]}.{texts[-1]}"  # what a host says that its package is of
    found = DiscoverFacts(
        state="running", platform="linux", ssm_status="never", suspect=(), agent_version=version, **place
    )
    looked = replace(
        view(), entering=(HOST.instance_id,), facts={StageName.discover: {HOST.instance_id: found}}
    )
    account = VERIFY.parse_account(looked, answers)
    json.loads(account.model_dump_json())
    seen = replace(looked, account_facts={StageName.verify: account})
    facts = VERIFY.parse_host(seen, HOST, answers, raw(f"verify\t1\n{texts[0]}"))
    json.loads(facts.model_dump_json())
    json.dumps(facts.row(), allow_nan=False)
    seen = replace(seen, facts={**seen.facts, StageName.verify: {HOST.instance_id: facts}})
    assert all(finding.message for finding in VERIFY.judge(seen))
    json.dumps([change.public() for change in VERIFY.plan(seen).changes])


# -- members that are missing, null, of another kind or very long ------------------------------------------

GIVEN = NOW - timedelta(hours=2)
HYBRID = "mi-0123456789abcdef0"
OWN_NODE = {
    "InstanceId": HOST.instance_id,
    "PingStatus": "Online",
    "LastPingDateTime": GIVEN,
    "AgentVersion": "3.3.1142.0",
    "ComputerName": "web-01",
    "IPAddress": "10.0.1.5",
}
HYBRID_NODE = OWN_NODE | {
    "InstanceId": HYBRID,
    "ActivationId": "activation-1",
    "RegistrationDate": GIVEN,
    "IamRole": "service-role",
}
ACTIVATION = {
    "ActivationId": "activation-1",
    "Description": "lift",
    "DefaultInstanceName": "lifted",
    "IamRole": "service-role",
    "RegistrationsCount": 3,
    "RegistrationLimit": 10,
    "ExpirationDate": GIVEN,
    "Expired": True,
    "Tags": [{"Key": "team", "Value": "web"}],
}
FOUND = DiscoverFacts(
    state="running",
    platform="linux",
    suspect=(),
    os_id="ubuntu",
    os_version="22.04",
    volume_ids=("vol-1",),
    python3="3.10",
    imds_tags=False,
    eol=False,
)


def _by_host(one: Any) -> dict[str, Any]:
    return {HOST.region: {HOST.instance_id: one}}


def _repair(shown: DiscoverFacts) -> tuple[Any, Any]:
    cleared = {"node_id": HYBRID, "region": HOST.region, "hosts": [HOST.instance_id], "at": GIVEN}
    answers = {
        "nodes": {HOST.region: [OWN_NODE, HYBRID_NODE]},
        "activations": {HOST.region: [ACTIVATION]},
        "package_problems": {},
        "cleared": [{**cleared, "node": HYBRID_NODE}],
    }
    host = {"stdout": (PROBES / "stale-refused.txt").read_text(), "own_node": OWN_NODE}
    return answers, {**host, "vault_node": HYBRID_NODE, "vault_activations": [ACTIVATION]}


def _patch(shown: DiscoverFacts) -> tuple[Any, Any]:
    state = {"OperationEndTime": GIVEN.isoformat(), "BaselineId": "pb-1", "MissingCount": 0, "FailedCount": 0}
    state |= {"SecurityNonCompliantCount": 0, "InstalledPendingRebootCount": 1}
    tags = {"Patch Group": "haltuun-ubuntu", SCAN: "daily"}
    return {"regions": {}, "tags": _by_host(tags), "states": _by_host(state)}, None


def _backup(shown: DiscoverFacts) -> tuple[Any, Any]:
    nothing = Unknown(unknown="not asked")
    return {
        "home_region": HOST.region,
        "role": nothing,
        "policies": {},
        "regions": {},
        "points": _by_host({"arn": "arn:aws:backup:point", "at": GIVEN.isoformat()}),
        "jobs": _by_host(
            {"id": "1", "at": GIVEN.isoformat(), "state": "COMPLETED", "message": "", "failed": 0}
        ),
        "tags": _by_host({BACKUP_TAG: "daily", ARMED: "yes"}),
        "armed_before": [HOST.instance_id],
        "protected": _by_host("AWS Backup, vault x, last 2026-11-22"),
        "snapshots": {HOST.region: {"vol-1": "snapshot, snap-1 of 2026-11-22"}},
    }, None


def _logs(shown: DiscoverFacts) -> tuple[Any, Any]:
    tag = wanted_config("acme", shown, None).tag
    groups = {"/haltuun/acme/syslog": 365, "/haltuun/acme/auth": 30}
    return {"regions": {HOST.region: {"groups": groups}}, "tags": _by_host({LOGS_TAG: tag})}, None


# The stage → its whole answers, the parts of them that are AWS's own rows, and columns that these show.
SHOWN: dict[StageName, tuple[Any, Callable[[DiscoverFacts], tuple[Any, Any]], tuple[str, ...], set[str]]] = {
    StageName.repair: (
        REPAIR,
        _repair,
        ("nodes", "activations", "node", "own_node", "vault_node", "vault_activations"),
        {"online_as_self"},
    ),
    StageName.patch: (PATCH, _patch, ("tags", "states"), {"scanned"}),
    StageName.backup: (
        BACKUP,
        _backup,
        ("tags", "points", "jobs", "protected", "snapshots"),
        {"recovery_point"},
    ),
    StageName.logs: (LOGS, _logs, ("groups", "tags"), {"configured"}),
}
LONG = "x" * 1000
OTHER = (None, 7, -1.5, 10**30, True, [], {}, [{}], {"x": None}, "", LONG, "nan", "\x00", b"x", NOW)
MISSING = object()


def _members(value: Any, names: Sequence[str], within: bool = False) -> Iterator[tuple[Any, Any]]:
    """Each (container, key) of a single value, and of a whole row, in what AWS gave."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(pairs):
        inside = within or key in names
        if isinstance(one, dict | list):
            yield from _members(one, names, inside)
        if inside and (not isinstance(one, dict | list) or key == "Tags" or _is_row(key, one)):
            yield value, key


def _is_row(key: Any, one: Any) -> bool:
    """By region or by name a probe of ours has put them together."""
    of_probe = key in (HOST.region, "groups")
    return (
        isinstance(one, dict) and not of_probe and any(not isinstance(v, dict | list) for v in one.values())
    )


def _facts(stage: Any, answers: tuple[Any, Any]) -> Facts:
    seen = replace(
        view(), facts={StageName.discover: {HOST.instance_id: FOUND}}, entering=(HOST.instance_id,)
    )
    account = stage.parse_account(seen, answers[0])
    json.loads(account.model_dump_json())
    seen = replace(seen, account_facts={stage.name: account})
    facts: Facts = stage.parse_host(seen, HOST, answers[0], answers[1])
    json.loads(facts.model_dump_json())
    json.dumps(facts.row(), allow_nan=False)
    seen = replace(seen, facts={**seen.facts, stage.name: {HOST.instance_id: facts}})
    assert all(finding.message for finding in stage.judge(seen))
    return facts


@pytest.mark.parametrize("name", SHOWN)
def test_a_member_of_another_kind_is_unknown_and_takes_nothing_along(name: StageName) -> None:
    """Every member of every row in turn, each as another two of them; and missing."""
    put_in_place(name, lambda number: (OTHER[2 * number % len(OTHER)], OTHER[(2 * number + 1) % len(OTHER)]))


@pytest.mark.soak
@pytest.mark.parametrize("name", SHOWN)
def test_a_member_of_any_other_kind_is_unknown_and_takes_nothing_along(name: StageName) -> None:
    put_in_place(name, lambda number: OTHER)


def put_in_place(name: StageName, others: Callable[[int], Sequence[Any]]) -> None:
    stage, made, names, shown = SHOWN[name]
    sound = made(FOUND)
    before = {column: getattr(_facts(stage, sound), column) for column in shown}
    assert all(value is True for value in before.values())
    count = len(list(_members(list(deepcopy(sound)), names)))
    assert count
    for number in range(count):
        for other in (*others(number), MISSING):
            mutated = list(deepcopy(sound))
            container, key = list(_members(mutated, names))[number]
            whole = _is_row(key, container[key])
            if other is not MISSING:
                container[key] = other
            elif isinstance(container, dict) and not (whole and key in names):  # which a probe always gives
                del container[key]
            facts = _facts(stage, (mutated[0], mutated[1]))
            # A text may say something else, and a tag or a row that is not there is none.
            none = other in (None, MISSING) or isinstance(other, dict)
            says_it = none if whole else isinstance(other, str)
            if not says_it and not (key == LOGS_TAG and other in (None, MISSING)):
                assert False not in [getattr(facts, column) for column in shown], (key, other)


@pytest.mark.parametrize("row", ["abc", 7, True, None, NOW, "2026-01-01", ["InstanceId"]])
def test_a_row_that_is_none_has_no_members(row: Any) -> None:
    for kind in (str, int, bool, list):
        assert isinstance(member(row, "InstanceId", kind), Unknown)
    assert isinstance(moment(row, "LastPingDateTime"), Unknown)
    assert text(row, "Key") == ""


def test_tags_that_are_none_are_not_told() -> None:
    found = parse_activation({**ACTIVATION, "Tags": ["team", *ACTIVATION["Tags"], None]})  # type: ignore[misc]
    assert isinstance(found, Activation) and found.tags == ("team=web",)
