"""What several hosts share, and where host and AWS say different things."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import boto3
import pytest

from haltuun.aws import Aws
from haltuun.clock import Clock
from haltuun.config import AccountConfig, Config, HostConfig
from haltuun.model import Finding, Host, StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.discover.account import get_region
from haltuun.stages.discover.facts import (
    DiscoverAccount,
    DiscoverFacts,
    ImageFacts,
    RegionFacts,
    ScalingGroup,
    Template,
)
from haltuun.stages.discover.parse_account import parse_image, parse_region
from haltuun.stages.repair.facts import Cleared, RepairAccount, RepairFacts
from haltuun.stages.repair.judge import judge
from haltuun.stages.repair.parse import host_columns, node_columns, without_host
from haltuun.stages.verify.facts import VerifyFacts
from lab.cloud.state import SsmState
from tests.stages.discover.test_parse import region as region_pages
from tests.stages.repair.plan_kit import (
    ACCOUNT,
    AS_EC2,
    AS_ONPREM,
    IID,
    MI,
    NO_TOKEN,
    NOW,
    REGION,
    START,
    agent,
    log,
    node,
    plan,
    stale,
)
from tests.stages.repair.test_prove import cloud as cloud  # the fixture

CLONE, MEMBER, OTHER = "i-0fedcba9876543210", "i-0aaaaaaaaaaaaaaaa", "i-0bbbbbbbbbbbbbbbb"
AMI = "ami-0123456789abcdef0"
TEMPLATE = Template(
    label="launch template web (version 3)",
    image_id=AMI,
    called=("lt-1:3", "lt-1:$Latest", "web:3", "web:$Latest"),
)


def found(
    agents: dict[str, Any],
    *,
    nodes: Any = (),
    own: Any = None,
    discovered: dict[str, Any] | None = None,
    verified: dict[str, Any] | None = None,
    region: dict[str, Any] | None = None,
    cleared: tuple[Cleared, ...] = (),
    meant: bool = False,
) -> list[Finding]:
    """Findings of repair for hosts of one image; `own` are the discover facts of each that differ."""
    account = RepairAccount(nodes={REGION: nodes}, cleared=cleared)
    hosts = {i: Host(account=ACCOUNT, region=REGION, instance_id=i) for i in agents}
    plain = {"image_id": AMI, "asg": None, **(discovered or {})}
    here = {i: DiscoverFacts(**{**plain, **(own or {}).get(i, {})}) for i in agents}
    seen: dict[str, RepairFacts] = {}
    images = (ImageFacts(image_id=AMI, name="legacy-web"),)
    facts: Any = {StageName.discover: here, StageName.repair: seen}
    if verified is not None:
        facts[StageName.verify] = {i: VerifyFacts(**verified) for i in agents}
    regions = {REGION: RegionFacts(**{"images": images, **(region or {})})}
    view = View(
        account=AccountConfig(id=ACCOUNT, hosts={IID: HostConfig(deliberate_hybrid=meant)}),
        config=Config(),
        account_id=ACCOUNT,
        partition="aws",
        now=NOW,
        run_id="run",
        hosts=hosts,
        entering=(),
        facts=facts,
        account_facts={StageName.repair: account, StageName.discover: DiscoverAccount(regions=regions)},
    )
    for instance_id, one in agents.items():
        columns = node_columns(next((row for row in nodes if row.node_id == instance_id), None))
        more = (
            without_host(one, columns)
            if isinstance(one, Unknown)
            else host_columns(view, hosts[instance_id], account, one, _vault_node(account, one))
        )
        seen[instance_id] = RepairFacts(**{"agent": one, **columns, **more})
    return list(judge(view))


def _vault_node(account: RepairAccount, one: Any) -> Any:
    return account.node(REGION, one.vault.instance_id) if one.vault.instance_id else None


def only(findings: list[Finding], code: str) -> Finding:
    (wanted,) = [finding for finding in findings if finding.code == code]
    return wanted


def codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings}


# -- the image ---------------------------------------------------------------------------------------------


def test_what_clones_share_is_one_finding_with_all_that_goes_on_making_them() -> None:
    unseen = Unknown(unknown="ASG_MEMBER: not looked at")
    baked = only(
        found(
            {IID: stale(), CLONE: stale(), MEMBER: unseen},
            own={MEMBER: {"asg": "web"}},
            region={
                "templates": (TEMPLATE, Template(label="launch template old", image_id="ami-2")),
                "groups": (
                    ScalingGroup(name="night", starts_from=("lt-1:$Latest", "web:$Latest")),
                    ScalingGroup(name="else", starts_from=("lt-1:$Default", "lt-2:$Latest")),
                ),
            },
        ),
        "BAKED_REGISTRATION",
    )
    assert baked.host is None
    for word in ("2 host(s)", MI, AMI, "legacy-web", "group night", "template web (version 3)"):
        assert word in baked.message
    assert "else" not in baked.message and "old" not in baked.message
    assert [line.rpartition(" ")[2] for line in baked.evidence] == [IID, CLONE, MEMBER, "web"]


@pytest.mark.parametrize(
    ("registered", "made", "baked"),
    [(2021, 2022, True), (2023, 2022, False), (None, 2022, False), (2021, None, False)],
)
def test_a_single_hosts_registration_is_the_images_only_when_it_is_older(
    registered: int | None, made: int | None, baked: bool
) -> None:
    """A host that was registered by hand says nothing of the image that it was started from."""
    row = node(MI, registered_at=registered and datetime(registered, 1, 1, tzinfo=UTC))
    image = ImageFacts(image_id=AMI, created_at=made and datetime(made, 1, 1, tzinfo=UTC))
    seen = found(
        {IID: stale(), OTHER: agent()},
        nodes=(row,),
        region={"templates": (TEMPLATE,), "images": (image,)},
    )
    assert ("BAKED_REGISTRATION" in codes(seen)) == baked


def test_it_is_told_after_the_hosts_were_cleared_too() -> None:
    gone = Cleared(node_id=MI, region=REGION, hosts=(IID, CLONE), cleared_at=NOW, node=None)
    well = {IID: agent(), CLONE: agent()}
    baked = only(found(well, cleared=(gone,), region={"templates": (TEMPLATE,)}), "BAKED_REGISTRATION")
    assert "2 host(s) came up with it, 0 of them still have it" in baked.message
    half = only(found({IID: stale(), CLONE: agent()}, cleared=(gone,)), "BAKED_REGISTRATION")
    assert "2 host(s) came up with it, 1 of them still have it" in half.message
    assert "BAKED_REGISTRATION" not in codes(found(well, cleared=(gone,))), "nothing is left to do"


def test_of_each_image_only_what_it_shows() -> None:
    """One of two hosts with different images may be the machine that the other's image was made of."""
    two = {IID: stale(), CLONE: stale()}
    assert "BAKED_REGISTRATION" not in codes(found(two, own={CLONE: {"image_id": "ami-2"}}))


