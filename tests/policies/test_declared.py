"""The declared IAM actions against what the code can ask for, read from its source."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

from deployments.iam.policies import declared, files
from haltuun.aws import READS
from haltuun.stages.backup.names import POLICIES, ROLE, VAULT
from haltuun.stages.logs.agent_config import Wanted
from haltuun.stages.logs.document import document_name
from haltuun.stages.logs.names import GROUP_PREFIX, PARAMETER_PREFIX, SESSIONS_DOCUMENT
from haltuun.stages.logs.plan import shipping_value
from haltuun.stages.patch.kinds import TASK_VALUE
from haltuun.stages.patch.parse import GROUP_KEYS
from haltuun.stages.patch.plan import SCAN_VALUE
from haltuun.stages.tags import ARMED, BACKUP, LOGS, MANAGED, SCAN
from haltuun.stages.verify.needs import OWN_ROLE
from tests.policies.calls import actions_named, operations_called

# IAM quota "Role policies: total characters", without white space; the template's two are inline.
INLINE_CHARACTERS = 10_240


def test_every_call_in_the_code_is_declared() -> None:
    known = declared()
    free = {action.action for action in known.free}
    called = set(operations_called()) - {"sts:AssumeRole"}  # the caller's right, on the way to the role
    assert called - free - known.actions() == set()
    assert free <= called


def test_every_permission_of_a_change_is_declared() -> None:
    assert set(actions_named()) - declared().actions() == set()


def test_nothing_is_declared_that_nobody_needs() -> None:
    known = declared()
    assert known.actions("call", "undo") - set(operations_called()) == set()
    assert known.actions("dependent") & set(operations_called()) == set()
    named = set(actions_named())
    assert known.actions("dependent") - named == set(), "a change has to name what it takes"


def test_reading_and_writing_are_told_apart_as_the_code_does() -> None:
    for statement in declared().statements:
        for action in statement.actions:
            reads = action.action.split(":")[1].startswith(READS)
            assert action.use == "dependent" or reads == (statement.access == "read"), action.action


def test_an_action_has_one_use() -> None:
    known = declared()
    assert known.actions("call") & known.actions("undo") == set()
    assert len({s.sid for s in known.statements}) == len(known.statements)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_the_files_are_made_of_the_list(path: object) -> None:
    made = files()
    assert path.read_text(encoding="utf-8") == made[path], "run 'python -m deployments.iam'"  # type: ignore[attr-defined,index]


def test_both_policies_fit_inline_into_one_role() -> None:
    text = "".join(text for path, text in files().items() if path.name in ("read.json", "write.json"))
    text = text.replace("${AWS::Partition}", "aws-us-gov").replace("${AWS::AccountId}", "111122223333")
    assert len(re.sub(r"\s", "", text)) <= INLINE_CHARACTERS


def test_no_write_is_allowed_on_everything_without_a_condition() -> None:
    # AWS knows no resources for these (Service Authorization Reference).
    without_resources = {"ssm:CancelCommand", "backup-storage:MountCapsule"}
    for statement in declared().statements:
        if statement.access == "write" and statement.resources == ("*",) and not statement.condition:
            assert {action.action for action in statement.actions} <= without_resources


@pytest.mark.parametrize(
    ("sid", "arn"),
    [
        ("OwnRoles", f"arn:aws:iam::111122223333:role/{OWN_ROLE}"),
        ("OwnRoles", f"arn:aws:iam::111122223333:instance-profile/{OWN_ROLE}"),
        ("OwnRoles", f"arn:aws:iam::111122223333:role/{ROLE}"),
        ("PassOwnRoles", f"arn:aws:iam::111122223333:role/{OWN_ROLE}"),
        ("PassOwnRoles", f"arn:aws:iam::111122223333:role/{ROLE}"),
        ("OwnVault", f"arn:aws:backup:eu-central-1:111122223333:backup-vault:{VAULT}"),
        ("OwnLogGroups", f"arn:aws:logs:eu-central-1:111122223333:log-group:{GROUP_PREFIX}acme/syslog"),
        ("ReadOwnLogs", f"arn:aws:logs:eu-central-1:111122223333:log-group:{GROUP_PREFIX}acme/marker"),
        ("Preferences", f"arn:aws:ssm:eu-central-1:111122223333:parameter/{PARAMETER_PREFIX}1f2e"),
        ("Preferences", f"arn:aws:ssm:eu-central-1:111122223333:document/{SESSIONS_DOCUMENT}"),
        ("Preferences", f"arn:aws:ssm:eu-central-1:111122223333:document/{document_name()}"),
        ("LookAtPreferences", f"arn:aws:ssm:eu-central-1:111122223333:document/{document_name()}"),
    ],
)
def test_the_names_that_the_code_uses_are_covered(sid: str, arn: str) -> None:
    assert any(fnmatchcase(arn, pattern) for pattern in _resources(sid))


def _resources(sid: str) -> list[str]:
    statement = next(s for s in declared().statements if s.sid == sid)
    return [
        resource.replace("${AWS::Partition}", "aws").replace("${AWS::AccountId}", "111122223333")
        for resource in statement.resources
    ]


@pytest.mark.parametrize("sid", ["RunCommands", "Associate", "AssociatedThings"])
def test_the_documents_that_the_code_associates_are_covered(sid: str) -> None:
    shipping = shipping_value(Wanted(mode="replace", files=(), text="{}", hash="1f2e"))
    for value, account in ((SCAN_VALUE, ""), (shipping, "111122223333"), (TASK_VALUE, "")):
        assert isinstance(value, dict)
        arn = f"arn:aws:ssm:eu-central-1:{account}:document/{value['document']}"
        assert any(fnmatchcase(arn, pattern) for pattern in _resources(sid)), arn


def test_the_tags_that_the_code_sets_are_covered() -> None:
    conditions = {s.sid: s.condition or {} for s in declared().statements}
    allowed = conditions["TagInstances"]["ForAllValues:StringLike"]["aws:TagKeys"]
    for key in (ARMED, BACKUP, LOGS, SCAN, *GROUP_KEYS):
        assert any(fnmatchcase(key, pattern) for pattern in allowed), key
    assert conditions["MarkAsOwn"]["ForAllValues:StringEquals"]["aws:TagKeys"] == [MANAGED]
    assert conditions["MakeTagged"]["StringEquals"] == {f"aws:RequestTag/{MANAGED}": "true"}
    assert conditions["ChangeOnlyOwn"]["StringEquals"] == {f"aws:ResourceTag/{MANAGED}": "true"}


def test_the_policies_that_the_code_attaches_are_covered() -> None:
    conditions = {s.sid: s.condition or {} for s in declared().statements}
    arns = conditions["BackupPolicy"]["ArnEquals"]["iam:PolicyARN"]
    assert {arn.rsplit("/", 1)[-1] for arn in arns} == set(POLICIES)
