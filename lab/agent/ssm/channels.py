"""How commands reach the worker: the control channel, and ec2messages while that is not up."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from typing import Any

from ..netkit.aws import RequestError, ServiceError
from ..netkit.imds import ImdsError
from ..netkit.pace import pause
from ..netkit.resolve import LookupFailed
from ..netkit.web import peer_of
from .logfile import Log
from .session import Session

POLL_S = 10
RETRY_S = 30.0
MDS_RETRY_S = 15.0
MDS_GRACE_S = 60.0
MDS_TARGET = "EC2WindowsMessageDeliveryService_v20150723"

Message = dict[str, Any]
CallFailed = (ServiceError, RequestError, ImdsError, ValueError)


class Channels:
    """Both ways in; `deliver` is called with each message."""

    def __init__(
        self, log: Log, session: Session, deliver: Callable[[Message], None], stop: threading.Event
    ) -> None:
        service = log.within("[MessageService]")
        self._service_log = service
        self._mgs = service.within("[MGSInteractor]")
        self._mds = service.within("[MDSInteractor]")
        self._session = session
        self._deliver = deliver
        self._stop = stop
        self._connected = threading.Event()

    @property
    def control_channel_is_up(self) -> bool:
        """Whether messages come over ssmmessages now."""
        return self._connected.is_set()

    def start(self) -> None:
        """Begin both loops in the background."""
        self._mds.info("Starting message polling")
        self._mds.info("Starting send failed replies to MDS")
        self._service_log.info("supported workers for the interactor MDSInteractor: [ssm-document-worker]")
        self._mds.info("MDS Polling job started.")
        self._mds.info("listen reply thread started")
        threading.Thread(target=self._run_control_channel, daemon=True).start()
        threading.Thread(target=self._run_mds, daemon=True).start()

    def reply(self, report: Message) -> None:
        """Send a reply by the way that is up; raises what the call raises."""
        if self._connected.is_set():
            path = f"/v1/control-channel/{self._session.identity.instance_id}/reply"
            self._session.client("ssmmessages").request("POST", path, json.dumps(report).encode())
        else:
            self._session.client("ec2messages").call(f"{MDS_TARGET}.SendReply", report)

    def log_closed(self) -> None:
        """The lines that a stop leaves."""
        instance_id = self._session.identity.instance_id
        host = self._session.settings.endpoint("ssmmessages", self._session.region)
        self._service_log.info("Stopping MessageService")
        self._mgs.info("MGS send failed reply job closed")
        self._mds.info("Received stop poll job request")
        self._service_log.info("Stopped Mds service")
        self._service_log.within("[MessageHandler]").info("stopping MessageHandler.")
        self._mds.info("MDSInteractor closed")
        self._mgs.info("Reply queue has been closed")
        if self._connected.is_set():
            self._mgs.info(f"Closing controlchannel with channel Id {instance_id}")
            self._mgs.info(f"Closing websocket channel connection to: {_socket_url(host, instance_id)}")
            self._mgs.info("Ending the channel listening routine since the channel is closed")
        self._service_log.info("Stopped MessageService")

    def _run_control_channel(self) -> None:
        self._mgs.info("SSM Agent is trying to setup control channel for MGSInteractor")
        self._mgs.info("agent telemetry cloudwatch metrics disabled")
        first = True
        while not self._stop.is_set():
            if self._open():
                self._log_opened(first)
                first = False
                self._listen()
            pause(self._stop, RETRY_S, at_least_s=1.0)

    def _open(self) -> bool:
        request_id = str(uuid.uuid4())
        instance_id = self._session.identity.instance_id
        self._mgs.info(
            f"Setting up websocket for controlchannel for instance: {instance_id}, requestId: {request_id}"
        )
        body = json.dumps({"MessageSchemaVersion": "1.0", "RequestId": request_id}).encode()
        try:
            client = self._session.client("ssmmessages")
            client.request("POST", f"/v1/control-channel/{instance_id}", body)
        except CallFailed as error:
            self._report_not_opened(error)
            return False
        self._mgs.info(f"Opening websocket connection to: {_socket_url(client.host, instance_id)}")
        return True

    def _report_not_opened(self, error: Exception) -> None:
        if isinstance(error, ServiceError):
            text = (
                error.body
                if error.body.lstrip().startswith("<")
                else f"<{error.code}>\n<Message>{error.brief}"
            )
            cause = f"createControlChannel request failed: unexpected response from the service {text}"
        elif isinstance(error, RequestError):
            cause = f"createControlChannel request failed: {str(error).partition('caused by: ')[2]}"
        else:
            cause = f"error when getting credentials: {error}"
        self._mgs.error(
            f"Failed to get controlchannel token, error: CreateControlChannel failed with error: {cause}",
            "setUpControlChannel @ controlchannel.go.267",
        )
        self._mgs.info("SSM Connection channel status is set to ec2messages")

    def _log_opened(self, first: bool) -> None:
        host = self._session.client("ssmmessages").endpoint
        try:
            peer = peer_of(host)
        except LookupFailed:
            peer = host
        self._mgs.info(f"Successfully opened websocket connection to: {peer}")
        if first:
            self._mgs.info("Setting up agent telemetry scheduler")
        self._mgs.info("Set up control channel successfully")
        self._mgs.info("SSM Connection channel status is set to ssmmessages")
        workers = "[ssm-document-worker ssm-session-worker]"
        self._service_log.info(f"supported workers for the interactor MGSInteractor: {workers}")
        self._service_log.within("[SessionProcessorWrapper]").info("listening session reply.")
        self._mgs.info("Starting websocket pinger")
        self._mgs.info("Starting websocket listener")

    def _listen(self) -> None:
        path = f"/v1/control-channel/{self._session.identity.instance_id}?wait={POLL_S}"
        self._connected.set()
        try:
            while not self._stop.is_set():
                answer = self._session.client("ssmmessages").request("GET", path, read_s=POLL_S + 10.0)
                if answer.status == 200 and answer.body:
                    self._deliver_all(json.loads(answer.body).get("messages", []))
        except CallFailed as error:
            if not self._stop.is_set():
                self._mgs.error(
                    f"Error when receiving message from websocket: {str(error).splitlines()[-1]}",
                    "listen @ websocketchannel.go.301",
                )
        finally:
            if not self._stop.is_set():
                self._connected.clear()

    def _run_mds(self) -> None:
        while not self._stop.is_set():
            if self._connected.is_set():
                self._mds.info("MDS Polling stop job started.")
                self._rest_while_connected()
                continue
            try:
                payload = {"Destination": self._session.identity.instance_id, "WaitSeconds": POLL_S}
                client = self._session.client("ec2messages")
                answer = client.call(f"{MDS_TARGET}.GetMessages", payload, read_s=POLL_S + 10.0)
                self._deliver_all(answer.get("Messages") or [])
            except CallFailed:
                # Both ways refused shows in the log through the control channel; MDS retries are debug lines.
                pause(self._stop, MDS_RETRY_S, at_least_s=1.0)

    def _rest_while_connected(self) -> None:
        if not pause(self._stop, MDS_GRACE_S) and self._connected.is_set():
            self._mds.info("Moving to stop poll job after a minute")
            self._mds.info("Sent termination signal to message poll job.")
            self._mds.info("MDS Polling job stopped.")
        while self._connected.is_set() and not self._stop.wait(0.5):
            pass

    def _deliver_all(self, messages: list[Message]) -> None:
        for message in messages:
            self._deliver(message)


def _socket_url(host: str, instance_id: str) -> str:
    return f"wss://{host}/v1/control-channel/{instance_id}?role=subscribe&stream=input"
