"""/lab/…: what a lab may do to its account that nobody can do to AWS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.ssm.models import ssm_backends

from lab.cloud import clock, hostfacts
from lab.cloud.calls import Call
from lab.cloud.crowd import add_crowd, give_profile
from lab.cloud.extensions import backup, backup_state, ssm_associations, wanted_ids
from lab.cloud.state import SsmState, ssm_state

if TYPE_CHECKING:
    from lab.cloud.server import Cloud


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


class Steering:
    """GET health, nodes, faults; POST clock, fault, node, wanted-ids, instance, setting."""

    def __init__(self, cloud: Cloud, run_dir: Path | None) -> None:
        self.cloud = cloud
        self.run_dir = run_dir
        self.operator_calls: Counter[str] = Counter()  # "ec2:DescribeInstances" → how often

    def handle(self, method: str, path: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """None means that there is no such path."""
        name = f"{method.lower()}_{path.removeprefix('/lab/').strip('/').replace('-', '_')}"
        work: Callable[[dict[str, Any]], dict[str, Any]] | None = getattr(self, name, None)
        return work(given) if work is not None else None

    def tick(self) -> None:
        for state in self._states():
            ssm_associations.tick(state)
        backup.tick(self.cloud.account_id)

    def _states(self) -> list[SsmState]:
        backends = dict(ssm_backends[self.cloud.account_id])
        return [ssm_state(self.cloud.account_id, region) for region in backends]

    def _state(self, given: dict[str, Any]) -> SsmState:
        return ssm_state(self.cloud.account_id, str(given["region"]))

    def get_health(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "status": "ok",
            "account_id": self.cloud.account_id,
            "time": clock.now(),
            "offset_s": clock.offset_s(),
        }

    def post_clock(self, given: dict[str, Any]) -> dict[str, Any]:
        clock.move(float(given["offset_s"]))
        return self.get_health(given)

    def count(self, call: Call) -> None:
        """Of machines' calls, those with a token that the account does not know arrive here too."""
        if call.access_key.startswith("AKIA"):
            self.operator_calls[call.action] += 1

    def get_calls(self, _: dict[str, Any]) -> dict[str, Any]:
        """Calls made with long-lived keys: what the account saw of its operator."""
        return dict(self.operator_calls)

    def get_fault(self, _: dict[str, Any]) -> dict[str, Any]:
        return dict(self.cloud.faults.listed())

    def post_fault(self, given: dict[str, Any]) -> dict[str, Any]:
        """{"operation": "ssm:SendCommand", "error": "ThrottlingException"|null, "times": 3|null}"""
        times = given.get("times")
        self.cloud.faults.set(
            str(given["operation"]),
            given.get("error"),
            None if times is None else int(times),
            given.get("message", ""),
        )
        return dict(self.cloud.faults.listed())

    def get_nodes(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            node.id: {"region": state.region, "ping_status": node.ping_status, "last_ping": node.last_ping}
            for state in self._states()
            for node in state.nodes.values()
        }

    def post_node(self, given: dict[str, Any]) -> dict[str, Any]:
        """{"region", "id", …} with fields of Node: a node the lab knows of, before or without an agent."""
        known = {key: value for key, value in given.items() if key not in ("region", "id")}
        for key in ("registered", "last_ping"):
            if isinstance(known.get(key), str):
                known[key] = _moment(known[key])
        node = self._state(given).put_node(str(given["id"]), **known)
        return {"id": node.id, "ping_status": node.ping_status}

    def post_instances(self, given: dict[str, Any]) -> dict[str, Any]:
        """{"region"} → what the host services need to know of every instance."""
        return hostfacts.all_facts(self.cloud.account_id, str(given["region"]))

    def post_crowd(self, given: dict[str, Any]) -> dict[str, Any]:
        """{"region", "ids", …} with fields of Node: nodes that are Online and obey without a machine."""
        known = {key: value for key, value in given.items() if key not in ("region", "ids")}
        add_crowd(self._state(given), given["ids"], **known)
        return {"nodes": len(given["ids"])}

    def post_profile(self, given: dict[str, Any]) -> dict[str, Any]:
        """{"region", "ids", "profile"}: all of them have it."""
        give_profile(self._state(given), given["ids"], str(given["profile"]))
        return {}

    def post_backup(self, given: dict[str, Any]) -> dict[str, Any]:
        """{"completed_after_s"}: how long a backup job takes; real ones take minutes."""
        backup_state.COMPLETED_AFTER_S = float(given["completed_after_s"])
        return {}

    def post_credentials(self, given: dict[str, Any]) -> dict[str, Any]:
        """{"region", "id", "role_arn"|null} → temporary credentials as IMDS gives them."""
        return hostfacts.credentials(
            self.cloud.account_id, str(given["region"]), str(given["id"]), given.get("role_arn")
        )

    def post_wanted_ids(self, given: dict[str, Any]) -> dict[str, Any]:
        """Ids that the next instances and images get, in this order."""
        wanted_ids.want(given.get("instances") or [], given.get("images") or [])
        return {}

    def post_instance(self, given: dict[str, Any]) -> dict[str, Any]:
        """{"region", "id", "launched"}: when an instance was launched, which RunInstances cannot say."""
        backend = ec2_backends[self.cloud.account_id][str(given["region"])]
        instance = backend.get_instance(str(given["id"]))
        if given.get("launched"):
            instance.launch_time = _moment(str(given["launched"])).astimezone(UTC).replace(tzinfo=None)
        return {"id": instance.id}

    def post_image(self, given: dict[str, Any]) -> dict[str, Any]:
        """{"region", "id", "owner", "platform"}: what RegisterImage cannot say."""
        image = ec2_backends[self.cloud.account_id][str(given["region"])].amis[str(given["id"])]
        image.owner_id = str(given.get("owner") or image.owner_id)
        image.platform = given.get("platform")
        return {"id": image.id}

    def post_role_removed(self, given: dict[str, Any]) -> dict[str, Any]:
        """{"role"}: take every policy off a role, as if somebody had."""
        role = next(
            r for r in iam_backends[self.cloud.account_id]["aws"].roles.values() if r.name == given["role"]
        )
        role.policies.clear()
        role.managed_policies.clear()
        return {"role": role.name}
