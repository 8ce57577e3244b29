"""A script that runs on a host apart from every connection, once; see Transport.run_job.

The same for all ways: each step is a short script that may be repeated. What it is laid as is checked
by sha256 there, host/runner.sh runs it under setsid, and its folder holds what came of it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from haltuun.envelope import assignments, exports, host_script
from haltuun.errors import (
    BannerTimeout,
    CommandTimeout,
    ConnectionClosed,
    ConnectionLost,
    ConnectionRefused,
    ConnectTimeout,
    HaltuunError,
    LeaseLost,
    Unreachable,
    WrongBox,
)
from haltuun.transport import Result

# "<ledger>:<number>" of the run's lease: a host refuses one below the highest it has seen of that ledger.
FENCE = "HALTUUN_FENCE"
# Instance id, account and region of the machine that is meant: on another one nothing is even laid.
TARGET = ("TARGET_INSTANCE_ID", "TARGET_ACCOUNT", "TARGET_REGION")
INTERRUPTED = -1

T = TypeVar("T")

_JOB_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,120}$")
_FILE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,120}$")
_FENCE = re.compile(r"^([A-Za-z0-9-]{1,64}:)?\d{1,18}$")
_NO_SPACE = "No space left on device"  # ENOSPC, as the C library says it
_STEP_TIMEOUT_S = 60.0
# How long a poll waits on the host, in its steps of a second at most.
_POLL_WAIT_S = 15
_RUNNER = ("process.sh", "lock.sh", "runner.sh")
# What passes by itself: sshd starts again, the host restarts, a network that was closed opens.
_PASSING = (
    ConnectionLost,
    CommandTimeout,
    ConnectionRefused,
    ConnectionClosed,
    ConnectTimeout,
    BannerTimeout,
)


class Runner(Protocol):
    def __call__(self, script: str, *, timeout_s: float, env: Mapping[str, str] | None = None) -> Result: ...


class Putter(Protocol):
    """Writes a file as root; False where the host does not take files this way."""

    def __call__(self, path: str, data: bytes, *, timeout_s: float) -> bool: ...


@dataclass(frozen=True)
class Job:
    id: str
    script: str
    env: Mapping[str, str]
    files: Mapping[str, bytes]
    chunk_bytes: int  # of a file, in one script
    lay: str = field(default_factory=lambda: secrets.token_hex(4))  # this caller's own folder there

    def __post_init__(self) -> None:
        if not _JOB_ID.match(self.id):
            raise ValueError(f"not a job id: {self.id!r}")
        for name in self.files:
            if not _FILE_NAME.match(name):
                raise ValueError(f"not a plain file name: {name!r}")

    @property
    def fence(self) -> str:
        fence = self.env.get(FENCE, "")
        if fence and not _FENCE.match(fence):
            raise ValueError(f"{FENCE} is a ledger's id and a number, not {fence!r}")
        return fence

    @property
    def target(self) -> str:
        """What the host's metadata service has to say; empty where any machine is good."""
        return " ".join(self.env.get(name, "?") for name in TARGET) if TARGET[0] in self.env else ""

    @property
    def laid(self) -> dict[str, bytes]:
        """All that is laid; names with "haltuun:" are the runner's own."""
        return {
            "haltuun:script.sh": self.script.encode(),
            "haltuun:env": exports(self.env).encode(),
            "haltuun:runner.sh": "".join(map(host_script, _RUNNER)).encode(),
            **self.files,
        }

    def step(self, verb: str, wait_s: int) -> str:
        given = {
            "haltuun_verb": verb,
            "haltuun_job": self.id,
            "haltuun_lay": self.lay,
            "haltuun_fence": self.fence,
            "haltuun_wait_s": str(wait_s),
            "haltuun_target": self.target,
        }
        metadata = host_script("metadata.sh") if verb == "open" and self.target else ""
        return assignments(given) + host_script("process.sh") + metadata + host_script("job.sh")

    @property
    def large(self) -> dict[str, bytes]:
        """The files that are worth another way than inside a script."""
        return {name: data for name, data in self.files.items() if len(data) > self.chunk_bytes}

    def part(self, name: str, index: int = 0) -> str:
        """Where a piece of a file is laid; they are joined and checked there."""
        return f"{self._lay_folder}/parts/{name}.{index:06d}"

    @property
    def _lay_folder(self) -> str:
        return f"/var/lib/haltuun/jobs/{self.id}/.run/lay.{self.lay}"

    def lay_scripts(self, put: Collection[str] = ()) -> Iterator[str]:
        """Scripts that bring the parts over, each about `chunk_bytes` in base64, but of files in `put`."""
        head = f'umask 077; cd "${{HALTUUN_ROOT:-}}{self._lay_folder}" || exit 1\n'
        parts = {name: [data] if name in put else self._parts(data) for name, data in self.laid.items()}
        sums = "".join(
            f"{hashlib.sha256(self.laid[name]).hexdigest()} {len(chunks)} {name}\n"
            for name, chunks in parts.items()
        )
        batch, size = head + _here("sums", sums.encode()), 0
        for name, chunks in parts.items():
            for index, chunk in enumerate(() if name in put else chunks):
                if size and size + len(chunk) > self.chunk_bytes:
                    yield batch
                    batch, size = head, 0
                batch += _here(f"parts/{name}.{index:06d}", chunk)
                size += len(chunk)
        yield batch

    def _parts(self, data: bytes) -> list[bytes]:
        starts = range(0, max(1, len(data)), self.chunk_bytes)
        return [data[start : start + self.chunk_bytes] for start in starts]


