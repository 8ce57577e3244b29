"""The page to look at on Monday: an account's standing as Markdown. Host-given text is made harmless."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from haltuun.model import Host, StageName
from haltuun.report.changes import Like, Stays, TakenBack, Work
from haltuun.report.news import Appeared
from haltuun.report.render import artifact_key, md, plain
from haltuun.report.standing import Standing, host_label, host_name
from haltuun.report.waits import Approval, Cause

# In words too: not every screen has the signs.
MARK = {"good": ("🟢", "in order"), "open": ("🟡", "not finished"), "bad": ("🔴", "needs attention")}
NAMES = 12
NOTHING_GOES_BACK = "An undo would take nothing back. What stays, and why:"
LINES = 40  # of one section; the rest is in the report

Hosts = Mapping[str, Host]


def standing_markdown(standing: Standing, hosts: Hosts, now: datetime) -> str:
    """In the order in which a person who comes back to it wants to know."""
    sections: list[tuple[str, list[str]]] = [
        ("Got worse since the last run", _worse(standing, hosts)),
        ("Age of the data", _age(standing, hosts, now)),
        ("Signs of a compromise, and hybrid registrations", _suspects(standing, hosts)),
        ("Waits for a person", _waits(standing, hosts)),
        ("Changed by us", _changed(standing, hosts)),
        ("Held, by cause", causes(standing.holds, hosts)),
        ("Waits for a date", _dates(standing, hosts)),
        ("Unknown, and why", _unknown(standing, hosts)),
        ("Left alone, and why", causes(standing.left_alone, hosts)),
    ]
    mark, words = MARK[standing.level]
    lines = [f"# {mark} {md(standing.label)}: {words}", "", f"**{md(standing.sentence)}**"]
    for title, body in sections:
        lines += ["", f"## {title}", "", *(body or ["Nothing."])]
    lines += [
        "",
        f"*From the ledger, {when(now)}. The same numbers: `haltuun status {plain(standing.label)}`.*",
    ]
    return "\n".join(lines) + "\n"


def when(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "at no known time"


def ago(at: datetime, now: datetime) -> str:
    """`3 days`, `5 hours`, `less than an hour`."""
    hours = int((now - at).total_seconds() // 3600)
    if hours < 1:
        return "less than an hour"
    if hours < 48:
        return f"{hours} hour{'s' if hours > 1 else ''}"
    return f"{hours // 24} days"


def proof_words(like: Like, hosts: Hosts) -> str:
    """What showed the effect, and on how many of those concerned; one host is named."""
    one = next(iter(like.hosts)) if len(like.hosts) == 1 else ""
    if not like.proven:
        return f"not seen yet on {host_name(hosts, one)}" if one else "not seen yet"
    where = host_name(hosts, one) if one else f"{like.proven} of {like.of} hosts"
    told = f"{like.proof} on {where}"
    return told + (f", {like.expired} of these too old by now" if like.expired else "")


def approval_line(approval: Approval) -> str:
    """Without Markdown: the sentence above the command."""
    waits = "1 change waits" if approval.count == 1 else f"{approval.count} changes wait"
    line = f"{waits} for approval: plan {approval.plan_hash} of {when(approval.made_at)}."
    return line + (
        f" {approval.elsewhere} more in other plans, told here once this one is settled."
        if approval.elsewhere
        else ""
    )


def work_line(work: Work) -> str:
    """Without Markdown."""
    how = f"approved by {work.who} ({work.how})" if work.who else "unasked: of single hosts only"
    return f"Run {work.run}, {when(work.at)}: {work.count} change(s), {how}."


def left_line(one: Stays) -> str:
    """Without Markdown: what the last undo left and why; the next one may take it back."""
    return f"At the last undo: {stays_line(one)}"


def part_line(one: Stays) -> str:
    """Without Markdown."""
    return f"Taken back in part: {stays_line(one)}"


def stays_line(one: Stays) -> str:
    """Without Markdown: what stays and why."""
    what = one.changes[0] if len(one.changes) == 1 else f"{len(one.changes)} changes, as: {one.changes[0]}"
    return f"{what.rstrip('.')}. {one.why}"


def undone_line(one: TakenBack) -> str:
    """Without Markdown."""
    again = f"To have it again: {one.undo}" if one.undo else "It is not undone in turn"
    again += ", but for:" if one.undo and one.stays else ":" if one.stays else "."
    who = f", approved by {one.who}," if one.who else ""
    return f"Run {one.run}{who} took {one.count} change(s) back. {again}"


def age_line(standing: Standing, hosts: Hosts, now: datetime) -> str:
    """Without Markdown."""
    if standing.age is None:
        return "Nothing was looked at yet."
    age = standing.age
    return (
        f"The oldest look is {age.stage.value} of {host_label(hosts, age.host)}: {when(age.oldest_at)},"
        f" {ago(age.oldest_at, now)} ago. The newest is of {when(age.newest_at)}."
    )


def appeared_line(one: Appeared, hosts: Hosts) -> str:
    """Without Markdown."""
    where = host_label(hosts, one.host) if one.host else "the account"
    return f"{where}: {f'{one.code}: ' if one.code else ''}{one.message}"


def _worse(standing: Standing, hosts: Hosts) -> list[str]:
    if standing.compared_with is None:
        return ["There is no earlier run to compare with."]
    lines = [
        f"- {md(host_label(hosts, one.host))}: {one.stage.value} was {one.was.value} and is {one.now.value},"
        f" **{one.code}**. {md(one.message)} {md(one.remedy)}"
        for one in standing.worse
    ]
    lines += [f"- New: {md(appeared_line(one, hosts))}" for one in standing.appeared]
    return _cut(lines)


def _age(standing: Standing, hosts: Hosts, now: datetime) -> list[str]:
    return [md(age_line(standing, hosts, now))]


def _suspects(standing: Standing, hosts: Hosts) -> list[str]:
    lines = []
    for one in standing.suspects:
        signs = "; ".join(md(sign) for sign in one.signs) or "see the host's findings"
        since = f" since {when(one.since)}" if one.since else ""
        lines.append(f"- **SUSPECT** {md(host_label(hosts, one.host))}{since}: {signs}. {md(one.remedy)}")
    for node in standing.foreign:
        where = f"on {host_label(hosts, node.host)}" if node.host else f"named {node.computer_name or '?'}"
        status = f", {node.ping_status}" if node.ping_status else ""
        lines.append(
            f"- **{md(node.node_id)}** {md(where)} ({md(node.region)}{md(status)}): {md(node.message)}"
        )
    return _cut(lines)


def _waits(standing: Standing, hosts: Hosts) -> list[str]:
    lines = []
    if (approval := standing.approval) is not None:
        lines += [md(approval_line(approval)), "", "```", plain(approval.command), "```", ""]
        narrowed = [
            f", `{field}` = `{', '.join(values)}`" for field, values in approval.narrowed.items() if values
        ]
        where = f"`{artifact_key('plan', standing.label)}` of run {md(approval.run)}"
        fields = f"`plan_hash` = `{approval.plan_hash}`{''.join(narrowed)}"
        lines += [f"Or start `take-over-account` with {fields}, and your name as `approved_by`.", ""]
        lines += _cut(
            [
                f"- {like.stage.value}, {like.reach.value}, {_of_hosts(like)}: {md(like.text)}"
                for like in approval.changes
            ],
            f"in the artifact {where}",
        )
        lines += ["", f"All of it, each host by name: the artifact {where}."]
        lines.append("")
    decided = causes(standing.decisions, hosts)
    if decided:
        lines += ["Somebody must decide:", "", *decided]
    return lines


def _changed(standing: Standing, hosts: Hosts) -> list[str]:
    lines: list[str] = []
    for work in standing.work:
        lines += [md(work_line(work)), ""]
        lines += [f"To take it back: `{plain(work.undo)}`" if work.undo else NOTHING_GOES_BACK, ""]
        lines += [*([] if work.undo else _stay(work.stays)), *_left(work.left), ""]
        # Few and narrow columns: Prefect's pages cut a wide table off.
        lines += ["| stage | changes | effect seen | too old by now | by | without undo |", "|---" * 6 + "|"]
        for stage in StageName:
            if likes := [like for like in work.changes if like.stage is stage]:
                lines.append(_stage_row(stage, likes))
        lines.append("")
        for title, likes in (
            ("Their effect was not seen on every host", _in_doubt(work.changes)),
            ("They cannot be undone", [like for like in work.changes if like.no_undo and work.undo]),
            ("They can be undone in part", [like for like in work.changes if like.in_part and work.undo]),
        ):
            if likes:
                lines += [f"{title}:", ""]
                lines += _cut([f"- {md(like.text)} {md(_about(like, hosts))}" for like in likes])
                lines.append("")
    if standing.work:
        lines.append(f"Each change by itself: `haltuun report {plain(standing.label)} -o DIR`.")
    for one in standing.undone:
        lines += ["", md(undone_line(one)), "", *_stay(one.stays), *_left(one.left)]
        lines += _cut([f"- {md(part_line(part))}" for part in one.in_part])
    return lines


def _stay(found: Iterable[Stays]) -> list[str]:
    return _cut([f"- {md(stays_line(one))}" for one in found])


def _left(found: Iterable[Stays]) -> list[str]:
    return _cut([f"- {md(left_line(one))}" for one in found])


def _stage_row(stage: StageName, likes: Sequence[Like]) -> str:
    count = sum(len(like.ids) for like in likes)
    doubtful = sum(len(like.ids) for like in _in_doubt(likes))
    old = sum(len(like.ids) for like in likes if like.expired)
    by = ", ".join(dict.fromkeys(like.proof for like in likes if like.proof))
    without = sum(len(like.ids) for like in likes if like.no_undo)
    return f"| {stage.value} | {count} | {count - doubtful} | {old} | {md(by)} | {without} |"


def _in_doubt(likes: Sequence[Like]) -> list[Like]:
    return [like for like in likes if like.proven < like.of]


def _about(like: Like, hosts: Hosts) -> str:
    undo = f"; no undo: {like.no_undo}" if like.no_undo else ""
    undo = f"; undo in part: {like.in_part}" if like.in_part else undo
    return f"({proof_words(like, hosts)}{undo})"


def causes(found: Iterable[Cause], hosts: Hosts) -> list[str]:
    """One item a cause: what, whom, what each was told, one remedy."""
    lines = []
    for cause in found:
        lines.append(f"- **{cause.code}** in {cause.stage.value}, {md(enumerated(cause.hosts, hosts))}")
        for said in cause.said:
            who = "" if len(cause.said) == 1 else f"{md(enumerated(said.hosts, hosts))}: "
            lines.append(f"  - {who}{md(said.message)}")
        if cause.remedy:
            lines.append(f"  - → {md(cause.remedy)}")
    return lines


def enumerated(found: Sequence[str], hosts: Hosts) -> str:
    told = ", ".join(host_label(hosts, host) for host in found[:NAMES])
    more = f" and {len(found) - NAMES} more" if len(found) > NAMES else ""
    return f"{len(found)} hosts: {told}{more}" if len(found) > 1 else told


def _dates(standing: Standing, hosts: Hosts) -> list[str]:
    return _cut(
        [
            f"- {when(one.next_check) if one.next_check else 'no date'}: {md(host_label(hosts, one.host))},"
            f" {one.stage.value} **{one.code}** since {when(one.since)}. {md(one.message)}"
            for one in standing.waiting
        ]
    )


def _unknown(standing: Standing, hosts: Hosts) -> list[str]:
    lines = [*(f"- {md(said)}" for said in standing.not_judged_together), *causes(standing.unknown, hosts)]
    lines += [
        f"- Nobody knows whether this took effect (run {md(one.run)}, {when(one.at)}): {md(one.summary)}"
        " The next run looks."
        for one in standing.unresolved
    ]
    return _cut(lines)


def _of_hosts(like: Like) -> str:
    return f"{len(like.hosts)} host{'s' if len(like.hosts) > 1 else ''}" if like.hosts else "the account"


def _cut(lines: list[str], where: str = "in the report") -> list[str]:
    more = len(lines) - LINES
    return lines if more <= 0 else [*lines[:LINES], f"- … and {more} more, {where}."]
