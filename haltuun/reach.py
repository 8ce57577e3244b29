"""Which way to a host: SSH or Run Command.

A plan goes over SSH alone, because SendCommand leaves a command in the account. Otherwise, for a host
that is Online under its own id: SSH first where a login worked before (so that looking again stays
without a mutating call), Run Command first where none did. For all others SSH.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haltuun.config import AccountConfig, SshConfig
from haltuun.errors import ConfigError, Unreachable
from haltuun.jobs import FENCE
from haltuun.ledger import Ledger
from haltuun.model import Host, StageName, Unknown
from haltuun.run import Run
from haltuun.runcommand import NotDelivered, RunCommandTransport
from haltuun.ssh import Endpoint, Said, SshTransport, ask, load_keys, log_in, open_ssh, remembered_login
from haltuun.transport import Result, Transport

# The default user of an image's system (EC2 User Guide, "Default user names for AMIs").
_USERS_OF_IMAGES = (
    ("ubuntu", "ubuntu"),
    ("debian", "admin"),
    ("amzn", "ec2-user"),
    ("al2023", "ec2-user"),
    ("rhel", "ec2-user"),
    ("suse", "ec2-user"),
    ("centos", "centos"),
    ("fedora", "fedora"),
    ("bitnami", "bitnami"),
)
_BASTION = re.compile(
    r"^(?:(?P<user>[^@\s]+)@)?(?:\[(?P<ip6>[0-9A-Fa-f:]+)\]|(?P<host>[^:@\s]+))(?::(?P<port>\d{1,5}))?$"
)


@dataclass(frozen=True)
class Whereabouts:
    """What decides the way; None: EC2 has none, or it is not known."""

    private_ip: str | None = None
    public_ip: str | None = None
    key_name: str | None = None
    image_name: str | None = None
    ssm_status: str | None = None


def check_keys(account: AccountConfig) -> None:
    """Load the configured key files and the person's ssh configuration once, before any host is tried.

    Raises:
        ConfigError: naming the file that is missing, unreadable, encrypted, no private key, or no
            configuration of ssh that can be followed.
    """
    ask(account.ssh.config, [account.id])
    if account.ssh.key_files is not None:
        load_keys(account.ssh)


def open_host(run: Run, host: Host) -> Transport:
    """The Opener of a Run.

    Raises:
        ConfigError: a key file, known_hosts or the bastion's name cannot be used.
        Unreachable: no way leads there.
    """
    where = whereabouts(run, host)

    def by_ssh() -> Transport:
        return _by_ssh(run, host, where)

    def by_run_command() -> Transport:
        return RunCommandTransport(run.aws, host)

    online = where.ssm_status == "Online"
    fence = f"{run.ledger_id}:{run.fence}" if run.fence else ""
    if run.aws.read_only:
        try:
            return Reached([by_ssh], fence)
        except Unreachable as error:
            raise (_only_run_command(host, error) if online else error) from error
    if not online:
        return Reached([by_ssh], fence)
    if remembered_login(_Book(run.ledger, run.account.id), host.instance_id):
        return Reached([by_ssh, by_run_command], fence)
    return Reached([by_run_command, by_ssh], fence)


class Reached:
    """The first way that leads to the host; when a command cannot be delivered on it, the next."""

    def __init__(self, ways: Sequence[Callable[[], Transport]], fence: str) -> None:
        self._ways = list(ways)
        self._fence = fence
        self._inner = self._next(None)
        self.way = self._inner.way

    @property
    def legacy(self) -> bool | None:
        return self._inner.legacy if isinstance(self._inner, SshTransport) else None

    def run(self, script: str, *, timeout_s: float, env: Mapping[str, str] | None = None) -> Result:
        return self._deliver(lambda inner: inner.run(script, timeout_s=timeout_s, env=env))

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
        fenced = {FENCE: self._fence, **(env or {})} if self._fence else dict(env or {})
        return self._deliver(
            lambda inner: inner.run_job(
                job_id, script, timeout_s=timeout_s, env=fenced, files=files, before_start=before_start
            )
        )

    def close(self) -> None:
        self._inner.close()

    def _deliver(self, send: Callable[[Transport], Result]) -> Result:
        while True:
            try:
                return send(self._inner)
            except Unreachable as error:
                # Of other errors it is not known that nothing ran.
                if not isinstance(error, NotDelivered) and error.code != "TOO_LARGE_FOR_RUN_COMMAND":
                    raise
                self._inner = self._next(error)
                self.way = self._inner.way

    def _next(self, failed: Unreachable | None) -> Transport:
        while self._ways:
            try:
                return self._ways.pop(0)()
            except Unreachable as error:
                failed = _both(failed, error) if failed else error
        assert failed is not None
        raise failed


def _both(first: Unreachable, second: Unreachable) -> Unreachable:
    return type(second)(
        f"{second.message} Before that: {first.message}",
        subject=second.subject,
        remedy=second.remedy,
        code=second.code,
    )


def _only_run_command(host: Host, error: Unreachable) -> Unreachable:
    return Unreachable(
        f"a plan reaches hosts over SSH alone, and that fails: {error.message}",
        subject=host.label,
        remedy="A takeover reaches it with Run Command, for it is Online; or give Haltuun a key.",
        code="PLAN_NEEDS_SSH",
    )


# -- SSH -------------------------------------------------------------------------------------


class _Book:
    """The account's memory in the ledger, as ssh.Memory."""

    def __init__(self, ledger: Ledger, account: str) -> None:
        self._ledger = ledger
        self._account = account

    def recall(self, key: str) -> str | None:
        return self._ledger.recall(self._account, key)

    def remember(self, key: str, value: str) -> None:
        self._ledger.remember(self._account, key, value)


