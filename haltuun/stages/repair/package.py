"""The agent packages that the configuration pins: found in its folder or fetched from its URL."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from haltuun.config import AgentConfig, PackagePin
from haltuun.errors import HaltuunError

REMEDY = "Correct agent.package_source, version, sha256 and packages in haltuun.yaml."
FETCH_TIMEOUT_S = 60.0
# amazon-ssm-agent 3.3 is about 30 MB.
MAX_BYTES = 200_000_000
# AWS's own layout below a base: <version>/<folder>_<arch>/amazon-ssm-agent.<format>. It offers no snap.
FOLDERS = {"deb": "debian", "rpm": "linux"}
# What dpkg, rpm and uname call an architecture → what AWS's folders do.
ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
}


def fitting(config: AgentConfig, managers: Mapping[str, str]) -> Iterator[PackagePin]:
    """The pins that fit a host, the preferred first: of a format those made for its architecture, then those
    for any. `managers`: format → architecture, in its words."""
    for kind, said in managers.items():
        arch = ARCHITECTURES.get(said, said)
        for fits in (arch, "any"):
            yield from (pin for pin in config.pins if pin.format == kind and pin.arch == fits)


def pin_of(config: AgentConfig, sha256: str) -> PackagePin:
    """The pin that a plan was made with.

    Raises:
        HaltuunError: AGENT_PACKAGE.
    """
    found = next((pin for pin in config.pins if pin.sha256 == sha256), None)
    if found is None:
        raise _error("the package that was planned is not pinned any more.")
    return found


def package_problems(config: AgentConfig) -> dict[str, str]:
    """sha256 of a pin → why its package cannot be used; what is behind a URL is fetched when needed."""
    if not config.package_source or "://" in config.package_source:
        return {}
    problems = {}
    for pin in config.pins:
        try:
            find_file(Path(config.package_source), pin)
        except HaltuunError as error:
            problems[pin.sha256] = error.message
    return problems


def get_package(config: AgentConfig, pin: PackagePin, arch: str) -> bytes:
    """The package, its sha256 being the pinned one; `arch` is the host's, used where the pin has none.

    Raises:
        HaltuunError: AGENT_PACKAGE.
    """
    source = config.package_source or ""
    if "://" not in source:
        return find_file(Path(source), pin).read_bytes()
    data = _fetch(_url(source, pin, ARCHITECTURES.get(arch, arch) if pin.arch == "any" else pin.arch))
    if hashlib.sha256(data).hexdigest() != pin.sha256:
        raise _error("what the URL gives has another sha256 than the pinned one.")
    return data


def find_file(folder: Path, pin: PackagePin) -> Path:
    """The file of the folder that has the pinned checksum.

    Raises:
        HaltuunError: AGENT_PACKAGE.
    """
    files = [folder] if folder.is_file() else sorted(folder.glob(f"*.{pin.format}"))
    if not files:
        raise _error(f"there is no *.{pin.format} in the folder.")
    try:
        for file in files:
            if _sha256(file) == pin.sha256:
                return file
    except OSError as error:
        raise _error(f"a package cannot be read ({error.strerror}).") from error
    raise _error(f"no *.{pin.format} in the folder has the pinned sha256.")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _url(source: str, pin: PackagePin, arch: str) -> str:
    """The file itself, or where AWS's own layout has it below a base."""
    if source.endswith(f".{pin.format}"):
        return source
    if pin.format not in FOLDERS:
        raise _error(f"AWS offers no *.{pin.format} below a URL: name the file's own, or a folder with it.")
    return f"{source.rstrip('/')}/{pin.version}/{FOLDERS[pin.format]}_{arch}/amazon-ssm-agent.{pin.format}"


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
