"""The script that leaves the marker line, under the shells that hosts have."""

from __future__ import annotations

from pathlib import Path

import pytest

from haltuun.stages.logs.prove import marker_script
from tests.stages.fakehost import SHELLS, FakeHost, fake_host, metadata_service

ID, OTHER = "i-0abc1234def567890", "i-0ffffffffffffffff"
ACCOUNT, REGION = "111122223333", "eu-central-1"
SCRIPT = marker_script(ACCOUNT, REGION, [OTHER, ID], "haltuun 20261123T180000-abcdef")


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = fake_host(tmp_path)
    made.tool("curl")
    made.tool("mkdir")
    return made


def written(host: FakeHost) -> str | None:
    path = host.root / "var/log/haltuun/marker.log"
    return path.read_text() if path.exists() else None


@pytest.mark.parametrize("shell", SHELLS)
def test_it_writes_its_own_id_and_adds_to_what_is_there(host: FakeHost, shell: str) -> None:
    with metadata_service(ID, tokens="required") as host.metadata:
        for _ in range(2):
            done = host.run(shell, SCRIPT)
            assert (done.returncode, done.stderr) == (0, "")
    assert written(host) == f"haltuun 20261123T180000-abcdef {ID}\n" * 2


@pytest.mark.parametrize(
    ("instance_id", "account", "region"),
    [
        ("i-0123456789abcdef0", ACCOUNT, REGION),
        (ID, "999999999999", REGION),
        (ID, ACCOUNT, "us-east-1"),
        (ID[:-1], ACCOUNT, REGION),
    ],
)
def test_it_leaves_another_box_alone(host: FakeHost, instance_id: str, account: str, region: str) -> None:
    with metadata_service(instance_id, account=account, region=region) as host.metadata:
        done = host.run("dash", SCRIPT)
    assert done.returncode == 4
    assert done.stderr.startswith("WRONG_BOX")
    assert written(host) is None


def test_without_metadata_it_writes_nothing(host: FakeHost) -> None:
    done = host.run("dash", SCRIPT)
    assert done.returncode == 3
    assert done.stderr.startswith("NO_METADATA")
    assert written(host) is None


def test_run_command_would_not_take_parts_of_it_for_its_own_parameters() -> None:
    assert "{{" not in SCRIPT