def _by_ssh(run: Run, host: Host, where: Whereabouts) -> SshTransport:
    ssh = run.account.ssh
    said = said_of(run.account, host, where)
    endpoint = endpoint_of(run.account, host, where, said)
    book = _Book(run.ledger, run.account.id)
    return open_ssh(endpoint, ssh, book, run.id, bastion_of(ssh) or hop_of(said, ssh))


class _Notes:
    """The book as it is read, with what is new on a sheet that is thrown away."""

    def __init__(self, book: _Book) -> None:
        self._book = book
        self._new: dict[str, str] = {}

    def recall(self, key: str) -> str | None:
        return self._new.get(key) or self._book.recall(key)

    def remember(self, key: str, value: str) -> None:
        self._new[key] = value


def worked_before(ledger: Ledger, account: AccountConfig, host: Host) -> bool:
    """Whether a login to the host is remembered."""
    return remembered_login(_Book(ledger, account.id), host.instance_id)


def try_ssh(account: AccountConfig, ledger: Ledger, host: Host, where: Whereabouts) -> str:
    """Log in over SSH and leave; nothing is run there, remembered here or newly trusted.

    Returns `user with key`.

    Raises:
        ConfigError, Unreachable.
    """
    said = said_of(account, host, where)
    endpoint = endpoint_of(account, host, where, said)
    notes = _Notes(_Book(ledger, account.id))
    return log_in(
        endpoint, account.ssh, notes, "doctor", bastion_of(account.ssh) or hop_of(said, account.ssh)
    )


def said_of(account: AccountConfig, host: Host, where: Whereabouts) -> Said:
    """What the person's ssh configuration says of the host, by its id or its address: names come more than
    once.

    Raises:
        ConfigError: it cannot be followed.
    """
    names = [host.instance_id, *filter(None, [_address_of(account, host, where)])]
    return ask(account.ssh.config, names, jumping=account.ssh.bastion is None)


def _address_of(account: AccountConfig, host: Host, where: Whereabouts) -> str | None:
    of_ec2 = where.public_ip if account.ssh.address == "public" else where.private_ip
    return account.host(host.instance_id).address or of_ec2


def hop_of(said: Said, ssh: SshConfig) -> Endpoint | None:
    """The host to go through, where the ssh configuration names one."""
    hop = said.jump
    if hop is None or not hop.address:
        return None
    return _bastion(hop.address, hop.port, hop.user, ssh, hop.key_files)


