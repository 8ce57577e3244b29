"""Take one account over: look and plan all stages, then change, prove and gate stage by stage."""

from __future__ import annotations

import functools
import getpass
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, get_type_hints

from prefect import Flow, flow, get_run_logger, runtime
from prefect.exceptions import ExternalSignal
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from haltuun.approver import approver
from haltuun.config import Config, find_config, load_config
from haltuun.engine import Takeover, drop, keep, open_run, session
from haltuun.errors import HaltuunError
from haltuun.model import Host, StageName
from haltuun.reach import check_keys, open_host
from haltuun.report.opening import get_caller, opening_line
from haltuun.retrying import on_begun
from haltuun.run import Run
from haltuun.stages.discover import list_hosts
from haltuun.stages.order import STAGES
from haltuun.stopping import ask, heed
from tasks import stages as work
from tasks.gates import gate
from tasks.leftovers import end_left_open, take_up
from tasks.publish import publish_plan, publish_standing, publish_summary
from tasks.tagging import tag_flow_run

# A stage makes at most this many task runs for hosts, so that the server loses none of them.
TASK_RUNS_PER_STAGE = 500
RUNS_PER_HOST = 2  # its work and its verdict

# Ctrl-C, and what a worker sends to a run that is cancelled.
STOPPED = (KeyboardInterrupt, ExternalSignal)

Mode = Literal["plan", "apply"]
P = ParamSpec("P")
R = TypeVar("R")


def in_a_sentence(run: Callable[P, State[R]]) -> Callable[P, State[R]]:
    """What Haltuun raises on purpose ends a run in its sentence; Prefect would log its traceback."""

    @functools.wraps(run)
    def told(*args: P.args, **kwargs: P.kwargs) -> State[R]:
        try:
            return run(*args, **kwargs)
        except HaltuunError as error:
            get_run_logger().error("%s [%s]", error, error.code)
            return Failed(message=f"{error} [{error.code}]", data=error)

    # Prefect would look the annotations' names up in this module, which is not the flow's.
    told.__signature__ = inspect.signature(run, eval_str=True)  # type: ignore[attr-defined]
    told.__annotations__ = get_type_hints(run, include_extras=True)
    return told


def _run_name() -> str:
    """A plan changes nothing, and is not called a takeover."""
    given = runtime.flow_run.parameters
    return f"{'plan' if given.get('mode') == 'plan' else 'take over'} {given.get('account')}"


@flow(name="take-over-account", flow_run_name=_run_name, persist_result=False)
@in_a_sentence
def take_over_account(
    account: str,
    mode: Mode = "apply",
    stages: list[StageName] = [],  # noqa: B006 - a plain list is a plain field in the UI's form
    hosts: list[str] = [],  # noqa: B006
    plan_hash: str = "",
    approve_all: bool = False,
    approved_by: str = "",
) -> State[Any]:
    """Take an inherited account over: discover, verify, repair, patch, backup, logs.

    Without a plan hash only what concerns one host alone is changed; the rest waits: the run ends as
    AwaitingApproval with the plan as an artifact, and is approved by starting it again with its hash.

    Args:
        account: Id (12 digits) or alias of an account in haltuun.yaml.
        mode: plan looks and says what would be changed; apply changes it.
        stages: Only these stages change anything; empty means all six.
        hosts: Only these instance ids; empty means all of the account.
        plan_hash: Hash of the plan that you approve, from its artifact; empty approves nothing.
        approve_all: Approve every change of this run unseen; it is recorded as that.
        approved_by: Your name; recorded with the approval. Through a deployment nothing is approved without.
    """
    approves = mode == "apply" and bool(plan_hash or approve_all)
    who = approver_of(approved_by) if approves else ""
    config = load_config(find_config(None))
    run = open_run(config, account, mode, open_host)
    check_keys(run.account)
    take_up(run.account.id)
    takeover = Takeover(run, STAGES, lister=list_hosts, only_stages=stages, only_hosts=hosts)
    keep(takeover)
    outcome = "Failed"
    try:
        takeover.begin({"prefect_run": str(runtime.flow_run.id), "stages": stages, "hosts": hosts})
        if mode == "apply":
            on_begun.get()(run)
        say_opening(run, stages, hosts, plan_hash, approve_all, who)
        tag_flow_run(run.account.label, hosts=hosts)
        wide(look_and_plan, config)(run.id, run.account.label)
        takeover.make_plan()
        if mode == "apply":
            end_left_open(run)
            takeover.reconcile()
            takeover.approve(plan_hash, everything=approve_all, who=who)
        publish_plan(takeover)
        if mode == "apply":
            for stage in takeover.sequence():
                heed()
                state = wide(run_stage, config)(run.id, run.account.label, stage.value, return_state=True)
                if not takeover.progress[stage].blocked:
                    state.result()  # raises what the stage could not handle: a lost lease, a defect
        outcome = takeover.outcome() if mode == "apply" else "Planned"
        publish_summary(takeover, outcome)
        final = _final(outcome, takeover)
    except STOPPED:
        outcome = "Stopped"
        raise
    finally:
        takeover.end(outcome)
        drop(run.id)
        publish_standing(run)
    return final


