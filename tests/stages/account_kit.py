"""An emulated account in this process, with managed nodes that do what documents tell them.

For the stages after repair: discover and repair are given as finished, with the facts of a test.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import boto3
from moto import mock_aws

from haltuun import engine, perform
from haltuun.config import AccountConfig, Config, PolicyConfig
from haltuun.ledger import Ledger
from haltuun.model import Facts, Frozen, Host, StageName, StagePlan
from haltuun.stages import polling
from haltuun.stages.base import Stage, no_proof
from haltuun.stages.discover.facts import DiscoverFacts, LogFile
from haltuun.undo import Undoing, open_undo
from lab.cloud.extensions import apply_extensions, backup_state
from lab.cloud.extensions.ssm_associations import tick
from lab.cloud.state import ssm_state
from tests.stages.account_state import account_state
from tests.stages.cloudwatch_kit import CALLED, put_agent, take_agent
from tests.stages.fakehost import metadata_service

# The package exports the function of that name.
logs_prove = import_module("haltuun.stages.logs.prove")
SCRIPTS_AT_ONCE = 40
STUBS = "stubs"  # tools that would work on this machine instead of a node's folder
ACCOUNT, REGION, LABEL = "123456789012", "eu-central-1", "acme"  # the first is moto's


@dataclass
class Node:
    """One managed node: how its documents end, and what it has on its disk."""

    instance_id: str
    root: Path
    metadata: str
    missing: int = 2
    # A document, or a step by its name or its action → a status other than Success.
    ends: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)  # documents, and the steps of those that the account made
    ships: bool = True

    @property
    def configs(self) -> list[str]:
        """What the CloudWatch agent's control was called with, in order."""
        called = self.root / CALLED
        lines = called.read_text().splitlines() if called.is_file() else []
        return [line.split()[1] for line in lines if line.startswith(("fetch-config", "append-config"))]


@dataclass
class World:
    """The account as a test sees it."""

    tmp: Path
    facts: dict[str, DiscoverFacts]
    nodes: dict[str, Node]
    ledger: Ledger
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        if service not in self.clients:
            self.clients[service] = boto3.client(service, region_name=REGION)
        return self.clients[service]

    def tags(self, instance_id: str) -> dict[str, str]:
        found = self.client("ec2").describe_tags(Filters=[{"Name": "resource-id", "Values": [instance_id]}])
        return {tag["Key"]: tag["Value"] for tag in found["Tags"]}

    def start(self, stage: Stage, *, mode: str = "apply") -> engine.Takeover:
        """Look and plan, as far as `haltuun plan` goes."""
        run = engine.open_run(self.config(), LABEL, mode, lambda run, host: None, ledger=self.ledger)  # type: ignore[arg-type,return-value]
        stages = [self._given(StageName.discover), self._given(StageName.repair), stage]
        hosts = [
            Host(account=ACCOUNT, region=REGION, instance_id=i, name=f"web-{i[-2:]}") for i in self.facts
        ]
        takeover = engine.Takeover(run, stages, lister=lambda run: hosts)
        takeover.begin({})
        for name in takeover.stages:
            takeover.look_account(name)
            takeover.settle(name)
            takeover.plan_stage(name)
        takeover.make_plan()
        return takeover

    def go(self, takeover: engine.Takeover, plan_hash: str | None = None) -> None:
        """Approve all, or the plan of that hash, and go through the stages; the run stays open."""
        takeover.approve(plan_hash, everything=plan_hash is None, who="test")
        self.pass_through(takeover)

    def pass_through(self, takeover: engine.Takeover) -> None:
        """Go through the stages with what is approved by now."""
        for name in takeover.stages:
            takeover.enter(name)
            takeover.apply_account(name)
            for wave in takeover.waves(name):
                for host in wave:
                    takeover.work_host(name, host)
            takeover.look_account(name)
            takeover.prove(name)
            takeover.gate(name)

    def take(self, stage: Stage) -> engine.Takeover:
        """One whole run."""
        takeover = self.start(stage)
        self.go(takeover)
        takeover.end(takeover.outcome())
        return takeover

    def undo(self, takeover: engine.Takeover, stage: Stage) -> Undoing:
        """End the run and take it back, as `haltuun undo RUN --yes` does."""
        takeover.end(takeover.outcome())
        return take_back(self.config(), self.ledger, takeover.run.id, [stage])

    def state(self) -> dict[str, str]:
        return account_state(self.client)

    def config(self) -> Config:
        return Config(accounts=[AccountConfig(id=ACCOUNT, alias=LABEL, regions=[REGION])], policy=self.policy)

    def _given(self, name: StageName) -> Stage:
        facts: Mapping[str, Facts] = self.facts
        return Stage(
            name=name,
            needs=() if name is StageName.discover else (StageName.discover,),
            account_facts=Frozen,
            host_facts=Facts,
            probe_account=lambda run, hosts: {},
            parse_account=lambda view, raw: Frozen(),
            probe_host=None,
            parse_host=lambda view, host, raw, host_raw: facts[host.instance_id],
            judge=lambda view: (),
            plan=lambda view: StagePlan(),
            kinds={},
            prove=no_proof,
            checks=(),
        )


