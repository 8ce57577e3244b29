"""What the probes make of answers that lack members, or have others than their API says.

The answers are given to botocore in the place of a server's, so that all of `Aws` is as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from haltuun.config import AccountConfig, Config
from haltuun.engine import open_run
from haltuun.ledger import Ledger
from haltuun.model import Change, Host, Reach, StageName, Unknown
from haltuun.run import Run
from haltuun.stages.backup.points import get_jobs, get_points
from haltuun.stages.backup.probe import get_protected, get_snapshots
from haltuun.stages.commands import send
from haltuun.stages.discover import list_hosts
from haltuun.stages.order import STAGES
from haltuun.stages.pages import one_of
from haltuun.stages.patch.probe import get_patch_states
from haltuun.stages.verify.account import get_attached
from haltuun.stages.verify.kinds import KINDS as VERIFY_KINDS
from haltuun.stages.verify.plan import ASSOCIATE
from tests.stages.test_hostile_hosts import ODD, view
from tests.stages.test_hostile_pages import MISSING, OTHER, SESSION, Pages

ACCOUNT, REGION = "111122223333", "eu-central-1"
ODD_ONE, SOUND = "i-0aaaaaaaaaaaaaaaa", "i-0bbbbbbbbbbbbbbbb"
HOSTS = [Host(account=ACCOUNT, region=REGION, instance_id=i, name=i[-1]) for i in (ODD_ONE, SOUND)]
SERVICES = ("autoscaling", "backup", "ec2", "ecs", "iam", "logs", "ssm", "sts")
COMMAND = "8bf6cbbf-0000-4000-8000-000000000000"
AT = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
TOKENS = ("NextToken", "nextToken", "Marker", "IsTruncated")  # of a page after this one

Answer = Callable[[str, str, Mapping[str, Any]], Any]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    config = Config(accounts=[AccountConfig(id=ACCOUNT, alias="acme", regions=[REGION])])
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('odd')}/ledger.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        run = open_run(config, ACCOUNT, "apply", lambda run, host: None, ledger=ledger)  # type: ignore[arg-type,return-value]
        yield run
    ledger.close()


def answering(run: Run, answer: Answer) -> Run:
    """A fresh run like it, to which AWS answers so: service, operation and parameters → the answer."""
    made = open_run(run.config, ACCOUNT, "apply", run.opener, ledger=run.ledger)

    def call(model: Any, **_: Any) -> tuple[Any, Any]:
        if model.name == "GetCallerIdentity":
            said: Any = {"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:role/haltuun"}
        elif model.name == "DescribeRegions":
            said = {"Regions": [{"RegionName": REGION}]}
        else:
            said = answer(model.service_model.service_name, model.name, {})
        return SimpleNamespace(status_code=200), said

    for service in SERVICES:
        made.aws._client(service, REGION).meta.events.register_first("before-call", call)
        made.aws._client(service, REGION, once=True).meta.events.register_first("before-call", call)
    return made


# -- rows of single hosts -------------------------------------------------------------------------------


def _arn(instance_id: str) -> str:
    return f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{instance_id}"


def _point(i: str) -> dict[str, Any]:
    return {"RecoveryPointArn": f"arn:{i}", "ResourceArn": _arn(i), "Status": "COMPLETED", "CreationDate": AT}


def _job(i: str) -> dict[str, Any]:
    return {"BackupJobId": i, "ResourceArn": _arn(i), "State": "RUNNING", "CreationDate": AT}


def _protected(i: str) -> dict[str, Any]:
    return {"ResourceArn": _arn(i), "LastBackupVaultArn": "arn:vault:x", "LastBackupTime": AT}


def _snapshot(i: str) -> dict[str, Any]:
    return {"SnapshotId": f"snap-{i}", "VolumeId": i, "State": "completed", "StartTime": AT}


def _state(i: str) -> dict[str, Any]:
    return {"InstanceId": i, "OperationEndTime": AT, "MissingCount": 0}


def _attached(i: str) -> dict[str, Any]:
    return {"InstanceId": i, "State": "associated", "IamInstanceProfile": {"Arn": f"arn:profile/{i}"}}


ROWS: dict[str, tuple[Callable[[str], dict[str, Any]], str, Callable[[Run], Any]]] = {
    "points": (_point, "RecoveryPoints", lambda run: get_points(run, REGION)),
    "jobs": (_job, "BackupJobs", lambda run: get_jobs(run, REGION)),
    "protected": (_protected, "Results", lambda run: get_protected(run, REGION)),
    "snapshots": (_snapshot, "Snapshots", lambda run: get_snapshots(run, REGION, [ODD_ONE, SOUND])),
    "states": (_state, "InstancePatchStates", lambda run: get_patch_states(run, REGION, [ODD_ONE, SOUND])),
    "attached": (_attached, "IamInstanceProfileAssociations", lambda run: get_attached(run.aws, REGION)),
}
# Members that decide whether the row counts at all: with another text it rightly does not.
DECIDES = ("Status", "State")


def _odd(row: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The row with one member missing, or of another kind."""
    for name in row:
        for other in (*OTHER, MISSING):
            mutated = {key: value for key, value in row.items() if key != name or other is not MISSING}
            if other is not MISSING:
                mutated[name] = other
            yield name, other, mutated


