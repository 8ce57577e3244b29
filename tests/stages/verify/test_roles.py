"""Our own role and profile: planned part by part, killed at each call, taken back, kept while in use.

The engine and moto's IAM and EC2 in this process; what is on a host is assumed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import botocore.exceptions
import pytest
from moto import mock_aws

from haltuun import perform
from haltuun.config import AccountConfig, Config
from haltuun.effects import open_changes
from haltuun.engine import Takeover, open_run
from haltuun.errors import AccessDenied
from haltuun.ledger import Ledger
from haltuun.model import Change, Host, Json, Reach, StageName, Undo, Unknown
from haltuun.stages import polling
from haltuun.stages.base import View
from haltuun.stages.verify import STAGE as VERIFY
from haltuun.stages.verify.facts import VerifyAccount, VerifyFacts
from haltuun.stages.verify.needs import OWN_ROLE, POLICY_NAME, own_policy, own_trust
from haltuun.stages.verify.parse_account import digest, role_of
from haltuun.stages.verify.plan import ASSOCIATE, plan
from haltuun.stages.verify.roles import WHOLE
from haltuun.undo import Undoing, open_undo
from lab.cloud.extensions import apply_extensions
from tests.stages.account_kit import go_back
from tests.stages.account_state import differences, roles_state
from tests.stages.test_kill_walk import MANY, killed_going_back, killed_in

ACCOUNT, REGION = "123456789012", "eu-central-1"  # moto's
CONFIG = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=[REGION])])
HOST = Host(account=ACCOUNT, region=REGION, instance_id="i-0abc", name="batch-01")
POLICY = own_policy("aws", ACCOUNT)
OLDER = {"Version": "2012-10-17", "Statement": [{**POLICY["Statement"][0], "Action": ["ssm:GetManifest"]}]}
SOMEBODYS = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}],
}


# -- the plan ------------------------------------------------------------------------------------


def planned(**own: Any) -> list[Change]:
    """For one host without a profile, with this of our own there."""
    there = {"own_role": "absent", "own_profile": "absent", "own_inline": None, **own}
    facts = VerifyFacts(source="host", right_box=True, compromise="none seen", credentials="none")
    view = View(
        account=CONFIG.accounts[0],
        config=CONFIG,
        account_id=ACCOUNT,
        partition="aws",
        now=None,  # type: ignore[arg-type]
        run_id="r",
        hosts={HOST.instance_id: HOST},
        entering=(HOST.instance_id,),
        facts={StageName.verify: {HOST.instance_id: facts.model_copy(update={"profile_arn": None})}},
        account_facts={StageName.verify: VerifyAccount(**there)},
    )
    return list(plan(view).changes)


MISSING = [
    ({}, ["role", "role.policy", "instance_profile.create", "instance_profile.role"]),
    ({"own_profile": "empty"}, ["role", "role.policy", "instance_profile.role"]),
    ({"own_role": "ours"}, ["role.policy", "instance_profile.create", "instance_profile.role"]),
    ({"own_role": "ours", "own_profile": "empty"}, ["role.policy", "instance_profile.role"]),
    ({"own_role": "ours", "own_profile": "ours"}, ["role.policy"]),
    ({"own_role": "ours", "own_inline": POLICY}, ["instance_profile.create", "instance_profile.role"]),
    ({"own_role": "ours", "own_profile": "empty", "own_inline": POLICY}, ["instance_profile.role"]),
    ({"own_role": "ours", "own_profile": "ours", "own_inline": POLICY}, []),
    ({"own_role": "ours", "own_profile": "ours", "own_inline": OLDER}, ["role.policy"]),
    ({"own_role": "ours", "own_profile": "ours", "own_inline": SOMEBODYS}, []),
]


@pytest.mark.parametrize(("there", "missing"), MISSING)
def test_each_part_that_is_missing_is_a_change_of_its_own(there: dict[str, Any], missing: list[str]) -> None:
    *own, associate = planned(**there)
    assert [change.kind for change in own] == [f"iam.{kind}" for kind in missing]
    assert associate.kind == "ec2.instance_profile.associate"
    assert set(associate.depends_on) == {change.id for change in own}
    by_kind = {change.kind.removeprefix("iam."): change for change in own}
    needs = {kind: {by_kind[k].id for k in by_kind if k in some} for kind, some in NEEDS.items()}
    assert {kind: set(change.depends_on) for kind, change in by_kind.items()} == {
        k: needs[k] for k in by_kind
    }
    for change in own:
        assert (change.target, change.hosts) == (OWN_ROLE, (HOST.instance_id,))
        assert change.reach is (Reach.shared if change.kind == "iam.role.policy" else Reach.account)
        assert change.undo == Undo(kind=change.kind, after=change.before)


NEEDS: dict[str, tuple[str, ...]] = {
    "role": (),
    "role.policy": ("role",),
    "instance_profile.create": (),
    "instance_profile.role": ("role", "instance_profile.create"),
}


@pytest.mark.parametrize("part", ["own_role", "own_profile"])
def test_what_is_somebody_elses_or_unseen_is_not_built_on(part: str) -> None:
    assert planned(**{part: "foreign"}) == []
    assert planned(**{part: Unknown(unknown="denied")}) == []


def test_an_approved_part_is_the_same_after_a_kill_whatever_else_is_there_by_then() -> None:
    """So that the plan that was approved holds on."""
    whole = {change.id for change in planned()}
    for there, _ in MISSING[:-2]:
        assert {change.id for change in planned(**there)} <= whole


# -- killed at every call ------------------------------------------------------------------------


@dataclass
class Account:
    """`host` has no profile; discover, and what the host itself says, are left out."""

    ledger: Ledger
    host: Host
    gone: set[str] = field(default_factory=set)  # runs that were taken back

    def client(self, service: str) -> Any:
        return boto3.client(service, region_name=REGION)

    def state(self) -> dict[str, str]:
        return roles_state(self.client)

    def start(self) -> Takeover:
        run = open_run(CONFIG, "acme", "apply", _nobody, ledger=self.ledger)
        stage = replace(VERIFY, needs=(), probe_host=None, parse_host=_facts)
        takeover = Takeover(run, [stage], lister=lambda run: [self.host])
        takeover.begin({})
        takeover.look_account(StageName.verify)
        takeover.settle(StageName.verify)
        takeover.plan_stage(StageName.verify)
        takeover.make_plan()
        return takeover

    def go(self, takeover: Takeover) -> None:
        takeover.approve(None, everything=True, who="test")
        takeover.enter(StageName.verify)
        takeover.apply_account(StageName.verify)
        takeover.work_host(StageName.verify, self.host.instance_id)

    def take_over(self, kill: str = "") -> str | None:
        takeover = self.start()
        if kill:
            return killed_in(takeover, self.go, kill)
        takeover.reconcile()
        self.go(takeover)
        takeover.end(takeover.outcome())
        return None

    def runs(self, mode: str = "apply") -> list[str]:
        return [row.run for row in self.ledger.runs(ACCOUNT) if row.mode == mode]

    def undo(self, run: str, kill: str = "") -> str | Undoing:
        """What it was killed at, else how it went."""
        undoing = self.look_at_undo(run, approved=True)
        return killed_going_back(undoing, kill) or undoing

    def look_at_undo(self, run: str, *, approved: bool = False) -> Undoing:
        undoing = open_undo(
            CONFIG, run, approved=approved, stages=[VERIFY], opener=_nobody, ledger=self.ledger
        )
        undoing.begin("test")
        return undoing

    def undo_all(self, kill: str = "") -> str | None:
        """Of all runs, the last one first; what it was killed at."""
        for run in reversed(self.runs()):
            at = self.undo(run, kill) if run not in self.gone else None
            if isinstance(at, str):
                return at
            self.gone.add(run)
        return None


def _nobody(run: Any, host: Host) -> Any:
    raise AssertionError("nobody logs in here")


def _facts(view: View, host: Host, raw: Json, host_raw: Json) -> VerifyFacts:
    role, credentials = role_of(view, host)
    allowed = credentials == "instance role"
    return VerifyFacts(
        source="host",
        right_box=True,
        compromise="none seen",
        credentials=credentials,
        role_name=role,
        profile_arn=raw["profile_of"][host.instance_id],
        ssm_allowed=allowed,
        logs_allowed=allowed,
    )


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(polling, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(perform, "SETTLES_S", 0.1)  # moto shows at once what was made
    apply_extensions()
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with mock_aws():
        yield Account(ledger, HOST.model_copy(update={"instance_id": _instance()}))
    ledger.close()


def _instance() -> str:
    ec2 = boto3.client("ec2", region_name=REGION)
    image = ec2.register_image(Name=uuid.uuid4().hex)["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)
    return str(made["Instances"][0]["InstanceId"])


MADE = [
    "iam:CreateRole",
    "iam:PutRolePolicy",
    "iam:CreateInstanceProfile",
    "iam:AddRoleToInstanceProfile",
    "ec2:AssociateIamInstanceProfile",
]
TAKEN_BACK = [
    "ec2:DisassociateIamInstanceProfile",
    "iam:RemoveRoleFromInstanceProfile",
    "iam:DeleteInstanceProfile",
    "iam:DeleteRolePolicy",
    "iam:DeleteRole",
]


def test_killed_at_every_call_it_is_made_whole_and_every_call_of_the_way_back_is_made(
    account: Account,
) -> None:
    first = account.state()
    assert walk(account.take_over) == MADE
    again = account.start()
    assert again.plan is not None and again.plan.changes == ()
    again.end(again.outcome())
    assert sorted(walk(account.undo_all)) == sorted(TAKEN_BACK)
    assert differences(first, account.state()) == []
    assert open_changes(account.ledger.change_events(ACCOUNT)) == []


def test_an_undo_killed_at_every_call_takes_all_back_and_so_does_the_undo_of_that(account: Account) -> None:
    first = account.state()
    account.take_over()
    made = account.state()
    (run,) = account.runs()
    assert walk(lambda kill: at if isinstance(at := account.undo(run, kill), str) else None) == TAKEN_BACK
    assert differences(first, account.state()) == []
    account.take_over()
    again = account.undo(account.runs()[-1])
    assert isinstance(again, Undoing) and again.outcome() == "Undone"
    in_turn = account.undo(account.runs("undo")[-1])
    assert isinstance(in_turn, Undoing) and in_turn.outcome() == "Undone"
    assert account.state().keys() == made.keys(), "it is there again"
    assert account.undo_all() is None
    assert differences(first, account.state()) == []


def walk(go: Any) -> list[str]:
    """Killed before and after each first change, until there is none."""
    killed: list[str] = []
    for _ in range(MANY):
        at = go("before")
        assert go("after") == at
        if at is None:
            return killed
        killed.append(at)
    raise AssertionError(f"it comes to no end: {killed}")


def test_iam_that_does_not_see_yet_what_was_made_is_asked_again(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it refuses because botocore sent it again, after an answer that was lost, is done, also where
    the next look does not show it yet."""
    first = account.state()
    send = botocore.client.BaseClient._make_api_call
    late = dict.fromkeys(("PutRolePolicy", "AddRoleToInstanceProfile"), "NoSuchEntity")
    late |= dict.fromkeys(("DeleteInstanceProfile", "DeleteRole"), "DeleteConflict")
    late["AssociateIamInstanceProfile"] = "IncorrectState"
    says = {"IncorrectState": "ResultDetail: { Code=InstanceIdentityProfileNotFound }"}
    sent_again = {
        "CreateRole": ("EntityAlreadyExists", "GetRole"),
        "CreateInstanceProfile": ("EntityAlreadyExists", "GetInstanceProfile"),
        "AddRoleToInstanceProfile": ("LimitExceeded", "GetInstanceProfile"),
    }

    def answer(self: Any, operation: str, parameters: Any) -> Any:
        code = late.pop(operation, "")
        if not code and operation in sent_again:
            send(self, operation, parameters)
            code, look = sent_again.pop(operation)
            late[look] = "NoSuchEntity"
        if code:
            error = {"Code": code, "Message": says.get(code, "so")}
            raise botocore.exceptions.ClientError({"Error": error}, operation)
        return send(self, operation, parameters)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", answer)
    account.take_over()
    assert account.state().keys() - first.keys() == {
        f"iam:roles/{OWN_ROLE}",
        f"iam:roles/{OWN_ROLE}/attached",
        f"iam:roles/{OWN_ROLE}/{POLICY_NAME}",
        f"iam:profiles/{OWN_ROLE}",
        f"ec2:associations/{account.host.instance_id}",
    }
    assert account.undo_all() is None
    assert differences(first, account.state()) == []
    assert not late and not sent_again