@pytest.mark.parametrize(
    ("here", "there", "baked"),
    [
        ({}, {"source_instance": IID}, ["ami-2"]),
        ({}, {"source_instance": OTHER}, []),
        ({}, {"source_image": AMI}, [AMI, "ami-2"]),
        ({"source_image": "ami-2"}, {}, [AMI, "ami-2"]),
        ({"source_image": "ami-0"}, {"source_image": "ami-0"}, []),
    ],
)
def test_what_an_image_was_made_of_tells_whether_it_has_it(
    here: dict[str, str], there: dict[str, str], baked: list[str]
) -> None:
    images = (ImageFacts(image_id=AMI, **here), ImageFacts(image_id="ami-2", **there))
    seen = found(
        {IID: stale(), CLONE: stale()}, own={CLONE: {"image_id": "ami-2"}}, region={"images": images}
    )
    told = [finding for finding in seen if finding.code == "BAKED_REGISTRATION"]
    assert [ami for ami in (AMI, "ami-2") for one in told if f"image {ami}" in one.message] == baked
    made_of = "".join(there.values())
    assert not baked or not there or any(f"made of {made_of}" in one.evidence[0] for one in told)
    row = {"ImageId": "ami-2", "SourceInstanceId": IID, "SourceImageId": AMI}
    image = parse_image(row, {"ami-2": [AMI, "ami-0"]})
    assert (image.source_instance, image.source_image, image.lineage) == (IID, AMI, (AMI, "ami-0"))
    unknown = Unknown(unknown="ACCESS_DENIED: ec2:GetImageAncestry")
    assert parse_image(row, unknown).lineage == unknown


