"""A Transport that answers from a function: for tests and for accounts too large for real hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from haltuun.transport import Result

# (script, env, files) → result; raises errors.Unreachable where the host shall not answer.
Answer = Callable[[str, Mapping[str, str], Mapping[str, bytes]], Result]


class SimulatedTransport:
    """See transport.Transport. Jobs are kept in `jobs`, the host's memory: give the same one again."""

    way = "simulated"
    legacy: bool | None = None

    def __init__(self, answer: Answer, jobs: dict[str, Result] | None = None) -> None:
        self._answer = answer
        self._jobs = {} if jobs is None else jobs
        self.closed = False

    def run(self, script: str, *, timeout_s: float, env: Mapping[str, str] | None = None) -> Result:
        return self._answer(script, env or {}, {})

    def run_job(
        self,
        job_id: str,
        script: str,
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        before_start: Callable[[], None] | None = None,
    ) -> Result:
        if job_id not in self._jobs:
            if before_start is not None:
                before_start()
            self._jobs[job_id] = self._answer(script, env or {}, files or {})
        return self._jobs[job_id]

    def close(self) -> None:
        self.closed = True
