"""Whether this is still the machine that was registered (agent/managedInstances/fingerprint)."""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import dataclass, field

from ..netkit.pace import pause
from .logfile import Log
from .machine import hardware_hash
from .vault import FINGERPRINT_KEY, VaultError, hybrid_vault

DEFAULT_THRESHOLD = 40
ATTEMPTS = 3
ATTEMPT_INTERVAL_S = 5.0
_ADDRESS = "ipaddress-info"
_MACHINE = "machine-id"


@dataclass(frozen=True)
class SavedHardware:
    """What the vault says about the machine that registered."""

    fingerprint: str = ""
    hardware: dict[str, str] = field(default_factory=dict)
    threshold: int = 0


def load_saved(log: Log) -> SavedHardware:
    """The saved fingerprint; an empty one where there is none."""
    try:
        text = hybrid_vault().retrieve(FINGERPRINT_KEY)
        data = json.loads(text) if text else None
    except (VaultError, ValueError) as error:
        log.warn(f"Could not read InstanceFingerprint file: {error}")
        return SavedHardware()
    if data is None:
        log.warn("Could not read InstanceFingerprint file: InstanceFingerprint does not exist")
        return SavedHardware()
    return SavedHardware(data["fingerprint"], data["hardwareHash"] or {}, data["similarityThreshold"])


def save(saved: SavedHardware) -> None:
    """Write the fingerprint to the hybrid vault."""
    data = {
        "fingerprint": saved.fingerprint,
        "hardwareHash": dict(sorted(saved.hardware.items())) or None,
        "similarityThreshold": saved.threshold,
    }
    hybrid_vault().store(FINGERPRINT_KEY, json.dumps(data, separators=(",", ":")))


def clear() -> None:
    """What `-register -clear` does to the fingerprint (fingerprint.go:376-388)."""
    save(SavedHardware())


def set_threshold(log: Log, value: int) -> None:
    """Set the share of values that must match; -1 turns the comparison off."""
    if value != -1 and not 1 <= value <= 100:
        rule = "Value must be between 1 and 100, or -1 to disable."
        raise ValueError(f"Invalid Similarity Threshold value of {value}. {rule}")
    saved = load_saved(log)
    if not saved.fingerprint:
        reason = "save called with empty fingerprint key"
        raise ValueError(f"Unable to set similarity threshold due to, {reason}")
    save(SavedHardware(saved.fingerprint, saved.hardware, value))


def is_same_machine(log: Log, saved: dict[str, str], current: dict[str, str], threshold: int) -> bool:
    """Machine id must be equal; then address or share of equal values decide (fingerprint.go:238-319)."""
    if not saved or not current:
        log.error(
            "Cannot connect to AWS Systems Manager.  The saved machine configuration could not be loaded "
            "or the current machine configuration could not be determined.",
            "isSimilarHardwareHash @ fingerprint.go.252",
        )
        return False
    if threshold == -1:
        return True
    if current[_MACHINE] != saved.get(_MACHINE):
        log.error(
            f"Cannot connect to AWS Systems Manager.  The hardware ID ({current[_MACHINE]}) has changed "
            f"from the registered value ({saved.get(_MACHINE)}).",
            "isSimilarHardwareHash @ fingerprint.go.264",
        )
        return False
    if current[_ADDRESS] == saved.get(_ADDRESS):
        return True
    matching = sum(1 for key, value in current.items() if saved.get(key) == value)
    if matching / len(current) * 100 >= threshold:
        return True
    _report_changes(log, saved, current)
    return False


def _report_changes(log: Log, saved: dict[str, str], current: dict[str, str]) -> None:
    log.error(
        "Cannot connect to AWS Systems Manager.  "
        "Machine configuration has changed more than the allowed threshold.",
        "isSimilarHardwareHash @ fingerprint.go.308",
    )
    changed = [("IP Address", current[_ADDRESS], saved.get(_ADDRESS, ""))]
    changed += [(key, value, saved.get(key, "")) for key, value in current.items() if saved.get(key) != value]
    for name, now, before in changed:
        changed_from = f"has changed from the registered machine configuration value ({before})."
        log.warn(f"The '{name}' value ({now}) {changed_from}")


def instance_fingerprint(log: Log, stop: threading.Event) -> str:
    """The fingerprint to send; a machine that changed gets, and saves, a new one after three looks."""
    saved, threshold, same = SavedHardware(), DEFAULT_THRESHOLD, False
    current: dict[str, str] = {}
    for _ in range(ATTEMPTS):
        current = hardware_hash()
        saved = load_saved(log)
        if not saved.fingerprint:
            break
        threshold = saved.threshold or DEFAULT_THRESHOLD
        same = is_same_machine(log, saved.hardware, current, threshold)
        if same or pause(stop, ATTEMPT_INTERVAL_S):
            break
    if same:
        return saved.fingerprint
    if stop.is_set():
        return ""
    if saved.fingerprint:
        log.info("Calculated hardware difference, regenerating fingerprint...")
    else:
        log.info("No initial fingerprint detected, generating fingerprint file...")
    fresh = str(uuid.uuid4())
    save(SavedHardware(fresh, current, threshold))
    return fresh
