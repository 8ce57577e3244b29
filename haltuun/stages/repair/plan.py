"""Causes → the least step that mends them, or why none is taken. Pure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from haltuun.config import PackagePin
from haltuun.model import (
    Barred,
    Change,
    Finding,
    Json,
    Reach,
    StageName,
    StagePlan,
    Undo,
    Unknown,
    Verdict,
    is_false,
    is_true,
    known,
)
from haltuun.stages.base import View
from haltuun.stages.repair.agentlog import is_older
from haltuun.stages.repair.facts import RepairAccount, RepairFacts, RootCredentials, Unfinished
from haltuun.stages.repair.guards import (
    BEFORE_CLEARING,
    BEFORE_RESTARTING,
    BY_HAND,
    UNTOUCHABLE,
    Case,
    first,
    own_identities,
    sends_no_token,
    waiting,
    wants_tokens,
)
from haltuun.stages.repair.leftovers import CONFIG_FILE, CREDENTIALS_FILE, TOKEN_KEYS, digest_of
from haltuun.stages.repair.orphans import plan_orphans
from haltuun.stages.repair.package import REMEDY, fitting
from haltuun.stages.repair.parse import discovered
from haltuun.stages.repair.rules import OFF, OLDEST_VERSION, ON, TOKENS_FIRST_SINCE
from haltuun.stages.repair.situation import situation_of
from haltuun.stages.repair.state import PROOF_LATER, WAKEABLE
from haltuun.stages.repair.wording import WORDING

log = logging.getLogger("haltuun")

SAVED = "/var/lib/haltuun/saved"
# Said where a change is approved, and part of its id.
UNPROVEN = "UNPROVEN: its script was tested against recorded output only, not on a real host."
UNPROVEN_TERM: dict[str, Json] = {"proven": "on recorded output only"}
_TOO_OLD = "is older than Session Manager"
# After that a saved state tells nothing of what is wrong today.
UNFINISHED_FOR = timedelta(days=7)


def plan(view: View) -> StagePlan:
    changes: list[Change] = []
    barred: list[Barred] = []
    notes: list[Finding] = []
    prepared: dict[str, list[Change]] = {}
    for change in view.changes_of(StageName.verify):
        for host in change.hosts:
            prepared.setdefault(host, []).append(change)
    for instance_id in view.entering:
        facts = view.facts.get(StageName.repair, {}).get(instance_id)
        if not isinstance(facts, RepairFacts):
            continue
        case = _case(view, instance_id, facts, prepared.get(instance_id, ()))
        try:
            steps, noted = plan_host(case), _notes(case)
        except Exception as error:
            log.exception("planning the repair of %s", instance_id)
            steps, noted = _unplanned(case, error), []
        if isinstance(steps, Barred):
            barred.append(steps)
        else:
            changes.extend(steps)
        notes.extend(noted)
    changes.extend(plan_orphans(view))
    return StagePlan(changes=tuple(changes), barred=tuple(barred), notes=tuple(notes))


def _unplanned(case: Case, error: Exception) -> Barred:
    """One host never fails its neighbours, with a defect of Haltuun neither."""
    return case.barred(
        "INTERNAL",
        f"{type(error).__name__} while its repair was planned; see the log.",
        "Report it with the log; the host is left as it is.",
        Verdict.unknown,
    )


def _case(view: View, instance_id: str, facts: RepairFacts, prepared: Sequence[Change]) -> Case:
    account = view.account_facts.get(StageName.repair)
    return Case(
        view=view,
        host=view.hosts[instance_id],
        facts=facts,
        found=discovered(view, instance_id),
        account=account if isinstance(account, RepairAccount) else RepairAccount(),
        prepared=tuple(prepared),
    )


def plan_host(case: Case) -> tuple[Change, ...] | Barred:
    """The host's changes in order, none if it is well; or why it stays as it is."""
    if _is_well(case):
        return ()
    barred = first(case, UNTOUCHABLE) or first(case, BY_HAND)
    if barred is not None:
        return barred
    config = own_identities(case)
    if config is not None:
        return _with_config(case, config)
    return _steps(case)


