"""The worker process ssm-agent-worker (agent/agent.go): health pings, messages, documents."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from ..netkit.aws import RequestError, ServiceError
from ..netkit.imds import ImdsError
from ..netkit.pace import pause, scaled_s
from ..netkit.proctitle import set_process_title
from .bookkeeping import log_folders_and_plugins, make_folders
from .channels import Channels
from .executor import Executor
from .identity import Identity, follow_runtime_config
from .layout import WORKER_BINARY, WORKER_NAME
from .logfile import Log, audit_start, log_hibernation
from .machine import go_arch, os_release
from .ping import instance_information
from .processes import STOP_MESSAGE
from .session import Session
from .settings import Settings, SettingsError, load_settings
from .version import VERSION

# Not scaled: the lab's service counts a host as lost after a few of these.
PING_INTERVAL_S = 5.0
HEALTH_LINE_EVERY = 60
HIBERNATE_FIRST_S, HIBERNATE_MAX_S, HIBERNATE_BACKOFF_RATE = 300, 3600, 3
ASSOCIATION_DELAY_S = 12.0
STOP_GRACE_S = 5.0

PingFailed = (ServiceError, RequestError, ImdsError)


class Worker:
    """One identity, held until the process ends, whatever happens to the files meanwhile."""

    def __init__(self) -> None:
        self._log = Log(f"[{WORKER_NAME}] ")
        self._stop = threading.Event()

    def run(self) -> int:
        """Until told to stop; the exit code of the process."""
        set_process_title(WORKER_NAME, WORKER_BINARY)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(STOP_MESSAGE, self._on_signal)
        try:
            settings = load_settings()
        except SettingsError as error:
            self._log.error(f"app config could not be loaded - {error}", "start @ agent.go.58")
            return 1
        identity = follow_runtime_config(self._log, settings)
        if identity is None:
            self._log.error("failed to get identity: failed to find agent identity", "start @ agent.go.69")
            return 1
        self._serve(settings, identity)
        return 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self._stop.is_set():
            if number == STOP_MESSAGE:
                request = '{"SchemaVersion":1,"Topic":"TerminateWorkerRequest","Payload":null}'
                self._log.info(f"Received termination message from core agent {request}")
            else:
                self._log.info(f"{WORKER_NAME} got signal:{signal.strsignal(number)} value:0x997f40".lower())
        self._stop.set()

    def _serve(self, settings: Settings, identity: Identity) -> None:
        audit_start(WORKER_NAME, VERSION)
        session = Session(settings, identity)
        self._log_start()
        first_error = self._ping(session)
        if first_error is not None:
            self._hibernate(session, first_error)
        if not self._stop.is_set():
            self._work(session, identity)

    def _log_start(self) -> None:
        self._log.info("Dial to Core Agent broadcast channel")
        self._log.info("Dial to Core Agent broadcast channel")
        self._log.info("Create new startup processor")
        self._log.info("Start to listen to Core Agent health channel")
        self._log.info("Start to listen to Core Agent termination channel")
        startup = self._log.within("[StartupProcessor]")
        name, version = os_release()
        startup.info("Executing startup processor tasks")
        startup.info(f"Write to serial port: Amazon SSM Agent v{VERSION} is running")
        startup.info(f"Write to serial port: OsProductName: {name}")
        startup.info(f"Write to serial port: OsVersion: {version}")

    def _ping(self, session: Session) -> Exception | None:
        information = instance_information(session.identity, "amazon-ssm-agent")
        try:
            session.client("ssm").call("AmazonSSM.UpdateInstanceInformation", information)
        except PingFailed as error:
            return error
        return None

    def _hibernate(self, session: Session, reason: Exception) -> None:
        """Ping ever more seldom until one succeeds (agent/hibernation/hibernation.go:52-151)."""
        self._log.info(f"Entering SSM Agent hibernate - {reason}")
        reduced = "Reducing logging. Logging will be reduced to one log per backoff period"
        log_hibernation(f"Agent is in hibernate mode. {reduced}")
        pause(self._stop, HIBERNATE_FIRST_S)
        interval_s = HIBERNATE_FIRST_S
        while not self._stop.is_set():
            interval_s = min(2 * interval_s, HIBERNATE_MAX_S)
            period_s = interval_s * HIBERNATE_BACKOFF_RATE
            log_hibernation(f"Backing off health check to every {interval_s} seconds for {period_s} seconds.")
            for number in range(HIBERNATE_BACKOFF_RATE):
                error = self._ping(session)
                if error is None:
                    return
                if number == 0:
                    log_hibernation(f"Health ping failed with error - {error}", level="ERROR")
                if pause(self._stop, interval_s):
                    return

    def _work(self, session: Session, identity: Identity) -> None:
        log = self._log
        service = log.within("[MessageService]")
        service.info("Appending MGSInteractor to MessageService interactors")
        service.info("Appending MDSInteractor to MessageService interactors")
        log.within("[LongRunningPluginsManager]").info("registered plugins: {}")
        make_folders(identity.instance_id)
        log_folders_and_plugins(log, identity.instance_id)
        log.info(f"{WORKER_NAME} - v{VERSION}")
        log.info(f"OS: linux, Arch: {go_arch()}")
        handler = service.within("[MessageHandler]")
        handler.info("initializing message handler")
        handler.within("[Idempotency]").info("Successfully created Idempotent directory")
        executor = Executor(session, self._stop)
        channels = Channels(log, session, executor.accept, self._stop)
        executor.reply_with(channels.reply)
        channels.start()
        self._log_idle_services()
        threading.Thread(target=self._keep_pinging, args=(session,), daemon=True).start()
        threading.Thread(target=self._log_associations, daemon=True).start()
        while not self._stop.wait(1.0):
            pass
        self._shut_down(channels, executor, identity)

    def _log_idle_services(self) -> None:
        offline = self._log.within("[OfflineService]")
        offline.info("Starting document processing engine...")
        offline.info("Scheduling message polling")
        offline.info("Starting send replies to MDS")
        plugins = self._log.within("[LongRunningPluginsManager]")
        plugins.info("starting long running plugin manager")
        plugins.info("there aren't any long running plugin to execute")
        plugins.info(
            "There are no long running plugins currently getting executed - skipping their healthcheck"
        )

    def _keep_pinging(self, session: Session) -> None:
        health = self._log.within("[HealthCheck]")
        count = 0
        while not self._stop.is_set():
            if count % HEALTH_LINE_EVERY == 0:
                health.info("HealthCheck reporting agent health.")
            count += 1
            error = self._ping(session)
            if error is not None:
                health.error(
                    f"error when calling AWS APIs. error details - {error}",
                    "updateHealth @ healthcheck.go.186",
                )
                pause(self._stop, 60.0, at_least_s=PING_INTERVAL_S)
            self._stop.wait(PING_INTERVAL_S)

    def _log_associations(self) -> None:
        if not pause(self._stop, ASSOCIATION_DELAY_S):
            self._log.within("[MessageService]").within("[Association]").info(
                "No associations on boot. Requerying for associations after 30 seconds."
            )

    def _shut_down(self, channels: Channels, executor: Executor, identity: Identity) -> None:
        self._log.info("Stopping ssm agent worker")
        self._log.within(f"[instanceID={identity.instance_id}]").info(
            "core manager stop requested. timeout: 5s"
        )
        channels.log_closed()
        executor.drain(scaled_s(STOP_GRACE_S))
        self._log.within("[OfflineService]").within("[EngineProcessor]").info("processor closed")
        self._log.info("Bye.")


def run_worker() -> int:
    """Entry of the worker binary."""
    return Worker().run()
