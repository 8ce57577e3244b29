"""A view of one host for repair's pure functions; every test states only what is special."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from haltuun.config import AccountConfig, AgentConfig, Config, HostConfig
from haltuun.model import Change, Host, Reach, StageName, StagePlan
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverAccount, DiscoverFacts, RegionFacts
from haltuun.stages.repair import STAGE
from haltuun.stages.repair import facts as f
from haltuun.stages.repair.agentlog import FILE
from haltuun.stages.repair.parse import host_columns, node_columns, vault_node, without_host

ACCOUNT, REGION, IID, MI = "111122223333", "eu-central-1", "i-0abc1234def567890", "mi-0123eb6450bf5617b"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOST = Host(account=ACCOUNT, region=REGION, instance_id=IID, name="web-01")
PACKAGE = AgentConfig(package_source="/packages", version="3.3.1142.0", sha256="a" * 64)

TIME = "2026-11-23 11:00:00.0000 INFO "
START = ("Proxy environment variables:", "https_proxy: ", "http_proxy: ", "no_proxy: ")
AS_EC2 = (*START, "Agent will take identity from EC2")
AS_ONPREM = (*START, "Agent will take identity from OnPrem")
# In one line: an agent's entry and the line below it.
NO_TOKEN = (
    "error occurred when starting amazon-ssm-agent: Failed to fetch instance ID. Data from vault is empty."
    " EC2MetadataError: failed to make EC2Metadata request caused by: <title>401 - Unauthorized</title>"
)
CHANNEL = "[ssm-agent-worker] [MessageService] [MGSInteractor] Set up control channel successfully"

CORE = f.Process(comm="amazon-ssm-agen", pid=100, started=1000)
WORKER = f.Process(comm="ssm-agent-worke", pid=101, started=1100)
EMPTY_VAULT = f.Vault(manifest=True, key_file=True)
STALE_VAULT = f.Vault(
    manifest=True,
    key_file=True,
    instance_id=MI,
    region=REGION,
    private_key=True,
    fingerprint_file=True,
    similarity_threshold=40,
)


def log(*texts: str) -> tuple[f.LogLine, ...]:
    return tuple(f.LogLine(file=FILE, line=n, text=TIME + text) for n, text in enumerate(texts, 1))


def agent(**special: Any) -> f.Agent:
    """A healthy agent with the EC2 identity and an open channel, unless said otherwise."""
    plain: dict[str, Any] = {
        "root": True,
        "init": "systemd",
        "packages": {"deb": "3.3.1142.0-1"},
        "binary": "/usr/bin/amazon-ssm-agent",
        "dpkg_arch": "amd64",
        "processes": (CORE, WORKER),
        "enabled": True,
        "imds_instance_id": IID,
        "imds_account": ACCOUNT,
        "imds_region": REGION,
        "vault": EMPTY_VAULT,
        "registration_file": False,
        "hybrid_dirs": (),
        "identity_config": f.IdentityConfig(identity_type="EC2", instance_id=IID),
        "config": f.AgentConfig(state="absent"),
        "credentials": f.RootCredentials(present=False),
        "proxy": (),
        "unfinished": (),
        "disk_free_kb": 4_000_000,
        "state_kb": 300,
        "clock": datetime(2026, 11, 23, 12, 0),
        "log": log(*AS_EC2, CHANNEL),
    }
    return f.Agent(**{**plain, **special})


def stale(**special: Any) -> f.Agent:
    """Runs as mi- by its vault."""
    plain: dict[str, Any] = {
        "vault": STALE_VAULT,
        "registration_file": True,
        "hybrid_dirs": (MI,),
        "identity_config": f.IdentityConfig(identity_type="OnPrem", instance_id=MI),
        "log": log(*AS_ONPREM, CHANNEL),
    }
    return agent(**{**plain, **special})


def node(
    node_id: str, status: str = "Online", ip: str = "10.0.0.5", name: str = "web-01.corp", **more: Any
) -> f.NodeRow:
    return f.NodeRow(
        node_id=node_id, region=REGION, ping_status=status, ip_address=ip, computer_name=name, **more
    )


def verify_change(kind: str = "iam.role.policy") -> Change:
    return Change(
        stage=StageName.verify,
        kind=kind,
        region=REGION,
        target="role",
        hosts=(IID,),
        before=None,
        after="policy",
        reach=Reach.shared,
        summary="",
    )


def plan(
    seen: Any,
    *,
    nodes: tuple[f.NodeRow, ...] = (node(MI, ip="10.0.0.5"),),
    host: HostConfig | None = None,
    package: AgentConfig = PACKAGE,
    dhmc: Any = None,
    prepared: tuple[Change, ...] = (),
    package_problems: dict[str, str] | None = None,
    asked: Any = None,
    clones: dict[str, DiscoverFacts] | None = None,
    now: datetime = NOW,
    run_id: str = "run",
    **found: Any,
) -> StagePlan:
    """The plan for one host of which `seen` (an Agent or Unknown) is known."""
    discovered = {
        "state": "running",
        "platform": "linux",
        "private_ip": "10.0.0.5",
        "profile_arn": f"arn:aws:iam::{ACCOUNT}:instance-profile/app",
        "asg": None,
        "managed_by": (),
        "suspect": (),
        "hostname": "web-01",
        **found,
    }
    account = f.RepairAccount(nodes={REGION: nodes}, package_problems=package_problems or {})
    view = View(
        account=AccountConfig(id=ACCOUNT, hosts={IID: host} if host else {}),
        config=Config(agent=package),
        account_id=ACCOUNT,
        partition="aws",
        now=now,
        run_id=run_id,
        hosts={
            IID: HOST,
            **{i: Host(account=ACCOUNT, region=REGION, instance_id=i) for i in clones or {}},
        },
        entering=(IID,),
        facts={StageName.discover: {IID: DiscoverFacts(**discovered), **(clones or {})}},
        account_facts={
            StageName.repair: account,
            StageName.discover: DiscoverAccount(regions={REGION: RegionFacts(dhmc_role=dhmc)}),
        },
        planned=prepared,
    )
    columns = node_columns(next((row for row in nodes if row.node_id == IID), None))
    if isinstance(seen, f.Agent):
        more = host_columns(view, HOST, account, seen, vault_node(account, seen, asked))
    else:
        more = without_host(seen, columns)
    facts = f.RepairFacts(observed_at=now, agent=seen, **columns, **more)
    return STAGE.plan(View(**{**view.__dict__, "facts": {**view.facts, StageName.repair: {IID: facts}}}))
