"""The life of one service: started, ended, started again. Both inits use it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import time
import uuid
from dataclasses import dataclass, field

import world
from world import world as lock

_SCALE = float(os.environ.get("LAB_TIME_SCALE") or 1)
# How many times faster than real; a value below 1 is the inverse, as the stand-in agent reads it too.
TIME_SCALE = _SCALE if _SCALE >= 1 else 1 / _SCALE
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass
class Definition:
    """What a unit or job file says, in terms that both inits share."""

    name: str
    path: str = ""
    text: str = ""
    description: str = ""
    kind: str = "simple"  # simple | forking | oneshot
    commands: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    stop_commands: list[str] = field(default_factory=list)
    reload_commands: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""
    directory: str = "/"
    runtime_directory: str = ""
    pid_file: str = ""
    restart: str = "no"
    restart_s: float = 0.1
    restart_prevented_by: set[int] = field(default_factory=set)
    kill_mode: str = "control-group"
    stop_timeout_s: float = 90.0
    remain: bool = False
    boot: bool = False
    scripts: bool = False  # commands are shell text
    conditions: list[str] = field(default_factory=list)
    log: str = "/dev/null"


class StartFailed(Exception):
    pass


class Service:
    """State names are systemd's; upstart's words are derived from them."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.active = "inactive"
        self.sub = "dead"
        self.result = "success"
        self.main_pid = 0
        self.exit_code = 0
        self.exit_signal = 0
        self.restarts = 0
        self.invocation = ""
        self.since = 0.0
        self.busy = False
        self.epoch = 0  # raised by every start and stop, so that an old timer does nothing

    def start(self) -> None:
        with lock:
            self._enter()
            try:
                if self.active == "active":
                    return
                self.restarts = 0
                self._start()
            finally:
                self._leave()

    def stop(self) -> None:
        with lock:
            self._enter()
            try:
                self._stop()
            finally:
                self._leave()

    def reload(self) -> bool:
        with lock:
            if self.active != "active" or not self.definition.reload_commands:
                return False
            return all(self._run(command) == 0 for command in self.definition.reload_commands)

    def kill(self, number: int, whom: str) -> None:
        with lock:
            main = [self.main_pid] if self.main_pid else []
            world.send(main if whom == "main" else self.pids() or main, number)

    def pids(self) -> list[int]:
        return world.members(self.invocation) if self.invocation else []

    def _enter(self) -> None:
        lock.wait_for(lambda: not self.busy)
        self.busy = True
        self.epoch += 1

    def _leave(self) -> None:
        self.busy = False
        lock.notify_all()

    def _become(self, active: str, sub: str) -> None:
        if active != self.active:
            self.since = time.time()
        self.active, self.sub = active, sub

    def _env(self) -> dict[str, str]:
        base = {"PATH": PATH, "LANG": "C.UTF-8", "INVOCATION_ID": self.invocation}
        if self.main_pid:
            base["MAINPID"] = str(self.main_pid)
        return base | self.definition.env

    def _argv(self, command: str) -> list[str]:
        if self.definition.scripts:
            return ["/bin/sh", "-e", "-c", command, "/bin/sh"]
        env = self._env()

        def value(match: re.Match[str]) -> str:
            return env.get(match[1] or match[2], "")

        argv: list[str] = []
        for word in shlex.split(command):
            alone = re.fullmatch(r"\$(\w+)", word)
            argv += env.get(alone[1], "").split() if alone else [VARIABLE.sub(value, word)]
        return argv

    def _spawn(self, command: str) -> int:
        where = self.definition
        return world.spawn(
            self._argv(command), self._env(), cwd=where.directory, user=where.user, log=where.log
        )

    def _run(self, command: str) -> int:
        """The exit code of a helper command; a leading `-` forgives failure."""
        forgiven = command.startswith("-")
        try:
            status = world.wait(self._spawn(command.lstrip("-@+!")), 90)
        except OSError:
            status = 203 << 8
        code = 1 if status is None else os.waitstatus_to_exitcode(status)
        return 0 if forgiven else code

    def _start(self) -> None:
        where = self.definition
        if not all(_holds(condition) for condition in where.conditions):
            return
        self.invocation = uuid.uuid4().hex
        self.main_pid = self.exit_code = self.exit_signal = 0
        self._become("activating", "start-pre")
        for name in where.runtime_directory.split():
            os.makedirs(f"/run/{name}", mode=0o755, exist_ok=True)
        for command in where.before:
            code = self._run(command)
            if code:
                self._ended(code << 8, main=False)
                raise StartFailed(where.name)
        if where.kind == "oneshot":
            self._start_oneshot()
        elif where.kind == "forking":
            self._start_forking()
        else:
            self._start_simple()

    def _start_simple(self) -> None:
        try:
            self.main_pid = self._spawn(self.definition.commands[0].lstrip("-@+!"))
        except (OSError, IndexError) as error:
            self._ended(203 << 8, main=False)
            raise StartFailed(self.definition.name) from error
        self._become("active", "running")
        self._watch_main()

    def _watch_main(self) -> None:
        pid = self.main_pid

        def ended(status: int) -> None:
            # A stop may be over before its process is reaped; what it ended must not start again.
            if pid == self.main_pid:
                self._ended(status)

        world.watch(pid, ended)

    def _start_oneshot(self) -> None:
        for command in self.definition.commands:
            code = self._run(command)
            if code:
                self._ended(code << 8, main=False)
                raise StartFailed(self.definition.name)
        if self.definition.remain:
            self._become("active", "exited")
        else:
            self._become("inactive", "dead")

    def _start_forking(self) -> None:
        code = self._run(self.definition.commands[0]) if self.definition.commands else 1
        lock.wait_for(lambda: self._forked_pid() != 0, 5)
        self.main_pid = self._forked_pid()
        if code or not self.main_pid:
            self._ended((code or 1) << 8, main=False)
            raise StartFailed(self.definition.name)
        self._become("active", "running")
        self._watch_main()

    def _forked_pid(self) -> int:
        if self.definition.pid_file:
            try:
                with open(self.definition.pid_file, encoding="utf-8") as stream:
                    return int(stream.read().strip() or 0)
            except (OSError, ValueError):
                return 0
        return min(self.pids(), default=0)

    def _ended(self, status: int, main: bool = True) -> None:
        """The main process is gone (or never came): account for it, and start again where asked."""
        code = os.waitstatus_to_exitcode(status)
        self.exit_code, self.exit_signal = (code, 0) if code >= 0 else (0, -code)
        stopping = self.sub.startswith("stop")
        clean = code in (0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGPIPE) or stopping
        self.main_pid = 0
        self.result = "success" if clean else ("exit-code" if code > 0 else "signal")
        if stopping:
            return
        if self.definition.kill_mode == "control-group" and main:
            world.send(self.pids(), signal.SIGTERM)
        if self._again(clean, code):
            self._become("activating", "auto-restart")
            self.epoch += 1
            epoch = self.epoch
            world.after(self.definition.restart_s, lambda: self._restart(epoch))
        elif clean:
            self._become("inactive", "dead")
        else:
            self._become("failed", "failed")

    def _again(self, clean: bool, code: int) -> bool:
        policy = self.definition.restart
        if code in self.definition.restart_prevented_by:
            return False
        if policy == "respawn":  # upstart: 10 in 5 s, then it gives up
            return self.restarts < 10 or time.time() - self.since > 5
        return policy == "always" or (policy.startswith("on-") and not clean)

    def _restart(self, epoch: int) -> None:
        with lock:
            if epoch != self.epoch:
                return
            self._enter()
            self.restarts += 1
            with contextlib.suppress(StartFailed):
                self._start()
            self._leave()

    def _stop(self) -> None:
        if self.active in ("inactive", "failed"):
            self._become("inactive", "dead")
            return
        where = self.definition
        self._become("deactivating", "stop")
        for command in where.stop_commands:
            self._run(command)
        main = self.main_pid
        if where.kill_mode in ("process", "mixed"):
            world.end(lambda: [main] if main and world.alive(main) else [], timeout_s=where.stop_timeout_s)
            if where.kill_mode == "mixed":
                world.end(self.pids, first=signal.SIGKILL, timeout_s=5)
        elif where.kill_mode == "group":
            world.end(lambda: world.group(main), timeout_s=where.stop_timeout_s)
        elif where.kill_mode != "none":
            world.end(self.pids, timeout_s=where.stop_timeout_s)
        self.main_pid = 0
        self._become("inactive", "dead")


def _holds(condition: str) -> bool:
    path = condition.lstrip("!|")
    return os.path.exists(path) != condition.startswith("!")


def is_held(name: str) -> bool:
    """The lab installs some packages without letting their services start."""
    return os.path.exists(f"/run/lab/hold/{name}")