def take_back(config: Config, ledger: Ledger, run: str, stages: Sequence[Stage], **opener: Any) -> Undoing:
    """A whole undo in this process."""
    nobody: Any = lambda run, host: None  # noqa: E731
    undoing = open_undo(
        config, run, approved=True, stages=stages, opener=opener.get("opener", nobody), ledger=ledger
    )
    undoing.begin("test")
    go_back(undoing)
    undoing.end(undoing.outcome())
    return undoing


def go_back(undoing: Undoing) -> None:
    """As the flow does it."""
    if undoing.account_first:
        undoing.act_on_account()
    for wave in undoing.waves():
        for host in wave:
            undoing.act_on_host(host)
    if not undoing.account_first:
        undoing.act_on_account()


def ubuntu(**more: Any) -> DiscoverFacts:
    """What discover knows of an ordinary host."""
    known: dict[str, Any] = {
        "state": "running",
        "platform": "linux",
        "os_id": "ubuntu",
        "os_version": "22.04",
        "eol": False,
        "python3": "3.10.12",
        "imds_tags": False,
        "asg": None,
        "units": ("ssh.service",),
        "log_files": (LogFile(path="/var/log/syslog", service="syslog"),),
        "cloudwatch_config": False,
        "listeners": (),
        "volume_ids": (),
        "suspect": (),
    }
    return DiscoverFacts(**{**known, **more})


