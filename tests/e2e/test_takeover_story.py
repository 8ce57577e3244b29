"""The demo's account, as an operator lives it: plan, approve, be killed, go on, run again.

One lab for all tests of this file; the story is told once and each test holds a part of it to account.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from haltuun.errors import EXIT_AWAITS_APPROVAL, EXIT_HELD, EXIT_OK
from haltuun.ledger import Ledger
from haltuun.model import StageName
from lab import api
from lab.calls import mutations, seen_calls
from lab.expectation import surprises
from lab.scenario import load_scenario
from tests import inside
from tests.e2e.canaries import Canaries, plant, watched
from tests.prefect_fixtures import PrefectServer
from tests.stages.account_state import account_state, differences

pytestmark = [pytest.mark.lab, pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(1800)]

HALTUUN = str(Path(sys.executable).with_name("haltuun"))
ACCOUNT = "acme-legacy"
# Kinds of changes that are made on the host itself, and so need no permission of AWS.
ON_HOST = ("agent.",)
# Of a host's files, those that it writes by itself, and what a login leaves.
OWN_LIFE = re.compile(
    r"^(?:(?:proc|sys|dev|run|tmp|var/log|var/lib/amazon|var/cache|var/tmp|opt/lab|root/\.aws)(?:/|$)"
    r"|home/[^/]+/\.sudo_as_admin_successful$)"
)


@dataclass
class Story:
    env: dict[str, str]
    info: api.LabInfo
    server: PrefectServer
    runs: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)
    mutations: dict[str, list[str]] = field(default_factory=dict)
    trees: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    account: dict[str, str] = field(default_factory=dict)
    registered: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    killed_after: list[str] = field(default_factory=list)
    canaries: Canaries = field(default_factory=Canaries)

    def haltuun(self, chapter: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        before = seen_calls(self.info.endpoint_url)
        with watched(self.canaries):
            done = inside.call(self.env, self.server.state_dir, *arguments)
        self.runs[chapter] = done
        self.mutations[chapter] = mutations(seen_calls(self.info.endpoint_url) - before)
        return done

    def files(self) -> dict[str, dict[str, str]]:
        """Host → path → mode, owner and checksum or where it leads, as seen from outside the hosts."""
        found = {}
        for name, host in self.info.hosts.items():
            root = Path(f"/proc/{host['pid']}/root")
            found[name] = {
                str(path.relative_to(root)): _seen(path)
                for top in ("etc", "opt", "var", "root", "home", "usr/bin", "usr/local")
                for path in (root / top).rglob("*")
                if not OWN_LIFE.match(str(path.relative_to(root)))
            }
        return found

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            region_name=self.info.region,
            endpoint_url=self.info.endpoint_url,
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
        )

    def registrations(self) -> dict[str, dict[str, tuple[str, str]]]:
        """Host → what decides its agent's identity and whose it is: path → owner and mode, checksum."""
        found: dict[str, dict[str, tuple[str, str]]] = {}
        for name, host in self.info.hosts.items():
            root = Path(f"/proc/{host['pid']}/root")
            paths = [root / "var/lib/amazon/ssm/registration", root / "root/.aws/credentials"]
            vault = root / "var/lib/amazon/ssm/Vault"
            paths += [vault / "Manifest", *(vault / "Store").glob("RegistrationKey")]
            paths += (vault / "Store").glob("InstanceFingerprint")
            found[name] = {
                str(path.relative_to(root)): (
                    f"{path.stat().st_uid}:{path.stat().st_gid}:{path.stat().st_mode:o}",
                    # The hybrid agent writes a fresh token there as soon as it runs again.
                    "" if path.name == "credentials" else hashlib.sha256(path.read_bytes()).hexdigest(),
                )
                for path in paths
                if path.exists()
            }
        return found

    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{Path(self.env['HALTUUN_CONFIG']).parent}/state/ledger.db")


