"""Plan, gate and summary as Markdown and table rows. Host-given text is made harmless first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from haltuun.cost import basis, say, say_total
from haltuun.gates import GateResult
from haltuun.ledger import Approval, Shown
from haltuun.model import Change, Cost, Host, HostStatus, Plan, Reach, Severity, StageName, Unknown, Verdict

FEW = 6  # hosts or others that are named in place

STATUS_MARK = {
    Verdict.passed: "🟢",
    Verdict.held: "🔴",
    Verdict.unknown: "🟣",
    Verdict.waiting: "🟡",
    Verdict.pending: "⚪",
    Verdict.excluded: "⚫",
    Verdict.waived: "🔵",
}

# Controls, what turns the direction of writing, and halves of characters that no file can hold.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# An address would become a link by itself.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!~]|:(?=//)|(?<=www)\.)")


# How an undo's statuses are told, in the order in which they matter; "" is what nobody came to.
UNDO_WORDS = {
    "ready": "goes back",
    "done": "taken back",
    "already": "is gone",
    "failed": "FAILED",
    "not_taken": "without effect",
    "stale": "changed since",
    "unknown": "not known",
    "waits": "not begun",
    "needed": "needed",
    "kept": "stays",
    "": "not begun",
}


class UndoStep(Protocol):
    """One change of an undone run, as haltuun.undo has it."""

    @property
    def change(self) -> Change: ...
    @property
    def status(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def in_turn(self) -> bool: ...
    @property
    def not_in_turn(self) -> str: ...


StatusTable = Mapping[StageName, Mapping[str, HostStatus]]


def plain(text: str) -> str:
    """One line without control characters: tags, names and output come from machines nobody knows."""
    return _CONTROL.sub("", text.replace("\n", " ")).strip()


def md(text: str) -> str:
    """`plain`, and nothing in it is Markdown or HTML."""
    return _MARKDOWN.sub(r"\\\1", plain(text))


def artifact_key(kind: str, label: str) -> str:
    """What an account's artifact is found by: Prefect takes lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", f"{kind}-{label}".lower()).strip("-")


def count_sentence(statuses: Iterable[HostStatus]) -> str:
    """`7 passed, 2 held, 1 excluded`"""
    counts = Counter(status.verdict for status in statuses)
    return ", ".join(f"{counts[v]} {v.value}" for v in Verdict if counts[v]) or "no hosts"


def status_rows(hosts: Mapping[str, Host], statuses: Mapping[str, HostStatus]) -> list[dict[str, str]]:
    return [
        {
            "host": instance_id,
            "name": plain(hosts[instance_id].name),
            "verdict": f"{STATUS_MARK[status.verdict]} {status.verdict.value}",
            "code": status.reason,
            "why": plain(status.message),
            "what to do": plain(status.remedy),
        }
        for instance_id, status in statuses.items()
    ]


def gate_description(stage: StageName, gate: GateResult | None) -> str:
    """The demands of the gate and how many hosts failed each."""
    lines = [f"Gate after {stage.value}"]
    for result in gate.checks if gate else ():
        counts = f"{len(result.failed)} failed, {len(result.unknown)} unknown"
        lines.append(
            f"- `{result.check.demand()}`: {counts}" + (f" ({result.raised})" if result.raised else "")
        )
    if gate and gate.blocked:
        lines.append(f"BLOCKED: {gate.blocked}")
    return "\n".join(lines)


