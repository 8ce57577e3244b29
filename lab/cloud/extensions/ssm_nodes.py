"""Managed nodes, activations and service settings (Systems Manager API reference, 2014-11-06)."""

from __future__ import annotations

import secrets
import uuid
from datetime import timedelta
from functools import partial
from typing import Any

from moto.core.responses import ActionResult
from moto.ssm.responses import SimpleSystemManagerResponse

from lab.cloud import clock
from lab.cloud.errors import CloudError, validation
from lab.cloud.extensions.base import answer, filters_hold, paged, request_of, state_of
from lab.cloud.state import DHMC_SETTING, Node, SsmState

SETTING_DEFAULTS = {
    DHMC_SETTING: "$None",
    "/ssm/managed-instance/activation-tier": "standard",
    "/ssm/parameter-store/high-throughput-enabled": "false",
    "/ssm/parameter-store/default-parameter-tier": "Standard",
    "/ssm/documents/console/public-sharing-permission": "Enable",
    "/ssm/automation/customer-script-log-destination": "",
    "/ssm/automation/customer-script-log-group-name": "",
    "/ssm/opsinsights/opscenter": "Disabled",
}


def describe_node(state: SsmState, node: Node) -> dict[str, Any]:
    row: dict[str, Any] = {
        "InstanceId": node.id,
        "PingStatus": node.ping_status,
        "LastPingDateTime": node.last_ping,
        "AgentVersion": node.agent_version,
        "IsLatestVersion": False,
        "PlatformType": node.platform_type,
        "PlatformName": node.platform_name,
        "PlatformVersion": node.platform_version,
        "ResourceType": "ManagedInstance" if node.is_hybrid else "EC2Instance",
        "IPAddress": node.ip_address,
        "ComputerName": node.computer_name,
        "SourceId": node.id,
        "SourceType": "AWS::SSM::ManagedInstance" if node.is_hybrid else "AWS::EC2::Instance",
    }
    if node.is_hybrid:
        row |= {"RegistrationDate": node.registered, "IamRole": node.iam_role, "Name": node.name}
        row["ActivationId"] = node.activation_id
    counts: dict[str, int] = {}
    for association in state.associations.values():
        for execution in association.executions[-1:]:
            if node.id in execution.invocations:
                status = execution.invocations[node.id].status
                counts[status] = counts.get(status, 0) + 1
    if counts:
        row["AssociationStatus"] = (
            "Failed" if "Failed" in counts else "Success" if set(counts) == {"Success"} else "Pending"
        )
        row["AssociationOverview"] = {"InstanceAssociationStatusAggregatedCount": counts}
    return row


def _node_values(state: SsmState, node: Node, key: str) -> list[str] | None:
    plain = {
        "InstanceIds": node.id,
        "AgentVersion": node.agent_version,
        "PingStatus": node.ping_status,
        "PlatformTypes": node.platform_type,
        "PlatformType": node.platform_type,
        "PlatformName": node.platform_name,
        "ActivationIds": node.activation_id,
        "IamRole": node.iam_role,
        "ResourceType": "ManagedInstance" if node.is_hybrid else "EC2Instance",
        "SourceIds": node.id,
        "SourceTypes": "AWS::SSM::ManagedInstance" if node.is_hybrid else "AWS::EC2::Instance",
    }
    if key in plain:
        return [plain[key]]
    if key == "AssociationStatus":
        return [str(describe_node(state, node).get("AssociationStatus", ""))]
    tags = state.instance_tags(node.id)
    if key == "tag-key":
        return list(tags)
    if key.startswith("tag:"):
        return [tags[key[4:]]] if key[4:] in tags else []
    return None


