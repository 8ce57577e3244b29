"""Where a hybrid registration came from, and whether that goes on registering machines. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from haltuun.model import StageName, Unknown
from haltuun.stages.base import View
from haltuun.stages.repair.facts import Activation, NodeRow, RepairFacts

_MAX_TEXT = 100  # of a description or a tag; AWS allows 256
_SHOWN = 5


def told(node: NodeRow) -> tuple[str, ...]:
    """What an operator has to know of the node's activation; () for a node without one."""
    if not node.activation_id:
        return ()
    name = f"its activation {node.activation_id}"
    found = node.activation
    if isinstance(found, Unknown):
        return (f"{name}: unknown ({found.unknown})",)
    if found is None:
        return (f"{name} exists no more, and registers nothing any more",)
    day = f"{found.expires_at:%Y-%m-%d}" if found.expires_at else "an unknown day"
    used = f"{found.count} of {found.limit} registrations used"
    if is_open(node):
        state = f"open until {day}, {used}: whatever has its code and id goes on registering as mi-…"
    elif found.expired:
        state = f"expired on {day}, {used}: it registers nothing any more"
    else:
        state = f"used up, {used}: it registers nothing any more"
    return (f"{name} ({_described(found)}) is {state}",)


def is_open(node: NodeRow) -> bool:
    found = node.activation
    return isinstance(found, Activation) and not found.expired and found.count < found.limit


def remedy(node: NodeRow) -> str:
    """What ends it, where something still goes on; else what nobody should try."""
    if not node.activation_id or isinstance(node.activation, Unknown):
        return ""
    if not is_open(node):
        return (
            " Do not register it anew by its activation, which registers nothing any more: the agent empties"
            " its vault before it asks and is refused. Where the registration is wanted after all, make a new"
            " activation first."
        )
    return (
        " Its activation is open: take it out of user data, images and scripts, then 'aws ssm"
        f" delete-activation --region {node.region} --activation-id {node.activation_id}'; nodes that are"
        " registered stay."
    )


def registered(view: View) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Activation → the registrations that came from it → the hosts that have each."""
    found: dict[str, dict[str, list[str]]] = {}
    for host, seen in view.facts.get(StageName.repair, {}).items():
        node = seen.vault_node if isinstance(seen, RepairFacts) else None
        if host in view.hosts and isinstance(node, NodeRow) and node.activation_id:
            found.setdefault(node.activation_id, {}).setdefault(node.node_id, []).append(host)
    return found


def kin(view: View, node: NodeRow, of_activation: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Its activation's other registrations, each with a host that has it: something registers machines."""
    others = [one for one in islice(of_activation, _SHOWN + 1) if one != node.node_id][:_SHOWN]
    if not others:
        return ()
    shown = [f"{view.hosts[of_activation[one][0]].label} ({one})" for one in others]
    left = len(of_activation) - 1 - len(others)
    more = f" and {left} registrations more" if left else ""
    return (f"by the same activation: {', '.join(sorted(shown))}{more}",)


def _described(found: Activation) -> str:
    said = [f"role {found.iam_role or 'unknown'}"]
    if found.description:
        said.append(f"'{_shown(found.description)}'")
    if found.default_name:
        said.append(f"its nodes are named '{_shown(found.default_name)}'")
    if found.tags:
        said.append(f"tags {', '.join(map(_shown, found.tags))}")
    return ", ".join(said)


def _shown(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text[:_MAX_TEXT])
