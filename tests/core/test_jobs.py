"""A job is taken up again over a new connection, as soon as there is one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from haltuun.errors import (
    AuthRefused,
    ConnectionClosed,
    ConnectionLost,
    ConnectionRefused,
    LeaseLost,
    Unreachable,
)
from haltuun.jobs import Job, run_job
from haltuun.transport import Result

JOB = Job("job-1", "true", {}, {}, 1000)


class Host:
    """Its connection breaks once; then it refuses as often as it is told to."""

    def __init__(self, *refusals: Unreachable) -> None:
        self.refusals: list[Unreachable] = list(refusals)
        self.lost = False

    def run(self, script: str, *, timeout_s: float, env: Mapping[str, str] | None = None) -> Result:
        if not self.lost:
            self.lost = True
            raise ConnectionLost("it broke.")
        return Result(exit_code=0, stdout="done 7\nsaid\n", stderr="")

    def reconnect(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)


def test_while_a_machine_starts_it_is_waited_for() -> None:
    """It refuses at first, then it opens its port and closes it again."""
    host = Host(ConnectionRefused("no."), ConnectionClosed("closed."))
    result = run_job(JOB, host.run, host.reconnect, timeout_s=30, subject="web-01")
    assert (result.exit_code, result.stdout) == (7, "said\n")


def test_what_does_not_pass_by_itself_is_not_waited_for() -> None:
    host = Host(AuthRefused("no key opens it."))
    with pytest.raises(AuthRefused):
        run_job(JOB, host.run, host.reconnect, timeout_s=30, subject="web-01")


class Steps:
    """Takes each step, and the first start only over the second connection."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def run(self, script: str, *, timeout_s: float, env: Mapping[str, str] | None = None) -> Result:
        verb = script.partition("haltuun_verb=")[2].split("\n")[0].strip("'") or "lay"
        self.taken.append(verb)
        if self.taken.count("start") == 1 and verb == "start":
            raise ConnectionLost("it broke.")
        said = {"open": "new\n", "start": "running\n", "poll": "done 0\n"}.get(verb, "")
        return Result(exit_code=0, stdout=said, stderr="")


def test_each_step_up_to_the_start_is_asked_for_and_none_after_it() -> None:
    host, asked = Steps(), []
    run_job(
        JOB,
        host.run,
        lambda: None,
        timeout_s=30,
        subject="web-01",
        before_start=lambda: asked.append(len(host.taken)),
    )
    assert host.taken[0] == "open" and host.taken[-3:] == ["start", "start", "poll"]
    assert asked == list(range(len(host.taken) - 1))


@pytest.mark.parametrize(("steps", "nothing_began"), [(0, True), (1, True), (-2, False)])
def test_where_it_is_refused_no_job_begins(steps: int, nothing_began: bool) -> None:
    whole, host = Steps(), Steps()
    run_job(JOB, whole.run, lambda: None, timeout_s=30, subject="web-01")
    wanted = whole.taken[:steps]

    def lost() -> None:
        if host.taken == wanted:
            raise LeaseLost("a later run has the account.")

    with pytest.raises(LeaseLost) as caught:
        run_job(JOB, host.run, lambda: None, timeout_s=30, subject="web-01", before_start=lost)
    assert host.taken == wanted
    assert caught.value.unchanged is nothing_began