def _steps(case: Case) -> tuple[Change, ...] | Barred:
    if case.has("SNAP_AND_DEB"):
        if (
            is_true(case.facts.online_as_self)
            and case.facts.identity == "EC2"
            and not case.has("STALE_HYBRID")
        ):
            # It works; the other package is named, and no reason to restart.
            return (*_credentials(case), *(_enable(case) if case.agent.package == _kept(case) else ()))
        return _one_of_two(case)
    if case.has("STALE_HYBRID"):
        return first(case, BEFORE_CLEARING) or _repair_stale(case)
    if case.has("AGENT_MISSING"):
        installed = _install_or_barred(case, ())
        return installed if isinstance(installed, Barred) else (*installed, *_credentials(case))
    if _needs_restart(case):
        return first(case, BEFORE_RESTARTING) or _wake(case)
    others = (*_credentials(case), *_enable(case))
    if others or not is_false(case.facts.online_as_self):
        return others
    return _renew(case, OLDEST_VERSION, _TOO_OLD) or waiting(case)


def _wake(case: Case) -> tuple[Change, ...] | Barred:
    """A restart, unless that would do nothing: then a newer agent, or nothing."""
    if _unfinished(case) is not None:  # which the restart ends, and puts back what it left
        return (_restart(case), *_credentials(case))
    if sends_no_token(case):
        newer = _renew(case, TOKENS_FIRST_SINCE, "sends no session token, and the instance metadata want one")
        return (*newer, *_credentials(case)) if newer else wants_tokens(case)
    # An old agent that runs and of which nothing tells why it does not connect was started before, too.
    newer = () if case.has(*_REASONS) else _renew(case, OLDEST_VERSION, _TOO_OLD)
    return (*(newer or (_restart(case),)), *_credentials(case))


def _is_well(case: Case) -> bool:
    facts = case.facts
    if not is_true(facts.online_as_self) or facts.identity != "EC2":
        return False
    # Not having been let in leaves nothing to plan: it is Online as itself.
    return isinstance(facts.agent, Unknown) or not (
        case.has("STALE_HYBRID", "CREDENTIALS_SHADOWED") or is_false(facts.enabled)
    )


def _needs_restart(case: Case) -> bool:
    facts = case.facts
    if case.has("CLEARED_NOT_RESTARTED", "AGENT_STOPPED"):
        return True
    if known(facts.identity) and facts.identity != "EC2":
        return True
    if is_true(facts.online_as_self):
        return False
    return is_false(facts.connected)


# -- steps --------------------------------------------------------------------------------------------------


def _step(
    case: Case,
    kind: str,
    after: dict[str, Json],
    summary: str,
    *,
    depends_on: tuple[str, ...] = (),
    undo_kind: str = "",
    undo_after: Json = None,
    no_undo: str = "",
    reach: Reach = Reach.host,
    only_if_failed: str | None = None,
    terms: dict[str, Json] | None = None,
) -> Change:
    """`terms` are part of what is approved, hence of the id, and no state that could be looked at."""
    now = case.state
    before = {key: now[key] for key in after}
    change = Change(
        stage=StageName.repair,
        kind=kind,
        region=case.host.region,
        target=case.host.instance_id,
        hosts=(case.host.instance_id,),
        before=before,
        after={**after, **(terms or {})},
        reach=reach,
        summary=summary,
        no_undo=no_undo,
        depends_on=tuple(sorted({*(c.id for c in case.prepared), *depends_on})),
        only_if_failed=only_if_failed,
        detail={"account": case.host.account},
    )
    if not undo_kind:
        return change
    saved = {"saved": f"{SAVED}/{change.id}"} if undo_kind.endswith("restore") else {}
    undo = Undo(kind=undo_kind, after={**saved, **(undo_after or before)})
    return change.model_copy(update={"undo": undo})


def _repair_stale(case: Case) -> tuple[Change, ...] | Barred:
    """`-register -clear`, and if that takes nothing away, the three files that decide moved aside."""
    mi, region = case.facts.vault_instance_id, case.facts.vault_region
    registration = f"the hybrid registration {mi} ({region})"
    foreign = is_true(case.facts.vault_foreign)
    fate = (
        f"the registration is {_owner(case)}, so it stays off even if the proof does not come"
        if foreign
        else "if the proof does not come, the saved state is put back"
    )
    token = case.agent.credentials if _token_is_the_agents(case) else None
    terms: dict[str, Json] = {
        "registration": mi,
        "registration_region": region,
        "unproven": "stays off" if foreign else "put back",
        "token": "goes with it" if token else "not touched",
    }
    also = f"; {_token(token)} goes with the saved state" if isinstance(token, RootCredentials) else ""
    fate += also
    if case.has("AGENT_MISSING"):
        aside = _step(
            case,
            "agent.vault_aside",
            {"identity": "none", "instance_id": None, "vault": None},
            f"Move {registration} of the agent that is no longer installed aside"
            f" (RegistrationKey, Manifest, InstanceFingerprint); state is saved first{also}.",
            undo_kind="agent.restore",
            terms=terms,
        )
        rest = _install_or_barred(case, (aside.id,))
        return rest if isinstance(rest, Barred) else (aside, *rest)
    after: dict[str, Json] = {"identity": "EC2", "instance_id": case.host.instance_id, "vault": None}
    clear = _step(
        case,
        "agent.clear",
        after,
        f"Stop the agent, clear {registration} and start it as {case.host.instance_id};"
        f" state is saved first, and {fate}.",
        undo_kind="agent.restore",
        terms=terms,
    )
    aside = _step(
        case,
        "agent.vault_aside",
        after,
        f"Only if clearing takes no effect: move {registration} aside (RegistrationKey, Manifest,"
        f" InstanceFingerprint) and start the agent; state is saved first, and {fate}.",
        undo_kind="agent.restore",
        only_if_failed=clear.id,
        terms=terms,
    )
    return (clear, aside)


