"""Errors on demand: the next n calls of an operation fail as told."""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import dataclass
from xml.sax.saxutils import escape

MESSAGES = {
    "AccessDeniedException": (
        "User: arn:aws:iam::{account}:user/operator is not authorized to perform: {operation}"
    ),
    "ThrottlingException": "Rate exceeded",
    "RequestLimitExceeded": "Request limit exceeded.",
}
QUERY_CODES = {"AccessDeniedException": "AccessDenied", "ThrottlingException": "Throttling"}
EC2_CODES = {"AccessDeniedException": "UnauthorizedOperation", "ThrottlingException": "RequestLimitExceeded"}


@dataclass
class Fault:
    error: str
    times: int | None
    message: str = ""


class Faults:
    """`service:Operation` or `service:*` → what to answer; `times` None lasts until it is cleared."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: dict[str, Fault] = {}

    def set(self, operation: str, error: str | None, times: int | None = None, message: str = "") -> None:
        with self._lock:
            self._faults.pop(operation, None)
            if error and times != 0:
                self._faults[operation] = Fault(error, times, message)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, operation: str) -> Fault | None:
        service = operation.split(":", 1)[0]
        with self._lock:
            for key in (operation, f"{service}:*"):
                fault = self._faults.get(key)
                if fault is None:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        del self._faults[key]
                return fault
        return None

    def listed(self) -> dict[str, dict[str, object]]:
        with self._lock:
            return {key: {"error": f.error, "times": f.times} for key, f in self._faults.items()}


def _xml(code: str, message: str) -> str:
    return f"<Code>{code}</Code><Message>{escape(message)}</Message>"


def error_response(protocol: str, error: str, message: str) -> tuple[str, list[tuple[str, str]], bytes]:
    """(status line, headers, body) of an error in the protocol of its service."""
    if protocol == "json":
        body = json.dumps({"__type": error, "message": message}).encode()
        headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-ErrorType", error)]
        return "400 Bad Request", headers, body
    if protocol == "xml":
        text = f"<{error}>\n  <Message>{escape(message)}</Message>\n</{error}>\n"
        return "400 Bad Request", [("Content-Type", "application/xml")], text.encode()
    if protocol == "rest-json":
        status = "429 Too Many Requests" if error == "ThrottlingException" else "403 Forbidden"
        body = json.dumps({"message": message, "Code": error}).encode()
        return status, [("Content-Type", "application/json"), ("x-amzn-ErrorType", error)], body
    if protocol == "ec2":
        code = EC2_CODES.get(error, error)
        text = f"<Response><Errors><Error>{_xml(code, message)}</Error></Errors>"
        text += f"<RequestID>{uuid.uuid4()}</RequestID></Response>"
    elif protocol == "rest-xml":
        code = QUERY_CODES.get(error, error)
        text = f"<Error>{_xml(code, message)}</Error>"
    else:
        code = QUERY_CODES.get(error, error)
        text = f"<ErrorResponse><Error><Type>Sender</Type>{_xml(code, message)}</Error>"
        text += f"<RequestId>{uuid.uuid4()}</RequestId></ErrorResponse>"
    status = "400 Bad Request" if "Throttl" in code or "Limit" in code else "403 Forbidden"
    return status, [("Content-Type", "text/xml")], text.encode()
