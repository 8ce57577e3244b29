"""What Systems Manager knows beyond moto: managed nodes, commands, associations, inventory, compliance.

It hangs on moto's ssm backend, one for each account and region, so that moto's reset clears it too.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ssm.models import SimpleSystemManagerBackend, ssm_backends

from lab.cloud import clock

# The stand-in agent pings every 5 s; AWS's own limit is some minutes over the agent's 5-minute interval.
ONLINE_FOR_S = 20.0
LISTENING_CHECK_S = 0.5
DHMC_SETTING = "/ssm/managed-instance/default-ec2-instance-management-role"
FINAL = frozenset({"Success", "Failed", "TimedOut", "Cancelled"})


@dataclass
class Node:
    """A managed node, EC2 or hybrid.

    A `stuck` node pings and stays ConnectionLost all the same; a `simulated` one needs no agent.
    """

    id: str
    registered: datetime
    agent_version: str = ""
    platform_type: str = "Linux"
    platform_name: str = ""
    platform_version: str = ""
    ip_address: str = ""
    computer_name: str = ""
    availability_zone: str = ""
    iam_role: str = ""
    activation_id: str = ""
    name: str = ""
    fingerprint: str = ""
    last_ping: datetime | None = None
    last_seen_s: float = float("-inf")
    polling: int = 0
    channels: int = 0  # open control channels
    stuck: bool = False
    simulated: bool = False
    deregistered: bool = False
    kept: bool = False  # AWS refuses to deregister it

    @property
    def is_hybrid(self) -> bool:
        return self.id.startswith("mi-")

    @property
    def listed(self) -> bool:
        return not self.deregistered and (self.last_ping is not None)

    @property
    def ping_status(self) -> str:
        if self.stuck:
            return "ConnectionLost"
        alive = self.simulated or self.polling > 0 or clock.stopwatch() - self.last_seen_s < ONLINE_FOR_S
        return "Online" if alive else "ConnectionLost"

    def seen(self) -> None:
        self.last_seen_s = clock.stopwatch()
        self.last_ping = clock.now()


@dataclass
class Invocation:
    """A document on one node: an invocation of a command, or a target of an association's execution."""

    id: str
    node_id: str
    document: str
    parameters: dict[str, list[str]]
    timeout_s: int
    created: datetime
    content: dict[str, Any] | None = None  # of a document that the account made itself
    status: str = "Pending"
    detail: str = "Pending"
    response_code: int = -1
    stdout: str = ""
    stderr: str = ""
    plugins: list[dict[str, Any]] = field(default_factory=list)  # where a document has several steps
    started: datetime | None = None
    ended: datetime | None = None

    def message(self) -> dict[str, Any]:
        return {
            "CommandId": self.id,
            "DocumentName": self.document,
            "Parameters": self.parameters,
            "Content": self.content,
        }

    def finish(self, status: str, detail: str | None = None, response_code: int = -1) -> None:
        self.status, self.detail, self.response_code = status, detail or status, response_code
        self.ended = clock.now()

    def expire(self) -> None:
        """TimeoutSeconds is the time a command may wait for its delivery (SendCommand reference)."""
        if self.status == "Pending" and clock.now() > self.created + timedelta(seconds=self.timeout_s):
            self.finish("TimedOut", "DeliveryTimedOut")


@dataclass
class Command:
    id: str
    document: str
    parameters: dict[str, list[str]]
    comment: str
    instance_ids: list[str]
    targets: list[dict[str, Any]]
    timeout_s: int
    requested: datetime
    max_concurrency: str
    max_errors: str
    log_group: str = ""
    log_enabled: bool = False
    invocations: dict[str, Invocation] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return rolled_up([invocation.status for invocation in self.invocations.values()])


@dataclass
class Execution:
    """One run of an association over the targets that were due."""

    id: str
    created: datetime
    version: str
    invocations: dict[str, Invocation] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return rolled_up([invocation.status for invocation in self.invocations.values()])


