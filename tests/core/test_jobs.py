"""A job is taken up again over a new connection, as soon as there is one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from haltuun.errors import AuthRefused, ConnectionClosed, ConnectionLost, ConnectionRefused, Unreachable
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