def endpoint_of(account: AccountConfig, host: Host, where: Whereabouts, said: Said | None = None) -> Endpoint:
    """Raises Unreachable when there is no address."""
    own, ssh, said = account.host(host.instance_id), account.ssh, said or Said()
    address = own.address or said.address or _address_of(account, host, where)
    users = (*filter(None, [said.user]), *likely_users(ssh.users, where.image_name))
    if not address:
        raise Unreachable(
            f"the instance has no {ssh.address} address.",
            subject=host.label,
            remedy="Set ssh.address, or an address for the host (hosts: <id>: address).",
        )
    return Endpoint(
        id=host.instance_id,
        label=host.label,
        address=address,
        port=own.port or (said.port if said.port and "port" not in ssh.model_fields_set else ssh.port),
        users=(own.user,) if own.user else tuple(dict.fromkeys(users)),
        key_hint=where.key_name,
        key_files=said.key_files,
    )


def likely_users(users: Sequence[str], image_name: str | None) -> tuple[str, ...]:
    """`users` with the image's default user first, if it is among them."""
    name = (image_name or "").lower()
    likely = [user for word, user in _USERS_OF_IMAGES if word in name and user in users]
    return tuple(dict.fromkeys([*likely, *users]))


def bastion_of(ssh: SshConfig) -> Endpoint | None:
    """Raises ConfigError when `ssh.bastion` is no [user@]host[:port]."""
    if ssh.bastion is None:
        return None
    match = _BASTION.match(ssh.bastion)
    if match is None:
        raise ConfigError(
            f"'{ssh.bastion}' is no bastion.", subject="ssh.bastion", remedy="Write it as user@host:port."
        )
    port = int(match["port"]) if match["port"] else None
    return _bastion(match["ip6"] or match["host"], port, match["user"], ssh)


def _bastion(
    address: str, port: int | None, user: str | None, ssh: SshConfig, key_files: tuple[Path, ...] = ()
) -> Endpoint:
    return Endpoint(
        id=f"bastion:{address}:{port or 22}",
        label=f"bastion {address}",
        address=address,
        port=port or 22,
        users=(user,) if user else tuple(ssh.users),
        key_files=key_files,
    )


# -- what is known of the host ---------------------------------------------------------------


def whereabouts(run: Run, host: Host) -> Whereabouts:
    """From what discover saw in this run; AWS is asked only for what it has not seen yet."""
    facts = run.facts.get(StageName.discover, {}).get(host.instance_id)
    account = run.account_facts.get(StageName.discover)
    standing = getattr(account, "standing", {}).get(host.instance_id)
    seen = facts if facts is not None else standing
    status = _known(seen, "ssm_status") or _known(standing, "ssm_status") or _ask_ssm_status(run, host)
    if seen is None and run.account.host(host.instance_id).address is None:
        return _ask_ec2(run, host, status)
    return Whereabouts(
        private_ip=_known(seen, "private_ip"),
        public_ip=_known(seen, "public_ip"),
        key_name=_known(seen, "key_name"),
        image_name=_known(seen, "image_name"),
        ssm_status=status,
    )


def _known(facts: object, name: str) -> str | None:
    value = getattr(facts, name, None)
    return value if isinstance(value, str) and value else None


def _ask_ssm_status(run: Run, host: Host) -> str | None:
    filters = [{"Key": "InstanceIds", "Values": [host.instance_id]}]
    nodes = run.aws.ask(
        lambda: run.aws.pages(
            "ssm", "DescribeInstanceInformation", "InstanceInformationList", host.region, Filters=filters
        )
    )
    if isinstance(nodes, Unknown):
        return None
    return next((str(node.get("PingStatus")) for node in nodes), None)


def _ask_ec2(run: Run, host: Host, status: str | None) -> Whereabouts:
    found = run.aws.ask(
        lambda: run.aws.pages(
            "ec2", "DescribeInstances", "Reservations", host.region, InstanceIds=[host.instance_id]
        )
    )
    if isinstance(found, Unknown):
        return Whereabouts(ssm_status=status)
    instances: list[dict[str, Any]] = [one for group in found for one in group.get("Instances", ())]
    instance = instances[0] if instances else {}
    return Whereabouts(
        private_ip=instance.get("PrivateIpAddress"),
        public_ip=instance.get("PublicIpAddress"),
        key_name=instance.get("KeyName"),
        ssm_status=status,
    )