def _owner(case: Case) -> str:
    if case.facts.vault_region != case.host.region:
        return f"of region {case.facts.vault_region}"
    return "no node of this account"


def _with_config(case: Case, config: str) -> tuple[Change, ...] | Barred:
    """The registration's second place first: what follows starts the agent, which reads the file then."""
    mi = case.facts.vault_instance_id
    assert not isinstance(case.agent.config, Unknown)
    now = case.state
    step = _step(
        case,
        "agent.config",
        {"config": digest_of(config)},
        f"Take Identity.CustomIdentities, which names nothing but {mi}, out of {CONFIG_FILE}; the file is"
        " saved first, and undo puts it back byte for byte.",
        undo_kind="agent.config_restore",
        undo_after={"config": now["config"]},
        terms={
            "registration_named": mi,
            "unproven": "stays off" if is_true(case.facts.vault_foreign) else "put back",
        },
    )
    rest = _steps(replace(case, prepared=(*case.prepared, step)))
    return rest if isinstance(rest, Barred) else (step, *rest)


def _restart(case: Case) -> Change:
    after: dict[str, Json] = {"identity": "EC2", "running": True, "enabled": True, "connected": True}
    unfinished = _unfinished(case)
    terms: dict[str, Json] = {}
    before_it: dict[str, Json] = {}
    fate = ""
    if unfinished is not None:
        terms = {"unfinished": unfinished.change_id}
        if unfinished.registration:
            terms["registration"] = unfinished.registration
            terms["unproven"] = "stays off" if unfinished.foreign else "put back"
            before_it = _before(unfinished)
        then = "stays off, for it is another owner's" if unfinished.foreign else "is put back"
        fate = (
            f" It ends the interrupted repair {unfinished.change_id}: if the proof does not come, the state"
            f" that was saved {then}."
        )
    now = case.state
    was_up = now["running"] is True and now["enabled"] is not False
    return _step(
        case,
        "agent.restart",
        after,
        f"{'Restart' if now['running'] is True else 'Start and enable'} the agent: {_reason(case)}{fate}",
        undo_kind="agent.restore" if before_it else "" if was_up else "agent.state",
        undo_after=before_it or {"running": now["running"], "enabled": now["enabled"]},
        no_undo="It ran before and runs after." if was_up and not before_it else "",
        terms=terms,
    )


def _before(unfinished: Unfinished) -> dict[str, Json]:
    """As it was before the interrupted repair, whose own change never came into effect to be taken back."""
    mi = unfinished.registration
    return {
        "identity": "OnPrem",
        "instance_id": mi,
        "vault": mi,
        "saved": f"{SAVED}/{unfinished.change_id}",
    }


def _unfinished(case: Case) -> Unfinished | None:
    """What a killed repair left to end: unless the agent has come up since, or it is long ago."""
    agent = case.agent
    if isinstance(agent.unfinished, Unknown) or not agent.unfinished or isinstance(agent.clock, Unknown):
        return None
    last = max(agent.unfinished, key=lambda unfinished: unfinished.saved_at)
    log = situation_of(agent).log
    connected = log.connected.at if log is not None and log.connected is not None else None
    came_up = case.facts.identity == "EC2" and connected is not None and connected >= last.saved_at
    return None if came_up or agent.clock - last.saved_at > UNFINISHED_FOR else last


# Why an agent is to be restarted.
_REASONS = ("CLEARED_NOT_RESTARTED", "ORPHAN_WORKER", "AGENT_STOPPED", *WAKEABLE)