class SsmNodes(SimpleSystemManagerResponse):
    def describe_instance_information(self) -> ActionResult:
        """An InstanceIds filter with an id that is not a node of the account is refused (facts of AWS)."""
        state, request = state_of(self), request_of(self)
        old, new = request.get("InstanceInformationFilterList") or [], request.get("Filters") or []
        if old and new:
            raise validation("InstanceInformationFilterList and Filters cannot be used together.")
        filters = [*old, *new]
        known = {node.id: node for node in state.managed()}
        for row in filters:
            if (row.get("Key") or row.get("key")) == "InstanceIds":
                ids = row.get("Values") or row.get("valueSet") or []
                if len(ids) > 100:
                    raise CloudError(
                        "InvalidInstanceInformationFilterValue", "At most 100 values are allowed."
                    )
                unowned = [i for i in ids if i not in known and not _owned(state, i)]
                if unowned:
                    raise CloudError("InvalidInstanceId", f"Instance Ids not found or not owned: {unowned}")
        nodes = [n for n in known.values() if filters_hold(filters, partial(_node_values, state, n))]
        rows = [describe_node(state, node) for node in sorted(nodes, key=lambda node: node.id)]
        return paged("InstanceInformationList", rows, request, default=10, low=5, high=50)

    def get_connection_status(self) -> ActionResult:
        """Whether the node's control channel is open, which is what Session Manager needs."""
        state, target = state_of(self), str(request_of(self).get("Target"))
        node = state.nodes.get(target)
        connected = node is not None and not node.stuck and (node.channels > 0 or node.simulated)
        return answer(Target=target, Status="connected" if connected else "notconnected")

    def deregister_managed_instance(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        node = state.nodes.get(str(request.get("InstanceId")))
        if node is None or not node.is_hybrid or node.deregistered or node.kept:
            raise CloudError(
                "InvalidInstanceId", f"Instance {request.get('InstanceId')} is not a managed instance."
            )
        with state.changed:
            node.deregistered = True
            state.changed.notify_all()
        return answer()

    def update_managed_instance_role(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        node = state.nodes.get(str(request.get("InstanceId")))
        if node is None or not node.is_hybrid:
            raise CloudError(
                "InvalidInstanceId", f"Instance {request.get('InstanceId')} is not a managed instance."
            )
        node.iam_role = str(request["IamRole"])
        return answer()

    def create_activation(self) -> ActionResult:
        """An activation ends after 24 hours, or when told, at most 30 days ahead."""
        state, request = state_of(self), request_of(self)
        expires = clock.now() + timedelta(hours=24)
        given = request.get("ExpirationDate")
        if given is not None:
            expires = clock.now().fromtimestamp(float(given), clock.now().tzinfo)
            if expires > clock.now() + timedelta(days=30):
                raise validation("The expiration date can be at most 30 days in the future.")
        activation_id = str(uuid.uuid4())
        state.activations[activation_id] = {
            "ActivationId": activation_id,
            "ActivationCode": secrets.token_urlsafe(15)[:20],
            "Description": request.get("Description", ""),
            "DefaultInstanceName": request.get("DefaultInstanceName", ""),
            "IamRole": request.get("IamRole", ""),
            "RegistrationLimit": int(request.get("RegistrationLimit", 1)),
            "RegistrationsCount": 0,
            "ExpirationDate": expires,
            "CreatedDate": clock.now(),
            "Tags": request.get("Tags", []),
        }
        return answer(
            ActivationId=activation_id, ActivationCode=state.activations[activation_id]["ActivationCode"]
        )

    def describe_activations(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        keys = {
            "ActivationIds": "ActivationId",
            "IamRole": "IamRole",
            "DefaultInstanceName": "DefaultInstanceName",
        }
        rows = []
        for found in state.activations.values():
            row = {key: value for key, value in found.items() if key != "ActivationCode"}
            row["Expired"] = clock.now() > found["ExpirationDate"]
            asked = [
                (keys.get(f["FilterKey"], f["FilterKey"]), f.get("FilterValues", []))
                for f in request.get("Filters") or []
            ]
            if all(str(row.get(key)) in values for key, values in asked):
                rows.append(row)
        return paged("ActivationList", rows, request)

    def delete_activation(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        if state.activations.pop(str(request.get("ActivationId")), None) is None:
            raise CloudError("InvalidActivation", "The activation isn't valid.")
        return answer()

    def get_service_setting(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        return answer(ServiceSetting=_setting(state, str(request.get("SettingId"))))

    def update_service_setting(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        name = _setting_name(str(request.get("SettingId")))
        _setting(state, name)
        state.settings[name] = {
            "SettingValue": str(request["SettingValue"]),
            "LastModifiedDate": clock.now(),
            "LastModifiedUser": f"arn:{state.partition}:iam::{state.account_id}:root",
        }
        return answer()

    def reset_service_setting(self) -> ActionResult:
        state, request = state_of(self), request_of(self)
        name = _setting_name(str(request.get("SettingId")))
        state.settings.pop(name, None)
        return answer(ServiceSetting=_setting(state, name))


def _owned(state: SsmState, instance_id: str) -> bool:
    return state.instance_state(instance_id) is not None or instance_id in state.nodes


def _setting_name(setting_id: str) -> str:
    """A setting is named by its path or by its ARN."""
    return (
        "/" + setting_id.split(":servicesetting/", 1)[1] if ":servicesetting/" in setting_id else setting_id
    )


def _setting(state: SsmState, setting_id: str) -> dict[str, Any]:
    name = _setting_name(setting_id)
    if name not in SETTING_DEFAULTS:
        raise CloudError("ServiceSettingNotFound", f"Setting {setting_id} was not found.")
    base = {
        "SettingId": name,
        "ARN": f"arn:{state.partition}:ssm:{state.region}:{state.account_id}:servicesetting{name}",
    }
    if name in state.settings:
        return base | state.settings[name] | {"Status": "Customized"}
    return base | {"SettingValue": SETTING_DEFAULTS[name], "Status": "Default", "LastModifiedUser": "System"}
