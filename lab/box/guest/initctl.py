"""The server's side of upstart's `initctl`, `start`, `stop`, `restart` and `status`."""

from __future__ import annotations

import jobs
import world
from registry import Reply
from service import Service, StartFailed, is_held

JOBS: dict[str, Service] = {}


def job_of(name: str) -> Service | None:
    definition = jobs.load(name)
    known = JOBS.get(name)
    if definition is None:
        return known
    if known is None:
        known = JOBS[name] = Service(definition)
    elif known.active in ("inactive", "failed"):
        known.definition = definition
    return known


def describe(name: str, job: Service) -> str:
    if job.active == "active":
        process = f", process {job.main_pid}" if job.main_pid else ""
        return f"{name} start/running{process}"
    if job.active == "activating":
        return f"{name} start/{'respawning' if job.sub == 'auto-restart' else 'starting'}"
    if job.active == "deactivating":
        return f"{name} stop/killed, process {job.main_pid}"
    return f"{name} stop/waiting"


def boot() -> None:
    for name in jobs.all_names():
        job = job_of(name)
        if job is not None and job.definition.boot:
            try:
                job.start()
            except StartFailed:
                continue


def _start(verb: str, name: str, job: Service, reply: Reply) -> None:
    if job.active in ("active", "activating"):
        reply.err.append(f"{verb}: Job is already running: {name}")
        reply.code = 1
        return
    if is_held(name):
        return
    try:
        job.start()
    except StartFailed:
        reply.err.append(f"{verb}: Job failed to start")
        reply.code = 1
        return
    reply.out.append(describe(name, job))


def _stop(verb: str, name: str, job: Service, reply: Reply) -> None:
    if job.active in ("inactive", "failed"):
        reply.err.append(f"{verb}: Unknown instance: ")
        reply.code = 1
        return
    job.stop()
    reply.out.append(describe(name, job))


def _restart(verb: str, name: str, job: Service, reply: Reply) -> None:
    if job.active in ("inactive", "failed"):
        reply.err.append(f"{verb}: Unknown instance: ")
        reply.code = 1
        return
    job.stop()
    _start(verb, name, job, reply)


def _status(verb: str, name: str, job: Service, reply: Reply) -> None:
    reply.out.append(describe(name, job))


def _show_config(verb: str, name: str, job: Service, reply: Reply) -> None:
    starts = "  start on runlevel [2345]" if job.definition.boot else ""
    reply.out += [name, *([starts] if starts else [])]


ONE_JOB = {
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "status": _status,
    "show-config": _show_config,
}


READ_ONLY = {"status", "list", "version", "show-config"}


def answer(argv: list[str], is_root: bool) -> Reply:
    reply = Reply()
    words = [word for word in argv if not word.startswith("-")]
    verb = words.pop(0) if words else "help"
    with world.world:
        if "--version" in argv or verb == "version":
            reply.out.append("init (upstart 1.12.1)")
        elif not is_root and verb not in READ_ONLY:
            reply.err.append(f'{verb}: Rejected send message, 1 matched rules; type="method_call"')
            reply.code = 1
        elif verb == "list":
            reply.out += [describe(name, job) for name in jobs.all_names() if (job := job_of(name))]
        elif verb in ("reload-configuration", "check-config", "log-priority"):
            reply.code = 0
        elif verb not in ONE_JOB:
            reply.err.append(f"initctl: invalid command: {verb}")
            reply.code = 1
        elif not words:
            reply.err.append(f"{verb}: missing job name")
            reply.code = 1
        else:
            job = job_of(words[0])
            if job is None:
                reply.err.append(f"{verb}: Unknown job: {words[0]}")
                reply.code = 1
            else:
                ONE_JOB[verb](verb, words[0], job, reply)
    return reply