@pytest.fixture(scope="module")
def story(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    name = f"story-{os.getpid()}"
    try:
        info = api.up(api.DEMO_SCENARIO, out=tmp_path_factory.mktemp("lab"), name=name)
        told = Story(prefect_server.environment(info.env), info, prefect_server)
        told.canaries = plant(info, told.client("ec2"))
        told.trees["before"] = told.files()
        told.account, told.registered = account_state(told.client), told.registrations()
        planned = told.haltuun("plan", "plan", ACCOUNT, "--json")
        assert planned.returncode == EXIT_OK, planned.stderr
        told.plan = json.loads(planned.stdout)
        told.trees["planned"] = told.files()
        _killed_in_the_middle(told)
        told.haltuun("approved", "takeover", ACCOUNT, "--plan", told.plan["plan_hash"], "--json")
        told.haltuun("again", "takeover", ACCOUNT, "--json")
        yield told
    finally:
        api.down(name)


def _seen(path: Path) -> str:
    about, what = path.lstat(), ""
    if path.is_symlink():
        what = str(path.readlink())
    elif path.is_file():
        what = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{about.st_mode:o} {about.st_uid}:{about.st_gid} {what}"


def _killed_in_the_middle(told: Story) -> None:
    """kill -9 while changes are being made."""
    command = [HALTUUN, "takeover", ACCOUNT, "--plan", told.plan["plan_hash"]]
    ledger = told.ledger()
    already = len(ledger.change_events(told.info.account_id))
    with subprocess.Popen(
        command, env=told.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and process.poll() is None:
            # It stands still while it is looked whether a change is under way.
            process.send_signal(signal.SIGSTOP)
            events = ledger.change_events(told.info.account_id)[already:]
            if sum(event.event == "confirmed" for event in events) >= 3 and events[-1].event == "sent":
                break
            process.send_signal(signal.SIGCONT)
            time.sleep(0.1)
        process.kill()
    told.killed_after = [event.event for event in ledger.change_events(told.info.account_id)[already:]]
    ledger.close()


def changed(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    return [
        f"{host}:/{path}"
        for host in before
        for path in sorted(before[host].keys() | after[host].keys())
        if before[host].get(path) != after[host].get(path)
    ]


def test_a_plan_changes_nothing_on_aws_and_on_no_host(story: Story) -> None:
    assert story.runs["plan"].returncode == EXIT_OK, story.runs["plan"].stderr
    assert story.mutations["plan"] == []
    assert story.plan["changes"]
    assert changed(story.trees["before"], story.trees["planned"]) == []


def test_the_plan_says_of_each_change_what_a_person_needs(story: Story) -> None:
    for change in story.plan["changes"]:
        assert change["summary"]
        assert change["permissions"] or change["kind"].startswith(ON_HOST), change["summary"]
        assert change["undo"] or change["no_undo"], change["summary"]
        assert change["reach"] in ("host", "shared", "account", "irreversible")


def test_killed_in_the_middle_the_next_run_brings_it_to_its_end(story: Story) -> None:
    assert story.killed_after[-1] == "sent", "the kill did not hit a change under way"
    done = story.runs["approved"]
    assert done.returncode == EXIT_HELD, done.stderr
    status = json.loads(done.stdout)
    assert surprises(load_scenario(api.DEMO_SCENARIO), status) == []


def test_nothing_is_made_twice_by_a_killed_and_a_second_run(story: Story) -> None:
    client = story.client
    plans = [plan["BackupPlanName"] for plan in client("backup").list_backup_plans()["BackupPlansList"]]
    assert plans == ["haltuun-daily"]
    windows = [w["Name"] for w in client("ssm").describe_maintenance_windows()["WindowIdentities"]]
    assert windows == ["haltuun-patch"]
    names = [a["AssociationName"] for a in client("ssm").list_associations()["Associations"]]
    assert len(names) == len(set(names))
    baselines = client("ssm").describe_patch_baselines(Filters=[{"Key": "OWNER", "Values": ["Self"]}])
    found = [baseline["BaselineName"] for baseline in baselines["BaselineIdentities"]]
    assert len(found) == len(set(found))


def test_every_change_of_the_killed_run_is_resolved(story: Story) -> None:
    last: dict[str, str] = {}
    for event in story.ledger().change_events(story.info.account_id):
        last[event.change_id] = event.event
    assert set(last.values()) <= {"confirmed", "not_done", "not_taken"}


def test_a_second_run_over_a_finished_account_mutates_nothing(story: Story) -> None:
    assert story.runs["again"].returncode == EXIT_HELD
    assert story.mutations["again"] == []


def test_in_custody_means_proof_of_effect(story: Story) -> None:
    ledger = story.ledger()
    status = ledger.status(story.info.account_id)
    for host in ledger.hosts(story.info.account_id):
        kinds = {(proof.stage, proof.kind) for proof in ledger.proofs(story.info.account_id, host)}
        for stage in (StageName.repair, StageName.patch, StageName.backup, StageName.logs):
            if status[host][stage].verdict.value == "passed":
                assert stage in {one for one, _ in kinds}, (host, kinds)


def test_every_hold_has_a_code_a_sentence_a_remedy_and_a_page(story: Story) -> None:
    runbooks = {path.stem for path in (Path(__file__).parents[2] / "docs/runbooks").glob("*.md")}
    for host in json.loads(story.runs["again"].stdout)["hosts"]:
        for stage in host["stages"].values():
            if stage["status"] in ("held", "unknown", "waiting", "excluded"):
                assert stage["reason"] in runbooks
                assert stage["message"] and stage["remedy"]


def test_no_secret_of_the_hosts_is_anywhere(story: Story, tmp_path: Path) -> None:
    """The private key of the vault, the hybrid token, WordPress's password and what was planted: in what
    Haltuun keeps, prints and reports, in Prefect's database, and on no command line."""
    secrets = set()
    for host in story.info.hosts.values():
        root = Path(f"/proc/{host['pid']}/root")
        for vault in (root / "var/lib").rglob("RegistrationKey"):
            secrets.add(json.loads(vault.read_text())["privateKey"].encode()[:48])
        for config in (root / "var/www").rglob("wp-config.php"):
            secrets.update(
                m.encode() for m in re.findall(r"DB_PASSWORD['\"], *['\"]([^'\"]+)", config.read_text())
            )
        for saved in (root / "var/lib/haltuun").rglob("credentials"):
            secrets.update(re.findall(rb"aws_session_token *= *(\S+)", saved.read_bytes()))
    secrets.discard(b"")
    assert len(secrets) >= 2
    folders = [Path(story.env["HALTUUN_CONFIG"]).parent / "state", story.server.state_dir]
    assert story.haltuun("report", "report", ACCOUNT, "-o", str(tmp_path)).returncode == EXIT_OK
    kept = [path for folder in (*folders, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert {"ledger.db", "prefect.db"} <= {path.name for path in kept}
    # The search sees what is in a database: a word that has to be there is found in both.
    known = Canaries({name: host["instance_id"] for name, host in story.info.hosts.items()})
    seen = {path.name.removesuffix("-wal") for _, path in known.in_files(kept)}
    assert {"ledger.db", "prefect.db"} <= seen
    assert story.canaries.in_files(kept) == []
    assert len(story.canaries.words) == 10 and story.canaries.seen == []
    for chapter, done in story.runs.items():
        assert story.canaries.in_text(done.stdout + done.stderr) == [], chapter
    for path in kept:
        data = path.read_bytes()
        assert not [secret for secret in secrets if secret in data], path


def test_taken_back_the_account_and_its_hosts_are_as_they_were(story: Story) -> None:
    """The last of the file: after it nothing is in custody any more."""
    ledger = story.ledger()
    runs = [r.run for r in reversed(ledger.runs(story.info.account_id)) if r.mode == "apply"]
    ledger.close()
    before = story.registrations()
    looked = story.haltuun("look", "undo", runs[1], "--json")
    assert looked.returncode == EXIT_AWAITS_APPROVAL, looked.stderr
    assert story.mutations["look"] == []
    assert story.registrations() == before
    for run in runs:
        done = story.haltuun(f"undo {run}", "undo", run, "--yes")
        assert done.returncode == EXIT_OK, done.stdout + done.stderr
        assert "are taken back" in done.stdout or "nothing is in effect" in done.stdout
    left = differences(story.account, account_state(story.client))
    kept = ("backup:points/", "backup:vaults/haltuun", "logs:/haltuun/")
    assert [name for name in left if not name.startswith(kept)] == []
    assert story.registrations() == story.registered
    # What a repair saved, the package manager's own account, and what the tools keep of the time before a
    # user came and went.
    stays = re.compile(r":/(?:var/lib/haltuun(?!/logs)|var/lib/dpkg/|etc/(?:g?shadow|group|passwd)-$)")
    moved = [path for path in changed(story.trees["before"], story.files()) if not stays.search(path)]
    assert moved == []
    status = story.ledger().status(story.info.account_id)
    assert {s.reason for stages in status.values() for s in stages.values()} & {"UNDONE"}
