"""Promise 4 through a real worker: its process is killed -9 in each stage that changes the account."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from haltuun.effects import open_changes
from haltuun.ledger import Ledger
from haltuun.model import StageName, Verdict
from lab.cloud.seeding import steer
from lab.crowd import ALIAS, OLD, REGION, Crowd, cloud_of, make_crowd
from tests.prefect_fixtures import POOL, PrefectServer, kill_when

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900)]

ACCOUNT = "111122223333"
HOSTS = 4  # one of them too old, one without a role, one compromised
KILLED_IN = (StageName.discover, StageName.verify, StageName.patch, StageName.backup, StageName.logs)
FLOW = """
from pathlib import Path

from flows import takeover
from lab.crowd import CrowdDoor

takeover.open_host = CrowdDoor(Path(__file__).parent)
take_over_account = takeover.take_over_account
"""


@dataclass(frozen=True)
class Walk:
    """`killed` are the flow runs in the order of KILLED_IN; the last came to its end."""

    crowd: Crowd
    ledger_path: Path
    killed: list[dict[str, Any]]
    last: dict[str, Any]

    def client(self, service: str) -> Any:
        given = {"aws_access_key_id": "AKIAOPERATOR00000000", "aws_secret_access_key": "lab"}
        return boto3.client(service, region_name=REGION, endpoint_url=self.crowd.endpoint_url, **given)


@pytest.fixture(scope="module")
def walk(deployed: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "crowd_flow.py").write_text(FLOW)
    with cloud_of(ACCOUNT) as endpoint_url:
        crowd = make_crowd(endpoint_url, ACCOUNT, HOSTS, first=OLD)
        steer(endpoint_url, "backup", completed_after_s=1.0)
        config, path = crowd.write(folder), folder / "state" / "ledger.db"
        deployment = _deploy(deployed, folder)
        with deployed.worker(folder, {**crowd.env, "HALTUUN_CONFIG": str(config)}) as log:

            def run() -> str:
                given = {"parameters": {"account": ALIAS, "approve_all": True, "approved_by": "Jane"}}
                return str(deployed.post(f"deployments/{deployment}/create_flow_run", given)["id"])

            killed = []
            for stage in KILLED_IN:
                reached = _journaled_more(path, stage)
                flow_run = run()
                kill_when(reached, flow_run, log)
                killed.append(_await_state(deployed, flow_run))
            last = deployed.await_end(run(), deadline_s=120)
        yield Walk(crowd, path, killed, last)


def _deploy(server: PrefectServer, folder: Path) -> str:
    flow_id = server.post("flows/", {"name": "take-over-account"})["id"]
    made = server.post(
        "deployments/",
        {
            "name": "take-over-crowd",
            "flow_id": flow_id,
            "path": str(folder),
            "entrypoint": "crowd_flow.py:take_over_account",
            "work_pool_name": POOL,
            "enforce_parameter_schema": False,
        },
    )
    return str(made["id"])


def _journaled_more(ledger: Path, stage: StageName) -> Callable[[], bool]:
    """Whether the ledger has more events of the stage's changes than now."""
    before = _changes(ledger, stage)
    return lambda: _changes(ledger, stage) > before


def _changes(ledger: Path, stage: StageName) -> int:
    if not ledger.exists():
        return 0
    query = "select count(*) from changes where body like ?"
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as found:
        try:
            return int(found.execute(query, (f'%"stage":"{stage.value}"%',)).fetchone()[0])
        except sqlite3.OperationalError:  # it is being made
            return 0


def _await_state(server: PrefectServer, flow_run: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (row := server.get(f"flow_runs/{flow_run}"))["state_type"] in ("RUNNING", "PENDING"):
        assert time.monotonic() < deadline, row["state_name"]
        time.sleep(0.2)
    return dict(row)


def test_a_killed_run_is_told_as_crashed(walk: Walk) -> None:
    assert [run["state_type"] for run in walk.killed] == ["CRASHED"] * len(KILLED_IN)


def test_the_next_run_brings_every_host_to_the_end(walk: Walk) -> None:
    assert (walk.last["state_type"], walk.last["state_name"]) == ("COMPLETED", "PartiallyDone")
    ledger = Ledger(f"sqlite:///{walk.ledger_path}")
    try:
        assert open_changes(ledger.change_events(ACCOUNT)) == []
        assert {one.who for one in ledger.approvals(ACCOUNT)} == {"Jane (as given to the deployment)"}
        status = ledger.status(ACCOUNT)
    finally:
        ledger.close()
    whole = [host for host, row in status.items() if {s.verdict for s in row.values()} == {Verdict.passed}]
    assert len(whole) == HOSTS - 2


def test_nothing_is_there_twice(walk: Walk) -> None:
    backup, ssm, iam = walk.client("backup"), walk.client("ssm"), walk.client("iam")
    jobs = Counter(job["ResourceArn"] for job in backup.list_backup_jobs()["BackupJobs"])
    assert set(jobs.values()) == {1} and len(jobs) == HOSTS - 1
    kept = walk.client("ec2").describe_snapshots(
        Filters=[{"Name": "tag-key", "Values": ["haltuun:evidence"]}]
    )
    assert len(kept["Snapshots"]) == 1
    names = [row["BackupVaultName"] for row in backup.list_backup_vaults()["BackupVaultList"]]
    names += [row["BackupPlanName"] for row in backup.list_backup_plans()["BackupPlansList"]]
    names += [row.get("AssociationName") for row in ssm.list_associations()["Associations"]]
    names += [row["Name"] for row in ssm.describe_maintenance_windows()["WindowIdentities"]]
    names += [role["RoleName"] for role in iam.list_roles()["Roles"]]
    own = Counter(name for name in names if name and name.lower().startswith("haltuun"))
    assert len(own) >= 6 and set(own.values()) == {1}, own