def _reason(case: Case) -> str:
    for code in _REASONS:
        if case.has(code):
            message = WORDING[code].message
            return message[0].lower() + message[1:]
    return "it has not connected since its last start."


def _enable(case: Case) -> tuple[Change, ...]:
    if not is_false(case.facts.enabled) or not is_true(case.facts.running):
        return ()
    enable = _step(
        case,
        "agent.state",
        {"running": True, "enabled": True},
        "Enable the agent, so that it runs again after a reboot.",
        undo_kind="agent.state",
    )
    return (enable,)


def _token_is_the_agents(case: Case) -> bool:
    """What a person wrote is named in a finding, and the file is not touched."""
    credentials = case.agent.credentials
    return case.has("CREDENTIALS_SHADOWED") and not isinstance(credentials, Unknown) and credentials.of_agent


def _credentials(case: Case) -> tuple[Change, ...]:
    credentials = case.agent.credentials
    if not _token_is_the_agents(case) or isinstance(credentials, Unknown):
        return ()
    # While it still is a hybrid one, the agent writes a new token each half hour.
    frozen = case.facts.identity == "EC2" and bool(credentials.digest)
    step = _step(
        case,
        "agent.credentials_aside",
        {"credentials": "none", "other_profiles": credentials.others},
        f"Once the agent is EC2, take out {_token(credentials)}; the file is saved first, and undo puts it"
        " back byte for byte.",
        undo_kind="agent.credentials_restore",
        terms={"file": credentials.digest} if frozen else None,
    )
    return (step,)


def _token(credentials: RootCredentials) -> str:
    others = sum(name != "default" for name in credentials.sections)
    stay = f"; {others} other profile(s) there stay as they are" if others else ""
    return f"the hybrid agent's token ([default] in {CREDENTIALS_FILE}: {', '.join(TOKEN_KEYS)}{stay})"


def _install_or_barred(case: Case, depends_on: tuple[str, ...]) -> tuple[Change, ...] | Barred:
    config, agent = case.view.config.agent, case.agent
    if not config.package_source or not config.pins:
        return case.barred_by("AGENT_MISSING")
    pin = _pin(case)
    if pin is None:
        kinds = (
            ", ".join(f"{kind} {arch}" for kind, arch in _managers(case).items())
            or "neither deb, rpm nor snap"
        )
        return case.barred(
            "AGENT_MISSING",
            f"{WORDING['AGENT_MISSING'].message} No package is pinned that fits this host ({kinds}).",
            "Add it to agent.packages in haltuun.yaml, or install amazon-ssm-agent by hand, then retry.",
        )
    problem = case.account.package_problems.get(pin.sha256)
    if problem:
        return case.barred("AGENT_PACKAGE", f"The pinned agent package cannot be used: {problem}", REMEDY)
    if agent.deb_is_half:
        no_undo = "an agent was there of which dpkg left half, and nothing leads back to that"
        why = "for dpkg left half of it"
        return (_install(case, pin, depends_on, why, no_undo=no_undo, reach=Reach.irreversible),)
    if agent.package == "none":
        return (_install(case, pin, depends_on, "enable and start it", undo_kind="agent.remove"),)
    what = "for what is left of it is not whole"
    if _version(pin) == agent.version:
        no_undo = "what was missing of the package is put back, nothing else"
        return (_install(case, pin, depends_on, what, no_undo=no_undo),)
    return (_replace(case, pin, depends_on, what),)


def _renew(case: Case, oldest: tuple[int, ...], why: str) -> tuple[Change, ...]:
    """An agent older than what is asked of it, which nothing else helps."""
    version, pin = case.agent.version, _pin(case)
    if isinstance(version, Unknown) or not is_true(is_older(version, oldest)):
        return ()
    if (
        pin is None
        or not case.view.config.agent.package_source
        or pin.sha256 in case.account.package_problems
    ):
        return ()
    newer = is_false(is_older(_version(pin), oldest))
    return (_replace(case, pin, (), f"for {version} {why}"),) if newer else ()


def _replace(case: Case, pin: PackagePin, depends_on: tuple[str, ...], why: str) -> Change:
    """Another version in place of what is there; that is the way back where its package is pinned, too."""
    there = case.agent.version
    former = next(
        (one for one in fitting(case.view.config.agent, _managers(case)) if _version(one) == there), None
    )
    if former is None:
        no_undo = f"the package of version {there}, which was there, is not pinned in agent.packages"
        return _install(case, pin, depends_on, why, no_undo=no_undo, reach=Reach.irreversible)
    why += f"; if the proof does not come, {there} is put back"
    return _install(case, pin, depends_on, why, undo_kind="agent.install", undo_sha256=former.sha256)


