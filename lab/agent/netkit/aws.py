"""AWS calls as the agents make them: JSON 1.1 or plain REST, never really signed."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import urlsplit

from . import clock
from .imds import Credentials
from .web import Response, SendFailed, aws_timeouts, send
from .websocket import WebSocket, open_websocket


class ServiceError(Exception):
    """An answer that is an error; `brief` is Go's one-line form."""

    def __init__(self, code: str, message: str, status: int, request_id: str, body: str = "") -> None:
        super().__init__(f"{code}: {message}\n\tstatus code: {status}, request id: {request_id}")
        self.code = code
        self.brief = f"{code}: {message}"
        self.body = body


class RequestError(Exception):
    """No answer came; awserr's `RequestError: send request failed` with its cause."""

    code = "RequestError"
    brief = "RequestError: send request failed"

    def __init__(self, method: str, url: str, reason: str) -> None:
        super().__init__(f'{self.brief}\ncaused by: {method.capitalize()} "{url}": {reason}')


AwsError = ServiceError | RequestError


def _authorization(key_id: str, region: str, service: str) -> dict[str, str]:
    now = clock.now()
    scope = f"{key_id}/{now:%Y%m%d}/{region}/{service}/aws4_request"
    return {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=lab",
        "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
    }


def _service_error(answer: Response) -> ServiceError:
    text = answer.body.decode(errors="replace")
    try:
        data = json.loads(text)
    except ValueError:
        data = {}
    if not isinstance(data, dict):
        data = {}
    code = str(data.get("__type") or answer.headers.get("x-amzn-errortype") or "UnknownError")
    message = str(data.get("message") or data.get("Message") or "")
    request_id = answer.headers.get("x-amzn-requestid") or str(uuid.uuid4())
    return ServiceError(code.split("#")[-1].split(":")[0], message, answer.status, request_id, text)


class Client:
    """Calls one service at one endpoint as one principal.

    Without credentials it is a hybrid node's key pair that signs, under the node's own id; with `key_pair` an
    EC2 instance's key pair signs beside its credentials.
    """

    def __init__(
        self,
        endpoint: str,
        service: str,
        region: str,
        credentials: Credentials | None,
        *,
        acting_as: str = "anonymous",
        key_pair: bool = False,
    ) -> None:
        self.endpoint = endpoint if "//" in endpoint else f"https://{endpoint}"
        self._service = service
        self._region = region
        self._credentials = credentials
        self._acting_as = acting_as
        self._key_pair = key_pair

    def _headers(self) -> dict[str, str]:
        key_id = self._credentials.access_key_id if self._credentials else self._acting_as
        headers = _authorization(key_id, self._region, self._service)
        if self._credentials:
            headers["X-Amz-Security-Token"] = self._credentials.session_token
        if self._credentials and self._key_pair:
            # The real one is an RSA signature of the header above (agent/ssm/rsaauth/ssm_rsaV4.go).
            headers["SSM-AsymmetricKeyAuthorization"] = "Signature=lab"
        return headers

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        read_s: float = 20.0,
    ) -> Response:
        """One request; RequestError without an answer, ServiceError for 4xx and 5xx."""
        url = self.endpoint.rstrip("/") + path
        try:
            answer = send(method, url, {**self._headers(), **(headers or {})}, body, aws_timeouts(read_s))
        except SendFailed as error:
            raise RequestError(method, url, str(error)) from error
        if answer.status >= 400:
            raise _service_error(answer)
        return answer

    def websocket(self, path: str) -> WebSocket:
        """An open web socket; RequestError where there is none."""
        url = self.endpoint.rstrip("/") + path
        try:
            return open_websocket(url, self._headers(), aws_timeouts())
        except SendFailed as error:
            raise RequestError("GET", url, str(error)) from error

    def call(self, target: str, payload: dict[str, Any], read_s: float = 20.0) -> dict[str, Any]:
        """A JSON 1.1 operation, e.g. target `AmazonSSM.GetParameter`."""
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
        answer = self.request("POST", "/", json.dumps(payload).encode(), headers, read_s)
        if not answer.body.strip():
            return {}
        data: dict[str, Any] = json.loads(answer.body)
        return data

    @property
    def host(self) -> str:
        """Host name of the endpoint."""
        return urlsplit(self.endpoint).hostname or ""


def domain_of(region: str) -> str:
    """DNS suffix of a region's partition (common/identity/endpoint/endpoint.go:26)."""
    if region.startswith("cn-"):
        return "amazonaws.com.cn"
    return "amazonaws.com"


def endpoint_of(service: str, region: str) -> str:
    """Default endpoint host of a service."""
    return f"{service}.{region}.{domain_of(region)}"
