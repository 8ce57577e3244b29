"""The way back of a host that ships its logs: the tag, and then the host itself, by a command on it.

Two calls change the tag. The first gives it a value that no association has for its target, so that State
Manager brings nothing again while the host goes back; the second, what it was. Killed in between, the tag
tells that the host has still to go back.
"""

from __future__ import annotations

from haltuun.errors import HaltuunError
from haltuun.model import Change, Json, Unknown
from haltuun.run import Run
from haltuun.stages.associations import get_association, status_on_host
from haltuun.stages.base import Kind
from haltuun.stages.commands import Parameters, Step, is_under_way, send, steps_of
from haltuun.stages.logs.document import ACTIONS, PACKAGE_STEP, UNINSTALL, back_script, document_name
from haltuun.stages.logs.kinds import get_document
from haltuun.stages.logs.names import ADDED, ASSOCIATION_PREFIX, DOCUMENT_PREFIX, leaving, parameter_name
from haltuun.stages.own import Own, unseen
from haltuun.stages.polling import poll
from haltuun.stages.repair.prove import get_nodes, is_online
from haltuun.stages.tags import LOGS, apply_tag, look_tag

# How long is waited for what is at work on the host, and then for a command.
BUSY_S = 120.0
BACK_S = 900.0
LISTED_S = 10.0
_AT_WORK = frozenset({"Pending", "InProgress"})
_AGAIN = "Undo again: it goes on from there."
_SHELL = "AWS-RunShellScript"


def goes_back_by(earlier: str | None) -> Json:
    """What is named with the change, for its way back: other runs' undos leave that until then."""
    by = {"document": document_name()}
    if earlier:
        config_hash = earlier.removesuffix(ADDED)
        by |= {"association": ASSOCIATION_PREFIX + earlier, "parameter": parameter_name(config_hash)}
    return by


def look_back(run: Run, change: Change) -> Json | Unknown:
    """The tag; while it says that the host has still to go back, nothing has."""
    seen = look_tag(run, change)
    if isinstance(seen, Unknown) or seen != {LOGS: leaving(change.before[LOGS])}:
        return seen
    return change.before


def apply_back(run: Run, change: Change) -> Json:
    """Raises HaltuunError: the host cannot be reached now, or not all went back there."""
    tag, earlier = change.before[LOGS], change.after[LOGS]
    _assert_online(run, change)
    tagged = look_tag(run, change) != {LOGS: leaving(tag)}
    _assert_quiet(run, change, tagged=tagged)
    if tagged:
        apply_tag(run, change.model_copy(update={"after": {LOGS: leaving(tag)}}))
    left = _bring(run, change, earlier) if earlier else _go_back(run, change)
    apply_tag(run, change)
    return {"kept": f"On the host stays: {left}."} if left else None


def _assert_online(run: Run, change: Change) -> None:
    node = get_nodes(run, change.region, [change.target]).get(change.target)
    if not is_online(node):
        why = f" ({node.unknown})" if isinstance(node, Unknown) else ""
        raise HaltuunError(
            f"it is not Online in Systems Manager{why} and cannot be told to go back; nothing changed there.",
            subject=change.target,
            remedy=f"Bring it Online and undo again; or take its tag {LOGS} off: its agent then stays.",
            code="NOT_ONLINE",
            unchanged=True,
        )


def _assert_quiet(run: Run, change: Change, *, tagged: bool) -> None:
    """What has begun would be brought while it goes back, or after that."""
    seen = poll(
        lambda: _at_work(run, change, tagged), lambda seen: not isinstance(seen, str) or not seen, BUSY_S
    )
    if isinstance(seen, Unknown):
        allow = (
            "Allow ssm:DescribeInstanceAssociationsStatus and ssm:ListCommandInvocations, then undo again."
        )
        raise unseen("what is under way on it", seen, change.target, allow)
    if seen:
        raise HaltuunError(
            f"{seen}; nothing more was changed there.",
            subject=change.target,
            remedy="Undo again when that has ended.",
            code="LOGS_AT_WORK",
            unchanged=True,
        )


