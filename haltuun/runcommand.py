"""Run Command (AWS-RunShellScript) as a Transport: for hosts that are Online, without key or open port."""

from __future__ import annotations

import base64
import gzip
import re
import time
import zlib
from collections.abc import Callable, Mapping

from haltuun import jobs
from haltuun.aws import Aws
from haltuun.envelope import Frame, Mode, new_nonce, wrap
from haltuun.errors import AwsError, CommandTimeout, NoCredentials, Throttled, Unreachable
from haltuun.model import Host, Json
from haltuun.transport import MAX_OUTPUT_BYTES, Result

DOCUMENT = "AWS-RunShellScript"
# SendCommand takes 64 KB of parameters; the rest of them and JSON's quoting need some of it.
MAX_COMMAND_CHARS = 60_000
MAX_FILES_BYTES = 60_000
# A running agent takes a command within a second or two; one that does not is not there.
DELIVERY_S = 30.0
_POLL_S = (0.3, 0.5, 1.0, 2.0)
_PENDING = ("Pending", "Delayed")
_OVER = ("Success", "Failed", "TimedOut", "Cancelled")
_UNDELIVERED = ("Undeliverable", "DeliveryTimedOut", "InvalidPlatform", "AccessDenied", "Terminated")
# In base64 twice (the file in the script, the script in the parameter) it stays below the limit.
_CHUNK_BYTES = 24_000
_BASE64 = re.compile(rb"[A-Za-z0-9+/=\s]*")


class NotDelivered(Unreachable):
    """Systems Manager did not bring the command to the host: nothing ran."""

    code = "RUN_COMMAND_NOT_DELIVERED"


class RunCommandTransport:
    """See transport.Transport. Nothing is sent before `run` or `run_job`.

    Each step is a SendCommand: a mutating call by our count, so not for a plan. What a command prints
    beyond 24,000 characters (stdout, here compressed where the host can) or 8,000 (stderr) is lost on
    the way (API reference, GetCommandInvocation): the result is marked truncated then.
    """

    way = "run-command"
    legacy: bool | None = None

    def __init__(self, aws: Aws, host: Host) -> None:
        self._aws = aws
        self._host = host

    def run(self, script: str, *, timeout_s: float, env: Mapping[str, str] | None = None) -> Result:
        nonce = new_nonce()
        command = _command(wrap(script, nonce, env, Mode.packed))
        if len(command) > MAX_COMMAND_CHARS:
            raise self._too_large(f"a script of {len(command)} characters")
        return _result(self._wait(self._send(command, timeout_s), timeout_s), nonce, self._host.label)

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
        size = sum(len(data) for data in (files or {}).values())
        if size > MAX_FILES_BYTES:
            raise self._too_large(f"{size} bytes of files")
        job = jobs.Job(job_id, script, env=env or {}, files=files or {}, chunk_bytes=_CHUNK_BYTES)
        return jobs.run_job(
            job,
            self.run,
            lambda: None,
            timeout_s=timeout_s,
            subject=self._host.label,
            before_start=before_start,
        )

    def close(self) -> None:
        return None

    # -- below -----------------------------------------------------------------------------

    def _too_large(self, what: str) -> Unreachable:
        return Unreachable(
            f"{what} cannot be sent with Run Command.",
            subject=self._host.label,
            remedy="Make the host reachable over SSH for this step (key, address, security group).",
            code="TOO_LARGE_FOR_RUN_COMMAND",
        )

    def _send(self, command: str, timeout_s: float) -> str:
        try:
            answer = self._aws.call(
                "ssm",
                "SendCommand",
                self._host.region,
                InstanceIds=[self._host.instance_id],
                DocumentName=DOCUMENT,
                Comment="haltuun",
                # 30 s is the least that the API takes.
                TimeoutSeconds=max(30, int(DELIVERY_S)),
                Parameters={"commands": [command], "executionTimeout": [str(int(timeout_s) + 5)]},
            )
        except NoCredentials:
            raise
        except AwsError as error:
            raise NotDelivered(
                f"Run Command is refused: {error.message}", subject=self._host.label, remedy=error.remedy
            ) from error
        return str(answer["Command"]["CommandId"])

    def _wait(self, command_id: str, timeout_s: float) -> Json:
        """The invocation, over."""
        started = time.monotonic()
        polls = 0
        while True:
            invocation = self._ask(command_id)
            status = invocation.get("Status", "Pending")
            if status in _OVER:
                self._refuse_undelivered(invocation)
                return invocation
            waited_s = time.monotonic() - started
            if status in _PENDING and waited_s >= min(timeout_s, DELIVERY_S):
                self._cancel(command_id)
                raise NotDelivered(
                    f"the agent took no command for {waited_s:.0f} s.",
                    subject=self._host.label,
                    remedy="See whether the agent runs and reaches ssmmessages or ec2messages.",
                )
            if waited_s >= timeout_s:
                self._cancel(command_id)
                raise self._overdue(timeout_s)
            time.sleep(_POLL_S[min(polls, len(_POLL_S) - 1)])
            polls += 1

    def _ask(self, command_id: str) -> Json:
        try:
            return self._aws.call(
                "ssm",
                "GetCommandInvocation",
                self._host.region,
                CommandId=command_id,
                InstanceId=self._host.instance_id,
            )
        except Throttled:
            return {"Status": "InProgress"}
        except NoCredentials:
            raise
        except AwsError as error:
            # The invocation appears a moment after SendCommand's answer.
            if error.code == "InvocationDoesNotExist":
                return {"Status": "Pending"}
            raise Unreachable(
                f"what became of a command cannot be asked: {error.message}",
                subject=self._host.label,
                remedy=error.remedy,
                code=NotDelivered.code,
            ) from error

    def _refuse_undelivered(self, invocation: Json) -> None:
        detail = str(invocation.get("StatusDetails", "")).replace(" ", "")
        if detail in _UNDELIVERED:
            raise NotDelivered(
                f"Systems Manager could not deliver a command ({detail}).",
                subject=self._host.label,
                remedy="See whether the agent runs and is Online.",
            )
        if invocation["Status"] in ("TimedOut", "Cancelled"):
            raise self._overdue(None)

    def _overdue(self, timeout_s: float | None) -> CommandTimeout:
        after = f" after {timeout_s:g} s" if timeout_s is not None else " within its time"
        return CommandTimeout(
            f"a command is not over{after}.",
            subject=self._host.label,
            remedy="The host is overloaded or a disk hangs: look at it, then retry.",
        )

    def _cancel(self, command_id: str) -> None:
        instances = [self._host.instance_id]
        self._aws.ask(
            lambda: self._aws.call(
                "ssm", "CancelCommand", self._host.region, CommandId=command_id, InstanceIds=instances
            )
        )