def test_a_role_that_somebody_has_put_to_use_keeps_its_policy_and_it_is_said_why(account: Account) -> None:
    account.take_over()
    iam = account.client("iam")
    arn = iam.create_policy(PolicyName="theirs", PolicyDocument=json.dumps(SOMEBODYS))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=OWN_ROLE, PolicyArn=arn)
    iam.put_role_policy(RoleName=OWN_ROLE, PolicyName="buckets", PolicyDocument=json.dumps(SOMEBODYS))
    iam.create_instance_profile(InstanceProfileName="web")
    iam.add_role_to_instance_profile(InstanceProfileName="web", RoleName=OWN_ROLE)
    *gone, policy, role = _steps(account.undo(account.runs()[0]))
    assert {step.status for step in gone} == {"done"}
    for step in (policy, role):
        assert step.status == "kept"
        assert "the instance profile web has it, the policy theirs is attached to it" in step.message
    iam.detach_role_policy(RoleName=OWN_ROLE, PolicyArn=arn)
    iam.remove_role_from_instance_profile(InstanceProfileName="web", RoleName=OWN_ROLE)
    for step in _steps(account.undo(account.runs()[0])):
        assert (step.status, "the inline policy buckets is in it" in step.message) == ("kept", True)
    iam.delete_role_policy(RoleName=OWN_ROLE, PolicyName="buckets")
    assert account.undo_all() is None
    assert not any(OWN_ROLE in name for name in account.state())


