"""Keeps the core's credentials fresh (core/app/credentialrefresher)."""

from __future__ import annotations

import random
import threading

from ..netkit import clock
from ..netkit.pace import go_duration, pause
from .identity import NEVER, Identity, RuntimeConfig, parse_time
from .logfile import Log
from .providers import Provider, Retrieved, RetrieveFailed, go_time, load_profile, save_profile

# credentialrefresher_deps.go:31-75.
LONG_SLEEP_CODES = ("AccessDeniedException", "MachineFingerprintDoesNotMatch")
LONG_SLEEP_S = (25 * 60, 30 * 60)
# A host whose role was just mended must not come online by itself while somebody watches the lab.
LONG_SLEEP_AT_LEAST_S = 600.0
EC2_SLEEP_S, EC2_SLEEP_MAX_S = 300, 3600
HYBRID_SLEEP_MAX_S = 1800
QUIET_AFTER_RETRIES = 3


class Refresher:
    """Retrieves credentials, tells when the first are ready, and renews them at half of their life."""

    def __init__(
        self,
        log: Log,
        provider: Provider | None,
        identity: Identity,
        config: RuntimeConfig,
        stop: threading.Event,
    ) -> None:
        self._log = log.at_root("[CredentialRefresher]")
        self._provider = provider
        self._identity = identity
        self._config = config
        self._stop = stop
        self.ready = threading.Event()

    def start(self) -> None:
        """Begin in the background."""
        if self._provider is None:
            self._log.info("Identity does not require credential refresher")
            self._announce()
            return
        self._log.info("credentialRefresher has started")
        threading.Thread(target=self._run, args=(self._provider,), daemon=True).start()

    def _announce(self) -> None:
        self._log.info("Credentials ready")
        self.ready.set()

    def _run(self, provider: Provider) -> None:
        self._reuse_unexpired(provider)
        self._log.info("Starting credentials refresher loop")
        while not self._stop.wait(self._s_until_refresh()):
            retrieved = self._retrieve(provider)
            if retrieved is None:
                break
            self._store(retrieved)
            self._announce()
        self._log.info("Stopping credentials refresher")

    def _reuse_unexpired(self, provider: Provider) -> None:
        # credentialrefresher.go:304-318: a copied token that still lives is used without any check.
        if parse_time(self._config.expires_at) <= clock.now():
            return
        share_file = self._config.share_file
        if not share_file or load_profile(share_file, self._config.share_profile):
            self._announce()
        else:
            self._log.warn(
                "Credentials are not available when they should be: SharedCredsLoad: failed to get profile"
            )
            self._config.expires_at = NEVER

    def _s_until_refresh(self) -> float:
        now = clock.now()
        expires = parse_time(self._config.expires_at)
        if expires <= now:
            return 0.0
        half_life = (expires - parse_time(self._config.retrieved_at)) / 2
        wait_s = (expires - half_life - now).total_seconds()
        self._log.info(f"Next credential rotation will be in {wait_s / 60!r} minutes")
        return max(wait_s, 0.0)

    def _retrieve(self, provider: Provider) -> Retrieved | None:
        retries = 0
        while True:
            try:
                return provider.retrieve()
            except RetrieveFailed as error:
                if self._stop.is_set():
                    return None
                sleep_s = self._sleep_s(error.code, retries)
                # credentialrefresher.go:270-276: from the fourth retry on EC2 is silent at info level.
                if self._identity.kind != "EC2" or retries < QUIET_AFTER_RETRIES:
                    source = "minLog @ credentialrefresher.go.280"
                    self._log.error(f"Retrieve credentials produced error: {error}", source)
                    self._log.info(
                        f"Sleeping for {go_duration(sleep_s)} before retrying retrieve credentials"
                    )
                retries += 1
                at_least_s = LONG_SLEEP_AT_LEAST_S if error.code in LONG_SLEEP_CODES else 1.0
            if pause(self._stop, sleep_s, at_least_s):
                return None

    def _sleep_s(self, code: str, retries: int) -> int:
        if code in LONG_SLEEP_CODES:
            return random.randint(*LONG_SLEEP_S)
        if self._identity.kind == "EC2":
            return int(min(EC2_SLEEP_S * 2**retries, EC2_SLEEP_MAX_S))
        return int(min(2 ** min(retries, 16) + 10 + random.randrange(10), HYBRID_SLEEP_MAX_S))

    def _store(self, retrieved: Retrieved) -> None:
        if retrieved.share_file:
            save_profile(retrieved.share_file, self._config.share_profile, retrieved.credentials)
        self._config.share_file = retrieved.share_file
        self._config.expires_at = retrieved.expires_at
        self._config.retrieved_at = go_time(clock.now())
        self._config.source = retrieved.source
        try:
            self._config.save()
        except OSError as error:
            self._log.warn(f"Failed to save new expiration: {error.strerror}")