def _command(text: str) -> str:
    """One line: in base64, because SSM replaces {{ }} in parameters; compressed only where it must be."""
    plain = base64.b64encode(text.encode()).decode()
    if len(plain) <= MAX_COMMAND_CHARS // 2:
        return f'eval "$(echo {plain} | base64 -d)"'
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return f'eval "$(echo {packed} | base64 -d | gzip -dc)"'


def _result(invocation: Json, nonce: str, label: str) -> Result:
    out, err = Frame(nonce), Frame(nonce)
    for frame, key in ((out, "StandardOutputContent"), (err, "StandardErrorContent")):
        frame.feed(str(invocation.get(key) or "").encode())
        frame.finish()
    if not out.begun:
        said = err.noise.decode("utf-8", "replace").strip().splitlines()
        raise Unreachable(
            f"the agent could not run a script: {said[-1][:200] if said else 'it said nothing'}.",
            subject=label,
            remedy="See the agent's log, free space and /bin/sh on the host.",
            code="RUN_COMMAND_FAILED",
        )
    stdout, whole = _unpacked(out.body) if out.packed else (out.body, True)
    code = out.exit_code if out.exit_code is not None else int(invocation.get("ResponseCode", -1))
    return Result(
        exit_code=code,
        stdout=stdout.decode("utf-8", "replace"),
        stderr=err.text,
        truncated=not whole or not out.ended or not err.ended,
    )


def _unpacked(body: bytes) -> tuple[bytes, bool]:
    """What `gzip | base64` made, as far as it came; and whether it came whole."""
    match = _BASE64.match(body)
    encoded = b"".join(match.group().split()) if match else b""
    packed = base64.b64decode(encoded[: len(encoded) // 4 * 4])
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = unpack.decompress(packed, MAX_OUTPUT_BYTES)
    except zlib.error:
        return b"", False
    return data, unpack.eof