# Of an image that was made of a machine AWS names the machine's own image, too.
@pytest.mark.parametrize(
    ("there", "baked", "says"),
    [
        ({"source_instance": IID, "source_image": AMI}, ["ami-2"], f"the image was made of {IID}"),
        ({"source_instance": OTHER, "source_image": AMI}, [AMI, "ami-2"], f"was made of {OTHER}"),
        (
            {"source_image": "ami-gone", "lineage": ("ami-gone", "ami-1", AMI, "ami-0")},
            ["ami-2"],
            f"goes back to {AMI}",
        ),
        ({"source_image": "ami-gone", "lineage": ("ami-gone", "ami-0")}, [], ""),
        ({"source_image": "ami-gone", "lineage": Unknown(unknown="ACCESS_DENIED: no")}, [], ""),
        (
            {"source_image": AMI, "lineage": Unknown(unknown="ACCESS_DENIED: no")},
            [AMI, "ami-2"],
            "(ACCESS_DENIED",
        ),
    ],
)
def test_an_images_ancestors_tell_whether_it_has_it(
    there: dict[str, Any], baked: list[str], says: str
) -> None:
    images = (ImageFacts(image_id=AMI), ImageFacts(image_id="ami-2", **there))
    seen = found(
        {IID: stale(), CLONE: stale()}, own={CLONE: {"image_id": "ami-2"}}, region={"images": images}
    )
    told = [finding for finding in seen if finding.code == "BAKED_REGISTRATION"]
    assert [ami for ami in (AMI, "ami-2") for one in told if f"image {ami}" in one.message] == baked
    assert not baked or any(says in line for one in told for line in one.evidence)


def test_a_template_that_looks_its_image_up_is_said_to_be_unknown() -> None:
    by_parameter = Template(
        label="launch template gold (version 7)", image_id="resolve:ssm:/golden/web:4", called=("gold:7",)
    )
    of_aws = Template(label="launch template plain (version 1)", image_id="resolve:ssm:/aws/service/al2023")
    region = {
        "templates": (TEMPLATE, by_parameter, of_aws),
        "groups": (ScalingGroup(name="day", starts_from=("gold:7",)),),
    }
    baked = only(found({IID: stale(), CLONE: stale()}, region=region), "BAKED_REGISTRATION")
    assert "go on coming from it: launch template web (version 3)." in baked.message
    for word in ("not known", "gold (version 7)", "group day", "/golden/web:4", "not read"):
        assert word in baked.message
    assert "plain" not in baked.message


def test_templates_and_groups_that_could_not_be_asked_make_no_claim() -> None:
    denied = Unknown(unknown="ACCESS_DENIED: autoscaling:DescribeAutoScalingGroups")
    baked = only(
        found({IID: stale(), CLONE: stale()}, region={"templates": denied, "groups": denied}),
        "BAKED_REGISTRATION",
    )
    assert "go on coming" not in baked.message
    assert "not known: Auto Scaling groups could not be asked (ACCESS_DENIED" in baked.message
    assert "launch templates could not be asked" in baked.message


def test_groups_are_read_from_all_three_ways_to_say_what_they_start() -> None:
    specification = {"LaunchTemplateId": "lt-1", "LaunchTemplateName": "web", "Version": "3"}
    override = {"LaunchTemplateSpecification": {"LaunchTemplateId": "lt-9"}}
    pages = region_pages(
        groups=[
            {"AutoScalingGroupName": "a", "LaunchTemplate": specification},
            {"AutoScalingGroupName": "b", "LaunchConfigurationName": "lc-2014"},
            {
                "AutoScalingGroupName": "c",
                "MixedInstancesPolicy": {
                    "LaunchTemplate": {"LaunchTemplateSpecification": specification, "Overrides": [override]}
                },
            },
        ],
        launch_templates=[
            {
                "LaunchTemplateId": "lt-1",
                "LaunchTemplateName": "web",
                "VersionNumber": 3,
                "DefaultVersion": False,
                "LaunchTemplateData": {"ImageId": AMI},
            }
        ]
        * 2,  # named by a group as well
        launch_configurations=[{"LaunchConfigurationName": "lc-2014", "ImageId": "ami-2014"}],
    )
    facts = parse_region(pages[REGION])
    assert facts.groups == (
        ScalingGroup(name="a", starts_from=("lt-1:3", "web:3")),
        ScalingGroup(name="b", starts_from=("configuration:lc-2014",)),
        ScalingGroup(name="c", starts_from=("lt-1:3", "lt-9:$Default", "web:3")),
    )
    old = Template(
        label="launch configuration lc-2014", image_id="ami-2014", called=("configuration:lc-2014",)
    )
    assert facts.templates == (old, TEMPLATE)


