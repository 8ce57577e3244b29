"""The EC2 host registers itself, so that DHMC can know it (ec2_identity.go:160-260, core/app/registrar)."""

from __future__ import annotations

import random
import threading

from ..netkit import imds
from ..netkit.aws import Client, RequestError, ServiceError
from ..netkit.pace import pause
from .identity import Identity
from .logfile import Log
from .rsakey import KeyPair, generate_key_pair
from .settings import Settings
from .vault import (
    EC2_REGISTRATION_KEY,
    Registration,
    VaultError,
    ec2_vault,
    load_registration,
    store_registration,
)

MIN_SLEEP_S = 15
MAX_RETRIES = 16


class RegistrationFailed(Exception):
    """One attempt failed; the text is the agent's."""


class Registrar:
    """Registers until it succeeds; the core waits for the first attempt only."""

    def __init__(self, log: Log, settings: Settings, identity: Identity, stop: threading.Event) -> None:
        self._log = log.at_root("[Registrar]")
        self._identity_log = log.at_root("[EC2Identity]")
        self._settings = settings
        self._identity = identity
        self._stop = stop
        self._attempted = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, and return after the first attempt or when told to stop."""
        self._log.info("Starting registrar module")
        self._thread.start()
        while not self._attempted.wait(0.1):
            if self._stop.is_set():
                return

    def report_stop(self) -> None:
        """The line that the core's shutdown leaves about the registrar."""
        still_running = self._thread.is_alive()
        self._log.info(
            "Sending signal to stop registrar" if still_running else "Registrar is already stopped"
        )

    def _run(self) -> None:
        for retry in range(MAX_RETRIES * 1000):
            try:
                self._register()
                return
            except RegistrationFailed as error:
                self._log.error(
                    f"failed to register identity: {error}", "RegisterWithRetry @ registrar.go.140"
                )
            finally:
                self._attempted.set()
            base_s = max(MIN_SLEEP_S, 2 ** min(retry, MAX_RETRIES))
            sleep_s = base_s + random.randrange(max(1, round(base_s * 0.2)))
            self._log.info(f"sleeping for {sleep_s / 60!r} minutes before retrying registration")
            if pause(self._stop, sleep_s):
                return

    def _register(self) -> None:
        log = self._identity_log
        log.info("Checking disk for registration info")
        try:
            known = load_registration(ec2_vault(), EC2_REGISTRATION_KEY)
        except VaultError as error:
            log.warn(f"Error while loading server info {error}")
            known = Registration()
        if known.is_complete and known.instance_id == self._identity.instance_id:
            log.info("Registration info found for ec2 instance")
            return
        log.info("No registration info found for ec2 instance, attempting registration")
        keys = self._keys(known)
        log.info("Checking write access before registering")
        self._save(Registration("", "", keys.private_key, keys.public_key, keys.key_type))
        log.info("Registering EC2 instance with Systems Manager")
        region = self._settings.region_or(self._identity.region)
        self._call(keys, region)
        instance_id = self._identity.instance_id
        self._save(Registration(instance_id, region, keys.private_key, keys.public_key, keys.key_type))
        log.info("EC2 registration was successful.")

    def _keys(self, known: Registration) -> KeyPair:
        if known.private_key and known.public_key and known.key_type:
            self._identity_log.info("Found registration keys")
            return KeyPair(known.private_key, known.public_key, known.key_type)
        self._identity_log.info("Generating registration keypair")
        return generate_key_pair()

    def _save(self, registration: Registration) -> None:
        try:
            store_registration(ec2_vault(), EC2_REGISTRATION_KEY, registration)
        except VaultError as error:
            text = f"unable to save registration information. {error}\nTry running as sudo/administrator."
            raise RegistrationFailed(text) from error

    def _call(self, keys: KeyPair, region: str) -> None:
        payload = {
            "Fingerprint": self._identity.instance_id,
            "PublicKey": keys.public_key,
            "PublicKeyType": keys.key_type,
        }
        try:
            credentials = imds.identity_credentials()
            endpoint = self._settings.endpoint("ssm", region)
            client = Client(endpoint, "ssm", region, credentials, key_pair=True)
            client.call("AmazonSSM.RegisterManagedInstance", payload)
        except ServiceError as error:
            if error.code == "InstanceAlreadyRegistered":
                text = f"Instance appears to already be registered. Err: {error}"
                self._identity_log.error(text, "RegisterWithContext @ ec2_identity.go.222")
                return
            raise RegistrationFailed(f"error calling RegisterManagedInstance API: {error}") from error
        except (RequestError, imds.ImdsError) as error:
            raise RegistrationFailed(f"error calling RegisterManagedInstance API: {error}") from error
