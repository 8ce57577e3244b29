"""A takeover that is killed in the middle of a repair's script, together with something of the host."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from haltuun.config import load_config
from haltuun.effects import open_changes
from haltuun.ledger import ChangeEvent, Ledger
from haltuun.model import StageName, Verdict
from haltuun.reach import open_host
from haltuun.stages.repair.facts import RepairFacts
from haltuun.undo import open_undo
from lab import api
from tests.stages.repair.host_kit import Hosts
from tests.stages.repair.pairs import Case, inside, kept, lay
from tests.stages.repair.runs import STAGES, take_over

FIRST = Case("stale", "systemd", "running")


# A run that lives has a session, or will have one again: it is waited for, so that there is something to cut.
_SESSIONS = """
sessions() {
    pgrep -f 'sshd: .*(@|priv)' | tr '\\n' ' '
}
cut=$(sessions)
tries=0
while [ "$lives" = yes ] && [ -z "$cut" ]; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || exit 9
    sleep 0.1
    cut=$(sessions)
done
"""
_CUT = """
if [ -n "$cut" ]; then kill -KILL $cut 2>/dev/null; fi
for pid in $cut; do
    while [ -e "/proc/$pid" ]; do sleep 0.05; done
done
[ "$lives" = yes ] || [ -z "$(sessions)" ] || exit 8
"""


def _kill_sshd(hosts: Hosts, name: str, run_lives: bool) -> None:
    again = "systemctl start ssh || initctl start ssh\nuntil pgrep -x sshd; do sleep 0.1; done"
    _cut(hosts, name, run_lives, "pkill -KILL sshd", again)


def _cut(hosts: Hosts, name: str, run_lives: bool, before: str = ":", after: str = ":") -> None:
    """The sessions alone; who listens goes on."""
    lives = f"lives={'yes' if run_lives else 'no'}"
    inside(hosts, name, "\n".join((lives, _SESSIONS, before, _CUT, after)))


def _kill_script(hosts: Hosts, name: str, run_lives: bool) -> None:
    """With its runner, which would tell of it; that may not have said yet that it has begun."""
    script = """
        for pid in $(pgrep -f '^[^ ]*sh .*/jobs/.*/[.]run/(lay[.]|script)'); do
            session=$(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f4)
        done
        pkill -KILL -s "$session"
    """
    inside(hosts, name, script)


def _reboot(hosts: Hosts, name: str, run_lives: bool) -> None:
    for on in (True, False):
        api.fault(hosts.info.name, name, "rebooted", on)
    hosts.info.hosts[name]["pid"] = api.status(hosts.info.name)["boxes"][name]["pid"]


WAYS: dict[str, Callable[[Hosts, str, bool], None]] = {
    "sshd is killed": _kill_sshd,
    "the connection is cut": _cut,
    "the script is killed": _kill_script,
    "the host is rebooted": _reboot,
}


def walk(hosts: Hosts, name: str, folder: Path, way: str, *, run_dies: bool) -> None:
    """The next run comes to the end of one that was left alone, and the undo leads back to the beginning."""
    lay(hosts, name, FIRST)
    first, host = kept(hosts, name, FIRST), hosts.host(name).instance_id
    url = f"sqlite:///{folder}/ledger.db"
    run = _begin(hosts, name, url)
    try:
        if run_dies:
            run.kill()
            run.join()
        WAYS[way](hosts, name, not run_dies)
        run.join(120)
        assert run_dies or run.exitcode == 0
    finally:
        run.kill()
    ledger = Ledger(url)
    try:
        takeover = take_over(load_config(hosts.info.config_path), ledger, [host])
        assert takeover.progress[StageName.repair].statuses[host].verdict is Verdict.passed
        facts = takeover.run.facts[StageName.repair][host]
        assert isinstance(facts, RepairFacts)
        is_right(facts, host)
        saved = hosts.file(name, "/var/lib/haltuun/saved")
        assert all((state / "COMPLETE").exists() for state in saved.iterdir())
        events = ledger.change_events(hosts.info.account_id)
        assert open_changes(events) == [] and all_known_and_once(events)
        take_back(hosts, name, ledger)
        assert kept(hosts, name, FIRST) == first
    finally:
        ledger.close()


def is_right(facts: RepairFacts, host: str) -> None:
    agent = (facts.identity, facts.connected, facts.running, facts.enabled)
    assert agent == ("EC2", True, True, True), agent
    seen = (facts.causes, facts.online_as, facts.echoed)
    assert seen == ((), host, True), seen


def _begin(hosts: Hosts, name: str, url: str) -> BaseProcess:
    """A run in a process of its own, which has just cleared the host's registration."""
    run = multiprocessing.get_context("fork").Process(target=_run, args=(hosts, name, url))
    run.start()
    key = hosts.file(name, "/var/lib/amazon/ssm/Vault/Store/RegistrationKey")
    deadline = time.monotonic() + 90
    while json.loads(key.read_text() or "{}").get("instanceID") != "":
        assert run.is_alive() and time.monotonic() < deadline, "it cleared nothing"
        time.sleep(0.02)
    return run


def _run(hosts: Hosts, name: str, url: str) -> None:
    take_over(load_config(hosts.info.config_path), Ledger(url), [hosts.host(name).instance_id])


def all_known_and_once(events: Sequence[ChangeEvent]) -> bool:
    """Nothing took effect twice, and of all that was begun it is known what came of it."""
    for change_id in {event.change_id for event in events}:
        told = [event.event for event in events if event.change_id == change_id]
        if told.count("confirmed") > 1 or told[-1] not in ("confirmed", "not_done", "not_taken"):
            return False
    return True


def take_back(hosts: Hosts, name: str, ledger: Ledger) -> None:
    config, account = load_config(hosts.info.config_path), hosts.info.account_id
    for run in reversed([row.run for row in ledger.runs(account) if row.mode == "apply"]):
        undoing = open_undo(config, run, approved=True, stages=STAGES, opener=open_host, ledger=ledger)
        undoing.begin("test")
        for wave in undoing.waves():
            for host in wave:
                undoing.act_on_host(host)
        undoing.act_on_account()
        undoing.end(undoing.outcome())
        assert undoing.outcome() in ("Undone", "NothingToUndo"), undoing.steps
    inside(hosts, name, "pgrep -x amazon-ssm-agen")