def test_a_version_that_a_group_pins_is_read_too(cloud: SsmState) -> None:
    """Neither the newest nor the default one; the group goes on starting its image."""
    ec2, autoscaling = (boto3.client(name, region_name=REGION) for name in ("ec2", "autoscaling"))
    images = [
        ec2.register_image(Name=f"version-{n}", Architecture="x86_64", RootDeviceName="/dev/sda1")["ImageId"]
        for n in range(3)
    ]
    data = [{"ImageId": image, "InstanceType": "t3.small"} for image in images]
    made = ec2.create_launch_template(LaunchTemplateName="pinned", LaunchTemplateData=data[0])
    template = made["LaunchTemplate"]["LaunchTemplateId"]
    for one in data[1:]:
        ec2.create_launch_template_version(LaunchTemplateId=template, LaunchTemplateData=one)
    autoscaling.create_auto_scaling_group(
        AutoScalingGroupName="pinned",
        MinSize=0,
        MaxSize=1,
        LaunchTemplate={"LaunchTemplateId": template, "Version": "2"},
        AvailabilityZones=[f"{REGION}a"],
    )
    gone = ec2.create_launch_template(LaunchTemplateName="gone", LaunchTemplateData=data[0])["LaunchTemplate"]
    ec2.create_launch_template_version(LaunchTemplateId=gone["LaunchTemplateId"], LaunchTemplateData=data[1])
    autoscaling.create_auto_scaling_group(
        AutoScalingGroupName="left",
        MinSize=0,
        MaxSize=1,
        LaunchTemplate={"LaunchTemplateId": gone["LaunchTemplateId"], "Version": "1"},
        AvailabilityZones=[f"{REGION}a"],
    )
    ec2.delete_launch_template(LaunchTemplateId=gone["LaunchTemplateId"])
    account = AccountConfig(id=ACCOUNT, regions=[REGION])
    facts = parse_region(get_region(Aws(account, Clock(), read_only=True), REGION))
    group = next(one for one in facts.groups if one.name == "pinned")
    (pinned,) = [one for one in facts.templates if set(one.called) & set(group.starts_from)]
    assert pinned.image_id == images[1]


# -- who can run commands ------------------------------------------------------------------------------------


def test_a_registration_that_gets_in_names_whose_it_is() -> None:
    registered = datetime(2023, 5, 1, tzinfo=UTC)
    row = node(MI, activation_id="activation-1", registered_at=registered, iam_role="onprem")
    critical = only(found({IID: stale()}, nodes=(row,)), "HYBRID_AUTHENTICATES")
    assert critical.host == IID and f"account {ACCOUNT}, {REGION}" in critical.message
    assert "registered on 2023-05-01 by activation activation-1, role onprem" in critical.evidence
    foreign = only(found({IID: stale()}), "HYBRID_AUTHENTICATES")
    assert f"not account {ACCOUNT}" in foreign.message


def test_one_that_is_refused_does_not_get_in() -> None:
    refused = "Retrieve credentials produced error: MachineFingerprintDoesNotMatch: "
    assert "HYBRID_AUTHENTICATES" not in codes(found({IID: stale(log=log(*AS_ONPREM, refused))}))
    assert "HYBRID_AUTHENTICATES" not in codes(found({IID: agent()}))


def test_one_that_is_meant_is_no_alarm() -> None:
    assert "HYBRID_AUTHENTICATES" not in codes(found({IID: stale()}, meant=True))


def test_what_kind_of_node_a_stale_registration_is_stands_beside_it() -> None:
    of_greengrass = node(MI, source_type="AWS::IoT::Thing")
    evidence = only(found({IID: stale()}, nodes=(of_greengrass,)), "STALE_HYBRID").evidence
    assert f"{MI} is a node of the source type AWS::IoT::Thing" in evidence
    assert not any("source type" in line for line in only(found({IID: stale()}), "STALE_HYBRID").evidence)