def test_an_undo_of_an_undo_gives_no_host_what_somebody_made_meanwhile(account: Account) -> None:
    account.take_over()
    undoing = account.undo(account.runs()[0])
    assert isinstance(undoing, Undoing) and undoing.outcome() == "Undone"
    iam = account.client("iam")
    iam.create_role(RoleName="admin", AssumeRolePolicyDocument=json.dumps(own_trust("aws")))
    iam.create_instance_profile(InstanceProfileName=OWN_ROLE)
    iam.add_role_to_instance_profile(InstanceProfileName=OWN_ROLE, RoleName="admin")
    in_turn = account.undo(account.runs("undo")[-1])
    (host,) = [s for s in _steps(in_turn) if s.change.kind == ASSOCIATE]
    assert host.status == "waits" and "What it builds on is not there" in host.message
    assert not any(name.startswith("ec2:associations/") for name in account.state())


# -- what an instance uses -----------------------------------------------------------------------


def test_an_undo_asks_once_a_region_who_has_the_profile_and_once_before_it_is_taken_off(
    account: Account,
) -> None:
    account.take_over()
    (run,) = account.runs()
    undone = account.undo(run)
    assert isinstance(undone, Undoing) and undone.outcome() == "Undone"
    asked = [call.operation for call in undone.run.aws.calls]
    assert asked.count("DescribeIamInstanceProfileAssociations") == 2


