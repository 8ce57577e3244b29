"""What a hybrid registration came from, and whether that goes on registering. AWS is the lab's moto."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from urllib3 import HTTPResponse

from haltuun.model import Unknown
from haltuun.run import Run
from haltuun.stages.repair import activations, probe
from haltuun.stages.repair.facts import Activation, NodeRow, RepairAccount
from haltuun.stages.repair.parse import parse_account, parse_agent, vault_node
from haltuun.stages.repair.probe import probe_account
from lab.cloud.state import SsmState, ssm_state
from tests.stages.repair.plan_kit import ACCOUNT, HOST, IID, MI, REGION, STALE_VAULT, agent, node, stale
from tests.stages.repair.test_fleet import CLONE, found, only
from tests.stages.repair.test_orphans import left, view
from tests.stages.repair.test_orphans import run as run  # the fixtures
from tests.stages.repair.test_prove import cloud as cloud

OTHER_MI = "mi-0aaaaaaaaaaaaaaaa"
OPEN = Activation(
    activation_id="activation-1",
    description="old shop",
    default_name="shop",
    iam_role="onprem",
    count=3,
    limit=10,
    expires_at=datetime(2026, 12, 1, tzinfo=UTC),
    tags=("team=web",),
)
USED_UP = OPEN.model_copy(update={"count": 10})
EXPIRED = OPEN.model_copy(update={"expired": True, "expires_at": datetime(2023, 5, 2, tzinfo=UTC)})


def row(activation: Any, node_id: str = MI) -> NodeRow:
    return node(node_id, activation_id="activation-1", activation=activation)


@pytest.mark.parametrize(
    ("activation", "says", "goes_on"),
    [
        (OPEN, "open until 2026-12-01, 3 of 10 registrations used", True),
        (USED_UP, "used up, 10 of 10", False),
        (EXPIRED, "expired on 2023-05-02, 3 of 10", False),
        (None, "exists no more", False),
        (Unknown(unknown="AccessDenied: ssm"), "unknown (AccessDenied: ssm)", False),
    ],
)
@pytest.mark.parametrize("meant", [False, True])
def test_the_finding_says_what_the_registration_came_from(
    activation: Any, says: str, goes_on: bool, meant: bool
) -> None:
    finding = only(found({IID: stale()}, nodes=(row(activation),), meant=meant), "STALE_HYBRID")
    (line,) = [line for line in finding.evidence if "activation-1" in line]
    assert says in line
    assert (
        "delete-activation --region eu-central-1 --activation-id activation-1" in finding.remedy
    ) is goes_on
    refused = not goes_on and not isinstance(activation, Unknown)
    assert ("Do not register it anew by its activation" in finding.remedy) is refused
    if isinstance(activation, Activation):
        assert "(role onprem, 'old shop', its nodes are named 'shop', tags team=web)" in line


def test_a_registration_of_another_account_or_of_an_instance_has_no_activation_here() -> None:
    assert not any("activation" in line for line in only(found({IID: stale()}), "STALE_HYBRID").evidence)
    assert found({IID: agent()}, nodes=(node(IID),)) == []


def test_a_baked_registration_that_goes_on_from_its_activation_says_so() -> None:
    baked = only(found({IID: stale(), CLONE: stale()}, nodes=(row(OPEN),)), "BAKED_REGISTRATION")
    assert any("activation-1" in line and "open until" in line for line in baked.evidence)
    assert "delete-activation" in baked.remedy


def test_hosts_that_one_activation_registered_each_by_itself_are_named_together() -> None:
    other = stale(vault=STALE_VAULT.model_copy(update={"instance_id": OTHER_MI}))
    findings = found({IID: stale(), CLONE: other}, nodes=(row(OPEN), row(OPEN, OTHER_MI)))
    told = {one.host: one.evidence for one in findings if one.code == "STALE_HYBRID"}
    assert f"by the same activation: {CLONE} ({OTHER_MI})" in told[IID]
    assert f"by the same activation: {IID} ({MI})" in told[CLONE]
    alike = found({IID: stale(), CLONE: stale()}, nodes=(row(OPEN),))
    assert not any("by the same" in line for one in alike for line in one.evidence), "one and the same node"


@pytest.mark.parametrize("own", ["mi-0", "mi-7"])
def test_of_many_registrations_a_few_are_named(own: str) -> None:
    (line,) = activations.kin(view(left()), row(OPEN, own), {f"mi-{n}": [IID] for n in range(8)})
    assert line.count("(mi-") == 5 and line.endswith(" and 2 registrations more") and f"({own})" not in line


# -- asking ------------------------------------------------------------------------------------------------


def asked(run: Run) -> list[str]:
    return [call.region for call in run.aws.calls if call.operation == "DescribeActivations"]


def listed(run: Run) -> RepairAccount:
    return parse_account(view(left()), probe_account(run, [HOST]))


def test_activations_are_asked_once_where_a_hybrid_node_is(run: Run, cloud: SsmState) -> None:
    listed(run)
    assert asked(run) == []
    made = boto3.client("ssm", region_name=REGION).create_activation(
        IamRole="onprem",
        Description="old shop",
        DefaultInstanceName="shop",
        RegistrationLimit=7,
        Tags=[{"Key": "team", "Value": "web"}],
    )
    cloud.put_node(MI, activation_id=made["ActivationId"], last_ping=datetime(2025, 1, 1, tzinfo=UTC))
    node = listed(run).node(REGION, MI)
    assert asked(run) == [REGION]
    assert isinstance(node, NodeRow) and isinstance(node.activation, Activation)
    assert node.activation.model_copy(update={"expires_at": None}) == Activation(
        activation_id=made["ActivationId"],
        description="old shop",
        default_name="shop",
        iam_role="onprem",
        limit=7,
        tags=("team=web",),
    )
    assert node.activation.expires_at is not None and made["ActivationCode"] not in node.model_dump_json()
    cloud.put_node(MI, activation_id="deleted-since")
    gone = listed(run).node(REGION, MI)
    assert isinstance(gone, NodeRow) and gone.activation is None


def test_an_answer_that_does_not_come_leaves_it_unknown(run: Run, cloud: SsmState) -> None:
    cloud.put_node(MI, activation_id="activation-1", last_ping=datetime(2025, 1, 1, tzinfo=UTC))

    def refuse(request: AWSRequest, **_: Any) -> AWSResponse:
        body = b'{"__type": "AccessDeniedException", "message": "not for you"}'
        raw = HTTPResponse(BytesIO(body), preload_content=False)
        return AWSResponse(request.url, 400, {}, raw)

    ssm = run.aws._client("ssm", REGION)
    ssm.meta.events.register("before-send.ssm.DescribeActivations", refuse)
    node = listed(run).node(REGION, MI)
    assert isinstance(node, NodeRow) and isinstance(node.activation, Unknown)
    assert node.activation.unknown.startswith("ACCESS_DENIED")


def test_a_vault_of_a_region_without_hosts_is_asked_there_once_for_all_clones(
    run: Run, cloud: SsmState
) -> None:
    away = "eu-west-3"
    made = boto3.client("ssm", region_name=away).create_activation(IamRole="onprem")["ActivationId"]
    ssm_state(ACCOUNT, away).put_node(MI, activation_id=made, last_ping=datetime(2025, 1, 1, tzinfo=UTC))
    output = f"vault_instance_id={MI}\nvault_region={away}\nend=yes\n"
    account = listed(run)
    for _ in range(2):
        seen = parse_agent(output)
        row = probe._vault_node(run, view(left()), seen)
        rows = probe._vault_activations(run, seen, row)
        node = vault_node(account, seen, row, rows)
        assert isinstance(node, NodeRow) and isinstance(node.activation, Activation)
        assert node.activation.activation_id == made
    assert asked(run) == [away]