@dataclass
class Association:
    id: str
    name: str
    document_version: str
    targets: list[dict[str, Any]]
    parameters: dict[str, list[str]]
    created: datetime
    fields: dict[str, Any]
    version: int = 1
    updated: datetime | None = None
    executions: list[Execution] = field(default_factory=list)
    last_run: dict[str, datetime] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> str:
        return self.executions[-1].status if self.executions else "Pending"


def rolled_up(statuses: Iterable[str]) -> str:
    """One status out of many, the worst that is settled last."""
    seen = set(statuses)
    for status in ("InProgress", "Pending", "Failed", "TimedOut", "Cancelled"):
        if status in seen:
            return status
    return "Success"


# What a simulated node says to a message; None: it replies later, by SsmState.reply.
Responder = Callable[[dict[str, Any], str], dict[str, Any] | None]


class SsmState:
    """All of it for one account and region; every method that waits or wakes takes `changed`."""

    def __init__(self, account_id: str, region: str) -> None:
        self.account_id = account_id
        self.region = region
        self.changed = threading.Condition(threading.RLock())
        self.nodes: dict[str, Node] = {}
        self.activations: dict[str, dict[str, Any]] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        self.commands: dict[str, Command] = {}
        self.associations: dict[str, Association] = {}
        self.inventory: dict[str, dict[str, dict[str, Any]]] = {}
        self.compliance: dict[str, dict[str, dict[str, Any]]] = {}
        self.queues: dict[str, deque[Invocation]] = {}
        self.running: dict[tuple[str, str], Invocation] = {}
        self.channel_tokens: dict[str, str] = {}
        self.executions: list[dict[str, Any]] = []
        self.default_baselines: dict[str, str] = {}
        self.responder: Responder | None = None

    @property
    def partition(self) -> str:
        return str(self.backend.partition)

    @property
    def backend(self) -> SimpleSystemManagerBackend:
        return ssm_backends[self.account_id][self.region]

    def dhmc_role(self) -> str:
        return str(self.settings.get(DHMC_SETTING, {}).get("SettingValue", ""))

    # nodes

    def put_node(self, node_id: str, **known: Any) -> Node:
        """Create or change a node; also what tests use to have one without an agent."""
        with self.changed:
            node = self.nodes.get(node_id)
            if node is None or node.deregistered:
                node = self.nodes[node_id] = Node(node_id, registered=clock.now())
            for key, value in known.items():
                if not hasattr(node, key):
                    raise KeyError(key)
                setattr(node, key, value)
            if node.simulated and node.last_ping is None:
                node.seen()
            self.changed.notify_all()
            return node

    def instance_tags(self, node_id: str) -> dict[str, str]:
        if node_id.startswith("mi-"):
            found = self.backend.list_tags_for_resource("ManagedInstance", node_id)
            return dict(found)
        # Not describe_tags, which goes through all tags of the account for each node.
        return dict(ec2_backends[self.account_id][self.region].tags.get(node_id, {}))

    def instance_state(self, node_id: str) -> str | None:
        """running, stopped, …; None when EC2 does not know the id (any more)."""
        backend = ec2_backends[self.account_id][self.region]
        for reservation in list(backend.reservations.values()):
            for instance in reservation.instances:
                if instance.id == node_id:
                    return str(instance.state)
        return None

    def managed(self) -> list[Node]:
        """Nodes that DescribeInstanceInformation lists: stopped and terminated instances are left out."""
        gone = ("stopped", "terminated", "shutting-down", "stopping")
        nodes = [node for node in list(self.nodes.values()) if node.listed]
        return [
            n for n in nodes if n.is_hybrid or n.simulated or self.instance_state(n.id) not in (*gone, None)
        ]

    def matching(self, targets: list[dict[str, Any]]) -> list[Node]:
        """Nodes that every target row names (rows are AND, values of a row are OR)."""
        return [node for node in self.managed() if targets and all(self._hits(node, row) for row in targets)]

    def _hits(self, node: Node, target: dict[str, Any]) -> bool:
        key, values = str(target.get("Key", "")), [str(value) for value in target.get("Values", [])]
        if key.lower() == "instanceids":
            return node.id in values or "*" in values
        tags = self.instance_tags(node.id)
        if key.startswith("tag:"):
            have = tags.get(key.removeprefix("tag:"))
            return have is not None and (have in values or "*" in values)
        return key == "tag-key" and any(value in tags for value in values)

    # documents on nodes

    def send(self, invocation: Invocation) -> None:
        with self.changed:
            node = self.nodes.get(invocation.node_id)
            if node is not None and node.simulated and self.responder is not None:
                self._take(invocation)
                report = self.responder(invocation.message(), invocation.node_id)
                if report is not None:
                    self.reply(invocation.node_id, report)
                return
            self.queues.setdefault(invocation.node_id, deque()).append(invocation)
            self.changed.notify_all()

    def _take(self, invocation: Invocation) -> None:
        invocation.status = invocation.detail = "InProgress"
        invocation.started = clock.now()
        self.running[invocation.id, invocation.node_id] = invocation

    def poll(
        self, node_id: str, wait_s: float, listening: Callable[[], bool] = lambda: True
    ) -> list[dict[str, Any]]:
        """Messages for a node, waiting for the first; a waiting poll counts as being Online.

        `listening` tells whether the agent is still there: a message given to one that has gone is lost.
        """
        deadline = clock.stopwatch() + wait_s
        with self.changed:
            node = self.nodes.get(node_id)
            if node is None or node.deregistered:
                return []
            node.polling += 1
            try:
                while True:
                    if not listening():
                        return []
                    node.seen()
                    due = self._due(node)
                    left = deadline - clock.stopwatch()
                    if due or left <= 0 or node.deregistered:
                        return due
                    self.changed.wait(min(left, LISTENING_CHECK_S))
            finally:
                node.polling -= 1

    def _due(self, node: Node) -> list[dict[str, Any]]:
        queue = self.queues.get(node.id)
        due: list[dict[str, Any]] = []
        while queue and not node.stuck:
            invocation = queue.popleft()
            invocation.expire()
            if invocation.status == "Pending":
                self._take(invocation)
                due.append(invocation.message())
        return due

    def take_back(self, node_id: str, command_ids: Iterable[str]) -> None:
        """What was sent and not acknowledged waits for the agent's next connection."""
        with self.changed:
            for command_id in command_ids:
                invocation = self.running.get((command_id, node_id))
                if invocation is not None and invocation.started is not None:
                    del self.running[command_id, node_id]
                    invocation.status = invocation.detail = "Pending"
                    invocation.started = None
                    self.queues.setdefault(node_id, deque()).appendleft(invocation)
            self.changed.notify_all()

    def reply(self, node_id: str, reply: dict[str, Any]) -> bool:
        with self.changed:
            invocation = self.running.get((str(reply.get("CommandId", "")), node_id))
            if invocation is None or invocation.status in FINAL:
                return False
            invocation.stdout = str(reply.get("StandardOutput", "") or "")
            invocation.stderr = str(reply.get("StandardError", "") or "")
            invocation.plugins = reply.get("Plugins") or []
            status = str(reply.get("Status", "Failed"))
            code = int(reply.get("ResponseCode", -1) or 0)
            if status in FINAL:
                detail = "ExecutionTimedOut" if status == "TimedOut" else status
                invocation.finish(status, detail, code)
                self.running.pop((invocation.id, node_id), None)
            self.changed.notify_all()
            return True

    def invocation(
        self, document: str, node: str, parameters: dict[str, list[str]], **more: Any
    ) -> Invocation:
        made = self.backend._documents.get(document)
        return Invocation(
            content=json.loads(made.get_default_version().content) if made else None,
            id=more.pop("id", str(uuid.uuid4())),
            node_id=node,
            document=document,
            parameters=parameters,
            timeout_s=more.pop("timeout_s", 3600),
            created=clock.now(),
        )


def ssm_state(account_id: str, region: str) -> SsmState:
    backend = ssm_backends[account_id][region]
    state = backend.__dict__.get("_lab_state")
    if state is None:
        state = backend.__dict__.setdefault("_lab_state", SsmState(account_id, region))
    return state  # type: ignore[no-any-return]
