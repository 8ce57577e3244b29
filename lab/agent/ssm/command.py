"""The command line of amazon-ssm-agent (core/agent_parser.go)."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import dataclass, field

from ..netkit.aws import Client, RequestError, ServiceError
from ..netkit.hostfs import write_atomically
from . import fingerprint
from .core import run_core
from .layout import REGISTRATION
from .logfile import Log
from .rsakey import generate_key_pair
from .settings import Settings, SettingsError, load_settings
from .vault import (
    REGISTRATION_KEY,
    Registration,
    VaultError,
    hybrid_vault,
    load_registration,
    store_registration,
)
from .version import VERSION

USAGE = """

Command-line Usage:
\t-register\tregister managed instance
\t\t-id                    \tSSM activation ID \t(REQUIRED)
\t\t-code                  \tSSM activation code \t(REQUIRED)
\t\t-region                \tSSM region \t(REQUIRED)
\t\t-disableSimilarityCheck\tDisable the agent hardware/fingerprint similarity check \t(OPTIONAL)

\t\t-clear\tClears the previously saved SSM registration
\t-fingerprint\tWhether to update the machine fingerprint similarity threshold\t(OPTIONAL)
\t\t-similarityThreshold\tThe new required percentage of matching hardware values \t(OPTIONAL)

\t-y\tAnswer yes for all questions
"""
_SWITCHES = ("register", "clear", "y", "version", "fingerprint", "disableSimilarityCheck")
_VALUES = ("code", "id", "region", "similarityThreshold")


class UsageError(Exception):
    """A flag that the agent does not have."""


@dataclass
class Flags:
    """What was given on the command line, by Go's flag rules (one dash or two)."""

    switches: set[str] = field(default_factory=set)
    values: dict[str, str] = field(default_factory=dict)


def parse_flags(argv: list[str]) -> Flags:
    """Parse as Go's flag package does, as far as this agent needs it."""
    flags = Flags()
    words = iter(argv)
    for word in words:
        name, given, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            break
        if name in _SWITCHES:
            if value.lower() != "false":
                flags.switches.add(name)
        elif name in _VALUES:
            flags.values[name] = value if given else next(words, "")
        else:
            raise UsageError(f"flag provided but not defined: -{name}")
    return flags


def _clear(log: Log) -> int:
    try:
        fingerprint.clear()
        store_registration(hybrid_vault(), REGISTRATION_KEY, Registration())
    except VaultError as error:
        log.error(
            f"error clearing the instance registration information. {error}\n"
            "Try running as sudo/administrator.",
            "clearRegistration @ agent_parser.go.280",
        )
        return 1
    log.info("Registration information has been removed from the instance.")
    return 0


def _confirmed(log: Log) -> bool:
    question = (
        "Instance already registered. Would you like to override existing with new registration information?"
    )
    sys.stdout.write(f"\n{question} [Yes/No]: ")
    sys.stdout.flush()
    answer = sys.stdin.readline().strip().lower()
    if answer.startswith("y"):
        return True
    if answer.startswith("n"):
        log.info("Registration canceled by user")
    else:
        log.error(
            "Registration failed due to Invalid response received.",
            "processRegistration @ agent_parser.go.166",
        )
    return False


def _register(log: Log, flags: Flags) -> str:
    """Register as a hybrid node; the old identity goes before the service is asked (agent_parser.go:203)."""
    keys = generate_key_pair()
    vault = hybrid_vault()
    try:
        pending = Registration("", "", keys.private_key, "", keys.key_type)
        store_registration(vault, REGISTRATION_KEY, pending)
    except VaultError as error:
        text = f"Unable to save registration information. {error}\nTry running as sudo/administrator."
        raise RuntimeError(text) from error
    mark = fingerprint.instance_fingerprint(log, threading.Event())
    if "disableSimilarityCheck" in flags.switches:
        fingerprint.set_threshold(log, -1)
    region = flags.values["region"]
    payload = {
        "ActivationCode": flags.values["code"],
        "ActivationId": flags.values["id"],
        "Fingerprint": mark,
        "PublicKey": keys.public_key,
        "PublicKeyType": keys.key_type,
    }
    try:
        settings = load_settings()
    except SettingsError:
        settings = Settings()
    client = Client(settings.endpoint("ssm", region), "ssm", region, None)
    try:
        answer = client.call("AmazonSSM.RegisterManagedInstance", payload)
    except (ServiceError, RequestError) as error:
        raise RuntimeError(f"error registering the instance with AWS SSM. {error}") from error
    instance_id = str(answer["InstanceId"])
    store_registration(
        vault, REGISTRATION_KEY, Registration(instance_id, region, keys.private_key, "", keys.key_type)
    )
    text = json.dumps({"ManagedInstanceID": instance_id, "Region": region}, separators=(",", ":"))
    write_atomically(REGISTRATION, text)
    return instance_id


def _process_registration(log: Log, flags: Flags) -> int:
    if not all(flags.values.get(name) for name in ("code", "id", "region")):
        if "clear" in flags.switches:
            return _clear(log)
        sys.stderr.write(USAGE)
        return 1
    try:
        known = load_registration(hybrid_vault(), REGISTRATION_KEY)
    except VaultError:
        known = Registration()
    if known.instance_id and "y" not in flags.switches and not _confirmed(log):
        return 1
    try:
        instance_id = _register(log, flags)
    except (RuntimeError, ValueError, OSError, VaultError) as error:
        log.error(f"Registration failed due to {error}", "processRegistration @ agent_parser.go.176")
        return 1
    log.info(f"Successfully registered the instance with AWS SSM using Managed instance-id: {instance_id}")
    return 0


def _process_fingerprint(log: Log, flags: Flags) -> int:
    value = int(flags.values.get("similarityThreshold", fingerprint.DEFAULT_THRESHOLD))
    try:
        fingerprint.set_threshold(log, value)
    except (ValueError, VaultError) as error:
        log.error(
            f"Error setting the SimilarityThreshold. {error}", "processFingerprint @ agent_parser.go.187"
        )
        return 1
    log.info(f"Fingerprint SimilarityThreshold set to {value}")
    return 0


def main(argv: list[str]) -> int:
    """amazon-ssm-agent: a command when there are flags, else the service."""
    try:
        flags = parse_flags(argv)
    except UsageError as error:
        sys.stderr.write(f"{error}\n{USAGE}")
        return 2
    if flags.switches == {"version"} and not flags.values:
        print(f"SSM Agent version: {VERSION}")
        return 0
    if not flags.switches and not flags.values:
        return run_core()
    missing = "open /etc/amazon/ssm/seelog.xml: no such file or directory"
    print(f"Error occurred fetching the seelog config file path:  {missing}")
    print("Initializing new seelog logger")
    print("New Seelog Logger Creation Complete", flush=True)
    os.umask(0o077)
    log = Log(echo=True)
    if "register" in flags.switches:
        return _process_registration(log, flags)
    if "fingerprint" in flags.switches:
        return _process_fingerprint(log, flags)
    sys.stderr.write(USAGE)
    return 1
