"""The agent package that the configuration pins: found in its folder or fetched from its URL."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from haltuun.config import AgentConfig
from haltuun.errors import HaltuunError

REMEDY = "Correct agent.package_source, version and sha256 in haltuun.yaml."
FETCH_TIMEOUT_S = 60.0
# amazon-ssm-agent 3.3 is about 30 MB.
MAX_BYTES = 200_000_000


def package_problem(config: AgentConfig) -> str | None:
    """Why the package cannot be used; None where it can, or is behind a URL (fetched when needed)."""
    if not config.package_source or "://" in config.package_source:
        return None
    try:
        find_file(Path(config.package_source), config.sha256 or "")
    except HaltuunError as error:
        return error.message
    return None


def get_package(config: AgentConfig, arch: str) -> bytes:
    """The package's bytes, its sha256 being the pinned one.

    Raises:
        HaltuunError: AGENT_PACKAGE.
    """
    source, sha256 = config.package_source or "", config.sha256 or ""
    if "://" not in source:
        return find_file(Path(source), sha256).read_bytes()
    data = _fetch(_url(source, config.version or "", arch))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _error("what the URL gives has another sha256 than the pinned one.")
    return data


def find_file(folder: Path, sha256: str) -> Path:
    """The *.deb of the folder that has the pinned checksum.

    Raises:
        HaltuunError: AGENT_PACKAGE.
    """
    files = [folder] if folder.is_file() else sorted(folder.glob("*.deb"))
    if not files:
        raise _error("there is no *.deb in the folder.")
    try:
        for file in files:
            if _sha256(file) == sha256:
                return file
    except OSError as error:
        raise _error(f"a package cannot be read ({error.strerror}).") from error
    raise _error("no *.deb in the folder has the pinned sha256.")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _url(source: str, version: str, arch: str) -> str:
    """The file itself, or AWS's own layout below a base: <version>/debian_<arch>/amazon-ssm-agent.deb."""
    if source.endswith(".deb"):
        return source
    return f"{source.rstrip('/')}/{version}/debian_{arch}/amazon-ssm-agent.deb"


def _fetch(url: str) -> bytes:
    if not url.startswith(("https://", "http://")):
        raise _error("the URL is neither https nor http.")
    try:
        with urllib.request.urlopen(url, timeout=FETCH_TIMEOUT_S) as answer:
            data: bytes = answer.read(MAX_BYTES + 1)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "code", None) or type(error).__name__
        raise _error(f"the URL gives no package ({reason}).") from error
    if len(data) > MAX_BYTES:
        raise _error("what the URL gives is larger than an agent package can be.")
    return data


def _error(message: str) -> HaltuunError:
    return HaltuunError(
        message, subject="agent.package_source", remedy=REMEDY, code="AGENT_PACKAGE", unchanged=True
    )
