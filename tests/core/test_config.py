"""Bad input gets one error that names file, line and key."""

from __future__ import annotations

from typing import get_args

import pytest

from haltuun.config import Waivable, load_config
from haltuun.errors import EXIT_USAGE, ConfigError
from haltuun.stages.order import STAGES

GOOD = 'accounts:\n  - id: "111122223333"\n    alias: acme\n    ssh:\n      key_files: [keys/a.pem]\n'
HOST = GOOD + "    hosts: {i-0abc1234def567890: "


def write(tmp_path, text):
    path = tmp_path / "haltuun.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("accounts:\n  - id: '1'\n   x: 3\n", ":3", "expected"),
        (GOOD + "      portt: 22\n", ":6: accounts.0.ssh.portt", "no such key"),
        ("accounts:\n  - id: 111122223333\n", ":2: accounts.0.id", "must be text"),
        ("accounts:\n  - alias: a\n", "accounts.0.id", "missing"),
        ("- a\n- b\n", ":1", "mapping"),
        ("a: &x [1]\nb: *x\n", ":2", "aliases"),
        ("state_dir: a\nstate_dir: b\n", ":2", "twice"),
        (GOOD + "  - id: '111122223333'\n", ":6: accounts.1", "names two accounts"),
        ("policy:\n  approve: [shared]\n", ":2: policy.approve", "irreversible"),
        ("accounts:\n  - id: '111122223333'\n    hosts:\n      web-1: {port: 1}\n", ":4", "an instance id"),
        ("accounts:\n  - id: '111122223333'\n    regions: [eu-centrall]\n", ":3", "name of a region"),
        (GOOD + "      port: abc\n", ":6: accounts.0.ssh.port", "a whole number"),
        (GOOD + "    hosts: {i-0abc1234def567890: }\n", ":6", "a mapping of keys"),
        (HOST + "{waive: {STALE_HYBRID: why}}}\n", ":6: accounts.0.hosts.i-0abc1234def567890.waive", "'EOL'"),
        (HOST + "{waive: {EOL: ' '}}}\n", ".waive.EOL", "at least 1 character"),
        (GOOD + "agent: {sha256: abc}\n", ":6: agent.sha256", "64 digits"),
        ("database_url: postgresql://a:b@c/d\n", ":1: database_url", "postgresql+psycopg://"),
        ("state_dir:\n", ":1: state_dir", "the path of"),
        ("[" * 100_000, "haltuun.yaml", "nested far deeper"),
        ("{a: " * 50_000, "haltuun.yaml", "nested far deeper"),
        ("a: " + "9" * 900_000, "haltuun.yaml", "cannot make sense of"),
        ("a: " + "x" * 3_000_000, "haltuun.yaml", "larger than a configuration"),
        ("a: !!python/object/apply:os.system [id]\n", ":1", "could not determine a constructor"),
        ("a: !!binary " + "A" * 900_000, ":1: a", "no such key"),
        ("a: 1\n---\nb: 2\n", ":2", "another document"),
        ("", ":1", "mapping"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_an_error_names_file_line_and_key(tmp_path, text, where, what):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert where in caught.value.subject
    assert what in caught.value.message
    assert caught.value.remedy
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("acounts: []\n", "Did you mean 'accounts'?"),
        (GOOD + "      port_: 22\n", "Did you mean 'port'?"),
        (GOOD + "    hosts: {i-0abc1234def567890: {exlude: x}}\n", "Did you mean 'exclude'?"),
        (
            f"agent: {{packages: [{{format: deb, version: '3.3', sha256: {'a' * 64}, archh: any}}]}}\n",
            "mean 'arch'?",
        ),
        ("policy: {zzz: 1}\n", "There are: max_held_percent,"),
        (GOOD + "    hosts: {i-0abc1234def567890: {exclude: true}}\n", "Write the reason there, in quotes."),
        (HOST + "{waive: {EOL: true}}}\n", "Write the reason there, in quotes."),
    ],
)
def test_the_remedy_says_what_may_stand_there(tmp_path, text, remedy):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert remedy in caught.value.remedy


def test_no_such_file_and_not_text(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "haltuun.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        load_config(path)


def test_relative_paths_count_from_the_files_folder(tmp_path):
    config = load_config(write(tmp_path, GOOD + "database_url: sqlite:///l.db\n"))
    assert config.account("acme").ssh.key_files == [tmp_path / "keys/a.pem"]
    assert config.state_dir == tmp_path / ".haltuun"
    assert config.ledger_url == f"sqlite:///{tmp_path}/l.db"


def test_an_unknown_account_names_those_that_are_there(tmp_path):
    with pytest.raises(ConfigError, match="acme"):
        load_config(write(tmp_path, GOOD)).account("nobody")


def test_only_what_no_other_stage_builds_on_can_be_waived():
    """And each demand of those stages can be."""
    needed = {need for stage in STAGES for need in stage.needs}
    last = {check.code for stage in STAGES if stage.name not in needed for check in stage.checks}
    others = {check.code for stage in STAGES if stage.name in needed for check in stage.checks}
    assert set(get_args(Waivable)) == last and not last & others