def plan_markdown(
    plan: Plan,
    hosts: Mapping[str, Host],
    account: str,
    awaiting: Sequence[Change],
    *,
    run: str = "",
    command: str = "",
    approval: Approval | None = None,
    shown: Shown | None = None,
    stale: Mapping[str, str] | None = None,
) -> str:
    """`run` made it; `command` approves it; `approval` is the run's own, of what was `shown`; `stale` are
    planned changes that it is not about, by id, and why."""
    named = _Named(hosts)
    counts = Counter(change.reach for change in plan.changes)
    reach = ", ".join(f"{counts[r]} {r.value}" for r in Reach if counts[r]) or "none"
    lines = [
        f"# Plan `{plan.hash}` for {md(account)}",
        "",
        f"{len(plan.changes)} changes ({reach}); {len(awaiting)} wait for approval.",
        *([f"Made by run `{run}`."] if run else []),
    ]
    cost = say_total(change.monthly_cost for change in plan.changes)
    if cost:
        lines.append(f"Cost in all: {cost}.")
    if approval is not None:
        lines += ["", _approval(approval, shown, plan)]
    if stale:
        told = "; ".join(f"{change} ({md(why)})" for change, why in sorted(stale.items()))
        lines += ["", f"PLAN_STALE, not what was approved: {told}."]
    if awaiting:
        lines += [
            "",
            f"To approve: start `take-over-account` with `plan_hash` = `{plan.hash}`, your name as"
            " `approved_by`, and the `stages` and `hosts` of this run, or type:",
            "",
            "```",
            plain(command),
            "```",
        ]
    for stage in StageName:
        changes = [change for change in plan.changes if change.stage is stage]
        barred = plan.barred.get(stage.value, ())
        if not changes and not barred:
            continue
        # Prefect's pages cut a wide table off, and an approver must see all of it.
        lines += ["", f"## {stage.value}", ""]
        if changes:
            for change in changes:
                lines += _change_lines(change, named)
            told = say_total(change.monthly_cost for change in changes)
            if told:
                lines += ["", f"{stage.value}: {told}.", ""]
        for one in barred:
            label = md(hosts[one.host].label if one.host in hosts else one.host)
            lines.append(f"- {label}: **{one.code}** {md(one.message)} {md(one.remedy)}")
    if any(change.monthly_cost is not None for change in plan.changes):
        lines += ["", md(basis())]
    serious = [
        f
        for level in reversed(Severity)
        if level is not Severity.info
        for f in plan.findings
        if f.severity is level
    ]
    if serious:
        lines += ["", "## Findings", ""]
        lines += [
            f"- {f.severity.value} **{f.code}**"
            f" {md(hosts[f.host].label if f.host and f.host in hosts else f.host or account)}:"
            f" {md(f.message)} {md(f.remedy)}"
            for f in serious
        ]
    lines += named.lists()
    return "\n".join(lines) + "\n"


def _approval(one: Approval, shown: Shown | None, plan: Plan) -> str:
    approved = {change.id for change in shown.changes} if shown else set()
    covered = sum(1 for change in plan.changes if change.id in approved)
    how = f"as run {shown.plan_run} showed it" if shown and shown.plan_run else "without a plan being shown"
    return md(
        f"Approved by {one.who}, {one.at:%Y-%m-%d %H:%M} UTC: {one.how}, plan {one.plan_hash} {how};"
        f" {covered} of these changes."
    )


def _change_lines(change: Change, named: _Named) -> list[str]:
    undo = "yes" if change.undo else "none"
    if change.no_undo:
        undo = f"{'in part' if change.undo else undo}: {change.no_undo}"
    cost = change.monthly_cost
    about = [
        f"for {named.hosts(change.hosts) or 'the account'}",
        f"also concerned: {named.others(change.concerns)}" if change.concerns else "",
        f"undo: {md(undo)}",
        f"costs {say(cost)}" if isinstance(cost, Cost) else "",
        f"cost unknown: {md(cost.unknown)}" if isinstance(cost, Unknown) else "",
    ]
    permissions = ", ".join(change.permissions)
    return [
        f"- **{change.reach.value}**: {md(change.summary)}",
        f"  - {'; '.join(part.rstrip('.') for part in about if part)}",
        f"  - `{change.id}`, {f'needs {md(permissions)}' if permissions else 'performed on the host itself'}",
    ]


def last_word(instance_id: str, table: StatusTable) -> tuple[StageName, HostStatus] | None:
    """The stage that explains why a host is not through, or None when it passed all of them."""
    order = (Verdict.held, Verdict.unknown, Verdict.waiting, Verdict.excluded, Verdict.pending)
    for verdict in order:
        for stage in StageName:
            status = table.get(stage, {}).get(instance_id)
            if status is not None and status.verdict is verdict:
                return stage, status
    return None


