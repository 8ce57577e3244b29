"""The running agent: follows the files and sends their lines."""

from __future__ import annotations

import glob
import os
import signal
import threading
from types import FrameType

from ..netkit import clock, imds
from ..netkit.aws import Client, RequestError, ServiceError, endpoint_of
from ..netkit.hostfs import at, lab_root
from ..netkit.pace import pause
from ..netkit.proctitle import set_process_title
from .configuration import LogFile, load_log_files
from .paths import BINARY, LOG

# force_flush_interval is 5 s with the real agent; PutLogEvents takes at most 10,000 events and 1 MiB.
FLUSH_INTERVAL_S = 1.0
RETRY_S = 30.0
MAX_EVENTS = 1000
MAX_BYTES = 512 * 1024

CallFailed = (ServiceError, RequestError, imds.ImdsError)


def write_log(level: str, text: str) -> None:
    """One line of the agent's own log."""
    stamp = clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        at(LOG).parent.mkdir(parents=True, exist_ok=True)
        with at(LOG).open("a") as stream:
            stream.write(f"{stamp} {level}! {text}\n")
    except OSError:
        return


class Tail:
    """Reads the new, complete lines of one file; begins at its start and follows a rotation."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def read(self) -> tuple[list[str], int]:
        """New lines, and the offset behind them; nothing is taken before `commit`."""
        try:
            with open(self._path, "rb") as stream:
                info = os.fstat(stream.fileno())
                if info.st_ino != self._inode or info.st_size < self._offset:
                    self._inode, self._offset = info.st_ino, 0
                stream.seek(self._offset)
                data = stream.read(MAX_BYTES)
        except OSError:
            return [], self._offset
        end = data.rfind(b"\n") + 1
        lines = data[:end].splitlines(keepends=True)[:MAX_EVENTS]
        behind = self._offset + sum(len(line) for line in lines)
        texts = [line.decode(errors="replace").rstrip("\r\n") for line in lines]
        return texts, behind

    def commit(self, offset: int) -> None:
        """The lines before `offset` were sent."""
        self._offset = offset


class Destination:
    """One log stream; made when the first line is sent."""

    def __init__(self, log_file: LogFile, region: str) -> None:
        self._file = log_file
        self._region = region
        self._exists = False

    def _client(self) -> Client:
        return Client(endpoint_of("logs", self._region), "logs", self._region, imds.role_credentials())

    def _create(self, client: Client, operation: str, payload: dict[str, object]) -> None:
        try:
            client.call(f"Logs_20140328.{operation}", payload)
        except ServiceError as error:
            if error.code != "ResourceAlreadyExistsException":
                raise

    def send(self, lines: list[str]) -> None:
        """Send lines; ServiceError, RequestError or ImdsError when they did not arrive."""
        client = self._client()
        names: dict[str, object] = {"logGroupName": self._file.group, "logStreamName": self._file.stream}
        if not self._exists:
            self._prepare(client, names)
            self._exists = True
        now_ms = int(clock.now().timestamp() * 1000)
        events = [{"timestamp": now_ms, "message": line} for line in lines if line]
        if events:
            try:
                client.call("Logs_20140328.PutLogEvents", {**names, "logEvents": events})
            except ServiceError as error:
                self._exists = error.code != "ResourceNotFoundException"
                raise

    def _prepare(self, client: Client, names: dict[str, object]) -> None:
        """Stream first, as the real agent: a group that is there needs no right to create groups."""
        try:
            self._create(client, "CreateLogStream", names)
        except ServiceError as error:
            if error.code != "ResourceNotFoundException":
                raise
            self._create(client, "CreateLogGroup", {"logGroupName": self._file.group})
            if self._file.retention_days > 0:
                retention: dict[str, object] = {
                    "logGroupName": self._file.group,
                    "retentionInDays": self._file.retention_days,
                }
                self._create(client, "PutRetentionPolicy", retention)
            self._create(client, "CreateLogStream", names)


class Shipper:
    """All files of the configuration."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._tails: dict[str, tuple[Tail, Destination]] = {}

    def run(self) -> int:
        """Until told to stop; the exit code of the process."""
        set_process_title("amazon-cloudwat", BINARY)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        write_log("I", "Starting AmazonCloudWatchAgent")
        while not self._stop.is_set():
            try:
                files, region = load_log_files(), imds.region()
                break
            except (imds.ImdsError, OSError, ValueError) as error:
                write_log("E", f"[EC2] Fetch identity document from EC2 metadata fail: {_one_line(error)}")
                pause(self._stop, RETRY_S, at_least_s=1.0)
        else:
            return 0
        for log_file in files:
            write_log("I", f"[logagent] piping log from {log_file.group}/{log_file.stream}({log_file.path})")
        while not self._stop.wait(FLUSH_INTERVAL_S):
            self._flush(files, region)
        return 0

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _flush(self, files: list[LogFile], region: str) -> None:
        for log_file in files:
            for path in sorted(glob.glob(str(at(log_file.path)))):
                tail, destination = self._tails.setdefault(path, (Tail(path), Destination(log_file, region)))
                if not self._ship(log_file, tail, destination):
                    pause(self._stop, RETRY_S, at_least_s=1.0)
                    return

    def _ship(self, log_file: LogFile, tail: Tail, destination: Destination) -> bool:
        lines, behind = tail.read()
        if not lines:
            return True
        try:
            destination.send(lines)
        except CallFailed as error:
            target = f"{log_file.group}/{log_file.stream}"
            write_log(
                "E", f"[outputs.cloudwatchlogs] Aws error received when sending logs to {target}: {error}"
            )
            return False
        tail.commit(behind)
        return True


def _one_line(error: Exception) -> str:
    return str(error).replace(str(lab_root()), "/", 1).replace("\n", " ")
