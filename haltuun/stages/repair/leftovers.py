"""What a predecessor left in the agent's configuration and unit, as the change a person would make. Pure.

Haltuun changes only what is as the agent writes it (its token in root's AWS credentials) or the stale
registration's (named as a custom identity, too): an endpoint, a proxy or an order may be meant.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from haltuun.model import Unknown
from haltuun.stages.repair.agentlog import METADATA_ADDRESS
from haltuun.stages.repair.facts import Agent, AgentConfig, LogLine, RootCredentials, Vault

CREDENTIALS_FILE = "/root/.aws/credentials"
# What the agent writes there (agent/managedInstances/sharedCredentials); a value never leaves the host.
TOKEN_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
CONFIG_FILE = "/etc/amazon/ssm/amazon-ssm-agent.json"
# The sections of the file that may name another endpoint than the region's.
ENDPOINT_SECTIONS = ("Ssm", "Mds", "Mgs", "S3", "Kms")
# Where each of these codes comes from: sections and keys of the file, compared without case as Go does.
LEFT = {
    "ENDPOINT_OVERRIDE": (
        *((name.lower(), "endpoint") for name in ENDPOINT_SECTIONS),
        ("agent", "servicedomain"),
    ),
    "REGION_PINNED": (("agent", "region"),),
    "IDENTITY_ORDER_OVERRIDE": (("identity", "consumptionorder"),),
    "CUSTOM_IDENTITY": (("identity", "customidentities"),),
}
_ANY_PROXY = re.compile(r"\b(https?|no|all|ftp)_proxy=", re.IGNORECASE)
_NO_PROXY = re.compile(r"\bno_proxy=", re.IGNORECASE)
_WORD = re.compile(r'"[^"]*"|\S+')


def shown(code: str, agent: Agent | Unknown) -> tuple[str, ...]:
    """The unified diff, line by line, that takes the cause's leftovers away; none for other causes."""
    if isinstance(agent, Unknown):
        return ()
    if code == "CREDENTIALS_SHADOWED" and not isinstance(agent.credentials, Unknown):
        return without_token(agent.credentials)
    if code in LEFT and not isinstance(agent.config, Unknown) and agent.config.text:
        return config_diff(agent.config.text, LEFT[code])
    if code == "PROXY_CONFIGURED" and not isinstance(agent.proxy_lines, Unknown):
        return without_proxies(agent.proxy_lines)
    if code == "PROXY_INTERCEPTS_IMDS" and not isinstance(agent.proxy_lines, Unknown):
        return sparing_metadata(agent.proxy_lines)
    return ()


def without_token(credentials: RootCredentials) -> tuple[str, ...]:
    """The agent's own section, names of keys only; nothing where it may be a person's."""
    if not credentials.of_agent:
        return ()
    keys = (f"-{key} = ***" for key in TOKEN_KEYS)
    return (f"--- {CREDENTIALS_FILE}", f"+++ {CREDENTIALS_FILE}", "@@ [default] @@", "-[default]", *keys)


def config_diff(text: str, unwanted: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """`text` is the file; empty where it is no JSON object or holds nothing of `unwanted`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(data, dict):
        return ()
    kept = copy.deepcopy(data)
    for section, key in unwanted:
        _drop(kept, section, key)
    old, new = (_plain(json.dumps(one, indent=4, ensure_ascii=False)).splitlines() for one in (data, kept))
    return tuple(difflib.unified_diff(old, new, CONFIG_FILE, CONFIG_FILE, n=1, lineterm=""))


def _plain(text: str) -> str:
    """Half a surrogate pair, which JSON can name and no file can hold, as it is written in JSON."""
    return text.encode(errors="backslashreplace").decode()


def own_identities_cut(config: AgentConfig, vault: Vault) -> str | None:
    """The file without `Identity.CustomIdentities`, where that names nothing but the vault's registration a
    second time. None where it names another, where more than this key would change, or where the file was
    not shown as it stands there (a password in it would not be).
    """
    if not config.custom_identities or {*config.custom_identities} != {vault.instance_id}:
        return None
    if config.digest not in (digest_of(config.text), digest_of(f"{config.text}\n")):
        return None
    try:
        data = json.loads(config.text, object_pairs_hook=_once)
        _drop(data, *LEFT["CUSTOM_IDENTITY"][0])
        # Half a surrogate pair is no text, and 1e999 no JSON once it was read.
        return f"{json.dumps(data, indent=4, allow_nan=False)}\n"
    except (ValueError, RecursionError):
        return None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a key that is there twice: Go merges what it names, and json keeps one."""
    if len({key.lower() for key, _ in pairs}) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _drop(data: dict[str, Any], section: str, key: str) -> None:
    for name, part in list(data.items()):
        if name.lower() != section or not isinstance(part, dict):
            continue
        for found in [one for one in part if one.lower() == key]:
            del part[found]
        if not part:
            del data[name]


def without_proxies(lines: Sequence[LogLine]) -> tuple[str, ...]:
    """Only the proxies of a line go; what else it sets stays."""
    return _diff(lines, _spared_of_proxies)


def _spared_of_proxies(text: str) -> Sequence[str]:
    head, equals, rest = text.partition("=")
    if not equals or head.strip().lower() != "environment":  # upstart: one variable a line
        return ()
    kept = [word for word in _WORD.findall(rest) if not _ANY_PROXY.search(word)]
    return (f"{head}={' '.join(kept)}",) if kept else ()


def sparing_metadata(lines: Sequence[LogLine]) -> tuple[str, ...]:
    """The metadata service added to the no_proxy that is there, else one after the last proxy, in the words
    of that file."""
    there = [line for line in lines if _NO_PROXY.search(line.text)]
    if there:
        return _diff(there[-1:], lambda text: (_NO_PROXY.sub(rf"\g<0>{METADATA_ADDRESS},", text, count=1),))
    proxies = [line for line in lines if _ANY_PROXY.search(line.text)]
    return _diff(proxies[-1:], lambda text: (text, _no_proxy_like(text)))


def _no_proxy_like(text: str) -> str:
    if text.strip().startswith("env"):  # upstart
        return f"env no_proxy={METADATA_ADDRESS}"
    return f'Environment="no_proxy={METADATA_ADDRESS}"'


def _diff(lines: Sequence[LogLine], changed: Callable[[str], Sequence[str]]) -> tuple[str, ...]:
    by_file: dict[str, list[LogLine]] = {}
    for line in lines:
        by_file.setdefault(line.file, []).append(line)
    diff: list[str] = []
    for file, some in by_file.items():
        diff += [f"--- {file}", f"+++ {file}"]
        for line in some:
            new = changed(line.text)
            diff.append(f"@@ -{line.line} @@")
            diff.append(f"{' ' if line.text in new else '-'}{line.text}")
            diff += [f"+{text}" for text in new if text != line.text]
    return tuple(diff)
