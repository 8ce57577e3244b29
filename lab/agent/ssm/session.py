"""The worker's access to AWS: its credentials, wherever the core said that they are."""

from __future__ import annotations

import time

from ..netkit import imds
from ..netkit.aws import Client, ServiceError
from ..netkit.imds import Credentials
from .identity import Identity, load_runtime_config
from .layout import SHARED_CREDENTIALS
from .providers import load_profile
from .settings import Settings

# The Go SDK keeps role credentials until shortly before they end; here a change of role shows sooner.
CACHE_S = 15.0


class Session:
    """Makes clients with current credentials."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.settings = settings
        self.identity = identity
        self.region = settings.region_or(identity.region)
        self._cached: Credentials | None = None
        self._cached_at = 0.0

    def client(self, service: str) -> Client:
        """A client of `service`; ServiceError or ImdsError where there are no credentials."""
        endpoint = self.settings.endpoint(service, self.region)
        return Client(endpoint, service, self.region, self._credentials())

    def _credentials(self) -> Credentials:
        if self._cached is None or time.monotonic() - self._cached_at > CACHE_S:
            self._cached, self._cached_at = self._load(), time.monotonic()
        return self._cached

    def _load(self) -> Credentials:
        config = load_runtime_config()
        mine = config is not None and config.instance_id == self.identity.instance_id
        share_file = config.share_file if config is not None and mine else ""
        if self.identity.kind == "OnPrem":
            share_file = share_file or SHARED_CREDENTIALS
        if share_file:
            found = load_profile(share_file, config.share_profile if config is not None else "")
            if found is None:
                raise ServiceError("SharedCredsLoad", "failed to get profile", 0, "")
            return found
        if self.identity.kind == "CustomIdentity":
            return load_profile(SHARED_CREDENTIALS, "") or imds.role_credentials()
        return imds.role_credentials()