@contextmanager
def world(
    tmp_path: Path, monkeypatch: Any, *facts: DiscoverFacts, managed_policies: bool = False
) -> Iterator[World]:
    """As many running instances as there are facts, each a node that is Online."""
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", str(managed_policies).lower())
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    # Here a job takes a moment, so looks follow each other as fast.
    monkeypatch.setattr(backup_state, "RUNNING_AFTER_S", 0.1)
    monkeypatch.setattr(backup_state, "COMPLETED_AFTER_S", 0.3)
    monkeypatch.setattr(polling, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(perform, "SETTLES_S", 0.1)  # the emulated account shows at once what was made
    monkeypatch.setattr(logs_prove, "CONFIGURE_S", 5)
    apply_extensions()
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with mock_aws(), ExitStack() as servers:
        made = World(tmp_path, {}, {}, ledger)
        ids = _instances(made, len(facts))
        made.facts.update(zip(ids, facts, strict=True))
        stubs = tmp_path / "roots" / STUBS
        stubs.mkdir(parents=True)
        for tool in ("dpkg", "dpkg-query", "groupdel", "rpm", "systemctl", "userdel"):
            (stubs / tool).write_text("#!/bin/sh\nexit 1\n")
            (stubs / tool).chmod(0o755)
        for instance_id in ids:
            root = tmp_path / "roots" / instance_id
            root.mkdir(parents=True)
            metadata = servers.enter_context(metadata_service(instance_id, account=ACCOUNT, region=REGION))
            made.nodes[instance_id] = Node(instance_id, root, metadata)
        state = ssm_state(ACCOUNT, REGION)
        scripts = servers.enter_context(ThreadPoolExecutor(SCRIPTS_AT_ONCE))

        def respond(message: dict[str, Any], node_id: str) -> dict[str, Any] | None:
            """A script may wait for what State Manager brings, so it is replied to when it ends."""
            if message["DocumentName"] != "AWS-RunShellScript":
                return _respond(made, message, node_id)
            scripts.submit(lambda: state.reply(node_id, _respond(made, message, node_id)))
            return None

        for service in ("ssm", "logs"):  # made here, as boto3 makes none in several threads at once
            made.client(service)
        state.responder = respond
        for instance_id in ids:
            state.put_node(instance_id, simulated=True, platform_name="Ubuntu", agent_version="3.3.1142.0")
        with _ticking(state):
            yield made
    ledger.close()


def _instances(made: World, count: int) -> list[str]:
    if not count:
        return []
    found = made.client("ec2").run_instances(ImageId="ami-0abc1234", MinCount=count, MaxCount=count)[
        "Instances"
    ]
    return [str(instance["InstanceId"]) for instance in found]


@contextmanager
def _ticking(state: Any) -> Iterator[None]:
    """State Manager, which serves targets that appear after an association was made."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.05):
            tick(state)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()


def _respond(made: World, message: dict[str, Any], node_id: str) -> dict[str, Any]:
    node, document = made.nodes[node_id], message["DocumentName"]
    node.ran.append(document)
    status = node.ends.get(document, "Success")
    reply = {
        "CommandId": message["CommandId"],
        "Status": status,
        "ResponseCode": 0 if status == "Success" else 1,
    }
    if status != "Success":
        return reply
    parameters = message["Parameters"]
    if document == "AWS-RunPatchBaseline":
        _scan(node, parameters)
    elif message["Content"]:
        reply |= _run_steps(node, message["Content"], parameters)
    elif document == "AWS-RunShellScript":
        done = run_script("sh", "\n".join(parameters["commands"]), node)
        _ship(made, node)
        reply |= {
            "StandardOutput": done.stdout,
            "StandardError": done.stderr,
            "ResponseCode": done.returncode,
        }
        reply["Status"] = "Success" if done.returncode == 0 else "Failed"
    return reply


def _run_steps(node: Node, content: Mapping[str, Any], parameters: Mapping[str, list[str]]) -> dict[str, Any]:
    """A document of schema 2.2, whose steps run whether those before them failed or not."""
    plugins = []
    defaults = {n: [p["default"]] for n, p in content["parameters"].items() if "default" in p}
    given = defaults | dict(parameters)
    for step in content["mainSteps"]:
        action = step["action"]
        node.ran.append(action)
        status, code, errors = node.ends.get(step["name"], node.ends.get(action, "Success")), 0, ""
        if status != "Success":
            code, errors = 1, f"{action} was told to fail"
        elif action == "aws:configurePackage":
            (put_agent if given["package"] == ["Install"] else take_agent)(node.root)
        else:
            text = "\n".join(step["inputs"]["runCommand"])
            for name, (value,) in given.items():
                text = text.replace(f"{{{{ {name} }}}}", value)
            done = run_script("sh", text, node)
            status, code, errors = "Failed" if done.returncode else "Success", done.returncode, done.stderr
        ending = {"Status": status, "ResponseCode": code, "StandardOutput": "", "StandardError": errors}
        plugins.append({"Name": step["name"], **ending})
    failed = next((plugin for plugin in plugins if plugin["Status"] != "Success"), {})
    return {"Plugins": plugins, **{key: value for key, value in failed.items() if key != "Name"}}


def run_script(shell: str, script: str, node: Node) -> subprocess.CompletedProcess[str]:
    path = f"{node.root.parent / STUBS}:{os.environ['PATH']}"
    env = {"PATH": path, "HALTUUN_ROOT": str(node.root), "HALTUUN_METADATA": node.metadata}
    argv = [*shell.split(), "-c", script]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


def _scan(node: Node, parameters: Mapping[str, list[str]]) -> None:
    now = datetime.now(UTC).isoformat()
    summary = {
        "MissingCount": str(node.missing),
        "SecurityNonCompliantCount": "1",
        "Operation": parameters["Operation"][0],
    }
    summary |= {"OperationStartTime": now, "OperationEndTime": now}
    ssm_state(ACCOUNT, REGION).inventory.setdefault(node.instance_id, {})["AWS:PatchSummary"] = {
        "CaptureTime": now,
        "Content": [summary],
    }


def _ship(made: World, node: Node) -> None:
    """What the CloudWatch agent does with the configuration it was given last."""
    if not node.configs or not node.ships:
        return
    ssm, logs = made.client("ssm"), made.client("logs")
    try:
        config = json.loads(ssm.get_parameter(Name=node.configs[-1])["Parameter"]["Value"])
    except ssm.exceptions.ParameterNotFound:
        return
    for entry in config["logs"]["logs_collected"]["files"]["collect_list"]:
        path = node.root / entry["file_path"].lstrip("/")
        if not path.is_file():
            continue
        where = {
            "logGroupName": entry["log_group_name"],
            "logStreamName": entry["log_stream_name"].replace("{instance_id}", node.instance_id),
        }
        with suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_stream(**where)
        now = int(datetime.now(UTC).timestamp() * 1000)
        events = [{"timestamp": now, "message": line} for line in path.read_text().splitlines()]
        logs.put_log_events(logEvents=events, **where)
