"""Log groups, parameters, session preferences: found by name, made, changed, removed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from haltuun.errors import HaltuunError
from haltuun.model import Change, Json, Unknown
from haltuun.run import Run
from haltuun.stages.associations import ASSOCIATION, get_associations
from haltuun.stages.base import Kind
from haltuun.stages.logs.agent_config import short
from haltuun.stages.logs.document import content, digest
from haltuun.stages.logs.names import SESSIONS_DOCUMENT, parameter_name
from haltuun.stages.own import MADE_BY, Own, as_value, get_own, get_ssm_tags, is_ours, unseen
from haltuun.stages.polling import poll
from haltuun.stages.tags import MANAGED, TAG, apply_tag, look_tag, managed_tags

ACTIVE_S = 60.0


# -- log groups and their retention ----------------------------------------------------------------


def get_groups(run: Run, region: str, prefix: str) -> dict[str, int | None] | Unknown:
    """Name → retention in days (None: for ever). What begins with our prefix is ours."""

    def question() -> dict[str, int | None]:
        found = run.aws.pages("logs", "DescribeLogGroups", "logGroups", region, logGroupNamePrefix=prefix)
        return {group["logGroupName"]: group.get("retentionInDays") for group in found}

    return run.aws.ask(question)


def look_group(run: Run, change: Change) -> Json | Unknown:
    groups = get_groups(run, change.region, change.target)
    if isinstance(groups, Unknown):
        return groups
    return {"group": change.target} if change.target in groups else None


def apply_group(run: Run, change: Change) -> Json:
    tags = {MANAGED: "true"}
    run.aws.call("logs", "CreateLogGroup", change.region, logGroupName=change.target, tags=tags)
    return None


def look_retention(run: Run, change: Change) -> Json | Unknown:
    groups = get_groups(run, change.region, change.target)
    if isinstance(groups, Unknown):
        return groups
    days = groups.get(change.target)
    return None if days is None else {"days": days}


def apply_retention(run: Run, change: Change) -> Json:
    if change.after is None:
        run.aws.call("logs", "DeleteRetentionPolicy", change.region, logGroupName=change.target)
    else:
        days = change.after["days"]
        run.aws.call(
            "logs", "PutRetentionPolicy", change.region, logGroupName=change.target, retentionInDays=days
        )
    return None


# -- the configuration's parameter -------------------------------------------------------------------


def get_parameter(run: Run, region: str, name: str) -> Own | Unknown:
    """Its name is its content's hash: what has that content is what Haltuun would write. With another it is
    ours only by its tag.
    """

    def question() -> Own | Unknown:
        digest = sha256(run.aws.call("ssm", "GetParameter", region, Name=name)["Parameter"]["Value"])
        own = Own(state="ours", id=name, value={"sha256": digest})
        if parameter_name(short(digest)) == name:
            return own
        ours = is_ours(get_ssm_tags(run, region, "Parameter", name))
        if isinstance(ours, Unknown):
            return ours
        return own if ours else Own(state="foreign", id=name)

    return get_own(run, question)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def apply_parameter(run: Run, change: Change) -> Json:
    if change.after is None:
        run.aws.call("ssm", "DeleteParameter", change.region, Name=change.target)
        return None
    body: dict[str, Any] = {
        "Name": change.target,
        "Type": "String",
        "Value": change.detail["text"],
        "Tier": "Intelligent-Tiering",
        "Description": f"{MADE_BY} Configuration of the CloudWatch agent.",
    }
    if change.before is None:
        run.aws.call("ssm", "PutParameter", change.region, Tags=managed_tags(), **body)
    else:
        run.aws.call("ssm", "PutParameter", change.region, Overwrite=True, **body)
    return None


# -- Session Manager's preferences -------------------------------------------------------------------


def get_sessions(run: Run, region: str) -> tuple[Own | Unknown, bool | Unknown]:
    """The preferences document, and whether sessions are logged anywhere by it."""
    logged: bool | Unknown = False

    def question() -> Own:
        nonlocal logged
        answer = run.aws.call("ssm", "GetDocument", region, Name=SESSIONS_DOCUMENT, DocumentFormat="JSON")
        content = json.loads(answer["Content"])
        inputs = content.get("inputs") or {}
        logged = bool(inputs.get("cloudWatchLogGroupName") or inputs.get("s3BucketName"))
        if not str(content.get("description", "")).startswith(MADE_BY):
            return Own(state="foreign", id=SESSIONS_DOCUMENT)
        return Own(
            state="ours",
            id=SESSIONS_DOCUMENT,
            value={"log_group": inputs.get("cloudWatchLogGroupName")},
        )

    own = get_own(run, question)
    return own, own if isinstance(own, Unknown) else logged


def session_document(log_group: str) -> Json:
    """Sessions streamed to `log_group`.

    Streamed, because while a session runs root could still change what would be uploaded at its end. No
    encryption by a key of one's own is demanded: only for that does the agent refuse a session. Where its
    role may not see the group it warns in its own log and opens the session unlogged (amazon-ssm-agent
    agent/session/shell/shell.go, validate).
    """
    return {
        "schemaVersion": "1.0",
        "description": f"{MADE_BY} Session Manager's preferences: sessions are logged.",
        "sessionType": "Standard_Stream",
        "inputs": {
            "s3BucketName": "",
            "s3KeyPrefix": "",
            "s3EncryptionEnabled": True,
            "cloudWatchLogGroupName": log_group,
            "cloudWatchEncryptionEnabled": False,
            "cloudWatchStreamingEnabled": True,
            "idleSessionTimeout": "20",
            "maxSessionDuration": "",
            "kmsKeyId": "",
            "runAsEnabled": False,
            "runAsDefaultUser": "",
            "shellProfile": {"windows": "", "linux": ""},
        },
    }


def look_sessions(run: Run, change: Change) -> Json | Unknown:
    return as_value(get_sessions(run, change.region)[0])


def apply_sessions(run: Run, change: Change) -> Json:
    if change.after is None:
        run.aws.call("ssm", "DeleteDocument", change.region, Name=SESSIONS_DOCUMENT)
        return None
    run.aws.call(
        "ssm",
        "CreateDocument",
        change.region,
        Name=SESSIONS_DOCUMENT,
        Content=json.dumps(session_document(change.after["log_group"])),
        DocumentType="Session",
        DocumentFormat="JSON",
        Tags=managed_tags(),
    )
    return None


# -- the document that the association runs ------------------------------------------------------------


def get_document(run: Run, region: str, name: str) -> Own | Unknown:
    """Its name is its content's hash: with another content somebody has changed it, and it is not run."""

    def question() -> Own | Unknown:
        answer = run.aws.call("ssm", "GetDocument", region, Name=name, DocumentFormat="JSON")
        if answer.get("Status") != "Active":
            return Unknown(unknown=f"AWS says {answer.get('Status')} of it")
        seen = digest(answer["Content"])
        if not name.endswith(f"-{short(seen)}"):
            return Own(state="foreign", id=name)
        return Own(state="ours", id=name, value={"sha256": seen})

    return get_own(run, question)


