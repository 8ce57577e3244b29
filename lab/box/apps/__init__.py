"""What runs on lab hosts beside the agent: packages that install, listen and own their executables."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.box.machine import put
from lab.errors import LabError

HERE = Path(__file__).parent
PYTHON = "opt/lab/py/usr/bin/python3"
UNIT = """\
[Unit]
Description={title}
After=network.target

[Service]
Type=simple
Environment=PYTHONHOME=/opt/lab/py/usr
ExecStart=/usr/sbin/{binary} -s -S {script} {version}
Restart=on-failure

[Install]
WantedBy=multi-user.target
"""
JOB = """\
description "{title}"
start on runlevel [2345]
stop on runlevel [016]
respawn
env PYTHONHOME=/opt/lab/py/usr
exec /usr/sbin/{binary} -s -S {script} {version}
"""
POSTINST = """\
#!/bin/sh
set -e
case $(cat /proc/1/comm) in
systemd)
    systemctl daemon-reload
    systemctl enable {service}
    systemctl start {service}
    ;;
init)
    initctl reload-configuration
    start {service}
    ;;
esac
"""
CONTROL = """\
Package: {package}
Version: {version}
Architecture: amd64
Maintainer: Ubuntu Developers <ubuntu-devel-discuss@lists.ubuntu.com>
Section: {section}
Priority: optional
Description: {title}
"""
WP_CONFIG = """\
<?php
define( 'DB_NAME', 'blog' );
define( 'DB_USER', 'blog' );
define( 'DB_PASSWORD', 'not-a-real-password' );
define( 'DB_HOST', '127.0.0.1' );
$table_prefix = 'wp_';
"""


@dataclass(frozen=True)
class App:
    """One package: a service whose executable is the lab's interpreter under the real server's name."""

    package: str
    version: str
    shown_version: str  # as the server calls itself
    title: str
    section: str
    service: str
    binary: str
    source: str
    folders: tuple[str, ...] = ()
    site: Mapping[str, str] = field(default_factory=dict)  # files that no package owns


WORDPRESS_SITE = {
    "var/www/html/wp-config.php": WP_CONFIG,
    "var/www/html/wp-includes/version.php": "<?php\n$wp_version = '5.8';\n",
    "var/www/html/wp-content/uploads/2021/05/index.html": "",
}
# Ubuntu release → the package of its own archive; another release has the last one
APACHE = {
    "14.04": "2.4.7-1ubuntu4.22",
    "16.04": "2.4.18-2ubuntu3.17",
    "18.04": "2.4.29-1ubuntu4.27",
    "20.04": "2.4.41-4ubuntu3.17",
}
APACHE_LATEST = "2.4.52-1ubuntu4.7"
MYSQL = {
    "14.04": ("5.5", "5.5.62-0ubuntu0.14.04.1"),
    "16.04": ("5.7", "5.7.33-0ubuntu0.16.04.1"),
    "18.04": ("5.7", "5.7.42-0ubuntu0.18.04.1"),
    "20.04": ("8.0", "8.0.41-0ubuntu0.20.04.1"),
}
MYSQL_LATEST = ("8.0", "8.0.41-0ubuntu0.22.04.1")


def app_for(name: str, release: str) -> App:
    """The package behind an app's name in a scenario, on this release."""
    if name == "wordpress":
        version = APACHE.get(release, APACHE_LATEST)
        return App(
            package="apache2",
            version=version,
            shown_version=version.partition("-")[0],
            title="Apache HTTP Server",
            section="httpd",
            service="apache2",
            binary="apache2",
            source="httpd.py",
            folders=("etc/apache2/sites-enabled", "var/www/html", "var/log/apache2"),
            site=WORDPRESS_SITE,
        )
    series, version = MYSQL.get(release, MYSQL_LATEST)
    return App(
        package=f"mysql-server-{series}",
        version=version,
        shown_version=version,
        title="MySQL database server",
        section="database",
        service="mysql",
        binary="mysqld",
        source="mysqld.py",
        folders=("etc/mysql", "var/lib/mysql/blog", "var/log/mysql"),
    )


def build_app_deb(app: App, base: Path, folder: Path) -> Path:
    """Build the package of an app with dpkg-deb; the interpreter comes from the base image."""
    target = folder / f"{app.package}_{app.version}_amd64.deb"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as work:
        tree = Path(work) / "tree"
        script = f"/usr/share/{app.package}/{app.source}"
        words = {
            "title": app.title,
            "binary": app.binary,
            "script": script,
            "service": app.service,
            "version": app.shown_version,
        }
        for name in (f"usr/sbin/{app.binary}", script.lstrip("/")):
            (tree / name).parent.mkdir(parents=True)
        shutil.copy(base / PYTHON, tree / f"usr/sbin/{app.binary}")
        shutil.copy(HERE / app.source, tree / script.lstrip("/"))
        for name in app.folders:
            (tree / name).mkdir(parents=True, exist_ok=True)
        put(tree / f"lib/systemd/system/{app.service}.service", UNIT.format(**words))
        put(tree / f"etc/init/{app.service}.conf", JOB.format(**words))
        control = CONTROL.format(
            package=app.package, version=app.version, section=app.section, title=app.title
        )
        put(tree / "DEBIAN/control", control)
        put(tree / "DEBIAN/postinst", POSTINST.format(**words), 0o755)
        tree.chmod(0o755)
        built = Path(work) / target.name
        done = subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(built)],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise LabError(f"dpkg-deb could not build {app.package}: {done.stderr.strip()}")
        built.rename(target)
    return target
