"""How commands reach the worker: the control channel, and ec2messages while that is not up.

The control channel is the real one's protocol: a token by POST, a web socket, jobs and replies as binary
messages (agent/session/controlchannel and agent/messageservice/interactor/mgsinteractor of the real agent).
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from ..netkit.agentmessage import JOB, JOB_ACK, JOB_REPLY, JOB_REPLY_ACK, NotAMessage, message_of, unpack
from ..netkit.aws import RequestError, ServiceError
from ..netkit.imds import ImdsError
from ..netkit.pace import pause, scaled_s
from ..netkit.resolve import LookupFailed
from ..netkit.web import peer_of
from ..netkit.websocket import BINARY, PING, TEXT, Closed, WebSocket
from .logfile import Log
from .messages import Command, command_in, reply_payload
from .session import Session
from .version import VERSION

RETRY_S = 30.0
PING_S = 300.0
# The real agent waits one second; a lab on a busy machine may need more, and the wait ends with the answer.
REPLY_ACK_S = 10.0
MDS_READ_S = 20.0
MDS_RETRY_S = 15.0
MDS_GRACE_S = 60.0
MDS_TARGET = "EC2WindowsMessageDeliveryService"
TOKEN = re.compile(r"<TokenValue>([^<]+)</TokenValue>")

Report = dict[str, Any]
CallFailed = (ServiceError, RequestError, ImdsError, ValueError)


class Channels:
    """Both ways in; `deliver` is called with each message."""

    def __init__(
        self, log: Log, session: Session, deliver: Callable[[Command], None], stop: threading.Event
    ) -> None:
        service = log.within("[MessageService]")
        self._service_log = service
        self._mgs = service.within("[MGSInteractor]")
        self._mds = service.within("[MDSInteractor]")
        self._session = session
        self._deliver = deliver
        self._stop = stop
        self._connected = threading.Event()
        self._socket: WebSocket | None = None
        self._acks: dict[str, threading.Event] = {}

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

    def reply(self, report: Report) -> None:
        """Send a reply by the way that is up; raises what the call raises."""
        job_id, payload = report["MessageId"], json.dumps(reply_payload(report))
        socket = self._socket
        if socket is not None and self._connected.is_set():
            self._reply_on(socket, job_id, payload)
            return
        sent = {"MessageId": job_id, "Payload": payload, "ReplyId": str(uuid.uuid4())}
        self._session.client("ec2messages").call(f"{MDS_TARGET}.SendReply", sent)

    def _reply_on(self, socket: WebSocket, job_id: str, payload: str) -> None:
        content = {"schemaVersion": 1, "jobId": job_id, "content": payload, "topic": "aws.ssm.sendCommand"}
        message = message_of(JOB_REPLY, content)
        acked = self._acks[str(message.id)] = threading.Event()
        host = self._session.settings.endpoint("ssmmessages", self._session.region)
        url = _socket_url(host, self._session.identity.instance_id)
        try:
            socket.send(BINARY, message.pack())
            if not acked.wait(REPLY_ACK_S):
                raise RequestError("SEND", url, f"no ack received for the reply {message.id}")
        except Closed as error:
            raise RequestError("SEND", url, str(error)) from error
        finally:
            del self._acks[str(message.id)]

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
        path = f"/v1/control-channel/{instance_id}"
        try:
            client = self._session.client("ssmmessages")
            answer = client.request("POST", path, body, {"Content-Type": "application/json"})
            text = answer.body.decode(errors="replace")
            token = TOKEN.search(text)
            if answer.status != 201 or token is None:
                raise ServiceError("UnexpectedResponse", "no token", answer.status, "", text)
        except CallFailed as error:
            self._report_not_opened(error)
            return False
        self._mgs.info(f"Opening websocket connection to: {_socket_url(client.host, instance_id)}")
        opening = {
            "Cookie": None,
            "MessageSchemaVersion": "1.0",
            "RequestId": str(uuid.uuid4()),
            "TokenValue": token[1],
            "AgentVersion": VERSION,
            "PlatformType": "linux",
        }
        try:
            self._socket = client.websocket(f"{path}?role=subscribe&stream=input")
            self._socket.send(TEXT, json.dumps(opening).encode())
        except (RequestError, Closed) as error:
            cause = str(error).splitlines()[-1]
            self._mgs.warn(f"Failed to dial websocket: {cause}")
            return False
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
        socket = self._socket
        assert socket is not None
        self._connected.set()
        next_ping_s = time.monotonic() + _ping_s()
        try:
            while not self._stop.is_set():
                data = socket.receive(next_ping_s - time.monotonic())
                if data is not None:
                    self._take(socket, data)
                elif time.monotonic() >= next_ping_s:
                    socket.send(PING, b"keepalive")
                    next_ping_s = time.monotonic() + _ping_s()
        except (Closed, NotAMessage) as error:
            if not self._stop.is_set():
                self._mgs.warn(f"Reach the retry limit 5 for receive messages. Error: {error}")
        finally:
            if not self._stop.is_set():
                self._connected.clear()
            socket.close()

    def _take(self, socket: WebSocket, data: bytes) -> None:
        message = unpack(data)
        self._mgs.info(f"Processing AgentMessage: MessageType - {message.type}, Id - {message.id}")
        content = message.content()
        if message.type == JOB_REPLY_ACK:
            waiting = self._acks.get(str(content.get("acknowledgedMessageId")))
            if waiting is not None:
                waiting.set()
        elif message.type == JOB:
            job_id = str(content.get("JobId", ""))
            ack = {
                "jobId": job_id,
                "acknowledgedMessageId": str(message.id),
                "createdDate": _iso(message.created_ms),
                "statusCode": "200",
                "errorMessage": "",
            }
            try:
                self._deliver(command_in(job_id, str(content.get("Content", ""))))
            except NotAMessage:
                ack |= {"statusCode": "51408", "errorMessage": "AgentJobMessageParseError"}
            socket.send(BINARY, message_of(JOB_ACK, ack).pack())

    def _run_mds(self) -> None:
        while not self._stop.is_set():
            if self._connected.is_set():
                self._mds.info("MDS Polling stop job started.")
                self._rest_while_connected()
                continue
            try:
                payload = {
                    "Destination": self._session.identity.instance_id,
                    "MessagesRequestId": str(uuid.uuid4()),
                    "VisibilityTimeoutInSeconds": 10,
                }
                client = self._session.client("ec2messages")
                answer = client.call(f"{MDS_TARGET}.GetMessages", payload, read_s=MDS_READ_S)
                for message in answer.get("Messages") or []:
                    self._take_from_mds(str(message["MessageId"]), str(message["Payload"]))
            except CallFailed:
                # Both ways refused shows in the log through the control channel; MDS retries are debug lines.
                pause(self._stop, MDS_RETRY_S, at_least_s=1.0)

    def _take_from_mds(self, message_id: str, payload: str) -> None:
        client = self._session.client("ec2messages")
        try:
            command = command_in(message_id, payload)
        except NotAMessage:
            failed = {"MessageId": message_id, "FailureType": "InternalHandlerException"}
            client.call(f"{MDS_TARGET}.FailMessage", failed)
            return
        self._deliver(command)
        client.call(f"{MDS_TARGET}.AcknowledgeMessage", {"MessageId": message_id})

    def _rest_while_connected(self) -> None:
        if not pause(self._stop, MDS_GRACE_S) and self._connected.is_set():
            self._mds.info("Moving to stop poll job after a minute")
            self._mds.info("Sent termination signal to message poll job.")
            self._mds.info("MDS Polling job stopped.")
        while self._connected.is_set() and not self._stop.wait(0.5):
            pass


def _ping_s() -> float:
    return scaled_s(PING_S, at_least_s=1.0)


def _iso(epoch_ms: int) -> str:
    seconds, milliseconds = divmod(epoch_ms, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"


def _socket_url(host: str, instance_id: str) -> str:
    return f"wss://{host}/v1/control-channel/{instance_id}?role=subscribe&stream=input"