def test_what_another_instance_has_come_to_use_is_kept_and_named(account: Account) -> None:
    """IAM would empty and delete it under the instance."""
    first = account.state()
    account.take_over()
    other = _instance()
    first |= {name: text for name, text in account.state().items() if other in name}
    ec2 = account.client("ec2")
    named = {"IamInstanceProfile": {"Name": OWN_ROLE}, "InstanceId": other}
    association = ec2.associate_iam_instance_profile(**named)["IamInstanceProfileAssociation"][
        "AssociationId"
    ]
    (run,) = account.runs()
    look = account.look_at_undo(run)
    look.preview([step.change.id for step in look.steps])
    undone = account.undo(run)
    assert isinstance(undone, Undoing)
    for steps, went in ((look.steps, "ready"), (undone.steps, "done")):
        assert [step.status for step in steps] == [went, "kept", "kept", "kept", "kept"]
        assert all(f"In use by {other} ({REGION})" in step.message for step in steps[1:])
    left = account.state()
    assert {f"iam:roles/{OWN_ROLE}/{POLICY_NAME}", f"iam:profiles/{OWN_ROLE}"} <= left.keys()
    assert f"ec2:associations/{account.host.instance_id}" not in left
    ec2.disassociate_iam_instance_profile(AssociationId=association)
    assert account.undo_all() is None
    assert differences(first, account.state()) == []


def test_a_look_beforehand_knows_that_the_runs_own_hosts_will_have_gone_back(account: Account) -> None:
    account.take_over()
    look = account.look_at_undo(account.runs()[0])
    look.preview([step.change.id for step in look.steps])
    assert {step.status for step in look.steps} == {"ready"}


def test_what_a_later_run_gave_its_own_host_keeps_what_an_earlier_one_made(account: Account) -> None:
    begun = account.start()
    begun.approve(None, everything=True, who="test")
    begun.enter(StageName.verify)
    begun.apply_account(StageName.verify)
    begun.end("Stopped")
    account.take_over()
    look = account.look_at_undo(begun.run.id)
    look.preview([step.change.id for step in look.steps])
    for steps in (look.steps, _steps(account.undo(begun.run.id))):
        assert [step.status for step in steps] == ["kept"] * 4
        assert all(account.host.label in step.message for step in steps)
    assert account.undo_all() is None
    assert not any(OWN_ROLE in name for name in account.state())


