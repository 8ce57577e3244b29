"""The instance metadata service of one host, versions 1 and 2."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from lab.cloud.accountview import AccountView

TOKEN_HEADER = "X-aws-ec2-metadata-token"
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
MAX_TTL_S = 21600
CREDENTIALS_KEPT_S = 300.0
# What the SDK of old agents repeats in their logs.
UNAUTHORIZED = """<?xml version="1.0" encoding="iso-8859-1"?>
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>401 - Unauthorized</title>
 </head>
</html>
"""
IDENTITY_PATH = "meta-data/identity-credentials/ec2"


class Metadata:
    """What the tree holds for one instance, read from the account when asked."""

    def __init__(self, view: AccountView, instance_id: str) -> None:
        self._view = view
        self._instance_id = instance_id
        self._tokens: dict[str, float] = {}
        self._credentials: dict[str | None, tuple[float, dict[str, Any]]] = {}

    def facts(self) -> dict[str, Any] | None:
        return self._view.facts(self._instance_id)

    def new_token(self, ttl_s: int) -> str:
        token = secrets.token_urlsafe(40) + "=="
        self._tokens[token] = time.monotonic() + ttl_s
        return token

    def token_holds(self, token: str) -> bool:
        return self._tokens.get(token, float("-inf")) > time.monotonic()

    def credentials(self, role_arn: str | None) -> dict[str, Any] | None:
        kept = self._credentials.get(role_arn)
        if kept and time.monotonic() - kept[0] < CREDENTIALS_KEPT_S:
            return kept[1]
        found = self._view.credentials(self._instance_id, role_arn)
        if found:
            self._credentials[role_arn] = (time.monotonic(), found)
        return found

    def text(self, path: str) -> str | None:
        """The document at a path below /latest/, or a listing, or None for 404."""
        facts = self.facts()
        if facts is None:
            return None
        tree = _tree(facts)
        path = path.strip("/")
        value = tree.get(path)
        if value is None and path.startswith("meta-data/iam/security-credentials/"):
            return self._role_credentials(facts, path.rsplit("/", 1)[-1])
        if path == f"{IDENTITY_PATH}/security-credentials/ec2-instance":
            found = self.credentials(None)
            return json.dumps(found, indent=2) if found else None
        return value if value is not None else _listing(tree, path)

    def _role_credentials(self, facts: dict[str, Any], name: str) -> str | None:
        arn = facts["role_arn"]
        if not arn or str(arn).rsplit("/", 1)[-1] != name:
            return None
        found = self.credentials(arn)
        return json.dumps(found, indent=2) if found else None


def _tree(facts: dict[str, Any]) -> dict[str, str]:
    instance_id, address = facts["instance_id"], facts["private_ip"]
    name = f"ip-{address.replace('.', '-')}.{facts['region']}.compute.internal"
    document = {
        "accountId": facts["account_id"],
        "architecture": facts["architecture"],
        "availabilityZone": facts["availability_zone"],
        "imageId": facts["image_id"],
        "instanceId": instance_id,
        "instanceType": facts["instance_type"],
        "pendingTime": facts["launched"],
        "privateIp": address,
        "region": facts["region"],
        "version": "2017-09-30",
    }
    place = {"AccountId": facts["account_id"], "Code": "Success", "LastUpdated": facts["launched"]}
    tree = {
        "dynamic/instance-identity/document": json.dumps(document, indent=2),
        "meta-data/ami-id": facts["image_id"],
        "meta-data/hostname": name,
        "meta-data/instance-id": instance_id,
        "meta-data/instance-type": facts["instance_type"],
        "meta-data/local-hostname": name,
        "meta-data/local-ipv4": address,
        "meta-data/mac": facts["mac"],
        "meta-data/placement/availability-zone": facts["availability_zone"],
        "meta-data/placement/availability-zone-id": facts["availability_zone_id"],
        "meta-data/placement/region": facts["region"],
        "meta-data/services/domain": "amazonaws.com",
        "meta-data/services/partition": "aws",
        f"{IDENTITY_PATH}/info": json.dumps(place),
        f"{IDENTITY_PATH}/security-credentials/ec2-instance": "",
    }
    if facts["metadata_tags"] == "enabled":
        tree |= {f"meta-data/tags/instance/{key}": value for key, value in facts["tags"].items()}
    if facts["role_arn"]:
        info = {
            "Code": "Success",
            "LastUpdated": facts["launched"],
            "InstanceProfileArn": facts["profile_arn"],
        }
        tree["meta-data/iam/info"] = json.dumps(
            info | {"InstanceProfileId": f"AIPA{instance_id[2:].upper()}"}
        )
        tree["meta-data/iam/security-credentials"] = str(facts["role_arn"]).rsplit("/", 1)[-1]
    return tree


def _listing(tree: dict[str, str], path: str) -> str | None:
    prefix = f"{path}/" if path else ""
    below = sorted({name[len(prefix) :].split("/", 1)[0] for name in tree if name.startswith(prefix)})
    rows = [name if f"{prefix}{name}" in tree else f"{name}/" for name in below]
    return "\n".join(rows) or None


class ImdsHandler(BaseHTTPRequestHandler):
    """One connection; `metadata` is set by `handler_for`."""

    metadata: Metadata
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    sys_version = ""
    timeout = 15

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the lab's log is not the place for each metadata read."""

    def _answer(self, code: int, text: str = "", headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _enabled(self) -> bool:
        facts = self.metadata.facts()
        if facts is not None and facts["http_endpoint"] == "disabled":
            self._answer(403, "Forbidden")
            return False
        return True

    def do_PUT(self) -> None:
        if not self._enabled():
            return
        ttl = self.headers.get(TTL_HEADER, "")
        if self.path.rstrip("/") != "/latest/api/token":
            self._answer(405)
        elif not ttl.isdigit() or not 1 <= int(ttl) <= MAX_TTL_S:
            self._answer(400)
        elif self.headers.get("X-Forwarded-For"):
            # Version 2 refuses requests that came through a proxy.
            self._answer(403)
        else:
            self._answer(200, self.metadata.new_token(int(ttl)), {TTL_HEADER: ttl})

    def do_GET(self) -> None:
        if not self._enabled():
            return
        facts = self.metadata.facts()
        token = self.headers.get(TOKEN_HEADER)
        needs_token = facts is not None and facts["http_tokens"] == "required"
        if (token is None and needs_token) or (token is not None and not self.metadata.token_holds(token)):
            self._answer(401, UNAUTHORIZED)
            return
        path = self.path.split("?", 1)[0]
        if path in ("", "/"):
            self._answer(200, "latest")
            return
        version, _, rest = path.lstrip("/").partition("/")
        known = version in ("latest", "1.0", "2021-03-23", "2023-11-01")
        found = self.metadata.text(rest) if known else None
        self._answer(200, found) if found is not None else self._answer(404, "Not Found")

    do_HEAD = do_GET


def handler_for(metadata: Metadata) -> Callable[..., ImdsHandler]:
    return type("BoundImdsHandler", (ImdsHandler,), {"metadata": metadata})