def _at_work(run: Run, change: Change, tagged: bool) -> str | Unknown:
    """What still installs or uninstalls there, of State Manager where it is `tagged` yet; "" without any."""
    if tagged:
        name = ASSOCIATION_PREFIX + change.before[LOGS]
        status = status_on_host(run, change.region, change.target, name)
        if isinstance(status, Unknown):
            return status
        if status in _AT_WORK:
            return f"State Manager is still at work on it ('{status}')"
    going = is_under_way(run, change.region, change.target, DOCUMENT_PREFIX)
    if isinstance(going, Unknown):
        return going
    return "a command that an earlier run sent to it is still at work on it" if going else ""


def _bring(run: Run, change: Change, earlier: str) -> str:
    """The configuration that the host had before, as its association brings it."""
    own = get_association(run, change.region, ASSOCIATION_PREFIX + earlier)
    if isinstance(own, Unknown) or own.state != "ours":
        why = f" ({own.unknown})" if isinstance(own, Unknown) else ""
        raise _not_back(change, f"the association of its earlier configuration is not there{why}")
    document, given = own.value["document"], own.value["parameters"]
    _run(run, change, document, lambda _: given)
    return ""


def _go_back(run: Run, change: Change) -> str:
    """What stays on the host; "" where nothing does."""
    said = _said(run, change, uninstalled=False)
    if said == "UNINSTALL":
        _uninstall(run, change)
        said = _said(run, change, uninstalled=True)
    word, _, left = said.partition(": ")
    if word not in ("BACK", "LEFT"):
        raise _not_back(change, f"the command on it said '{said}'")
    return left.strip()


def _said(run: Run, change: Change, *, uninstalled: bool) -> str:
    text = back_script(run.account.id, change.region, change.target, uninstalled=uninstalled)
    given = {"commands": text.splitlines(), "executionTimeout": [str(int(BACK_S) - 60)]}
    steps = _run(run, change, _SHELL, lambda _: given)
    return steps[-1].last_line


def _uninstall(run: Run, change: Change) -> None:
    """By the document that installed it, for the SSM agent keeps account of what it installed."""
    name = change.detail["document"]
    document = get_document(run, change.region, name)
    if not isinstance(document, Own) or document.state != "ours":
        raise _not_back(
            change, f"the document {name}, which is to uninstall the agent, is not as Haltuun made it"
        )
    tag = change.before[LOGS]
    given = {
        "configuration": [parameter_name(tag.removesuffix(ADDED))],
        "action": [ACTIONS["add" if tag.endswith(ADDED) else "replace"]],
        **UNINSTALL,
    }
    for step in _run(run, change, name, lambda _: given):
        if step.name == PACKAGE_STEP and not step.well:
            raise _not_back(change, f"the agent could not be uninstalled: {step.why}")


def _run(run: Run, change: Change, document: str, parameters: Parameters) -> list[Step]:
    """Wait for it, and what its steps said. Raises HaltuunError where it did not end well."""
    sent = send(run, change.region, [change.target], document, parameters, f"Haltuun: undo {change.undoes}")
    endings = poll(lambda: sent.look(run), bool, BACK_S)
    if change.target not in endings:
        sent.cancel(run, [change.target])
        raise _not_back(change, f"the command on it: {sent.why_open()}")
    if endings[change.target]:
        raise _not_back(change, endings[change.target])
    steps = poll(
        lambda: steps_of(run, change.region, sent.commands[change.target], change.target),
        lambda seen: isinstance(seen, list) and bool(seen),
        LISTED_S,
    )
    if isinstance(steps, Unknown) or not steps:
        why = f" ({steps.unknown})" if isinstance(steps, Unknown) else ""
        raise _not_back(change, f"what the command on it said could not be read{why}")
    return steps


def _not_back(change: Change, why: str) -> HaltuunError:
    return HaltuunError(
        f"its tag is off, so that nothing is brought to it again, but the host has not gone back: {why}.",
        subject=change.target,
        remedy=_AGAIN,
        code="LOGS_NOT_BACK",
    )


def goes(change: Change) -> str:
    if change.after[LOGS]:
        return "By a command on the host its earlier configuration comes back."
    return (
        "By a command on the host: the CloudWatch agent, its files and its user go where Haltuun brought"
        " them; one that was there before stays, without Haltuun's configuration, running or stopped as it"
        " was."
    )


GO_BACK = Kind(name="logs.go_back", look=look_back, apply=apply_back, goes=goes, by_ssm=True)