@flow(
    name="look-and-plan",
    flow_run_name="look and plan {account}",
    persist_result=False,
)
def look_and_plan(run_id: str, account: str) -> None:
    """Look at everything, change nothing."""
    takeover = session(run_id)
    tag_flow_run(account)
    for stage in takeover.stages:
        heed()
        work.look_account(run_id, stage)
        if takeover.stages[stage].probe_host is not None:
            finish(
                work.look_hosts.submit(run_id, stage, batch, label)
                for batch, label in batches(takeover.hosts, tuple(takeover.hosts))
            )
        work.plan_stage(run_id, stage)


@flow(
    name="stage",
    flow_run_name="{stage} {account}",
    persist_result=False,
)
def run_stage(run_id: str, account: str, stage: str) -> State[Any]:
    """Change, look again, prove, judge."""
    takeover, name = session(run_id), StageName(stage)
    tag_flow_run(account, name)
    takeover.enter(name)
    work.apply_account(run_id, name)
    for wave in takeover.waves(name):
        heed()
        busy = tuple(host for host in wave if takeover.has_work(name, host))
        finish(
            work.work_hosts.submit(run_id, name, batch, label)
            for batch, label in batches(takeover.hosts, busy)
        )
    if takeover.account_moved(name):
        work.look_account(run_id, name)
    work.prove(run_id, name)
    gate_state = gate(run_id, name, return_state=True)
    if not takeover.progress[name].blocked:
        gate_state.result()
    verdicts = [
        work.verdict.submit(run_id, name, batch, label)
        for batch, label in batches(takeover.hosts, tuple(takeover.hosts))
    ]
    wait(verdicts)  # a held host's task run is red by intent
    if takeover.progress[name].blocked:
        return Failed(name="GateBlocked", message=takeover.progress[name].blocked)
    return Completed(message=gate_state.message)


def wide(subflow: Flow[..., Any], config: Config) -> Flow[..., Any]:
    """With as many hosts side by side as configured: a task runner's default width is unlimited."""
    runner = ThreadPoolTaskRunner(max_workers=config.policy.host_concurrency)
    return subflow.with_options(task_runner=runner)


def finish(futures: Iterable[PrefectFuture[Any]]) -> None:
    """Wait for all, then raise the first error: a lost lease or a defect, as faults of hosts are values."""
    try:
        started = list(futures)
        wait(started)
    except STOPPED:
        ask()  # the threads, which no signal reaches
        raise
    for future in started:
        future.result()


def batches(known: Mapping[str, Host], hosts: Sequence[str]) -> list[tuple[Sequence[str], str]]:
    """Hosts for one task run each, and its label; several share one where they are very many.

    They are dealt out one by one: hosts that hang for one cause mostly have names alike, are listed by them,
    and would have their deadlines one after the other in a single thread while the others have nothing to do.
    """
    size = max(1, -(-len(hosts) * RUNS_PER_HOST // TASK_RUNS_PER_STAGE))
    count = -(-len(hosts) // size)
    result = []
    for first in range(count):
        batch = hosts[first::count]
        label = known[batch[0]].label
        result.append((batch, label if len(batch) == 1 else f"{len(batch)} hosts with {batch[0]}"))
    return result


def _final(outcome: str, takeover: Takeover) -> State[Any]:
    data = {
        "run": takeover.run.id,
        "flow_run": str(runtime.flow_run.id),
        "plan_hash": takeover.plan_hash,
        "outcome": outcome,
    }

    def told(*words: str) -> State[Any]:
        return ended(outcome, " ".join([*words, *takeover.not_judged_together()]), data)

    if outcome == "GateBlocked":
        return told(takeover.blocked)
    if outcome == "AwaitingApproval":
        waits = f"{len(takeover.awaiting())} change(s) wait"
        how = f"start it again with plan_hash {takeover.plan_hash}, and your name as approved_by"
        return told(f"{waits}: {how}")
    if outcome == "PartiallyDone":
        some = [] if takeover.all_through() else ["Not every host is through; see the summary."]
        return told(*some)
    if outcome == "Planned":
        return told(f"Plan {takeover.plan_hash}")
    return told("Every host passed every stage of this run.")


def ended(outcome: str, message: str, data: Any) -> State[Any]:
    """The state of a run, or of several together: one that leaves something looks like no clean one."""
    if outcome == "Failed":
        return Failed(message=message, data=data)
    if outcome == "GateBlocked":
        return Failed(name=outcome, message=message, data=data)
    return Completed(name=None if outcome == "Done" else outcome, message=message, data=data)


def say_opening(
    run: Run,
    stages: Sequence[StageName],
    hosts: Sequence[str],
    plan_hash: str,
    approve_all: bool,
    approved_by: str,
) -> None:
    """The first line of the run's log."""
    line = opening_line(
        run.account,
        run.config.policy,
        caller=get_caller(run.aws),
        regions=run.aws.regions(),
        mode=run.mode,
        stages=stages,
        hosts=hosts,
        plan_hash=plan_hash,
        approve_all=approve_all,
        approved_by=approved_by,
    )
    get_run_logger().info(line)


def approver_of(given: str) -> str:
    """Who approves, for the record. To be asked first: without a name nothing is done.

    Raises:
        ConfigError: see `approver`.
    """
    return approver(given, deployed=bool(runtime.deployment.id), user=_user())


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container whose uid has no name
        return f"uid {os.getuid()}"
