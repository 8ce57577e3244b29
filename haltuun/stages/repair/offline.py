"""A host's files at hand → Agent, as the live probe sees it. Pure but for what the bundle has read.

A file that is not there is unknown, not absent: whoever packed the files may have left it out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from haltuun.model import Unknown
from haltuun.redaction import redact
from haltuun.stages.repair import layout as at
from haltuun.stages.repair.agentlog import deaths, read_log
from haltuun.stages.repair.bundle import Bundle
from haltuun.stages.repair.facts import Agent, AgentConfig, IdentityConfig, LogLine, RootCredentials, Vault
from haltuun.stages.repair.logtail import LogTail
from haltuun.stages.repair.parse import parse_config
from haltuun.stages.repair.plaintext import decode


def read_agent(bundle: Bundle) -> Agent:
    """What the files tell; what they do not show is Unknown."""
    log = _log(bundle)
    packages = _packages(bundle, log)
    return Agent(
        packages=packages,
        binary="" if packages == {} else Unknown(unknown="NOT_SHOWN: where the agent is installed"),
        vault=_vault(bundle, log),
        registration_file=_registration(bundle),
        hybrid_dirs=_hybrid_dirs(bundle),
        identity_config=_identity_config(bundle),
        config=_config(bundle),
        credentials=_credentials(bundle),
        log=log,
        died=_died(bundle, log),
    )


def _missing(bundle: Bundle, name: str) -> Unknown:
    return Unknown(unknown=f"NOT_AT_HAND: /{name} {bundle.unread.get(name, 'is not among the files')}")


def _log(bundle: Bundle) -> tuple[LogLine, ...] | Unknown:
    """The last start and what follows it: from the newest file, and those rotated before it until one
    holds a start. Where there is none of these, what the agent printed; else what it logged as errors."""
    logs = next(filter(None, (_of_kind(bundle, kind) for kind in ("agent", "system", "errors"))), None)
    if logs is None:
        return _missing(bundle, f"{at.LOGS}/{at.AGENT_LOG}")
    taken: list[LogTail] = []
    for log in _newest_first(logs):
        taken.append(log)
        if log.has_start:
            break
    return _redacted([line for log in reversed(taken) for line in log.lines()])


def _newest_first(logs: Sequence[LogTail]) -> list[LogTail]:
    """What was written at a time that is still to come for the current file is from before the clock was set
    back: the oldest."""
    if len(logs) == 1:
        return list(logs)
    now = next((log.ended_at for log in logs if _is_current(log)), b"")

    def age(log: LogTail) -> tuple[bool, bool, bytes, str]:
        written_at = min(log.began_at, log.ended_at)
        return _is_current(log), not now or written_at <= now, written_at, log.file

    return sorted(logs, key=age, reverse=True)


def _died(bundle: Bundle, own: tuple[LogLine, ...] | Unknown) -> tuple[LogLine, ...] | Unknown:
    """By the newest journal that tells; where one is all there is, it is the log itself."""
    journals = _of_kind(bundle, "system")
    if isinstance(own, Unknown) or not journals or not _of_kind(bundle, "agent"):
        return _missing(bundle, f"{at.SYSTEM_LOGS}/syslog")
    for log in sorted(journals, key=lambda log: (log.began_at, log.file), reverse=True):
        found = deaths(own, log.lines())
        if isinstance(found, Unknown):
            return found
        if found or log.has_start:
            return _redacted(found)
    return ()


def _redacted(lines: Sequence[LogLine]) -> tuple[LogLine, ...]:
    return tuple(line.model_copy(update={"text": redact(line.text)}) for line in lines)


def _of_kind(bundle: Bundle, kind: str) -> list[LogTail]:
    return [log for log in bundle.logs if log.kind == kind and not log.is_empty()]


def _is_current(log: LogTail) -> bool:
    return log.file.rpartition("/")[2] == at.AGENT_LOG


def _json(bundle: Bundle, name: str) -> Mapping[str, Any] | Unknown:
    """A file that the agent writes as one JSON object; keys in lower case, as Go reads them."""
    if name not in bundle.small:
        return _missing(bundle, name)
    try:
        data = json.loads(decode(bundle.small[name]))
    except (ValueError, RecursionError):
        return Unknown(unknown=f"UNREADABLE: /{name} is no JSON")
    if not isinstance(data, dict):
        return Unknown(unknown=f"UNREADABLE: /{name} is no JSON object")
    return {str(key).lower(): value for key, value in data.items()}


def _word(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _vault(bundle: Bundle, log: tuple[LogLine, ...] | Unknown) -> Vault | Unknown:
    """The key file and the manifest both decide. They are written together, so one who copied the key file
    without its folder left the manifest behind; a key file that was cleared says all by itself."""
    manifest, key = _json(bundle, at.MANIFEST), _json(bundle, at.REGISTRATION_KEY)
    if isinstance(key, Unknown):
        return key
    if isinstance(manifest, Unknown):
        cleared = not all(_word(key, name) for name in ("instanceid", "region", "privatekey"))
        if not cleared and (not _copied_alone(bundle) or _passed_by(bundle, log)):
            return manifest
        manifest = {"registrationkey": at.REGISTRATION_KEY}
    fingerprint = _json(bundle, at.FINGERPRINT)
    threshold = None if isinstance(fingerprint, Unknown) else fingerprint.get("similaritythreshold")
    return Vault(
        manifest="registrationkey" in manifest,
        key_file=True,
        instance_id=_word(key, "instanceid"),
        region=_word(key, "region"),
        private_key=bool(_word(key, "privatekey")),
        fingerprint_file=bundle.has(at.FINGERPRINT),
        similarity_threshold=threshold if isinstance(threshold, int) else None,
    )


def _passed_by(bundle: Bundle, log: tuple[LogLine, ...] | Unknown) -> bool:
    """Whether the last start did without the registration, and nobody registered it since; or nothing tells
    what it did."""
    said = None if isinstance(log, Unknown) else read_log(log)
    if said is None or not (said.has_start or said.identity or said.registered_after_start):
        config = _identity_config(bundle)
        return isinstance(config, Unknown) or config.identity_type != "OnPrem"
    if said.registered_after_start is not None or said.identity == "OnPrem":
        return False
    return said.identity == "EC2" or "OnPrem" in said.checked


def _copied_alone(bundle: Bundle) -> bool:
    """Whether there is nothing else of the vault than what a registration wrote into its Store."""
    of_store = (at.REGISTRATION_KEY, at.FINGERPRINT)
    vault = f"{at.STATE}/Vault/"
    return not any(
        name.startswith(vault) and name not in of_store and not name.endswith(("/Vault", "/Store"))
        for name in bundle.names
    )


def _hybrid_dirs(bundle: Bundle) -> tuple[str, ...] | Unknown:
    if not bundle.has(at.STATE):
        return _missing(bundle, at.STATE)
    below = (name.removeprefix(f"{at.STATE}/").split("/")[0] for name in bundle.names if at.STATE in name)
    return tuple(sorted({name for name in below if re.fullmatch(r"mi-[0-9a-f]{8,}", name)}))


def _registration(bundle: Bundle) -> bool | Unknown:
    """Its absence says something only beside the folder of a registration."""
    if bundle.has(at.REGISTRATION):
        return True
    dirs = _hybrid_dirs(bundle)
    return False if not isinstance(dirs, Unknown) and dirs else _missing(bundle, at.REGISTRATION)


def _identity_config(bundle: Bundle) -> IdentityConfig | Unknown:
    data = _json(bundle, at.IDENTITY_CONFIG)
    if isinstance(data, Unknown):
        return data
    return IdentityConfig(
        identity_type=_word(data, "identitytype"),
        instance_id=_word(data, "instanceid"),
        credential_source=_word(data, "credentialsource"),
        expires_at=_word(data, "credentialsexpiresat"),
        share_file=_word(data, "sharefile"),
    )


def _config(bundle: Bundle) -> AgentConfig | Unknown:
    if at.CONFIG not in bundle.small:
        return _missing(bundle, at.CONFIG)
    return parse_config(redact(decode(bundle.small[at.CONFIG])))


def _credentials(bundle: Bundle) -> RootCredentials | Unknown:
    """Sections and the kind of [default]; never a key. As probe.sh reads it."""
    if at.CREDENTIALS not in bundle.small:
        return _missing(bundle, at.CREDENTIALS)
    sections: list[str] = []
    default: dict[str, str] = {}
    for line in decode(bundle.small[at.CREDENTIALS]).splitlines():
        if head := re.match(r"\s*\[\s*([^\]]*?)\s*\]", line):
            sections.append(head.group(1))
        elif sections and sections[-1] == "default" and "=" in line:
            key, _, value = line.partition("=")
            default[key.strip()] = value.strip()
    temporary = default.get("aws_access_key_id", "").startswith("ASIA") or default.get("aws_session_token")
    kind = "none" if "aws_access_key_id" not in default else "temporary" if temporary else "long-term"
    return RootCredentials.model_validate(
        {"present": True, "sections": tuple(sections), "default_kind": kind}
    )


def _packages(bundle: Bundle, log: tuple[LogLine, ...] | Unknown) -> dict[str, str] | Unknown:
    """By dpkg's list, and the snap's own files; what rpm installed leaves no text file. {}: dpkg says that it
    was removed, and its log that it ended."""
    if at.DPKG_STATUS not in bundle.small:
        return _missing(bundle, at.DPKG_STATUS)
    text = decode(bundle.small[at.DPKG_STATUS])
    found = re.search(r"^Package: amazon-ssm-agent\n(?:\S.*\n|[ \t].*\n)*", text, re.M)
    packages = {"snap": ""} if any(map(bundle.has, at.SNAP)) else {}
    if found and re.search(r"^Status: .* installed$", found.group(), re.M):
        version = re.search(r"^Version: (\S+)$", found.group(), re.M)
        packages["deb"] = version.group(1) if version else ""
    removed = found and re.search(r"^Status: \S+ ok config-files$", found.group(), re.M)
    if removed and not packages and not isinstance(log, Unknown) and read_log(log).ended:
        return {}
    return packages or Unknown(
        unknown="NOT_SHOWN: neither dpkg nor a snap has the agent; rpm leaves no list at hand"
    )