def _install(
    case: Case,
    pin: PackagePin,
    depends_on: tuple[str, ...],
    why: str,
    *,
    undo_kind: str = "",
    undo_sha256: str = "",
    no_undo: str = "",
    reach: Reach = Reach.host,
) -> Change:
    source = _shown(case.view.config.agent.package_source or "")
    unproven = pin.format != "deb"
    now = case.state
    after: dict[str, Json] = {"package": pin.format, "version": _version(pin), "running": True}
    was = {key: now[key] for key in (*after, "enabled")}
    return _step(
        case,
        "agent.install",
        after,
        f"Install amazon-ssm-agent {_version(pin)} as {pin.format} from {source} (sha256 pinned), {why}."
        f"{' ' + UNPROVEN if unproven else ''}",
        depends_on=depends_on,
        undo_kind=undo_kind,
        undo_after={**was, "sha256": undo_sha256} if undo_sha256 else None,
        no_undo=no_undo,
        reach=reach,
        terms={"sha256": pin.sha256, **(UNPROVEN_TERM if unproven else {})},
    )


def _managers(case: Case) -> dict[str, str]:
    """Format → architecture: of the package that is there, else of all that can be installed."""
    managers, there = case.agent.managers, "deb" if case.agent.deb_is_half else case.agent.package
    return managers if there == "none" else {kind: arch for kind, arch in managers.items() if kind == there}


def _pin(case: Case) -> PackagePin | None:
    return next(fitting(case.view.config.agent, _managers(case)), None)


def _version(pin: PackagePin) -> str:
    return pin.version.split("-")[0]


def _one_of_two(case: Case) -> tuple[Change, ...] | Barred:
    """Of snap and deb the one not in use is stopped and disabled; what is kept is then restarted or cleared,
    for both wrote into one state folder."""
    kept = _kept(case)
    other = "snap" if kept == "deb" else "deb"
    stop = f"{'snap stop --disable' if other == 'snap' else 'systemctl disable --now'} amazon-ssm-agent"
    stale = case.has("STALE_HYBRID")
    after: dict[str, Json] = {f"{other}_service": OFF}
    then = f". Restart the {kept}; if the proof does not come, both services are as before again"
    if stale:
        then = ""
    terms = UNPROVEN_TERM
    if not stale:
        after[f"{kept}_service"] = ON
    elif not (now := case.agent.services[kept]).endswith(" enabled"):
        # Else neither would start, and the next step would take the other for the one in use.
        after[f"{kept}_service"] = now.replace("disabled", "enabled")
        terms = {**terms, "proof": PROOF_LATER}
        then = f". Enable the {kept}"
    step = _step(
        case,
        "agent.service",
        after,
        f"Of the agent's two packages stop and disable the {other} ('{stop}'); both stay installed{then}."
        f" {UNPROVEN}",
        undo_kind="agent.service",
        terms=terms,
    )
    alone = replace(case, prepared=(*case.prepared, step))
    if not stale:
        return first(case, BEFORE_RESTARTING) or (step, *_credentials(alone))
    rest = first(case, BEFORE_CLEARING) or _repair_stale(alone)
    return rest if isinstance(rest, Barred) else (step, *rest)


def _kept(case: Case) -> str:
    """The one that runs, else the one that starts; where that says nothing the snap: the deb's own preinst
    refuses to stand beside it."""
    for word in ("running,", " enabled"):
        found = [kind for kind, state in case.agent.services.items() if word in state]
        if len(found) == 1:
            return found[0]
    return "snap"


def _shown(source: str) -> str:
    """The source without what may stand before an @ in a URL."""
    scheme, there, rest = source.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if there else "the configured package folder"


# -- notes --------------------------------------------------------------------------------------------------


def _notes(case: Case) -> list[Finding]:
    if not case.has("CREDENTIALS_SHADOWED") or _token_is_the_agents(case):
        return []
    wording = WORDING["CREDENTIALS_SHADOWED"]
    return [
        Finding(
            code="CREDENTIALS_SHADOWED",
            severity=wording.severity,
            host=case.host.instance_id,
            message=f"[default] in {CREDENTIALS_FILE} holds a temporary key, and is not just what the agent"
            " writes there, or not from when it did: it may be a person's, and is not touched.",
            remedy=wording.remedy,
        )
    ]
