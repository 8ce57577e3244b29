"""What runs beside the agent: ports, processes, packages, units and log files belong together."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from lab.api import DEMO_SCENARIO
from lab.box.base import ensure_base
from lab.box.box import Box
from lab.box.contents import Furnisher
from lab.scenario import load_scenario
from tests.lab.box_fixtures import running_box
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    scenario, folder = load_scenario(DEMO_SCENARIO, 0), tmp_path_factory.mktemp("apps")
    with running_box(folder, "ubuntu-22.04") as found:
        furnisher = Furnisher(scenario, ensure_base(print), folder, folder / "no-agent.deb")
        furnisher.install(scenario.host("blog-01"), found)
        yield found


def said(box: Box, command: str) -> str:
    return box.run("sh", "-c", command).stdout.strip()


@pytest.mark.parametrize(
    ("port", "process", "package", "unit"),
    [(80, "apache2", "apache2", "apache2"), (3306, "mysqld", "mysql-server-8.0", "mysql")],
)
def test_a_port_leads_to_its_process_package_and_unit(
    box: Box, port: int, process: str, package: str, unit: str
) -> None:
    wait_until(lambda: said(box, f"ss -Hltnp sport = :{port}"))
    found = re.search(r'users:\(\("(.+?)",pid=(\d+)', said(box, f"ss -Hltnp sport = :{port}"))
    assert found is not None
    pid = found[2]
    assert found[1] == process
    assert said(box, f"dpkg -S $(readlink /proc/{pid}/exe)") == f"{package}: /usr/sbin/{process}"
    assert said(box, f"systemctl show -p MainPID --value {unit}") == pid
    assert said(box, f"systemctl is-enabled {unit}") == "enabled"


def test_the_site_answers_and_is_logged(box: Box) -> None:
    assert "WordPress 5.8" in said(box, "curl -s --retry 5 --retry-connrefused http://127.0.0.1/")
    assert '"GET / HTTP/1.1" 200' in said(box, "tail -n 1 /var/log/apache2/access.log")


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("apache2/error.log", "AH00163: Apache/2.4.52 (Ubuntu) configured"),
        ("apache2/access.log", "(internal dummy connection)"),
        ("mysql/error.log", "mysqld: ready for connections"),
    ],
)
def test_log_files_have_lines_from_the_start(box: Box, log: str, words: str) -> None:
    wait_until(lambda: words in said(box, f"cat /var/log/{log}"))
