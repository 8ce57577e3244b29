"""The process that is the account: moto's server, the lab's additions, and /lab/… to steer it.

`python -m lab.cloud.server --port P --run-dir D [--seed-scenario FILE] [--seed N]`
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import BaseWSGIServer, make_server

from lab.cloud import clock, messages
from lab.cloud.calls import MESSAGE_SERVICES, Call, body_of, call_of
from lab.cloud.errors import CloudError
from lab.cloud.extensions import apply_extensions
from lab.cloud.extensions.resources import resource_of
from lab.cloud.faults import MESSAGES, Faults, error_response
from lab.cloud.identity import Machine, decide, denial, machine_of
from lab.cloud.steering import Steering

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]
# What agents say without a permission of their own: the key pair of the registration signs it.
UNSIGNED_BY_ROLE = frozenset({"ssm:RequestManagedInstanceRoleToken", "sts:GetCallerIdentity"})
# Only a machine makes these calls; from anybody else they are a stale or foreign token.
AGENT_ONLY = frozenset({"ssm:UpdateInstanceInformation", "ssm:RegisterManagedInstance"})
MAX_SKEW = timedelta(minutes=5)
# moto reads these whenever it makes or resets the part of an account that is a service's.
MOTO = {
    "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
    "MOTO_ALLOW_NONEXISTENT_REGION": "false",
    # moto's default images belong to the account, with 1300 snapshots that no inherited account has.
    "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
}


class QuietHandler(MotoRequestHandler):
    """Keeps connections open for agents that poll, and says nothing about requests that went well."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if str(code).startswith("5"):
            super().log_request(code, size)


class Cloud:
    """The WSGI application."""

    def __init__(self, account_id: str, run_dir: Path | None = None) -> None:
        apply_extensions()
        self.account_id = account_id
        self.faults = Faults()
        self.moto: Application = DomainDispatcherApplication(create_backend_app)
        self.steering = Steering(self, run_dir)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "").startswith("/lab/"):
            return self._steer(environ, start_response)
        call = call_of(environ)
        if call is None:
            return self.moto(environ, start_response)
        refusal = self._refusal(call, environ)
        if refusal is not None:
            status, headers, body = refusal
            start_response(status, [*headers, ("Content-Length", str(len(body)))])
            return [body]
        if call.service in MESSAGE_SERVICES:
            return self._messages(call, environ, start_response)
        return self.moto(environ, start_response)

    def _refusal(
        self, call: Call, environ: dict[str, Any]
    ) -> tuple[str, list[tuple[str, str]], bytes] | None:
        """An ordered fault, a wrong clock, or a machine that may not do this."""
        fault = self.faults.take(call.action)
        if fault is not None:
            text = fault.message or MESSAGES.get(fault.error, "The lab was told to refuse this call.")
            text = text.format(account=self.account_id, operation=call.action)
            return error_response(call.protocol, fault.error, text)
        machine = machine_of(self.account_id, call.access_key, call.region)
        if machine is None:
            self.steering.count(call)
            if call.action in AGENT_ONLY:
                text = "The security token included in the request is invalid."
                return error_response(call.protocol, "UnrecognizedClientException", text)
            return None
        skew = self._skew(environ.get("HTTP_X_AMZ_DATE", ""))
        if skew:
            return error_response(call.protocol, "InvalidSignatureException", skew)
        if call.service in MESSAGE_SERVICES or call.action in UNSIGNED_BY_ROLE:
            return None
        resource = resource_of(call, self.account_id, machine, body_of(environ))
        decision = decide(machine, call.action, resource)
        if decision.allowed:
            return None
        return error_response(
            call.protocol, "AccessDeniedException", denial(machine, call.action, resource, decision)
        )

    def _skew(self, stamp: str) -> str:
        """A host must agree with the account's clock or, when the lab moved that, with the machine's."""
        try:
            said = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            return ""
        if any(abs(said - true) <= MAX_SKEW for true in (clock.now(), clock.machine_time())):
            return ""
        now, form = clock.now(), "%Y%m%dT%H%M%SZ"
        early, late = f"{now - MAX_SKEW:{form}}", f"{now + MAX_SKEW:{form}}"
        if said < now:
            return f"Signature expired: {stamp} is now earlier than {early} ({now:{form}} - 5 min.)"
        return f"Signature not yet current: {stamp} is still later than {late} ({now:{form}} + 5 min.)"

    def _messages(
        self, call: Call, environ: dict[str, Any], start_response: StartResponse
    ) -> Iterable[bytes]:
        machine: Machine | None = machine_of(self.account_id, call.access_key, call.region)
        found = messages.answer(call, self.account_id, environ, machine)
        if found is None:
            # The connection was a web socket and is over; werkzeug lets go of one that has broken.
            raise ConnectionError("the web socket has ended")
        body = found.body.encode()
        headers = [("Content-Type", found.content_type), ("Content-Length", str(len(body)))]
        start_response(found.status, headers)
        return [body]

    def _steer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            given = json.loads(body_of(environ) or b"{}")
            found = self.steering.handle(environ["REQUEST_METHOD"], environ["PATH_INFO"], given)
            status = "200 OK" if found is not None else "404 Not Found"
        except (CloudError, KeyError, TypeError, ValueError) as error:
            status, found = "400 Bad Request", {"error": f"{type(error).__name__}: {error}"}
        body = json.dumps(found or {}, default=str).encode()
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


class CloudServer:
    """The account on a port, in threads of this process; tests use it as a context manager."""

    def __init__(self, account_id: str, port: int = 0, run_dir: Path | None = None) -> None:
        settings = {**MOTO, "MOTO_ACCOUNT_ID": account_id}
        self._before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        self.cloud = Cloud(account_id, run_dir)
        self._server: BaseWSGIServer = make_server(
            "127.0.0.1", port, self.cloud, threaded=True, request_handler=QuietHandler
        )
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> CloudServer:
        for work in (lambda: self._server.serve_forever(poll_interval=0.1), self._tick):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def _tick(self) -> None:
        while not self._stop.wait(1.0):
            self.cloud.steering.tick()

    def stop(self) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(timeout=5)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def __enter__(self) -> CloudServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.cloud.server", description="An emulated AWS account."
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--run-dir", type=Path, default=None)
    parser.add_argument("--account-id", default="111122223333")
    parser.add_argument("--seed-scenario", default=None, help="scenario file to fill the account with")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    scenario = None
    if given.seed_scenario:
        from lab.scenario import load_scenario

        scenario = load_scenario(given.seed_scenario, given.seed)
    server = CloudServer(scenario.account_id if scenario else given.account_id, given.port, given.run_dir)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with server:
        if scenario:
            from lab.cloud.seed import seed

            seed(server.endpoint_url, scenario)
        if given.run_dir:
            given.run_dir.mkdir(parents=True, exist_ok=True)
            (given.run_dir / "cloud.json").write_text(json.dumps({"endpoint_url": server.endpoint_url}))
        print(server.endpoint_url, flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
