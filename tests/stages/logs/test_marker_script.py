"""The script that leaves the marker line, under the shells that hosts have."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from haltuun.stages.logs.document import back_script, content, digest, document, document_name
from haltuun.stages.logs.prove import marker_script
from tests.stages.fakehost import SHELLS, FakeHost, fake_host, metadata_service

ID, OTHER = "i-0abc1234def567890", "i-0ffffffffffffffff"
ACCOUNT, REGION = "111122223333", "eu-central-1"
MINE, THEIRS = "AmazonCloudWatch-haltuun-11112222", "AmazonCloudWatch-haltuun-33334444"
SCRIPT = marker_script(ACCOUNT, REGION, {OTHER: THEIRS, ID: MINE}, "haltuun 20261123T180000-abcdef", 3)
NOTED = "var/lib/haltuun/logs/configuration"
CONTROL = """echo "$@" >>"$HALTUUN_ROOT/called"
echo '2026/11/29 12:00:00 I! fetching'
[ ! -e "$HALTUUN_ROOT/ends" ] || echo 'no such parameter' >&2
exit "$(cat "$HALTUUN_ROOT/ends" 2>/dev/null || echo 0)"
"""


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = fake_host(tmp_path)
    made.tool("curl")
    made.tool("mkdir")
    made.write({NOTED: f"{MINE}\n"})
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


@pytest.mark.parametrize("shell", SHELLS)
def test_it_writes_nothing_before_the_agent_has_the_hosts_own_configuration(
    host: FakeHost, shell: str
) -> None:
    host.write({NOTED: f"{THEIRS}\n"})
    host.tool("sleep", 'echo x >>"$HALTUUN_ROOT/slept"')
    with metadata_service(ID) as host.metadata:
        done = host.run(shell, SCRIPT)
    assert done.returncode == 6
    assert done.stderr.startswith(f"NOT_CONFIGURED: the CloudWatch agent does not have {MINE}")
    assert written(host) is None
    assert len((host.root / "slept").read_text().split()) == 3


def test_it_waits_for_the_configuration(host: FakeHost) -> None:
    (host.root / NOTED).unlink()
    host.tool("sleep", f'echo {MINE} >"$HALTUUN_ROOT/{NOTED}"')
    with metadata_service(ID) as host.metadata:
        assert host.run("dash", SCRIPT).returncode == 0
    assert written(host) == f"haltuun 20261123T180000-abcdef {ID}\n"


def step(action: str) -> str:
    """The document's last step as Systems Manager hands it out."""
    text = "\n".join(document()["mainSteps"][2]["inputs"]["runCommand"])
    text = text.replace("{{ configuration }}", MINE).replace("{{ package }}", "Install")
    return text.replace("{{ action }}", action)


def put_control(host: FakeHost, script: str) -> None:
    control = host.root / "opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl"
    control.parent.mkdir(parents=True)
    control.write_text(f"#!/bin/sh\n{script}")
    control.chmod(0o755)
    for name in ("ln", "rm"):
        host.tool(name)
    host.write({"var/lib/haltuun/logs/before": "end\n"})


@pytest.mark.parametrize("shell", SHELLS)
def test_the_agent_is_given_the_configuration_and_the_host_notes_which(host: FakeHost, shell: str) -> None:
    put_control(host, CONTROL)
    host.write({NOTED: f"{THEIRS}\n", "ends": "4"})
    done = host.run(shell, step("append-config"))
    assert done.returncode == 4
    assert done.stderr == "NOT_CONFIGURED: no such parameter\n"
    assert not (host.root / NOTED).exists(), "nobody knows what it has"
    (host.root / "ends").unlink()
    assert host.run(shell, step("append-config")).returncode == 0
    assert (host.root / NOTED).read_text() == f"{MINE}\n"
    append = f"-a append-config -m ec2 -c ssm:{MINE} -s\n"
    called = (host.root / "called").read_text()
    assert called == f"-a remove-config -m ec2 -c ssm:{THEIRS}\n" + append * 2


def test_two_at_once_take_turns(host: FakeHost) -> None:
    """State Manager and Run Command may both bring it."""
    put_control(host, 'mkdir "$HALTUUN_ROOT/busy" || exit 9\nsleep 0.3\nrm -r "$HALTUUN_ROOT/busy"\n')
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda shell: host.run(shell, step("fetch-config")), SHELLS))
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * len(SHELLS)
    kept = sorted(path.name for path in (host.root / NOTED).parent.iterdir())
    assert kept == ["before", "configuration"], "nothing is held"


def test_a_host_that_can_hold_no_lock_says_why_and_is_not_waited_for(host: FakeHost) -> None:
    put_control(host, CONTROL)
    host.tool("ln", "echo 'ln: held: Read-only file system' >&2; exit 1")
    host.tool("sleep", 'kill -9 "$PPID"')  # whoever waits would wait for ever
    done = host.run("dash", step("fetch-config"))
    assert (done.returncode, done.stderr) == (5, "ln: held: Read-only file system\n")
    assert not (host.root / "called").exists()


def test_without_an_agent_nothing_is_noted(host: FakeHost) -> None:
    host.tool("sleep", "true")
    (host.root / NOTED).unlink()
    done = host.run("dash", step("fetch-config"))
    assert (done.returncode, done.stderr.partition(":")[0]) == (3, "NOT_INSTALLED")
    assert not (host.root / NOTED).exists()


def test_without_metadata_it_writes_nothing(host: FakeHost) -> None:
    done = host.run("dash", SCRIPT)
    assert done.returncode == 3
    assert done.stderr.startswith("NO_METADATA")
    assert written(host) is None


def test_the_document_can_be_told_from_any_other_version_of_it() -> None:
    assert document_name() == f"haltuun-ship-logs-{digest(content())[:8]}"
    same, other = json.loads(content()), json.loads(content()) | {"description": "another"}
    assert digest(json.dumps(same, indent=2)) == digest(content())
    assert len({digest(content()), digest(json.dumps(other)), digest("no JSON")}) == 3


def test_no_agent_comes_to_a_host_that_could_not_note_how_it_was() -> None:
    note, package, _ = document()["mainSteps"]
    assert (note["name"], note["inputs"]["onFailure"]) == ("note", "exit")
    assert package["action"] == "aws:configurePackage"


def test_run_command_would_not_take_parts_of_it_for_its_own_parameters() -> None:
    assert "{{" not in SCRIPT
    assert "{{" not in back_script(ACCOUNT, REGION, ID, uninstalled=False)
    of_its_own = {"{{ package }}": 3, "{{ configuration }}": 1, "{{ action }}": 1}
    assert {word: content().count(word) for word in of_its_own} == of_its_own
    assert content().count("{{") == 5