def test_whether_it_is_in_use_and_nobody_can_tell_takes_nothing_away(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.take_over()
    undoing = account.look_at_undo(account.runs()[0], approved=True)
    real = undoing.run.aws.pages

    def denied(service: str, operation: str, *more: Any, **parameters: Any) -> Any:
        if operation == "DescribeIamInstanceProfileAssociations":
            raise AccessDenied("denied.", subject="ec2", remedy="Allow it.")
        return real(service, operation, *more, **parameters)

    monkeypatch.setattr(undoing.run.aws, "pages", denied)
    go_back(undoing)
    undoing.end(undoing.outcome())
    assert {step.status for step in undoing.steps} == {"unknown", "waits"}
    assert f"iam:profiles/{OWN_ROLE}" in account.state()


# -- ledgers of an earlier version ---------------------------------------------------------------


def test_what_an_earlier_version_made_as_one_change_is_taken_back_and_made_again(account: Account) -> None:
    first = account.state()
    run = _made_as_one(account)
    made = account.state()
    assert walk(lambda kill: at if isinstance(at := account.undo(run, kill), str) else None) == TAKEN_BACK[1:]
    assert differences(first, account.state()) == []
    undone = [account.undo(one) for one in reversed(account.runs("undo"))]
    assert [one.outcome() for one in undone if isinstance(one, Undoing) and one.steps] == ["Undone"]
    assert account.state().keys() == made.keys()


def test_what_an_earlier_version_made_stays_where_it_was_changed_or_is_in_use(account: Account) -> None:
    run = _made_as_one(account)
    named = {"IamInstanceProfile": {"Name": OWN_ROLE}, "InstanceId": account.host.instance_id}
    ec2 = account.client("ec2")
    association = ec2.associate_iam_instance_profile(**named)["IamInstanceProfileAssociation"][
        "AssociationId"
    ]
    assert [step.status for step in _steps(account.undo(run))] == ["kept"]
    ec2.disassociate_iam_instance_profile(AssociationId=association)
    given = {"RoleName": OWN_ROLE, "PolicyName": POLICY_NAME, "PolicyDocument": json.dumps(SOMEBODYS)}
    account.client("iam").put_role_policy(**given)
    assert [step.status for step in _steps(account.undo(run))] == ["stale"]
    assert f"iam:profiles/{OWN_ROLE}" in account.state()


def _steps(undone: str | Undoing) -> Any:
    assert isinstance(undone, Undoing)
    return undone.steps


def _made_as_one(account: Account) -> str:
    """A run of the version that knew `iam.instance_profile` alone, by its ledger and in the account."""
    iam, tags = account.client("iam"), [{"Key": "haltuun:managed", "Value": "true"}]
    trust = own_trust("aws")
    iam.create_role(RoleName=OWN_ROLE, AssumeRolePolicyDocument=json.dumps(trust), Tags=tags)
    iam.put_role_policy(RoleName=OWN_ROLE, PolicyName=POLICY_NAME, PolicyDocument=json.dumps(POLICY))
    iam.create_instance_profile(InstanceProfileName=OWN_ROLE, Tags=tags)
    iam.add_role_to_instance_profile(InstanceProfileName=OWN_ROLE, RoleName=OWN_ROLE)
    before = {"role": "absent", "profile": "absent", "policy": None, "trust": None}
    change = Change(
        stage=StageName.verify,
        kind=WHOLE,
        region="global",
        target=OWN_ROLE,
        hosts=(account.host.instance_id,),
        before=before,
        after={"role": "ours", "profile": "ours", "policy": digest(POLICY), "trust": digest(trust)},
        reach=Reach.account,
        summary=f"Create the role and instance profile {OWN_ROLE} for hosts that have none.",
        undo=Undo(kind=WHOLE, after=before),
        detail={"trust": trust, "policy": POLICY},
    )
    run = open_run(CONFIG, "acme", "apply", _nobody, ledger=account.ledger)
    account.ledger.start_run(ACCOUNT, run.id, {"mode": "apply"}, run.now())
    for event in ("intended", "sent", "confirmed"):
        run.journal(change, event)
    account.ledger.end_run(ACCOUNT, run.id, "Done", {}, run.now())
    return run.id