@pytest.mark.parametrize("name", ROWS)
def test_an_odd_row_says_nothing_of_its_host_and_takes_no_other_along(opened: Run, name: str) -> None:
    row, key, get = ROWS[name]
    given: list[Any] = [row(ODD_ONE), row(SOUND)]
    run = answering(opened, lambda service, operation, parameters: {key: deepcopy(given)})
    whole = get(run)
    assert set(whole) == {ODD_ONE, SOUND}
    for member, other, mutated in _odd(row(ODD_ONE)):
        given[0] = mutated
        seen = get(run)
        assert seen[SOUND] == whole[SOUND], (member, other)
        counts = member not in DECIDES or not isinstance(other, str)
        if counts and not (name in ("snapshots", "attached") and member in DECIDES):
            assert isinstance(other, str) or one_of(seen, ODD_ONE) is not None, (member, other)


def test_an_instance_that_is_none_is_left_out_and_nobody_is_said_to_be_gone(opened: Run) -> None:
    given: list[Any] = []
    run = answering(
        opened, lambda service, operation, parameters: {"Reservations": [{"Instances": deepcopy(given)}, {}]}
    )
    sound = {"InstanceId": SOUND, "State": {"Name": "running"}}
    for odd in ({"State": {"Name": "running"}}, {"InstanceId": ODD_ONE}, {"InstanceId": 7, "State": None}):
        given[:] = [odd, sound]
        assert [host.instance_id for host in list_hosts(run)] == [SOUND]
        assert run.listed == set()
    given[:] = [sound]
    list_hosts(run)
    assert run.listed == {REGION}


def test_an_association_that_does_not_say_its_profile_is_unknown(opened: Run) -> None:
    rows = {
        "IamInstanceProfileAssociations": [{"InstanceId": ODD_ONE, "State": "associated"}, _attached(SOUND)]
    }
    run = answering(opened, lambda service, operation, parameters: deepcopy(rows))
    for instance_id, known in ((ODD_ONE, False), (SOUND, True)):
        change = Change(
            stage=StageName.verify,
            kind=ASSOCIATE,
            region=REGION,
            target=instance_id,
            hosts=(instance_id,),
            before={"profile": None},
            after={"profile": "haltuun"},
            reach=Reach.host,
            summary="Attach.",
            no_undo="A test's.",
        )
        assert isinstance(VERIFY_KINDS[ASSOCIATE].look(run, change), dict) == known


@pytest.mark.parametrize(
    "command", [None, {}, {"CommandId": 7}, {"CommandId": COMMAND}, {"CommandId": COMMAND, "Status": []}]
)
def test_a_command_that_does_not_say_how_it_ended_has_not_ended(opened: Run, command: Any) -> None:
    row = {"Status": "Failed", "TargetCount": 2, "CompletedCount": 2, **(command or {})}
    answers = {
        "SendCommand": {"Command": command} if command is not None else {},
        "ListCommands": {"Commands": [row, {}]},
        "ListCommandInvocations": {"CommandInvocations": [{}, {"InstanceId": SOUND, "Status": "Success"}]},
    }
    run = answering(opened, lambda service, operation, parameters: deepcopy(answers[operation]))
    sent = send(run, REGION, [ODD_ONE, SOUND], "AWS-RunShellScript", lambda some: {"commands": ["true"]}, "")
    endings = sent.look(run)
    if isinstance((command or {}).get("CommandId"), str):
        assert ODD_ONE not in endings and endings[SOUND] == ""
    else:
        assert set(sent.refused) == {ODD_ONE, SOUND} and all(endings.values())


# -- whole stages ---------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), texts=st.lists(ODD, min_size=1, max_size=6))
def test_no_answer_ends_a_stage(opened: Run, seed: int, texts: list[str]) -> None:
    pages = Pages(Random(seed), texts, whole=False)

    def answer(service: str, operation: str, parameters: Mapping[str, Any]) -> Any:
        shape = SESSION.get_service_model(service).operation_model(operation).output_shape
        made = pages.made_of(shape, ()) if shape is not None else {}
        return {key: value for key, value in made.items() if key not in TOKENS}

    run = answering(opened, answer)
    known = {host.instance_id: host for host in HOSTS}
    seen = replace(
        view(), hosts=known, entering=tuple(known), facts=run.facts, account_facts=run.account_facts
    )
    list_hosts(run)
    for stage in STAGES:
        if stage.name is StageName.repair:
            continue
        raw = stage.probe_account(run, HOSTS)
        account = stage.parse_account(seen, raw)
        json.loads(account.model_dump_json())
        run.account_facts[stage.name] = account
        nobody = Unknown(unknown="SSH_REFUSED: nobody was asked")
        run.facts[stage.name] = {i: stage.parse_host(seen, host, raw, nobody) for i, host in known.items()}
