"""The agent's present state in the words of `Change.before` and `Change.after`. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from haltuun.model import Change, Host, Json, Unknown, is_true
from haltuun.stages.repair.diagnose import Diagnosis, diagnose
from haltuun.stages.repair.facts import Agent, Identity, RootCredentials
from haltuun.stages.repair.situation import will_take_onprem

# Of a host with two packages of the agent: how the service of each is.
SERVICE_WORDS = ("deb_service", "snap_service")
# Of two packages the one that is kept has a stale registration yet: the step that takes it brings the proof.
PROOF_LATER = "comes with the next step"
# The word for what could not be seen: no id, no kind and no state is called so.
UNKNOWN = "unknown"

# What may stand in the log of an agent that has the right identity and has not come through, or no
# longer does. Role and network are verify's matter: once they are right, it only has to be woken.
WAKEABLE = (
    "ROLE_MISSING",
    "ROLE_DENIED",
    "THROTTLED",
    "TOKEN_EXPIRED",
    "CLOCK_SKEW",
    "IMDS_UNREACHABLE",
    "IMDS_TOKENS_REQUIRED",
    "DNS_FAILS",
    "EGRESS_BLOCKED",
    "ENDPOINT_REFUSED",
    "TLS_UNTRUSTED",
    "TLS_FAILS",
    "HIBERNATING",
    "MESSAGES_DENIED",
    "MESSAGES_UNREACHABLE",
)


def identity_of(agent: Agent, diagnosis: Diagnosis) -> tuple[Identity, str | None] | tuple[Unknown, Unknown]:
    """Of a running agent what its last start took; of a stopped one what it would take, as far as the
    vault alone tells."""
    if isinstance(agent.running, Unknown):
        return agent.running, agent.running
    if agent.running:
        return diagnosis.identity or "none", diagnosis.instance_id
    vault = agent.vault
    if is_true(will_take_onprem(agent)) and not isinstance(vault, Unknown):
        return "OnPrem", vault.instance_id
    return "none", None


def is_connected(agent: Agent, diagnosis: Diagnosis) -> bool | Unknown:
    """Its last start opened a channel, and the log shows no fault since."""
    if isinstance(agent.running, Unknown):
        return agent.running
    return agent.running and diagnosis.connected and not diagnosis.has("ORPHAN_WORKER", *WAKEABLE)


def state_of(host: Host, agent: Agent) -> dict[str, Json]:
    """Every word that a change of this stage may use."""
    diagnosis = diagnose(agent)
    identity, instance_id = identity_of(agent, diagnosis)
    vault, credentials = agent.vault, agent.credentials
    return {
        "identity": _known(identity),
        "instance_id": _known(instance_id),
        "vault": UNKNOWN if isinstance(vault, Unknown) else vault.instance_id or None,
        "running": _known(agent.running),
        "enabled": _known(agent.enabled),
        "connected": _known(is_connected(agent, diagnosis)),
        "package": _known(agent.package),
        "version": _known(agent.version),
        "config": UNKNOWN if isinstance(agent.config, Unknown) else agent.config.digest,
        "credentials": _kind_of(credentials),
        "other_profiles": UNKNOWN if isinstance(credentials, Unknown) else credentials.others,
        **{word: agent.services.get(word.partition("_")[0], "none") for word in SERVICE_WORDS},
    }


def _kind_of(credentials: RootCredentials | Unknown) -> str:
    if isinstance(credentials, Unknown):
        return UNKNOWN
    return credentials.default_kind if credentials.present else "none"


def _known(value: Json | Unknown) -> Json:
    return UNKNOWN if isinstance(value, Unknown) else value


def as_planned(state: Mapping[str, Json], change: Change, cut_off: Collection[str] = ()) -> Json:
    """`state` in the change's own words: its `after` or `before` where that holds, else what is there.

    An undo names words that its original did not (the folder of the saved state), so only the words
    that a state has are compared. One that was cut off on the host (`cut_off`, ids of changes) is to be begun
    again whatever it has got to: its files may be back while the agent is yet to be started. What is but a
    file is replaced at once, so there the file itself tells.
    """
    if change.undoes and change.id in cut_off and not {"config", "credentials"} & change.before.keys():
        return change.before
    for wanted in (change.after, change.before):
        if all(state[key] == value for key, value in wanted.items() if key in state):
            return wanted
    return {key: state[key] for key in change.before if key in state}
