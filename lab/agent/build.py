"""Build the stand-ins' Debian packages with dpkg-deb."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SSM_HOME = "usr/lib/amazon-ssm-agent"
CW_HOME = "opt/aws/amazon-cloudwatch-agent"
DEFAULT_SSM_VERSION = "3.3.1142.0"
DEFAULT_CW_VERSION = "1.300049.1-1"

# The interpreter is the lab's, outside PATH; its cache is kept out of the package's folders.
LAUNCHER = """#!/bin/sh
PYTHONPYCACHEPREFIX="${{LAB_ROOT}}/opt/lab/pycache"
export PYTHONPYCACHEPREFIX
exec "${{LAB_ROOT}}/opt/lab/bin/labpy" "${{LAB_ROOT}}/{home}/run.py" {name} "$@"
"""
RUNNER = """import sys

from standin.{package}.main import main

sys.exit(main())
"""
# What the package brings beside its own folder: link → where it leads.
CW_LINKS = {
    "usr/bin/amazon-cloudwatch-agent-ctl": f"/{CW_HOME}/bin/amazon-cloudwatch-agent-ctl",
    "etc/amazon/amazon-cloudwatch-agent": f"/{CW_HOME}/etc",
    "var/log/amazon/amazon-cloudwatch-agent": f"/{CW_HOME}/logs",
}
CONTROL = """Package: {name}
Version: {version}
Architecture: amd64
Maintainer: Amazon.com, Inc. <ec2-ssm-feedback@amazon.com>
Section: admin
Priority: optional
Description: {description}
 A stand-in for use in Haltuun's lab.
"""


class BuildFailed(Exception):
    """dpkg-deb is missing or refused."""


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _copy(source: Path, target: Path, mode: int = 0o644) -> None:
    _write(target, source.read_text(), mode)


def _install_code(tree: Path, home: str, package: str) -> None:
    for part in ("netkit", package):
        for source in sorted((HERE / part).glob("*.py")):
            _copy(source, tree / home / "standin" / part / source.name)
    _write(tree / home / "standin/__init__.py", "")
    _write(tree / home / "run.py", RUNNER.format(package=package))


def _launcher(tree: Path, path: str, home: str) -> None:
    _write(tree / path, LAUNCHER.format(home=home, name=Path(path).name), 0o755)


def _scripts(tree: Path, prefix: str) -> None:
    for name in ("preinst", "postinst", "prerm"):
        source = HERE / f"packaging/{prefix}-{name}.sh"
        if source.exists():
            _copy(source, tree / "DEBIAN" / name, 0o755)


def _pack(tree: Path, dest: Path, name: str, version: str, description: str) -> Path:
    _write(tree / "DEBIAN/control", CONTROL.format(name=name, version=version, description=description))
    for folder in (path for path in tree.rglob("*") if path.is_dir() and not path.is_symlink()):
        folder.chmod(0o755)
    target = dest if dest.suffix == ".deb" else dest / f"{name}_{version}_amd64.deb"
    target.parent.mkdir(parents=True, exist_ok=True)
    if shutil.which("dpkg-deb") is None:
        raise BuildFailed("dpkg-deb is missing: the lab needs a Debian or Ubuntu machine")
    argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(target)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildFailed(f"dpkg-deb could not build {name}: {done.stderr.strip()}")
    return target


def build_agent_deb(dest: Path, version: str = DEFAULT_SSM_VERSION) -> Path:
    """Build amazon-ssm-agent; `dest` is a folder or the .deb's own path. Returns the package's path."""
    with tempfile.TemporaryDirectory(prefix="haltuun-deb-") as scratch:
        tree = Path(scratch) / "tree"
        _install_code(tree, SSM_HOME, "ssm")
        version_file = tree / SSM_HOME / "standin/ssm/version.py"
        _write(version_file, re.sub(r'VERSION = ".*"', f'VERSION = "{version}"', version_file.read_text()))
        for binary in ("amazon-ssm-agent", "ssm-agent-worker", "ssm-cli"):
            _launcher(tree, f"usr/bin/{binary}", SSM_HOME)
        _copy(
            HERE / "packaging/amazon-ssm-agent.service", tree / "lib/systemd/system/amazon-ssm-agent.service"
        )
        _copy(HERE / "packaging/amazon-ssm-agent.conf", tree / "etc/init/amazon-ssm-agent.conf")
        for template in ("amazon-ssm-agent.json.template", "seelog.xml.template"):
            _copy(HERE / "packaging" / template, tree / "etc/amazon/ssm" / template)
        _scripts(tree, "ssm")
        return _pack(tree, dest, "amazon-ssm-agent", version, "Amazon SSM Agent")


def build_cloudwatch_deb(dest: Path, version: str = DEFAULT_CW_VERSION) -> Path:
    """Build amazon-cloudwatch-agent; `dest` is a folder or the .deb's own path. Returns the package."""
    with tempfile.TemporaryDirectory(prefix="haltuun-deb-") as scratch:
        tree = Path(scratch) / "tree"
        _install_code(tree, f"{CW_HOME}/lib", "cw")
        for binary in ("amazon-cloudwatch-agent", "amazon-cloudwatch-agent-ctl"):
            _launcher(tree, f"{CW_HOME}/bin/{binary}", f"{CW_HOME}/lib")
        for folder in ("etc/amazon-cloudwatch-agent.d", "logs", "var"):
            (tree / CW_HOME / folder).mkdir(parents=True)
        _write(tree / CW_HOME / "bin/CWAGENT_VERSION", f"{version.split('-')[0]}\n")
        unit = tree / "etc/systemd/system/amazon-cloudwatch-agent.service"
        _copy(HERE / "packaging/amazon-cloudwatch-agent.service", unit)
        _copy(HERE / "packaging/amazon-cloudwatch-agent.conf", tree / "etc/init/amazon-cloudwatch-agent.conf")
        _write(tree / CW_HOME / "etc/common-config.toml", "# Nothing is set.\n")
        _write(tree / "DEBIAN/conffiles", f"/{CW_HOME}/etc/common-config.toml\n")
        for link, target in CW_LINKS.items():
            (tree / link).parent.mkdir(parents=True, exist_ok=True)
            (tree / link).symlink_to(target)
        _scripts(tree, "cw")
        return _pack(tree, dest, "amazon-cloudwatch-agent", version, "Amazon CloudWatch Agent")