# -- two sides -----------------------------------------------------------------------------------------------

NO_ROLE = (
    "EC2RoleProvider Failed to connect to Systems Manager with instance profile role credentials."
    " Err: retrieved credentials failed to report to ssm. Error: EC2RoleRequestError: no EC2 instance role"
    " found"
)
SKEW = "Retrieve credentials produced error: InvalidSignatureException: Signature expired: now earlier"
BLOCKED = 'Post "https://ssm.eu-central-1.amazonaws.com/": dial tcp 10.0.0.9:443: i/o timeout'
NO_TRUST = 'Post "https://ssm.eu-central-1.amazonaws.com/": x509: certificate signed by unknown authority'
REFUSED = "Retrieve credentials produced error: MachineFingerprintDoesNotMatch: "
UNKNOWN_ID = f"Retrieve credentials produced error: InvalidInstanceId: Not existing InstanceId {MI}"
NO_METADATA = agent(
    log=log(*START, "[EC2Identity] Failed to get instance info from IMDS. Err: failed to get IMDSv2 token"),
    imds_instance_id=Unknown(unknown="IMDS_UNREACHABLE: no answer"),
)
WANTS_TOKEN = agent(log=log(*START, NO_TOKEN))
DENIED = (
    "Failed to get controlchannel token, error: createControlChannel request failed: unexpected response from"
    " the service <AccessDeniedException>"
)
UNREACHED = (
    "[MGSInteractor] Failed to open control channel: Post"
    ' "https://ssmmessages.eu-central-1.amazonaws.com/": dial tcp 10.0.0.9:443: i/o timeout'
)
SLEEPS = "[ssm-agent-worker] Entering SSM Agent hibernate - AccessDeniedException: "
MAY = {"ssm_allowed": True, "denied_actions": (), "role_name": "app"}
PROFILE = f"arn:aws:iam::{ACCOUNT}:instance-profile/app"