def _here(path: str, data: bytes) -> str:
    encoded = base64.encodebytes(data).decode()
    return f"base64 -d >{path} <<'HALTUUN' || exit 1\n{encoded}HALTUUN\n"


def run_job(
    job: Job,
    run: Runner,
    reconnect: Callable[[], None],
    *,
    timeout_s: float,
    subject: str,
    put: Putter | None = None,
    before_start: Callable[[], None] | None = None,
) -> Result:
    """The job's result; exit code INTERRUPTED when it died without leaving one (reboot, kill -9).

    `before_start` is called before each step up to the job's start; what it raises ends it there.

    Raises:
        LeaseLost: the host has seen a later lease; nothing was run.
        WrongBox: the env names a target, and this is another machine; nothing was written there.
        CommandTimeout: it still runs after `timeout_s`; the same call attaches to it.
        Unreachable: the host could not be reached in that time.
    """
    steps = _Steps(run, reconnect, time.monotonic() + timeout_s, subject, before_start)
    with _nothing_began():
        state, result = steps.take(job, "open", 0)
        if state.startswith("elsewhere"):
            raise _elsewhere(job, state.split()[1:], subject)
        if state == "new":
            there = steps.put(put, job) if put else set()
            for script in job.lay_scripts(there):
                steps.lay(script)
    if state == "new":
        state, result = steps.take(job, "start", _POLL_WAIT_S)
        if state in ("new", "incomplete"):
            why = "its files are damaged" if state == "incomplete" else "setsid failed"
            raise Unreachable(
                f"a job cannot be started ({why}).",
                subject=subject,
                remedy="Look at free space below /var/lib/haltuun, then retry.",
                code="JOB_NOT_STARTED",
                unchanged=True,
            )
    while state == "running":
        if steps.left_s <= 0:
            raise CommandTimeout(
                f"the job {job.id} still runs after {timeout_s:g} s.",
                subject=subject,
                remedy="It goes on by itself; run again to attach to it.",
            )
        state, result = steps.take(job, "poll", _POLL_WAIT_S)
    word, _, value = state.partition(" ")
    if word == "refused":
        raise LeaseLost(
            f"the host has seen lease {value}, this run holds {job.fence.rpartition(':')[2]}.",
            subject=subject,
            remedy="Another run took the account over: let it finish.",
            unchanged=True,
        )
    code = INTERRUPTED if word == "interrupted" else int(value)
    return result.model_copy(update={"exit_code": code})


@contextmanager
def _nothing_began() -> Iterator[None]:
    try:
        yield
    except HaltuunError as error:
        error.unchanged = True
        raise


def _elsewhere(job: Job, answered: Sequence[str], subject: str) -> Unreachable:
    if answered[0] == "none":
        return Unreachable(
            "the host's metadata service does not say which instance it is; nothing was written there.",
            subject=subject,
            remedy="Enable the metadata service (IMDSv2) and let the host reach 169.254.169.254.",
            code="IMDS_UNREACHABLE",
        )
    return WrongBox(
        f"the machine that answers is {' '.join(answered)}, not {job.target}; nothing was written there.",
        subject=subject,
        remedy="Correct the host's address in haltuun.yaml.",
    )


class _Steps:
    """Takes steps until they succeed or the time is over, over new connections where one breaks."""

    def __init__(
        self,
        run: Runner,
        reconnect: Callable[[], None],
        deadline: float,
        subject: str,
        before_start: Callable[[], None] | None,
    ) -> None:
        self._run = run
        self._reconnect = reconnect
        self._deadline = deadline
        self._subject = subject
        self._before_start = before_start
        self._broken = False

    @property
    def left_s(self) -> float:
        return self._deadline - time.monotonic()

    def take(self, job: Job, verb: str, wait_s: int) -> tuple[str, Result]:
        wait_s = max(0, min(wait_s, int(self.left_s)))
        if verb == "poll":  # it goes on by itself, whoever has the account
            self._before_start = None
        result = self._script(job.step(verb, wait_s))
        state, _, stdout = result.stdout.partition("\n")
        if result.exit_code != 0 or not state:
            raise self._failed(result)
        return state, result.model_copy(update={"stdout": stdout})

    def lay(self, script: str) -> None:
        result = self._script(script)
        if result.exit_code != 0:
            raise self._failed(result)

    def put(self, put: Putter, job: Job) -> set[str]:
        """The names of the large files that `put` took."""

        def one(name: str, data: bytes) -> bool:
            return self._insist(lambda: put(job.part(name), data, timeout_s=max(1.0, self.left_s)))

        return {name for name, data in job.large.items() if one(name, data)}

    def _failed(self, result: Result) -> Unreachable:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        why = lines[-1][:200] if lines else "no reason given"
        return Unreachable(
            f"a job cannot be laid on the host ({why}).",
            subject=self._subject,
            remedy="Look at free space and permissions of /var/lib/haltuun, then retry.",
            code="DISK_FULL" if _NO_SPACE in why else "JOB_NOT_STARTED",
        )

    def _script(self, script: str) -> Result:
        return self._insist(lambda: self._run(script, timeout_s=max(1.0, min(_STEP_TIMEOUT_S, self.left_s))))

    def _insist(self, do: Callable[[], T]) -> T:
        pause_s = 0.5
        while True:
            try:
                if self._broken:
                    self._reconnect()
                    self._broken = False
                if self._before_start is not None:
                    self._before_start()
                return do()
            except _PASSING:
                self._broken = True
                if self.left_s <= pause_s:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)
