"""Facts to findings, and what the gate demands. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from haltuun.gates import Check, Doubt
from haltuun.model import Finding, Host, Severity, StageName, is_false, is_true
from haltuun.stages.base import View
from haltuun.stages.discover.facts import DiscoverFacts
from haltuun.stages.own import Own
from haltuun.stages.patch.facts import SCAN_MAX_AGE_H, PatchAccount, PatchFacts
from haltuun.stages.patch.kinds import baseline_value, family_named

# They install by themselves, so what a scan finds missing may be gone before the window.
_OWN_UPDATERS = ("unattended-upgrades", "dnf-automatic", "yum-cron")

CHECKS = (
    Check(
        column="eol",
        op="in_set",
        values=(False,),
        code="EOL",
        message="The operating system gets no security updates any more, whatever a scan says.",
        remedy="Move it to a supported release, or prove paid support (Ubuntu Pro, ELS) on the host.",
        in_doubt=Doubt(
            code="EOL_UNKNOWN",
            message="Until when the operating system gets security updates is not known.",
            remedy="See which system it runs and look its date up at the vendor; a release that is not in"
            " Haltuun's eol.yaml yet belongs there, and a host that nobody could look at needs a way in.",
        ),
    ),
    Check(
        column="supported",
        op="in_set",
        values=(True,),
        code="PATCH_UNSUPPORTED",
        message="Patch Manager does not know this operating system.",
        remedy="Patch it by another way and waive this for it in haltuun.yaml.",
    ),
    Check(
        column="prereq_ok",
        op="in_set",
        values=(True,),
        code="PATCH_PREREQ",
        message="Python 3 is missing, without which Patch Manager cannot scan a Debian or Ubuntu system.",
        remedy="Install python3 on the host (apt-get install python3), then retry.",
    ),
    Check(
        column="scanned",
        op="in_set",
        values=(True,),
        code="SCAN_MISSING",
        message="No patch scan of this host has come in.",
        remedy="See how the association haltuun-scan ended on it (State Manager), then retry.",
        because="scan_note",
    ),
    Check(
        column="scan_age_h",
        op="between",
        high=SCAN_MAX_AGE_H,
        code="SCAN_OLD",
        message="The last patch scan is {value} hours old; it must be younger than a day.",
        remedy="See how the association haltuun-scan ended on it (State Manager), then retry.",
        because="scan_note",
    ),
)


def judge(view: View) -> Sequence[Finding]:
    return (*_judge_account(view), *_judge_hosts(view))


def _judge_account(view: View) -> Iterator[Finding]:
    account = view.account_facts.get(StageName.patch)
    if not isinstance(account, PatchAccount):
        return
    for region, facts in sorted(account.regions.items()):
        if isinstance(facts.competing, tuple) and facts.competing:
            yield Finding(
                code="COMPETING_SCAN",
                severity=Severity.medium,
                message=f"In {region} {len(facts.competing)} other association(s) scan or install;"
                " the latest scan overwrites the one before, whatever baseline it used.",
                evidence=facts.competing,
                remedy="Decide which one stays, and delete the others.",
            )
        for name, seen in sorted(facts.baselines.items()):
            if isinstance(seen, Own) and seen.state == "ours" and _edited(name, seen):
                yield Finding(
                    code="BASELINE_CHANGED",
                    severity=Severity.medium,
                    message=f"The rules of the patch baseline {name} in {region} are not those that Haltuun"
                    " sets; they are left as they are.",
                    evidence=(seen.id,),
                    remedy="Compare them with Haltuun's; delete the baseline to have it made anew.",
                )


def _edited(name: str, seen: Own) -> bool:
    """Rules that could not be read (None) are not said to be others."""
    return seen.value["rules"] not in (None, baseline_value(family_named(name))["rules"])


def _judge_hosts(view: View) -> Iterator[Finding]:
    for instance_id, facts in view.facts.get(StageName.patch, {}).items():
        if isinstance(facts, PatchFacts) and instance_id in view.hosts:
            yield from _judge_host(view, view.hosts[instance_id], facts)


def _judge_host(view: View, host: Host, facts: PatchFacts) -> Iterator[Finding]:
    def finding(code: str, severity: Severity, message: str, remedy: str, *evidence: str) -> Finding:
        return Finding(
            code=code,
            severity=severity,
            message=message,
            host=host.instance_id,
            evidence=evidence,
            remedy=remedy,
        )

    if is_true(facts.group_foreign):
        yield finding(
            "PATCH_GROUP_FOREIGN",
            Severity.low,
            f"The patch group '{facts.group}' is a predecessor's; its baseline is used as it is.",
            "Compare that baseline with haltuun's, then change the tag if you want haltuun's.",
        )
    if is_false(facts.prereq_ok):
        yield finding(
            "PATCH_PREREQ",
            Severity.medium,
            "Python 3 is missing, without which Patch Manager cannot scan a Debian or Ubuntu system.",
            "Install python3 on the host.",
        )
    if isinstance(facts.failed, int) and facts.failed:
        yield finding(
            "PATCHES_FAILED",
            Severity.high,
            f"{facts.failed} patch(es) could not be installed.",
            "Read the output of the last AWS-RunPatchBaseline on it.",
        )
    if isinstance(facts.missing, int) and facts.missing:
        of_these = facts.security_missing if isinstance(facts.security_missing, int) else 0
        yield finding(
            "PATCHES_MISSING",
            Severity.high if of_these else Severity.medium,
            f"{facts.missing} approved patch(es) are missing, {of_these} of them for security.",
            "They are installed in the window haltuun-patch once the host is armed.",
        )
    if isinstance(facts.pending_reboot, int) and facts.pending_reboot:
        yield finding(
            "PENDING_REBOOT",
            Severity.medium,
            f"{facts.pending_reboot} installed patch(es) take effect only after a reboot.",
            "Plan a reboot: Haltuun does not restart a server that nobody knows.",
        )
    yield from _judge_updaters(view, host)


def _judge_updaters(view: View, host: Host) -> Iterator[Finding]:
    discover = view.facts.get(StageName.discover, {}).get(host.instance_id)
    if not isinstance(discover, DiscoverFacts) or not isinstance(discover.units, tuple):
        return
    own = sorted(unit for unit in discover.units if unit.startswith(_OWN_UPDATERS))
    if own:
        yield Finding(
            code="OWN_UPDATER",
            severity=Severity.low,
            message=f"Updates are installed by the host itself too, beside Patch Manager ({', '.join(own)}).",
            host=host.instance_id,
            evidence=tuple(own),
            remedy="Decide which of the two patches this host.",
        )
