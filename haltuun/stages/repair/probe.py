"""Looks: at all managed nodes at once, and at one host with one script. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources

from haltuun.model import Host, Json, Unknown
from haltuun.run import Run
from haltuun.stages.base import View
from haltuun.stages.discover.host import no_way_in, standing_of
from haltuun.stages.repair.package import package_problem

PROBE_TIMEOUT_S = 420.0
# A job of Haltuun that is still at work (its run was killed) is waited for: what it leaves counts.
BUSY_WAIT_S = 300
# DescribeInstanceInformation takes 5 to 50 a page (botocore 1.44).
NODES_A_PAGE = 50


@cache
def script(*names: str) -> str:
    """The named *.sh files of this package as one script."""
    folder = resources.files("haltuun.stages.repair")
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


def probe_account(run: Run, hosts: Sequence[Host]) -> Json:
    regions = sorted({host.region for host in hosts})
    return {
        "nodes": {region: get_nodes(run, region) for region in regions},
        "package_problem": package_problem(run.config.agent),
    }


def get_nodes(run: Run, region: str) -> list[Json] | Unknown:
    """Every managed node of the region, EC2 or hybrid."""
    return run.aws.ask(
        lambda: run.aws.pages(
            "ssm", "DescribeInstanceInformation", "InstanceInformationList", region, MaxResults=NODES_A_PAGE
        )
    )


def probe_host(run: Run, host: Host, view: View) -> Json | Unknown:
    """probe.sh's output, or why nobody should connect.

    Raises:
        Unreachable: or a subclass.
    """
    closed = no_way_in(standing_of(view, host.instance_id))
    return closed if closed is not None else get_output(run, host)


def get_output(run: Run, host: Host) -> str:
    transport = run.open(host)
    try:
        result = transport.run(
            script("host.sh", "probe.sh"), timeout_s=PROBE_TIMEOUT_S, env={"BUSY_WAIT_S": str(BUSY_WAIT_S)}
        )
        return result.stdout
    finally:
        transport.close()
