"""Which operation a request is, before moto has looked at it."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from moto.core.request import Request
from moto.core.routing import get_service_router
from moto.core.utils import get_service_model
from werkzeug.exceptions import NotFound

from lab.cloud.identity import scope_of

SERVICE_OF_HOST = re.compile(r"^(?P<service>[a-z0-9-]+)\.(?P<region>[a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com")
# Signing names that are not the names of the API models.
MODEL_NAMES = {"monitoring": "cloudwatch"}
MESSAGE_SERVICES = frozenset({"ssmmessages", "ec2messages"})
CHANNEL = re.compile(r"^/v1/(?P<kind>control-channel|data-channel)/[^/]+/?$")
CHANNELS = {"control-channel": "ControlChannel", "data-channel": "DataChannel"}


@dataclass(frozen=True)
class Call:
    service: str
    operation: str
    region: str
    access_key: str
    protocol: str

    @property
    def action(self) -> str:
        return f"{self.service}:{self.operation}"


@lru_cache(maxsize=64)
def protocol_of(service: str) -> str:
    if service in MESSAGE_SERVICES:
        return "json" if service == "ec2messages" else "xml"
    try:
        return str(get_service_model(MODEL_NAMES.get(service, service)).protocol)
    except Exception:  # botocore and moto each have their own error for a service they do not know
        return "json"


def body_of(environ: dict[str, Any]) -> bytes:
    """The body, left readable for whoever comes next."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    data: bytes = environ["wsgi.input"].read(length) if length else b""
    environ["wsgi.input"] = io.BytesIO(data)
    return data


def call_of(environ: dict[str, Any]) -> Call | None:
    """The AWS call of a request; None when it is none (health checks, unsigned S3)."""
    host = SERVICE_OF_HOST.match(environ.get("HTTP_HOST", ""))
    scope = scope_of(environ.get("HTTP_AUTHORIZATION", ""))
    if scope is None and host is None:
        return None
    key, region, service = scope or ("", host["region"] if host else "", host["service"] if host else "")
    if host and host["service"] in MESSAGE_SERVICES:
        service = host["service"]
    service = service.lower()
    if service == "s3":
        return None
    protocol = protocol_of(service)
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        operation = target.rsplit(".", 1)[-1]
    elif protocol in ("query", "ec2"):
        operation = (parse_qs(body_of(environ).decode("utf-8", "replace")).get("Action") or [""])[0]
    else:
        operation = _routed(service, environ)
    return Call(service, operation, region, key, protocol)


def _routed(service: str, environ: dict[str, Any]) -> str:
    if service in MESSAGE_SERVICES:
        found = CHANNEL.match(environ.get("PATH_INFO", ""))
        verb = {"POST": "Create", "GET": "Open"}.get(environ["REQUEST_METHOD"])
        return f"{verb}{CHANNELS[found['kind']]}" if found and verb else ""
    try:
        operation, _ = get_service_router(MODEL_NAMES.get(service, service)).match(Request(dict(environ)))
    except (NotFound, NotImplementedError, ValueError, KeyError):
        return ""
    return str(operation.name)
