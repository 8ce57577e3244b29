"""The core process amazon-ssm-agent (core/agent.go, core/app/agent.go)."""

from __future__ import annotations

import signal
import subprocess
import threading
from types import FrameType

from ..netkit.pace import pause, scaled_s
from ..netkit.proctitle import set_process_title
from ..netkit.web import proxy_settings
from .identity import Identity, NoIdentity, RuntimeConfig, init_runtime_config, select_identity
from .layout import CORE_BINARY, CORE_NAME, WORKER_NAME
from .logfile import Log, audit_start
from .machine import go_arch
from .processes import STOP_MESSAGE, find_workers, kill_orphan, start_worker
from .providers import Ec2Provider, OnPremProvider, Provider
from .refresher import Refresher
from .registrar import Registrar
from .settings import Settings, SettingsError, load_settings
from .version import VERSION

MONITOR_INTERVAL_S = 60.0
WORKER_START_DELAY_S = 1.0
WORKER_STOP_TIMEOUT_S = 6.0
# Seen with 3.3.1142.0: the core ends 7 s after its signal, most of it after the worker has gone.
SHUTDOWN_S = 7.0


class Core:
    """Identity, registration, credentials, and one worker kept running."""

    def __init__(self) -> None:
        self._log = Log()
        self._own_log = self._log.within(f"[{CORE_NAME}]")
        self._stop = threading.Event()
        self._worker: subprocess.Popen[bytes] | None = None
        self._registrar: Registrar | None = None

    def run(self) -> int:
        """Until a signal; the exit code of the process."""
        set_process_title(CORE_NAME, CORE_BINARY)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            settings, identity, config = self._bootstrap()
        except (SettingsError, NoIdentity, OSError) as error:
            text = f"Error occurred when starting amazon-ssm-agent: {error}"
            self._log.error(text, "run @ agent.go.153")
            return 1
        self._serve(settings, identity, config)
        return 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        name = "terminated" if number == signal.SIGTERM else "interrupt"
        if not self._stop.is_set():
            self._own_log.info(f"{CORE_NAME} got signal:{name} value:0x997f40")
        self._stop.set()

    def _bootstrap(self) -> tuple[Settings, Identity, RuntimeConfig]:
        self._log.info("Proxy environment variables:")
        for name, value in proxy_settings().items():
            self._log.info(f"{name}: {value}")
        try:
            settings = load_settings()
        except SettingsError as error:
            raise SettingsError(f"app config could not be loaded - {error}") from error
        try:
            identity = select_identity(self._log, settings, self._stop)
        except NoIdentity as error:
            text = f"failed to get identity: {error}"
            self._log.error(text, "Init @ bootstrap.go.75")
            raise NoIdentity(text) from error
        return settings, identity, init_runtime_config(identity)

    def _provider(self, settings: Settings, identity: Identity) -> Provider | None:
        if identity.kind == "OnPrem":
            return OnPremProvider(self._log, settings, identity, self._stop)
        if identity.kind == "EC2":
            return Ec2Provider(self._log, settings, identity)
        return None

    def _serve(self, settings: Settings, identity: Identity, config: RuntimeConfig) -> None:
        log = self._own_log
        log.info(f"{CORE_NAME} - v{VERSION}")
        log.info(f"OS: linux, Arch: {go_arch()}")
        log.info("Starting Core Agent")
        audit_start(CORE_NAME, VERSION)
        if identity.kind == "EC2":
            log.info("Registrar detected. Attempting registration")
            self._registrar = Registrar(self._log, settings, identity, self._stop)
            self._registrar.start()
            if not self._stop.is_set():
                log.info("Registration attempted. Resuming core agent startup.")
        refresher = Refresher(self._log, self._provider(settings, identity), identity, config, self._stop)
        if not self._stop.is_set():
            refresher.start()
        while not refresher.ready.wait(0.2) and not self._stop.is_set():
            pass
        if refresher.ready.is_set():
            self._keep_worker()
        self._shut_down()

    def _keep_worker(self) -> None:
        container = self._own_log.within("[LongRunningWorkerContainer]")
        provider = container.within("[WorkerProvider]")
        if pause(self._stop, WORKER_START_DELAY_S):
            return
        for pid in find_workers():
            provider.info(f"Found orphan {WORKER_NAME} process from previous execution, terminating...")
            kill_orphan(pid)
        announced = False
        while not self._stop.is_set():
            if self._worker is None or self._worker.poll() is not None:
                provider.info(f"Worker {WORKER_NAME} is not running, starting worker process")
                self._worker = start_worker()
                provider.info(f"Worker {WORKER_NAME} (pid:{self._worker.pid}) started")
            if not announced:
                container.info("Monitor long running worker health every 60 seconds")
                announced = True
            pause(self._stop, MONITOR_INTERVAL_S, at_least_s=1.0)

    def _shut_down(self) -> None:
        self._own_log.info("Stopping Core Agent")
        stopping = self._own_log.within("[LongRunningWorkerContainer]")
        stopping.info("Receiving stop signal, stop worker monitor")
        if self._worker is not None and self._worker.poll() is None:
            self._worker.send_signal(STOP_MESSAGE)
            try:
                self._worker.wait(scaled_s(WORKER_STOP_TIMEOUT_S, at_least_s=3.0))
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()
        threading.Event().wait(scaled_s(SHUTDOWN_S))
        self._log.at_root("[CredentialRefresher]").info("Sending credential refresher stop signal")
        if self._registrar is not None:
            self._registrar.report_stop()
        self._own_log.info("Bye.")


def run_core() -> int:
    """Entry of the service."""
    return Core().run()
