"""Where the core gets credentials from: OnPrem, the instance profile, or default host management."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from ..netkit import clock, imds
from ..netkit.aws import Client, RequestError, ServiceError
from ..netkit.hostfs import at, read_text
from ..netkit.imds import Credentials
from .fingerprint import instance_fingerprint
from .identity import Identity
from .layout import DHMC_CREDENTIALS, SHARED_CREDENTIALS
from .logfile import Log
from .ping import instance_information
from .settings import Settings

# ec2_role_provider.go:126-152: after these, and only these, the default host management role is tried.
FALLBACK_CODES = ("AccessDeniedException", "EC2RoleRequestError", "AssumeRoleUnauthorizedAccess")


class RetrieveFailed(Exception):
    """No credentials; `code` is the AWS error's, "" when there was none."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Retrieved:
    """Fresh credentials and how the worker finds them."""

    credentials: Credentials
    expires_at: str
    source: str
    share_file: str = ""


class Provider(Protocol):
    """What the refresher needs of an identity."""

    share_file: str

    def retrieve(self) -> Retrieved:
        """Fresh credentials, or RetrieveFailed."""
        ...


def go_time(when: datetime) -> str:
    """A UTC time as Go marshals it."""
    text = when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text}Z"


def save_profile(path: str, profile: str, credentials: Credentials) -> None:
    """Put the token into one profile of the file and leave the others (shared_Credentials.go)."""
    target = at(path)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    section = f"[{profile or 'default'}]"
    kept: list[str] = []
    skipping = False
    for line in (read_text(path) or "").splitlines():
        if line.strip().startswith("["):
            skipping = line.strip() == section
        if not skipping:
            kept.append(line)
    lines = [
        section,
        f"aws_access_key_id     = {credentials.access_key_id}",
        f"aws_secret_access_key = {credentials.secret_access_key}",
        f"aws_session_token     = {credentials.session_token}",
        "",
        *kept,
    ]
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write("\n".join(lines).rstrip("\n") + "\n\n")


def load_profile(path: str, profile: str) -> Credentials | None:
    """Credentials of one profile, or None where they are not there."""
    values: dict[str, str] = {}
    section = ""
    for line in (read_text(path) or "").splitlines():
        if line.strip().startswith("["):
            section = line.strip().strip("[]")
        elif section == (profile or "default"):
            key, _, value = line.partition("=")
            values[key.strip()] = value.strip()
    if "aws_access_key_id" not in values:
        return None
    key, secret = values["aws_access_key_id"], values.get("aws_secret_access_key", "")
    return Credentials(key, secret, values.get("aws_session_token", ""))


def _role_token(client: Client, fingerprint: str) -> tuple[Credentials, str]:
    data = client.call("AmazonSSM.RequestManagedInstanceRoleToken", {"Fingerprint": fingerprint})
    credentials = Credentials(data["AccessKeyId"], data["SecretAccessKey"], data["SessionToken"])
    expires = datetime.fromtimestamp(float(data["TokenExpirationDate"]), UTC).replace(microsecond=0)
    return credentials, go_time(expires)


class OnPremProvider:
    """The hybrid token, bound to the machine's fingerprint (onpremprovider/role_provider.go)."""

    def __init__(self, log: Log, settings: Settings, identity: Identity, stop: threading.Event) -> None:
        self._log = log.at_root("[OnPremCredsProvider]")
        self._identity = identity
        self._stop = stop
        self.share_file = SHARED_CREDENTIALS if settings.share_credentials else ""
        region = settings.region_or(identity.region)
        endpoint = settings.endpoint("ssm", region)
        self._client = Client(endpoint, "ssm", region, None, acting_as=identity.instance_id)

    def retrieve(self) -> Retrieved:
        fingerprint = instance_fingerprint(self._log, self._stop)
        try:
            credentials, expires = _role_token(self._client, fingerprint)
        except ServiceError as error:
            raise RetrieveFailed(str(error), error.code) from error
        except RequestError as error:
            raise RetrieveFailed(str(error), error.code) from error
        return Retrieved(credentials, expires, "SSM", self.share_file)


class Ec2Provider:
    """Instance profile first, then default host management (ec2_role_provider.go:100-215)."""

    def __init__(self, log: Log, settings: Settings, identity: Identity) -> None:
        self._log = log.at_root("EC2RoleProvider")
        self._settings = settings
        self._identity = identity
        self._region = settings.region_or(identity.region)
        self.share_file = ""

    def retrieve(self) -> Retrieved:
        try:
            credentials = self._profile_credentials()
        except RetrieveFailed as error:
            if error.code not in FALLBACK_CODES:
                raise RetrieveFailed(
                    "unexpected error getting instance profile role credentials or calling "
                    "UpdateInstanceInformation. "
                    f"Skipping default host management fallback: {error}",
                    error.code,
                ) from error
            self._log.warn(
                f"Failed to connect to Systems Manager with instance profile role credentials. Err: {error}"
            )
            return self._default_host_management()
        self._log.info("Successfully connected with instance profile role credentials")
        self.share_file = ""
        return Retrieved(credentials, go_time(clock.now() + timedelta(hours=1)), "EC2")

    def _profile_credentials(self) -> Credentials:
        failed = "retrieved credentials failed to report to ssm. Error: "
        try:
            credentials = imds.role_credentials()
        except imds.NoInstanceRole as error:
            text = f"{failed}EC2RoleRequestError: no EC2 instance role found"
            raise RetrieveFailed(text, "EC2RoleRequestError") from error
        except imds.ImdsError as error:
            text = f"{failed}EC2RoleRequestError: {str(error).partition('EC2MetadataError: ')[2] or error}"
            raise RetrieveFailed(text, "EC2RoleRequestError") from error
        client = Client(self._settings.endpoint("ssm", self._region), "ssm", self._region, credentials)
        try:
            client.call(
                "AmazonSSM.UpdateInstanceInformation",
                instance_information(self._identity, "amazon-ssm-agent"),
            )
        except (ServiceError, RequestError) as error:
            raise RetrieveFailed(f"{failed}{error.brief}", error.code) from error
        return credentials

    def _default_host_management(self) -> Retrieved:
        instance_id = self._identity.instance_id
        endpoint = self._settings.endpoint("ssm", self._region)
        try:
            # The instance's own identity signs, and beside it the key pair of the registration.
            client = Client(endpoint, "ssm", self._region, imds.identity_credentials(), key_pair=True)
            credentials, expires = _role_token(client, instance_id)
        except (ServiceError, RequestError, imds.ImdsError) as error:
            cause = f"error calling RequestManagedInstanceRoleToken: {error}"
            self._log.error(
                f"Failed to connect to Systems Manager with SSM role credentials. {cause}",
                "RemoteRetrieve @ ec2_role_provider.go.145",
            )
            raise RetrieveFailed(
                "no valid credentials could be retrieved for ec2 identity. "
                f"Default Host Management Err: {cause}",
                "EC2RoleRequestError" if isinstance(error, imds.ImdsError) else error.code,
            ) from error
        self._log.info("Successfully connected with SSM role credentials")
        self.share_file = DHMC_CREDENTIALS
        return Retrieved(credentials, expires, "SSM", DHMC_CREDENTIALS)