@pytest.mark.parametrize(
    ("one", "known", "code", "but"),
    [
        (
            agent(log=log(*AS_EC2, NO_ROLE)),
            {"discovered": {"profile_arn": PROFILE}},
            "ROLE_MISSING",
            "instance profile app",
        ),
        (
            agent(log=log(*AS_EC2, NO_ROLE)),
            {"discovered": {"profile_arn": None}, "verified": {"profile_arn": PROFILE}},
            "ROLE_MISSING",
            "profile app",
        ),
        (agent(log=log(*AS_EC2, NO_ROLE)), {"discovered": {"profile_arn": None}}, "ROLE_MISSING", ""),
        (agent(log=log(*AS_EC2, SKEW)), {"discovered": {"clock_offset_s": 1.5}}, "CLOCK_SKEW", "is 2 s off"),
        (agent(log=log(*AS_EC2, SKEW)), {"discovered": {"clock_offset_s": 900.0}}, "CLOCK_SKEW", ""),
        (
            agent(log=log(*AS_EC2, BLOCKED)),
            {"verified": {"source": "host", "tls_ok": True}},
            "EGRESS_BLOCKED",
            "answers now",
        ),
        (
            agent(log=log(*AS_EC2, NO_TRUST)),
            {"verified": {"source": "host", "tls_ok": True}},
            "TLS_UNTRUSTED",
            "answers now",
        ),
        (agent(log=log(*AS_EC2, BLOCKED)), {"verified": {"egress_ok": True}}, "EGRESS_BLOCKED", ""),
        (agent(log=log(*AS_EC2, BLOCKED)), {}, "EGRESS_BLOCKED", ""),
        (
            stale(log=log(*AS_ONPREM, REFUSED)),
            {"nodes": (node(MI, ip="172.16.0.9", name="attic"),)},
            "FINGERPRINT_MISMATCH",
            "Online from attic (172.16.0.9)",
        ),
        (
            stale(log=log(*AS_ONPREM, REFUSED)),
            {"nodes": (node(MI, "ConnectionLost"),)},
            "FINGERPRINT_MISMATCH",
            "",
        ),
        (
            stale(log=log(*AS_ONPREM, UNKNOWN_ID)),
            {"nodes": (node(MI, "ConnectionLost"),)},
            "HYBRID_GONE",
            f"AWS lists {MI}",
        ),
        (stale(log=log(*AS_ONPREM, UNKNOWN_ID)), {}, "HYBRID_GONE", ""),
        (NO_METADATA, {"discovered": {"imds_endpoint": "enabled"}}, "IMDS_UNREACHABLE", "switched on"),
        (NO_METADATA, {"discovered": {"imds_endpoint": "disabled"}}, "IMDS_UNREACHABLE", ""),
        (NO_METADATA, {}, "IMDS_UNREACHABLE", ""),
        (agent(log=NO_METADATA.log), {}, "IMDS_UNREACHABLE", "answered now"),
        (
            WANTS_TOKEN,
            {"discovered": {"imds_tokens": "optional"}},
            "IMDS_TOKENS_REQUIRED",
            "asks for none now",
        ),
        (WANTS_TOKEN, {"discovered": {"imds_tokens": "required"}}, "IMDS_TOKENS_REQUIRED", ""),
        (agent(log=log(*AS_EC2, DENIED)), {"verified": MAY}, "MESSAGES_DENIED", "role app may do it now"),
        (
            agent(log=log(*AS_EC2, DENIED)),
            {"verified": {**MAY, "denied_actions": Unknown(unknown="the simulator was not asked")}},
            "MESSAGES_DENIED",
            "",
        ),
        (
            agent(log=log(*AS_EC2, UNREACHED)),
            {"verified": {"source": "host", "tls_ok": True}},
            "MESSAGES_UNREACHABLE",
            "answers now",
        ),
        (agent(log=log(*AS_EC2, UNREACHED)), {}, "MESSAGES_UNREACHABLE", ""),
        (agent(log=log(*AS_EC2, SLEEPS)), {"verified": MAY}, "HIBERNATING", "may do it now"),
        (agent(log=log(*AS_EC2, SLEEPS)), {"nodes": (node(IID),)}, "HIBERNATING", "has it Online"),
        (agent(log=log(*AS_EC2, SLEEPS)), {}, "HIBERNATING", ""),
    ],
)
def test_what_aws_says_against_a_cause_stands_beside_it(one: Any, known: Any, code: str, but: str) -> None:
    message = only(found({IID: one}, **known), code).message
    assert (but in message) if but else ("But" not in message)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"imds_endpoint": "disabled", "imds_tokens": "required"}, "HttpEndpoint=disabled"),
        ({"imds_endpoint": "enabled", "imds_tokens": "required"}, "HttpTokens=required"),
        ({"imds_endpoint": "enabled", "imds_hop_limit": 1}, "HttpPutResponseHopLimit=1"),
        ({"imds_endpoint": "enabled", "imds_tokens": "optional", "imds_hop_limit": 2}, ""),
        ({}, ""),
    ],
)
def test_what_ec2_shows_of_the_metadata_stands_beside_it(options: dict[str, Any], said: str) -> None:
    evidence = only(found({IID: NO_METADATA}, discovered=options), "IMDS_UNREACHABLE").evidence
    assert [said in line for line in evidence if "Http" in line] == ([True] if said else [])
    (barred,) = plan(NO_METADATA, **options).barred
    assert said in barred.message and ("Http" in barred.message) is bool(said)


@pytest.mark.parametrize(
    ("one", "status", "version", "said"),
    [
        (agent(processes=()), "Online", None, "runs no agent"),
        (stale(), "Online", None, f"runs as {MI}"),
        (agent(), "ConnectionLost", None, "says 'ConnectionLost'"),
        (agent(), "Online", "3.1.0.0", "has agent 3.3.1142.0"),
        (agent(), "Online", "3.3.1142.0", ""),
        (agent(packages=Unknown(unknown="x")), "Online", "3.1.0.0", ""),
        (agent(processes=()), "ConnectionLost", None, ""),
        (agent(log=log(*AS_EC2)), "ConnectionLost", None, ""),
    ],
)
def test_where_the_two_sides_disagree_both_are_told(one: Any, status: str, version: Any, said: str) -> None:
    findings = found({IID: one}, nodes=(node(IID, status),), discovered={"ssm_agent_version": version})
    if said:
        assert said in only(findings, "SIDES_DISAGREE").message
    else:
        assert "SIDES_DISAGREE" not in codes(findings)
