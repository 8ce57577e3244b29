"""The part of Systems Manager that agents call; none of it is in the public API model."""

from __future__ import annotations

import json
from typing import Any

from moto.ssm.responses import SimpleSystemManagerResponse

from lab.cloud import clock
from lab.cloud.errors import CloudError
from lab.cloud.extensions.base import request_of, state_of
from lab.cloud.identity import machine_of, scope_of, session_for
from lab.cloud.state import SsmState

INFORMATION_FIELDS = {
    "AgentVersion": "agent_version",
    "PlatformType": "platform_type",
    "PlatformName": "platform_name",
    "PlatformVersion": "platform_version",
    "IPAddress": "ip_address",
    "ComputerName": "computer_name",
    "AvailabilityZone": "availability_zone",
}


def caller_node_id(response: SimpleSystemManagerResponse) -> str | None:
    scope = scope_of(response.headers.get("Authorization", ""))
    machine = machine_of(response.current_account, scope[0], response.region) if scope else None
    return machine.node_id if machine else None


def _owner_check(response: SimpleSystemManagerResponse, node_id: str) -> None:
    """A machine speaks for itself only; credentials of a clone carry the node id they were issued for."""
    caller = caller_node_id(response)
    if caller is not None and caller != node_id:
        raise CloudError("AccessDeniedException", f"{caller} may not act for {node_id}.")


def _credentials(response: SimpleSystemManagerResponse, role_arn: str, node_id: str) -> str:
    session = session_for(response.current_account, response.region, role_arn, node_id)
    return json.dumps(
        {
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": session.secret_access_key,
            "SessionToken": session.session_token,
            "TokenExpirationDate": session.expiration.timestamp(),
            "UpdateKeyPair": False,
        }
    )


def _known_node(state: SsmState, node_id: str) -> Any:
    node = state.nodes.get(node_id)
    if node is None or node.deregistered:
        raise CloudError("InvalidInstanceId", f"Not existing InstanceId {node_id}")
    return node


class SsmAgent(SimpleSystemManagerResponse):
    def register_managed_instance(self) -> str:
        """An EC2 agent registers its own key pair, with the instance's identity role."""
        state, request = state_of(self), request_of(self)
        node_id = str(request.get("Fingerprint", ""))
        if state.instance_state(node_id) is None:
            raise CloudError("InvalidInstanceId", f"Not existing InstanceId {node_id}")
        _owner_check(self, node_id)
        return json.dumps({"InstanceId": node_id})

    def request_managed_instance_role_token(
        self,
    ) -> str | tuple[str, dict[str, Any]]:
        state, request = state_of(self), request_of(self)
        # A hybrid node's key pair signs under the node's id; an instance comes with its identity role.
        scope = scope_of(self.headers.get("Authorization", ""))
        node_id = scope[0] if scope and scope[0].startswith("mi-") else (caller_node_id(self) or "")
        if node_id.startswith("i-"):
            role = state.dhmc_role()
            if not role or role == "$None":
                raise CloudError(
                    "AccessDeniedException",
                    "Systems Manager's instance management role is not configured for account: "
                    f"{self.current_account}",
                )
            arn = f"arn:{self.partition}:iam::{self.current_account}:role/{role.lstrip('/')}"
            return _credentials(self, arn, node_id)
        node = _known_node(state, node_id)
        if node.fingerprint and request.get("Fingerprint") != node.fingerprint:
            # No shape of the API model has this name: moto would put it into the message as well.
            return json.dumps({"__type": "MachineFingerprintDoesNotMatch", "message": ""}), {"status": 400}
        arn = f"arn:{self.partition}:iam::{self.current_account}:role/{node.iam_role}"
        return _credentials(self, arn, node_id)

    def update_instance_information(self) -> str:
        state, request = state_of(self), request_of(self)
        node_id = str(request.get("InstanceId", ""))
        _owner_check(self, node_id)
        if node_id.startswith("mi-"):
            _known_node(state, node_id)
        elif state.instance_state(node_id) is None:
            raise CloudError("InvalidInstanceId", f"Not existing InstanceId {node_id}")
        known = {
            ours: str(request[theirs]) for theirs, ours in INFORMATION_FIELDS.items() if request.get(theirs)
        }
        with state.changed:
            state.put_node(node_id, **known).seen()
        return "{}"

    def list_instance_associations(self) -> str:
        """Associations reach the agents as messages; the old pull path has nothing more to say."""
        return json.dumps({"Associations": []})

    def update_instance_association_status(self) -> str:
        return "{}"

    def put_configure_package_result(self) -> str:
        return "{}"

    def get_manifest(self) -> str:
        raise CloudError("ResourceNotFoundException", f"No package manifest at {clock.now():%Y-%m-%d}.")
