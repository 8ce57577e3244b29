"""`doctor` tries SSH: one login for each group of hosts reached alike. It leaves nothing anywhere."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from haltuun.config import AccountConfig
from haltuun.errors import HaltuunError, HostKeyUnknown
from haltuun.ledger import Ledger
from haltuun.model import Host, StageName
from haltuun.reach import Whereabouts, likely_users, try_ssh, worked_before
from haltuun.report.page import when
from haltuun.report.standing import host_label

log = logging.getLogger("haltuun")

GROUPS = 4  # of an account, the largest first
DEADLINE_S = 60.0  # for all of them, side by side
# A VPC's block of addresses is a /16 at most: beyond it is another network.
NETWORK_BITS = 16


@dataclass(frozen=True)
class Group:
    """Hosts in the same network that have the same key pair and the same default user."""

    words: str
    hosts: tuple[tuple[Host, Whereabouts], ...]


@dataclass(frozen=True)
class Tried:
    """What was tried, and what came of it."""

    what: str
    ok: bool
    says: str


def try_account(ledger: Ledger, account: AccountConfig) -> list[Tried]:
    """Of the inventory as the ledger has it: running Linux hosts that are not left alone."""
    known = ledger.hosts(account.id)
    found = ledger.observations(account.id, "").get(StageName.discover)
    if not known or found is None:
        says = f"not tried, as no host is known yet: run 'haltuun plan {account.label}', then this again."
        return [Tried("SSH", True, says)]
    at, facts = found
    groups = groups_of(account, known, facts.get("standing") or {})
    if not groups:
        return [Tried("SSH", True, f"not tried: no running Linux host is known, as of {when(at)}.")]
    chosen = [(group, *_first(ledger, account, group)) for group in groups[:GROUPS]]
    tries = [partial(try_ssh, account, ledger, host, where) for _, host, where in chosen]
    outcomes = within(tries, DEADLINE_S)
    tried = [
        _told(account, known, at, group, host, outcome)
        for (group, host, _), outcome in zip(chosen, outcomes, strict=True)
    ]
    if rest := groups[GROUPS:]:
        count = sum(len(group.hosts) for group in rest)
        says = f"not tried: {len(rest)} smaller group(s) with {count} host(s); {GROUPS} are tried at most."
        tried.append(Tried("SSH", True, says))
    return tried


def groups_of(
    account: AccountConfig, known: Mapping[str, Host], standing: Mapping[str, Mapping[str, Any]]
) -> list[Group]:
    """The largest first; `standing` is discover's, by instance id. Pure."""
    groups: dict[str, list[tuple[Host, Whereabouts]]] = {}
    for instance_id, host in known.items():
        seen = standing.get(instance_id)
        if seen is None or seen.get("state") != "running" or seen.get("platform") != "linux":
            continue
        if seen.get("exclude") or account.host(instance_id).exclude:
            continue
        where = Whereabouts(
            private_ip=seen.get("private_ip"),
            public_ip=seen.get("public_ip"),
            key_name=seen.get("key_name"),
            image_name=seen.get("image_name"),
        )
        groups.setdefault(_words(account, host, where), []).append((host, where))
    return sorted(
        (Group(words, tuple(hosts)) for words, hosts in groups.items()), key=lambda g: -len(g.hosts)
    )


def _words(account: AccountConfig, host: Host, where: Whereabouts) -> str:
    own = account.host(host.instance_id)
    of_ec2 = where.public_ip if account.ssh.address == "public" else where.private_ip
    users = [own.user] if own.user else likely_users(account.ssh.users, where.image_name)
    pair = f"key pair {where.key_name}" if where.key_name else "no key pair"
    return ", ".join([host.region, _network(own.address or of_ec2), pair, *map(str, users[:1])])


def _network(address: str | None) -> str:
    if not address:
        return "no address"
    try:
        one = ipaddress.ip_address(address)
    except ValueError:
        return "by name"
    if one.is_global or one.version == 6:
        return "public" if one.is_global else "IPv6"
    return str(ipaddress.ip_network(f"{address}/{NETWORK_BITS}", strict=False))


def _first(ledger: Ledger, account: AccountConfig, group: Group) -> tuple[Host, Whereabouts]:
    """A host that was entered before, where there is one: it tells more of the others than a broken one."""
    entered = (one for one in group.hosts if worked_before(ledger, account, one[0]))
    return next(entered, group.hosts[0])


def within(tries: Sequence[Callable[[], str]], deadline_s: float) -> list[str | HaltuunError | None]:
    """What each returns or raises, side by side; None for one that is not over in time and is left behind."""
    outcomes: list[str | HaltuunError | None] = [None] * len(tries)

    def work(number: int) -> None:
        try:
            outcomes[number] = tries[number]()
        except HaltuunError as error:
            outcomes[number] = error
        except Exception as error:
            log.debug("trying SSH", exc_info=True)
            said = str(error).partition("\n")[0]
            outcomes[number] = HaltuunError(
                f"{type(error).__name__} while it was tried: {said or 'without a word'}.",
                remedy="This is a defect of Haltuun: report it.",
                code="INTERNAL",
            )

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(len(tries))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + deadline_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(outcomes)


def _told(
    account: AccountConfig,
    known: Mapping[str, Host],
    at: datetime,
    group: Group,
    host: Host,
    outcome: str | HaltuunError | None,
) -> Tried:
    what = f"SSH to {host_label(known, host.instance_id)}"
    count = len(group.hosts)
    like = f"one of {count} like it" if count > 1 else "the only one of its kind"
    about = f"({like}: {group.words}; as of {when(at)})"
    if isinstance(outcome, str):
        return Tried(what, True, f"host key known, logged in as {outcome} {about}.")
    if outcome is None:
        says = f"no answer within {DEADLINE_S:.0f} s; not waited for any longer {about}."
        return Tried(what, False, f"{says} Look at the way to the host, or at its console output.")
    if isinstance(outcome, HostKeyUnknown) and account.ssh.host_keys == "trust-first":
        says = f"sshd answers; {outcome.message} A run trusts it at the first contact (ssh.host_keys:"
        return Tried(what, True, f"{says} trust-first), doctor trusts none, so no login was tried {about}.")
    return Tried(what, False, f"{outcome.message} {outcome.remedy} [{outcome.code}] {about}")
