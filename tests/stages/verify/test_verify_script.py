"""What the host itself sees of its way to Systems Manager, under the shells that hosts have."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from haltuun.stages.discover.lines import Lines, script
from haltuun.stages.verify.parse_host import parse_each, parse_imds, parse_proxy_ok
from tests.stages.fakehost import SHELLS, FakeHost, fake_host, metadata_service, snapshot

VERIFY = script("haltuun.stages.discover", "common.sh") + "\n" + script("haltuun.stages.verify", "verify.sh")
ID = "i-0abc1234def567890"
NAMES = "ssm.eu-central-1.amazonaws.com ssmmessages.eu-central-1.amazonaws.com"
# Stands for the connection: ports other than 443 of a test's own cannot be used by name.
CONNECTS = 'case "$2" in *dev/tcp*) exit 0 ;; esac'


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = fake_host(tmp_path)
    made.tool("curl")
    made.tool("getent", 'case "$2" in *.amazonaws.com) echo "10.0.0.9 STREAM $2" ;; *) exit 2 ;; esac')
    made.tool("bash", CONNECTS)
    return made


def verify(host: FakeHost, shell: str = "dash", **env: str) -> Lines:
    done = host.run(shell, VERIFY, **{"NAMES": NAMES, **env})
    assert done.stderr == ""
    assert done.stdout.endswith("end\tverify\n")
    return Lines(done.stdout)


def curl(host: FakeHost, code: int, said: str = "") -> None:
    """A curl that asks metadata as curl does, and ends every TLS question with `code`."""
    real = (host.bin / "curl").resolve()
    (host.bin / "curl").unlink()
    host.tool(
        "curl",
        f'for last; do :; done\ncase "$last" in https:*) echo "$https_proxy" >>"{host.root}/asked";'
        f' echo "{said}" >&2; exit {code} ;; esac\nexec {real} "$@"',
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_all_well_and_nothing_written(host: FakeHost, shell: str, tmp_path: Path) -> None:
    host.tool("wget", 'case "$1" in --version) echo GNU Wget ;; esac; exit 0')
    (host.bin / "curl").unlink()
    host.tool("perl")
    before = snapshot(tmp_path)
    with metadata_service(ID, role="app", tokens="off") as host.metadata:
        lines = verify(host, shell)
    assert snapshot(tmp_path) == before
    for key, good in (("dns", "ok"), ("tcp", "open"), ("tls", "ok")):
        assert sorted(row[0] for row in lines.rows(key)) == NAMES.split()
        assert parse_each(lines, key, {good}) == (True, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_metadata_with_token_and_role(host: FakeHost, shell: str) -> None:
    curl(host, 0)
    with metadata_service(ID, role="app", tokens="required") as host.metadata:
        lines = verify(host, shell)
    assert parse_imds(lines, "3.3.1142.0") is True
    assert lines.first("role") == "app"
    assert lines.first("imds.v1") == "401"


def test_metadata_that_does_not_answer(host: FakeHost) -> None:
    curl(host, 0)
    assert parse_imds(verify(host), "3.3.1142.0") is False


@pytest.mark.parametrize(("version", "fine"), [("3.3.1142.0", False), ("2.3.978.0", True), (None, False)])
def test_without_tokens_only_old_agents_find_themselves(
    host: FakeHost, version: str | None, fine: bool
) -> None:
    curl(host, 0)
    with metadata_service(ID, tokens="off") as host.metadata:
        assert parse_imds(verify(host), version) is fine


def test_a_role_that_comes_late_is_waited_for(host: FakeHost) -> None:
    curl(host, 0)
    with metadata_service(ID, role="late", role_after=2) as host.metadata:
        assert verify(host, WAIT_ROLE_S="20").first("role") == "late"
        assert verify(host).first("role") == "late"


def test_without_a_wish_for_the_role_nobody_waits(host: FakeHost) -> None:
    curl(host, 0)
    with metadata_service(ID) as host.metadata:
        began = time.monotonic()
        assert verify(host).first("role") == ""
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (60, "curl: (60) SSL certificate problem: unable to get local issuer certificate", "untrusted"),
        (35, "curl: (35) unsupported protocol", "failed"),
    ],
)
def test_tls(host: FakeHost, code: int, said: str, expected: str) -> None:
    curl(host, code, said)
    ok, reason = parse_each(verify(host), "tls", {"ok"})
    assert ok is False
    assert isinstance(reason, str)
    assert expected in reason
    assert said[:20] in reason


def test_without_a_tool_for_tls_it_is_unknown(host: FakeHost) -> None:
    (host.bin / "curl").unlink()
    ok, reason = parse_each(verify(host), "tls", {"ok"})
    assert not isinstance(ok, bool)
    assert "no tool" in str(reason)


def test_a_name_that_does_not_resolve(host: FakeHost) -> None:
    host.tool("getent", "exit 2")
    lines = verify(host)
    assert parse_each(lines, "dns", {"ok"})[0] is False
    assert lines.rows("tcp", 2)[0][1] == "no-address"


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port that is bound and not listening: connections to it are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@pytest.mark.parametrize("tool", ["bash", "perl", "curl"])
def test_a_refused_connection_is_told_from_a_silent_one(
    host: FakeHost, tool: str, refusing_port: int
) -> None:
    for name in ("bash", "curl"):
        (host.bin / name).unlink()
    host.tool(tool)
    # The proxy stands for the services, so the port can be chosen.
    host.write(
        {
            "etc/systemd/system/amazon-ssm-agent.service.d/proxy.conf": "[Service]\n"
            f'Environment="https_proxy=http://127.0.0.1:{refusing_port}"\n'
        }
    )
    ok, reason = parse_each(verify(host), "tcp", {"open"})
    assert ok is False
    assert str(reason).endswith(".com: refused")


# -- proxy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("where", ["process", "drop-in", "upstart"])
def test_the_agents_proxy_without_its_password(host: FakeHost, where: str, shell: str) -> None:
    curl(host, 0)
    url = "http://ops:hunter2@proxy.example:3128"
    if where == "process":
        host.process(90, "amazon-ssm-agen", environ=f"PATH=/bin\0https_proxy={url}\0http_proxy={url}\0")
    elif where == "drop-in":
        text = f'[Service]\nEnvironment="https_proxy={url}"\nEnvironment="http_proxy={url}"\n'
        host.write({"etc/systemd/system/amazon-ssm-agent.service.d/proxy.conf": text})
    else:
        host.write({"etc/init/amazon-ssm-agent.override": f"env https_proxy={url}\nenv http_proxy={url}\n"})
    host.tool("getent", 'echo "10.0.0.9 STREAM $2"')
    done = host.run(shell, VERIFY, NAMES=NAMES)
    lines = Lines(done.stdout)
    assert lines.first("proxy") == "http://***@proxy.example:3128"
    assert "hunter2" not in done.stdout + done.stderr
    assert parse_proxy_ok(lines) is False
    assert set((host.root / "asked").read_text().split()) == {url}


def test_a_proxy_that_leaves_metadata_alone(host: FakeHost) -> None:
    curl(host, 0)
    url = "http://127.0.0.1:1"
    host.process(
        90,
        "amazon-ssm-agen",
        environ=f"https_proxy={url}\0http_proxy={url}\0no_proxy=localhost,169.254.169.254\0",
    )
    assert parse_proxy_ok(verify(host)) is True
