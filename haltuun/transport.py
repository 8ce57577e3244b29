"""How Haltuun talks to a host, whatever the way: SSH, Run Command, or simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from haltuun.model import Frozen

# A host's script prints facts, not files: beyond this its output is cut and said to be.
MAX_OUTPUT_BYTES = 2_000_000


class Result(Frozen):
    """What a script left: decoded with replacement, cut at MAX_OUTPUT_BYTES."""

    exit_code: int
    stdout: str
    stderr: str
    truncated: bool = False


class Transport(Protocol):
    """One host, reached. Scripts are POSIX sh and run as root.

    Every method raises a subclass of errors.Unreachable, each with code and remedy, and none
    outlives its deadline.
    """

    way: str  # "ssh" or "run-command" or "simulated": said in findings and the ledger

    def run(
        self,
        script: str,
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run `script` with `env` exported; for looking, and for what is over in seconds."""
        ...

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
        """Run `script` apart from the connection, once.

        It is laid with `files` into /var/lib/haltuun/jobs/<job_id> (root only), started under setsid,
        and waited for; JOB_DIR is exported. If the connection breaks, or this process is killed and
        calls again with the same `job_id`, the running or finished job is attached to and its
        result returned: it is never started twice.

        `before_start` is called before each thing that is done on the host up to the job's start, and
        what it raises keeps the job from starting: connecting and laying may take minutes.
        """
        ...

    def close(self) -> None: ...
