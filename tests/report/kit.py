"""A ledger as two runs leave it, with one host in each place and names that mean harm."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from haltuun.config import AccountConfig, Config
from haltuun.ledger import Ledger
from haltuun.model import (
    Change,
    Finding,
    Host,
    HostStatus,
    Plan,
    Proof,
    Reach,
    Severity,
    StageName,
    Undo,
    Unknown,
    Verdict,
)
from haltuun.stages.discover.facts import (
    DiscoverAccount,
    DiscoverFacts,
    HybridNode,
    Listener,
    RegionFacts,
    Standing,
)

ACCOUNT, LABEL, REGION = "111122223333", "acme", "eu-central-1"
FIRST, LAST = "20261101T010000-aaaaaa", "20261108T010000-bbbbbb"
NOW = datetime.now(UTC).replace(microsecond=0)
THEN = NOW - timedelta(days=7)

HTML = "<script>alert(1)</script>"
LINK = "[x](https://evil.example/)"
TERMINAL = "\x1b[31m=HYPERLINK(1)\x07\u202e"
TABLE = "a|b`c` https://evil.example/"
FORMULA = "=cmd|' /C calc'!A0"
NAMES = ("sound", HTML, LINK, TERMINAL, TABLE, FORMULA, "suspect", "left", "new", "")
SOUND, FULL, FULLER, UNSURE, PATIENT, ASKING, SUSPECT, LEFT, NEW, OPEN = (
    f"i-{n:017x}" for n in range(len(NAMES))
)
HOSTS = {
    instance_id: Host(account=ACCOUNT, region=REGION, instance_id=instance_id, name=name)
    for instance_id, name in zip(
        (SOUND, FULL, FULLER, UNSURE, PATIENT, ASKING, SUSPECT, LEFT, NEW, OPEN), NAMES, strict=True
    )
}
PASSED = HostStatus(verdict=Verdict.passed)
NEXT_CHECK = NOW + timedelta(days=2)


def config(folder: Path) -> Config:
    return Config(
        state_dir=folder,
        database_url=f"sqlite:///{folder}/ledger.db",
        accounts=[AccountConfig(id=ACCOUNT, alias=LABEL, regions=[REGION])],
    )


def tag(host: str, value: str, before: str | None = None) -> Change:
    return Change(
        stage=StageName.backup,
        kind="ec2.tag",
        region=REGION,
        target=host,
        hosts=(host,),
        before=before,
        after=value,
        reach=Reach.host,
        summary=f"Tag {HOSTS[host].label} backup={value}.",
        undo=Undo(kind="ec2.tag", after=before),
    )


TAG, SENT, FAILED = tag(SOUND, "daily"), tag(FULL, "daily"), tag(FULLER, "daily")
SNAPSHOT = tag(SOUND, "now").model_copy(
    update={
        "kind": "backup.now",
        "undo": None,
        "no_undo": "A recovery point stays.",
        "reach": Reach.irreversible,
        "summary": f"Back up {HOSTS[SOUND].label} now.",
    }
)
TAKEN_BACK = tag(NEW, "weekly")
INVERSE = TAKEN_BACK.model_copy(
    update={"before": "weekly", "after": None, "undo": None, "undoes": TAKEN_BACK.id}
)
WAITS = Change(
    stage=StageName.verify,
    kind="iam.role.policy",
    region=REGION,
    target="acme-role",
    hosts=(ASKING,),
    before=None,
    after={"policy": "haltuun"},
    reach=Reach.shared,
    summary="Add a policy to acme-role.",
    undo=Undo(kind="iam.role.policy", after=None),
)
PLAN = Plan(account=ACCOUNT, changes=(WAITS, TAG))

ENDS: Mapping[str, tuple[StageName, HostStatus]] = {
    FULL: (
        StageName.repair,
        HostStatus(
            verdict=Verdict.held,
            reason="DISK_FULL",
            message=f"{FULL} is full.",
            remedy=f"Free it: ssh {FULL}",
        ),
    ),
    FULLER: (
        StageName.repair,
        HostStatus(
            verdict=Verdict.held,
            reason="DISK_FULL",
            message=f"{FULLER} is full.",
            remedy=f"Free it: ssh {FULLER}",
        ),
    ),
    UNSURE: (
        StageName.verify,
        HostStatus(verdict=Verdict.unknown, reason="DNS_FAILS", message="Not known.", remedy="Look."),
    ),
    PATIENT: (
        StageName.repair,
        HostStatus(
            verdict=Verdict.waiting,
            reason="WAITING_SERVICE",
            message="It will come.",
            remedy="Wait.",
            next_check=NEXT_CHECK,
        ),
    ),
    ASKING: (
        StageName.verify,
        HostStatus(
            verdict=Verdict.pending, reason="AWAITS_APPROVAL", message="It waits.", remedy="Approve it."
        ),
    ),
    SUSPECT: (
        StageName.discover,
        HostStatus(verdict=Verdict.held, reason="SUSPECT", message="Strong signs.", remedy="Decide."),
    ),
    LEFT: (
        StageName.discover,
        HostStatus(verdict=Verdict.excluded, reason="EXCLUDED", message="Not ours.", remedy=""),
    ),
}
LISTENERS = (
    Listener(
        port=22,
        protocol="tcp",
        address="0.0.0.0",
        process="sshd",
        package="openssh-server",
        unit="ssh.service",
    ),
    Listener(port=80, protocol="tcp", address="0.0.0.0", process="nginx", package=HTML, unit="nginx.service"),
    Listener(port=80, protocol="tcp", address="::", process="nginx", package=HTML, unit="nginx.service"),
    Listener(port=3306, protocol="tcp", address="127.0.0.1", process="mysqld"),
)


def write_first_run(ledger: Ledger) -> None:
    """Everybody but the new host is there and through."""
    known = [host for host in HOSTS if host != NEW]
    ledger.start_run(ACCOUNT, FIRST, {"mode": "apply"}, THEN)
    ledger.saw_hosts(FIRST, [HOSTS[host] for host in known])
    for stage in StageName:
        ledger.judged(ACCOUNT, FIRST, stage, {host: PASSED for host in known if host != OPEN}, THEN)
    facts = {host: DiscoverFacts(observed_at=THEN) for host in known}
    ledger.observed(ACCOUNT, FIRST, StageName.discover, "plan", {**facts, "": DiscoverAccount()}, THEN)
    ledger.approved(FIRST, PLAN, HTML, "plan hash", THEN, plan_run="planned")
    _journal(ledger, FIRST, TAG, "confirmed")
    _journal(ledger, FIRST, SNAPSHOT, "confirmed")
    _journal(ledger, FIRST, TAKEN_BACK, "confirmed")
    ledger.end_run(ACCOUNT, FIRST, "PartiallyDone", {}, THEN)


def write_last_run(ledger: Ledger) -> None:
    """Each host comes to its own end."""
    at = NOW - timedelta(hours=5)
    ledger.start_run(ACCOUNT, LAST, {"mode": "apply"}, at)
    ledger.saw_hosts(LAST, [host for host in HOSTS.values() if host.instance_id != OPEN])
    ledger.planned(LAST, PLAN, at)
    for stage in StageName:
        verdicts = {
            host: ENDS[host][1] if ENDS.get(host, ("", None))[0] is stage else PASSED
            for host in HOSTS
            if host != OPEN
        }
        ledger.judged(ACCOUNT, LAST, stage, verdicts, at)
    facts = {
        host: DiscoverFacts(
            observed_at=at,
            listeners=LISTENERS if host != UNSURE else Unknown(unknown="SSH_REFUSED: it refuses"),
            os_name="Ubuntu 22.04 LTS",
            disk_free_percent=12.5,
            tags={"Name": HOSTS[host].name},
        )
        for host in HOSTS
        if host != OPEN
    }
    node = HybridNode(node_id="mi-0123456789abcdef0", ping_status="Online", ip_address="10.0.0.9")
    account = DiscoverAccount(
        regions={REGION: RegionFacts(hybrid_nodes=(node,))},
        standing={FULL: Standing(state="running", platform="linux", private_ip="10.0.0.9")},
    )
    ledger.observed(ACCOUNT, LAST, StageName.discover, "plan", {**facts, "": account}, at)
    ledger.found(
        ACCOUNT,
        LAST,
        StageName.discover,
        "plan",
        [
            Finding(
                code="SUSPECT",
                severity=Severity.critical,
                message="Strong signs.",
                host=SUSPECT,
                evidence=("/tmp/<b>x</b>",),
                remedy="A person decides.",
            ),
            Finding(code="EOL", severity=Severity.high, message="Too old.", host=FULL, remedy="Upgrade."),
        ],
    )
    _journal(ledger, LAST, SENT, "sent")
    _journal(ledger, LAST, FAILED, "failed", note="the disk is full")
    _journal(ledger, LAST, INVERSE, "confirmed")
    ledger.proved(ACCOUNT, LAST, [_proof(SOUND, NOW + timedelta(days=1)), _proof(FULL, NOW - timedelta(1))])
    ledger.end_run(ACCOUNT, LAST, "AwaitingApproval", {"plan_hash": PLAN.hash}, at)


def _journal(ledger: Ledger, run: str, change: Change, last: str, note: str | None = None) -> None:
    for event in ("intended", "sent", last)[: 2 if last == "sent" else 3]:
        ledger.journal(run, ACCOUNT, change, event, THEN if run == FIRST else NOW, note)


def _proof(host: str, valid_until: datetime) -> Proof:
    return Proof(
        host=host,
        stage=StageName.backup,
        kind="recovery_point",
        evidence=f"completed {HTML}",
        observed_at=NOW - timedelta(hours=4),
        valid_until=valid_until,
    )