def summary_markdown(
    account: str,
    run: str,
    outcome: str,
    hosts: Mapping[str, Host],
    table: StatusTable,
    not_judged_together: Sequence[str] = (),
) -> str:
    """How each host came through; `not_judged_together` says it of stages, in sentences."""
    fine = (Verdict.passed, Verdict.waived)
    through = [
        host
        for host in hosts
        if table and all(host in row and row[host].verdict in fine for row in table.values())
    ]
    which = "every stage" if set(table) == set(StageName) else f"all of {', '.join(table) or 'no stage'}"
    bad = any(s.verdict in (Verdict.held, Verdict.unknown) for row in table.values() for s in row.values())
    mark = "🔴" if bad or outcome in ("GateBlocked", "Failed") else "🟢" if outcome == "Done" else "🟡"
    lines = [
        f"# {mark} {md(account)}: {outcome}",
        "",
        f"{len(through)} of {len(hosts)} hosts passed {which}. Run `{run}`.",
    ]
    if table:
        stages = list(table)
        lines += ["", "| host | " + " | ".join(stage.value for stage in stages) + " |"]
        lines += ["|---" * (len(stages) + 1) + "|"]
        for instance_id, host in hosts.items():
            marks = [
                STATUS_MARK[table[stage][instance_id].verdict] if instance_id in table[stage] else ""
                for stage in stages
            ]
            lines.append(f"| {md(host.label)} | " + " | ".join(marks) + " |")
    lines += ["", *(f"- {md(said)}" for said in not_judged_together)] if not_judged_together else []
    notes = [(host, word) for host in hosts if (word := last_word(host, table)) is not None]
    if notes:
        lines += ["", "## Not through", ""]
        for instance_id, (stage, status) in notes:
            lines.append(
                f"- {md(hosts[instance_id].label)}: {stage.value} {status.verdict.value},"
                f" **{status.reason}**. {md(status.message)} {md(status.remedy)}"
            )
    return "\n".join(lines) + "\n"


def undo_markdown(
    of: str,
    account: str,
    outcome: str,
    steps: Sequence[UndoStep],
    hosts: Mapping[str, Host],
    approved_by: str = "",
) -> str:
    """What of a run went back, or would, and what stays and why; "" where nobody approved it."""
    named = _Named(hosts)
    lines = [f"# Undo of run `{md(of)}` in {md(account)}: {outcome}", ""]
    if outcome == "AwaitingApproval":
        how = "start `undo-run` with `approve`, and your name as `approved_by`"
        lines += [f"To do it: {how}; or type `haltuun undo {md(of)} --yes`.", ""]
    elif approved_by:
        lines += [f"Approved by {md(approved_by)}.", ""]
    if again := sum(step.in_turn for step in steps):
        lines += [f"{again} of what goes back can be undone in turn, as the undo is a run of its own.", ""]
    # Prefect's pages cut a wide table off: sections and sentences instead.
    for status, word in UNDO_WORDS.items():
        told = [step for step in steps if step.status == status]
        if told:
            lines += [f"## {word[0].upper()}{word[1:]}", ""]
            lines += [
                f"- {step.change.stage.value}, {named.hosts(step.change.hosts) or 'the account'}:"
                f" {md(step.change.summary)} {md(f'{step.message} {step.not_in_turn}')}".rstrip()
                for step in told
            ]
            lines.append("")
    lines += named.lists()
    return "\n".join(lines) + "\n"


class _Named:
    """What a page names, none left out: a few in place, many in one list at its end."""

    def __init__(self, hosts: Mapping[str, Host]) -> None:
        self._hosts = hosts
        self._of_name = Counter(host.name for host in hosts.values())
        self._lists: dict[tuple[str, ...], tuple[int, str]] = {}

    def hosts(self, found: Sequence[str]) -> str:
        """By name; with their ids where others have the same name, and in a list."""
        if len(found) > FEW:
            return self._listed([self._hosts[h].label if h in self._hosts else h for h in found], "hosts")
        return ", ".join(md(self._name(host)) for host in found)

    def others(self, found: Sequence[str]) -> str:
        return self._listed(found, "more") if len(found) > FEW else ", ".join(md(one) for one in found)

    def lists(self) -> list[str]:
        lines: list[str] = []
        for found, (number, what) in self._lists.items():
            lines += ["", f"## List {number}: {len(found)} {what}", "", ", ".join(md(one) for one in found)]
        return lines

    def _name(self, instance_id: str) -> str:
        host = self._hosts.get(instance_id)
        if host is None or not host.name:
            return instance_id
        return host.name if self._of_name[host.name] == 1 else host.label

    def _listed(self, found: Sequence[str], what: str) -> str:
        number, _ = self._lists.setdefault(tuple(found), (len(self._lists) + 1, what))
        return f"{len(found)} {what}, all in list {number} at the end"
