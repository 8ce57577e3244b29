"""Instance metadata, version 2 only: the agent never falls back to version 1 (ec2_identity.go:280). An agent
before 2.3.814 knows nothing but version 1."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from .pace import scaled_s
from .web import SendFailed, Timeouts, send

DEFAULT_ENDPOINT = "http://169.254.169.254"
TOKEN_PATH = "/latest/api/token"


class ImdsError(Exception):
    """The instance metadata service gave no answer that can be used."""


class NoInstanceRole(ImdsError):
    """The instance has no role: IMDS answers 404 for its credentials."""


@dataclass(frozen=True)
class Credentials:
    """Temporary credentials and when they end (ISO 8601, as IMDS gives it)."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expiration: str = ""


def _endpoint() -> str:
    return (os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def _timeouts() -> Timeouts:
    wait_s = scaled_s(3.6, at_least_s=1.0)
    return Timeouts(connect_s=wait_s, read_s=wait_s)


def _token_failure(method: str, url: str, reason: str) -> ImdsError:
    # aws-sdk-go v1 ec2metadata/token_provider.go, as it stands in the log of release 3.3.1142.0.
    return ImdsError(
        "EC2MetadataError: failed to get IMDSv2 token and fallback to IMDSv1 is disabled\n"
        "caused by: : \n\tstatus code: 0, request id: \n"
        f'caused by: RequestError: send request failed\ncaused by: {method} "{url}": {reason}'
    )


def _token() -> str:
    url = _endpoint() + TOKEN_PATH
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
    try:
        answer = send("PUT", url, headers, b"", _timeouts())
    except SendFailed as error:
        reason = str(error)
        if reason.endswith("i/o timeout"):
            reason = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        raise _token_failure("Put", url, reason) from error
    if answer.status != 200:
        raise ImdsError(
            "EC2MetadataError: failed to get IMDSv2 token and fallback to IMDSv1 is disabled\n"
            f"caused by: : \n\tstatus code: {answer.status}, request id: "
        )
    return answer.body.decode()


def get_without_token(path: str) -> str:
    """`/latest/<path>` as text, asked for without a token, as the SDK of old agents does."""
    url = f"{_endpoint()}/latest/{path}"
    try:
        answer = send("GET", url, {}, b"", _timeouts())
    except SendFailed as error:
        raise ImdsError(f"RequestError: send request failed\ncaused by: Get {url}: {error}") from error
    if answer.status != 200:
        raise ImdsError(
            f"EC2MetadataError: failed to make EC2Metadata request\ncaused by: {answer.body.decode()}"
        )
    return answer.body.decode()


def get_metadata(path: str) -> str:
    """`/latest/<path>` as text; NoInstanceRole stands for 404."""
    url = f"{_endpoint()}/latest/{path}"
    try:
        answer = send("GET", url, {"X-aws-ec2-metadata-token": _token()}, b"", _timeouts())
    except SendFailed as error:
        raise ImdsError(f'RequestError: send request failed\ncaused by: Get "{url}": {error}') from error
    if answer.status == 404:
        raise NoInstanceRole("EC2MetadataError: failed to make EC2Metadata request\n\tstatus code: 404")
    if answer.status != 200:
        text = f"status code: {answer.status}, request id: "
        raise ImdsError(f"EC2MetadataError: failed to make EC2Metadata request\n\t{text}")
    return answer.body.decode()


def instance_id() -> str:
    """The EC2 instance id."""
    return get_metadata("meta-data/instance-id").strip()


def region() -> str:
    """The region that the instance runs in."""
    return get_metadata("meta-data/placement/region").strip()


def availability_zone() -> str:
    """The availability zone, or an empty string where IMDS has none."""
    try:
        return get_metadata("meta-data/placement/availability-zone").strip()
    except ImdsError:
        return ""


def _credentials_at(path: str) -> Credentials:
    data = json.loads(get_metadata(path))
    return Credentials(
        data["AccessKeyId"], data["SecretAccessKey"], data["Token"], data.get("Expiration", "")
    )


def role_credentials() -> Credentials:
    """Credentials of the instance profile's role."""
    names = get_metadata("meta-data/iam/security-credentials/").split()
    if not names:
        raise NoInstanceRole("no role listed")
    return _credentials_at(f"meta-data/iam/security-credentials/{names[0]}")


def identity_credentials() -> Credentials:
    """Credentials of the instance's own identity role, which every instance has."""
    return _credentials_at("meta-data/identity-credentials/ec2/security-credentials/ec2-instance")