def apply_document(run: Run, change: Change) -> Json:
    """AWS needs a moment until what was created may be associated. Deleting it would end associations: those
    of other runs keep it.
    """
    if change.after is None:
        listed = get_associations(run, change.region)
        if isinstance(listed, Unknown):
            allow = "Allow ssm:ListAssociations, then undo again."
            raise unseen("whether an association still runs it", listed, change.target, allow)
        using = sorted(str(a.get("AssociationName")) for a in listed if a.get("Name") == change.target)
        if using:
            raise HaltuunError(
                f"it stays while an association runs it ({', '.join(using)}).",
                subject=change.target,
                remedy="Undo the run that made the association, then this one again.",
                code="STILL_USED",
                unchanged=True,
            )
        run.aws.call("ssm", "DeleteDocument", change.region, Name=change.target)
        return None
    run.aws.call(
        "ssm",
        "CreateDocument",
        change.region,
        Name=change.target,
        Content=content(),
        DocumentType="Command",
        DocumentFormat="JSON",
        TargetType="/AWS::EC2::Instance",
        Tags=managed_tags(),
    )
    poll(lambda: get_document(run, change.region, change.target), _is_seen, ACTIVE_S)
    return None


def _is_seen(document: Own | Unknown) -> bool:
    return isinstance(document, Own) and document.state != "absent"


GROUP = Kind(name="logs.group", look=look_group, apply=apply_group)
RETENTION = Kind(name="logs.retention", look=look_retention, apply=apply_retention)
PARAMETER = Kind(
    name="ssm.parameter",
    look=lambda run, change: as_value(get_parameter(run, change.region, change.target)),
    apply=apply_parameter,
)
SESSIONS = Kind(name="ssm.session_preferences", look=look_sessions, apply=apply_sessions)
DOCUMENT = Kind(
    name="ssm.document",
    look=lambda run, change: as_value(get_document(run, change.region, change.target)),
    apply=apply_document,
)
# The host's tag, at which its association runs.
CONFIGURE = Kind(name="logs.configure", look=look_tag, apply=apply_tag)

KINDS = {
    kind.name: kind for kind in (GROUP, RETENTION, PARAMETER, SESSIONS, DOCUMENT, CONFIGURE, ASSOCIATION, TAG)
}
